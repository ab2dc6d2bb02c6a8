// The decode program's shared memory, and the ring that its loading warps fill: weights and the KV history, in the order
// in which the workers will want them, through all phases, as far ahead as the ring reaches. None of it depends on
// anything that the step computes.
#pragma once

#include "kernels/cuda/generic/attention_prepare.cuh"
#include "kernels/cuda/program_params.h"
#include "kernels/cuda/ring_reads.cuh"
#include "kernels/cuda/sm80/linear_rows_w4.cuh"

namespace hearth::kernels::cuda {

constexpr int worker_threads = program_workers * 32;
__host__ __device__ constexpr int finishing_threads(bool bulk) { return worker_threads + program_finishers(bulk) * 32; }  // workers and finishers

// ---- Barriers -----------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void barrier_init(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// After them: others, and the copy engine, may use the barriers.
__device__ __forceinline__ void barriers_initialised() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
// Arrives, and has the barrier wait for so many bytes more.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
#endif
}
// One thread of a warp, known to the compiler to be only one: for a copy by others it makes a loop over lanes.
__device__ __forceinline__ bool elected() {
  uint32_t one = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("{\n.reg .pred one;\nelect.sync _|one, 0xffffffff;\nselp.u32 %0, 1, 0, one;\n}" : "=r"(one));
#endif
  return one;
}
// Has the barrier wait for so many bytes more.
__device__ __forceinline__ void barrier_announce(uint32_t barrier, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
#endif
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, int parity) {
#if __CUDA_ARCH__ >= 900
  asm volatile("{\n.reg .pred done;\nwait:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra wait;\n}" ::"r"(barrier), "r"(parity) : "memory");
#else
  asm volatile("{\n.reg .pred done;\nwait:\nmbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n@!done bra wait;\n}" ::"r"(barrier), "r"(parity) : "memory");
#endif
}
__device__ __forceinline__ bool barrier_passed(uint32_t barrier, int parity) {
  uint32_t passed;
  asm volatile("{\n.reg .pred done;\nmbarrier.test_wait.parity.shared.b64 done, [%1], %2;\nselp.u32 %0, 1, 0, done;\n}" : "=r"(passed) : "r"(barrier), "r"(parity) : "memory");
  return passed;
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(barrier) : "memory");
}
// By a whole warp, one arrival.
__device__ __forceinline__ void barrier_arrive_warp(uint32_t barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}
__device__ __forceinline__ uint2 shared_load8(uint32_t address) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
  return v;
}
__device__ __forceinline__ void shared_store4(uint32_t address, float v) { asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(v) : "memory"); }
__device__ __forceinline__ void shared_store8(uint32_t address, float2 v) { asm volatile("st.shared.v2.f32 [%0], {%1,%2};" ::"r"(address), "f"(v.x), "f"(v.y) : "memory"); }
// Read where it is asked for, so that it is in no register before.
__device__ __forceinline__ int thread_index() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}
// once_read, where bulk copies fill the ring. What cp.async writes is ordered behind an arrival as any other access is.
__device__ __forceinline__ uint32_t once_slot_read(uint32_t words, int small) {
#ifdef HEARTH_PROGRAM_BULK
  return once_read(words, small);
#else
  return 0;
#endif
}
// What was found out from a value before is found out anew behind this. There are seven predicates; what the compiler carries
// beyond these it keeps in memory.
template <class V> __device__ __forceinline__ void kept(V& v) { asm volatile("" : "+r"(v)); }
__device__ __forceinline__ void workers_meet() { asm volatile("bar.sync 1, %0;" ::"n"(worker_threads) : "memory"); }
// What the first loading warp waits for: workers and finishers are done; finishers know that the last linear's input has been read.
template <bool BULK> __device__ __forceinline__ void block_done() { asm volatile("bar.arrive 2, %0;" ::"n"(finishing_threads(BULK) + 32) : "memory"); }
template <bool BULK> __device__ __forceinline__ void await_block() { asm volatile("bar.sync 2, %0;" ::"n"(finishing_threads(BULK) + 32) : "memory"); }
template <int FINISHERS> __device__ __forceinline__ void input_read() { asm volatile("bar.arrive 3, %0;" ::"n"(FINISHERS * 32 + 32) : "memory"); }
template <int FINISHERS> __device__ __forceinline__ void await_input_read() { asm volatile("bar.sync 3, %0;" ::"n"(FINISHERS * 32 + 32) : "memory"); }

