// Consecutive w4 linears of a step of 5 to 16 rows (o, gate·up, down, the next layer's qkv) as one kernel, so that the
// stream of weights never stops between them: one block a multiprocessor, blocks in pairs (clusters) that own consecutive
// tiles of every phase and share K. Of a block's fifteen warps
//   - one loads weights, which depend on nothing, through all phases as far as its ring reaches;
//   - one loads activations: of a phase once all blocks have counted the phase before as stored;
//   - twelve multiply by mma.sync, hand their sums to the block of the pair that finishes the tile, and store;
//   - one adds up the squares of a normed phase's rows. The norm's weights were multiplied in by whoever stored the
//     residual, its factor is applied to the sums, since the product is linear.
// Sums are always added in the order of k, so results are the same bits every time.
#pragma once

#include "kernels/cuda/chain_params.h"
#include "kernels/cuda/sm90/linear_w4_cluster.cuh"

namespace hearth::kernels::cuda {

constexpr int chain_stages_max = 32;  // of the ring: barriers
constexpr int chain_threads = (w4_chain_workers + 3) * 32;
constexpr int chain_finish_tiles = 24;  // that a block finishes in a phase

__device__ __forceinline__ int chain_load_acquire(const int32_t* p) {
  int v;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void chain_arrive(uint32_t barrier, uint32_t rank) {  // at a block of the cluster
  asm volatile("mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%0];" ::"r"(address_in(barrier, rank)) : "memory");
}
// 16 bytes to a block of the cluster, counted by the barrier there: nobody needs a fence.
__device__ __forceinline__ void chain_send16(uint32_t address, uint32_t barrier, float a, float b, float c, float d) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%2,%3,%4,%5}, [%1];"
      ::"r"(address), "r"(barrier), "r"(__float_as_uint(a)), "r"(__float_as_uint(b)), "r"(__float_as_uint(c)), "r"(__float_as_uint(d)) : "memory");
}
__device__ __forceinline__ float4 chain_load_sums(uint32_t address) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(address) : "memory");
  return v;
}

__device__ __forceinline__ void chain_copy3(uint32_t to, const void* map, int a, int b, int c, uint32_t barrier) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
      ::"r"(to), "l"(map), "r"(a), "r"(b), "r"(c), "r"(barrier) : "memory");
}

// Walks the stages of all phases and where in the ring each lies; all who load or read do this alike.
struct ChainCursor {
  int phase = -1, unit = 0, begin = 0, end = 0, left = 0, number = -1, size = 0, lap = 0;
  uint32_t at = 0;
  __device__ __forceinline__ bool next(const W4ChainArgs& a, int rank, int cluster) {
    at += size;
    ++number; --left;
    if (++unit == end) unit = begin;
    if (phase < 0) left = 0;
    while (left == 0) {
      if (++phase == a.phases) return false;
      const int units = a.phase[phase].units;
      begin = units * rank >> 1; end = units * (rank + 1) >> 1;
      left = end - begin;
      unit = begin + (left ? cluster % left : 0);  // so that not all read the same activations at a time
      size = a.phase[phase].stage_bytes;
    }
    if (at + size > static_cast<uint32_t>(a.ring_bytes)) { at = 0; ++lap; }
    return true;
  }
};

// Where a block is when, for measurements.
__device__ __forceinline__ void chain_mark(const W4ChainArgs& a, int phase, int point) {
  if (a.trace) a.trace[(blockIdx.x * (w4_chain_phases_max + 1) + phase) * 8 + point] = clock64();
}

// What a block keeps of a phase while it finishes tiles.
struct ChainShared {
  float factors[chain_finish_tiles * 16], norms[chain_finish_tiles * 16], row_factors[64];
  uint64_t full[chain_stages_max], empty[chain_stages_max], sums_full[2], sums_empty[2], row_factors_full;
  int issued;
};

