// Linear: every implementation this machine can run, on odd shapes, against sums in float64.
#include <algorithm>
#include <functional>
#include <tuple>

#include "kernels/cpu/layouts.h"
#include "kernels/cpu/scalar.h"
#include "ops/bind.h"
#include "support.h"

namespace hearth::ops_test {
namespace {

using namespace ops;

// Weights in the canonical form together with their exact values.
struct Weights {
  HostLinear host;
  std::vector<uint8_t> data;
  std::vector<float> scales;
  std::vector<uint8_t> zeros;
  std::vector<double> exact;  // [out, in]
};

void fill_dense(Weights& w, const LinearSpec& s, Random& random) {
  const DType type = s.weight == WeightFormat::f16 ? DType::f16 : s.weight == WeightFormat::bf16 ? DType::bf16 : DType::f32;
  Buffer buffer(type, random.normals(w.exact.size()));
  for (size_t i = 0; i < w.exact.size(); ++i) w.exact[i] = buffer.get(i);
  w.data = buffer.bytes;
}

void fill_w4(Weights& w, const LinearSpec& s, Random& random) {
  const size_t groups = static_cast<size_t>(s.in) / s.group;
  w.data.resize(w.exact.size() / 2);
  for (auto& byte : w.data) byte = static_cast<uint8_t>(random.integer(0, 255));
  for (size_t i = 0; i < groups * s.out; ++i) {
    // One row in eight is tiny: a layout that stores scales in half precision must not lose it.
    const float size = (i / groups) % 8 == 3 ? 1e-7f : 0.01f;
    w.scales.push_back(to_float(to_bfloat16(size * random.uniform(0.5f, 2.0f))));
    w.zeros.push_back(s.symmetric ? 8 : static_cast<uint8_t>(random.integer(0, 15)));
  }
  for (int o = 0; o < s.out; ++o) {
    for (int i = 0; i < s.in; ++i) {
      const size_t at = static_cast<size_t>(o) * s.in + i, group = o * groups + i / s.group;
      const int q = (w.data[at / 2] >> (at % 2 * 4)) & 15;
      w.exact[at] = static_cast<double>(q - w.zeros[group]) * w.scales[group];
    }
  }
}

void fill_w8(Weights& w, const LinearSpec& s, Random& random) {
  w.data.resize(w.exact.size());
  for (int o = 0; o < s.out; ++o) w.scales.push_back(0.01f * random.uniform(0.5f, 2.0f));
  for (size_t i = 0; i < w.exact.size(); ++i) {
    const int q = random.integer(0, 20) == 0 ? (random.integer(0, 1) ? 127 : -127) : random.integer(-127, 127);
    w.data[i] = static_cast<uint8_t>(static_cast<int8_t>(q));
    w.exact[i] = static_cast<double>(q) * w.scales[i / s.in];
  }
}

Weights make_weights(const LinearSpec& s, Random& random) {
  Weights w;
  w.exact.resize(static_cast<size_t>(s.in) * s.out);
  if (s.weight == WeightFormat::w4) fill_w4(w, s, random);
  else if (s.weight == WeightFormat::w8) fill_w8(w, s, random);
  else fill_dense(w, s, random);
  w.host = {s.in, s.out, s.weight, s.group, s.symmetric, w.data.data(), w.scales.empty() ? nullptr : w.scales.data(),
            w.zeros.empty() || s.symmetric ? nullptr : w.zeros.data()};
  return w;
}

struct Inputs {
  int rows;
  int64_t x_stride;
  std::vector<float> norm_weight, norm_bias, bias;
  Buffer x, y0;  // y0: what y holds before (residual)
};

Inputs make_inputs(const LinearSpec& s, int rows, Random& random) {
  const int width = s.gated ? s.out / 2 : s.out;
  const int64_t stride = s.in + 3;
  std::vector<float> x = random.normals(rows * stride);
  // An outlier channel, and a row of zeros: what int8 scales must survive.
  for (int r = 0; r < rows; ++r) x[r * stride + s.in / 2] *= 30;
  if (rows > 2) std::fill_n(x.begin() + stride, s.in, 0.0f);
  Inputs in{rows, stride, random.normals(s.in), {}, random.normals(s.out), Buffer(s.x_type, x),
            Buffer(s.y_type, random.normals(static_cast<size_t>(rows) * width))};
  if (s.norm == NormKind::layer) in.norm_bias = random.normals(s.in);
  return in;
}

// The row after the norm, in double, rounded as the int8 formats ask.
std::vector<double> operand(const LinearSpec& s, const Inputs& in, int row) {
  std::vector<double> x(s.in);
  double mean = 0, square = 0;
  for (int i = 0; i < s.in; ++i) x[i] = in.x.get(row * in.x_stride + i);
  if (s.norm == NormKind::layer) {
    for (double v : x) mean += v / s.in;
  }
  for (double v : x) square += (v - mean) * (v - mean) / s.in;
  const double factor = 1 / std::sqrt(square + s.norm_epsilon);
  for (int i = 0; i < s.in && s.norm != NormKind::none; ++i) {
    x[i] = (x[i] - mean) * factor * in.norm_weight[i] + (in.norm_bias.empty() ? 0.0f : in.norm_bias[i]);
  }
  if (s.activations == ActivationFormat::exact) return x;
  const int span = s.activations == ActivationFormat::int8_group ? kernels::cpu::activation_span(s) : s.in;
  for (int begin = 0; begin < s.in; begin += span) {
    float amax = 0;
    const int end = std::min(begin + span, s.in);
    for (int i = begin; i < end; ++i) amax = std::max(amax, std::fabs(static_cast<float>(x[i])));
    const auto by = s.static_scale > 0 ? kernels::cpu::int8_static_scale(s.static_scale) : kernels::cpu::int8_scale(amax);
    for (int i = begin; i < end; ++i) {
      x[i] = static_cast<double>(kernels::cpu::to_int8(static_cast<float>(x[i]), by.inverse)) * by.scale;
    }
  }
  return x;
}

double activation_of(Activation a, double x) {
  switch (a) {
    case Activation::none: return x;
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::gelu_erf: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::quick_gelu: return x / (1 + std::exp(-1.702 * x));
    case Activation::relu: return x > 0 ? x : 0;
  }
  return x;
}

struct Expected { std::vector<double> y, magnitude; };  // magnitude: sum of |x||w| and the other addends

Expected expect(const LinearSpec& s, const Weights& w, const Inputs& in) {
  const int width = s.gated ? s.out / 2 : s.out;
  Expected e;
  for (int row = 0; row < in.rows; ++row) {
    const std::vector<double> x = operand(s, in, row);
    std::vector<double> sum(s.out), size(s.out);
    for (int o = 0; o < s.out; ++o) {
      for (int i = 0; i < s.in; ++i) {
        sum[o] += x[i] * w.exact[static_cast<size_t>(o) * s.in + i];
        size[o] += std::fabs(x[i] * w.exact[static_cast<size_t>(o) * s.in + i]);
      }
      if (s.bias) sum[o] += in.bias[o], size[o] += std::fabs(in.bias[o]);
    }
    for (int o = 0; o < width; ++o) {
      double v = activation_of(s.activation, sum[o]), m = size[o] * 1.2;
      if (s.gated) m = m * std::fabs(sum[width + o]) + (std::fabs(v) + 1e-3) * size[width + o], v *= sum[width + o];
      const double before = s.residual ? in.y0.get(static_cast<size_t>(row) * width + o) : 0.0;
      e.y.push_back(v + before);
      e.magnitude.push_back(m + std::fabs(before) + std::fabs(v));
    }
  }
  return e;
}

// Bytes of y after a run on `cpu`.
Buffer run_on(Cpu& cpu, const BoundLinear* bound, const LinearImplementation* direct, const LinearSpec& s, const Weights& w,
              const Inputs& in) {
  const LinearImplementation& implementation = bound ? bound->implementation() : *direct;
  std::vector<uint8_t> packed_space((bound ? bound->packed_bytes() : direct->packed_bytes(s)) + 64, 0xee);
  auto* packed = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(packed_space.data()) + 63) / 64 * 64);
  const int step = implementation.pack_rows, middle = std::min(s.out, (s.out / 2 + step - 1) / step * step);
  for (const auto& [begin, end] : {std::pair{middle, s.out}, std::pair{0, middle}}) {
    if (begin == end) continue;
    if (bound) bound->pack_range(w.host, begin, end, packed);
    else direct->pack(s, w.host, begin, end, packed);
  }
  const size_t wanted = bound ? bound->workspace_bytes(in.rows, cpu.info)
                        : direct->workspace_bytes ? direct->workspace_bytes(s, in.rows, cpu.info) : 0;
  std::vector<uint8_t> space(wanted + 512, 0xff);
  auto* workspace = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(space.data()) + 255) / 256 * 256);
  std::memset(workspace + wanted, 0x5a, 64);
  const int width = s.gated ? s.out / 2 : s.out;
  Buffer y = in.y0;
  if (!s.residual) y = Buffer(s.y_type, static_cast<size_t>(in.rows) * width);
  LinearParams p;
  p.rows = in.rows;
  p.x = const_cast<Buffer&>(in.x).data();
  p.x_stride = in.x_stride;
  p.norm_weight = in.norm_weight.data();
  p.norm_bias = in.norm_bias.empty() ? nullptr : in.norm_bias.data();
  p.weight = packed;
  p.bias = in.bias.data();
  p.y = y.data();
  p.y_stride = width;
  p.workspace = workspace;
  if (bound) bound->run(p, cpu.stream);
  else direct->run(s, p, cpu.stream);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(workspace[wanted + i], 0x5a) << "wrote past its workspace";
  return y;
}

