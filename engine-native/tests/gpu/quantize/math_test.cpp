// Calibration on a GPU against the same on the CPU: every operation of Math on odd sizes, the searches on a trained model,
// and the model that comes out. Products are FP16 there, so losses agree to rounding and not to the bit.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "../../quantize/fixtures.h"
#include "quantize/awq.h"
#include "quantize/compensate.h"
#include "quantize/quantize.h"
#include "quantize/smooth.h"

namespace hearth::quantize {
namespace {

const std::string root = HEARTH_SOURCE_DIR;
const std::string model_path = root + "/models/hearth-tiny-vl";

class Gpu : public testing::Test {
 protected:
  void SetUp() override {
    auto device = device::open_cuda_device(0, "", false);
    ASSERT_TRUE(device) << device.status().message();
    auto math = make_cuda_math(std::move(*device), 4);
    ASSERT_TRUE(math) << math.status().message();
    gpu = std::move(*math);
    cpu = make_cpu_math(4);
  }
  Array random(int64_t rows, int64_t columns, float spread = 1) {
    Array x(rows, columns);
    std::normal_distribution<float> normal(0, spread);
    for (float& value : x.host) value = normal(engine);
    return x;
  }
  std::vector<float> row(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = std::uniform_real_distribution<float>(0.5f, 2)(engine);
    return values;
  }
  // ‖a - b‖ / ‖b‖
  static double distance(const std::vector<float>& a, const std::vector<float>& b) {
    double error = 0, size = 0;
    EXPECT_EQ(a.size(), b.size());
    for (size_t i = 0; i < std::min(a.size(), b.size()); i++) {
      error += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
      size += double{b[i]} * b[i];
    }
    return std::sqrt(error / size);
  }
  // The same operation on both; `limit` bounds the distance.
  template <class Body>
  void compare(const Array& x, double limit, const Body& body) {
    Array here = cpu->upload(x), there = gpu->upload(x);
    body(*cpu, here);
    body(*gpu, there);
    EXPECT_LE(distance(gpu->download(there), cpu->download(here)), limit);
    const Status status = gpu->check();
    EXPECT_TRUE(status) << status.message();
  }

