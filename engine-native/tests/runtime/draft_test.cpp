#include "runtime/draft.h"

#include <gtest/gtest.h>

#include "runtime/burst_hold.h"
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

TEST(DraftPolicy, ProposesAsFarAsTheLastTokenPays) {
  DraftPolicy policy;
  EXPECT_EQ(policy.length(0.9, 1), 0);  // nothing to compare with yet
  policy.observe(1, 0, 1e-3);
  EXPECT_GT(policy.length(0.9, 1), 2);
  EXPECT_EQ(policy.length(0.05, 1), 0);
  EXPECT_EQ(policy.length(0.9, 2), 0);  // steps of two sequences were never seen
  DraftPolicy memory = policy, compute = policy;
  for (int i = 0; i < 50; ++i) {
    memory.observe(1, 4, 1.05e-3);  // a row adds a hundredth of a step
    compute.observe(1, 4, 4.8e-3);  // a row costs nearly what a step does
  }
  EXPECT_EQ(memory.length(0.9, 1), draft_tokens_max);
  EXPECT_GE(memory.length(0.2, 1), 2);
  EXPECT_EQ(compute.length(0.9, 1), 0);
  EXPECT_GT(compute.length(0.99, 1), 0);
}

TEST(Acceptance, FallsWithRefusalsAndComesBackSlowly) {
  Acceptance a;
  for (int i = 0; i < 20; ++i) a.saw(false);
  EXPECT_LT(a.probability(), 0.1);
  for (int i = 0; i < 120; ++i) a.skipped();
  EXPECT_GT(a.probability(), 0.3);
  for (int i = 0; i < 20; ++i) a.saw(true);
  EXPECT_GT(a.probability(), 0.9);
}

TEST(BurstHold, WaitsForACrowdAndNotForASteadyStream) {
  using namespace std::chrono_literals;
  BurstHold hold;
  BurstHold::Time now = std::chrono::steady_clock::now();
  hold.arrived(now, true);
  EXPECT_FALSE(hold.hold(now, 0));  // one alone
  int held = 0;
  for (int i = 0; i < 100; ++i) {  // a hundred within 200 ms
    now += 2ms;
    hold.arrived(now, false);
    held += hold.hold(now, 3);
  }
  EXPECT_GT(held, 98);
  EXPECT_TRUE(hold.hold(now + 5ms, 0));
  EXPECT_FALSE(hold.hold(now + 12ms, 0));
  held = 0;
  for (int i = 0; i < 10000; ++i) {  // one every 5 ms, for 50 s
    now += 5ms;
    hold.arrived(now, false);
    held += hold.hold(now, 0);
  }
  EXPECT_LT(held, 10000 * 8 / 100);
}

// Eight that were sent together are there within a millisecond: no reason to stand still for longer.
TEST(BurstHold, WaitsNoLongerThanTheCrowdsOwnPace) {
  using namespace std::chrono_literals;
  BurstHold hold;
  BurstHold::Time now = std::chrono::steady_clock::now();
  for (int i = 0; i < 8; ++i) hold.arrived(now += 100us, i == 0);
  EXPECT_TRUE(hold.hold(now + 500us, 0));
  EXPECT_FALSE(hold.hold(now + 1500us, 0));
}

// A client that sends its next short request as soon as it has the answer.
TEST(BurstHold, DoesNotTakeOneWhoAsksAgainForACrowd) {
  using namespace std::chrono_literals;
  BurstHold hold;
  BurstHold::Time now = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; ++i) {
    hold.arrived(now += 15ms, true);
    EXPECT_FALSE(hold.hold(now + 100us, 0));
  }
  hold.arrived(now += 1ms, false);
  EXPECT_TRUE(hold.hold(now + 100us, 0));
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