void compare(const LinearSpec& s, const Buffer& y, const Expected& e) {
  std::vector<double> got(e.y.size());
  for (size_t i = 0; i < got.size(); ++i) got[i] = y.get(i);
  const bool narrow = s.y_type != DType::f32;
  // int8 rounding after a norm may flip where two norms differ in the last bit: one step of one element.
  const bool flips = s.norm != NormKind::none && s.activations != ActivationFormat::exact;
  EXPECT_LE(relative_error(got, e.y), flips ? 2e-3 : 5e-6 + 2 * epsilon_of(s.y_type));
  for (size_t i = 0; i < got.size(); ++i) {
    const double c = (flips ? 4.0 * 0x1p-8 : 0x1p-18) + (narrow ? 2 * epsilon_of(s.y_type) : 0);
    ASSERT_NEAR(got[i], e.y[i], c * e.magnitude[i] + 1e-12) << "element " << i;
  }
}

void check(const LinearSpec& s, int rows, uint32_t seed) {
  Random random(seed);
  const Weights w = make_weights(s, random);
  const Inputs in = make_inputs(s, rows, random);
  const Expected e = expect(s, w, in);
  std::string first;  // of the sets, which all round alike; `reference` works in float64
  Buffer alike = in.y0;
  for_each_taker(linear_implementations(device::DeviceKind::cpu), s, one_thread().info, [&](const auto& implementation) {
    const Buffer one = run_on(one_thread(), nullptr, &implementation, s, w, in);
    compare(s, one, e);
    if (std::string(implementation.name).find("reference") == std::string::npos) {
      if (first.empty()) first = implementation.name, alike = one;
      EXPECT_EQ(one.bytes, alike.bytes) << implementation.name << " and " << first << " round differently, " << rows << " rows of " << s.in << " to " << s.out
                                        << ", group " << s.group;
    }
    const Buffer three = run_on(three_threads(), nullptr, &implementation, s, w, in);
    EXPECT_EQ(one.bytes, three.bytes) << "the result depends on the number of threads";
  });
}

