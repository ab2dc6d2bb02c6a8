// Products of 4-bit weights summed in f16, 64 k at a time, and from there in f32: GeForce cards multiply twice as fast into f16
// sums as into f32 (Ada's whitepaper: RTX 4090 330 and 165 TFLOP/s). Weights are scaled below one, so that such a sum stays
// below the sum of its activations: what overflows is some 64 activations of tens of thousands. Its error is that of four
// roundings to f16, of the size of those that activations and decoded weights have anyway.
#pragma once

#include "kernels/cuda/common.cuh"

namespace hearth::kernels::cuda {

constexpr float half_unscale = 16;  // what decoded weights stay below

// m16n8k16 (common.cuh): c[0] = row g at columns 2t, 2t + 1; c[1] = row g + 8. `fresh`: begun at zero.
template <bool fresh> __device__ __forceinline__ void mma_half(uint32_t (&c)[2], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t from[2] = {fresh ? 0 : c[0], fresh ? 0 : c[1]};
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%8,%9};"
      : "=r"(c[0]), "=r"(c[1]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(from[0]), "r"(from[1]));
}

// Of scales twice in a word.
__device__ __forceinline__ void scale_half(uint32_t& scales) {
  auto& both = reinterpret_cast<__half2&>(scales);
  both = __hmul2(both, __float2half2_rn(1 / half_unscale));
}

// d += what `sums` stand for.
__device__ __forceinline__ void add_half_sums(float (&d)[4], const uint32_t (&sums)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float2 v = __half22float2(reinterpret_cast<const __half2&>(sums[i]));
    d[2 * i] = fmaf(half_unscale, v.x, d[2 * i]);
    d[2 * i + 1] = fmaf(half_unscale, v.y, d[2 * i + 1]);
  }
}

// One product of a fragment. `first`: of its 64 k; the sums of the 64 before go to `d`.
template <bool HALF, class T>
__device__ __forceinline__ void multiply(float (&d)[4], uint32_t (&sums)[2], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool first) {
  if constexpr (!HALF) {
    mma<T>(d, a, b0, b1);
  } else if (first) {
    add_half_sums(d, sums);
    mma_half<true>(sums, a, b0, b1);
  } else {
    mma_half<false>(sums, a, b0, b1);
  }
}

}  // namespace hearth::kernels::cuda
