// Consecutive w4 linears of a step of 5 to 64 rows (o, gate·up, down, the next layer's qkv) as one kernel, so that the
// stream of weights never stops between them: one block a multiprocessor, blocks in pairs (clusters) that own consecutive
// tiles of every phase and share K. Of a block's sixteen warps
//   - one loads weights, which depend on nothing, through all phases as far as its ring reaches, and has the L2 fetch what the
//     attention after the chain will read, when all weights have been asked for;
//   - one loads activations: of a phase once all blocks have counted the phase before as stored;
//   - twelve multiply (mma.sync up to 16 rows, above as three warpgroups by wgmma), exchange their sums with the other
//     block of the pair, and store;
//   - two add up the squares of a normed phase's rows, half of the rows each. The norm's weights were multiplied in by
//     whoever stored the residual, its factor is applied to the sums, since the product is linear.
// Sums are always added in the order of k, so results are the same bits every time. A linear of more tiles than the warps hold
// sums for is two phases that read the same; between them nobody waits.
#pragma once

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/chain_params.h"
#include "kernels/cuda/sm90/linear_w4_cluster.cuh"

namespace hearth::kernels::cuda {

constexpr int chain_slots_max = 16;  // of the ring
constexpr int chain_history_bytes = 32 * 1024;  // of the next attention's history, asked for with each slot that falls free at the end
constexpr int chain_threads = (w4_chain_workers + 4) * 32;
// Registers of a thread that multiplies and of one that does not: all there are, or few enough that eight warps of the short
// attention stand beside this block. `chain_bound`: the threads a kernel is compiled for, so that it
// starts with its share.
__host__ __device__ constexpr int chain_multiply_registers(bool beside) { return beside ? 88 : 160; }
__host__ __device__ constexpr int chain_load_registers(bool beside) { return beside ? 56 : 32; }
__host__ __device__ constexpr int chain_bound(bool beside) { return beside ? 768 : chain_threads; }

// 16 bytes to a block of the cluster, counted by the barrier there: nobody needs a fence.
__device__ __forceinline__ void chain_send16(uint32_t address, uint32_t barrier, float a, float b, float c, float d) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%2,%3,%4,%5}, [%1];"
      ::"r"(address), "r"(barrier), "r"(__float_as_uint(a)), "r"(__float_as_uint(b)), "r"(__float_as_uint(c)), "r"(__float_as_uint(d)) : "memory");
}
__device__ __forceinline__ float4 chain_add(const float4& a, const float4& b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
__device__ __forceinline__ void chain_store_sums(uint32_t address, const float4& v) {
  asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(address), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
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

__device__ __forceinline__ void chain_prefetch(const void* from, int bytes) { asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory"); }

// Waits until all blocks have counted a phase as stored.
__device__ __forceinline__ void chain_wait_counted(const int32_t* counter, int blocks) {
  int there = 0;
  while (there < blocks) asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(there) : "l"(counter) : "memory");
}

// A place in the ring: all who load or read walk the slots alike.
struct ChainPlace {
  int slot = 0, parity = 0;
  __device__ __forceinline__ void advance(int slots) {
    if (++slot == slots) { slot = 0; parity ^= 1; }
  }
};

// A block's part of a phase: units [begin, begin + units) of 128 k, stages of `stage_units` of them (the last may reach beyond).
struct ChainPart {
  int begin, units, stages;
  __device__ __forceinline__ ChainPart(const W4ChainPhase& p, int rank) {
    begin = p.units * rank >> 1;
    units = (p.units * (rank + 1) >> 1) - begin;
    stages = (units + p.stage_units - 1) / p.stage_units;
  }
};

// What a warp finishes of a phase: every `warps`-th of the pairs (tile f, eight rows j < width). Divisions are done here, long
// before the pairs are wanted.
struct ChainJobs {
  int f, j, width, f_step, j_step;
  __device__ __forceinline__ ChainJobs(int warp, int warps, int width_) : f(warp / width_), j(warp % width_), width(width_), f_step(warps / width_), j_step(warps % width_) {}
  __device__ __forceinline__ void advance() {
    f += f_step;
    j += j_step;
    if (j >= width) { j -= width; ++f; }
  }
};

// Where a block is when, for measurements.
__device__ __forceinline__ void chain_mark(const W4ChainArgs& a, int phase, int point) {
  if (a.trace) a.trace[(blockIdx.x * (w4_chain_phases_max + 1) + phase) * 8 + point] = clock64();
}

// What a block keeps of a phase while it finishes TILES tiles, or their rows that it does not share with the other.
template <int TILES> struct ChainShared {
  float factors[TILES * 16], norms[TILES * 16], row_factors[64];
  uint64_t full[chain_slots_max], empty[chain_slots_max], sums_full[2], row_factors_full, counted;  // counted: rows that are to be normed may be read
};

// The block's share of the next attention's history: every `share`-th KV block of one sequence. Asked for piece by piece, at the
// pace at which the last phase uses up its weights: fences and stores wait behind what is asked for at once.
struct ChainHistory {
  const W4ChainHistory& h;
  int block = 0, end = 0, share = 1, done = 0;  // done: bytes of the KV block, keys before values
  int id = 0, next_id = 0;
  const int32_t* table = nullptr;

  __device__ __forceinline__ explicit ChainHistory(const W4ChainHistory& history) : h(history) {
    if (!h.sequences) return;
    share = gridDim.x / h.sequences;
    const int sequence = blockIdx.x % h.sequences, part = blockIdx.x / h.sequences, context = part < share ? __ldcg(h.context + sequence) : 0;
    block = (h.window > 0 ? max(0, context - h.window) / h.block_tokens : 0) + part;
    end = (context + h.block_tokens - 1) / h.block_tokens;
    table = h.block_table + static_cast<int64_t>(sequence) * h.block_table_stride;
    ask_id();
  }
  __device__ __forceinline__ void ask_id() {
    if (block < end) next_id = __ldcg(table + block);
  }
  __device__ __forceinline__ void fetch(int bytes) {
    while (bytes > 0 && block < end) {
      if (done == 0) id = next_id;
      const bool values = done >= h.block_bytes;
      const int at = values ? done - h.block_bytes : done, now = min(bytes, h.block_bytes - at);
      chain_prefetch(static_cast<const char*>(values ? h.v : h.k) + static_cast<int64_t>(id) * h.block_bytes + at, now);
      bytes -= now;
      done += now;
      if (done == 2 * h.block_bytes) { done = 0; block += share; ask_id(); }
    }
  }
};

// How a phase's sums leave, in registers: a constant that is read where it is used is a wait of its own for each.
struct ChainOutput {
  void* y; const float* bias; void* next_x; float* next_squares;
  uint32_t y_stride, out, gated, residual, activation, normed;
  __device__ __forceinline__ explicit ChainOutput(const W4ChainPhase& p)
      : y(p.y), bias(p.bias), next_x(p.next_x), next_squares(p.next_squares), y_stride(p.y_stride), out(p.out), gated(p.gated), residual(p.residual), activation(p.activation), normed(p.normed) {
    asm volatile("" : "+l"(y), "+l"(bias), "+l"(next_x), "+l"(next_squares));
    keep(y_stride); keep(out); keep(gated); keep(residual); keep(activation); keep(normed);
  }
};

// Stores eight rows of a tile: lane (g, t) has its rows g and g + 8 at activation rows row0 + 2 t and + 1, as v = {g at 2 t,
// g at 2 t + 1, g + 8 at 2 t, g + 8 at 2 t + 1}; `old` the residual there. A transposed pair leaves in four bytes.
template <class T, int N, bool RESIDUAL>  // RESIDUAL: p.residual may be set
__device__ __forceinline__ void chain_store(const ChainOutput& p, int rows, int row0, int tile, const float (&v)[4], const float (&old)[4], float next_low, float next_high) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, row = row0 + g;  // of what is transposed
  if (p.gated) {
    const uint32_t pair = transpose8x8(pack2<T>(activate(v[0], p.activation) * v[2], activate(v[1], p.activation) * v[3]));
    if (row < rows) *reinterpret_cast<uint32_t*>(static_cast<T*>(p.y) + row * static_cast<int64_t>(p.y_stride) + tile * 8 + 2 * t) = pair;
    return;
  }
  if (!RESIDUAL || !p.residual) {
    const uint32_t low = transpose8x8(pack2<T>(activate(v[0], p.activation), activate(v[1], p.activation)));
    const uint32_t high = transpose8x8(pack2<T>(activate(v[2], p.activation), activate(v[3], p.activation)));
    if (row >= rows) return;
    uint32_t* y = reinterpret_cast<uint32_t*>(static_cast<T*>(p.y) + row * static_cast<int64_t>(p.y_stride) + tile * 16 + 2 * t);
    y[0] = low;
    y[4] = high;
    return;
  }
  const int r = row0 + 2 * t;
  float* y = static_cast<float*>(p.y) + r * static_cast<int64_t>(p.y_stride) + tile * 16 + g;
  const float n[4] = {old[0] + activate(v[0], p.activation), old[1] + activate(v[1], p.activation), old[2] + activate(v[2], p.activation), old[3] + activate(v[3], p.activation)};
  if (r < rows) { y[0] = n[0]; y[8] = n[2]; }
  if (r + 1 < rows) { y[p.y_stride] = n[1]; y[p.y_stride + 8] = n[3]; }
  if (!p.next_x) return;
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

__device__ __forceinline__ bool chain_logistic(int activation) { return activation == activation_silu || activation == activation_quick_gelu || activation == activation_gelu_tanh; }

// Gates of two tiles' eights of rows at once: their sums lie in shared memory, [tile][half][32 lanes] of four from eight `eight0` on.
template <class T, class Shared> struct ChainGates {
  const Shared& own;
  const uint32_t sums;
  const int half, first, eight0, g, t;
  __device__ __forceinline__ void store(const ChainOutput& p, int rows, const int (&tile)[2], const int (&eight)[2]) const {
    float gate[4], up[4];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float4 sum = chain_load_sums(sums + (tile[k] * half + eight[k] - eight0) * 512 + (g * 4 + t) * 16);
      const float2 factor = *reinterpret_cast<const float2*>(own.row_factors + eight[k] * 8 + 2 * t);
      const float low = own.factors[tile[k] * 16 + g], high = own.factors[tile[k] * 16 + g + 8];
      gate[2 * k] = sum.x * (low * factor.x); gate[2 * k + 1] = sum.y * (low * factor.y);
      up[2 * k] = sum.z * (high * factor.x); up[2 * k + 1] = sum.w * (high * factor.y);
    }
    activate_logistic(gate, p.activation);
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const uint32_t pair = transpose8x8(pack2<T>(gate[2 * k] * up[2 * k], gate[2 * k + 1] * up[2 * k + 1]));
      const int row = eight[k] * 8 + g;
      if (row < rows) *reinterpret_cast<uint32_t*>(static_cast<T*>(p.y) + row * static_cast<int64_t>(p.y_stride) + (first + tile[k]) * 8 + 2 * t) = pair;
    }
  }
};

