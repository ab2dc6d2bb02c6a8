// What the dense linears of Hopper share: the size of a tile, the type of its sums, and how they leave the wgmma.
#pragma once

#include <cstdint>

namespace hearth::kernels::cuda {

constexpr int dense_bm = 128, dense_row_bytes = 128;  // rows of x a tile takes; bytes of k a stage takes

// Nothing that uses the sums may move above the wait for them.
__device__ __forceinline__ void settle(float& v) { asm volatile("" : "+f"(v)::"memory"); }
__device__ __forceinline__ void settle(int& v) { asm volatile("" : "+r"(v)::"memory"); }

// A conversion in place: the compiler would do all of a tile's ahead of the loop over its chunks, and spill.
__device__ __forceinline__ float as_float(float v) { return v; }
__device__ __forceinline__ float as_float(int v) {
  float f;
  asm volatile("cvt.rn.f32.s32 %0, %1;" : "=f"(f) : "r"(v));
  return f;
}

template <class T> struct Sum { using type = float; };
template <> struct Sum<int8_t> { using type = int; };

}  // namespace hearth::kernels::cuda