// ---- Shared memory -----------------------------------------------------------------------------------------------------

struct AttentionItem { int sequence, row, kv_head, head0, live, split, active, position, first, begin, blocks; };  // begin, blocks: history of this part

// Where a worker is in its item's history: its next KV block, in the slot at hand; blocks in slots before.
struct HistoryAt { int16_t mine, done; };

// Tiles of a linear that spares the blocks that attend: of each of these, and of the others (see LinearShape).
struct SparedTiles { int16_t attending, per, extra; };

struct ProgramControl {
  uint64_t full[program_slots_max], empty[program_slots_max];  // of the ring; then, in this order (see Workplace),
  uint64_t summed[program_sum_slots_max], taken[program_sum_slots_max];                                // of the tiles' sums
  AttentionArgs attention;
  uint4 zeros;                                                 // what is multiplied where a column has no part (see LanePlace)
  float squares[program_rows_max][program_workers];
  uint32_t* exchange;
  const LinearOperands* linear;
  const float* floats;
  uint32_t end;                                                // a packed PhasePlace behind the last phase
  int rows, slots, slot_bytes, slot_units, sum_slots, sums, x, x_rows, turns, x_stride, unit_sums, attention_bytes, attention_per_slot, block;  // sums, x, x_rows, turns: where they begin
  int items, whole, splits, per_kv, head_tiles;                // of an attention
  int attending;                                               // blocks from the first on, where linears spare them; 0: nowhere
  SparedTiles spared[program_shapes_max];
  AttentionItem item;                                          // the one at hand, at first the block's first
  AttentionItem loaded[program_loaders(false)];                // the one that a loading warp is at
  int item_index, item_window, item_wanted;                    // of `item`; the next one to be at hand
  HistoryAt history[program_workers];
  int begun;                                                   // one more than the last linear whose activations worker 0 has
  int row[program_rows_max], context[program_rows_max], kv_slot[program_rows_max];
  const float* turns_of;                                       // the frequencies that the turns were made from
};
static_assert(sizeof(ProgramControl) <= program_control_bytes);

// Dynamic shared memory: the control, the shapes and phases, attentions' operands, rope's turns, the ring, the tiles' sums, activations (or what attention
// needs). Named here, so that accesses are known to be to shared memory.
extern __shared__ __align__(128) char program_shared[];
__device__ __forceinline__ ProgramControl& program_control() { return *reinterpret_cast<ProgramControl*>(program_shared); }
// A linear's operands in the kernel's parameters, which are memory like any other: for who reads them seldom.
__device__ __forceinline__ const LinearOperands& linear_operands(int i) { return program_control().linear[i]; }
// A row's turns of rope: cosine and sine by pair of dimensions.
__device__ __forceinline__ float2* program_turns(const ProgramControl& control, int row) { return reinterpret_cast<float2*>(program_shared + control.turns + row * program_turns_bytes); }
// Null where there are none.
__device__ __forceinline__ const float* program_floats(const ProgramControl& control, int32_t at) { return at == floats_none ? nullptr : control.floats + static_cast<int64_t>(at) * 4; }
__device__ __forceinline__ const AttentionOperands& attention_operands(const ProgramPhase& phase) { return *reinterpret_cast<const AttentionOperands*>(program_shared + phase.at * 8); }
__device__ __forceinline__ const ProgramPhase& program_phase(int i) { return reinterpret_cast<const ProgramPhase*>(program_shared + program_control_bytes + program_shapes_bytes)[i]; }
__device__ __forceinline__ const ProgramShape& program_shape(int i) { return reinterpret_cast<const ProgramShape*>(program_shared + program_control_bytes)[i]; }
__device__ __forceinline__ const LinearShape& linear_shape(const ProgramPhase& phase) { return program_shape(phase.shape).linear; }