LinearSpec w4(int in, int out, int group, bool symmetric, ActivationFormat activations) {
  LinearSpec s;
  s.in = in, s.out = out, s.weight = WeightFormat::w4, s.group = group, s.symmetric = symmetric, s.activations = activations;
  return s;
}

constexpr int row_counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 33, 70};

TEST(Linear, W4Int8EveryRowCount) {
  for (int rows : row_counts) {
    check(w4(256, 67, 32, true, ActivationFormat::int8_group), rows, rows);
    check(w4(384, 48, 128, false, ActivationFormat::int8_group), rows, 100 + rows);
  }
}

TEST(Linear, W4Int8Shapes) {
  for (int group : {32, 64, 128}) {
    for (bool symmetric : {false, true}) {
      for (int out : {1, 8, 15, 16, 33, 130}) check(w4(group * 3, out, group, symmetric, ActivationFormat::int8_group), 5, out);
      check(w4(group, 32, group, symmetric, ActivationFormat::int8_group), 1, group);
      check(w4(group * 17, 40, group, symmetric, ActivationFormat::int8_group), 2, group);
    }
  }
}

// Groups of each size with and without zero points in several stretches, odd numbers of blocks, a last tile of each size.
TEST(Linear, W4Int8ManyRows) {
  for (int rows : {9, 15, 16, 17, 24, 25, 40, 257}) {
    for (bool symmetric : {false, true}) {
      check(w4(64, 70, 32, symmetric, ActivationFormat::int8_group), rows, rows);
      check(w4(704, 83, 32, symmetric, ActivationFormat::int8_group), rows, 40 + rows);
      check(w4(672, 21, 32, symmetric, ActivationFormat::int8_group), rows, 50 + rows);  // an odd number of groups
      check(w4(704, 50, 64, symmetric, ActivationFormat::int8_group), rows, 60 + rows);
      check(w4(1408, 33, 128, symmetric, ActivationFormat::int8_group), rows, 80 + rows);
    }
  }
  LinearSpec gated = w4(352, 112, 32, false, ActivationFormat::int8_group);
  gated.gated = true, gated.activation = Activation::silu;
  for (int rows : {2, 8, 40}) check(gated, rows, rows);
}

