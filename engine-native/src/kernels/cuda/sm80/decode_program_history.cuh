// The KV history of the decode program's attention: a worker's way through the blocks that the loading warps bring to the ring,
// and what it takes of them into registers, as operands, before the queries come.
#pragma once

#include "kernels/cuda/sm80/decode_program_heads.cuh"

namespace hearth::kernels::cuda {

// Eight or four values of a KV row in the ring as T. Never branches: what is not wanted is masked.
template <class T, bool INT8> __device__ __forceinline__ uint4 ring_load8(uint32_t tile, int element, uint32_t mask) {
  const uint4 v = INT8 ? widen8<T>(shared_load8(tile + element)) : shared_load16(tile + element * 2);
  return make_uint4(v.x & mask, v.y & mask, v.z & mask, v.w & mask);
}
template <class T, bool INT8> __device__ __forceinline__ uint2 ring_load4(uint32_t tile, int element, uint32_t mask) {
  uint2 v;
  if constexpr (INT8) {
    const uint4 wide = widen8<T>(make_uint2(shared_load4(tile + element), 0));
    v = make_uint2(wide.x, wide.y);
  } else {
    v = shared_load8(tile + element * 2);
  }
  return make_uint2(v.x & mask, v.y & mask);
}
__device__ __forceinline__ uint32_t mask_of(bool wanted) { return wanted ? 0xffffffffu : 0; }

// A KV block of a lane: keys of tokens g and g + 8 and values of its dimensions as operands, scales of INT8, and which of the
// two tokens the row sees.
template <int DP> struct KvOperands {
  uint32_t values[DP / 64][4][4];
  uint4 keys[DP / 32][2];
  float k_scale[2] = {1, 1}, v_scale[2] = {1, 1};
  bool seen[2];
  // Something of each of the reads (see once_read).
  __device__ __forceinline__ uint32_t read() const {
    uint32_t of_all = 0;
    // One after the other: side by side they take registers that there are not.
    auto also = [&](uint32_t word) { asm volatile("or.b32 %0, %0, %1;" : "+r"(of_all) : "r"(word)); };
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int b = 0; b < DP / 32; ++b) also(keys[b][i].x);
#pragma unroll
      for (int b = 0; b < DP / 64; ++b) {
        also(values[b][2 * i][0]);
        also(values[b][2 * i][2]);
      }
      also(__float_as_uint(k_scale[i]) | __float_as_uint(v_scale[i]));
    }
    return of_all;
  }
};

// A KV block of a lane as the pool has it, of heads of 64 and 128. Keys: dimensions 64 h + 16 t and on of tokens g and g + 8. Values:
// dimensions 64 b + 8 g and on of tokens 2 t, 2 t + 1, 2 t + 8 and 2 t + 9. v_scale: less than zero where the row does not see
// token g or g + 8; of such a token k_scale may be anything.
template <int DP> struct KvBytes {
  uint4 keys[DP / 64][2];
  uint2 values[DP / 64][4];
  float k_scale[2], v_scale[2];
  __device__ __forceinline__ uint32_t read() const {
    uint32_t of_all = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int h = 0; h < DP / 64; ++h) of_all |= keys[h][i].x | values[h][2 * i].x | values[h][2 * i + 1].x;
      of_all |= __float_as_uint(k_scale[i]) | __float_as_uint(v_scale[i]);
    }
    return of_all;
  }
};

// A worker's way through its item's history in the ring, and what it takes out of it. DP: the head's dimensions, padded.
// QUICK: heads of DP dimensions, turned by halves.
template <class T, int DP, bool INT8, bool QUICK>
struct History {
  static constexpr int VB = DP / 64;
  using Block = std::conditional_t<INT8 && QUICK, KvBytes<DP>, KvOperands<DP>>;

  const uint32_t base;  // of the shared memory
  RingPlace at;
  int mine, done;  // the next KV block, in the slot; blocks in slots before

  __device__ __forceinline__ int control(size_t field) const { return static_cast<int>(shared_load4(base + static_cast<uint32_t>(field))); }
  __device__ __forceinline__ int item(size_t field) const { return control(offsetof(ProgramControl, item) + field); }
  __device__ __forceinline__ int dim() const { return QUICK ? DP : control(offsetof(ProgramControl, attention) + offsetof(AttentionArgs, head_dim)); }
  __device__ __forceinline__ uint32_t full() const { return base + offsetof(ProgramControl, full) + at.slot * 8; }
  __device__ __forceinline__ void await_slot() const { barrier_wait(full(), at.parity); }
  __device__ __forceinline__ bool block_here() const { return mine < min(control(offsetof(ProgramControl, attention_per_slot)), item(offsetof(AttentionItem, blocks)) - done); }
  __device__ __forceinline__ void pass_slot() {
    const int per_slot = control(offsetof(ProgramControl, attention_per_slot));
    barrier_arrive_warp(full() + program_slots_max * 8);
    at.next(control(offsetof(ProgramControl, slots)));
    done += per_slot;
    mine -= per_slot;
  }
  // To the worker's next KV block, past slots that begin before block `end`; false: it is in none of these.
  __device__ __forceinline__ bool find_block(int end) {
#pragma unroll 1
    for (; done < end; pass_slot()) {
      await_slot();
      if (block_here()) return true;
    }
    return false;
  }

