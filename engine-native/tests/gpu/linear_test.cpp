// Linears: every format, type, fusion and path (by rows) against float64 sums.
#include <array>
#include <limits>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/host/hopper.h"
#include "kernels/cuda/host/tuning.h"
#include "kernels/cuda/host/tuning_table.h"
#include "support.h"

namespace hearth::gpu_test {
namespace {

using namespace ops;

struct Weights {
  HostLinear host;
  std::vector<uint8_t> data, zeros;
  std::vector<float> scales;
  std::vector<float> exact;  // [out, in], what the format stores
};

void make_dense(Weights& w, const LinearSpec& s) {
  const bool wide = s.weight == WeightFormat::f32;
  w.data.resize(w.exact.size() * (wide ? 4 : 2));
  for (size_t i = 0; i < w.exact.size(); ++i) {
    const float v = random_normal() * 0.05f;
    if (wide) { std::memcpy(&w.data[i * 4], &v, 4); w.exact[i] = v; continue; }
    const uint16_t bits = s.weight == WeightFormat::f16 ? to_half(v).bits : to_bfloat16(v).bits;
    std::memcpy(&w.data[i * 2], &bits, 2);
    w.exact[i] = s.weight == WeightFormat::f16 ? to_float(Half{bits}) : to_float(BFloat16{bits});
  }
}
void make_w4(Weights& w, const LinearSpec& s) {
  const int groups = s.in / s.group;
  w.data.resize(w.exact.size() / 2);
  for (auto& b : w.data) b = static_cast<uint8_t>(random_int(0, 255));
  for (int o = 0; o < s.out; ++o)
    for (int g = 0; g < groups; ++g) {
      const float size = o % 8 == 3 ? 1e-7f : 0.01f;  // a row of tiny scales must survive 16-bit storage
      w.scales.push_back(to_float(to_half((0.5f + random_int(0, 1000) / 1000.f) * 1.0f)) * size);
      w.zeros.push_back(s.symmetric ? 8 : static_cast<uint8_t>(random_int(0, 15)));
    }
  for (int o = 0; o < s.out; ++o)
    for (int i = 0; i < s.in; ++i) {
      const size_t at = static_cast<size_t>(o) * s.in + i, g = static_cast<size_t>(o) * groups + i / s.group;
      w.exact[at] = static_cast<float>(((w.data[at / 2] >> (at % 2 * 4)) & 15) - w.zeros[g]) * w.scales[g];
    }
}
void make_w8(Weights& w, const LinearSpec& s) {
  w.data.resize(w.exact.size());
  for (int o = 0; o < s.out; ++o) w.scales.push_back(0.01f * (0.5f + random_int(0, 1000) / 1000.f));
  for (size_t i = 0; i < w.exact.size(); ++i) {
    const int q = random_int(-127, 127);
    w.data[i] = static_cast<uint8_t>(static_cast<int8_t>(q));
    w.exact[i] = static_cast<float>(q) * w.scales[i / s.in];
  }
}
Weights make_weights(const LinearSpec& s) {
  Weights w;
  w.exact.resize(static_cast<size_t>(s.in) * s.out);
  if (s.weight == WeightFormat::w4) make_w4(w, s);
  else if (s.weight == WeightFormat::w8) make_w8(w, s);
  else make_dense(w, s);
  w.host = {s.in, s.out, s.weight, s.group, s.symmetric, w.data.data(), w.scales.empty() ? nullptr : w.scales.data(),
            w.zeros.empty() || s.symmetric ? nullptr : w.zeros.data()};
  return w;
}

double activate64(Activation a, double x) {
  switch (a) {
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case Activation::gelu_erf: return 0.5 * x * (1 + std::erf(x * 0.7071067811865476));
    case Activation::quick_gelu: return x / (1 + std::exp(-1.702 * x));
    case Activation::relu: return x > 0 ? x : 0;
    default: return x;
  }
}

// One row of activations as the linear sees it, after the norm and, for int8, as integers times their scale.
std::vector<double> seen_row(const LinearSpec& s, const Array& x, int64_t at, const Array& norm_weight) {
  std::vector<double> row(s.in);
  for (int i = 0; i < s.in; ++i) row[i] = x.get(at + i);
  if (s.norm != NormKind::none) {
    double mean = 0, square = 0;
    if (s.norm == NormKind::layer) { for (double v : row) mean += v; mean /= s.in; }
    for (double v : row) square += (v - mean) * (v - mean);
    const double factor = 1 / std::sqrt(square / s.in + s.norm_epsilon);
    for (int i = 0; i < s.in; ++i) row[i] = (row[i] - mean) * factor * norm_weight.get(i);
  }
  if (s.activations == ActivationFormat::int8_row) {
    float largest = 0;  // in f32, as the rule of kernels/cpu/scalar.h has it: the integers must be the same
    for (double v : row) largest = std::max(largest, std::fabs(static_cast<float>(v)));
    const float scale = s.static_scale > 0 ? s.static_scale : largest / 127.0f, inverse = s.static_scale > 0 ? 1.0f / s.static_scale : 127.0f / largest;
    for (double& v : row) v = std::clamp(std::nearbyint(static_cast<float>(v) * inverse), -127.0f, 127.0f) * static_cast<double>(scale);
  }
  return row;
}

const LinearImplementation* pick(const LinearSpec& s, std::string* why) {
  for (const LinearImplementation* candidate : kernels::cuda::linear_implementations()) {
    const char* reason = candidate->declines(s, gpu().info());
    if (!reason) return candidate;
    *why += std::string(candidate->name) + ": " + reason + "; ";
  }
  return nullptr;
}

void check_linear(const LinearSpec& s, int rows, const std::string& label, const char* wanted = nullptr, bool outliers = false) {
  std::string why;
  const LinearImplementation* linear = pick(s, &why);
  ASSERT_NE(linear, nullptr) << label << " " << why;
  if (wanted) { ASSERT_STREQ(linear->name, wanted) << label; }
  SCOPED_TRACE(label + " " + linear->name + " rows " + std::to_string(rows));
  Weights w = make_weights(s);
  std::vector<uint8_t> packed(linear->packed_bytes(s), 0xff);
  const int step = std::max(linear->pack_rows, s.out / 3 / linear->pack_rows * linear->pack_rows);
  for (int begin = 0; begin < s.out; begin += step) linear->pack(s, w.host, begin, std::min(s.out, begin + step), packed.data());
  Array weight(DType::u8, packed.size());
  std::memcpy(weight.host(), packed.data(), packed.size());
  weight.upload();
  // Rows that are whole 16-byte pieces, and rows that are not.
  const int columns = s.gated ? s.out / 2 : s.out, y_stride = coin() ? columns + 5 : coin() ? (columns + 7) / 4 * 4 : (columns + 15) / 8 * 8, x_stride = s.in + 8;
  Array x(s.x_type, static_cast<size_t>(rows) * x_stride), norm_weight(DType::f32, s.in), bias(DType::f32, s.out), y(s.y_type, static_cast<size_t>(rows) * y_stride);
  x.normal();
  if (outliers) {  // as models have them: a column a thousand times the others
    for (int i = 0; i < rows; ++i) x.set(static_cast<int64_t>(i) * x_stride + random_int(0, s.in - 1), coin() ? 1000.f : -1000.f);
    x.upload();
  }
  for (int i = 0; i < s.in; ++i) norm_weight.set(i, 1 + 0.2f * random_normal());
  norm_weight.upload();
  bias.normal();
  std::vector<float> before(y.count(), 0);
  if (s.residual) { y.normal(); for (size_t i = 0; i < y.count(); ++i) before[i] = y.get(i); }
  else y.poison();
  Array workspace(DType::u8, linear->workspace_bytes ? linear->workspace_bytes(s, rows, gpu().info()) : 1);
  workspace.poison();
  LinearParams p;
  p.rows = rows; p.x = x.device(); p.x_stride = x_stride; p.norm_weight = norm_weight.as<float>(); p.weight = weight.device();
  p.bias = bias.as<float>(); p.y = y.device(); p.y_stride = y_stride; p.workspace = workspace.device();
  linear->run(s, p, gpu().stream());
  y.download();

  const DType narrow = s.weight == WeightFormat::f32 ? DType::f32 : s.x_type == DType::bf16 || s.y_type == DType::bf16 || s.weight == WeightFormat::bf16 ? DType::bf16 : DType::f16;
  // Rounding of activations and decoded weights to the narrow type, then of the output.
  const double unit = s.activations == ActivationFormat::int8_row ? 0x1p-22 : epsilon_of(narrow);
  Errors errors;
  const int64_t all = static_cast<int64_t>(rows) * columns, samples = std::min<int64_t>(all, 3000);
  std::vector<std::vector<double>> seen(rows);
  for (int64_t i = 0; i < samples; ++i) {
    const int64_t pick = all <= 3000 ? i : random_int(0, static_cast<int>(all - 1));
    const int row = static_cast<int>(pick / columns), column = static_cast<int>(pick % columns);
    if (seen[row].empty()) seen[row] = seen_row(s, x, static_cast<int64_t>(row) * x_stride, norm_weight);
    auto dot = [&](int out, double& absolute) {
      double sum = 0;
      for (int k = 0; k < s.in; ++k) { const double v = seen[row][k] * w.exact[static_cast<size_t>(out) * s.in + k]; sum += v; absolute += std::fabs(v); }
      if (s.bias) { sum += bias.get(out); absolute += std::fabs(bias.get(out)); }
      return sum;
    };
    double absolute = 0, want = dot(column, absolute);
    if (s.gated) {
      double up_absolute = 0;
      const double gate = activate64(s.activation, want), up = dot(columns + column, up_absolute);
      absolute = absolute * 1.2 * std::fabs(up) + up_absolute * std::fabs(gate) + absolute * up_absolute * unit;
      want = gate * up;
    } else {
      want = activate64(s.activation, want);
    }
    want += before[static_cast<size_t>(row) * y_stride + column] * (s.residual ? 1 : 0);
    const double bound = 3 * unit * absolute + (epsilon_of(s.y_type) + 1e-6) * std::fabs(want) + (s.y_type == DType::f16 ? 0x1p-24 : 1e-30);  // f16 loses what is smaller
    errors.add(y.get(static_cast<size_t>(row) * y_stride + column), want, bound);
  }
  EXPECT_EQ(errors.bad, 0u) << "of " << errors.count;
  EXPECT_LT(errors.worst, 1.0);
  EXPECT_LT(errors.relative(), narrow == DType::bf16 ? 1e-2 : 2e-3);
  for (int row = 0; row < rows && !s.residual; ++row)
    for (int c = columns; c < y_stride; ++c) ASSERT_TRUE(std::isnan(y.get(static_cast<size_t>(row) * y_stride + c))) << "wrote past row " << row;

  // The same bits again, also after the counters of the first run.
  std::vector<uint8_t> first(static_cast<uint8_t*>(y.host()), static_cast<uint8_t*>(y.host()) + y.count() * size_of(y.type()));
  if (s.residual) { for (size_t i = 0; i < y.count(); ++i) y.set(i, before[i]); y.upload(); } else y.poison();
  linear->run(s, p, gpu().stream());
  y.download();
  EXPECT_EQ(std::memcmp(first.data(), y.host(), first.size()), 0) << "not deterministic";
}

LinearSpec spec(int in, int out, WeightFormat weight, DType x, DType y) {
  LinearSpec s;
  s.in = in; s.out = out; s.weight = weight; s.x_type = x; s.y_type = y;
  return s;
}

// A random fusion.
void decorate(LinearSpec& s, int i) {
  s.bias = i % 3 == 1;
  if (i % 4 == 1) { s.norm = i % 8 == 1 ? NormKind::rms : NormKind::layer; s.norm_epsilon = 1e-5f; s.x_type = DType::f32; }
  if (i % 5 == 2) { s.gated = true; s.activation = Activation::silu; s.out += s.out % 2; }
  else if (i % 5 == 4) s.activation = static_cast<Activation>(random_int(0, 5));
  if (i % 4 == 2 && !s.gated) { s.residual = true; s.y_type = DType::f32; }
}

const int row_counts[] = {1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 33, 64, 65, 100, 128, 129, 255, 256, 257, 300};

TEST(Linear, W4) {
  int i = 0;
  for (DType type : {DType::f16, DType::bf16})
    for (int group : {128, 64, 32})
      for (int rows : row_counts) {
        LinearSpec s = spec(group * random_int(1, 9), random_int(1, 300), WeightFormat::w4, type, type);
        s.group = group;
        s.symmetric = i % 7 == 3;
        decorate(s, i++);
        check_linear(s, rows, "w4 g" + std::to_string(group) + " " + std::to_string(s.in) + "x" + std::to_string(s.out) + (type == DType::f16 ? " f16" : " bf16"), "cuda/sm80/w4-mma");
        if (testing::Test::HasFatalFailure()) return;
      }
}

TEST(Linear, W4Real) {
  for (int rows : {1, 2, 7, 16, 40, 64, 128, 512})
    for (int shape = 0; shape < 4; ++shape) {
      const int in = shape == 3 ? 11008 : 4096, out = shape == 0 ? 12288 : shape == 2 ? 22016 : 4096;
      LinearSpec s = spec(in, out, WeightFormat::w4, shape == 0 || shape == 2 ? DType::f32 : DType::f16, DType::f16);
      s.group = 128;
      if (shape == 0 || shape == 2) { s.norm = NormKind::rms; s.norm_epsilon = 1e-5f; } else { s.residual = true; s.y_type = DType::f32; }
      if (shape == 2) { s.gated = true; s.activation = Activation::silu; }
      if (rows > 64 && shape > 1) continue;  // packing these takes the test most of its time
      check_linear(s, rows, "7B shape " + std::to_string(shape), "cuda/sm80/w4-mma");
    }
}

TEST(Linear, W4HeadInF32) {
  for (int rows : {1, 3, 20}) {
    LinearSpec s = spec(512, 1000, WeightFormat::w4, DType::f32, DType::f32);
    s.group = 128; s.norm = NormKind::rms; s.norm_epsilon = 1e-5f;
    check_linear(s, rows, "head", "cuda/sm80/w4-mma");
  }
}

// So many tiles a block that the decode path takes them in several passes.
TEST(Linear, W4ManyTiles) {
  for (int rows : {1, 2, 4})
    for (int group : {128, 32}) {
      LinearSpec s = spec(256 + 128 * random_int(0, 3), 50000 + random_int(0, 40), WeightFormat::w4, DType::f16, DType::f16);
      s.group = group;
      check_linear(s, rows, "many tiles", "cuda/sm80/w4-mma");
    }
  // Activations that leave few tiles' sums in a pass where shared memory is small (HEARTH_DEVICE_PROFILE=rtx-4090).
  for (int rows : {3, 4, 5}) {
    LinearSpec s = spec(4096, 10000 + random_int(0, 40), WeightFormat::w4, DType::f16, DType::f16);
    s.group = 128;
    check_linear(s, rows, "many tiles beside wide rows", "cuda/sm80/w4-mma");
  }
}

// Hopper's cluster kernel at every width of its tile, shared by 1, 2 and 4 blocks, with few and many tiles a block.
TEST(Linear, W4Clusters) {
  const auto before = kernels::cuda::tuning();
  int i = 0;
  for (int ranks : {0, 1, 2, 4})
    for (int rows : {1, 3, 8, 9, 16, 21, 32, 50, 64, 77, 128, 130, 200, 256, 300}) {
      kernels::cuda::tuning().rows_max = 0;
      kernels::cuda::tuning().w4_ranks = ranks;
      kernels::cuda::tuning().w4_wide = random_int(0, 3);
      kernels::cuda::tuning().w4_prefetch_kb = random_int(0, 2) * 32;
      const int group = i % 4 == 1 ? 64 : i % 4 == 3 ? 32 : 128;
      const DType type = i % 3 == 2 ? DType::bf16 : DType::f16;
      const int out = i % 5 == 0 ? random_int(1, 90) : i % 5 == 1 ? random_int(30000, 60000) : random_int(2000, 9000);
      LinearSpec s = spec(group * random_int(1, (out > 20000 ? 600 : 4000) / group), out, WeightFormat::w4, type, type);
      s.group = group;
      decorate(s, i++);
      check_linear(s, rows, "w4 ranks " + std::to_string(ranks) + " g" + std::to_string(group) + " " + std::to_string(s.in) + "x" + std::to_string(s.out), "cuda/sm80/w4-mma");
      if (testing::Test::HasFatalFailure()) break;
    }
  kernels::cuda::tuning() = before;
}

TEST(Linear, W4Outliers) {
  int i = 0;
  for (int group : {128, 64, 32})
    for (DType type : {DType::f16, DType::bf16})
      for (int rows : {1, 2, 3, 4, 6, 8}) {
        LinearSpec s = spec(group * random_int(512 / group, 40), 16 * random_int(2, 60), WeightFormat::w4, type, type);
        s.group = group;
        decorate(s, i++);
        check_linear(s, rows, "w4 outliers g" + std::to_string(group) + " " + std::to_string(s.in) + "x" + std::to_string(s.out), nullptr, true);
        if (testing::Test::HasFatalFailure()) return;
      }
}

// Sums of 64 k in f16, as GeForce cards take them: by tiles of 64 rows, shared by blocks and whole, and by linear_mma.
TEST(Linear, W4HalfSums) {
  using namespace kernels::cuda;
  const Tuning before = tuning();
  tuning().half_sums = 1;
  int i = 0;
  for (int group : {128, 64, 32})
    for (int rows : {33, 50, 64, 65, 100, 128, 129, 200, 256}) {
      LinearSpec s = spec(i % 4 == 3 ? 4096 : group * random_int(1, 40), i % 5 == 4 ? 2048 : random_int(1, 600), WeightFormat::w4, DType::f16, DType::f16);
      s.group = group;
      s.symmetric = i % 7 == 3;
      decorate(s, i);
      tuning_table().set(TuningTable::key(s, rows), rows <= 65 ? LinearChoice{LinearPath::tile, 2} : LinearChoice{LinearPath::mma});
      check_linear(s, rows, "half sums g" + std::to_string(group) + " " + std::to_string(s.in) + "x" + std::to_string(s.out), "cuda/sm80/w4-mma", i++ % 2 == 1);
      if (testing::Test::HasFatalFailure()) break;
    }
  tuning_table().clear();
  tuning() = before;
}

// What is not finite stays so, in its row and nowhere else.
TEST(Linear, W4NotFinite) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()})
    for (DType type : {DType::f16, DType::bf16})
      for (int rows = 1; rows <= 5; ++rows) {
        LinearSpec s = spec(128 * random_int(1, 36), 16 * random_int(2, 60), WeightFormat::w4, type, type);
        s.group = rows % 2 ? 128 : 32;
        std::string why;
        const LinearImplementation* linear = pick(s, &why);
        ASSERT_NE(linear, nullptr) << why;
        const Weights w = make_weights(s);
        Array weight(DType::u8, linear->packed_bytes(s)), x(type, static_cast<size_t>(rows) * s.in), y(type, static_cast<size_t>(rows) * s.out);
        linear->pack(s, w.host, 0, s.out, weight.host());
        weight.upload();
        x.normal();
        const int row = random_int(0, rows - 1);
        x.set(static_cast<int64_t>(row) * s.in + random_int(0, s.in - 1), bad);
        x.upload();
        y.poison();
        Array workspace(DType::u8, linear->workspace_bytes ? linear->workspace_bytes(s, rows, gpu().info()) : 1);
        LinearParams p;
        p.rows = rows; p.x = x.device(); p.x_stride = s.in; p.weight = weight.device(); p.y = y.device(); p.y_stride = s.out; p.workspace = workspace.device();
        linear->run(s, p, gpu().stream());
        y.download();
        for (size_t i = 0; i < y.count(); ++i) ASSERT_EQ(std::isfinite(y.get(i)), static_cast<int>(i / s.out) != row) << bad << " in row " << row << " of " << rows << " at " << i;
      }
}

