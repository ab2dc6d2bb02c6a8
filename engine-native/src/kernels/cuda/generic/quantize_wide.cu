// Rows to int8 with one scale each, what a prefill W8A8 linear reads: a row stays in a block's registers, so that it is read
// once. The rule of kernels/cpu/scalar.h: scale = amax / 127, q = round to even of x * (127 / amax).
#include "kernels/cuda/common.cuh"

using namespace hearth::kernels::cuda;

namespace {

constexpr int quantize_threads = 256;

template <class Combine> __device__ __forceinline__ float reduce(float v, float* slot, Combine combine) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v = combine(v, __shfl_xor_sync(0xffffffffu, v, d));
  if (threadIdx.x % 32 == 0) slot[threadIdx.x / 32] = v;
  __syncthreads();
  v = slot[0];
#pragma unroll
  for (int i = 1; i < quantize_threads / 32; ++i) v = combine(v, slot[i]);
  return v;
}

__device__ __forceinline__ float4 load_four(const QuantizeArgs& p, int64_t at) {
  if (p.x_type == type_f32) return __ldcg(reinterpret_cast<const float4*>(static_cast<const float*>(p.x) + at));
  const uint2 raw = __ldcg(reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(p.x) + at));
  const float2 a = p.x_type == type_f16 ? unpack2<__half>(raw.x) : unpack2<__nv_bfloat16>(raw.x), b = p.x_type == type_f16 ? unpack2<__half>(raw.y) : unpack2<__nv_bfloat16>(raw.y);
  return make_float4(a.x, a.y, b.x, b.y);
}

// PIECES: runs of four values that a thread holds.
template <int PIECES> __device__ __forceinline__ void quantize_wide(const QuantizeArgs& p) {
  __shared__ float slots[3][quantize_threads / 32];
  launch_dependents();
  wait_predecessors();
  const int64_t row = blockIdx.x;
  const int pieces = p.width / 4, pieces_padded = p.width_padded / 4;
  auto sum_of = [](float a, float b) { return a + b; };
  float v[PIECES][4];
#pragma unroll
  for (int i = 0; i < PIECES; ++i) {
    const int at = i * quantize_threads + threadIdx.x;
    const float4 x = at < pieces ? load_four(p, row * p.x_stride + at * 4) : make_float4(0, 0, 0, 0);
    v[i][0] = x.x; v[i][1] = x.y; v[i][2] = x.z; v[i][3] = x.w;
  }
  if (p.norm != norm_none) {
    float mean = 0, sum = 0;
    if (p.norm == norm_layer) {
#pragma unroll
      for (int i = 0; i < PIECES; ++i) sum += (v[i][0] + v[i][1]) + (v[i][2] + v[i][3]);
      mean = reduce(sum, slots[0], sum_of) / p.width;
      sum = 0;
    }
#pragma unroll
    for (int i = 0; i < PIECES; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        v[i][j] -= mean;
        if (i * quantize_threads + static_cast<int>(threadIdx.x) < pieces) sum += v[i][j] * v[i][j];
      }
    const float inverse = rsqrtf(reduce(sum, slots[1], sum_of) / p.width + p.epsilon);
#pragma unroll
    for (int i = 0; i < PIECES; ++i) {
      const int at = i * quantize_threads + threadIdx.x;
#pragma unroll
      for (int j = 0; j < 4; ++j) v[i][j] = at < pieces ? v[i][j] * inverse * __ldg(p.norm_weight + at * 4 + j) + (p.norm_bias ? __ldg(p.norm_bias + at * 4 + j) : 0.f) : 0.f;
    }
  }
  float inverse = p.static_scale > 0 ? __fdiv_rn(1.f, p.static_scale) : 0.f;
  if (p.static_scale <= 0) {
    float largest = 0;
#pragma unroll
    for (int i = 0; i < PIECES; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) largest = fmaxf(largest, fabsf(v[i][j]));
    largest = reduce(largest, slots[2], [](float a, float b) { return fmaxf(a, b); });
    inverse = largest > 1e-36f ? __fdiv_rn(127.f, largest) : 0.f;
    if (threadIdx.x == 0) p.scale[row] = largest > 1e-36f ? __fdiv_rn(largest, 127.f) : 0.f;
  }
  uint32_t* q = reinterpret_cast<uint32_t*>(p.q + row * p.width_padded);
#pragma unroll
  for (int i = 0; i < PIECES; ++i) {
    const int at = i * quantize_threads + threadIdx.x;
    if (at >= pieces_padded) continue;
    uint32_t packed = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) packed |= (static_cast<uint32_t>(static_cast<int>(fminf(fmaxf(rintf(v[i][j] * inverse), -127.f), 127.f))) & 255u) << (8 * j);
    q[at] = packed;
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(quantize_threads) quantize_wide_4096(const QuantizeArgs p) { quantize_wide<4>(p); }
extern "C" __global__ void __launch_bounds__(quantize_threads) quantize_wide_12288(const QuantizeArgs p) { quantize_wide<12>(p); }