// The factors of half of a normed phase's rows: a lane has four rows of every slices-th tile (of some sizes not all have any); many
// loads at a time, as each takes a trip to the L2.
template <int N> __device__ __forceinline__ void chain_row_factors(const W4ChainPhase& p, float* to, int half) {
  constexpr int lanes = N <= 8 ? 1 : N <= 16 ? 2 : N <= 32 ? 4 : 8, slices = 32 / lanes, abreast = 4;  // registers
  const int lane = threadIdx.x % 32, own = lane % lanes * 4, row = half * (N / 2) + min(own, N / 2 - 4);
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
  if (lane >= lanes || own >= N / 2) return;
  to[row] = 16.f * rsqrtf(sum.x / p.width + p.norm_epsilon); to[row + 1] = 16.f * rsqrtf(sum.y / p.width + p.norm_epsilon);
  to[row + 2] = 16.f * rsqrtf(sum.z / p.width + p.norm_epsilon); to[row + 3] = 16.f * rsqrtf(sum.w / p.width + p.norm_epsilon);
}

// N: rows of the kernel. MT: tiles a warp holds sums for (wgmma: a warpgroup's blocks of four). STEP: 0 for mma.sync, else
// 16-wide steps of k between two commits of wgmma. Weights: how they are decoded. BESIDE: see chain_bound.
template <class T, int N, int MT, int STEP, class Weights, bool BESIDE>
__device__ __forceinline__ void linear_w4_chain(const W4ChainArgs& args) {
  constexpr int workers = w4_chain_workers, tile_step = STEP > 0 ? 4 : 1;
  extern __shared__ __align__(1024) char shared[];
  __shared__ ChainShared<N == 8 ? 24 : workers * MT> own;  // eight rows are not shared
  uint32_t ring = (shared_address(shared) + 1023) & ~1023u, lane = threadIdx.x % 32;
  uint32_t full0 = shared_address(own.full), empty0 = shared_address(own.empty);
  const uint32_t sums_full0 = shared_address(own.sums_full),
                 row_factors_full = shared_address(&own.row_factors_full), counted = shared_address(&own.counted);
  keep(ring); keep(lane); keep(full0); keep(empty0);
  const int thread = threadIdx.x, warp = thread / 32, rank = cluster_rank(), cluster = blockIdx.x / 2, blocks = gridDim.x;
  if (thread == 0) {
    chain_mark(args, w4_chain_phases_max, 0);
    for (int i = 0; i < args.slots; ++i) { barrier_init(full0 + i * 8, 1); barrier_init(empty0 + i * 8, workers); }
    for (int i = 0; i < 2; ++i) barrier_init(sums_full0 + i * 8, 1);
    barrier_init(row_factors_full, 2);
    barrier_init(counted, 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  launch_dependents();
  cluster_arrive_relaxed();  // the other block's barriers are there before anyone touches them

  if (warp >= workers) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(chain_load_registers(BESIDE)));
    if (warp == workers) {  // weights
      if (lane < args.phases) prefetch_map(cluster < args.phase[lane].more ? &args.phase[lane].weight_more : &args.phase[lane].weight_few);
      if (lane == 0) {
        const uint64_t policy = evict_first_policy();
        ChainHistory history(args.history);
        ChainPlace at;
        for (int i = 0; i < args.phases; ++i) {
          const W4ChainPhase& p = args.phase[i];
          const ChainPart part(p, rank);
          const bool more = cluster < p.more;
          const int x_bytes = p.stage_units * N * 256, bytes = x_bytes + p.stage_units * (p.some + more) * p.unit_bytes, tile = cluster * p.some + min(cluster, p.more);
          const void* map = more ? &p.weight_more : &p.weight_few;
          chain_mark(args, i, 7);
          for (int stage = 0; stage < part.stages; ++stage, at.advance(args.slots)) {
            const uint32_t barrier = full0 + at.slot * 8;
            barrier_wait(empty0 + at.slot * 8, at.parity ^ 1);
            barrier_expect(barrier, bytes);
            tensor_copy3(ring + at.slot * args.slot_bytes + x_bytes, map, 0, part.begin + stage * p.stage_units, tile, barrier, policy);
          }
        }
        for (int i = 0; history.block < history.end && i < args.slots; ++i, at.advance(args.slots)) {
          barrier_wait(empty0 + at.slot * 8, at.parity ^ 1);
          history.fetch(chain_history_bytes);
        }
      }
      __syncwarp();
      cluster_wait();
    } else if (warp == workers + 1) {  // activations
      if (lane < args.phases) prefetch_map(&args.phase[lane].x);
      cluster_wait();
      wait_predecessors();
      if (lane == 0) {
        ChainPlace at;
        chain_mark(args, w4_chain_phases_max, 1);
        for (int i = 0; i < args.phases; ++i) {
          const W4ChainPhase& p = args.phase[i];
          const ChainPart part(p, rank);
          if (p.after >= 0) {
            chain_wait_counted(args.counters + p.after, blocks);
            if (p.squares) barrier_arrive(counted);
            asm volatile("fence.proxy.async.global;" ::: "memory");
            chain_mark(args, i, 6);
          }
          for (int stage = 0; stage < part.stages; ++stage, at.advance(args.slots)) {
            barrier_wait(empty0 + at.slot * 8, at.parity ^ 1);
            chain_copy3(ring + at.slot * args.slot_bytes, &p.x, 0, 0, (part.begin + stage * p.stage_units) * 2, full0 + at.slot * 8);
          }
        }
      }
      __syncwarp();
    } else if (warp >= workers + 2) {  // norms
      cluster_wait();
      wait_predecessors();
      for (int i = 1, parity = 0; i < args.phases; ++i) {
        if (!args.phase[i].squares) continue;
        barrier_wait(counted, parity);
        parity ^= 1;
        chain_row_factors<N>(args.phase[i], own.row_factors, warp - workers - 2);
        __syncwarp();
        if (lane == 0) barrier_arrive(row_factors_full);
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(chain_multiply_registers(BESIDE)));
    cluster_wait();
    wait_predecessors();
    const uint32_t sums = ring + args.slots * args.slot_bytes;
    const int own_unit = STEP > 0 ? warp / 4 : warp;  // of those that share a phase's tiles and k: warpgroups or warps
    ChainPlace at;
    int exchanged = 0, normed = 0;
    for (int i = 0; i < args.phases; ++i) {
      const W4ChainPhase& p = args.phase[i];
      const int count = p.some + (cluster < p.more), first = cluster * p.some + min(cluster, p.more), columns = p.columns, parts = p.parts;
      const int part = own_unit / columns, first_of_unit = (own_unit - part * columns) * p.tiles_warp, finishes = (count - rank + 1) / 2;  // tiles 2 f + rank
      const int tile0 = STEP > 0 ? first_of_unit * 4 + warp % 4 : first_of_unit, blocks_mine = min(p.tiles_warp, (count + 3) / 4 - first_of_unit);  // this warp's first tile; wgmma: blocks of four
      if (thread == 0) chain_mark(args, i, 0);
      for (int n = thread; n < (p.split_rows ? count : finishes) * 16; n += workers * 32) {
        const int at = (first + (p.split_rows ? n / 16 : 2 * (n / 16) + rank)) * 16 + n % 16;
        own.factors[n] = __ldg(p.factors + at) * Weights::lift;
        own.norms[n] = p.next_norm ? __ldg(p.next_norm + at) * 0.0625f : 0;
      }
      multipliers_sync<workers * 32>();
      // Eights of rows are known here, so that a phase's end has no counters of them; of up to 16 all meet at once.
      constexpr int live = N / 8;
      const int g = lane / 4, t = lane % 4, chunk = N <= 16 ? live : p.chunk;
      // What a lane has of the residual at eight rows of the f-th tile that it finishes.
      auto fetch_residual = [&](int f, int eight, float (&old)[4]) {
        const int row = eight * 8 + 2 * t;
        const float* y = static_cast<const float*>(p.y) + row * p.y_stride + (first + 2 * f + rank) * 16 + g;
        old[0] = old[1] = old[2] = old[3] = 0;
        if (p.residual && row < args.rows) { old[0] = __ldcg(y); old[2] = __ldcg(y + 8); }
        if (p.residual && row + 1 < args.rows) { old[1] = __ldcg(y + p.y_stride); old[3] = __ldcg(y + p.y_stride + 8); }
      };
      constexpr int early = N > 16 ? 2 : 1;
      float old_early[early][4];  // for a warp's first jobs when it finishes tiles, on its way while it multiplies
      const ChainJobs jobs(warp, workers, min(chunk, live));
      ChainJobs ahead = jobs;
#pragma unroll
      for (int n = 0; n < early; ++n, ahead.advance())
        if (ahead.f < finishes) fetch_residual(ahead.f, ahead.j, old_early[n]);
      float d[MT][N / 2];
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int n = 0; n < N / 2; ++n) d[m][n] = 0;
      const ChainPart mine(p, rank);
      uint32_t units_of_stage = p.stage_units;
      keep(units_of_stage);
      const int stage_units = units_of_stage, tile_bytes = stage_units * Unit<128>::bytes;
      if (args.trace) {
        barrier_wait(full0 + at.slot * 8, at.parity);
        if (thread == 0) chain_mark(args, i, 1);
      }
      // Every `parts`-th unit of k is this warp's.
      auto walk = [&](auto tiles) {
        int next = part;  // its next, from the stage's first on
        for (int left = mine.units; left > 0; left -= stage_units, next -= stage_units, at.advance(args.slots)) {
          const uint32_t slot = ring + at.slot * args.slot_bytes;
          const int here = min(left, stage_units);
          barrier_wait(full0 + at.slot * 8, at.parity);
          if (next < here && (STEP > 0 || tile0 < count)) {
            do {
              const uint32_t x = slot + next * N * 256, weights = slot + stage_units * N * 256 + next * Unit<128>::bytes;
              if constexpr (STEP > 0) {
                w4_stage_wgmma<T, true, N, MT, STEP, true, Weights>(128, tile_bytes, x, weights, tile0, tile_step, blocks_mine, count - 1, 0, 2, lane, d, [] {});
              } else if constexpr (Weights::lift != 1) {
                w4_stage_mma_scaled<T, N, decltype(tiles)::value, MT>(tile_bytes, x, weights, tile0, lane, count - 1, d);
              } else {
                w4_stage_mma<T, true, N, decltype(tiles)::value, MT, 1>(128, tile_bytes, x, weights, tile0, lane, count - 1, d);
              }
              next += parts;
            } while (next < here);
            if constexpr (STEP > 0) wgmma_wait<0>();
            __syncwarp();
          }
          if (lane == 0) barrier_arrive(empty0 + at.slot * 8);
        }
      };
      // A warpgroup that multiplies in every stage gives it back under the products of the next: the tensor cores never drain.
      auto walk_all = [&](auto step) {
        uint32_t previous = 0;
        for (int unit = 0, u = 0; unit < mine.units; ++unit) {
          const uint32_t slot = ring + at.slot * args.slot_bytes;
          if (u == 0) barrier_wait(full0 + at.slot * 8, at.parity);
          w4_stage_wgmma<T, true, N, MT, decltype(step)::value, true, Weights>(128, tile_bytes, slot + u * N * 256, slot + stage_units * N * 256 + u * Unit<128>::bytes, tile0, tile_step, blocks_mine, count - 1, 0, 2,
                                                                         lane, d, [&] { if (previous && lane == 0) barrier_arrive(previous); });
          previous = 0;
          if (++u < stage_units && unit + 1 < mine.units) continue;
          previous = empty0 + at.slot * 8;
          at.advance(args.slots);
          u = 0;
        }
        wgmma_wait<0>();
        if (previous && lane == 0) barrier_arrive(previous);
      };
      if constexpr (STEP > 0) {
        if (parts == 1 && blocks_mine > 0) walk_all(W4Tiles<STEP>{});
        else walk(W4Tiles<MT>{});
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
          for (int n = 0; n < N / 2; ++n) asm volatile("" : "+f"(d[m][n])::"memory");
      } else if (p.tiles_warp == 1) walk(W4Tiles<1>{});
      else if (MT == 2 || p.tiles_warp == 2) walk(W4Tiles<2>{});
      else if (MT == 3 || p.tiles_warp == 3) walk(W4Tiles<3>{});
      else walk(W4Tiles<MT>{});

      if (thread == 0) chain_mark(args, i, 2);
      const ChainOutput output(p);
      // Factors and bias of what a lane has of a tile; `low`, `high`: its rows' factors.
      auto scaled = [&](const float4& sum, int tile, float low, float high, int row, float (&v)[4]) {
        const float even = output.normed ? own.row_factors[row] : 1.f, odd = output.normed ? own.row_factors[row + 1] : 1.f;
        v[0] = sum.x * low * even; v[1] = sum.y * low * odd; v[2] = sum.z * high * even; v[3] = sum.w * high * odd;
        if (output.bias) {
          const float bias_low = __ldg(output.bias + (output.gated ? tile * 8 + g : tile * 16 + g)), bias_high = __ldg(output.bias + (output.gated ? output.out / 2 + tile * 8 + g : tile * 16 + g + 8));
          v[0] += bias_low; v[1] += bias_low; v[2] += bias_high; v[3] += bias_high;
        }
      };
      auto finish_rows = [&] {
        // ---- The blocks have the same tiles of different k: each gives half of its rows away and finishes the others, a warp its own tiles ----
        const int half = (live + 1) / 2, mine0 = rank ? half : 0, mine1 = rank ? live : half, theirs0 = half - mine0, theirs1 = rank ? half : live;
        const uint32_t met = sums_full0 + (exchanged & 1) * 8, to_met = address_in(met, rank ^ 1), to = address_in(sums + p.inbox, rank ^ 1) + lane * 16;
        if (thread == 0) barrier_expect(met, count * (mine1 - mine0) * 512);
#pragma unroll
        for (int m = 0; m < MT; ++m) {
          const int tile = tile0 + m * tile_step;
          if (m >= p.tiles_warp || tile >= count) continue;
#pragma unroll
          for (int j = 0; j < N / 8; ++j)
            if (j >= theirs0 && j < theirs1) chain_send16(to + (tile * half + j - theirs0) * 512, to_met, d[m][4 * j], d[m][4 * j + 1], d[m][4 * j + 2], d[m][4 * j + 3]);
        }
        if (p.squares) barrier_wait(row_factors_full, normed & 1);
        barrier_wait(met, exchanged / 2 & 1);
        if (thread == 0) chain_mark(args, i, 3);
#pragma unroll
        for (int m = 0; m < MT; ++m) {
          const int tile = tile0 + m * tile_step;
          if (m >= p.tiles_warp || tile >= count) continue;
#pragma unroll
          for (int j = 0; j < N / 8; ++j) {
            if (j < mine0 || j >= mine1) continue;
            const uint32_t place = sums + p.inbox + (tile * half + j - mine0) * 512 + lane * 16;
            chain_store_sums(place, chain_add(chain_load_sums(place), make_float4(d[m][4 * j], d[m][4 * j + 1], d[m][4 * j + 2], d[m][4 * j + 3])));
          }
        }
        // What gates leave (nearly all models'), two eights of rows abreast and without a branch: one after the other they take as
        // long as their exponentials and reciprocals, 600 cycles each.
        const int width = mine1 - mine0;
        const bool fast = N > 16 && output.gated && output.normed && !output.bias && chain_logistic(output.activation);
        if (fast && width > 0) {
          const int own_tiles = tile0 < count ? min(p.tiles_warp, (count - 1 - tile0) / tile_step + 1) : 0;
          const ChainGates<T, decltype(own)> gates{own, sums + p.inbox, half, first, mine0, static_cast<int>(g), static_cast<int>(t)};
#pragma unroll 1
          for (int left = own_tiles * width, tile = tile0, j = mine0; left > 0; left -= 2) {
            int tiles[2] = {tile, tile}, eights[2] = {j, j};
            auto advance = [&] {
              if (++j < mine1) return;
              j = mine0;
              tile += tile_step;
            };
            advance();
            if (left > 1) { tiles[1] = tile; eights[1] = j; advance(); }
            gates.store(output, args.rows, tiles, eights);
          }
        }
        // One body for all others: unrolled, it was fetched cold from memory in every phase.
#pragma unroll 1
        for (int m = fast ? p.tiles_warp : 0; m < p.tiles_warp; ++m) {
          const int tile = tile0 + m * tile_step;
          if (tile >= count) break;
          const float low = own.factors[tile * 16 + g], high = own.factors[tile * 16 + g + 8];
#pragma unroll 1
          for (int j = mine0; j < mine1; ++j) {
            float v[4];
            scaled(chain_load_sums(sums + p.inbox + (tile * half + j - mine0) * 512 + lane * 16), first + tile, low, high, j * 8 + 2 * t, v);
            chain_store<T, N, false>(output, args.rows, j * 8, first + tile, v, v, 0, 0);
          }
        }
        ++exchanged;
      };
      // ---- Or a tile's sums meet in the block that finishes it, `chunk` eights of rows at a time: each block adds up its warps' in
      // shared memory, in the order of k, then the other block's arrive ----
      auto finish_tiles = [&] {
        const uint32_t inbox = sums + p.inbox, to = address_in(inbox, rank ^ 1) + lane * 16;
#pragma unroll 1
        for (int c = 0; c * chunk < live; ++c, ++exchanged) {
          const int j0 = c * chunk, width = min(chunk, live - j0);
          const uint32_t met = sums_full0 + (exchanged & 1) * 8, to_met = address_in(met, rank ^ 1);
          auto place = [&](int tile, int part, int j) { return sums + ((tile * parts + part) * chunk + j) * 512 + lane * 16; };
          auto added = [&](int tile, int j) {
            float4 sum = chain_load_sums(place(tile, 0, j));
#pragma unroll 2
            for (int n = 1; n < parts; ++n) sum = chain_add(sum, chain_load_sums(place(tile, n, j)));
            return sum;
          };
          if (thread == 0) barrier_expect(met, finishes * width * 512);
          if (c) multipliers_sync<workers * 32>();  // all have read the chunk before
#pragma unroll
          for (int m = 0; m < MT; ++m) {
            const int tile = tile0 + m * tile_step;
            if (m >= p.tiles_warp || tile >= count) continue;
#pragma unroll
            for (int j = 0; j < N / 8; ++j)
              if (j >= j0 && j < j0 + width) chain_store_sums(place(tile, part, j - j0), make_float4(d[m][4 * j], d[m][4 * j + 1], d[m][4 * j + 2], d[m][4 * j + 3]));
          }
          multipliers_sync<workers * 32>();
          const int theirs = (count - (rank ^ 1) + 1) / 2;
#pragma unroll 1
          for (ChainJobs job = jobs; job.f < theirs; job.advance()) {
            if (job.j >= width) continue;
            const float4 sum = added(2 * job.f + (rank ^ 1), job.j);
            chain_send16(to + (job.f * live + j0 + job.j) * 512, to_met, sum.x, sum.y, sum.z, sum.w);
          }
          if (p.squares && c == 0) barrier_wait(row_factors_full, normed & 1);
          bool met_yet = false;
          int number = 0;
#pragma unroll 1
          for (ChainJobs job = jobs; job.f < finishes; job.advance(), ++number) {
            const int f = job.f, j = job.j, tile = first + 2 * f + rank, row = (j0 + j) * 8 + 2 * t;
            if (j >= width) continue;
            float old[4];
            if (c == 0 && number < early) {
#pragma unroll
              for (int k = 0; k < 4; ++k) old[k] = number == 0 ? old_early[0][k] : old_early[early - 1][k];
            } else {
              fetch_residual(f, j0 + j, old);
            }
            const float4 mine = added(2 * f + rank, j);
            if (!met_yet) barrier_wait(met, exchanged / 2 & 1);
            if (!met_yet && thread == 0) chain_mark(args, i, 3);
            met_yet = true;
            float v[4];
            scaled(chain_add(mine, chain_load_sums(inbox + (f * live + j0 + j) * 512 + lane * 16)), tile, own.factors[f * 16 + g], own.factors[f * 16 + g + 8], row, v);
            chain_store<T, N, true>(output, args.rows, (j0 + j) * 8, tile, v, old, own.norms[f * 16 + g], own.norms[f * 16 + g + 8]);
          }
          if (!met_yet) barrier_wait(met, exchanged / 2 & 1);  // it is used again
        }
      };
      if (N > 8 && p.split_rows) finish_rows();
      else finish_tiles();
      if (p.squares) ++normed;
      if (thread == 0) chain_mark(args, i, 4);
      multipliers_sync<workers * 32>();
      if (thread == 0) {
        asm volatile("fence.acq_rel.gpu;" ::: "memory");  // __threadfence() is sequentially consistent, and takes far longer
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
  cluster_arrive_relaxed();  // nobody leaves while the other block may still reach its shared memory
  cluster_wait();
}

}  // namespace hearth::kernels::cuda