TEST(Linear, Dense) {
  int i = 0;
  for (WeightFormat format : {WeightFormat::f16, WeightFormat::bf16})
    for (int rows : row_counts) {
      const DType type = format == WeightFormat::f16 ? DType::f16 : DType::bf16;
      LinearSpec s = spec(8 * random_int(1, 150), random_int(1, 300), format, type, type);
      decorate(s, i++);
      check_linear(s, rows, "dense " + std::to_string(s.in) + "x" + std::to_string(s.out), "cuda/sm80/dense");
    }
  for (int rows : {1, 6, 48, 200}) check_linear(spec(4096, 4096, WeightFormat::f16, DType::f16, DType::f16), rows, "dense 4096", "cuda/sm80/dense");
}

// The kernel of few rows: every depth of its ring that the device has room for, more tiles than blocks, norms of rows wider
// than one turn of the feeding warps, residuals of several tiles.
TEST(Linear, DenseRows) {
  struct Case { int rows, in, out; NormKind norm; bool residual; };
  for (const Case& c : {Case{1, 4096, 2200, NormKind::rms, false}, {1, 8192, 2130, NormKind::layer, false}, {2, 5120, 300, NormKind::rms, false}, {3, 8192, 300, NormKind::layer, false},
                        {7, 4096, 300, NormKind::rms, false}, {8, 4104, 300, NormKind::layer, false}, {8, 1024, 4500, NormKind::none, true}, {4, 11008, 300, NormKind::none, true},
                        {2, 11008, 300, NormKind::none, true}, {1, 11008, 2150, NormKind::none, true}, {5, 4096, 300, NormKind::none, true}}) {
    const bool brain = coin();
    LinearSpec s = spec(c.in, c.out, brain ? WeightFormat::bf16 : WeightFormat::f16, brain ? DType::bf16 : DType::f16, c.residual ? DType::f32 : brain ? DType::bf16 : DType::f16);
    s.norm = c.norm; s.norm_epsilon = 1e-5f; s.residual = c.residual; s.bias = coin();
    if (c.norm != NormKind::none) s.x_type = DType::f32;
    check_linear(s, c.rows, "rows " + std::to_string(c.in) + "x" + std::to_string(c.out), "cuda/sm80/dense");
  }
  LinearSpec s = spec(1024, 4500, WeightFormat::w8, DType::f16, DType::f32);
  s.activations = ActivationFormat::int8_row; s.residual = true;
  for (int rows : {1, 8}) check_linear(s, rows, "w8a8 rows", "cuda/sm80/w8a8");
}

