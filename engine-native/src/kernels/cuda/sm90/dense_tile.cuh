// What the dense linears of Hopper share: the size of a tile, the type of its sums, the loop of their products, and how the
// sums leave the wgmma.
#pragma once

#include <cstdint>

#include "kernels/cuda/sm90/wgmma_tiles.cuh"

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

// Where a ring of STAGES stages is read next.
struct RingPlace {
  int stage = 0, parity = 0;
  template <int STAGES> __device__ __forceinline__ void advance() {
    if (++stage == STAGES) { stage = 0; parity ^= 1; }
  }
};

// d[64, BN] = the products of the next `count` stages of the ring, by one of two warpgroups (`half`: which 64 rows of x). A
// stage is [x: 128 rows][weights: BN rows] of 128 bytes of k, swizzled; each is given back when the product after it is
// under way, so that there is always one in the tensor cores.
template <class T, int BN, int STAGES>
__device__ __forceinline__ void multiply_stages(uint32_t ring, uint32_t full0, uint32_t empty0, int half, int count, RingPlace& at, typename Sum<T>::type (&d)[BN / 2]) {
  constexpr int x_bytes = dense_bm * dense_row_bytes, stage_bytes = x_bytes + BN * dense_row_bytes;
  int previous = -1;
#pragma unroll 1
  for (int k = 0; k < count; ++k) {
    barrier_wait(full0 + at.stage * 8, at.parity);
    const uint32_t x = ring + at.stage * stage_bytes + half * (x_bytes / 2), w = ring + at.stage * stage_bytes + x_bytes;
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) WgmmaShared<T, BN>::run(d, descriptor(x + i * 32), descriptor(w + i * 32), k > 0 || i > 0);
    wgmma_commit();
    wgmma_wait<1>();
    if (previous >= 0 && threadIdx.x % 128 == 0) barrier_arrive(empty0 + previous * 8);
    previous = at.stage;
    at.advance<STAGES>();
  }
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < BN / 2; ++i) settle(d[i]);
  if (threadIdx.x % 128 == 0) barrier_arrive(empty0 + previous * 8);
}

}  // namespace hearth::kernels::cuda
