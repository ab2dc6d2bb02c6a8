// The scale search against a plain PyTorch implementation (scripts/golden/awq_search.py), and the rounding that makes up
// for its errors against the definition.
#include <gtest/gtest.h>

#include <random>

#include "fixtures.h"
#include "formats/json_text.h"
#include "formats/safetensors.h"
#include "formats/checkpoint.h"
#include "quantize/awq.h"
#include "quantize/compensate.h"
#include "quantize/rounding.h"

namespace hearth::quantize {
namespace {

using nlohmann::json;

const std::string root = HEARTH_SOURCE_DIR;

std::vector<int32_t> calibration_ids(int64_t count) {
  formats::TensorStore store;
  const auto header = formats::add_safetensors(store, root + "/test/fixtures/default-model/calibration.safetensors");
  std::vector<int32_t> ids(static_cast<size_t>(count));
  if (header) std::memcpy(ids.data(), store.find("ids")->data.data(), ids.size() * sizeof(int32_t));
  return ids;
}

// All twenty losses of every pair of every layer, not only the best; where the best two are within 0.1 % either may win.
TEST(AwqSearch, ReachesTheLossesOfPyTorch) {
  const auto golden = formats::read_json(root + "/test/fixtures/default-model/awq-search.json");
  ASSERT_TRUE(golden);
  const auto checkpoint = formats::Checkpoint::open(root + "/models/hearth-tiny-vl");
  ASSERT_TRUE(checkpoint);
  const auto model = model::read_model_spec(**checkpoint);
  ASSERT_TRUE(model);
  const model::DecoderSpec& spec = model->decoder;
  const std::unique_ptr<Math> math = make_cpu_math(2);
  const Tokens tokens{(*golden)["rows"], 512};
  for (const int group : {128, 32}) {
    BlockRunner runner(spec, *math);
    auto x = embed(**checkpoint, spec, calibration_ids(tokens.rows()));
    ASSERT_TRUE(x);
    for (int layer = 0; layer < 3; layer++) {
      auto block = read_block(**checkpoint, spec, layer, *math);
      ASSERT_TRUE(block);
      Capture capture;
      runner.forward(*block, tokens, *x, &capture);
      const AwqResult result = search_awq(runner, *block, tokens, capture, {.group = group, .scale = true, .clip = false, .compensate = false});
      ASSERT_EQ(result.pairs.size(), 3u);  // o is left out: queries are grouped
      for (const ScaleResult& pair : result.pairs) {
        const json& wanted = (*golden)["groups"][std::to_string(group)][static_cast<size_t>(layer)][pair.pair];
        const std::vector<double> losses = wanted["losses"];
        ASSERT_EQ(pair.losses.size(), losses.size());
        const double best = *std::ranges::min_element(losses);
        EXPECT_NEAR(pair.loss, best, 0.001 * best) << group << " " << layer << " " << pair.pair;
        EXPECT_NEAR(losses[static_cast<size_t>(std::lround(pair.alpha * 20))], best, 0.001 * best) << "alpha " << pair.alpha;
        for (size_t i = 0; i < losses.size(); i++) EXPECT_NEAR(pair.losses[i], losses[i], 0.002 * losses[i]) << group << " " << layer << " " << pair.pair << " " << i;
      }
    }
  }
}

// What large models are searched with: some tokens and some outputs choose scales that are as good on all of them.
TEST(AwqSearch, SomeTokensAndOutputsChooseAsWell) {
  const auto checkpoint = formats::Checkpoint::open(root + "/models/hearth-tiny-vl");
  ASSERT_TRUE(checkpoint);
  const auto model = model::read_model_spec(**checkpoint);
  ASSERT_TRUE(model);
  const model::DecoderSpec& spec = model->decoder;
  const std::unique_ptr<Math> math = make_cpu_math(2);
  BlockRunner runner(spec, *math);
  const Tokens tokens{4, 512};
  auto x = embed(**checkpoint, spec, calibration_ids(tokens.rows()));
  ASSERT_TRUE(x);
  for (int layer = 0; layer < 2; layer++) {
    auto block = read_block(**checkpoint, spec, layer, *math);
    ASSERT_TRUE(block);
    const Block before = *block;
    Capture capture;
    runner.forward(*block, tokens, *x, &capture);
    Capture again = capture;
    Block other = before;
    const AwqResult all = search_awq(runner, *block, tokens, capture, {.group = 128, .clip = false, .compensate = false});
    const AwqResult some = search_awq(runner, other, tokens, again, {.group = 128, .clip = false, .compensate = false, .search_rows = 512, .search_outputs = 64});
    ASSERT_EQ(all.pairs.size(), some.pairs.size());
    EXPECT_EQ(other.down.values.size(), before.down.values.size());  // the whole linears are back
    EXPECT_EQ(other.o.values.size(), before.o.values.size());
    for (size_t i = 0; i < all.pairs.size(); i++) {
      const double reached = all.pairs[i].losses[static_cast<size_t>(std::lround(some.pairs[i].alpha * 20))];
      EXPECT_NE(some.pairs[i].loss, all.pairs[i].loss) << "nothing was left out";
      EXPECT_LT(reached - all.pairs[i].loss, 0.05 * (all.pairs[i].loss_rounding)) << layer << " " << all.pairs[i].pair;
    }
  }
}

struct Problem {
  Weight weight;
  Array inputs;
};

// Weights with a wide range and inputs whose neighbours are alike, as a model's are.
Problem make_problem(int64_t out, int64_t in, int64_t rows) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  Problem p{{"m", out, in, Array(out, in), {}, {}}, Array(rows, in)};
  for (float& w : p.weight.values.host) w = normal(random) * (random() % 64 == 0 ? 0.2f : 0.05f);
  for (int64_t row = 0; row < rows; row++) {
    float shared = 0;
    for (int64_t k = 0; k < in; k++) p.inputs.host[static_cast<size_t>(row * in + k)] = shared = 0.8f * shared + normal(random) * (k % 37 == 5 ? 4.0f : 1.0f);
  }
  return p;
}

double output_error(const Problem& p, const std::vector<float>& values) {
  double sum = 0;
  for (int64_t row = 0; row < p.inputs.rows; row++) {
    for (int64_t n = 0; n < p.weight.out; n++) {
      double difference = 0;
      for (int64_t k = 0; k < p.weight.in; k++) {
        const size_t at = static_cast<size_t>(n * p.weight.in + k);
        difference += (double{values[at]} - p.weight.values.host[at]) * p.inputs.host[static_cast<size_t>(row * p.weight.in + k)];
      }
      sum += difference * difference;
    }
  }
  return sum;
}

std::vector<float> nearest(const Weight& weight, int group) {
  std::vector<float> rounded(weight.values.host.size());
  for (int64_t row = 0; row < weight.out; row++) round_row(weight.values.host.data() + row * weight.in, weight.in, group, {}, rounded.data() + row * weight.in);
  return rounded;
}

TEST(Compensate, LeavesMuchLessErrorThanRounding) {
  const std::unique_ptr<Math> math = make_cpu_math(2);
  for (const auto& [out, in, group] : {std::tuple{24, 128, 128}, {17, 256, 32}, {8, 640, 64}, {16, 1024, 128}}) {  // 640: two windows
    const Problem p = make_problem(out, in, 2 * in);
    const Inverse inverse = invert_inputs(*math, p.inputs, group);
    Weight plain = p.weight, clipped = p.weight;
    math->round_compensated(plain, inverse, group, false);
    const RoundingResult result = math->round_compensated(clipped, inverse, group, true);
    const double rounded = output_error(p, nearest(p.weight, group));
    EXPECT_LT(output_error(p, plain.values.host), 0.6 * rounded) << in;
    EXPECT_LT(output_error(p, clipped.values.host), output_error(p, plain.values.host)) << in;
    EXPECT_GT(result.clipped, 0);
    EXPECT_NEAR(result.loss, output_error(p, clipped.values.host), 0.1 * result.loss) << in;  // damping and the windows apart
  }
}

TEST(Compensate, ValuesAreTheGrids) {
  const std::unique_ptr<Math> math = make_cpu_math(2);
  const Problem p = make_problem(11, 256, 300);
  Weight weight = p.weight;
  math->round_compensated(weight, invert_inputs(*math, p.inputs, 64), 64, true);
  const ops::HostLinear host{.in = 256, .out = 11, .format = ops::WeightFormat::w4, .group = 64, .symmetric = false,
                             .data = weight.grid.codes.data(), .scales = weight.grid.scales.data(), .zeros = weight.grid.zeros.data()};
  EXPECT_EQ(formats::dequantize(host), weight.values.host);
  for (const float scale : weight.grid.scales) EXPECT_EQ(to_float(to_half(scale)), scale);
  for (const uint8_t zero : weight.grid.zeros) EXPECT_LE(zero, 15);
}

// Threads share rows and windows out differently; the numbers must not.
TEST(Compensate, ThreadsChangeNothing) {
  const Problem p = make_problem(40, 640, 300);
  std::vector<std::vector<float>> values;
  for (const int threads : {1, 3}) {
    const std::unique_ptr<Math> math = make_cpu_math(threads);
    Weight weight = p.weight;
    math->round_compensated(weight, invert_inputs(*math, p.inputs, 32), 32, true);
    values.push_back(weight.values.host);
  }
  EXPECT_EQ(values[0], values[1]);
}

TEST(Compensate, InputsThatAreZeroOrAlikeAreNoTrouble) {
  const std::unique_ptr<Math> math = make_cpu_math(1);
  Problem p = make_problem(8, 128, 64);
  for (const auto& fill : {std::function<float(size_t)>([](size_t) { return 0.0f; }), std::function<float(size_t)>([](size_t) { return 1.0f; }),
                           std::function<float(size_t)>([](size_t at) { return at % 128 == 3 ? 1e4f : 1e-6f; })}) {
    for (size_t at = 0; at < p.inputs.host.size(); at++) p.inputs.host[at] = fill(at);
    Weight weight = p.weight;
    math->round_compensated(weight, invert_inputs(*math, p.inputs, 64), 64, true);
    double far = 0;
    for (size_t at = 0; at < weight.values.host.size(); at++) {
      ASSERT_TRUE(std::isfinite(weight.values.host[at]));
      far = std::max(far, double{std::fabs(weight.values.host[at] - p.weight.values.host[at])});
    }
    EXPECT_LT(far, 2);
  }
}

}  // namespace
}  // namespace hearth::quantize