// HEARTH_PROGRAM_TRACE: when a phase's points were passed in one block, and how long was waited in it, for
// hearth-gpu-bench --what trace. Kept in the exchange behind what any benched step has words for.
#ifdef HEARTH_PROGRAM_TRACE
__device__ __forceinline__ void program_trace(int phase, int point, long long value) {
  if (blockIdx.x == HEARTH_PROGRAM_TRACE && threadIdx.x % 32 == 0 && phase < 64) reinterpret_cast<long long*>(program_control().exchange + program_trace_at)[phase * 16 + point] = value;
}
// Points 0 to 5 of all blocks also by the clock that they share.
__device__ __forceinline__ void program_trace(int phase, int point) {
  program_trace(phase, point, clock64());
  long long now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  if (threadIdx.x % 32 == 0 && phase < 64 && point < 6) reinterpret_cast<long long*>(program_control().exchange + program_trace_all_at)[(phase * 6 + point) * gridDim.x + blockIdx.x] = now;
}
struct TraceWait {
  long long sum = 0, since = 0;
  __device__ __forceinline__ void begin() { since = clock64(); }
  __device__ __forceinline__ void end() { sum += clock64() - since; }
  __device__ __forceinline__ void leave(int phase, int point) { program_trace(phase, point, sum); sum = 0; }
};
#else
__device__ __forceinline__ void program_trace(int, int) {}
struct TraceWait {
  __device__ __forceinline__ void begin() {}
  __device__ __forceinline__ void end() {}
  __device__ __forceinline__ void leave(int, int) {}
};
#endif

// A ring as one side of it sees it.
struct RingPlace {
  int slot = 0, parity = 0;
  __device__ __forceinline__ void next(int slots) { if (++slot == slots) { slot = 0; parity ^= 1; } }
};

// Where a warp is. Functions take it and return it in one register: more goes through memory, and so does what their caller
// keeps across a call.
struct PhasePlace {
  int phase = 0;
  RingPlace ring, sums;  // both sides of the tiles' sums go through their slots in the same order
  __device__ __forceinline__ PhasePlace() {}
  __device__ __forceinline__ explicit PhasePlace(uint32_t packed) : phase(packed >> 16) {
    ring = {static_cast<int>(packed >> 8 & 0x7f), static_cast<int>(packed >> 15 & 1)};
    sums = {static_cast<int>(packed & 0x7f), static_cast<int>(packed >> 7 & 1)};
  }
  __device__ __forceinline__ uint32_t packed() const { return phase << 16 | ring.parity << 15 | ring.slot << 8 | sums.parity << 7 | sums.slot; }
};
constexpr uint32_t next_phase = 1 << 16;  // added to a packed place

// ---- What a block does in a phase ----------------------------------------------------------------------------------------------

// Blocks that share the K of their tiles lie side by side, from the phase's start on: each multiplies its part of it for the
// tiles of all of them, and sends the others what it has of theirs (decode_program_finish.cuh).
__device__ __forceinline__ int block_from(int start) { return static_cast<int>(blockIdx.x) - start + (static_cast<int>(blockIdx.x) < start ? gridDim.x : 0); }
__device__ __forceinline__ int part_of_block(const LinearShape& l, const ProgramPhase& phase) { return block_from(phase.start) % l.parts; }
struct KPart { int begin, units; };  // in units
__device__ __forceinline__ KPart k_part(const LinearShape& l, const ProgramPhase& phase) {
  if (l.parts == 1) return {0, l.units};
  const int begin = part_of_block(l, phase) * l.part_units;
  return {begin, min(static_cast<int>(l.part_units), l.units - begin)};
}

