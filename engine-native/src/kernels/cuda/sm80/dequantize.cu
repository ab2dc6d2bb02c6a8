// w4-mma tiles to plain [tiles * 16, k_padded] rows of f16 or bf16, for the prefill path that multiplies them as a dense
// matrix. One warp a 16 x 64 block; each lane writes 8 consecutive elements at a time.
#include "kernels/cuda/common.cuh"

using namespace hearth::kernels::cuda;

template <class T> __device__ __forceinline__ void dequantize(const DequantizeArgs& p) {
  launch_dependents();
  wait_predecessors();  // the scratch may still be read by an earlier kernel
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int64_t blocks_k = p.k_padded / 64, total = p.tiles * blocks_k;
  for (int64_t block = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32; block < total; block += static_cast<int64_t>(gridDim.x) * (blockDim.x / 32)) {
    const int64_t tile = block / blocks_k, k64 = block % blocks_k;
    const uint4 v = __ldcs(reinterpret_cast<const uint4*>(static_cast<const char*>(p.weight) + block * 512) + lane);
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t group = tile * p.groups + (k64 * 64 + half * 32) / p.group;
      uint32_t zero_low, zero_high, scale_low, scale_high, a[4], b[4];
      zero_constants<T>(p.zeros[group * 8 + g], zero_low, zero_high);
      scale_constants<T>(reinterpret_cast<const uint32_t*>(p.scales)[group * 8 + g], scale_low, scale_high);
      decode4<T>(words[half * 2], zero_low, zero_high, a);
      scale4<T>(a, scale_low, scale_high);
      decode4<T>(words[half * 2 + 1], zero_low, zero_high, b);
      scale4<T>(b, scale_low, scale_high);
      uint16_t* y = static_cast<uint16_t*>(p.y) + (tile * 16 + g) * p.k_padded + k64 * 64 + half * 32 + t * 8;
      *reinterpret_cast<uint4*>(y) = make_uint4(a[0], a[2], b[0], b[2]);
      *reinterpret_cast<uint4*>(y + 8 * static_cast<int64_t>(p.k_padded)) = make_uint4(a[1], a[3], b[1], b[3]);
    }
  }
}
extern "C" __global__ void __launch_bounds__(256) dequantize_w4_f16(const DequantizeArgs p) { dequantize<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) dequantize_w4_bf16(const DequantizeArgs p) { dequantize<__nv_bfloat16>(p); }
