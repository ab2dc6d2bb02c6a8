// Linear: the reference. Every weight and activation format, bias, activation, residual; norm and gate are left to the
// chain of ops/bind.cpp. Sums in double, integer sums in int32 a group, exactly as the int8 kernels must have them.
//
// Layout "plain": the canonical form, one output row after another: w4 rows are [in/2 bytes][in/group f32 scales]
// [in/group zero points, padded to 4]; w8 rows [in int8, padded to 4][f32 scale]; dense rows as they are.
#include <cstring>

#include "device/cpu_stream.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/layouts.h"
#include "kernels/cpu/scalar.h"

namespace hearth::kernels::cpu::reference {
namespace {

using device::DeviceInfo;
using device::Stream;
using namespace ops;

size_t to_four(size_t n) { return (n + 3) / 4 * 4; }

DType dense_type(WeightFormat format) {
  return format == WeightFormat::f16 ? DType::f16 : format == WeightFormat::bf16 ? DType::bf16 : DType::f32;
}

struct PlainRow {
  size_t values = 0, scales = 0, zeros = 0, bytes = 0;  // offsets in a row, and its size
  explicit PlainRow(const LinearSpec& s) {
    if (s.weight == WeightFormat::w4) {
      const size_t groups = static_cast<size_t>(s.in) / s.group;
      scales = to_four(static_cast<size_t>(s.in) / 2);
      zeros = scales + 4 * groups;
      bytes = zeros + to_four(groups);
    } else if (s.weight == WeightFormat::w8) {
      scales = to_four(s.in);
      bytes = scales + 4;
    } else {
      bytes = size_of(dense_type(s.weight)) * s.in;
    }
  }
};

const char* declines(const LinearSpec& s, const DeviceInfo&) {
  if (s.norm != NormKind::none) return "norm is a separate op here";
  if (s.gated) return "gate is a separate op here";
  if (!is_float(s.x_type) || !is_float(s.y_type)) return "types are f32, f16 or bf16";
  if (s.residual && s.y_type != DType::f32) return "residual needs f32 output";
  const bool dense = s.weight != WeightFormat::w4 && s.weight != WeightFormat::w8;
  if (dense && s.activations != ActivationFormat::exact) return "dense weights take exact activations";
  if (s.weight == WeightFormat::w4) {
    if (s.group != 32 && s.group != 64 && s.group != 128) return "w4 groups are 32, 64 or 128";
    if (s.in % s.group != 0) return "the group must divide the width";
    if (s.activations == ActivationFormat::int8_row) return "w4 takes activations exact or int8 per group";
  }
  if (s.weight == WeightFormat::w8 && s.activations == ActivationFormat::int8_group) {
    return "w8 takes activations exact or int8 per row";
  }
  return nullptr;
}

size_t packed_bytes(const LinearSpec& s) { return PlainRow(s).bytes * s.out; }

void pack(const LinearSpec& s, const HostLinear& from, int begin, int end, void* to) {
  const PlainRow layout(s);
  const size_t groups = s.weight == WeightFormat::w4 ? static_cast<size_t>(s.in) / s.group : 1;
  const size_t value_bytes = s.weight == WeightFormat::w4 ? static_cast<size_t>(s.in) / 2
                             : s.weight == WeightFormat::w8 ? static_cast<size_t>(s.in) : layout.bytes;
  for (int row = begin; row < end; ++row) {
    uint8_t* out = static_cast<uint8_t*>(to) + layout.bytes * row;
    std::memcpy(out, static_cast<const uint8_t*>(from.data) + value_bytes * row, value_bytes);
    if (layout.scales == 0) continue;
    std::memcpy(out + layout.scales, from.scales + groups * row, 4 * groups);
    if (s.weight != WeightFormat::w4) continue;
    if (from.zeros == nullptr) std::memset(out + layout.zeros, 8, groups);
    else std::memcpy(out + layout.zeros, from.zeros + groups * row, groups);
  }
}

// A row of activations as the product needs it.
struct Activations {
  const float* exact;   // [in]
  const int8_t* q;      // [in]
  const float* scale;   // [in / activation_span, rounded up] or [1]
};

double dot_dense(const LinearSpec& s, const uint8_t* w, const float* x) {
  const DType type = dense_type(s.weight);
  double sum = 0;
  for (int i = 0; i < s.in; ++i) sum += static_cast<double>(load(w, type, i)) * x[i];
  return sum;
}

int nibble(const uint8_t* w, int i) { return (w[i / 2] >> (i % 2 * 4)) & 15; }

double dot_w4(const LinearSpec& s, const uint8_t* w, const PlainRow& layout, const Activations& a) {
  const auto* scales = reinterpret_cast<const float*>(w + layout.scales);
  const int span = activation_span(s);
  double sum = 0;
  for (int g = 0; g < s.in / s.group; ++g) {
    const int zero = w[layout.zeros + g];
    if (s.activations == ActivationFormat::int8_group) {
      int32_t dot = 0;
      for (int i = g * s.group; i < (g + 1) * s.group; ++i) dot += (nibble(w, i) - zero) * a.q[i];
      sum += static_cast<double>(dot) * scales[g] * a.scale[g * s.group / span];
    } else {
      double dot = 0;
      for (int i = g * s.group; i < (g + 1) * s.group; ++i) dot += static_cast<double>(nibble(w, i) - zero) * a.exact[i];
      sum += dot * scales[g];
    }
  }
  return sum;
}

double dot_w8(const LinearSpec& s, const uint8_t* w, const PlainRow& layout, const Activations& a) {
  const auto* values = reinterpret_cast<const int8_t*>(w);
  const float scale = *reinterpret_cast<const float*>(w + layout.scales);
  if (s.activations == ActivationFormat::int8_row) {
    int64_t dot = 0;
    for (int i = 0; i < s.in; ++i) dot += static_cast<int32_t>(values[i]) * a.q[i];
    return static_cast<double>(dot) * scale * a.scale[0];
  }
  double dot = 0;
  for (int i = 0; i < s.in; ++i) dot += static_cast<double>(values[i]) * a.exact[i];
  return dot * scale;
}

// Workspace a row: f32 copy, int8 copy, scales.
struct RowScratch {
  size_t q, scale, bytes;
  explicit RowScratch(const LinearSpec& s) {
    q = aligned(4 * static_cast<size_t>(s.in));
    scale = q + aligned(s.in);
    bytes = scale + aligned(4 * (s.group > 0 ? static_cast<size_t>(s.in) / s.group : 1) + 4);
  }
};

size_t workspace_bytes(const LinearSpec& s, int max_rows, const DeviceInfo&) { return RowScratch(s).bytes * max_rows; }

void quantise(const LinearSpec& s, const float* x, int8_t* q, float* scale) {
  if (s.activations == ActivationFormat::exact) return;
  const int span = s.activations == ActivationFormat::int8_group ? activation_span(s) : s.in;
  for (int begin = 0; begin < s.in; begin += span) {
    float amax = 0;
    const int end = begin + span < s.in ? begin + span : s.in;
    for (int i = begin; i < end; ++i) amax = std::fmax(amax, std::fabs(x[i]));
    const Int8Scale by = s.activations == ActivationFormat::int8_row && s.static_scale > 0
                             ? int8_static_scale(s.static_scale) : int8_scale(amax);
    scale[begin / span] = by.scale;
    for (int i = begin; i < end; ++i) q[i] = to_int8(x[i], by.inverse);
  }
}

void run(const LinearSpec& s, const LinearParams& p, Stream& stream) {
  const PlainRow layout(s);
  const RowScratch scratch(s);
  auto* base = static_cast<uint8_t*>(p.workspace);
  ThreadPool& pool = device::pool_of(stream);
  pool.parallel([&](int worker, int size) {
    const Range rows = share(p.rows, worker, size);
    for (int row = rows.begin; row < rows.end; ++row) {
      uint8_t* mine = base + scratch.bytes * row;
      auto* x = reinterpret_cast<float*>(mine);
      const void* from = row_of(p.x, s.x_type, p.x_stride, row);
      for (int i = 0; i < s.in; ++i) x[i] = load(from, s.x_type, i);
      quantise(s, x, reinterpret_cast<int8_t*>(mine + scratch.q), reinterpret_cast<float*>(mine + scratch.scale));
    }
    pool.barrier();
    const Range outs = share(s.out, worker, size);
    for (int row = 0; row < p.rows; ++row) {
      const uint8_t* mine = base + scratch.bytes * row;
      const Activations a{reinterpret_cast<const float*>(mine), reinterpret_cast<const int8_t*>(mine + scratch.q),
                          reinterpret_cast<const float*>(mine + scratch.scale)};
      void* y = row_of(p.y, s.y_type, p.y_stride, row);
      for (int o = outs.begin; o < outs.end; ++o) {
        const uint8_t* w = static_cast<const uint8_t*>(p.weight) + layout.bytes * o;
        double sum = s.weight == WeightFormat::w4 ? dot_w4(s, w, layout, a)
                     : s.weight == WeightFormat::w8 ? dot_w8(s, w, layout, a) : dot_dense(s, w, a.exact);
        if (s.bias) sum += p.bias[o];
        float v = activate(s.activation, static_cast<float>(sum));
        if (s.residual) v += load(y, s.y_type, o);
        store(y, s.y_type, o, v);
      }
    }
  });
}

}  // namespace

const LinearImplementation linear{{"cpu/reference", declines, run, workspace_bytes}, "plain", packed_bytes, pack, 1};

}  // namespace hearth::kernels::cpu::reference
