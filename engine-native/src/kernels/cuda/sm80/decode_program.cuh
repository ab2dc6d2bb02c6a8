// Decode of 1 to 4 rows: every linear and attention of a step in one kernel, one block a multiprocessor, so that the
// memory never waits for a kernel to end and the next to begin. A loading warp runs ahead through all phases, as far as
// the ring in shared memory reaches: weights and the KV history depend on nothing the step computes. Sixteen warps
// compute; between two phases all blocks meet at a counter in global memory, load the activations, and find the weights
// waiting. Used on Hopper with bulk copies (BULK) and from sm_80 on with cp.async.
//
// Linears: a block owns consecutive 16-row tiles, one stream of units in memory, warp w takes units w, w + 16, ...; the
// tensor cores' 8-column tile costs nothing extra at one row, it also sums over k within a quad. A nibble under the
// exponent of 1024 (128 in bfloat16) is a number without further work; the constant it adds to a group's sum,
// (1024 + zero) * sum(x), is taken off in f32.
// Attention: an item is (row, KV head, up to 8 of its query heads, part of the context); KV blocks go round the warps.
// The row's own key and value never pass through the pool: they are one more partial result in the merge.
#pragma once

#include "kernels/cuda/generic/attention_prepare.cuh"
#include "kernels/cuda/program_params.h"
#include "kernels/cuda/sm80/attention_decode.cuh"
#include "kernels/cuda/sm80/linear_rows_w4.cuh"

namespace hearth::kernels::cuda {

constexpr int worker_threads = program_workers * 32;

// ---- Barriers -----------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void barrier_init(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, int parity) {
#if __CUDA_ARCH__ >= 900
  asm volatile("{\n.reg .pred done;\nwait:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra wait;\n}" ::"r"(barrier), "r"(parity) : "memory");
#else
  asm volatile("{\n.reg .pred done;\nwait:\nmbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n@!done bra wait;\n}" ::"r"(barrier), "r"(parity) : "memory");
#endif
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void workers_meet() { asm volatile("bar.sync 1, %0;" ::"n"(worker_threads) : "memory"); }
__device__ __forceinline__ void finishers_meet(int warps) { asm volatile("bar.sync 2, %0;" ::"r"(warps * 32) : "memory"); }

// ---- Shared memory -----------------------------------------------------------------------------------------------------

struct AttentionItem { int sequence, row, kv_head, head0, live, split, active, position, first, begin, blocks; };  // begin, blocks: history of this part

struct ProgramControl {
  uint64_t full[program_slots_max], empty[program_slots_max];
  AttentionArgs attention[2];
  float squares[program_rows_max][program_workers];
  int32_t* arrived;
  int rows, slots, slot_bytes, aux, attention_bytes, last;
  int items, whole, splits, per_kv, head_tiles;   // of an attention
  AttentionItem item;                             // this block's first
  int item_window;
  int row[program_rows_max], context[program_rows_max], kv_slot[program_rows_max];
  const float* turns_of;                          // the frequencies that `turns` was made from
  float2 turns[program_rows_max][64];
};
static_assert(sizeof(ProgramControl) <= program_control_bytes);

// Dynamic shared memory: the control, the phases, the ring, what a phase needs. Named here, so that accesses are known to
// be to shared memory.
extern __shared__ __align__(128) char program_shared[];
__device__ __forceinline__ ProgramControl& program_control() { return *reinterpret_cast<ProgramControl*>(program_shared); }
__device__ __forceinline__ ProgramPhase& program_phase(int i) { return reinterpret_cast<ProgramPhase*>(program_shared + program_control_bytes)[i]; }

#ifdef HEARTH_PROGRAM_TRACE
__device__ __forceinline__ void program_trace(int phase, int point) {
  if (blockIdx.x == 5 && threadIdx.x == 0 && phase < 64) reinterpret_cast<long long*>(program_control().arrived - 200000)[phase * 8 + point] = clock64();
}
#else
__device__ __forceinline__ void program_trace(int, int) {}
#endif

// The ring as one side of it sees it.
struct RingPlace {
  int slot = 0, parity = 0;
  __device__ __forceinline__ void next(int slots) { if (++slot == slots) { slot = 0; parity ^= 1; } }
};

// ---- What a block does in a phase ----------------------------------------------------------------------------------------------

// Blocks from `start` on have one tile more, as many as there are extra; the host moves `start` along, so that over a
// step all have the same.
struct TileRange { int begin, end; };
__device__ __forceinline__ TileRange tile_range(const ProgramLinear& l) {
  int block = static_cast<int>(blockIdx.x) - l.start;
  if (block < 0) block += static_cast<int>(gridDim.x);
  const int begin = block * l.per + min(block, static_cast<int>(l.extra));
  return {begin, begin + l.per + (block < l.extra ? 1 : 0)};
}

// Item `index` < control.items. active 0: nothing to do; -1: zeros to write.
__device__ __forceinline__ void attention_item(const ProgramControl& control, const AttentionArgs& a, int window, int index, AttentionItem& item) {
  item.split = index / control.whole;
  int rest = index % control.whole;
  const int head_tile = rest % control.head_tiles;
  rest /= control.head_tiles;
  item.kv_head = rest % a.kv_heads;
  item.sequence = rest / a.kv_heads;
  item.head0 = item.kv_head * control.per_kv + head_tile * program_heads;
  item.live = min(program_heads, control.per_kv - head_tile * program_heads);
  item.row = control.row[item.sequence];
  const int context = control.context[item.sequence];
  item.position = context - 1;
  item.active = 0; item.blocks = 0; item.begin = 0; item.first = 0;
  if (context <= 0) { item.active = item.split == 0 ? -1 : 0; return; }  // an empty slot of a bucket
  item.first = window > 0 ? max(0, item.position - window + 1) : 0;
  const int block_first = item.first / kv_tokens, blocks = item.position > item.first ? (item.position - 1) / kv_tokens - block_first + 1 : 0;
  const int per_split = max(program_workers, (blocks + control.splits - 1) / control.splits);
  item.active = max(1, (blocks + per_split - 1) / per_split);
  if (item.split >= item.active) { item.active = 0; return; }
  item.begin = block_first + item.split * per_split;
  item.blocks = min(per_split, block_first + blocks - item.begin);
}

// ---- The loading warp ---------------------------------------------------------------------------------------------------------

template <bool BULK>
struct Loader {
  const Program& p;
  uint32_t ring, full, empty;
  int lane, filled = 0;
  RingPlace at, landed;
  uint64_t policy;