// A row of symmetric groups of 32 with these scales, quants all `q`, activations all 1: the sums, by every set.
void each_sum(const std::vector<float>& scales, int q, const std::function<void(const std::string&, float)>& body) {
  const LinearSpec s = w4(static_cast<int>(scales.size()) * 32, 16, 32, true, ActivationFormat::int8_group);
  Random random(1);
  Weights w = make_weights(s, random);
  std::fill(w.data.begin(), w.data.end(), static_cast<uint8_t>(q * 17));
  for (size_t i = 0; i < w.scales.size(); ++i) w.scales[i] = scales[i % scales.size()];
  for (int rows : {1, 3, 8, 40}) {
    Inputs in = make_inputs(s, rows, random);
    in.x = Buffer(s.x_type, std::vector<float>(in.x_stride * rows, 1.0f));
    for_each_taker(linear_implementations(device::DeviceKind::cpu), s, one_thread().info, [&](const auto& implementation) {
      const Buffer y = run_on(one_thread(), nullptr, &implementation, s, w, in);
      for (int i = 0; i < rows * s.out; ++i) body(implementation.name, static_cast<float>(y.get(i)));
    });
  }
}

// Whole scales at their largest, 4,096: a weight times its scale fits 16 bits, a span of the largest sums 32.
TEST(Linear, WholeScalesAtTheirLargest) {
  const float scale = 4095.9f / 4096.0f;  // rounded up to 4,096
  for (int q : {0, 15}) {
    const double wanted = 8 * 32 * (q - 8.0);
    each_sum(std::vector<float>(8, scale), q, [&](const std::string& name, float sum) { EXPECT_NEAR(sum, wanted, 3e-5 * std::fabs(wanted)) << name; });
  }
}

// Scales of one row that lie far apart keep 13 bits of the largest.
TEST(Linear, WholeScalesFarApart) {
  const std::vector<float> scales{1.0f, 0.3f, 0.01f, 1e-3f, 1e-4f, 0.77f, 0.0f};
  double wanted = 0;
  for (float scale : scales) wanted += 32 * 7.0 * scale;
  each_sum(scales, 15, [&](const std::string& name, float sum) { EXPECT_NEAR(sum, wanted, 0x1p-13 * 32 * 7 * scales.size()) << name; });
}

TEST(Linear, ScaleThatIsNoNumberShows) {
  for (float bad : {NAN, INFINITY}) {
    each_sum({1.0f, bad, 0.5f, 1.0f, 1.0f}, 15, [](const std::string& name, float sum) { EXPECT_FALSE(std::isfinite(sum)) << name; });
  }
}

TEST(Linear, W4Exact) {
  for (int rows : row_counts) {
    check(w4(256, 50, 32, true, ActivationFormat::exact), rows, rows);
    check(w4(384, 33, 128, false, ActivationFormat::exact), rows, 7 + rows);
    check(w4(192, 16, 64, false, ActivationFormat::exact), rows, 9 + rows);
  }
}

