#include "runtime/draft.h"

#include <gtest/gtest.h>

#include "runtime/image_cache.h"
#include "runtime/request.h"

using namespace hearth::runtime;

TEST(Draft, ContinuesTheLatestEarlierOccurrence) {
  std::vector<int32_t> draft, tokens = {1, 2, 3, 9, 9, 1, 2, 3, 4, 5, 6, 1, 2, 3};
  propose_draft(tokens, 4, draft);
  EXPECT_EQ(draft, (std::vector<int32_t>{4, 5, 6, 1}));
  propose_draft(tokens, 2, draft);
  EXPECT_EQ(draft, (std::vector<int32_t>{4, 5}));
}

TEST(Draft, FallsBackToTwoTokensAndStopsAtImages) {
  std::vector<int32_t> draft;
  propose_draft(std::vector<int32_t>{7, 2, 3, 8, -1, 4, 2, 3}, 4, draft);
  EXPECT_EQ(draft, (std::vector<int32_t>{8}));
  propose_draft(std::vector<int32_t>{1, 2, 3, 4}, 4, draft);
  EXPECT_TRUE(draft.empty());
  propose_draft(std::vector<int32_t>{1}, 4, draft);
  EXPECT_TRUE(draft.empty());
}

TEST(ImageHash, DependsOnPixelsAndShape) {
  std::vector<uint8_t> a(300, 1), b = a;
  EXPECT_EQ(hash_image(10, 10, a), hash_image(10, 10, b));
  b[299] = 2;
  EXPECT_NE(hash_image(10, 10, a), hash_image(10, 10, b));
  b = a;
  b[0] = 2;
  EXPECT_NE(hash_image(10, 10, a), hash_image(10, 10, b));
  EXPECT_NE(hash_image(10, 10, a), hash_image(20, 5, a));
}

TEST(Request, ReadsEveryFieldAndKeepsTheOrderOfAGrammar) {
  auto r = parse_request(R"({"kind":"generate","max_tokens":5,"temperature":0.5,"top_k":3,"seed":7,"stop":["a"],"logit_bias":[[1,-2]],
    "grammar":{"type":"json_schema","spec":{"properties":{"z":{},"a":{}}}},"priority":-2,"speculate":false})");
  ASSERT_TRUE(r) << r.status().message();
  EXPECT_EQ(r->max_tokens, 5);
  EXPECT_FLOAT_EQ(*r->temperature, 0.5f);
  EXPECT_EQ(*r->top_k, 3);
  EXPECT_EQ(*r->seed, 7u);
  EXPECT_FALSE(r->top_p.has_value());
  EXPECT_EQ(r->grammar["spec"]["properties"].begin().key(), "z");
  EXPECT_EQ(r->priority, -2);
  EXPECT_FALSE(r->speculate);
}