  // Waits until the slot is free and no more than `flight` copies are under way: more than the memory needs to be busy
  // would only make everybody's loads wait behind them.
  __device__ __forceinline__ void acquire() {
    if (filled >= p.flight) { barrier_wait(full + landed.slot * 8, landed.parity); landed.next(p.slots); }
    if (filled >= p.slots) barrier_wait(empty + at.slot * 8, at.parity ^ 1);
    ++filled;
  }
  // One stretch of weights, read once: one bulk copy where there is such a thing.
  __device__ __forceinline__ void load_weights(const char* from, int bytes) {
    const uint32_t to = ring + at.slot * p.slot_bytes, barrier = full + at.slot * 8;
    if constexpr (BULK) {
#if __CUDA_ARCH__ >= 900
      if (lane == 0) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(from), "r"(bytes), "r"(barrier), "l"(policy) : "memory");
      }
      __syncwarp();
      at.next(p.slots);
#endif
    } else {
#pragma unroll 4
      for (int i = lane * 16; i < bytes; i += 512) copy16_once(to + i, from + i, policy);
      spread_done();
    }
  }
  // Many short rows: 16 bytes a lane; a bulk copy each would take longer.
  __device__ __forceinline__ void spread(uint32_t to, const char* from, int bytes) {
    for (int i = lane * 16; i < bytes; i += 512) copy16(to + i, from + i);
  }
  __device__ __forceinline__ void spread_done() {
    const uint32_t barrier = full + at.slot * 8;
    if constexpr (BULK) {  // the barrier expects one arrival: each lane adds its own and takes it back when its copies are there
      asm volatile("cp.async.mbarrier.arrive.shared.b64 [%0];" ::"r"(barrier) : "memory");
      __syncwarp();
      if (lane == 0) barrier_arrive(barrier);
    } else {
      asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
    }
    at.next(p.slots);
  }

  // 16 rows of 512 weights of 16 bits a slot, rows 64 bytes apart more than they are long: different banks.
  __device__ __forceinline__ void dense(const ProgramLinear& l, const TileRange& tiles) {
    const char* from = static_cast<const char*>(l.weight) + static_cast<int64_t>(tiles.begin) * 16 * l.in * 2;
    for (int tile = tiles.begin; tile < tiles.end; ++tile, from += static_cast<int64_t>(16) * l.in * 2)
      for (int k = 0; k < l.in; k += dense_unit) {
        const int bytes = min(dense_unit, l.in - k) * 2;
        acquire();
        const uint32_t to = ring + at.slot * p.slot_bytes;
#pragma unroll 4
        for (int row = 0; row < 16; ++row)
          for (int i = lane * 16; i < bytes; i += 512)
            copy16_once(to + row * (bytes + 64) + i, from + (static_cast<int64_t>(row) * l.in + k) * 2 + i, policy);
        spread_done();
      }
  }

  // A slot is 16 units of one tile, or its last ones.
  __device__ __forceinline__ void linear(const ProgramLinear& l) {
    const TileRange tiles = tile_range(l);
    if (l.group == 0) return dense(l, tiles);
    const int unit_bytes = l.unit_bytes, units = l.units;
    const char* from = static_cast<const char*>(l.weight) + static_cast<int64_t>(tiles.begin) * units * unit_bytes;
    for (int tile = tiles.begin; tile < tiles.end; ++tile)
      for (int left = units; left > 0; left -= program_workers) {
        const int bytes = min(left, program_workers) * unit_bytes;
        acquire();
        load_weights(from, bytes);
        from += bytes;
      }
  }

  __device__ __forceinline__ void attention(const ProgramAttention& a) {
    const ProgramControl& control = program_control();
    const AttentionArgs& args = control.attention[0];  // what is common to all
    const bool int8 = args.kv_type == kv_int8;
    const int bytes = kv_tokens * args.head_dim * (int8 ? 1 : 2), per_slot = p.slot_bytes / p.attention_bytes;
    AttentionItem item;
    for (int index = blockIdx.x; index < control.items; index += gridDim.x) {
      attention_item(control, args, a.window, index, item);
      const int32_t* table = args.block_table + static_cast<int64_t>(item.sequence) * args.block_table_stride + item.begin;
      int32_t ids = 0;
      for (int done = 0; done < item.blocks; done += per_slot) {
        const int count = min(per_slot, item.blocks - done);
        acquire();
        for (int i = 0; i < count; ++i) {
          const int index_in = done + i;
          if (index_in % 32 == 0) ids = index_in + lane < item.blocks ? __ldcg(table + index_in + lane) : 0;
          const int64_t tile = static_cast<int64_t>(__shfl_sync(0xffffffffu, ids, index_in % 32)) * args.kv_heads + item.kv_head;
          const uint32_t to = ring + at.slot * p.slot_bytes + i * p.attention_bytes;
          // Rows of V lie 16 bytes apart more than they are long: different banks.
          const int row = bytes / kv_tokens, scales = 2 * bytes + kv_tokens * 16;
          spread(to, static_cast<const char*>(a.k) + tile * bytes, bytes);
          const char* v = static_cast<const char*>(a.v) + tile * bytes;
          for (int j = lane * 16; j < bytes; j += 512) copy16(to + bytes + j + j / row * 16, v + j);
          if (int8) {
            spread(to + scales, reinterpret_cast<const char*>(a.k_scale + tile * kv_tokens), kv_tokens * 4);
            spread(to + scales + kv_tokens * 4, reinterpret_cast<const char*>(a.v_scale + tile * kv_tokens), kv_tokens * 4);
          }
        }
        spread_done();
      }
    }
  }

  __device__ __forceinline__ void run() {
    for (int i = 0; i < p.phases; ++i) {
      const ProgramPhase& phase = p.phase[i];
      if (phase.kind == phase_linear) linear(phase.linear);
      else attention(phase.attention);
    }
    copy_wait<0>();
  }
};

// ---- The computing warps ------------------------------------------------------------------------------------------------------

__device__ __forceinline__ int load_acquire(const int32_t* p) {
  int v;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}

// Every block with work in the phase before has done it; what was written may be read (past the L1).
__device__ __forceinline__ void wait_phase(const ProgramControl& control, int phase) {
  if (phase == 0) {
    wait_predecessors();
  } else if (threadIdx.x == worker_threads - 32) {
    const int target = program_phase(phase - 1).arrivals;
    while (load_acquire(control.arrived + phase - 1) < target) { }
  }
  workers_meet();
  program_trace(phase, 1);
}
// By one thread, after a barrier that follows the block's last stores of the phase.
__device__ __forceinline__ void arrive_phase(const ProgramControl& control, int phase) {
  asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(control.arrived + phase) : "memory");
}

// ---- Linears ----------------------------------------------------------------------------------------------------------------

// For a fused RMS norm x * weight / 16 is multiplied (16: room in f16 for residuals up to 10^6); the row's 16 / rms is
// applied at the end, since the product is linear.

