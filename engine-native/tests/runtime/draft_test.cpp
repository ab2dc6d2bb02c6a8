#include "runtime/draft.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "runtime/burst_hold.h"
#include "runtime/image_cache.h"
#include "runtime/request.h"

using namespace hearth::runtime;

namespace {

std::vector<int32_t> drafted(const Proposal& proposal, int count) {
  std::vector<int32_t> draft;
  take_draft(proposal, count, draft);
  return draft;
}

using Tokens = std::vector<int32_t>;

}  // namespace

TEST(LookUp, ContinuesTheLatestOfEqualOccurrences) {
  const Tokens tokens = {1, 2, 3, 9, 9, 1, 2, 3, 4, 5, 6, 8, 2, 3};
  const Proposal found = look_up(tokens);
  EXPECT_EQ(found.matched, 2);
  EXPECT_EQ(drafted(found, 4), (Tokens{4, 5, 6, 8}));
  EXPECT_EQ(drafted(found, 2), (Tokens{4, 5}));
}

TEST(LookUp, PrefersTheOccurrenceThatAgreesFurthestBack) {
  const Tokens tokens = {7, 8, 1, 2, 3, 30, 31, 9, 2, 3, 40, 41, 7, 8, 1, 2, 3};
  const Proposal found = look_up(tokens);
  EXPECT_EQ(found.matched, 5);
  EXPECT_EQ(drafted(found, 3), (Tokens{30, 31, 9}));
}

TEST(LookUp, ARepetitionGoesOnWithoutEnd) {
  const Tokens same = {1, 5, 5, 5, 5};
  EXPECT_EQ(drafted(look_up(same), 6), (Tokens(6, 5)));
  const Tokens turns = {9, 1, 2, 3, 1, 2, 3};
  EXPECT_EQ(drafted(look_up(turns), 7), (Tokens{1, 2, 3, 1, 2, 3, 1}));
}

TEST(LookUp, StopsAtImagesAndNeedsTwoTokens) {
  EXPECT_EQ(drafted(look_up(Tokens{7, 2, 3, 8, -1, 4, 2, 3}), 4), (Tokens{8}));
  EXPECT_TRUE(look_up(Tokens{1, 2, 3, 4}).tokens.empty());
  EXPECT_TRUE(look_up(Tokens{1}).tokens.empty());
  EXPECT_TRUE(look_up(Tokens{}).tokens.empty());
  EXPECT_TRUE(look_up(Tokens{1, 2, 9, 5, 2}).tokens.empty());  // one token alone agrees
  EXPECT_TRUE(look_up(Tokens{-1, -1, -1, -1}).tokens.empty());
}

TEST(Prediction, IsFollowedFromItsBeginning) {
  Prediction prediction;
  EXPECT_TRUE(prediction.empty());
  prediction.set({1, 2, 3, 4, 5});
  EXPECT_EQ(drafted(prediction.next(), 9), (Tokens{1, 2, 3, 4, 5}));
  const Tokens answer = {1, 2, 3};
  prediction.follow(answer);
  EXPECT_EQ(drafted(prediction.next(), 9), (Tokens{4, 5}));
  prediction.follow(Tokens{1, 2, 3, 4, 5});
  EXPECT_TRUE(prediction.next().tokens.empty());
}

TEST(Prediction, AReplacedTokenIsSteppedOver) {
  Prediction prediction;
  prediction.set({1, 2, 3, 4, 5, 6, 7});
  prediction.follow(Tokens{1, 2, 90});
  EXPECT_EQ(prediction.next().matched, 0);
  EXPECT_EQ(drafted(prediction.next(), 2), (Tokens{4, 5}));
  prediction.follow(Tokens{1, 2, 90, 4, 5});
  EXPECT_EQ(prediction.next().matched, 2);
  EXPECT_EQ(drafted(prediction.next(), 9), (Tokens{6, 7}));
}

TEST(Prediction, IsFoundAgainBehindInsertedAndRemovedWords) {
  Prediction inserted;
  inserted.set({1, 2, 3, 4, 5, 6, 7, 8});
  inserted.follow(Tokens{1, 2, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 3, 4});
  EXPECT_EQ(drafted(inserted.next(), 9), (Tokens{5, 6, 7, 8}));
  Prediction removed;
  removed.set({1, 2, 3, 4, 5, 6, 7, 8});
  removed.follow(Tokens{1, 2, 6, 7});
  EXPECT_EQ(drafted(removed.next(), 9), (Tokens{8}));
}

TEST(Prediction, OfEqualPlacesTheNextOneCounts) {
  Prediction prediction;
  prediction.set({1, 2, 10, 3, 1, 2, 11, 4, 1, 2, 12});
  prediction.follow(Tokens{1, 2, 10, 3, 60, 61, 1, 2});
  EXPECT_EQ(drafted(prediction.next(), 1), (Tokens{11}));
  prediction.follow(Tokens{1, 2, 10, 3, 60, 61, 1, 2, 11, 4, 70, 71, 72, 3, 1, 2});
  EXPECT_EQ(drafted(prediction.next(), 1), (Tokens{11}));  // three tokens agree before it
}

