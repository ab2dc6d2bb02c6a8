// Linears: every weight and activation format, fusions, and the row counts at which implementations change their path.
#include "ops/describe.h"
#include "ops/registry.h"
#include "verify/check.h"

namespace hearth::verify {
namespace {

using namespace ops;

constexpr int row_counts[] = {1, 2, 3, 5, 8, 9, 17, 33, 64, 65, 130, 257};

// Random weights in the canonical form.
struct Weights {
  std::vector<uint8_t> data, zeros;
  std::vector<float> scales;
  HostLinear host;
};

void fill_dense(Weights& w, const LinearSpec& s, Bench& bench) {
  const DType type = s.weight == WeightFormat::f16 ? DType::f16 : s.weight == WeightFormat::bf16 ? DType::bf16 : DType::f32;
  const size_t count = static_cast<size_t>(s.in) * s.out;
  w.data.resize(count * size_of(type));
  for (size_t i = 0; i < count; ++i) {
    const float v = bench.normal() * 0.05f;
    const uint16_t narrow = type == DType::f16 ? to_half(v).bits : to_bfloat16(v).bits;
    if (type == DType::f32) std::memcpy(&w.data[i * 4], &v, 4);
    else std::memcpy(&w.data[i * 2], &narrow, 2);
  }
}

Weights random_weights(const LinearSpec& s, Bench& bench) {
  Weights w;
  const bool w4 = s.weight == WeightFormat::w4, w8 = s.weight == WeightFormat::w8;
  if (!w4 && !w8) fill_dense(w, s, bench);
  else w.data.resize(static_cast<size_t>(s.in) * s.out / (w4 ? 2 : 1));
  if (w4) for (auto& byte : w.data) byte = static_cast<uint8_t>(bench.integer(0, 255));
  if (w8) for (auto& byte : w.data) byte = static_cast<uint8_t>(static_cast<int8_t>(bench.integer(-127, 127)));
  const int scales = w4 ? s.out * (s.in / s.group) : w8 ? s.out : 0;
  for (int i = 0; i < scales; ++i) {  // exact in 16 bits, as files have them
    w.scales.push_back(to_float(to_half((0.5f + bench.integer(0, 1000) / 1000.0f) * 0.01f)));
    if (w4 && !s.symmetric) w.zeros.push_back(static_cast<uint8_t>(bench.integer(0, 15)));
  }
  w.host = {s.in, s.out, s.weight, s.group, s.symmetric, w.data.data(), w.scales.empty() ? nullptr : w.scales.data(),
            w.zeros.empty() ? nullptr : w.zeros.data()};
  return w;
}

double activate(Activation a, double x) {
  switch (a) {
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case Activation::gelu_erf: return 0.5 * x * (1 + std::erf(x * 0.7071067811865476));
    case Activation::quick_gelu: return x / (1 + std::exp(-1.702 * x));
    case Activation::relu: return std::max(x, 0.0);
    case Activation::none: break;
  }
  return x;
}

// The norm that a linear may have fused, in double.
std::vector<float> normed(const LinearSpec& s, const Array& x, int rows, int64_t stride, const Array& weight) {
  std::vector<float> out(static_cast<size_t>(rows) * s.in);
  for (int r = 0; r < rows; ++r) {
    double mean = 0, square = 0;
    for (int i = 0; i < s.in && s.norm == NormKind::layer; ++i) mean += x.get(r * stride + i) / static_cast<double>(s.in);
    for (int i = 0; i < s.in; ++i) square += std::pow(x.get(r * stride + i) - mean, 2);
    const double factor = 1 / std::sqrt(square / s.in + s.norm_epsilon);
    for (int i = 0; i < s.in; ++i) {
      const double v = x.get(r * stride + i);
      out[static_cast<size_t>(r) * s.in + i] = static_cast<float>(s.norm == NormKind::none ? v : (v - mean) * factor * weight.get(i));
    }
  }
  return out;
}

// W * norm(x) + bias by the reference kernel: [rows, out] f32, before gate, activation and residual.
std::vector<float> reference_product(const LinearSpec& s, const Weights& w, const std::vector<float>& x, int rows, const float* bias, Bench& bench) {
  const LinearImplementation& reference = *linear_implementations(device::DeviceKind::cpu).back();
  LinearSpec plain = s;
  plain.norm = NormKind::none, plain.gated = plain.residual = false, plain.activation = Activation::none;
  plain.x_type = plain.y_type = DType::f32;
  std::vector<uint8_t> packed(reference.packed_bytes(plain));
  reference.pack(plain, w.host, 0, s.out, packed.data());
  std::vector<uint8_t> scratch(reference.workspace_bytes ? reference.workspace_bytes(plain, rows, bench.info()) : 0);
  std::vector<float> y(static_cast<size_t>(rows) * s.out);
  LinearParams p;
  p.rows = rows, p.x = x.data(), p.x_stride = s.in, p.weight = packed.data(), p.bias = bias;
  p.y = y.data(), p.y_stride = s.out, p.workspace = scratch.data();
  reference.run(plain, p, bench.reference);
  return y;
}

// GPUs hand activations to the tensor cores in 16 bits, whatever type they come in: 2^-12 of each on average.
double allowed_error(const LinearSpec& s, device::DeviceKind kind) {
  const bool bf16 = s.x_type == DType::bf16 || s.y_type == DType::bf16 || s.weight == WeightFormat::bf16;
  const bool f16 = s.x_type == DType::f16 || s.y_type == DType::f16;
  const bool rounded = kind == device::DeviceKind::cuda && s.weight != WeightFormat::f32;
  return bf16 ? 1e-2 : f16 ? 2e-3 : rounded ? 1e-3 : 2e-4;
}

std::string name_of(const LinearSpec& s, int rows) { return describe(s) + ", " + std::to_string(rows) + " rows"; }

void run_case(const LinearImplementation& linear, const LinearSpec& s, int rows, Bench& bench, Check& check) {
  const Weights w = random_weights(s, bench);
  const int columns = s.gated ? s.out / 2 : s.out;
  const int64_t x_stride = s.in + 8, y_stride = columns + 5;
  Array weight(bench, DType::u8, linear.packed_bytes(s)), x(bench, s.x_type, rows * x_stride), norm_weight(bench, DType::f32, s.in);
  Array bias(bench, DType::f32, s.out), y(bench, s.y_type, rows * y_stride);
  Array scratch(bench, DType::u8, linear.workspace_bytes ? linear.workspace_bytes(s, rows, bench.info()) : 1);
  if (!bench.status) return;
  linear.pack(s, w.host, 0, s.out, weight.host());
  weight.upload(), x.normal(), norm_weight.normal(), bias.normal(), scratch.poison();
  if (s.residual) y.normal();
  else y.poison();
  const Array& before = y;
  std::vector<double> residual(y.count(), 0);
  for (size_t i = 0; i < y.count() && s.residual; ++i) residual[i] = before.get(i);
  const auto product = reference_product(s, w, normed(s, x, rows, x_stride, norm_weight), rows, s.bias ? bias.host_as<float>() : nullptr, bench);

  LinearParams p;
  p.rows = rows, p.x = x.twin(), p.x_stride = x_stride, p.norm_weight = norm_weight.twin_as<float>(), p.weight = weight.twin();
  p.bias = bias.twin_as<float>(), p.y = y.twin(), p.y_stride = y_stride, p.workspace = scratch.twin();
  linear.run(s, p, bench.device.stream());
  y.download();
  Error error;
  for (int r = 0; r < rows; ++r) {
    const float* raw = product.data() + static_cast<size_t>(r) * s.out;
    for (int c = 0; c < columns; ++c) {
      const double value = activate(s.activation, raw[c]) * (s.gated ? raw[columns + c] : 1.0);
      error.add(y.get(r * y_stride + c), value + residual[r * y_stride + c]);
    }
    for (int64_t c = columns; c < y_stride && !s.residual; ++c)
      if (!std::isnan(y.get(r * y_stride + c))) return fail(check, name_of(s, rows) + ": wrote past the end of a row");
  }
  record(check, error, allowed_error(s, bench.device.info().kind), name_of(s, rows));
}

struct Format { WeightFormat weight; ActivationFormat activations; };
constexpr Format formats[] = {{WeightFormat::w4, ActivationFormat::exact},    {WeightFormat::w4, ActivationFormat::int8_group},
                              {WeightFormat::w8, ActivationFormat::exact},    {WeightFormat::w8, ActivationFormat::int8_row},
                              {WeightFormat::f16, ActivationFormat::exact},   {WeightFormat::bf16, ActivationFormat::exact},
                              {WeightFormat::f32, ActivationFormat::exact}};

LinearSpec random_spec(const Format& format, int turn, Bench& bench) {
  LinearSpec s;
  s.weight = format.weight, s.activations = format.activations;
  s.group = format.weight == WeightFormat::w4 ? (turn % 3 == 0 ? 128 : turn % 3 == 1 ? 64 : 32) : 0;
  s.in = 128 * bench.integer(1, 9), s.out = 2 * bench.integer(4, 150);
  s.symmetric = s.group && turn % 5 == 4;
  if (bench.cuda() && format.weight != WeightFormat::f32) {
    const bool bf16 = format.weight == WeightFormat::bf16 || (format.weight == WeightFormat::w4 && turn % 2);
    s.x_type = s.y_type = bf16 ? DType::bf16 : DType::f16;
  }
  s.bias = turn % 2;
  if (turn % 4 == 1) s.gated = true, s.activation = Activation::silu;
  else if (turn % 4 == 2) s.residual = true, s.y_type = DType::f32;
  else if (turn % 4 == 3) s.activation = static_cast<Activation>(bench.integer(1, 5));
  // A norm before int8 would put values within rounding of a step of the grid: they may fall either way.
  if (format.activations == ActivationFormat::exact && turn % 3 == 0)
    s.norm = turn % 2 ? NormKind::layer : NormKind::rms, s.norm_epsilon = 1e-5f, s.x_type = DType::f32;
  return s;
}

// The fullest form of the random spec that the implementation takes: fusions are what chains do without.
bool simplify_until_taken(const LinearImplementation& linear, LinearSpec& s, const device::DeviceInfo& info, std::string& reason) {
  const DType narrow = s.y_type == DType::f32 ? s.x_type : s.y_type;
  for (int step = 0; step < 5; ++step) {
    const char* no = linear.declines(s, info);
    if (!no) return true;
    if (step == 0) reason = no;
    if (step == 0 && s.norm != NormKind::none) s.norm = NormKind::none, s.x_type = s.weight == WeightFormat::f32 ? DType::f32 : narrow;
    if (step == 1 && s.gated) s.gated = false, s.activation = Activation::none;
    if (step == 2) s.residual = false, s.y_type = narrow;
    if (step == 3) s.x_type = s.y_type = DType::f32;
  }
  return false;
}

}  // namespace

std::vector<Check> check_linears(Bench& bench) {
  std::vector<Check> checks;
  const auto& reference = *linear_implementations(device::DeviceKind::cpu).back();
  for (const LinearImplementation* linear : linear_implementations(bench.info().kind)) {
    if (linear == &reference) continue;
    Check check{"linear", std::string(linear->name) + " (" + linear->layout + ")", 0, 0, 0, {}, {}};
    std::string reason;
    int turn = 0;
    for (const Format& format : formats)
      for (int rows : row_counts) {
        LinearSpec s = random_spec(format, turn++, bench);
        if (!bench.status) return checks;
        if (simplify_until_taken(*linear, s, bench.info(), reason)) run_case(*linear, s, rows, bench, check);
      }
    if (check.cases == 0 && check.passed()) check.skipped = reason;
    checks.push_back(std::move(check));
  }
  return checks;
}

}  // namespace hearth::verify