LinearSpec w8(int in, int out, ActivationFormat activations) {
  LinearSpec s;
  s.in = in, s.out = out, s.weight = WeightFormat::w8, s.activations = activations;
  return s;
}

TEST(Linear, W8) {
  for (int rows : row_counts) {
    for (int in : {64, 100, 257}) {
      check(w8(in, 35, ActivationFormat::int8_row), rows, rows + in);
      check(w8(in, 35, ActivationFormat::exact), rows, rows + in);
    }
  }
  LinearSpec fixed = w8(128, 48, ActivationFormat::int8_row);
  fixed.static_scale = 0.05f;
  check(fixed, 6, 1);
  // Worst case of the int16 sums inside: every product is +-127 * 127.
}

TEST(Linear, Dense) {
  for (WeightFormat format : {WeightFormat::f32, WeightFormat::f16, WeightFormat::bf16}) {
    LinearSpec s;
    s.weight = format;
    for (int rows : row_counts) {
      for (const auto& [in, out] : {std::pair{64, 33}, {1, 1}, {7, 9}, {129, 16}, {1100, 6}}) {
        s.in = in, s.out = out;
        check(s, rows, rows + in);
      }
    }
  }
}

// Where kernels of many rows begin, several panels of rows, inputs in several pieces, and a rest of everything.
TEST(Linear, ManyRows) {
  int flags = 0;
  for (const auto& [rows, in, out] : {std::tuple{24, 128, 70}, {257, 131, 40}, {391, 1100, 34}, {800, 200, 33}, {260, 4200, 18}}) {
    LinearSpec dense[3], int8 = w8(in, out, ActivationFormat::int8_row);
    dense[0].weight = WeightFormat::f32, dense[1].weight = WeightFormat::f16, dense[2].weight = WeightFormat::bf16;
    for (LinearSpec s : {dense[0], dense[1], dense[2], int8}) {
      s.in = in, s.out = out, s.bias = flags % 2, s.gated = flags % 3 == 1 && out % 2 == 0, s.residual = flags % 5 == 2 && !s.gated;
      s.norm = flags % 4 == 3 ? NormKind::layer : NormKind::none, s.norm_epsilon = 1e-5f;
      s.activation = s.gated ? Activation::silu : flags % 7 == 4 ? Activation::quick_gelu : Activation::none;
      check(s, rows, 500 + flags++);
    }
  }
}

// The formats a fused linear is asked for in.
std::vector<LinearSpec> fusion_bases() {
  LinearSpec dense;
  dense.in = 160, dense.out = 70, dense.weight = WeightFormat::f16;
  return {dense, w4(160, 70, 32, true, ActivationFormat::int8_group), w4(256, 70, 128, false, ActivationFormat::exact),
          w8(160, 70, ActivationFormat::int8_row)};
}

TEST(Linear, EpiloguesOfEachImplementation) {
  for (LinearSpec s : fusion_bases()) {
    for (Activation a : {Activation::none, Activation::silu, Activation::gelu_tanh, Activation::gelu_erf,
                         Activation::quick_gelu, Activation::relu}) {
      s.activation = a;
      s.bias = true;
      for (bool residual : {false, true}) {
        s.residual = residual;
        for (int rows : {1, 6}) check(s, rows, 31);
      }
    }
  }
}

void check_bound(const LinearSpec& s, int rows, uint32_t seed) {
  Random random(seed);
  const Weights w = make_weights(s, random);
  const Inputs in = make_inputs(s, rows, random);
  SCOPED_TRACE(describe(s));
  auto bound = bind(s, one_thread().info);
  ASSERT_TRUE(bound.is_ok()) << bound.status().message();
  compare(s, run_on(three_threads(), &*bound, nullptr, s, w, in), expect(s, w, in));
}