  __device__ __forceinline__ uint32_t key_tile() const {
    return base + control(offsetof(ProgramControl, sums)) - (control(offsetof(ProgramControl, slots)) - at.slot) * control(offsetof(ProgramControl, slot_bytes)) + mine * control(offsetof(ProgramControl, attention_bytes));
  }
  __device__ __forceinline__ uint32_t value_tile() const { return key_tile() + kv_tokens * dim() * (INT8 ? 1 : 2); }
  // Tokens of the block at hand that the row sees.
  struct Seen {
    int first, end;
    __device__ __forceinline__ bool operator()(int token) const { return token >= first && token < end; }
  };
  __device__ __forceinline__ Seen seen() const {
    const int begin = (item(offsetof(AttentionItem, begin)) + done + mine) * kv_tokens;
    return {item(offsetof(AttentionItem, first)) - begin, item(offsetof(AttentionItem, position)) - begin};
  }
  // Keys of dimensions 32 b + 8 t and on, of b and b + 1. Odd tokens take the two in the other order, so that a quarter of the
  // warp reads from all banks.
  __device__ __forceinline__ void load_keys(int b, uint4 (&lower)[2], uint4 (&upper)[2]) const {
    const Place my;
    const uint32_t tile = key_tile();
    const int dim = this->dim();
    const bool odd = my.g & 1;
    uint4 k[2][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int element = 32 * (b + (odd ? 1 - i : i)) + 8 * my.t;
      const uint32_t inside = mask_of(element < dim);
      k[i][0] = ring_load8<T, INT8>(tile, my.g * dim + element, inside);
      k[i][1] = ring_load8<T, INT8>(tile, (my.g + 8) * dim + element, inside);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      lower[i] = odd ? k[1][i] : k[0][i];
      upper[i] = odd ? k[0][i] : k[1][i];
    }
  }
  // Values of dimensions 64 b + 8 g and on. Odd lanes take the halves in the other order: fewer meet at a bank.
  __device__ __forceinline__ void load_values(int b, uint32_t (&to)[4][4]) const {
    const Place my;
    const Seen row = seen();
    const uint32_t tile = value_tile();
    const int dim = this->dim();
    const int element = 64 * b + 8 * my.g;
    uint32_t v[4][4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int token = 2 * my.t + (j & 1) + (j & 2) * 4;
      const uint32_t wanted = mask_of(element < dim && row(token));
      const uint2 one = ring_load4<T, INT8>(tile, token * dim + element + my.t % 2 * 4, wanted), other = ring_load4<T, INT8>(tile, token * dim + element + 4 - my.t % 2 * 4, wanted);
      const uint2 lower = my.t % 2 ? other : one, upper = my.t % 2 ? one : other;
      v[j][0] = lower.x; v[j][1] = lower.y; v[j][2] = upper.x; v[j][3] = upper.y;
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      to[c][0] = __byte_perm(v[0][c], v[1][c], 0x5410); to[c][1] = __byte_perm(v[0][c], v[1][c], 0x7632);
      to[c][2] = __byte_perm(v[2][c], v[3][c], 0x5410); to[c][3] = __byte_perm(v[2][c], v[3][c], 0x7632);
    }
  }
  // What the row sees, and scales. An unwritten scale of a token past the context may be anything.
  __device__ __forceinline__ void load_seen(KvOperands<DP>& block) const {
    const Place my;
    const Seen row = seen();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      block.seen[i] = row(my.g + 8 * i);
      if constexpr (INT8) {
        const uint32_t scales = value_tile() + kv_tokens * dim() + (my.g + 8 * i) * 4;
        block.k_scale[i] = block.seen[i] ? __uint_as_float(shared_load4(scales)) : 0.f;
        block.v_scale[i] = block.seen[i] ? __uint_as_float(shared_load4(scales + kv_tokens * 4)) : 0.f;
      }
    }
  }
  __device__ __forceinline__ void load(KvOperands<DP>& block) const {
#pragma unroll
    for (int b = 0; b < VB; ++b) load_values(b, block.values[b]);
#pragma unroll
    for (int b = 0; b < DP / 32; b += 2) load_keys(b, block.keys[b], block.keys[b + 1]);
    load_seen(block);
  }
  __device__ __forceinline__ void load(KvBytes<DP>& block) const {
    const Place my;
    const Seen row = seen();
    const uint32_t tile = key_tile(), values = tile + (kv_tokens + 2 * my.t) * DP + 8 * my.g, scales = tile + 2 * kv_tokens * DP + my.g * 4;
#pragma unroll
    for (int h = 0; h < VB; ++h)
#pragma unroll
      for (int i = 0; i < 2; ++i) block.keys[h][i] = shared_load16(tile + (my.g + 8 * i) * DP + 64 * h + 16 * my.t);
#pragma unroll
    for (int b = 0; b < VB; ++b)
#pragma unroll
      for (int j = 0; j < 4; ++j) block.values[b][j] = shared_load8(values + 64 * b + (j % 2 + j / 2 * 8) * DP);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      block.k_scale[i] = __uint_as_float(shared_load4(scales + 32 * i));
      block.v_scale[i] = row(my.g + 8 * i) ? __uint_as_float(shared_load4(scales + kv_tokens * 4 + 32 * i)) : -1.f;
    }
  }
  // Between the functions that need it.
  __device__ __forceinline__ void leave() const {
    if (Place().lane == 0) program_control().history[Place().warp] = {static_cast<int16_t>(mine), static_cast<int16_t>(done)};
  }
  __device__ __forceinline__ void take_up() {
    const HistoryAt left = program_control().history[Place().warp];
    mine = left.mine;
    done = left.done;
  }
  // Before the queries are there: past the slots that have the item's first KV blocks, the worker's own into registers. Nobody
  // may wait for others here: a slot further on comes only when all have passed one before it.
  __device__ __forceinline__ void take_first(Block& block) {
    const int blocks = min(item(offsetof(AttentionItem, blocks)), program_workers);
    if (find_block(blocks)) {
      load(block);
      mine += program_workers + once_slot_read(block.read(), blocks);
      find_block(blocks);
    }
  }
};

}  // namespace hearth::kernels::cuda
