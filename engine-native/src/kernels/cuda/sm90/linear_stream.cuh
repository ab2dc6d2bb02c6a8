// Dense linears of many rows on Hopper that end in the copy engine (tile_store.cuh): y[rows, out] = x[rows, k] W[out, k]^T. A
// tile is 128 rows by BN outputs; a warp feeds a ring of shared-memory stages, two warpgroups multiply 64 rows each, and the
// ring fills with the next tile while this one's results are stored.
#pragma once

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/sm90/dense_tile.cuh"
#include "kernels/cuda/sm90/tile_store.cuh"

namespace hearth::kernels::cuda {

// How tiles are dealt to blocks.
//   whole  block b takes tiles b, b + blocks, ...: neighbours read the same rows and weights at the same time, which the L2
//          serves best
//   split  the two blocks of a cluster share one tile's K and finish half of its columns each: few tiles, a long K
//   even   every block gets the same share of the products, wherever tiles end ("stream-K", Osama et al. 2023), for when
//          whole tiles leave most of a wave idle. Tiles in a row, each as blocks of 64 k, are cut into one range a block. A
//          block that begins inside a tile leaves those sums in memory first; the block that has the tile's first k adds
//          them, in the order of k, when it is done: they have been there for long.
// Results are the same bits every run.
enum class StreamDeal { whole, split, even };

// What a block multiplies: blocks of k `k` ... of tile `tile`, `count` of them, then the next.
template <StreamDeal DEAL> struct StreamWalk {
  static constexpr bool even = DEAL == StreamDeal::even, split = DEAL == StreamDeal::split;
  int blocks_k, tiles, tile, k = 0, count, range = 0, unit = 0, last = 0;
  __device__ __forceinline__ StreamWalk(const HopperArgs& args, int k_step) {
    blocks_k = (args.linear.k_padded + k_step - 1) / k_step;
    tiles = args.m_tiles * args.n_tiles;
    tile = split ? blockIdx.x / 2 : blockIdx.x;
    count = blocks_k;
    if (split) {
      const int half = blocks_k / 2, part = blockIdx.x % 2;
      k = part * half;
      count = part ? blocks_k - half : half;
    } else if (even) {
      // A range waits for later ranges, so those go to blocks that start earlier.
      range = gridDim.x - 1 - blockIdx.x;
      unit = begin(range);
      last = begin(range + 1);
      place();
    }
  }
  __device__ __forceinline__ bool live() const { return even ? unit < last : tile < tiles; }
  __device__ __forceinline__ void advance() {
    if (even) {
      unit += count;
      place();
    } else {
      tile += split ? tiles : gridDim.x;
    }
  }
  // Where range r begins, in blocks of k. Nothing shorter than an eighth of a tile is cut off.
  __device__ __forceinline__ int begin(int r) const {
    const int at = static_cast<int>(static_cast<int64_t>(tiles) * blocks_k * r / gridDim.x), in_tile = at % blocks_k, slack = blocks_k / 8;
    return in_tile <= slack ? at - in_tile : in_tile >= blocks_k - slack ? at - in_tile + blocks_k : at;
  }
  __device__ __forceinline__ void place() {
    tile = unit / blocks_k;
    k = unit - tile * blocks_k;
    count = min(blocks_k - k, last - unit);
  }
};

// The loading thread: a box of rows and one of weights for every stage.
template <class T, int BN, int STAGES, StreamDeal DEAL> __device__ __forceinline__ void load_stream(const HopperArgs& args, uint32_t ring, uint32_t full0, uint32_t empty0) {
  constexpr int x_bytes = dense_bm * dense_row_bytes, stage_bytes = x_bytes + BN * dense_row_bytes, k_step = dense_row_bytes / sizeof(T);
  RingPlace at;
  bool first = true;
  for (StreamWalk<DEAL> walk(args, k_step); walk.live(); walk.advance()) {
    int m, n, early = 0;
    banded_tile(walk.tile, args.n_tiles, args.m_tiles, n, m);
    auto weights = [&](int stage, int k) {
      barrier_expect(full0 + stage * 8, stage_bytes);
      tensor_copy(ring + stage * stage_bytes + x_bytes, &args.weight, (walk.k + k) * k_step, n * BN, full0 + stage * 8);
    };
    if (first) {
      // Weights that no kernel writes need not wait for the kernels before this one.
#pragma unroll 1
      for (; args.weights_constant && early < STAGES && early < walk.count; ++early) weights(early, early);
      wait_predecessors();
      first = false;
    }
#pragma unroll 1
    for (int k = 0; k < walk.count; ++k) {
      if (k >= early) {
        barrier_wait(empty0 + at.stage * 8, at.parity ^ 1);
        weights(at.stage, k);
      }
      tensor_copy(ring + at.stage * stage_bytes, &args.x, (walk.k + k) * k_step, m * dense_bm, full0 + at.stage * 8);
      at.advance<STAGES>();
    }
  }
}

// ---- Even shares ----

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
// Adds what the ranges after this one have of the walk's tile.
template <int BN> __device__ __forceinline__ void add_parts(const HopperArgs& args, const StreamWalk<StreamDeal::even>& walk, int group, float (&d)[BN / 2]) {
  const int end = (walk.tile + 1) * walk.blocks_k;
  for (int r = walk.range + 1, done = walk.unit + walk.count; done < end; ++r) {
    const int upto = min(walk.begin(r + 1), end);
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

// ---- Two blocks that share K ----

// 16 bytes to a block of the cluster, counted by the barrier there: nobody needs a fence.
__device__ __forceinline__ void send16(uint32_t address, uint32_t barrier, const float* v) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%2, %3, %4, %5}, [%1];"
               ::"r"(address), "r"(barrier), "r"(__float_as_uint(v[0])), "r"(__float_as_uint(v[1])), "r"(__float_as_uint(v[2])), "r"(__float_as_uint(v[3])) : "memory");
}
// Bytes of the half of a tile's sums that a block gets from the other.
template <int BN> constexpr int stream_half_bytes = dense_bm * BN / 2 * 4;