// Waits for the phase, then this warp's units of x as fragments in shared memory, and their sums by group. No other warp
// reads them, so the block need not meet.
template <class T, int GROUP>
__device__ __forceinline__ void load_units_of_x(ProgramControl& control, const ProgramLinear& l, int phase, char* xs, float* sums, int x_stride) {
  const bool normed = l.norm == norm_rms;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, units = l.units, rows = control.rows, in = l.in;
  char* const place = xs + (lane / 8) * 64 + (lane / 4 % 2) * 8 + (lane / 2 % 2) * 4 + (lane % 2) * 32;
  constexpr int lanes = GROUP / 4;  // of a group
  auto put = [&](int n, int unit, uint2 v) {
    char* to = place + n * x_stride + unit * 256;
    *reinterpret_cast<uint32_t*>(to) = v.x;
    *reinterpret_cast<uint32_t*>(to + 16) = v.y;
    const float2 a = unpack2<T>(v.x), b = unpack2<T>(v.y);
    float sum = (a.x + a.y) + (b.x + b.y);
#pragma unroll
    for (int d = lanes / 2; d > 0; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if (lane % lanes == 0) sums[(unit * (128 / GROUP) + lane / lanes) * program_rows_max + n] = sum;
  };
  if (l.x_type == type_f32) {
    const float* x = static_cast<const float*>(l.x) + lane * 4;
    const float shrink = normed ? 0.0625f : 1.f;
    float4 w[2];
    auto weight = [&](int unit) {
      const int k = unit * 128 + lane * 4;
      float4 v = make_float4(1, 1, 1, 1);
      if (normed && k < in) v = __ldg(reinterpret_cast<const float4*>(l.norm_weight + k));
      return make_float4(v.x * shrink, v.y * shrink, v.z * shrink, v.w * shrink);
    };
#pragma unroll
    for (int i = 0; i < 2; ++i) w[i] = weight(warp + i * program_workers);  // before the wait
    wait_phase(control, phase);
#pragma unroll 1
    for (int n = 0; n < rows; ++n, x += l.x_stride) {
      float square = 0;
#pragma unroll 1
      for (int first = warp; first < units; first += 2 * program_workers) {
        float4 v[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int unit = first + i * program_workers;
          v[i] = unit * 128 + lane * 4 < in ? __ldcg(reinterpret_cast<const float4*>(x + unit * 128)) : make_float4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int unit = first + i * program_workers;
          if (unit >= units) break;
          const float4 u = first == warp ? w[i] : weight(unit);
          square += (v[i].x * v[i].x + v[i].y * v[i].y) + (v[i].z * v[i].z + v[i].w * v[i].w);
          put(n, unit, make_uint2(pack2<T>(v[i].x * u.x, v[i].y * u.y), pack2<T>(v[i].z * u.z, v[i].w * u.w)));
        }
      }
      if (normed) {
        square = warp_sum(square);
        if (lane == 0) control.squares[n][warp] = square;
      }
    }
  } else {
    wait_phase(control, phase);
    constexpr int batch = 6;
#pragma unroll 1
    for (int n = 0; n < rows; ++n) {
      const T* x = static_cast<const T*>(l.x) + static_cast<int64_t>(n) * l.x_stride + lane * 4;
#pragma unroll 1
      for (int first = warp; first < units; first += batch * program_workers) {
        uint2 v[batch];
#pragma unroll
        for (int i = 0; i < batch; ++i) {
          const int unit = first + i * program_workers;
          v[i] = unit * 128 + lane * 4 < in ? __ldcg(reinterpret_cast<const uint2*>(x + unit * 128)) : make_uint2(0, 0);
        }
#pragma unroll
        for (int i = 0; i < batch; ++i) if (first + i * program_workers < units) put(n, first + i * program_workers, v[i]);
      }
    }
  }
  __syncwarp();
  program_trace(phase, 2);
}

// Waits for the phase, then the rows of x as they are, for the whole block.
template <class T>
__device__ __forceinline__ void load_rows_of_x(ProgramControl& control, const ProgramLinear& l, int phase, char* xs, int x_stride) {
  const bool normed = l.norm == norm_rms;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, k_padded = l.units * dense_unit, rows = control.rows, in = l.in;
  wait_phase(control, phase);
  for (int n = 0; n < rows; ++n) {
    float square = 0;
#pragma unroll 1
    for (int k = thread * 8; k < k_padded; k += worker_threads * 8) {
      uint4 v = make_uint4(0, 0, 0, 0);
      if (k < in) {
        if (l.x_type == type_f32) {
          const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(l.x) + static_cast<int64_t>(n) * l.x_stride + k);
          float4 a = __ldcg(from), b = __ldcg(from + 1);
          if (normed) {
            const float4 wa = __ldg(reinterpret_cast<const float4*>(l.norm_weight + k)), wb = __ldg(reinterpret_cast<const float4*>(l.norm_weight + k) + 1);
            square += (a.x * a.x + a.y * a.y) + (a.z * a.z + a.w * a.w) + ((b.x * b.x + b.y * b.y) + (b.z * b.z + b.w * b.w));
            a.x *= 0.0625f * wa.x; a.y *= 0.0625f * wa.y; a.z *= 0.0625f * wa.z; a.w *= 0.0625f * wa.w;
            b.x *= 0.0625f * wb.x; b.y *= 0.0625f * wb.y; b.z *= 0.0625f * wb.z; b.w *= 0.0625f * wb.w;
          }
          v = pack8<T>(a, b);
        } else {
          v = __ldcg(reinterpret_cast<const uint4*>(static_cast<const T*>(l.x) + static_cast<int64_t>(n) * l.x_stride + k));
        }
      }
      *reinterpret_cast<uint4*>(xs + n * x_stride + k * 2) = v;
    }
    if (normed) {
      square = warp_sum(square);
      if (lane == 0) control.squares[n][warp] = square;
    }
  }
  workers_meet();
}

// What a warp of the tile's 16 rows has to know to finish it: found before the loop, used after it.
struct Finish {
  bool finishes;
  int row, column;              // of the output; a gated linear's tile has 8 columns
  float low, high;              // factors
  float old[2][2];              // residuals
};
template <bool DENSE>
__device__ __forceinline__ Finish prepare_finish(const ProgramControl& control, const ProgramLinear& l, int tile, bool mine) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, rows = control.rows;
  const bool single = rows == 1;
  // One row: lanes 0 to 7 store; more: lane (g, t) stores rows 2 t and 2 t + 1.
  Finish f{mine && (single ? lane < 8 : 2 * t < rows), single ? 0 : 2 * t, 0, 1, 1, {}};
  const int my_g = single ? lane % 8 : g;
  f.column = l.gated ? tile * 8 + my_g : tile * 16 + my_g;
  if (!f.finishes) return f;
  if (!DENSE || l.weight_scale) {
    f.low = __ldg(l.weight_scale + tile * 16 + my_g);
    f.high = __ldg(l.weight_scale + tile * 16 + my_g + 8);
  }
  if (l.residual && !l.gated) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (f.row + i < rows) {
        const float* from = static_cast<const float*>(l.y) + static_cast<int64_t>(f.row + i) * l.y_stride + f.column;
        if (f.column < l.out) f.old[i][0] = __ldcg(from);
        if (f.column + 8 < l.out) f.old[i][1] = __ldcg(from + 8);
      }
  }
  return f;
}
__device__ __forceinline__ float norm_factor(const ProgramControl& control, const ProgramLinear& l, int row) {
  float square[4] = {0, 0, 0, 0};
#pragma unroll
  for (int w = 0; w < program_workers; ++w) square[w % 4] += control.squares[row][w];
  return 16.f * rsqrtf(((square[0] + square[1]) + (square[2] + square[3])) / l.in + l.norm_epsilon);
}
// Rows g and g + 8 of a tile for one row of activations.
__device__ __forceinline__ void store_pair(const ProgramLinear& l, int row, int column, float low, float high, float old_low, float old_high) {
  const int64_t base = static_cast<int64_t>(row) * l.y_stride;
  if (l.gated) {
    if (column >= l.out / 2) return;
    if (l.bias) { low += l.bias[column]; high += l.bias[l.out / 2 + column]; }
    const float v = activate(low, l.activation) * high;
    if (l.residual) static_cast<float*>(l.y)[base + column] = __ldcg(static_cast<float*>(l.y) + base + column) + v;
    else store(l.y, l.y_type, base + column, v);
    return;
  }
  if (l.bias) { if (column < l.out) low += l.bias[column]; if (column + 8 < l.out) high += l.bias[column + 8]; }
  if (l.activation != activation_none) { low = activate(low, l.activation); high = activate(high, l.activation); }
  if (l.residual) { low += old_low; high += old_high; }
  if (column < l.out) store(l.y, l.y_type, base + column, low);
  if (column + 8 < l.out) store(l.y, l.y_type, base + column + 8, high);
}
// The warps' partial sums of tile `local` of the pass, by the warp of that number.
__device__ __forceinline__ void finish_tile(const ProgramControl& control, const ProgramLinear& l, const float* red, int local, const Finish& f) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float out[4] = {0, 0, 0, 0};
  if (control.rows == 1) {  // lane (warps 4 q to 4 q + 3, row g)
    const float2* from = reinterpret_cast<const float2*>(red) + (local * program_workers + lane / 8 * 4) * 8 + lane % 8;
#pragma unroll
    for (int w = 0; w < 4; ++w) { out[0] += from[w * 8].x; out[2] += from[w * 8].y; }
#pragma unroll
    for (int d = 8; d < 32; d *= 2) { out[0] += __shfl_xor_sync(0xffffffffu, out[0], d); out[2] += __shfl_xor_sync(0xffffffffu, out[2], d); }
    if (l.norm == norm_rms) {
      float square = control.squares[0][lane % program_workers];
#pragma unroll
      for (int d = program_workers / 2; d > 0; d /= 2) square += __shfl_xor_sync(0xffffffffu, square, d);
      const float norm = 16.f * rsqrtf(square / l.in + l.norm_epsilon);
      out[0] *= norm;
      out[2] *= norm;
    }
    if (f.finishes) store_pair(l, 0, f.column, out[0] * f.low, out[2] * f.high, f.old[0][0], f.old[0][1]);
    return;
  }
  if (!f.finishes) return;
  const float4* from = reinterpret_cast<const float4*>(red) + (local * program_workers * 8 + g) * 2 + t;
