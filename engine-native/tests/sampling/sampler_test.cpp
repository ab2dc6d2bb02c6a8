#include "sampling/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

using namespace hearth;
using namespace hearth::sampling;

namespace {

struct SamplerTest : ::testing::Test {
  void SetUp() override {
    auto opened = device::open_cpu_device(1);
    ASSERT_TRUE(opened);
    device = std::move(opened).value();
    auto made = Sampler::create(*device, 40, 48, 4, 8, sampled);
    ASSERT_TRUE(made) << made.status().message();
    sampler = std::move(made).value();
  }
  // Logits 0, 1, 2, ... so that the last id is best; ids from 40 on are padding and must never be drawn.
  void fill() {
    for (int row = 0; row < 8; ++row)
      for (int i = 0; i < 48; ++i) logits[row * 48 + i] = static_cast<float>(i) / 4;
  }
  Drawn one(const RowRequest& row) {
    fill();
    sampler->begin();
    sampler->add(row);
    EXPECT_TRUE(sampler->launch(logits));
    EXPECT_TRUE(sampler->wait());
    return sampler->result(0);
  }
  std::unique_ptr<device::Device> device;
  std::unique_ptr<Sampler> sampler;
  float logits[8 * 48];
  int32_t sampled[4] = {-1, -1, -1, -1};
};

}  // namespace

TEST_F(SamplerTest, GreedyIsArgmaxWithinTheVocabulary) {
  Parameters p;
  p.temperature = 0;
  EXPECT_EQ(one({&p, 2}).token, 39);
  EXPECT_EQ(sampled[2], 39);
}

TEST_F(SamplerTest, BiasMaskAndBannedTokens) {
  Parameters p;
  p.temperature = 0;
  p.bias = {{5, 100}};
  EXPECT_EQ(one({&p, 0}).token, 5);
  p.bias.clear();
  p.min_tokens = 2;
  p.banned_before_min = {39, 38};
  EXPECT_EQ(one({&p, 0, 1}).token, 37);
  EXPECT_EQ(one({&p, 0, 2}).token, 39);
  std::vector<uint32_t> mask(sampler->mask_words(), 0);
  mask[0] = 1u << 11 | 1u << 3;
  EXPECT_EQ(one({&p, 0, 5, mask}).token, 11);
}

TEST_F(SamplerTest, PenaltiesSeeTheHistoryOfTheirSlot) {
  Parameters p;
  p.temperature = 0;
  p.frequency_penalty = 10;
  ASSERT_TRUE(sampler->prepare_history());
  std::vector<int32_t> prompt = {39}, output = {38};
  ASSERT_TRUE(sampler->start_slot(1, prompt, output));
  EXPECT_EQ(one({&p, 1}).token, 39);  // the prompt does not count for this penalty
  EXPECT_EQ(one({&p, 1, 1}).token, 37);  // 39 was drawn, 38 was there before
  EXPECT_EQ(one({&p, 0}).token, 39);
  p.frequency_penalty = 0;
  p.repetition_penalty = 1000;
  ASSERT_TRUE(sampler->start_slot(1, prompt, {}));
  EXPECT_EQ(one({&p, 1}).token, 38);
}

TEST_F(SamplerTest, DrawsDependOnSeedAndPositionOnly) {
  Parameters p;
  p.seed = 3;
  int32_t first = one({&p, 0, 4}).token;
  EXPECT_EQ(one({&p, 3, 4}).token, first);
  std::set<int32_t> others;
  for (int position = 0; position < 20; ++position) others.insert(one({&p, 0, position}).token);
  EXPECT_GT(others.size(), 2u);
}

TEST_F(SamplerTest, ForcedRowsReportWithoutDrawing) {
  sampled[0] = 77;
  RowRequest row;
  row.forced = 10;
  row.top_logprobs = 2;
  Drawn drawn = one(row);
  double sum = 0;
  for (int i = 0; i < 40; ++i) sum += std::exp(i / 4.0);
  EXPECT_NEAR(drawn.logprob, 10 / 4.0 - std::log(sum), 1e-5);
  ASSERT_EQ(drawn.top_ids.size(), 2u);
  EXPECT_EQ(drawn.top_ids[0], 39);
  EXPECT_EQ(sampled[0], 77);
}
