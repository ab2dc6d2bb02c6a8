// Dense linears of many rows on Hopper that end in the copy engine (tile_store.cuh), in one of two orders. Whole tiles: block
// b takes tiles b, b + blocks, ...; neighbours read the same rows and weights at the same time, which the L2 serves best. Or
// every block gets the same share of the products, wherever tiles end ("stream-K", Osama et al. 2023): where whole tiles leave
// most multiprocessors idle at the end. Then tiles of 128 rows by BN outputs in a row, each as blocks of 64 k, are cut into one range a block. A block that begins inside a tile leaves those sums in memory first; the block that has the tile's first k adds them, in the order
// of k, when it is done: they have been there for long, and results are the same bits every run. Without this, 148 tiles
// on 132 multiprocessors take as long as 264.
#pragma once

#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/sm90/dense_tile.cuh"
#include "kernels/cuda/sm90/tile_store.cuh"

namespace hearth::kernels::cuda {

// Where range `range` of `ranges` begins, in (tile, block of k). Nothing shorter than an eighth of a tile is cut off.
__device__ __forceinline__ int stream_begin(int range, int ranges, int units, int blocks_k) {
  const int at = static_cast<int>(static_cast<int64_t>(units) * range / ranges), k = at % blocks_k, slack = blocks_k / 8;
  return k <= slack ? at - k : k >= blocks_k - slack ? at - k + blocks_k : at;
}

struct StreamPlan {
  int blocks_k, units, ranges, range, first, last, stride;  // stride: tiles from a block's tile to its next
  __device__ __forceinline__ StreamPlan(const HopperArgs& args, int k_step) {
    blocks_k = (args.linear.k_padded + k_step - 1) / k_step;
    units = args.m_tiles * args.n_tiles * blocks_k;
    ranges = gridDim.x;
    stride = args.whole_tiles ? gridDim.x : 1;
    if (args.whole_tiles) {
      range = 0;
      first = blockIdx.x * blocks_k;
      last = units;
      return;
    }
    // A range waits for later ranges, so those go to blocks that start earlier.
    range = ranges - 1 - blockIdx.x;
    first = begin(range);
    last = begin(range + 1);
  }
  __device__ __forceinline__ int begin(int r) const { return stream_begin(r, ranges, units, blocks_k); }
};

__device__ __forceinline__ void stream_group_sync(int group) { asm volatile("bar.sync %0, 128;" ::"r"(group) : "memory"); }

// A warpgroup's sums of the rest of a tile whose beginning another block has, [range][group][BN / 8][128 threads] float4.
template <int BN> __device__ __forceinline__ float4* stream_part(const HopperArgs& args, int range, int group) {
  return reinterpret_cast<float4*>(args.linear.partial) + (static_cast<int64_t>(range * 2 + group) * (BN / 8)) * 128 + threadIdx.x % 128;
}
template <int BN> __device__ __forceinline__ void leave_part(const HopperArgs& args, int range, int group, const float (&d)[BN / 2]) {
  float4* to = stream_part<BN>(args, range, group);
#pragma unroll
  for (int i = 0; i < BN / 8; ++i) __stcg(to + i * 128, make_float4(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]));
  __threadfence();
  stream_group_sync(group + 1);
  if (threadIdx.x % 128 == 0) asm volatile("st.release.gpu.global.s32 [%0], 1;" ::"l"(args.linear.counters + range * 2 + group) : "memory");
}
// Adds what the ranges after this one have of a tile; `done` and `end`: units that are multiplied, and the tile's end.
template <int BN> __device__ __forceinline__ void add_parts(const HopperArgs& args, const StreamPlan& plan, int group, int done, int end, float (&d)[BN / 2]) {
  for (int r = plan.range + 1; done < end; ++r) {
    const int upto = min(plan.begin(r + 1), end);
    if (upto <= done) continue;
    done = upto;
    if (threadIdx.x % 128 == 0) {
      int32_t* flag = args.linear.counters + r * 2 + group;
      int there = 0;
      while (!there) asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(there) : "l"(flag) : "memory");
      *flag = 0;  // as the next kernel wants it
    }
    stream_group_sync(group + 1);
    const float4* from = stream_part<BN>(args, r, group);
#pragma unroll
    for (int i = 0; i < BN / 8; ++i) {
      const float4 v = __ldcg(from + i * 128);
      d[4 * i] += v.x; d[4 * i + 1] += v.y; d[4 * i + 2] += v.z; d[4 * i + 3] += v.w;
    }
  }
}