#pragma unroll
  for (int w = 0; w < program_workers; ++w) { const float4 v = from[w * 16]; out[0] += v.x; out[1] += v.y; out[2] += v.z; out[3] += v.w; }
  const bool normed = l.norm == norm_rms;
  const float first = normed ? norm_factor(control, l, f.row) : 1.f;
  store_pair(l, f.row, f.column, out[0] * f.low * first, out[2] * f.high * first, f.old[0][0], f.old[0][1]);
  if (f.row + 1 >= control.rows) return;
  const float second = normed ? norm_factor(control, l, f.row + 1) : 1.f;
  store_pair(l, f.row + 1, f.column, out[1] * f.low * second, out[3] * f.high * second, f.old[1][0], f.old[1][1]);
}

// A unit's share of a lane, out of the ring.
template <int GROUP> struct UnitWords {
  uint4 first, second;
  uint32_t scales[128 / GROUP], zeros[128 / GROUP];
};

// WIDE: rows of more than 32 units, whose fragments of x do not stay in registers.
template <class T, int GROUP, bool WIDE>
__device__ __noinline__ RingPlace linear_w4_phase(int phase, RingPlace at) {
  using U = Unit<GROUP>;
  using Raw = RawNibbles<T>;
  ProgramControl& control = program_control();
  const ProgramLinear& l = program_phase(phase).linear;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t full = shared_address(control.full), empty = shared_address(control.empty);
  const int units = l.units, rows = control.rows, slots = control.slots, slot_bytes = control.slot_bytes, x_stride = units * 256 + 64;
  const int ring_at = control.aux - slots * slot_bytes;
  float* red = reinterpret_cast<float*>(program_shared + control.aux);
  float* sums = red + program_sum_bytes / 4;  // [k / group][program_rows_max]
  char* xs = reinterpret_cast<char*>(sums + units * U::groups * program_rows_max);
  const TileRange tiles = tile_range(l);
  load_units_of_x<T, GROUP>(control, l, phase, xs, sums, x_stride);

  const bool single = rows == 1;
  // Columns beyond the rows stay zero; their lanes load nothing, for which shared memory would have no time.
  const bool live = g < rows;
  const char* x_lane = xs + (live ? g : 0) * x_stride + t * 16;
  const float* sums_lane = sums + min(t, 1) * 2;
  auto load_x_unit = [&](uint4 (&x)[4], int unit) {
#pragma unroll
    for (int b = 0; b < 4; ++b) if (live) x[b] = *reinterpret_cast<const uint4*>(x_lane + unit * 256 + b * 64);
  };
  auto load_unit = [&](UnitWords<GROUP>& w) {  // whatever lies there, for a warp that has no unit in the slot
    const char* from = program_shared + ring_at + at.slot * slot_bytes + warp * U::bytes;
    const uint32_t barrier = at.slot * 8;
    barrier_wait(full + barrier, at.parity);
    w.first = *reinterpret_cast<const uint4*>(from + lane * 16);
    w.second = *reinterpret_cast<const uint4*>(from + 512 + lane * 16);
#pragma unroll
    for (int group = 0; group < U::groups; ++group) {
      w.scales[group] = *reinterpret_cast<const uint32_t*>(from + U::scales + group * 32 + g * 4);
      w.zeros[group] = *reinterpret_cast<const uint8_t*>(from + U::zeros + group * 8 + g);
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(empty + barrier);
    at.next(slots);
  };
  float total[4] = {0, 0, 0, 0};
  auto add_part = [&](const float (&part)[4], uint32_t scales, uint32_t zeros, int index) {
    const float2 scale = unpack2<__half>(scales);
    const float2 sum = *reinterpret_cast<const float2*>(sums_lane + index * program_rows_max);
    // The zero point as a float by the same trick.
    const float zero_low = __uint_as_float(0x4B000000u | (zeros & 15u)) - (8388608.f - Raw::base_low), zero_high = __uint_as_float(0x4B000000u | (zeros >> 4)) - (8388608.f - Raw::base_high);
    total[0] += scale.x * (part[0] - zero_low * sum.x);
    total[1] += scale.x * (part[1] - zero_low * sum.y);
    total[2] += scale.y * (part[2] * Raw::factor_high - zero_high * sum.x);
    total[3] += scale.y * (part[3] * Raw::factor_high - zero_high * sum.y);
  };
  // One unit or, their chains of products interleaved, two.
  auto multiply = [&](const UnitWords<GROUP>& w, const uint4 (&x)[4], int unit, const UnitWords<GROUP>& v, const uint4 (&y)[4], int other, bool two) {
    const uint32_t a_words[8] = {w.first.x, w.first.y, w.first.z, w.first.w, w.second.x, w.second.y, w.second.z, w.second.w};
    const uint32_t b_words[8] = {v.first.x, v.first.y, v.first.z, v.first.w, v.second.x, v.second.y, v.second.z, v.second.w};
#pragma unroll
    for (int group = 0; group < U::groups; ++group) {
      float part[4] = {0, 0, 0, 0}, also[4] = {0, 0, 0, 0};
#pragma unroll
      for (int i = group * (GROUP / 16); i < (group + 1) * (GROUP / 16); ++i) {
        uint32_t a[4], b[4];
        Raw::decode(a_words[i], a);
        mma<T>(part, a, i % 2 ? x[i / 2].z : x[i / 2].x, i % 2 ? x[i / 2].w : x[i / 2].y);
        if (two) {
          Raw::decode(b_words[i], b);
          mma<T>(also, b, i % 2 ? y[i / 2].z : y[i / 2].x, i % 2 ? y[i / 2].w : y[i / 2].y);
        }
      }
      add_part(part, w.scales[group], w.zeros[group], unit * U::groups + group);
      if (two) add_part(also, v.scales[group], v.zeros[group], other * U::groups + group);
    }
  };
  uint4 x0[4] = {}, x1[4] = {};
  const bool two = units > program_workers, has0 = warp < units, has1 = warp + program_workers < units;
  if constexpr (!WIDE) {
    if (has0) load_x_unit(x0, warp);
    if (has1) load_x_unit(x1, warp + program_workers);
  }
#pragma unroll 1
  for (int tile0 = tiles.begin; tile0 < tiles.end; tile0 += l.pass) {
    const int count = min(static_cast<int>(l.pass), tiles.end - tile0);
    const Finish finish = prepare_finish<false>(control, l, tile0 + warp, warp < count);
    float* to = red + ((warp * 8 + g) * (single ? 2 : 8)) + (single ? 0 : t * 4);
    const int tile_floats = program_workers * 8 * (single ? 2 : 8);
    const bool writes = single ? t == 0 : t < 2;
#pragma unroll 1
    for (int local = 0; local < count; ++local, to += tile_floats) {
      UnitWords<GROUP> w0, w1;
      if constexpr (!WIDE) {
        load_unit(w0);
        if (two) load_unit(w1);
        if (has1) multiply(w0, x0, warp, w1, x1, warp + program_workers, true);
        else if (has0) multiply(w0, x0, warp, w0, x0, warp, false);
      } else {
#pragma unroll 1
        for (int unit = warp; unit - warp < units; unit += 2 * program_workers) {
          const bool more = unit - warp + program_workers < units, has = unit + program_workers < units;
          load_unit(w0);
          if (more) load_unit(w1);
          if (unit < units) load_x_unit(x0, unit);
          if (has) {
            load_x_unit(x1, unit + program_workers);
            multiply(w0, x0, unit, w1, x1, unit + program_workers, true);
          } else if (unit < units) {
            multiply(w0, x0, unit, w0, x0, unit, false);
          }
        }
      }
      if (writes) {
        if (single) *reinterpret_cast<float2*>(to) = make_float2(total[0], total[2]);
        else *reinterpret_cast<float4*>(to) = make_float4(total[0], total[1], total[2], total[3]);
      }
      total[0] = total[1] = total[2] = total[3] = 0;
    }
    program_trace(phase, 3);
    workers_meet();
    program_trace(phase, 4);
    if (warp < count) finish_tile(control, l, red, warp, finish);
    if (tile0 + l.pass < tiles.end) {
      workers_meet();  // the sums are read before the next pass writes them
    } else if (warp < count) {
      finishers_meet(count);
      program_trace(phase, 5);
      if (threadIdx.x == 0) arrive_phase(control, phase);
      program_trace(phase, 6);
    }
  }
  return at;
}

template <class T>
__device__ __noinline__ RingPlace linear_dense_phase(int phase, RingPlace at) {
  ProgramControl& control = program_control();
  const ProgramLinear& l = program_phase(phase).linear;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t full = shared_address(control.full), empty = shared_address(control.empty);
  const int units = l.units, rows = control.rows, slots = control.slots, slot_bytes = control.slot_bytes, x_stride = units * (dense_unit * 2) + 64, in = l.in;
  const char* ring = program_shared + control.aux - slots * slot_bytes;
  float* red = reinterpret_cast<float*>(program_shared + control.aux);
  char* xs = reinterpret_cast<char*>(red) + program_sum_bytes;
  const TileRange tiles = tile_range(l);
  load_rows_of_x<T>(control, l, phase, xs, x_stride);
  const bool single = rows == 1, live = g < rows;
  const char* x_lane = xs + (live ? g : 0) * x_stride + warp * 64 + t * 16;
  uint4 x = make_uint4(0, 0, 0, 0);
#pragma unroll 1
  for (int tile0 = tiles.begin; tile0 < tiles.end; tile0 += l.pass) {
    const int count = min(static_cast<int>(l.pass), tiles.end - tile0);
    const Finish finish = prepare_finish<true>(control, l, tile0 + warp, warp < count);
    float* to = red + ((warp * 8 + g) * (single ? 2 : 8)) + (single ? 0 : t * 4);
    const int tile_floats = program_workers * 8 * (single ? 2 : 8);
    const bool writes = single ? t == 0 : t < 2;
#pragma unroll 1
    for (int local = 0; local < count; ++local, to += tile_floats) {
      float even[4] = {0, 0, 0, 0}, odd[4] = {0, 0, 0, 0};
#pragma unroll 2
      for (int k = 0; k < in; k += dense_unit) {
        const int pitch = min(dense_unit, in - k) * 2 + 64;
        const char* from = ring + at.slot * slot_bytes + g * pitch + warp * 64 + t * 16;
        const uint32_t barrier = at.slot * 8;
        const bool has = k + warp * 32 < in;
        barrier_wait(full + barrier, at.parity);
        at.next(slots);
        uint4 low = make_uint4(0, 0, 0, 0), high = low;
        if (has) { low = *reinterpret_cast<const uint4*>(from); high = *reinterpret_cast<const uint4*>(from + 8 * pitch); }
        if (live) x = *reinterpret_cast<const uint4*>(x_lane + k * 2);
        __syncwarp();
        if (lane == 0) barrier_arrive(empty + barrier);
        const uint32_t a0[4] = {low.x, high.x, low.y, high.y}, a1[4] = {low.z, high.z, low.w, high.w};
        mma<T>(even, a0, x.x, x.y);
        mma<T>(odd, a1, x.z, x.w);
      }
      if (writes) {
        if (single) *reinterpret_cast<float2*>(to) = make_float2(even[0] + odd[0], even[2] + odd[2]);
        else *reinterpret_cast<float4*>(to) = make_float4(even[0] + odd[0], even[1] + odd[1], even[2] + odd[2], even[3] + odd[3]);
      }
    }
    workers_meet();
    if (warp < count) finish_tile(control, l, red, warp, finish);
    if (tile0 + l.pass < tiles.end) {
      workers_meet();
    } else if (warp < count) {
      finishers_meet(count);
      if (threadIdx.x == 0) arrive_phase(control, phase);
    }
  }
  return at;
}

template <class T>
__device__ __forceinline__ RingPlace linear_phase(int phase, RingPlace at) {
  const ProgramLinear& l = program_phase(phase).linear;
  const TileRange tiles = tile_range(l);
  if (tiles.begin == tiles.end) return at;
  program_trace(phase, 0);
  if (l.group == 0) return linear_dense_phase<T>(phase, at);
  const bool wide = l.units > 2 * program_workers;
  if (l.group == 128) return wide ? linear_w4_phase<T, 128, true>(phase, at) : linear_w4_phase<T, 128, false>(phase, at);
  if (l.group == 64) return wide ? linear_w4_phase<T, 64, true>(phase, at) : linear_w4_phase<T, 64, false>(phase, at);
  return wide ? linear_w4_phase<T, 32, true>(phase, at) : linear_w4_phase<T, 32, false>(phase, at);
}

// ---- Attention ---------------------------------------------------------------------------------------------------------------

// x as the pool would give it back.
template <class T> __device__ __forceinline__ void round_head(const AttentionArgs& a, float* x) {
  const int lane = threadIdx.x % 32;
  if (a.kv_type != kv_int8) {
    for (int i = lane; i < a.head_dim; i += 32) x[i] = to_float(from_float<T>(x[i]));
    return;
  }
  float largest = 0;
  for (int i = lane; i < a.head_dim; i += 32) largest = fmaxf(largest, fabsf(x[i]));
  largest = warp_max(largest);
  const bool some = largest > 1e-36f;
  const float inverse = some ? __fdiv_rn(127.f, largest) : 0.f, scale = some ? __fdiv_rn(largest, 127.f) : 0.f;
  for (int i = lane; i < a.head_dim; i += 32) x[i] = fminf(fmaxf(rintf(x[i] * inverse), -127.f), 127.f) * scale;
}

// Eight values of a KV row in the ring as T.
template <class T, bool INT8> __device__ __forceinline__ uint4 ring_load8(const char* tile, int element, bool valid) {
  if (!valid) return make_uint4(0, 0, 0, 0);
  if constexpr (INT8) return widen8<T>(*reinterpret_cast<const uint2*>(tile + element));
  else return *reinterpret_cast<const uint4*>(tile + element * 2);
}

// One head of q, k or v of the row by one warp, in registers: norm, rope (halves), rounding; for heads of 64 and 128.
// q to shared memory; k and v to the pool and, rounded, to `own`.
template <class T, int DP>
__device__ __forceinline__ void quick_head(const AttentionArgs& a, const AttentionItem& item, int which, int head, int slot, const float2* turns, T* q, float* own) {
  const int lane = threadIdx.x % 32;
  constexpr int half = DP / 2, pieces = half / 32;
  const T* from = static_cast<const T*>(a.qkv) + static_cast<int64_t>(item.row) * a.qkv_stride + static_cast<int64_t>(head) * DP;
  float first[pieces], second[pieces];
#pragma unroll
  for (int j = 0; j < pieces; ++j) {
    first[j] = load(from, a.type, lane + 32 * j);
    second[j] = load(from, a.type, half + lane + 32 * j);
  }
  if (which < 1) {
    const float* norm = which < 0 ? a.q_norm : a.k_norm;
    if (a.qk_norm) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < pieces; ++j) sum += first[j] * first[j] + second[j] * second[j];
      const float factor = rsqrtf(warp_sum(sum) / DP + a.qk_norm_epsilon);
#pragma unroll
      for (int j = 0; j < pieces; ++j) { first[j] *= factor * norm[lane + 32 * j]; second[j] *= factor * norm[half + lane + 32 * j]; }
    }
#pragma unroll
    for (int j = 0; j < pieces; ++j) {
      const float2 turn = turns[lane + 32 * j];
      const float x = first[j], y = second[j];
      first[j] = x * turn.x - y * turn.y;
      second[j] = y * turn.x + x * turn.y;
    }
  }
  T* pool = nullptr;
  if (which >= 0 && slot >= 0)
    pool = static_cast<T*>(which == 0 ? a.k : a.v) + ((static_cast<int64_t>(slot / kv_tokens) * a.kv_heads + item.kv_head) * kv_tokens + slot % kv_tokens) * DP;