// Stores eight rows of a tile: lane (g, t) has its rows g and g + 8 at activation rows row0 + 2 t and + 1, as v = {g at 2 t,
// g at 2 t + 1, g + 8 at 2 t, g + 8 at 2 t + 1}; `old` the residual there. A transposed pair leaves in four bytes.
template <class T, int N>
__device__ __forceinline__ void chain_store(const W4ChainPhase& p, int rows, int row0, int tile, const float (&v)[4], const float (&old)[4], float next_low, float next_high) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, row = row0 + g;  // of what is transposed
  if (p.gated) {
    const uint32_t pair = transpose8x8(pack2<T>(activate(v[0], p.activation) * v[2], activate(v[1], p.activation) * v[3]));
    if (row < rows) *reinterpret_cast<uint32_t*>(static_cast<T*>(p.y) + row * p.y_stride + tile * 8 + 2 * t) = pair;
    return;
  }
  if (!p.residual) {
    const uint32_t low = transpose8x8(pack2<T>(activate(v[0], p.activation), activate(v[1], p.activation)));
    const uint32_t high = transpose8x8(pack2<T>(activate(v[2], p.activation), activate(v[3], p.activation)));
    if (row >= rows) return;
    uint32_t* y = reinterpret_cast<uint32_t*>(static_cast<T*>(p.y) + row * p.y_stride + tile * 16 + 2 * t);
    y[0] = low;
    y[4] = high;
    return;
  }
  const int r = row0 + 2 * t;
  float* y = static_cast<float*>(p.y) + r * p.y_stride + tile * 16 + g;
  const float n[4] = {old[0] + activate(v[0], p.activation), old[1] + activate(v[1], p.activation), old[2] + activate(v[2], p.activation), old[3] + activate(v[3], p.activation)};
  if (r < rows) { y[0] = n[0]; y[8] = n[2]; }
  if (r + 1 < rows) { y[p.y_stride] = n[1]; y[p.y_stride + 8] = n[3]; }
  if (!p.next_norm) return;
  const uint32_t low = transpose8x8(pack2<T>(n[0] * next_low, n[1] * next_low)), high = transpose8x8(pack2<T>(n[2] * next_high, n[3] * next_high));
  float a = n[0] * n[0] + n[2] * n[2], b = n[1] * n[1] + n[3] * n[3];
#pragma unroll
  for (int i = 4; i < 32; i *= 2) {
    a += __shfl_xor_sync(0xffffffffu, a, i);
    b += __shfl_xor_sync(0xffffffffu, b, i);
  }
  if (g == 0) *reinterpret_cast<float2*>(p.next_squares + tile * N + r) = make_float2(a, b);
  if (row >= rows) return;
  uint32_t* to = reinterpret_cast<uint32_t*>(static_cast<T*>(p.next_x) + row * static_cast<int64_t>(p.out) + tile * 16 + 2 * t);
  to[0] = low;
  to[4] = high;
}

// The factors of a normed phase's rows: a lane has four rows of every slices-th tile; many loads at a time, as each takes a
// trip to the L2.
template <int N> __device__ __forceinline__ void chain_row_factors(const W4ChainPhase& p, float* to) {
  constexpr int lanes = N / 4, slices = 32 / lanes, abreast = 16;
  const int lane = threadIdx.x % 32, row = lane % lanes * 4;
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 1
  for (int tile0 = lane / lanes; tile0 < p.squares_tiles; tile0 += slices * abreast) {
    float4 v[abreast];
#pragma unroll
    for (int i = 0; i < abreast; ++i)
      v[i] = tile0 + i * slices < p.squares_tiles ? __ldcg(reinterpret_cast<const float4*>(p.squares + (tile0 + i * slices) * N + row)) : make_float4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < abreast; ++i) { sum.x += v[i].x; sum.y += v[i].y; sum.z += v[i].z; sum.w += v[i].w; }
  }
#pragma unroll
  for (int d = lanes; d < 32; d *= 2) {
    sum.x += __shfl_xor_sync(0xffffffffu, sum.x, d); sum.y += __shfl_xor_sync(0xffffffffu, sum.y, d);
    sum.z += __shfl_xor_sync(0xffffffffu, sum.z, d); sum.w += __shfl_xor_sync(0xffffffffu, sum.w, d);
  }
  if (lane >= lanes) return;
  to[row] = 16.f * rsqrtf(sum.x / p.width + p.norm_epsilon); to[row + 1] = 16.f * rsqrtf(sum.y / p.width + p.norm_epsilon);
  to[row + 2] = 16.f * rsqrtf(sum.z / p.width + p.norm_epsilon); to[row + 3] = 16.f * rsqrtf(sum.w / p.width + p.norm_epsilon);
}