// half = the sums of this block's half of the columns, its own and the other's, which `arrived` counts in at `from`. A sum of
// two is the same in either order.
template <int BN> __device__ __forceinline__ void exchange_halves(uint32_t from, uint32_t arrived, const float (&d)[BN / 2], float (&half)[BN / 4]) {
  const int rank = blockIdx.x % 2;
  const uint32_t mine = (threadIdx.x - 128) * 16, to = address_in(from + mine, rank ^ 1), barrier = address_in(arrived, rank ^ 1);
#pragma unroll
  for (int i = 0; i < BN / 16; ++i) {
    float give[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float low = d[4 * i + j], high = d[BN / 4 + 4 * i + j];
      half[4 * i + j] = rank ? high : low;
      give[j] = rank ? low : high;
    }
    send16(to + i * 4096, barrier, give);
  }
  barrier_wait(arrived, 0);
#pragma unroll
  for (int i = 0; i < BN / 16; ++i) {
    float more[4];
    shared_load_floats(from + mine + i * 4096, more);
#pragma unroll
    for (int j = 0; j < 4; ++j) half[4 * i + j] += more[j];
  }
}

template <class T, int BN, int STAGES, StreamDeal DEAL> __device__ __forceinline__ void linear_stream(const HopperArgs& args) {
  constexpr bool split = DEAL == StreamDeal::split;
  constexpr int stage_bytes = (dense_bm + BN) * dense_row_bytes, k_step = dense_row_bytes / sizeof(T);
  constexpr int columns = split ? BN / 2 : BN, stages_of_warp = split ? 2 : store_stages<BN>;
  extern __shared__ __align__(1024) char shared[];  // [STAGES][x, weights], the other block's sums, the warps' stages
  __shared__ __align__(8) uint64_t full[STAGES], empty[STAGES], arrived;
  const uint32_t ring = (shared_address(shared) + 1023) & ~1023u, full0 = shared_address(full), empty0 = shared_address(empty), arrived0 = shared_address(&arrived);
  if (threadIdx.x == 0) {
    prefetch_map(&args.x);
    prefetch_map(&args.weight);
    prefetch_map(&args.y);
    for (int i = 0; i < STAGES; ++i) { barrier_init(full0 + i * 8, 1); barrier_init(empty0 + i * 8, 2); }
    if (split) {
      barrier_init(arrived0, 1);
      barrier_expect(arrived0, stream_half_bytes<BN>);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  if (split) cluster_sync();
  else __syncthreads();
  launch_dependents();
  const int group = threadIdx.x / 128;
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) load_stream<T, BN, STAGES, DEAL>(args, ring, full0, empty0);
    __syncwarp();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int warp = threadIdx.x / 32 - 4;
    const uint32_t theirs = ring + STAGES * stage_bytes, mine = theirs + (split ? stream_half_bytes<BN> : 0) + warp * stages_of_warp * store_stage_bytes;
    RingPlace at;
    int turn = 0;
    wait_predecessors();
#pragma unroll 1
    for (StreamWalk<DEAL> walk(args, k_step); walk.live(); walk.advance()) {
      int m, n;
      banded_tile(walk.tile, args.n_tiles, args.m_tiles, n, m);
      const int row = m * dense_bm + warp * 16, column = n * BN + (split && blockIdx.x % 2 ? columns : 0);
      TileBias<columns> bias;
      bias.load(args.linear, column);
      float d[BN / 2];
      multiply_stages<T, BN, STAGES>(ring, full0, empty0, group - 1, walk.count, at, d);
      if constexpr (split) {
        float half[BN / 4];
        exchange_halves<BN>(theirs, arrived0, d, half);
        store_tile<T, columns, stages_of_warp>(args, mine, half, bias, row, column, turn);
      } else {
        if constexpr (DEAL == StreamDeal::even) {
          if (walk.k > 0) {
            leave_part<BN>(args, walk.range, group - 1, d);
            continue;
          }
          add_parts<BN>(args, walk, group - 1, d);
        }
        store_tile<T, BN, stages_of_warp>(args, mine, d, bias, row, column, turn);
      }
    }
    if (threadIdx.x % 32 == 0) stores_done();
    __syncwarp();
  }
  // No block leaves while the other may send to it.
  if (split) cluster_sync();
}

}  // namespace hearth::kernels::cuda