#pragma unroll
  for (int j = 0; j < pieces; ++j) {
    const T x = from_float<T>(first[j]), y = from_float<T>(second[j]);
    if (which < 0) { q[lane + 32 * j] = x; q[half + lane + 32 * j] = y; continue; }
    own[which * DP + lane + 32 * j] = to_float(x);
    own[which * DP + half + lane + 32 * j] = to_float(y);
    if (pool) { pool[lane + 32 * j] = x; pool[half + lane + 32 * j] = y; }
  }
}

template <class T, int DP, bool INT8>
__device__ __noinline__ RingPlace attention_items(int phase, RingPlace at) {
  ProgramControl& control = program_control();
  const AttentionArgs& a = control.attention[phase & 1];
  char* aux = program_shared + control.aux;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  const uint32_t full = shared_address(control.full), empty = shared_address(control.empty);
  const int slots = control.slots, slot_bytes = control.slot_bytes, block_bytes = control.attention_bytes;
  const char* ring = aux - slots * slot_bytes;
  constexpr int q_pitch = DP * 2 + 16, KB = DP / 32, VB = DP / 64;
  constexpr float log2e = 1.4426950408889634f;
  char* q_shared = aux;                                                                        // [8][q_pitch]
  float* stats = reinterpret_cast<float*>(q_shared + program_heads * q_pitch);                 // [workers + 1][8][2]
  float* own = stats + (program_workers + 1) * program_heads * 2;                              // [2][DP]: the row's k and v
  float* merge = own + 2 * DP;                                     // [workers][live][DP]
  const int dim = a.head_dim, kv_bytes = kv_tokens * dim * (INT8 ? 1 : 2), per_slot = slot_bytes / block_bytes;
  const float scale = a.scale * log2e;
  const bool quick = !INT8 && dim == DP && a.rope_dims == DP && !a.rope_interleaved;
  AttentionItem item;
  bool waited = false;
  for (int index = blockIdx.x; index < control.items; index += gridDim.x) {
    if (index == static_cast<int>(blockIdx.x) && a.window == control.item_window) item = control.item;
    else attention_item(control, a, a.window, index, item);
    if (!waited) wait_phase(control, phase);
    else workers_meet();  // the scratch was read before this item writes it
    waited = true;
    T* out = static_cast<T*>(a.out) + static_cast<int64_t>(item.row) * a.out_stride + static_cast<int64_t>(item.head0) * dim;
    if (item.active <= 0) {
      if (item.active < 0) for (int i = thread; i < item.live * dim; i += worker_threads) out[i] = from_float<T>(0.f);
      continue;
    }
    const bool owner = item.split == item.active - 1;
    {  // queries to shared memory as T; the row's key and value to the pool and, as the pool would give them back, to `own`
      float* x = merge + warp * DP;
      const int slot = owner ? control.kv_slot[item.sequence] : -1;
      const float2* turns = control.turns[item.sequence];
      for (int i = warp; i < item.live + (owner ? 2 : 0); i += program_workers) {
        const int which = i - item.live;  // 0: k, 1: v
        if (quick) {
          quick_head<T, DP>(a, item, which, which < 0 ? item.head0 + i : a.heads + which * a.kv_heads + item.kv_head, slot, turns, reinterpret_cast<T*>(q_shared + i * q_pitch), own);
          continue;
        }
        head_load(a, item.row, which < 0 ? item.head0 + i : a.heads + which * a.kv_heads + item.kv_head, x);
        if (which < 1) head_prepare(a, item.row, which < 0 ? a.q_norm : a.k_norm, x, turns);
        if (which < 0) {
          T* q = reinterpret_cast<T*>(q_shared + i * q_pitch);
          for (int d = lane; d < DP; d += 32) q[d] = from_float<T>(d < dim ? x[d] : 0.f);
        } else {
          if (slot >= 0) head_write(a, slot, item.kv_head, which == 0 ? a.k : a.v, which == 0 ? a.k_scale : a.v_scale, x);
          round_head<T>(a, x);
          __syncwarp();
          for (int d = lane; d < dim; d += 32) own[which * DP + d] = x[d];
        }
        __syncwarp();
      }
    }
    workers_meet();
    if (warp >= program_workers - item.live) {  // the row's own token; the last warps, whose blocks come last
      const int h = program_workers - 1 - warp;
      const T* q = reinterpret_cast<const T*>(q_shared + h * q_pitch);
      float s = 0;
      if (owner) for (int d = lane; d < dim; d += 32) s += to_float(q[d]) * own[d];
      s = warp_sum(s);
      if (lane == 0) {
        stats[(program_workers * program_heads + h) * 2] = owner ? s * scale : -INFINITY;
        stats[(program_workers * program_heads + h) * 2 + 1] = owner ? 1.f : 0.f;
      }
    }
    program_trace(phase, 2);
    float best[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, o[VB][4][4] = {};
    for (int done = 0; done < item.blocks; done += per_slot) {
      const char* slot = ring + at.slot * slot_bytes;
      const uint32_t release = empty + at.slot * 8;
      barrier_wait(full + at.slot * 8, at.parity);
      at.next(slots);
      const int mine = (warp - done % program_workers + program_workers) % program_workers;  // in the slot, if it is that large
      for (int i = mine; i < min(per_slot, item.blocks - done); i += program_workers) {
        const char *k_tile = slot + i * block_bytes, *v_tile = k_tile + kv_bytes;
        const int base = (item.begin + done + i) * kv_tokens;
        auto visible = [&](int token) { return base + token >= item.first && base + token < item.position; };
        float s[4] = {0, 0, 0, 0}, s1[4] = {0, 0, 0, 0};
#pragma unroll
        for (int b = 0; b < KB; b += 2) {
          // Odd rows take the two halves in the other order, so that a quarter of the warp reads from all banks.
          uint4 k[2][2];
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int element = 32 * (b + (i ^ (g & 1))) + 8 * t;
            const bool inside = element < dim;
            k[i][0] = ring_load8<T, INT8>(k_tile, g * dim + element, inside);
            k[i][1] = ring_load8<T, INT8>(k_tile, (g + 8) * dim + element, inside);
          }
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const uint4 k0 = g & 1 ? k[i ^ 1][0] : k[i][0], k1 = g & 1 ? k[i ^ 1][1] : k[i][1];
            const uint4 q = *reinterpret_cast<const uint4*>(q_shared + g * q_pitch + (b + i) * 64 + t * 16);
            const uint32_t a0[4] = {k0.x, k1.x, k0.y, k1.y}, a1[4] = {k0.z, k1.z, k0.w, k1.w};
            mma<T>(s, a0, q.x, q.y);
            mma<T>(s1, a1, q.z, q.w);
          }
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) s[j] += s1[j];
        float k_scale[2] = {1, 1}, v_scale[2] = {1, 1};
        if constexpr (INT8) {
          const float* scales = reinterpret_cast<const float*>(v_tile + kv_bytes + kv_tokens * 16);
          k_scale[0] = scales[g]; k_scale[1] = scales[g + 8];
          v_scale[0] = scales[kv_tokens + g]; v_scale[1] = scales[kv_tokens + g + 8];
        }
        const bool low = visible(g), high = visible(g + 8);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          s[j] = low ? s[j] * scale * k_scale[0] : -INFINITY;
          s[j + 2] = high ? s[j + 2] * scale * k_scale[1] : -INFINITY;
          float top = fmaxf(s[j], s[j + 2]);
          top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 4));
          top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 8));
          top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 16));
          const float next = fmaxf(best[j], top), reference = next == -INFINITY ? 0.f : next, shrink = exp2f(best[j] - reference);
          best[j] = next;
          s[j] = exp2f(s[j] - reference);
          s[j + 2] = exp2f(s[j + 2] - reference);
          sum[j] = sum[j] * shrink + s[j] + s[j + 2];