// Tiles of a block, by ordinals that count from block to block: [begin, end). Blocks from `start` on have one more, as many
// as there are extra; the host moves `start` along, so that over a step all have the same. One row's tiles are dealt in turn:
// all blocks multiply first what the next linear's workers convert first. Several rows' are dealt in stretches, since their
// finishers' registers are all taken, and so are those of linears that spare the blocks that attend: the others share what is
// left alike.
struct TileRange {
  int begin, end, first, step;
  __device__ __forceinline__ int tile(int ordinal) const { return first + (ordinal - begin) * step; }
};
// on: of the block so many on (round about) among those that share K.
__device__ __forceinline__ TileRange tile_range(const LinearShape& l, const ProgramPhase& phase, int on = 0) {
  const ProgramControl& control = program_control();
  int block = blockIdx.x, blocks = gridDim.x, start = phase.start, first = 0, per = l.per, extra = l.extra;
  bool in_turn = control.rows == 1;
  if (phase.spares && control.attending > 0) {
    const SparedTiles& spared = control.spared[phase.shape];
    if (block < control.attending) return {block * spared.attending, (block + 1) * spared.attending, block * spared.attending, 1};
    in_turn = false;
    first = control.attending * spared.attending;
    block -= control.attending;
    blocks -= control.attending;
    if (start >= blocks) start -= blocks;
    per = spared.per;
    extra = spared.extra;
  }
  block -= start;
  if (block < 0) block += blocks;
  if (on > 0) {
    const int part = block % l.parts;
    block += (part + on) % l.parts - part;
  }
  const int begin = first + block * per + min(block, extra);
  return {begin, begin + per + (block < extra ? 1 : 0), in_turn ? block : begin, in_turn ? blocks : 1};
}

__device__ __forceinline__ int tiles_multiplied(const LinearShape& l, const ProgramPhase& phase) {
  if (l.parts > 1) return l.parts * l.per + max(0, min(static_cast<int>(l.parts), l.extra - block_from(phase.start) / l.parts * l.parts));
  const TileRange tiles = tile_range(l, phase);
  return tiles.end - tiles.begin;
}

// KV blocks of a part of a context of so many: more than one for each worker are shared, evenly.
__device__ __forceinline__ int split_blocks(const ProgramControl& control, int blocks) {
  return blocks <= program_workers ? program_workers : max(program_split_blocks, (blocks + control.splits - 1) / control.splits);
}

// Item `index` < control.items. active 0: nothing to do; -1: zeros to write.
__device__ __noinline__ void attention_item(const ProgramControl& control, const AttentionArgs& a, int window, int index, AttentionItem& item) {
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
  const int per_split = split_blocks(control, blocks);
  item.active = max(1, (blocks + per_split - 1) / per_split);
  if (item.split >= item.active) { item.active = 0; return; }
  item.begin = block_first + item.split * per_split;
  item.blocks = min(per_split, block_first + blocks - item.begin);
}

// ---- The loading warps --------------------------------------------------------------------------------------------------------

// BULK: with Hopper's bulk copies by one warp, otherwise with cp.async by both; `lane` counts through them.
template <bool BULK>
struct Loader {
  static constexpr int lanes = program_loaders(BULK) * 32, stride = lanes * 16;
  const Program& p;
  uint32_t ring, full, empty;
  int lane, filled = 0, copied = 0;
  RingPlace at, landed;
  uint64_t policy;
  int item_index = -1, item_window = 0;                // of control.loaded
  int ids_from = -1, next_from = -1;                   // the first KV block that `ids` is of, and `next_ids`
  int32_t ids = 0, next_ids = 0;                       // of KV blocks in the pool, one a lane; the next ones are on their way
  TraceWait flying = {}, taken = {};