TEST(Prediction, MayBeAnything) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    Tokens expected(random() % 40), answer;
    for (int32_t& token : expected) token = static_cast<int32_t>(random() % 6);
    Prediction prediction;
    prediction.set(expected);
    for (int i = 0; i < 120; ++i) {
      answer.push_back(static_cast<int32_t>(random() % 6));
      if (random() % 3 == 0) prediction.follow(answer);
      const Proposal next = prediction.next();
      ASSERT_LE(next.tokens.size(), expected.size());
      ASSERT_TRUE(std::equal(next.tokens.begin(), next.tokens.end(), expected.end() - static_cast<std::ptrdiff_t>(next.tokens.size())));
    }
  }
}

namespace {

// A machine whose steps take `fixed` of a plain one's time more with any proposal and `row` for each.
void learn(DraftPolicy& policy, double acceptance, double fixed, double row, int steps) {
  for (int i = 0; i < steps; ++i) {
    policy.observe(1, 0, 1e-3);
    if (const int length = policy.length(acceptance, 1)) policy.observe(1, length, 1e-3 * (1 + fixed + row * length));
  }
}

}  // namespace

TEST(DraftPolicy, ProposesAsFarAsTheLastTokenPays) {
  DraftPolicy policy;
  EXPECT_EQ(policy.length(0.9, 1), 0);  // nothing to compare with yet
  policy.observe(1, 0, 1e-3);
  EXPECT_GT(policy.length(0.9, 1), 2);
  EXPECT_EQ(policy.length(0.05, 1), 0);
  EXPECT_EQ(policy.length(0.9, 2), 0);  // steps of two sequences were never seen
  DraftPolicy memory = policy, compute = policy;
  learn(memory, 0.9, 0, 0.01, 60);
  EXPECT_GE(memory.length(0.9, 1), 12);
  EXPECT_LE(memory.length(0.3, 1), 4);
  for (int i = 0; i < 50; ++i) compute.observe(1, 4, 4.8e-3);  // a row costs nearly what a step does
  EXPECT_EQ(compute.length(0.5, 1), 0);
}

TEST(DraftPolicy, FindsLongProposalsWhereOnlyTheFirstRowIsDear) {
  DraftPolicy policy;
  policy.observe(1, 0, 1e-3);
  learn(policy, 0.98, 1.8, 0.005, 60);  // as where steps with proposals are not captured
  EXPECT_GE(policy.length(0.98, 1), 32);
  learn(policy, 0.5, 1.8, 0.005, 60);
  EXPECT_EQ(policy.length(0.5, 1), 0);  // 0.5 + 0.25 + ... tokens for 1.8 steps
  EXPECT_GE(policy.length(0.98, 1), 32);
}

TEST(DraftPolicy, ForgetsWhatItMeasuredLongAgo) {
  DraftPolicy policy;
  policy.observe(1, 0, 1e-3);
  for (int i = 0; i < 12; ++i) policy.observe(1, 1 << (i % 6), 100e-3);  // the machine was busy
  EXPECT_EQ(policy.length(0.9, 1), 0);
  for (int i = 0; i < 20000; ++i) policy.observe(1, 0, 1e-3);
  EXPECT_GT(policy.length(0.9, 1), 0);
}

TEST(Acceptance, FallsWithRefusalsAndComesBackSlowly) {
  Acceptance a;
  for (int i = 0; i < 20; ++i) a.saw(3, false);
  EXPECT_LT(a.probability(3), 0.1);
  EXPECT_GT(a.probability(20), 0.9);  // what agrees further back is another matter
  for (int i = 0; i < 120; ++i) a.skipped(3);
  EXPECT_GT(a.probability(3), 0.3);
  for (int i = 0; i < 20; ++i) a.saw(3, true);
  EXPECT_GT(a.probability(3), 0.9);
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
    "grammar":{"type":"json_schema","spec":{"properties":{"z":{},"a":{}}}},"priority":-2,"speculate":false,"prediction":"as before"})");
  ASSERT_TRUE(r) << r.status().message();
  EXPECT_EQ(r->max_tokens, 5);
  EXPECT_FLOAT_EQ(*r->temperature, 0.5f);
  EXPECT_EQ(*r->top_k, 3);
  EXPECT_EQ(*r->seed, 7u);
  EXPECT_FALSE(r->top_p.has_value());
  EXPECT_EQ(r->grammar["spec"]["properties"].begin().key(), "z");
  EXPECT_EQ(r->priority, -2);
  EXPECT_FALSE(r->speculate);
  EXPECT_EQ(r->prediction, "as before");
  auto ids = parse_request(R"({"prediction":[3,1]})");
  ASSERT_TRUE(ids);
  EXPECT_EQ(ids->predicted_ids, (std::vector<int32_t>{3, 1}));
  for (const char* wrong : {R"({"prediction":[-1]})", R"({"prediction":["a"]})", R"({"prediction":{}})", R"({"kind":"embed","prediction":"a"})"})
    EXPECT_FALSE(parse_request(wrong)) << wrong;
}
