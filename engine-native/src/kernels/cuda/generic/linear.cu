// The linear that takes any shape and weight format, in f32 arithmetic: one warp an output, plain [out, in] weights.
// Slow on purpose where nothing faster applies; never wrong.
#include "kernels/cuda/common.cuh"

using namespace hearth::kernels::cuda;

__device__ __forceinline__ float weight_at(const GenericLinearArgs& p, int64_t row, int k) {
  const LinearArgs& l = p.linear;
  if (p.format == 2) return static_cast<const int8_t*>(l.weight)[row * l.in + k] * l.weight_scale[row];
  if (p.format == 0) {
    const int64_t at = row * l.in + k;
    if (p.weight_type == type_f32) return static_cast<const float*>(l.weight)[at];
    const unsigned short bits = static_cast<const unsigned short*>(l.weight)[at];
    return p.weight_type == type_f16 ? __half2float(__ushort_as_half(bits)) : __uint_as_float(static_cast<uint32_t>(bits) << 16);
  }
  const uint8_t byte = static_cast<const uint8_t*>(l.weight)[(row * l.in + k) / 2];
  const int q = k % 2 ? byte >> 4 : byte & 15;
  const int64_t group = row * l.groups + k / l.group;
  return (q - l.group_zeros[group]) * l.group_scales[group];
}

extern "C" __global__ void __launch_bounds__(256) linear_generic_kernel(const GenericLinearArgs p) {
  launch_dependents();
  wait_predecessors();
  const LinearArgs& l = p.linear;
  const int outputs = l.gated ? l.out / 2 : l.out;
  const int column = blockIdx.x * 8 + threadIdx.x / 32, row = blockIdx.y, lane = threadIdx.x % 32;
  if (column >= outputs) return;
  float sum = 0, up = 0;
  for (int k = lane; k < l.in; k += 32) {
    const float x = load(l.x, l.x_type, row * l.x_stride + k);
    sum += x * weight_at(p, column, k);
    if (l.gated) up += x * weight_at(p, column + outputs, k);
  }
  sum = warp_sum(sum);
  if (l.gated) up = warp_sum(up);
  if (lane) return;
  if (l.gated) linear_store_gated(l, row, column, sum, up);
  else linear_store(l, row, column, sum);
}
