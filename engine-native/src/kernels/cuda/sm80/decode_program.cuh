// Decode of 1 to 8 rows: every linear and attention of a step in one kernel, one block a multiprocessor, so that the
// memory never waits for a kernel to end and the next to begin. Four kinds of warps, each walking the phases on its own:
//   one or two load weights and KV history into the ring, far ahead of all      decode_program_ring.cuh
//   sixteen multiply, or attend                                                 decode_program_linear.cuh, _columns.cuh, _attention.cuh
//   two or three add up the multipliers' sums and store the outputs of linears  decode_program_finish.cuh
// Blocks hand activations to one another word by word (decode_program_exchange.cuh); nowhere do all of them meet.
// Used on Hopper with bulk copies (BULK) and from sm_80 on with cp.async.
#pragma once

#include "kernels/cuda/sm80/decode_program_attention.cuh"
#include "kernels/cuda/sm80/decode_program_finish.cuh"

namespace hearth::kernels::cuda {

// Where things are in shared memory, and the block's part of attention. By one thread.
__device__ __forceinline__ void describe_places(const Program& p, ProgramControl& control) {
  const AttentionArgs& a = p.attention;
  control.exchange = p.exchange; control.linear = p.linear; control.floats = p.floats; control.rows = p.rows; control.end = p.phases * next_phase; control.block = blockIdx.x;
  control.slots = p.slots; control.slot_bytes = p.slot_bytes; control.slot_units = p.slot_units; control.sum_slots = p.sum_slots; control.attention_bytes = p.attention_bytes; control.attention_per_slot = p.slot_bytes / p.attention_bytes;
  control.sums = program_ring_at(p.phases, p.attentions, p.rows) + p.slots * p.slot_bytes;
  control.turns = program_turns_at(p.phases, p.attentions);
  control.x = control.sums + p.sum_slots * program_sum_bytes(p.rows);
  control.x_rows = control.x + p.group_sums_bytes;
  control.x_stride = p.x_stride; control.unit_sums = p.unit_sums;
  control.turns_of = nullptr;
  control.begun = 0;
  control.items = control.attending = 0;
  if (!a.row_begin) return;
  control.per_kv = a.heads / a.kv_heads;
  control.head_tiles = (control.per_kv + program_heads - 1) / program_heads;
  control.whole = p.rows * a.kv_heads * control.head_tiles;
  control.splits = max(1, min(a.splits, static_cast<int>(gridDim.x) / control.whole));
  control.items = control.whole * control.splits;
  control.item_index = control.item_wanted = blockIdx.x;
  control.item_window = a.window;
  if (static_cast<int>(blockIdx.x) < control.items) attention_item(control, a, a.window, blockIdx.x, control.item);
}

// How many blocks attend this step, and how many tiles of linears that spare them they have: so many that over attention and
// linear all read the same. Contexts differ by rows, so by the longest; where more than a quarter attends none is spared. By one warp.
__device__ __forceinline__ void spare_attending(const Program& p, ProgramControl& control) {
  const int lane = threadIdx.x % 32, grid = gridDim.x;
  int blocks = 0;
  if (lane < p.rows && control.context[lane] > 1) blocks = (control.context[lane] - 2) / kv_tokens + 1;
  blocks = __reduce_max_sync(0xffffffffu, blocks);
  const int per_item = split_blocks(control, blocks), attending = control.whole * max(1, (blocks + per_item - 1) / per_item);
  if (lane == 0) control.attending = 4 * attending <= grid ? attending : 0;
  if (lane >= program_shapes_max || 4 * attending > grid) return;
  const LinearShape& l = p.shape[lane].linear;  // of shapes of attentions nobody asks
  const float history = static_cast<float>(min(blocks, per_item)) * p.attention_bytes / max(1.f, static_cast<float>(l.units) * l.unit_bytes);  // in tiles
  const int share = max(0, __float2int_rn((l.tiles + attending * history) / grid - history)), rest = l.tiles - attending * share;
  control.spared[lane] = {static_cast<int16_t>(share), static_cast<int16_t>(rest / (grid - attending)), static_cast<int16_t>(rest % (grid - attending))};
}

// What the step looks like was uploaded before its first kernel. By one warp.
__device__ __forceinline__ void describe_step(const Program& p, ProgramControl& control) {
  const int lane = threadIdx.x % 32;
  const AttentionArgs& a = p.attention;
  if (lane < p.rows && a.row_begin) {
    const int row = __ldcg(a.row_begin + lane);
    control.row[lane] = row;
    control.context[lane] = __ldcg(a.context + lane);
    control.kv_slot[lane] = __ldcg(a.kv_slot + row);
  }
  __syncwarp();
  if (lane == 0) describe_places(p, control);
  __syncwarp();
  if (a.row_begin) spare_attending(p, control);
}

// Words of the kernel's parameter to shared memory. Read as memory: from the constant bank lanes get theirs one after the other.
__device__ __forceinline__ void copy_words(void* to, const void* from, int bytes, int thread, int threads) {
  asm volatile("" : "+l"(from));
  for (int i = thread; i < bytes / 4; i += threads) static_cast<uint32_t*>(to)[i] = static_cast<const uint32_t*>(from)[i];
}

// What is left of the exchange is put back by block 0, once all blocks have read what they want of it: in most steps while the last
// linear is still multiplied. By the first loading warp.
template <bool BULK>
__device__ __noinline__ void end_program(const Program& p) {
  const int lane = threadIdx.x % 32;
  const ProgramPhase& last = program_phase(p.phases - 1);
  const bool early = last.kind == phase_linear && linear_shape(last).parts == 1 && tiles_multiplied(linear_shape(last), last) > 0;
  if (early) await_input_read<program_finishers(BULK)>();
  else await_block<BULK>();
  if (lane == 0) {
    __threadfence();
    atomicAdd(p.ended, 1);
  }
  if (blockIdx.x == 0) {
    while (exchange_load(reinterpret_cast<const uint32_t*>(p.ended)) < gridDim.x) {}
    __threadfence();
    exchange_reset(p.exchange, p.reset_begin, p.reset_end, lane, 32);
    __syncwarp();
    if (lane == 0) *p.ended = 0;
  }
  if (early) await_block<BULK>();
}

// Has near what the first linear reads beside x, which an earlier kernel may still be at.
__device__ __forceinline__ void ask_first(int thread) {
  const ProgramPhase& phase = program_phase(0);
  const LinearShape& l = linear_shape(phase);
  if (phase.kind != phase_linear || l.norm != norm_rms) return;
  const float* const weight = linear_operands(0).norm_weight;
  for (int i = thread * 8; i < l.in; i += worker_threads * 8) asm volatile("prefetch.global.L2 [%0];" ::"l"(weight + i));
}

template <class T, bool BULK>
__device__ __forceinline__ void decode_program(const Program& p) {
  ProgramControl& control = program_control();
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int ring_at = program_ring_at(p.phases, p.attentions, p.rows);
  constexpr int finishers = program_finishers(BULK);
  if (thread < p.slots) {
    barrier_init(shared_address(control.full + thread), BULK ? 1 : program_loaders(BULK) * 32);
    barrier_init(shared_address(control.empty + thread), program_workers);
  }
  if (thread < p.sum_slots) {
    barrier_init(shared_address(control.summed + thread), program_workers);
    barrier_init(shared_address(control.taken + thread), finishers);
  }
  barriers_initialised();
  if (thread == 0) control.zeros = make_uint4(0, 0, 0, 0);
  if (warp == 1) describe_step(p, control);
  if (warp == 2) copy_words(&control.attention, &p.attention, sizeof(AttentionArgs), lane, 32);
  if (warp > 2) {
    copy_words(program_shared + program_control_bytes, p.shape, sizeof(p.shape), thread - 96, program_threads - 96);
    copy_words(program_shared + program_control_bytes + program_shapes_bytes, p.phase, p.phases * static_cast<int>(sizeof(ProgramPhase)), thread - 96, program_threads - 96);
    copy_words(program_shared + program_attentions_at(p.phases), p.attended, p.attentions * static_cast<int>(sizeof(AttentionOperands)), thread - 96, program_threads - 96);
  }
  __syncthreads();
  if (warp >= program_workers + finishers) {
    Loader<BULK> loader{p, shared_address(program_shared) + ring_at, shared_address(control.full), shared_address(control.empty), thread - finishing_threads(BULK), 0, 0, RingPlace{}, RingPlace{}, evict_first_policy()};
    loader.run();
    if (thread_index() / 32 == program_workers + finishers) end_program<BULK>(p);
    return;
  }
  if (warp < program_workers) ask_first(thread);
  wait_predecessors();
  uint32_t at = 0;  // packed PhasePlace; whatever else is kept across a call is a register less for who is called
  if (warp < program_workers) {
#pragma unroll 1
    while (at < control.end) at = program_phase(at / next_phase).kind == phase_linear ? linear_phase<T>(at) : attention_phase<T>(at);
  } else {
#pragma unroll 1
    while (at < control.end) {
      const ProgramPhase& phase = program_phase(at / next_phase);
      if (phase.kind != phase_linear) { at += next_phase; continue; }
      const LinearShape& l = linear_shape(phase);
      if (control.rows == 1) at = finish_phase<T, 1, finishers>(at, l);
      else if (control.rows == 2) at = finish_phase<T, 2, finishers>(at, l);
      else at = control.rows <= 4 ? finish_phase<T, 4, finishers>(at, l) : finish_phase<T, 8, finishers>(at, l);
    }
  }
  block_done<BULK>();
}

}  // namespace hearth::kernels::cuda
