// The linear of last resort: any width and format, f32 arithmetic. Layout "plain": values, then f32 scales, then zero
// points, in source order.
#include <cstring>

#include "kernels/cuda/host/linear_shared.h"

namespace hearth::kernels::cuda {

using namespace ops;
using device::CudaKernel;
using device::CudaStream;
using device::DeviceInfo;
using device::Stream;

extern const device::CudaModule module_linear;

namespace {

const CudaKernel generic_kernel{&module_linear, "linear_generic_kernel"};

size_t row_bytes(const LinearSpec& s) {
  switch (s.weight) {
    case WeightFormat::f32: return static_cast<size_t>(s.in) * 4;
    case WeightFormat::w4: return static_cast<size_t>(s.in) / 2;
    case WeightFormat::w8: return s.in;
    default: return static_cast<size_t>(s.in) * 2;
  }
}
size_t group_count(const LinearSpec& s) { return s.weight == WeightFormat::w4 ? static_cast<size_t>(s.in) / s.group : s.weight == WeightFormat::w8 ? 1 : 0; }
size_t scales_at(const LinearSpec& s) { return aligned(row_bytes(s) * s.out); }
size_t zeros_at(const LinearSpec& s) { return scales_at(s) + aligned(group_count(s) * s.out * 4); }

const char* declines(const LinearSpec& s, const DeviceInfo& info) {
  if (!is_cuda(info)) return "not a CUDA device";
  if (s.norm != NormKind::none) return "norm is a separate op here";
  if (!is_float(s.x_type) || !is_float(s.y_type)) return "types are f32, f16 or bf16";
  if (s.residual && s.y_type != DType::f32) return "residual needs f32 output";
  if (s.activations != ActivationFormat::exact) return "only exact activations";
  if (s.weight == WeightFormat::w4 && (s.group <= 0 || s.in % s.group != 0 || s.in % 2 != 0)) return "the group must divide the width";
  return nullptr;
}

size_t packed_bytes(const LinearSpec& s) { return zeros_at(s) + (s.weight == WeightFormat::w4 ? aligned(group_count(s) * s.out) : 0); }

void pack(const LinearSpec& s, const HostLinear& from, int begin, int end, void* to) {
  char* base = static_cast<char*>(to);
  const size_t bytes = row_bytes(s), groups = group_count(s), count = static_cast<size_t>(end - begin);
  std::memcpy(base + bytes * begin, static_cast<const char*>(from.data) + bytes * begin, bytes * count);
  if (groups) std::memcpy(base + scales_at(s) + groups * begin * 4, from.scales + groups * begin, groups * count * 4);
  if (s.weight != WeightFormat::w4) return;
  if (from.zeros) std::memcpy(base + zeros_at(s) + groups * begin, from.zeros + groups * begin, groups * count);
  else std::memset(base + zeros_at(s) + groups * begin, 8, groups * count);
}

void run(const LinearSpec& s, const LinearParams& p, Stream& base) {
  CudaStream& stream = device::cuda(base);
  if (p.rows <= 0) return;
  GenericLinearArgs g{};
  g.linear = linear_arguments(s, p, stream);
  g.linear.groups = static_cast<int>(group_count(s));
  g.linear.group = s.group;
  const char* weight = static_cast<const char*>(p.weight);
  g.linear.weight_scale = reinterpret_cast<const float*>(weight + scales_at(s));
  g.linear.group_scales = g.linear.weight_scale;
  g.linear.group_zeros = reinterpret_cast<const uint8_t*>(weight + zeros_at(s));
  g.format = s.weight == WeightFormat::w4 ? 1 : s.weight == WeightFormat::w8 ? 2 : 0;
  g.weight_type = s.weight == WeightFormat::f16 ? type_f16 : s.weight == WeightFormat::bf16 ? type_bf16 : type_f32;
  const int outputs = s.gated ? s.out / 2 : s.out;
  constexpr int rows_max = 65535;
  for (int row = 0; row < p.rows; row += rows_max) {
    GenericLinearArgs piece = g;
    piece.linear.rows = std::min(rows_max, p.rows - row);
    piece.linear.x = static_cast<const char*>(p.x) + row * p.x_stride * size_of(s.x_type);
    piece.linear.y = static_cast<char*>(p.y) + row * p.y_stride * size_of(s.y_type);
    stream.launch(generic_kernel, {divide_up(outputs, 8), piece.linear.rows, 1, 256}, piece);
  }
}

}  // namespace

const LinearImplementation linear_generic{{"cuda/generic", declines, run, nullptr}, "plain", packed_bytes, pack, 1};

}  // namespace hearth::kernels::cuda