#pragma unroll
          for (int b = 0; b < VB; ++b)
#pragma unroll
            for (int c = 0; c < 4; ++c) { o[b][c][j] *= shrink; o[b][c][j + 2] *= shrink; }
        }
        const float low_scale = low ? v_scale[0] : 0.f, high_scale = high ? v_scale[1] : 0.f;
        const uint32_t p0 = transpose8x8(pack2<T>(s[0] * low_scale, s[1] * low_scale));
        const uint32_t p1 = transpose8x8(pack2<T>(s[2] * high_scale, s[3] * high_scale));
#pragma unroll
        for (int b = 0; b < VB; ++b) {
          const bool inside = 64 * b + 8 * g < dim;
          uint32_t v[4][4];
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const int token = 2 * t + (j & 1) + (j & 2) * 4;
            const uint4 loaded = ring_load8<T, INT8>(v_tile + token * 16, token * dim + 64 * b + 8 * g, inside && visible(token));
            v[j][0] = loaded.x; v[j][1] = loaded.y; v[j][2] = loaded.z; v[j][3] = loaded.w;
          }
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const uint32_t f[4] = {__byte_perm(v[0][c], v[1][c], 0x5410), __byte_perm(v[0][c], v[1][c], 0x7632),
                                   __byte_perm(v[2][c], v[3][c], 0x5410), __byte_perm(v[2][c], v[3][c], 0x7632)};
            mma<T>(o[b][c], f, p0, p1);
          }
        }
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(release);
    }
    program_trace(phase, 3);
    // Merge the warps: lane (g, t) holds dims 64 b + 8 g + 2 c + {0, 1} of heads 2 t, 2 t + 1.
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      sum[j] += __shfl_xor_sync(0xffffffffu, sum[j], 4);
      sum[j] += __shfl_xor_sync(0xffffffffu, sum[j], 8);
      sum[j] += __shfl_xor_sync(0xffffffffu, sum[j], 16);
      const int h = 2 * t + j;
      if (h >= item.live) continue;
      if (g == 0) { stats[(warp * program_heads + h) * 2] = best[j]; stats[(warp * program_heads + h) * 2 + 1] = sum[j]; }
      float* to = merge + (warp * item.live + h) * DP;