  // Waits until the slot is free and fewer than `flight` copies are under way: more than the memory needs to be busy
  // would only make everybody's words in the exchange wait behind them. Two instead of one where the workers have used up
  // what is here.
  __device__ __forceinline__ void acquire(int flight) {
    if (flight == 1 && used_up()) flight = 2;
    flying.begin();
    for (; filled - copied >= flight; ++copied) { barrier_wait(full + landed.slot * 8, landed.parity); landed.next(p.slots); }
    flying.end();
    taken.begin();
    if (filled >= p.slots) barrier_wait(empty + at.slot * 8, at.parity ^ 1);
    taken.end();
    ++filled;
  }
  // Whether the workers are done with all but the last slot that was filled.
  __device__ __forceinline__ bool used_up() const {
    if (filled < 2) return true;
    const int slot = at.slot - 2;
    return slot < 0 ? barrier_passed(empty + (slot + p.slots) * 8, at.parity ^ 1) : barrier_passed(empty + slot * 8, at.parity);
  }
  __device__ __forceinline__ void copy_bulk(uint32_t to, const char* from, int bytes, uint32_t barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(from), "r"(bytes), "r"(barrier), "l"(policy) : "memory");
  }
  // One stretch of weights of a linear, read once: one bulk copy where there is such a thing.
  __device__ __forceinline__ void load_weights(int index, const char* from, int bytes) {
    if constexpr (BULK) {
#if __CUDA_ARCH__ >= 900
      acquire(flight_of(index));
      const uint32_t to = ring + at.slot * p.slot_bytes;
      const uint32_t barrier = full + at.slot * 8;
      if (elected()) {
        barrier_expect(barrier, bytes);
        copy_bulk(to, from, bytes, barrier);
      }
      __syncwarp();
      at.next(p.slots);
#endif
    } else {  // what can be found out before the slot is free is found out then: a ring that is used up waits for these instructions
      uint32_t to = ring + at.slot * p.slot_bytes + lane * 16;
      int left = bytes - lane * 16;
      from += lane * 16;
      asm volatile("" : "+r"(to), "+l"(from), "+r"(left));
      acquire(p.flight);
      spread_once(to, from, left);
      spread_done();
    }
  }
  // 16 bytes a lane, COUNT times from one address on.
  template <int COUNT> __device__ __forceinline__ void copies(uint32_t to, const char* from) const {
    if constexpr (COUNT > 1) copies<COUNT - 1>(to, from);
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0 + %3], [%1 + %3], 16, %2;" ::"r"(to), "l"(from), "l"(policy), "n"((COUNT - 1) * stride) : "memory");
  }
  // What is read once, by a lane from its first 16 bytes on; so many bytes are left from there.
  __device__ __forceinline__ void spread_once(uint32_t to, const char* from, int left) const {
#pragma unroll 1
    for (; left > 7 * stride; left -= 8 * stride, to += 8 * stride, from += 8 * stride) copies<8>(to, from);
    if (left > 3 * stride) {
      copies<4>(to, from);
      left -= 4 * stride; to += 4 * stride; from += 4 * stride;
    }
#pragma unroll 1
    for (; left > 0; left -= stride, to += stride, from += stride) copies<1>(to, from);
  }
  // Many short rows: 16 bytes a lane; a bulk copy each would take longer.
  __device__ __forceinline__ void spread(uint32_t to, const char* from, int bytes) {
    for (int i = lane * 16; i < bytes; i += stride) copy16(to + i, from + i);
  }
  __device__ __forceinline__ void spread_done() {
    const uint32_t barrier = full + at.slot * 8;
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
    at.next(p.slots);
  }

  // 16 rows of 512 weights of 16 bits a slot, rows 64 bytes apart more than they are long: different banks.
  __device__ __forceinline__ void dense(const LinearShape& l, const char* weight, const TileRange& tiles) {
    for (int tile = tiles.begin; tile < tiles.end; ++tile) {
      const char* from = weight + static_cast<int64_t>(tiles.tile(tile)) * 16 * l.in * 2;
      for (int k = 0; k < l.in; k += dense_unit) {
        const int bytes = min(dense_unit, l.in - k) * 2;
        acquire(p.flight);
        const uint32_t to = ring + at.slot * p.slot_bytes;
        if constexpr (BULK) {
#if __CUDA_ARCH__ >= 900
          const uint32_t barrier = full + at.slot * 8;
          if (lane == 0) barrier_expect(barrier, 16 * bytes);
          __syncwarp();
          if (lane < 16) copy_bulk(to + lane * (bytes + 64), from + (static_cast<int64_t>(lane) * l.in + k) * 2, bytes, barrier);
          __syncwarp();
          at.next(p.slots);
#endif
        } else {
#pragma unroll 4
          for (int row = 0; row < 16; ++row)
            for (int i = lane * 16; i < bytes; i += stride)
              copy16_once(to + row * (bytes + 64) + i, from + (static_cast<int64_t>(row) * l.in + k) * 2 + i, policy);
          spread_done();
        }
      }
    }
  }

  // Slots of a linear that may be under way: more once its activations are here, when nobody in the block waits for words until
  // it ends.
  __device__ __forceinline__ int flight_of(int index) const { return p.flight + (*const_cast<volatile int*>(&program_control().begun) > index ? p.more : 0); }
  // A slot is 16 or 32 units of one tile, or its last ones.
  __device__ __forceinline__ void linear(int index, const char* weight) {
    const ProgramPhase& phase = program_phase(index);
    const LinearShape& l = linear_shape(phase);
    if (l.group == 0) return dense(l, weight, tile_range(l, phase));
    const int unit_bytes = l.unit_bytes;
    const KPart k = k_part(l, phase);
    for (int on = 1; on <= l.parts; ++on) {  // the block's own come last
      const TileRange tiles = tile_range(l, phase, on % l.parts);
      for (int tile = tiles.begin; tile < tiles.end; ++tile) {
        const char* from = weight + (static_cast<int64_t>(tiles.tile(tile)) * l.units + k.begin) * unit_bytes;
        for (int left = k.units; left > 0; left -= p.slot_units) {
          const int bytes = min(left, p.slot_units) * unit_bytes;
          load_weights(index, from, bytes);
          from += bytes;
        }
      }
    }
  }

  // Item `index`, and its first KV blocks' ids; in most steps the same in all layers.
  __device__ __forceinline__ const AttentionItem& item_at(int index, int window) {
    ProgramControl& control = program_control();
    AttentionItem& item = control.loaded[lane / 32];
    if (index == item_index && window == item_window) return item;
    __syncwarp();
    if (lane % 32 == 0) attention_item(control, p.attention, window, index, item);
    __syncwarp();
    item_index = index;
    item_window = window;
    ids_from = next_from = -1;
    return item;
  }
  __device__ __forceinline__ int32_t ids_at(const AttentionItem& item, int from) const {
    const int32_t* table = p.attention.block_table + static_cast<int64_t>(item.sequence) * p.attention.block_table_stride + item.begin;
    return from + lane % 32 < item.blocks ? __ldcg(table + from + lane % 32) : 0;
  }
  // Has the ids of 32 of the item's KV blocks at hand, `block` among them.
  __device__ __forceinline__ void find_ids(const AttentionItem& item, int block) {
    const int from = block / 32 * 32;
    if (from == ids_from) return;
    ids = from == next_from ? next_ids : ids_at(item, from);
    ids_from = from;
    next_from = from + 32 < item.blocks ? from + 32 : 0;
    next_ids = next_from == from ? ids : ids_at(item, next_from);
  }
  __device__ __forceinline__ uint64_t tile_of(const AttentionItem& item, int block) const {
    return static_cast<uint32_t>(__shfl_sync(0xffffffffu, ids, block % 32)) * p.attention.kv_heads + item.kv_head;
  }
  // For the whole warp, so that what follows from it need not be brought to the registers that a copy wants.
  __device__ __forceinline__ uint64_t common_tile_of(const AttentionItem& item, int block) const {
    return static_cast<uint32_t>(__reduce_max_sync(0xffffffffu, lane == block % 32 ? ids : 0)) * p.attention.kv_heads + item.kv_head;
  }

  // Bulk copies of a slot's KV blocks, two each. One thread issues them, those of four blocks with nothing else between: a copy of 4 KB
  // must not take longer than its bytes. Scales of int8, 64 bytes a block each, would take as long: four blocks' are 16 bytes a lane.
  __device__ __forceinline__ void copy_history(const AttentionOperands& a, const AttentionItem& item, int done, int count, int bytes, bool int8) {
#if __CUDA_ARCH__ >= 900
    constexpr int group = 4;
    const uint32_t barrier = full + at.slot * 8;
    uint32_t to = ring + at.slot * p.slot_bytes;
    if (elected()) barrier_announce(barrier, count * 2 * bytes);
    const char *const k = static_cast<const char*>(a.k), *const v = static_cast<const char*>(a.v);
    const int end = done + count;
#pragma unroll 1
    for (int block = done; block < end;) {
      const int next = min(end, block / group * group + group);
      find_ids(item, block);
      if (int8) {
        const int j = lane / 8, part = lane % 8;
        const uint64_t tile = tile_of(item, block + j);
        if (block + j < next) copy16(to + j * p.attention_bytes + 2 * bytes + part * 16, (part < 4 ? a.k_scale : a.v_scale) + tile * kv_tokens + part % 4 * 4);
      }
      uint64_t from[group];
#pragma unroll
      for (int j = 0; j < group; ++j) from[j] = common_tile_of(item, block + j) * static_cast<uint32_t>(bytes);
      if (elected()) {
#pragma unroll
        for (int j = 0; j < group; ++j) {
          if (block + j >= next) break;
          copy_bulk(to + j * p.attention_bytes, k + from[j], bytes, barrier);
          copy_bulk(to + j * p.attention_bytes + bytes, v + from[j], bytes, barrier);
        }
      }
      __syncwarp();
      to += (next - block) * p.attention_bytes;
      block = next;
    }
    if (int8) {
      asm volatile("cp.async.mbarrier.arrive.shared.b64 [%0];" ::"r"(barrier) : "memory");
      __syncwarp();  // all lanes' arrivals are awaited before the last one comes
    }
    if (elected()) barrier_arrive(barrier);
#endif
  }

  // The same by cp.async. Those blocks' loaders are the last, so as few instructions as may be.
  __device__ __forceinline__ void spread_history(const AttentionOperands& a, const AttentionItem& item, int done, int count, int bytes, bool int8) {
    uint32_t to = ring + at.slot * p.slot_bytes + lane * 16;
    const char *const k = static_cast<const char*>(a.k) + lane * 16, *const v = static_cast<const char*>(a.v) + lane * 16;
    const int kv_head = item.kv_head;
#pragma unroll 1
    for (int block = done; block < done + count; ++block, to += p.attention_bytes) {
      find_ids(item, block);
      const uint32_t tile = __shfl_sync(0xffffffffu, ids, block % 32) * p.attention.kv_heads + kv_head;
      const uint64_t from = static_cast<uint64_t>(tile) * static_cast<uint32_t>(bytes);
      if (bytes == 4 * stride) {
        copies<4>(to, k + from);
        copies<4>(to + 4 * stride, v + from);
      } else {
        spread_once(to, k + from, bytes - lane * 16);
        spread_once(to + bytes, v + from, bytes - lane * 16);
      }
      if (int8) {
        const uint64_t scales = static_cast<uint64_t>(tile) * kv_tokens;
        spread(to - lane * 16 + 2 * bytes, reinterpret_cast<const char*>(a.k_scale + scales), kv_tokens * 4);
        spread(to - lane * 16 + 2 * bytes + kv_tokens * 4, reinterpret_cast<const char*>(a.v_scale + scales), kv_tokens * 4);
      }
    }
  }

  __device__ __forceinline__ void attention(const ProgramPhase& phase) {
    const ProgramControl& control = program_control();
    const AttentionArgs& args = p.attention;  // what is common to all
    const AttentionOperands& a = attention_operands(phase);
    const bool int8 = args.kv_type == kv_int8;
    const int bytes = kv_tokens * args.head_dim * (int8 ? 1 : 2), per_slot = control.attention_per_slot;
    for (int index = blockIdx.x; index < control.items; index += gridDim.x) {
      const AttentionItem& item = item_at(index, program_shape(phase.shape).attention.window);
      for (int done = 0; done < item.blocks; done += per_slot) {
        const int count = min(per_slot, item.blocks - done);
        acquire(p.history_flight);
        if constexpr (BULK) {
          copy_history(a, item, done, count, bytes, int8);
          at.next(p.slots);
        } else {
          spread_history(a, item, done, count, bytes, int8);
          spread_done();
        }
      }
    }
  }

  __device__ __forceinline__ void run() {
    const void* next = p.linear[0].weight;
    for (int i = 0; i < p.phases; ++i) {
      const ProgramPhase& phase = program_phase(i);
      const char* const weight = static_cast<const char*>(next);
      next = p.linear[min(i + 1, program_phases_max - 1)].weight;
      asm volatile("" : "+l"(next));  // a phase ahead, since it may come from far
      if (phase.kind == phase_linear) linear(i, weight);
      else attention(phase);
      program_trace(i, 6);
      flying.leave(i, 7);
      taken.leave(i, 8);
    }
    copy_wait<0>();
  }
};

}  // namespace hearth::kernels::cuda