  std::mt19937 engine{5};
  std::unique_ptr<Math> cpu, gpu;
};

TEST_F(Gpu, Products) {
  for (const auto& [rows, out, in] : {std::tuple{1, 8, 8}, {5, 24, 172}, {70, 100, 64}, {300, 129, 333}, {513, 256, 1024}}) {
    const Array x = random(rows, in), w = random(out, in, 0.05f);
    compare(x, 1e-3, [&](Math& math, Array& a) { a = math.multiply(a, math.upload(w)); });
  }
  // Beyond what FP16 holds, and below what it holds well: a power of two brings them into its range and back.
  const Array w = random(64, 128, 1e-7f);
  compare(random(100, 128, 1e6f), 1e-3, [&](Math& math, Array& a) { a = math.multiply(a, math.upload(w)); });
}

TEST_F(Gpu, Grams) {
  for (const auto& [rows, columns, window] : {std::tuple{100, 96, 96}, {300, 640, 512}, {65, 172, 64}}) {
    const Array x = random(rows, columns, 3);
    const auto wanted = cpu->grams(x, window), got = gpu->grams(gpu->upload(x), window);
    ASSERT_EQ(wanted.size(), got.size());
    for (size_t i = 0; i < got.size(); i++) EXPECT_LE(distance(got[i], wanted[i]), 1e-3) << columns << " " << i;
  }
}

TEST_F(Gpu, SmallOperations) {
  const Array x = random(37, 200), y = random(37, 200);
  const std::vector<float> factors = row(200), rows = row(20);
  compare(x, 1e-6, [&](Math& math, Array& a) { a = math.norm(a, factors, 1e-5f); });
  compare(x, 0, [&](Math& math, Array& a) { math.add(a, math.upload(y)); });
  compare(x, 1e-6, [&](Math& math, Array& a) { math.gate(a, math.upload(y), ops::Activation::silu); });
  compare(x, 1e-6, [&](Math& math, Array& a) { math.gate(a, math.upload(y), ops::Activation::gelu_tanh); });
  compare(x, 0, [&](Math& math, Array& a) { math.add_row(a, factors); });
  compare(x, 0, [&](Math& math, Array& a) { math.multiply_columns(a, factors); });
  compare(x, 0, [&](Math& math, Array& a) { math.divide_columns(a, factors); });
  compare(x, 0, [&](Math& math, Array& a) { math.divide_rows(a, 17, rows); });
  compare(x, 0, [&](Math& math, Array& a) { a = math.pick(a, std::vector<int64_t>{36, 0, 7, 7}); });
  compare(x, 0, [&](Math& math, Array& a) { Array b = a; math.add_row(b, factors); });  // a copy is a copy
  compare(x, 1e-6, [&](Math& math, Array& a) { math.round_int8(a); });
  const Array there = gpu->upload(x), other = gpu->upload(y);
  EXPECT_LE(distance(gpu->mean_magnitude(there), cpu->mean_magnitude(x)), 1e-6);
  EXPECT_EQ(gpu->largest_magnitude(there), cpu->largest_magnitude(x));
  EXPECT_NEAR(gpu->sum_of_squares(there), cpu->sum_of_squares(x), 1e-9 * cpu->sum_of_squares(x));
  EXPECT_NEAR(gpu->squared_distance(there, other), cpu->squared_distance(x, y), 1e-9 * cpu->squared_distance(x, y));
}

TEST_F(Gpu, RotationAndAttention) {
  struct Case { int heads, kv_heads, head_dim; int64_t sequences, length, window; bool norm; };
  for (const Case& c : {Case{4, 4, 64, 2, 100, 0, false}, {8, 2, 16, 3, 33, 0, true}, {2, 1, 128, 1, 256, 40, false}, {1, 1, 256, 2, 31, 0, true}}) {
    const Tokens tokens{c.sequences, c.length};
    const int64_t kv = int64_t{c.kv_heads} * c.head_dim;
    Array q = random(tokens.rows(), int64_t{c.heads} * c.head_dim), k = random(tokens.rows(), kv), v = random(tokens.rows(), kv);
    model::RopeTable rope;
    for (int i = 0; i < c.head_dim / 2; i++) rope.inverse_frequency.push_back(std::pow(1e4f, -2.0f * static_cast<float>(i) / static_cast<float>(c.head_dim)));
    const std::vector<float> norm = row(c.head_dim);
    const Rotation rotation{c.heads, c.head_dim, c.norm ? std::span<const float>(norm) : std::span<const float>(), 1e-6f, &rope, c.length};
    compare(q, 1e-5, [&](Math& math, Array& a) { math.rotate(a, rotation); });
    const AttentionShape shape{c.heads, c.kv_heads, c.head_dim, 1.0f / std::sqrt(static_cast<float>(c.head_dim)), c.window};
    compare(q, 1e-5, [&](Math& math, Array& a) { a = math.attend(a, math.upload(k), math.upload(v), shape, tokens); });
  }
}

TEST_F(Gpu, RoundingToNearestIsTheSameToTheBit) {
  for (const int group : {32, 64, 128}) {
    const Array w = random(40, 640, 0.05f);
    const std::vector<float> scales = row(640);
    compare(w, 0, [&](Math& math, Array& a) { a = math.round_groups(a, group, {}); });
    compare(w, 0, [&](Math& math, Array& a) { a = math.round_groups(a, group, scales); });
  }
}

// Inputs whose neighbours are alike, as a model's are.
Array alike(const Array& noise) {
  Array x = noise;
  for (int64_t i = 0; i < x.rows; i++) {
    float shared = 0;
    for (int64_t k = 0; k < x.columns; k++) {
      float& value = x.host[static_cast<size_t>(i * x.columns + k)];
      value = shared = 0.8f * shared + value * (k % 37 == 5 ? 4.0f : 1.0f);
    }
  }
  return x;
}

// Near ties may fall either way, so what is compared is what the rounding reaches.
TEST_F(Gpu, CompensationReachesWhatTheCpuReaches) {
  for (const auto& [out, in, group, clip] : {std::tuple{24, 256, 32, true}, {33, 640, 64, false}, {50, 1024, 128, true}, {16, 1280, 128, false}}) {
    const Array inputs = alike(random(2 * in, in)), w = random(out, in, 0.05f);
    Weight here{"m", out, in, w, {}, {}}, there{"m", out, in, gpu->upload(w), {}, {}};
    const RoundingResult wanted = cpu->round_compensated(here, invert_inputs(*cpu, inputs, group), group, clip);
    const RoundingResult got = gpu->round_compensated(there, invert_inputs(*gpu, gpu->upload(inputs), group), group, clip);
    EXPECT_NEAR(got.loss, wanted.loss, 0.01 * wanted.loss);
    EXPECT_NEAR(got.clipped, wanted.clipped, 0.05 * wanted.clipped + 2);
    const ops::HostLinear host{.in = in, .out = out, .format = ops::WeightFormat::w4, .group = group, .symmetric = false,
                               .data = there.grid.codes.data(), .scales = there.grid.scales.data(), .zeros = there.grid.zeros.data()};
    const std::vector<float> values = gpu->download(there.values);
    EXPECT_EQ(formats::dequantize(host), values);  // the grid is what the values say
    EXPECT_LE(distance(values, here.values.host), 0.05);
  }
}

TEST_F(Gpu, ClippingIsTheSameButForTies) {
  for (const int group : {32, 64, 128}) {
    const Array inputs = alike(random(400, 256)), w = random(48, 256, 0.05f);
    Weight here{"m", 48, 256, w, {}, {}}, there{"m", 48, 256, gpu->upload(w), {}, {}};
    const double wanted = cpu->clip(here, inputs, group), got = gpu->clip(there, gpu->upload(inputs), group);
    EXPECT_NEAR(got, wanted, 0.02 * wanted + 1);
    EXPECT_LE(distance(gpu->download(there.values), here.values.host), 0.01);
  }
}

TEST_F(Gpu, AwqSearchReachesTheLossesOfTheCpu) {
  const auto checkpoint = formats::Checkpoint::open(model_path);
  ASSERT_TRUE(checkpoint);
  const auto model = model::read_model_spec(**checkpoint);
  ASSERT_TRUE(model);
  const model::DecoderSpec& spec = model->decoder;
  const auto tokenizer = open_tokenizer(**checkpoint);
  ASSERT_TRUE(tokenizer);
  const auto calibration = read_calibration(**tokenizer, root + "/models/calibration.txt", 2048, 512);
  ASSERT_TRUE(calibration);
  BlockRunner here(spec, *cpu), there(spec, *gpu);
  auto x = embed(**checkpoint, spec, calibration->ids);
  ASSERT_TRUE(x);
  Array y = gpu->upload(*x);
  for (int layer = 0; layer < static_cast<int>(spec.layers.size()); layer++) {
    auto a = read_block(**checkpoint, spec, layer, *cpu), b = read_block(**checkpoint, spec, layer, *gpu);
    ASSERT_TRUE(a);
    ASSERT_TRUE(b);
    Capture ca, cb;
    here.forward(*a, calibration->tokens, *x, &ca);
    there.forward(*b, calibration->tokens, y, &cb);
    EXPECT_LE(distance(gpu->download(y), x->host), 3e-3) << layer;
    const AwqOptions options{.group = 128, .compensate = false};
    const AwqResult wanted = search_awq(here, *a, calibration->tokens, ca, options), got = search_awq(there, *b, calibration->tokens, cb, options);
    ASSERT_EQ(wanted.pairs.size(), got.pairs.size());
    for (size_t i = 0; i < got.pairs.size(); i++) {
      for (size_t k = 0; k < got.pairs[i].losses.size(); k++) EXPECT_NEAR(got.pairs[i].losses[k], wanted.pairs[i].losses[k], 0.01 * wanted.pairs[i].losses[k]) << layer << " " << got.pairs[i].pair << " " << k;
      EXPECT_NEAR(got.pairs[i].loss, wanted.pairs[i].loss, 0.01 * wanted.pairs[i].loss);
    }
    EXPECT_NEAR(got.clipped, wanted.clipped, 0.02);
  }
}

// The whole command: what the GPU writes scores as what the CPU writes.
TEST_F(Gpu, QuantizedModelsScoreAlike) {
  TemporaryFolder folder;
  const std::string text = root + "/engine-native/tests/quantize/stories.txt";
  const auto exact = scores_of(model_path, text, 2048);
  ASSERT_TRUE(exact) << exact.status().message();
  for (const std::string method : {"awq", "smoothquant"}) {
    double divergences[2] = {}, losses[2] = {};
    for (const std::string device : {"cpu", "cuda"}) {
      QuantizeOptions o;
      o.path = model_path;
      o.out = folder.path() + "/" + method + device;
      o.method = method;
      o.device = device;
      o.calibrate = root + "/models/calibration.txt";
      o.tokens = 4096;
      const auto report = quantize(o, nullptr);
      ASSERT_TRUE(report) << report.status().message();
      if (device == "cuda") EXPECT_NE((*report)["device"], "cpu");
      const auto scores = scores_of(o.out, text, 2048, method == "smoothquant");
      ASSERT_TRUE(scores) << scores.status().message();
      divergences[device == "cuda"] = divergence(*exact, *scores);
      losses[device == "cuda"] = loss_of(*scores);
    }
    std::printf("%-12s cpu: loss %.5f, KL %.5f; gpu: loss %.5f, KL %.5f; exact loss %.5f\n", method.c_str(), losses[0], divergences[0], losses[1], divergences[1], loss_of(*exact));
    EXPECT_NEAR(divergences[1], divergences[0], 0.25 * divergences[0]);
    EXPECT_NEAR(losses[1], losses[0], 0.02);
  }
}

}  // namespace
}  // namespace hearth::quantize