// A row's result does not depend on the rows beside it: text is the same whatever else is asked meanwhile, and a proposed
// token gets the logits it would have had drawn.
TEST(Linear, ARowAloneIsTheRowAmongOthers) {
  std::vector<LinearSpec> specs;
  for (auto activations : {ActivationFormat::int8_group, ActivationFormat::exact}) {
    for (int group : {32, 64, 128})
      for (bool symmetric : {false, true}) specs.push_back(w4(1408 / 128 * 128, 96, group, symmetric, activations));
  }
  LinearSpec gated = w4(512, 192, 128, false, ActivationFormat::int8_group);
  gated.gated = true, gated.activation = Activation::silu, gated.norm = NormKind::rms, gated.norm_epsilon = 1e-5f;
  specs.push_back(gated);
  for (WeightFormat format : {WeightFormat::f32, WeightFormat::f16}) {
    LinearSpec dense;
    dense.in = 640, dense.out = 80, dense.weight = format;
    specs.push_back(dense);
  }
  for (const LinearSpec& s : specs) {
    SCOPED_TRACE(describe(s));
    for (int rows : {2, 3, 8, 9, 16, 24, 33, 70, 150}) {
      Random random(static_cast<uint32_t>(rows));
      const Weights w = make_weights(s, random);
      const Inputs in = make_inputs(s, rows, random);
      auto bound = bind(s, one_thread().info);
      ASSERT_TRUE(bound.is_ok()) << bound.status().message();
      const Buffer all = run_on(one_thread(), &*bound, nullptr, s, w, in);
      const size_t width = all.bytes.size() > 64 ? (all.bytes.size() - 64) / rows : 0;
      for (int row : {0, rows / 2, rows - 1}) {
        Inputs alone = in;
        alone.rows = 1;
        alone.x.bytes.assign(in.x.bytes.begin() + row * in.x_stride * size_of(s.x_type), in.x.bytes.end());
        alone.y0.bytes.assign(in.y0.bytes.begin() + static_cast<std::ptrdiff_t>(row * width), in.y0.bytes.end());
        const Buffer one = run_on(one_thread(), &*bound, nullptr, s, w, alone);
        EXPECT_TRUE(std::equal(one.bytes.begin(), one.bytes.begin() + static_cast<std::ptrdiff_t>(width), all.bytes.begin() + static_cast<std::ptrdiff_t>(row * width)))
            << "row " << row << " of " << rows;
      }
    }
  }
}

// Every combination of norm, gate, residual and bias, as fused as this machine does it, and as a chain of references.
TEST(Linear, FusedAndChained) {
  for (const char* forced : {"", "reference"}) {
    if (*forced) setenv("HEARTH_KERNEL_LINEAR", forced, 1);
    for (LinearSpec s : fusion_bases()) {
      s.norm_epsilon = 1e-5f;
      for (NormKind norm : {NormKind::none, NormKind::rms, NormKind::layer}) {
        for (int flags = 0; flags < 8; ++flags) {
          s.norm = norm;
          s.gated = flags & 1, s.residual = flags & 2, s.bias = flags & 4;
          s.activation = s.gated ? Activation::silu : Activation::none;
          for (int rows : {1, 7}) check_bound(s, rows, 77 + flags);
        }
      }
    }
    unsetenv("HEARTH_KERNEL_LINEAR");
  }
}

TEST(Linear, NarrowTypes) {
  for (LinearSpec s : fusion_bases()) {
    for (DType x : {DType::f32, DType::f16, DType::bf16}) {
      for (DType y : {DType::f32, DType::f16, DType::bf16}) {
        s.x_type = x, s.y_type = y;
        check_bound(s, 3, 5);
      }
    }
  }
}

TEST(Linear, ForcedKernelThatDeclinesIsAnError) {
  setenv("HEARTH_KERNEL_LINEAR", "no-such-kernel", 1);
  const auto bound = bind(fusion_bases()[0], one_thread().info);
  unsetenv("HEARTH_KERNEL_LINEAR");
  ASSERT_FALSE(bound.is_ok());
  EXPECT_EQ(bound.status().code(), Code::unsupported);
  EXPECT_NE(bound.status().message().find("no-such-kernel"), std::string::npos);
}

TEST(Linear, ImpossibleShapesAreRefused) {
  LinearSpec s = w4(100, 8, 32, true, ActivationFormat::exact);
  EXPECT_EQ(bind(s, one_thread().info).status().code(), Code::unsupported);  // 32 does not divide 100
  s.in = 0;
  EXPECT_EQ(bind(s, one_thread().info).status().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace hearth::ops_test