// Every tile width of the kernels of many rows, more tiles than multiprocessors, no width a multiple of a tile.
TEST(Linear, ManyRows) {
  int i = 0;
  for (int columns : {0, 64, 128, 192, 256}) {
    kernels::cuda::hopper_forced_columns() = columns;
    for (WeightFormat format : {WeightFormat::f16, WeightFormat::bf16, WeightFormat::w8, WeightFormat::w4}) {
      const DType type = format == WeightFormat::bf16 ? DType::bf16 : DType::f16;
      LinearSpec s = spec(128 * random_int(1, 4), random_int(2900, 3400), format, type, type);
      if (format == WeightFormat::w4) s.group = 128;
      decorate(s, i++);
      if (format == WeightFormat::w8) { s.activations = ActivationFormat::int8_row; s.norm = NormKind::none; s.in += 16; }
      check_linear(s, random_int(900, 1100), "many rows, columns " + std::to_string(columns) + " " + std::to_string(s.in) + "x" + std::to_string(s.out));
    }
  }
  kernels::cuda::hopper_forced_columns() = 0;
}

// Tiles of every width, whole, cut wherever a block's share ends (more parts than tiles, fewer), or by two blocks that share
// K; and whole towers of several images.
TEST(Linear, Streams) {
  for (int i = 0; i < 48; ++i) {
    const int cut = std::array{64, 128, 192, 256, 1256, 1128}[static_cast<size_t>(random_int(0, 5))];
    kernels::cuda::hopper_forced_stream() = cut;
    const WeightFormat format = i % 3 == 0 ? WeightFormat::bf16 : WeightFormat::f16;
    const DType type = format == WeightFormat::bf16 ? DType::bf16 : DType::f16;
    const int out = random_int(200, i % 4 == 3 ? 4000 : 900);
    LinearSpec s = spec(16 * random_int(4, 150), i % 6 ? out / 8 * 8 : out, format, type, i % 4 < 2 ? DType::f32 : type);
    s.bias = coin(), s.residual = i % 4 == 0;
    if (!s.residual) s.activation = std::array{Activation::none, Activation::gelu_tanh, Activation::quick_gelu, Activation::silu, Activation::gelu_erf}[static_cast<size_t>(random_int(0, 4))];
    check_linear(s, random_int(i % 5 ? 512 : 65, i % 4 == 3 ? 1500 : 800), "stream " + std::to_string(cut) + " " + std::to_string(s.in) + "x" + std::to_string(s.out));
  }
  kernels::cuda::hopper_forced_stream() = 0;
  for (int width : {1024, 1152}) {
    const int rows = (width == 1024 ? 577 : 729) * (coin() ? 8 : 1), ffn = width == 1024 ? 4096 : 4304;
    for (const auto& [in, out] : {std::pair{width, 3 * width}, {width, width}, {width, ffn}, {ffn, width}}) {
      LinearSpec s = spec(in, out, WeightFormat::f16, DType::f16, out == width ? DType::f32 : DType::f16);
      s.bias = true, s.residual = out == width, s.activation = out == ffn ? Activation::gelu_tanh : Activation::none;
      check_linear(s, rows, "towers " + std::to_string(in) + "x" + std::to_string(out));
    }
  }
}