#pragma unroll
      for (int b = 0; b < VB; ++b)
#pragma unroll
        for (int c = 0; c < 4; ++c) *reinterpret_cast<float2*>(to + 64 * b + 8 * g + 2 * c) = make_float2(o[b][c][j], o[b][c][j + 2]);
    }
    workers_meet();
    const int64_t slice = dim + 2;  // a partial: sums [dim], best, total
    float* partial = a.partial + (static_cast<int64_t>(item.sequence) * a.heads + item.head0) * a.splits * slice;
    for (int i = thread; i < item.live * DP; i += worker_threads) {
      const int h = i / DP, d = i % DP;
      if (d >= dim) continue;
      float top = -INFINITY;
#pragma unroll
      for (int w = 0; w <= program_workers; ++w) top = fmaxf(top, stats[(w * program_heads + h) * 2]);
      const float own_weight = exp2f(stats[(program_workers * program_heads + h) * 2] - top);
      float total = own_weight, value = owner ? own_weight * own[DP + d] : 0.f;
#pragma unroll
      for (int w = 0; w < program_workers; ++w) {
        const float weight = exp2f(stats[(w * program_heads + h) * 2] - top);
        total += weight * stats[(w * program_heads + h) * 2 + 1];
        value += weight * merge[(w * item.live + h) * DP + d];
      }
      if (item.active == 1) {
        out[h * dim + d] = from_float<T>(value / total);
      } else {
        float* to = partial + (static_cast<int64_t>(h) * a.splits + item.split) * slice;
        to[d] = value;
        if (d == 0) { to[dim] = top; to[dim + 1] = total; }
      }
    }
    if (item.active > 1) {
      workers_meet();
      if (thread == 0) {
        int32_t* counter = a.counters + (static_cast<int64_t>(item.sequence) * a.heads + item.head0);
        __threadfence();
        control.last = atomicAdd(counter, 1) == item.active - 1;
        if (control.last) *counter = 0;
        __threadfence();
      }
      workers_meet();
      if (control.last)
        for (int i = thread; i < item.live * dim; i += worker_threads) {
          const int h = i / dim, d = i % dim;
          const float* from = partial + static_cast<int64_t>(h) * a.splits * slice;
          float top = -INFINITY, total = 0, value = 0;
          for (int s = 0; s < item.active; ++s) top = fmaxf(top, __ldcg(from + s * slice + dim));
          for (int s = 0; s < item.active; ++s) {
            const float weight = exp2f(__ldcg(from + s * slice + dim) - top);
            total += weight * __ldcg(from + s * slice + dim + 1);
            value += weight * __ldcg(from + s * slice + d);
          }
          out[i] = from_float<T>(value / total);
        }
    }
  }
  workers_meet();
  program_trace(phase, 5);
  if (thread == 0) arrive_phase(control, phase);
  program_trace(phase, 6);
  return at;
}