template <class T, int BN, int STAGES> __device__ __forceinline__ void linear_stream(const HopperArgs& args) {
  constexpr int x_bytes = dense_bm * dense_row_bytes, w_bytes = BN * dense_row_bytes, stage_bytes = x_bytes + w_bytes;
  constexpr int k_step = dense_row_bytes / sizeof(T);
  extern __shared__ __align__(1024) char shared[];  // [STAGES][x, weights], then the warps' stages
  __shared__ __align__(8) uint64_t full[STAGES], empty[STAGES];
  const LinearArgs& p = args.linear;
  const uint32_t ring = (shared_address(shared) + 1023) & ~1023u, full0 = shared_address(full), empty0 = shared_address(empty);
  if (threadIdx.x == 0) {
    prefetch_map(&args.x);
    prefetch_map(&args.weight);
    prefetch_map(&args.y);
    for (int i = 0; i < STAGES; ++i) { barrier_init(full0 + i * 8, 1); barrier_init(empty0 + i * 8, 2); }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  launch_dependents();
  const StreamPlan plan(args, k_step);
  const int group = threadIdx.x / 128;
  RingPlace at;
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) {
      int tile = plan.first / plan.blocks_k, k = plan.first % plan.blocks_k, m, n, early = 0;
      banded_tile(tile, args.n_tiles, args.m_tiles, n, m);
      // Weights that no kernel writes need not wait for the kernels before this one.
      for (; args.weights_constant && early < STAGES && plan.first + early < plan.last && k + early < plan.blocks_k; ++early) {
        barrier_expect(full0 + early * 8, stage_bytes);
        tensor_copy(ring + early * stage_bytes + x_bytes, &args.weight, (k + early) * k_step, n * BN, full0 + early * 8);
      }
      wait_predecessors();
      for (int unit = plan.first; unit < plan.last;) {
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
        ++unit;
        if (++k == plan.blocks_k) {
          k = 0;
          tile += plan.stride;
          unit += (plan.stride - 1) * plan.blocks_k;
          banded_tile(tile, args.n_tiles, args.m_tiles, n, m);
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int warp = threadIdx.x / 32 - 4;
    const uint32_t mine = ring + STAGES * stage_bytes + warp * store_bytes_per_warp;
    int turn = 0;
    wait_predecessors();
    for (int unit = plan.first; unit < plan.last;) {
      const int tile = unit / plan.blocks_k, k0 = unit - tile * plan.blocks_k, count = min(plan.blocks_k - k0, plan.last - unit);
      int m, n;
      banded_tile(tile, args.n_tiles, args.m_tiles, n, m);
      TileBias<BN> bias;
      bias.load(p, n * BN);
      float d[BN / 2];
      multiply_stages<T, BN, STAGES>(ring, full0, empty0, group - 1, count, at, d);
      unit += count;
      if (k0 > 0) {
        leave_part<BN>(args, plan.range, group - 1, d);
      } else {
        add_parts<BN>(args, plan, group - 1, unit, (tile + 1) * plan.blocks_k, d);
        store_tile<T, BN>(args, mine, d, bias, m * dense_bm + warp * 16, n * BN, turn);
      }
      unit += (plan.stride - 1) * plan.blocks_k;
    }
    if (threadIdx.x % 32 == 0) stores_done();
  }
}

}  // namespace hearth::kernels::cuda