TEST(Linear, W8Exact) {
  for (int rows : {1, 5, 17, 90, 300}) {
    LinearSpec s = spec(8 * random_int(10, 100), random_int(10, 200), WeightFormat::w8, DType::f16, DType::f32);
    check_linear(s, rows, "w8a16", "cuda/sm80/dense");
  }
}

TEST(Linear, W8A8) {
  int i = 0;
  for (int rows : row_counts) {
    LinearSpec s = spec(16 * random_int(1, 60), random_int(1, 300), WeightFormat::w8, DType::f16, i % 2 ? DType::f16 : DType::f32);
    s.activations = ActivationFormat::int8_row;
    if (i % 3 == 0) s.static_scale = 3.0f / 127;
    // A norm would leave values within rounding of a step of the int8 grid: without one the integers are exact.
    s.bias = i % 2; s.activation = i % 5 == 3 ? Activation::relu : i % 5 == 4 ? Activation::gelu_erf : Activation::none;
    if (i % 4 == 2) { s.residual = true; s.y_type = DType::f32; }
    if (i % 7 == 5) { s.gated = true; s.residual = false; s.out += s.out % 2; s.activation = Activation::silu; }
    ++i;
    check_linear(s, rows, "w8a8 " + std::to_string(s.in) + "x" + std::to_string(s.out), "cuda/sm80/w8a8");
  }
}

TEST(Linear, GenericTakesOddWidths) {
  for (WeightFormat format : {WeightFormat::f32, WeightFormat::f16, WeightFormat::bf16})
    for (int rows : {1, 3, 40}) {
      LinearSpec s = spec(random_int(1, 40) * 2 + 1, random_int(1, 60), format, DType::f32, DType::f32);
      s.bias = true;
      check_linear(s, rows, "generic", "cuda/generic");
    }
}

}  // namespace
}  // namespace hearth::gpu_test