template <class T>
__device__ __forceinline__ RingPlace attention_phase(int phase, RingPlace at) {
  ProgramControl& control = program_control();
  if (static_cast<int>(blockIdx.x) >= control.items) return at;
  const ProgramAttention& from = program_phase(phase).attention;
  program_trace(phase, 0);
  AttentionArgs& a = control.attention[phase & 1];
  if (threadIdx.x == 0) {  // read after the phase's wait, last read two phases ago
    a.k = from.k; a.v = from.v; a.k_scale = from.k_scale; a.v_scale = from.v_scale;
    a.q_norm = from.q_norm; a.k_norm = from.k_norm; a.inverse_frequency = from.inverse_frequency;
    a.qkv = from.qkv; a.out = from.out; a.scale = from.scale; a.rope_amplitude = from.rope_amplitude; a.window = from.window;
  }
  workers_meet();
  if (control.turns_of != from.inverse_frequency) {  // mostly only in the first attention of a step
    const int pairs = a.rope_dims / 2;
    for (int i = threadIdx.x; i < control.rows * pairs; i += worker_threads) control.turns[i / pairs][i % pairs] = rope_turn(a, control.row[i / pairs], i % pairs);
    workers_meet();
    if (threadIdx.x == 0) control.turns_of = from.inverse_frequency;
  }
  const bool int8 = a.kv_type == kv_int8;
  if (a.head_dim <= 64) return int8 ? attention_items<T, 64, true>(phase, at) : attention_items<T, 64, false>(phase, at);
  return int8 ? attention_items<T, 128, true>(phase, at) : attention_items<T, 128, false>(phase, at);
}

template <class T, bool BULK>
__device__ __forceinline__ void decode_program(const Program& p) {
  ProgramControl& control = program_control();
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const uint32_t full = shared_address(control.full), empty = shared_address(control.empty);
  const int ring_at = program_control_bytes + (p.phases * static_cast<int>(sizeof(ProgramPhase)) + 127) / 128 * 128;
  if (thread < p.slots) {
    barrier_init(full + thread * 8, BULK ? 1 : 32);
    barrier_init(empty + thread * 8, program_workers);
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
  }
  constexpr int words = static_cast<int>(sizeof(AttentionArgs) / 4);
  for (int i = thread; i < words * 2; i += program_threads) reinterpret_cast<uint32_t*>(control.attention)[i] = reinterpret_cast<const uint32_t*>(&p.attention)[i < words ? i : i - words];
  if (warp == 1) {
    // What describes the step was uploaded before its first kernel.
    if (lane < p.rows && p.attention.row_begin) {
      const int row = __ldcg(p.attention.row_begin + lane);
      control.row[lane] = row;
      control.context[lane] = __ldcg(p.attention.context + lane);
      control.kv_slot[lane] = __ldcg(p.attention.kv_slot + row);
    }
    __syncwarp();
    if (lane == 0) {
      control.arrived = p.arrived; control.rows = p.rows;
      control.slots = p.slots; control.slot_bytes = p.slot_bytes; control.aux = ring_at + p.slots * p.slot_bytes; control.attention_bytes = p.attention_bytes;
      control.turns_of = nullptr;
      control.items = 0;
      if (p.attention.row_begin) {
        const AttentionArgs& a = p.attention;
        control.per_kv = a.heads / a.kv_heads;
        control.head_tiles = (control.per_kv + program_heads - 1) / program_heads;
        control.whole = p.rows * a.kv_heads * control.head_tiles;
        control.splits = max(1, min(a.splits, static_cast<int>(gridDim.x) / control.whole));
        control.items = control.whole * control.splits;
        control.item_window = a.window;
        if (static_cast<int>(blockIdx.x) < control.items) attention_item(control, a, a.window, blockIdx.x, control.item);
      }
    }
  }
  __syncthreads();
  if (warp == program_workers) {
    Loader<BULK> loader{p, shared_address(program_shared) + ring_at, full, empty, lane, 0, RingPlace{}, RingPlace{}, evict_first_policy()};
    loader.run();
    return;
  }
  for (int i = thread; i < p.phases * static_cast<int>(sizeof(ProgramPhase) / 4); i += worker_threads)
    reinterpret_cast<uint32_t*>(&program_phase(0))[i] = reinterpret_cast<const uint32_t*>(p.phase)[i];
  workers_meet();
  RingPlace at;
#pragma unroll 1
  for (int i = 0; i < p.phases; ++i) {
    if (program_phase(i).kind == phase_linear) at = linear_phase<T>(i, at);
    else at = attention_phase<T>(i, at);
  }
  // The last block to end sets the counters back: every other has passed all waits.
  workers_meet();
  if (thread == 0) {
    __threadfence();
    control.last = atomicAdd(p.arrived - 1, 1) == static_cast<int>(gridDim.x) - 1;
  }
  workers_meet();
  if (control.last)
    for (int i = thread; i <= p.phases; i += worker_threads) p.arrived[i - 1] = 0;
}

}  // namespace hearth::kernels::cuda
