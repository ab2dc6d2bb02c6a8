// Dense linears of many rows on Hopper: y[rows, out] = x[rows, k] W[out, k]^T by TMA and wgmma, 16-bit or int8. One
// warpgroup's thread feeds a ring of shared-memory stages, two warpgroups multiply 64 rows each; blocks are persistent, so
// the ring fills with the next tile while this one's results are stored.
#pragma once

#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/hopper_params.h"
#include "kernels/cuda/sm90/dense_tile.cuh"

namespace hearth::kernels::cuda {

// The part of a warp's sums that belongs to 64-column chunk c, staged; a switch, because registers have no index.
template <int BN, class S> __device__ __forceinline__ void stage_chunk(uint32_t stage, const S (&d)[BN / 2], int c) {
#pragma unroll
  for (int i = 0; i < BN / 64; ++i)
    if (i == c) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const S* v = d + i * 32 + j * 4;
        stage_fragment(stage, j, as_float(v[0]), as_float(v[1]), as_float(v[2]), as_float(v[3]));
      }
    }
}

// Threads a kernel is compiled for. The narrow ones are launched with 384 too, but claim the registers of 512: what they
// leave free lets the blocks of a norm before or after stand beside them.
constexpr int dense_bound(int bn) { return bn > 128 ? 384 : 512; }

template <class T, int BN, int STAGES> __device__ __forceinline__ void linear_wgmma(const HopperArgs& args) {
  constexpr int x_bytes = dense_bm * dense_row_bytes, w_bytes = BN * dense_row_bytes, stage_bytes = x_bytes + w_bytes;
  constexpr int k_step = dense_row_bytes / sizeof(T);
  extern __shared__ __align__(1024) char shared[];  // [STAGES][x, weights], then the warps' stages
  __shared__ __align__(8) uint64_t full[STAGES], empty[STAGES];
  const LinearArgs& p = args.linear;
  const uint32_t ring = (shared_address(shared) + 1023) & ~1023u, full0 = shared_address(full), empty0 = shared_address(empty);
  if (threadIdx.x == 0) {
    prefetch_map(&args.x);
    prefetch_map(&args.weight);
    for (int i = 0; i < STAGES; ++i) { barrier_init(full0 + i * 8, 1); barrier_init(empty0 + i * 8, 2); }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  launch_dependents();
  const int tiles = args.m_tiles * args.n_tiles, blocks_k = (p.k_padded + k_step - 1) / k_step;
  const int group = threadIdx.x / 128;
  RingPlace at;
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) {
      // Weights that no kernel writes need not wait for the kernels before this one.
      int early = 0, m, n;
      if (args.weights_constant && static_cast<int>(blockIdx.x) < tiles) {
        banded_tile(blockIdx.x, args.n_tiles, args.m_tiles, n, m);
        for (; early < STAGES && early < blocks_k; ++early) {
          barrier_expect(full0 + early * 8, stage_bytes);
          tensor_copy(ring + early * stage_bytes + x_bytes, &args.weight, early * k_step, n * BN, full0 + early * 8);
        }
      }
      wait_predecessors();
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        banded_tile(tile, args.n_tiles, args.m_tiles, n, m);
        for (int k = 0; k < blocks_k; ++k) {
          barrier_wait(empty0 + at.stage * 8, at.parity ^ 1);
          const uint32_t to = ring + at.stage * stage_bytes, barrier = full0 + at.stage * 8;
          if (early > 0) {
            --early;
          } else {
            barrier_expect(barrier, stage_bytes);
            tensor_copy(to + x_bytes, &args.weight, k * k_step, n * BN, barrier);
          }
          tensor_copy(to, &args.x, k * k_step, m * dense_bm, barrier);
          at.advance<STAGES>();
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(BN > 128 ? 232 : 168));
    wait_predecessors();
    const int warp = threadIdx.x / 32 - 4;
    const uint32_t mine = ring + STAGES * stage_bytes + warp * stage_bytes_per_warp;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      typename Sum<T>::type d[BN / 2];
      multiply_stages<T, BN, STAGES>(ring, full0, empty0, group - 1, blocks_k, at, d);
      int m, n;
      banded_tile(tile, args.n_tiles, args.m_tiles, n, m);
#pragma unroll 1
      for (int c = 0; c < BN / 64; ++c) {
        stage_chunk<BN>(mine, d, c);
        __syncwarp();
        finish_stage<sizeof(T) == 1>(p, mine, m * dense_bm + warp * 16, n * BN + c * 64);
        __syncwarp();
      }
    }
  }
}

}  // namespace hearth::kernels::cuda
