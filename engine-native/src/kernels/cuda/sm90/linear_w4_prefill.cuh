// W4A16 linears of many rows on Hopper. Weights are decoded in registers and are wgmma's A operand (64 outputs a
// warpgroup), activations come by TMA and are B: nothing is decoded to memory. A block is a loading warp and two
// multiplying warpgroups, 128 outputs by BN rows; it goes from tile to tile, so that its rings fill with the next tile
// while this one's results are stored. Decoding 64 k takes a fraction of the product's time and overlaps it.
#pragma once

#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/hopper_params.h"
#include "kernels/cuda/ring_reads.cuh"
#include "kernels/cuda/sm90/wgmma_tiles.cuh"

namespace hearth::kernels::cuda {

// A bulk copy whose source other blocks read too.
__device__ __forceinline__ void bulk_copy_plain(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

constexpr int w4_prefill_units = 8;  // 16-output tiles of a block

template <class T, bool G128, int BN, int X_STAGES, int W_STAGES>
__device__ __forceinline__ void linear_w4_prefill(const HopperArgs& args) {
  const LinearArgs& p = args.linear;
  constexpr int x_bytes = BN * 128;
  const int unit_bytes = G128 ? 1072 : p.unit_bytes, w_bytes = w4_prefill_units * unit_bytes, w_stride = (w_bytes + 127) / 128 * 128;
  extern __shared__ __align__(1024) char shared[];  // activations [X_STAGES], weights [W_STAGES], the warps' stages
  __shared__ __align__(8) uint64_t x_full[X_STAGES], x_empty[X_STAGES], w_full[W_STAGES], w_empty[W_STAGES];
  const uint32_t x_ring = (shared_address(shared) + 1023) & ~1023u, w_ring = x_ring + X_STAGES * x_bytes;
  const uint32_t x_full0 = shared_address(x_full), x_empty0 = shared_address(x_empty), w_full0 = shared_address(w_full), w_empty0 = shared_address(w_empty);
  const int thread = threadIdx.x;
  if (thread == 0) {
    prefetch_map(&args.x);
    for (int i = 0; i < X_STAGES; ++i) { barrier_init(x_full0 + i * 8, 1); barrier_init(x_empty0 + i * 8, 2); }
    for (int i = 0; i < W_STAGES; ++i) { barrier_init(w_full0 + i * 8, 1); barrier_init(w_empty0 + i * 8, 8); }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  launch_dependents();
  const int tiles = args.m_tiles * args.n_tiles, units = p.k_padded / 128;

  if (thread < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    const int64_t tile_bytes = static_cast<int64_t>(units) * unit_bytes;
    if (thread == 0) {  // weights: nobody writes them, so nothing need be waited for
      const uint64_t policy = evict_first_policy();
      int stage = 0, parity = 1;
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int m, n;
        banded_tile(tile, args.m_tiles, args.n_tiles, m, n);
        const int first = m * w4_prefill_units, count = min(w4_prefill_units, p.tiles - first);
        const char* from = static_cast<const char*>(p.weight) + first * tile_bytes;
        for (int unit = 0; unit < units; ++unit, from += unit_bytes) {
          barrier_wait(w_empty0 + stage * 8, parity);
          barrier_expect(w_full0 + stage * 8, count * unit_bytes);
          for (int i = 0; i < count; ++i) {
            if (args.n_tiles > 1) bulk_copy_plain(w_ring + stage * w_stride + i * unit_bytes, from + i * tile_bytes, unit_bytes, w_full0 + stage * 8);
            else bulk_copy(w_ring + stage * w_stride + i * unit_bytes, from + i * tile_bytes, unit_bytes, w_full0 + stage * 8, policy);
          }
          if (++stage == W_STAGES) { stage = 0; parity ^= 1; }
        }
      }
    } else if (thread == 32) {
      wait_predecessors();
      int stage = 0, parity = 1;
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int m, n;
        banded_tile(tile, args.m_tiles, args.n_tiles, m, n);
        for (int k = 0; k < 2 * units; ++k) {
          barrier_wait(x_empty0 + stage * 8, parity);
          barrier_expect(x_full0 + stage * 8, x_bytes);
          tensor_copy(x_ring + stage * x_bytes, &args.x, k * 64, n * BN, x_full0 + stage * 8);
          if (++stage == X_STAGES) { stage = 0; parity ^= 1; }
        }
      }
    }
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  wait_predecessors();
  const int warp = thread / 32 - 4, lane = thread % 32, g = lane / 4;
  const uint32_t mine = w_ring + W_STAGES * w_stride + warp * turn_bytes;
  int x_stage = 0, x_parity = 0, w_stage = 0, w_parity = 0;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    float d[BN / 2];
#pragma unroll
    for (int i = 0; i < BN / 2; ++i) d[i] = 0;
    int previous = -1;
    for (int u = 0; u < units; ++u) {
      barrier_wait(w_full0 + w_stage * 8, w_parity);
      const uint32_t unit = w_ring + w_stage * w_stride + warp * unit_bytes;
      uint32_t a[8][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4 packed = shared_load16(unit + half * 512 + lane * 16);
        const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
        uint32_t read = packed.x;
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          const int group = G128 ? 0 : (half * 64 + b * 32) / p.group, groups = G128 ? 1 : 128 / p.group;
          const uint32_t scales = shared_load4(unit + 1024 + group * 32 + g * 4), zeros = shared_load1(unit + 1024 + groups * 32 + group * 8 + g);
          uint32_t zero_low, zero_high, scale_low, scale_high;
          scale_constants<T>(scales, scale_low, scale_high);
          zero_constants<T>(zeros, zero_low, zero_high);
          read |= scales | zeros;
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            decode4<T>(words[b * 2 + i], zero_low, zero_high, a[half * 4 + b * 2 + i]);
            scale4<T>(a[half * 4 + b * 2 + i], scale_low, scale_high);
          }
        }
        if (half == 1) {
          __syncwarp();
          if (lane == 0) barrier_arrive(w_empty0 + w_stage * 8 + once_read(read, units));
          if (++w_stage == W_STAGES) { w_stage = 0; w_parity ^= 1; }
        }
        barrier_wait(x_full0 + x_stage * 8, x_parity);
        const uint32_t x = x_ring + x_stage * x_bytes;
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i) WgmmaRegisters<T, BN>::run(d, a[half * 4 + i], descriptor(x + i * 32));
        wgmma_commit();
        wgmma_wait<1>();  // the half before this one is done: its registers and its stage are free
        if (previous >= 0 && thread % 128 == 0) barrier_arrive(x_empty0 + previous * 8);
        previous = x_stage;
        if (++x_stage == X_STAGES) { x_stage = 0; x_parity ^= 1; }
      }
    }
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < BN / 2; ++i) asm volatile("" : "+f"(d[i])::"memory");
    if (thread % 128 == 0) barrier_arrive(x_empty0 + previous * 8);

    int m, n;
    banded_tile(tile, args.m_tiles, args.n_tiles, m, n);
    const int my_tile = m * w4_prefill_units + warp;
    if (my_tile < p.tiles) {
      const TurnedColumns columns(p, my_tile);
#pragma unroll 1
      for (int c = 0; c < BN / 32; ++c) {
        stage_turned<BN>(mine, d, c);
        __syncwarp();
        finish_turned<false>(p, mine, n * BN + c * 32, my_tile, columns);
        __syncwarp();
      }
    }
  }
}

}  // namespace hearth::kernels::cuda
