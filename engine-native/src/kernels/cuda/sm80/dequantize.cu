// w4-mma tiles to plain [tiles * 16, k_padded] rows of f16 or bf16, for the prefill path that multiplies them as a dense
// matrix. One warp a 16 x 64 block, through shared memory so that the rows are written 128 bytes at a time.
#include "kernels/cuda/common.cuh"

using namespace hearth::kernels::cuda;

template <class T> __device__ __forceinline__ void dequantize(const DequantizeArgs& p) {
  __shared__ __align__(16) char staging[8][16 * 144];
  launch_dependents();
  wait_predecessors();  // the scratch may still be read by an earlier kernel
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int64_t blocks_k = p.k_padded / 64, total = p.tiles * blocks_k, unit_groups = 128 / p.group;
  char* mine = staging[warp];
  for (int64_t block = static_cast<int64_t>(blockIdx.x) * 8 + warp; block < total; block += static_cast<int64_t>(gridDim.x) * 8) {
    const int64_t tile = block / blocks_k, k64 = block % blocks_k;
    const char* unit = static_cast<const char*>(p.weight) + (tile * (blocks_k / 2) + k64 / 2) * p.unit_bytes;
    const uint4 v = __ldcs(reinterpret_cast<const uint4*>(unit + k64 % 2 * 512) + lane);
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t group = (k64 % 2 * 64 + i * 16) / p.group;
      uint32_t zero_low, zero_high, scale_low, scale_high, a[4];
      zero_constants<T>(*reinterpret_cast<const uint8_t*>(unit + 1024 + unit_groups * 32 + group * 8 + g), zero_low, zero_high);
      scale_constants<T>(*reinterpret_cast<const uint32_t*>(unit + 1024 + group * 32 + g * 4), scale_low, scale_high);
      decode4<T>(words[i], zero_low, zero_high, a);
      scale4<T>(a, scale_low, scale_high);
#pragma unroll
      for (int j = 0; j < 4; ++j) *reinterpret_cast<uint32_t*>(mine + (g + j % 2 * 8) * 144 + i * 32 + j / 2 * 16 + t * 4) = a[j];
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = i * 4 + lane / 8;
      const uint4 line = *reinterpret_cast<const uint4*>(mine + row * 144 + lane % 8 * 16);
      *reinterpret_cast<uint4*>(static_cast<uint16_t*>(p.y) + (tile * 16 + row) * p.k_padded + k64 * 64 + lane % 8 * 8) = line;
    }
    __syncwarp();
  }
}
extern "C" __global__ void __launch_bounds__(256) dequantize_w4_f16(const DequantizeArgs p) { dequantize<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) dequantize_w4_bf16(const DequantizeArgs p) { dequantize<__nv_bfloat16>(p); }