// N: rows of the kernel. MT: tiles a warp holds sums for.
template <class T, int N, int MT>
__device__ __forceinline__ void linear_w4_chain(const W4ChainArgs& args) {
  constexpr int workers = w4_chain_workers;
  extern __shared__ __align__(1024) char shared[];
  __shared__ ChainShared own;
  uint32_t ring = (shared_address(shared) + 1023) & ~1023u, lane = threadIdx.x % 32;
  keep(ring); keep(lane);
  const uint32_t full0 = shared_address(own.full), empty0 = shared_address(own.empty), sums_full0 = shared_address(own.sums_full), sums_empty0 = shared_address(own.sums_empty),
                 row_factors_full = shared_address(&own.row_factors_full), issued = shared_address(&own.issued);
  const int thread = threadIdx.x, warp = thread / 32, rank = cluster_rank(), cluster = blockIdx.x / 2, blocks = gridDim.x;
  if (thread == 0) {
    chain_mark(args, w4_chain_phases_max, 0);
    for (int i = 0; i < chain_stages_max; ++i) { barrier_init(full0 + i * 8, 1); barrier_init(empty0 + i * 8, workers); }
    for (int i = 0; i < 2; ++i) { barrier_init(sums_full0 + i * 8, 1); barrier_init(sums_empty0 + i * 8, 2); }
    barrier_init(row_factors_full, 1);
    own.issued = 0;
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  launch_dependents();
  cluster_arrive();  // the other block's barriers are there before anyone touches them

  if (warp == workers) {  // weights
    if (lane == 0) {
      const uint64_t policy = evict_first_policy();
      ChainCursor head, tail;  // tail: the oldest stage not known to have been read
      tail.next(args, rank, cluster);
      int begun = -1, bytes = 0, tile = 0;
      const void* map = nullptr;
      while (head.next(args, rank, cluster)) {
        if (head.phase != begun) {
          begun = head.phase;
          chain_mark(args, begun, 7);
          const W4ChainPhase& p = args.phase[begun];
          const bool more = cluster < p.more;
          bytes = N * 256 + (p.some + more) * p.unit_bytes;
          tile = cluster * p.some + min(cluster, p.more);
          map = more ? &p.weight_more : &p.weight_few;
        }
        while (tail.number < head.number && (head.number - tail.number >= chain_stages_max || tail.lap + 1 < head.lap || (tail.lap < head.lap && head.at + head.size > tail.at))) {
          barrier_wait(empty0 + tail.number % chain_stages_max * 8, tail.number / chain_stages_max & 1);
          tail.next(args, rank, cluster);
        }
        const uint32_t barrier = full0 + head.number % chain_stages_max * 8;
        barrier_expect(barrier, bytes);
        tensor_copy3(ring + head.at + N * 256, map, 0, head.unit, tile, barrier, policy);
        asm volatile("st.volatile.shared.s32 [%0], %1;" ::"r"(issued), "r"(head.number + 1) : "memory");
      }
    }
    __syncwarp();
    cluster_wait();
  } else if (warp == workers + 1) {  // activations
    cluster_wait();
    wait_predecessors();
    if (lane == 0) {
      ChainCursor at;
      int ready = 0, there = 0;
      const void* map = &args.phase[0].x;
      chain_mark(args, w4_chain_phases_max, 1);
      while (at.next(args, rank, cluster)) {
        if (at.phase != ready) {
          ready = at.phase;
          map = &args.phase[ready].x;
          while (chain_load_acquire(args.counters + ready - 1) < blocks) {}
          asm volatile("fence.proxy.async;" ::: "memory");
          chain_mark(args, ready, 6);
        }
        while (there <= at.number) asm volatile("ld.volatile.shared.s32 %0, [%1];" : "=r"(there) : "r"(issued) : "memory");
        chain_copy3(ring + at.at, map, 0, 0, at.unit * 2, full0 + at.number % chain_stages_max * 8);
      }
    }
    __syncwarp();
  } else if (warp == workers + 2) {  // norms
    cluster_wait();
    wait_predecessors();
    for (int i = 1; i < args.phases; ++i) {
      if (!args.phase[i].squares) continue;
      if (lane == 0) while (chain_load_acquire(args.counters + i - 1) < blocks) {}
      __syncwarp();
      chain_row_factors<N>(args.phase[i], own.row_factors);
      __syncwarp();
      if (lane == 0) barrier_arrive(row_factors_full);
    }
  } else {
    cluster_wait();
    wait_predecessors();
    const uint32_t sums = ring + args.ring_bytes;
    ChainCursor stage;
    int exchanged = 0, normed = 0, waited0 = 0, waited1 = 0;
    for (int i = 0; i < args.phases; ++i) {
      const W4ChainPhase& p = args.phase[i];
      const int count = p.some + (cluster < p.more), first = cluster * p.some + min(cluster, p.more), columns = p.columns, parts = p.parts;
      const int part = warp / columns, tile0 = (warp - part * columns) * p.tiles_warp, finishes = (count - rank + 1) / 2;  // tiles 2 f + rank
      if (thread == 0) chain_mark(args, i, 0);
      for (int n = thread; n < finishes * 16; n += workers * 32) {
        const int at = (first + 2 * (n / 16) + rank) * 16 + n % 16;
        own.factors[n] = __ldg(p.factors + at);
        own.norms[n] = p.next_norm ? __ldg(p.next_norm + at) * 0.0625f : 0;
      }
      float d[MT][N / 2];
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int n = 0; n < N / 2; ++n) d[m][n] = 0;
      const int stages = (p.units * (rank + 1) >> 1) - (p.units * rank >> 1);
      auto walk = [&](auto tiles) {
        int turn = 0;
        for (int n = 0; n < stages; ++n) {
          stage.next(args, rank, cluster);
          if (turn == part) {
            const uint32_t index = stage.number % chain_stages_max * 8, x = ring + stage.at;
            barrier_wait(full0 + index, stage.number / chain_stages_max & 1);
            if (thread == 0 && n == 0) chain_mark(args, i, 1);
            if (tile0 < count) {
              w4_stage_mma<T, true, N, decltype(tiles)::value, MT, 1>(128, Unit<128>::bytes, x, x + N * 256, tile0, lane, count - 1, d);
            }
            __syncwarp();
            if (lane == 0) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(empty0 + index), "r"(parts) : "memory");
          }
          if (++turn == parts) turn = 0;
        }
      };
      if (p.tiles_warp == 1) walk(W4Tiles<1>{});
      else if (MT == 2 || p.tiles_warp == 2) walk(W4Tiles<2>{});
      else walk(W4Tiles<MT>{});

      if (thread == 0) chain_mark(args, i, 2);
      // ---- Sums meet in the block that finishes the tile, `chunk` eights of rows at a time ----
      const int live = (args.rows + 7) / 8, g = lane / 4, t = lane % 4, contributors = 2 * parts, chunk = p.chunk;
      auto send = [&](int c) {
        const int j0 = c * chunk, width = min(chunk, live - j0), buffer = (exchanged + c) & 1;
        const uint32_t met = sums_full0 + buffer * 8;
        if (thread == 0) barrier_expect(met, finishes * width * contributors * 512);
        // Before the phase began all blocks had stored the one before, so its first two exchanges find the buffers read.
        if (c >= 2) barrier_wait(sums_empty0 + buffer * 8, buffer ? waited1++ & 1 : waited0++ & 1);
#pragma unroll
        for (int m = 0; m < MT; ++m) {
          const int tile = tile0 + m;
          if (m >= p.tiles_warp || tile >= count) continue;
          const uint32_t to_met = address_in(met, tile & 1), to = address_in(sums + buffer * args.sums_bytes, tile & 1) + ((tile / 2 * contributors + rank * parts + part) * chunk - j0) * 512 + lane * 16;
#pragma unroll
          for (int j = 0; j < N / 8; ++j)
            if (j >= j0 && j < j0 + width) chain_send16(to + j * 512, to_met, d[m][4 * j], d[m][4 * j + 1], d[m][4 * j + 2], d[m][4 * j + 3]);
        }
      };
      auto finish = [&](int c) {
        const int j0 = c * chunk, width = min(chunk, live - j0), jobs = finishes * width, buffer = (exchanged + c) & 1;
        float old[4] = {0, 0, 0, 0};
        auto fetch = [&](int job) {  // the residual, on its way while the sums meet
          if (!p.residual || job >= jobs) return;
          const int tile = first + 2 * (job / width) + rank, row = (j0 + job % width) * 8 + 2 * t;
          const float* y = static_cast<const float*>(p.y) + row * p.y_stride + tile * 16 + g;
          if (row < args.rows) { old[0] = __ldcg(y); old[2] = __ldcg(y + 8); }
          if (row + 1 < args.rows) { old[1] = __ldcg(y + p.y_stride); old[3] = __ldcg(y + p.y_stride + 8); }
        };
        fetch(warp);
        if (p.squares && c == 0) barrier_wait(row_factors_full, normed & 1);
        barrier_wait(sums_full0 + buffer * 8, (exchanged + c) / 2 & 1);
        if (thread == 0) chain_mark(args, i, 3);
#pragma unroll 1
        for (int job = warp; job < jobs; job += workers) {
          const int f = job / width, j = job - f * width, tile = first + 2 * f + rank, row = (j0 + j) * 8 + 2 * t;
          const uint32_t from = sums + buffer * args.sums_bytes + (f * contributors * chunk + j) * 512 + lane * 16;
          float4 sum = chain_load_sums(from);
#pragma unroll 4
          for (int c = 1; c < contributors; ++c) {
            const float4 v = chain_load_sums(from + c * chunk * 512);
            sum.x += v.x; sum.y += v.y; sum.z += v.z; sum.w += v.w;
          }
          const float low = own.factors[f * 16 + g], high = own.factors[f * 16 + g + 8];
          const float even = p.squares ? own.row_factors[row] : 1.f, odd = p.squares ? own.row_factors[row + 1] : 1.f;
          float v[4] = {sum.x * low * even, sum.y * low * odd, sum.z * high * even, sum.w * high * odd};
          if (p.bias) {
            const float bias_low = __ldg(p.bias + (p.gated ? tile * 8 + g : tile * 16 + g)), bias_high = __ldg(p.bias + (p.gated ? p.out / 2 + tile * 8 + g : tile * 16 + g + 8));
            v[0] += bias_low; v[1] += bias_low; v[2] += bias_high; v[3] += bias_high;
          }
          chain_store<T, N>(p, args.rows, (j0 + j) * 8, tile, v, old, own.norms[f * 16 + g], own.norms[f * 16 + g + 8]);
          fetch(job + workers);
        }
        if ((c + 2) * chunk < live) {
          multipliers_sync<workers * 32>();
          if (thread == 0) { chain_arrive(sums_empty0 + buffer * 8, 0); chain_arrive(sums_empty0 + buffer * 8, 1); }
        }
      };
      const int chunks = (live + chunk - 1) / chunk;
      send(0);
#pragma unroll 1
      for (int c = 0; c < chunks; ++c) {
        if (c + 1 < chunks) send(c + 1);
        finish(c);
      }
      exchanged += chunks;
      if (p.squares) ++normed;
      if (thread == 0) chain_mark(args, i, 4);
      multipliers_sync<workers * 32>();
      if (thread == 0) {
        __threadfence();
        if (i + 1 < args.phases) {
          asm volatile("red.relaxed.gpu.global.add.s32 [%0], 1;" ::"l"(args.counters + i) : "memory");
        } else if (atomicAdd(args.counters + w4_chain_phases_max, 1) == blocks - 1) {  // all have seen what they waited for
          for (int n = 0; n <= w4_chain_phases_max; ++n) args.counters[n] = 0;
        }
      }
      if (thread == 0) chain_mark(args, i, 5);
      __syncwarp();
    }
  }
  cluster_arrive();  // nobody leaves while the other block may still reach its shared memory
  cluster_wait();
}

}  // namespace hearth::kernels::cuda
