// Decode attention: queries of a head tile, and the row's own key and value, which go to the pool and are patched into the
// stage that holds them: the pool's copy may come too late for it.
#pragma once

#include <type_traits>

#include "kernels/cuda/sm80/attention_decode_ring.cuh"

namespace hearth::kernels::cuda {

// Queries, keys and values of whole heads with rotary embedding over all of the head or none of it: in registers, lane l
// holds elements 2 (l + 32 j) and the next. Everything else goes through shared memory (attention_prepare.cuh).
template <int DP> struct HeadRegisters {
  static constexpr int words = DP / 64, turns_count = words < 2 ? 2 : words;
  int position[turns_count];
  float frequency[turns_count];
  // What the turns are made of is asked for first and used later: behind the ring's copies it would take as long as they do.
  __device__ __forceinline__ void ask_turns(const AttentionArgs& p, int row) {
    const int lane = threadIdx.x % 32;
    if (p.rope_dims == 0) return;
#pragma unroll
    for (int i = 0; i < turns_count; ++i) {
      // Interleaved: pair lane + 32 i. Otherwise pairs 2 (lane + 32 j) and the next, j < words / 2.
      const int pair = p.rope_interleaved ? (words == 1 && i ? lane : lane + 32 * i) : (2 * (lane + 32 * (i / 2)) + i % 2) % (DP / 2);
      position[i] = rope_position(p, row, pair);
      frequency[i] = p.inverse_frequency[pair];
    }
  }
  // turns: [turns_count][32] in shared memory.
  __device__ __forceinline__ void make_turns(const AttentionArgs& p, float2* turns) const {
    if (p.rope_dims == 0) return;
#pragma unroll
    for (int i = 0; i < turns_count; ++i) turns[i * 32 + threadIdx.x % 32] = rope_turn_at(p, position[i], frequency[i]);
  }
  __device__ __forceinline__ void rotate(const AttentionArgs& p, const float2* turns, float2 (&x)[words]) const {
    if (p.rope_dims == 0) return;
    float2 turn[turns_count];
#pragma unroll
    for (int i = 0; i < turns_count; ++i) turn[i] = turns[i * 32 + threadIdx.x % 32];
    if (p.rope_interleaved) {
#pragma unroll
      for (int j = 0; j < words; ++j) x[j] = make_float2(x[j].x * turn[j].x - x[j].y * turn[j].y, x[j].y * turn[j].x + x[j].x * turn[j].y);
      return;
    }
    if constexpr (words == 1) {
      const float a = __shfl_xor_sync(0xffffffffu, x[0].x, 16), b = __shfl_xor_sync(0xffffffffu, x[0].y, 16);
      const float sign = threadIdx.x % 32 < 16 ? -1.f : 1.f;
      x[0] = make_float2(x[0].x * turn[0].x + sign * a * turn[0].y, x[0].y * turn[1].x + sign * b * turn[1].y);
    } else {
#pragma unroll
      for (int j = 0; j < words / 2; ++j) {
        const float2 a = x[j], b = x[j + words / 2], s = turn[2 * j], t = turn[2 * j + 1];
        x[j] = make_float2(a.x * s.x - b.x * s.y, a.y * t.x - b.y * t.y);
        x[j + words / 2] = make_float2(b.x * s.x + a.x * s.y, b.y * t.x + a.y * t.y);
      }
    }
  }
  // Norm, rope and, for int8 pools, the Hadamard rotation: what head_prepare does.
  __device__ __forceinline__ void prepare(const AttentionArgs& p, const float2* turns, const float* norm_weight, float2 (&x)[words]) const {
    const int lane = threadIdx.x % 32;
    if (p.qk_norm) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < words; ++j) sum += x[j].x * x[j].x + x[j].y * x[j].y;
      const float factor = rsqrtf(warp_sum(sum) / DP + p.qk_norm_epsilon);
#pragma unroll
      for (int j = 0; j < words; ++j) {
        const float2 w = __ldg(reinterpret_cast<const float2*>(norm_weight) + lane + 32 * j);
        x[j] = make_float2(x[j].x * factor * w.x, x[j].y * factor * w.y);
      }
    }
    rotate(p, turns, x);
    if (p.kv_type != kv_int8) return;
#pragma unroll
    for (int j = 0; j < words; ++j) x[j] = make_float2(x[j].x + x[j].y, x[j].x - x[j].y);
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const float sign = lane & d ? -1.f : 1.f;
#pragma unroll
      for (int j = 0; j < words; ++j) {
        const float a = __shfl_xor_sync(0xffffffffu, x[j].x, d), b = __shfl_xor_sync(0xffffffffu, x[j].y, d);
        x[j] = make_float2(a + sign * x[j].x, b + sign * x[j].y);
      }
    }
#pragma unroll
    for (int d = 1; d < words; d *= 2)
#pragma unroll
      for (int j = 0; j < words; ++j)
        if (!(j & d)) {
          const float2 a = x[j], b = x[j + d];
          x[j] = make_float2(a.x + b.x, a.y + b.y);
          x[j + d] = make_float2(a.x - b.x, a.y - b.y);
        }
    const float factor = rsqrtf(static_cast<float>(DP));
#pragma unroll
    for (int j = 0; j < words; ++j) { x[j].x *= factor; x[j].y *= factor; }
  }
};

// A warp's own part of shared memory, from `base` on: queries, the row's own key and value, a head and its turns, the part of
// the head tile in which the stretch begins. `last`: that of the tile in which it ends, where the ring was. One pointer each:
// more would be registers of the loop over KV blocks.
template <bool INT8, int DP> struct DecodeScratch {
  using L = DecodeLayout<INT8, DP>;
  char* const base;
  float* const last;
  const int heads;  // live ones of any tile
  __device__ __forceinline__ char* q() const { return base; }
  __device__ __forceinline__ char* fresh() const { return base + heads * L::q_pitch; }
  __device__ __forceinline__ float* x() const { return reinterpret_cast<float*>(fresh() + L::fresh_bytes); }
  __device__ __forceinline__ float2* turns() const { return reinterpret_cast<float2*>(x() + DP); }
  __device__ __forceinline__ float* first() const { return x() + 2 * DP; }
  static __device__ __forceinline__ int bytes_without_parts(int heads) { return heads * L::q_pitch + L::fresh_bytes + DP * 8; }
};

template <class T, bool INT8, int DP> struct DecodeQueries {
  using L = DecodeLayout<INT8, DP>;
  using M = std::conditional_t<INT8, __half, T>;  // the tensor cores' type
  static constexpr int words = DP / 64;

  const AttentionArgs& p;
  const DecodeHeads& heads;
  const DecodeScratch<INT8, DP> scratch;
  const bool whole_heads;               // HeadRegisters takes them
  HeadRegisters<DP> registers{};
  int present_row = -1, slot_of_row = -1;  // the row, and where its key and value go
  bool turned = false;                     // its turns are made
  bool fresh = false;                   // the tile's last token is the row's own, to be patched in

  // Of whole heads, which need no room for a head.
  __device__ __forceinline__ float2* own_turns() const { return reinterpret_cast<float2*>(scratch.x()); }
  // To the pool and to this warp's shared memory: the pool's copy may arrive too late for the stage under way.
  __device__ __forceinline__ void keep_fresh(int which, const float2 (&x)[words], int kv_head, char* own) {
    const int lane = threadIdx.x % 32;
    const int64_t at = (static_cast<int64_t>(slot_of_row / kv_tokens) * p.kv_heads + kv_head) * kv_tokens + slot_of_row % kv_tokens;
    char* fresh = own + which * L::row_bytes;
    void* pool = which ? p.v : p.k;
    if constexpr (INT8) {  // the rule of head_write
      float largest = 0;
#pragma unroll
      for (int j = 0; j < words; ++j) largest = fmaxf(largest, fmaxf(fabsf(x[j].x), fabsf(x[j].y)));
      largest = warp_max(largest);
      const float inverse = largest > 1e-36f ? __fdiv_rn(127.f, largest) : 0.f, scale = largest > 1e-36f ? __fdiv_rn(largest, 127.f) : 0.f;
      if (lane == 0) {
        (which ? p.v_scale : p.k_scale)[at] = scale;
        reinterpret_cast<float*>(own + 2 * L::row_bytes)[which] = scale;
      }
      auto round = [&](float v) { return static_cast<uint32_t>(static_cast<uint8_t>(static_cast<int8_t>(fminf(fmaxf(rintf(v * inverse), -127.f), 127.f)))); };
#pragma unroll
      for (int j = 0; j < words; ++j) {
        const uint16_t two = static_cast<uint16_t>(round(x[j].x) | round(x[j].y) << 8);
        if (2 * (lane + 32 * j) < p.head_dim) reinterpret_cast<uint16_t*>(static_cast<char*>(pool) + at * p.head_dim)[lane + 32 * j] = two;
        reinterpret_cast<uint16_t*>(fresh)[lane + 32 * j] = two;
      }
    } else {
#pragma unroll
      for (int j = 0; j < words; ++j) {
        const uint32_t two = pack2<T>(x[j].x, x[j].y);
        if (2 * (lane + 32 * j) < p.head_dim) reinterpret_cast<uint32_t*>(static_cast<T*>(pool) + at * p.head_dim)[lane + 32 * j] = two;
        reinterpret_cast<uint32_t*>(fresh)[lane + 32 * j] = two;
      }
    }
  }
  // Where the upper byte of dimension d of a query is, eight bytes before the lower: what a lane of the tensor cores takes of 32
  // dimensions (4 t on and 16 + 4 t on, upper and lower) stands together.
  static __device__ __forceinline__ int int8_query_at(int d) { return d / 32 * 64 + d % 16 / 4 * 16 + d % 32 / 16 * 4 + d % 4; }
  __device__ __forceinline__ void keep_query(char* row, const float2 (&x)[words]) {
    const int lane = threadIdx.x % 32;
    if constexpr (INT8) {
      float largest = 0;
#pragma unroll
      for (int j = 0; j < words; ++j) largest = fmaxf(largest, fmaxf(fabsf(x[j].x), fabsf(x[j].y)));
      largest = warp_max(largest);
      const float inverse = largest > 1e-30f ? __fdividef(32512.f, largest) : 0.f;
      if (lane == 0) *reinterpret_cast<float*>(row + DP * 2) = largest * (1.f / 32512.f);
#pragma unroll
      for (int j = 0; j < words; ++j) {
        const int a = __float2int_rn(x[j].x * inverse), b = __float2int_rn(x[j].y * inverse);
        const int a_low = static_cast<int8_t>(a), b_low = static_cast<int8_t>(b);  // signed: the upper byte is a - a_low
        uint16_t* to = reinterpret_cast<uint16_t*>(row + int8_query_at(2 * (lane + 32 * j)));
        to[0] = static_cast<uint16_t>(((a - a_low) >> 8 & 255) | (b - b_low) & 0xff00);
        to[4] = static_cast<uint16_t>((a_low & 255) | (b_low & 255) << 8);
      }
    } else {
#pragma unroll
      for (int j = 0; j < words; ++j) reinterpret_cast<uint32_t*>(row)[lane + 32 * j] = pack2<M>(x[j].x, x[j].y);
    }
  }
  template <class Between> __device__ __forceinline__ void prepare_whole(int row, int head, bool writes, const Between& between) {
    const int lane = threadIdx.x % 32, live = heads.live(head), head0 = heads.first(head), kv_head = heads.kv(head);
    const uint32_t* from = reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(p.qkv) + row * p.qkv_stride);
    uint32_t raw[decode_heads][words], own[2][words];
#pragma unroll
    for (int i = 0; i < decode_heads; ++i)
      if (i < live)
#pragma unroll
        for (int j = 0; j < words; ++j) raw[i][j] = __ldcg(from + (head0 + i) * (DP / 2) + lane + 32 * j);
    if (writes)
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < words; ++j) own[i][j] = __ldcg(from + (p.heads + i * p.kv_heads + kv_head) * (DP / 2) + lane + 32 * j);
    between();
    make_row();
    // One body for all heads: unrolled, it is fetched cold from memory at every launch.
    uint32_t* staged = reinterpret_cast<uint32_t*>(scratch.q());
#pragma unroll
    for (int i = 0; i < decode_heads; ++i)
      if (i < live)
#pragma unroll
        for (int j = 0; j < words; ++j) staged[i * (L::q_pitch / 4) + lane + 32 * j] = raw[i][j];
    __syncwarp();
#pragma unroll 1
    for (int item = 0; item < live + (writes ? 2 : 0); ++item) {
      const int which = item - live;  // 0: k, 1: v
      float2 x[words];
#pragma unroll
      for (int j = 0; j < words; ++j) x[j] = unpack2<T>(which < 0 ? staged[item * (L::q_pitch / 4) + lane + 32 * j] : which ? own[1][j] : own[0][j]);
      if (which < 1) registers.prepare(p, own_turns(), which < 0 ? p.q_norm : p.k_norm, x);
      __syncwarp();  // int8: other lanes' words
      if (which < 0) keep_query(scratch.q() + item * L::q_pitch, x);
      else keep_fresh(which, x, kv_head, scratch.fresh());
    }
  }
  // A warp's share of the same, where `warps` of a block attend to one row and tile: every warps-th head. To `queries` of the
  // block, and `own`, which the warp that has the last token patches in. A barrier of the block must follow.
  __device__ __forceinline__ void prepare_share(int row, int head, bool writes, int warp, int warps, char* queries, char* own) {
    constexpr int most = 5;  // items of a warp: ten by two warps, or three by one
    const int lane = threadIdx.x % 32, live = heads.live(head), head0 = heads.first(head), kv_head = heads.kv(head), items = live + (writes ? 2 : 0);
    const uint32_t* from = reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(p.qkv) + row * p.qkv_stride);
    uint32_t raw[most][words];
#pragma unroll
    for (int i = 0; i < most; ++i)
      if (const int item = warp + i * warps; item < items)
#pragma unroll
        for (int j = 0; j < words; ++j) raw[i][j] = __ldcg(from + (item < live ? head0 + item : p.heads + (item - live) * p.kv_heads + kv_head) * (DP / 2) + lane + 32 * j);
    // One body for all, see above.
#pragma unroll 1
    for (int item = warp; item < items; item += warps) {
      const int which = item - live;  // 0: k, 1: v
      float2 x[words];
#pragma unroll
      for (int j = 0; j < words; ++j) {
        x[j] = unpack2<T>(raw[0][j]);
#pragma unroll
        for (int i = 1; i < most; ++i) raw[i - 1][j] = raw[i][j];
      }
      if (which < 1) registers.prepare(p, own_turns(), which < 0 ? p.q_norm : p.k_norm, x);
      if (which < 0) keep_query(queries + item * L::q_pitch, x);
      else keep_fresh(which, x, kv_head, own);
    }
  }
  // Heads of any kind, by way of shared memory.
  __device__ __forceinline__ void prepare_any(int row, int head, bool writes) {
    const int lane = threadIdx.x % 32, live = heads.live(head), head0 = heads.first(head), kv_head = heads.kv(head);
    float* x = scratch.x();
    for (int item = 0; item < live + (writes ? 2 : 0); ++item) {
      const int which = item - live;  // 0: k, 1: v
      head_load(p, row, which < 0 ? head0 + item : p.heads + which * p.kv_heads + kv_head, x);
      if (which < 1) head_prepare(p, row, which < 0 ? p.q_norm : p.k_norm, x, scratch.turns());
      for (int i = lane; i < DP; i += 32) if (i >= p.head_dim) x[i] = 0;
      __syncwarp();
      float2 v[words];
#pragma unroll
      for (int j = 0; j < words; ++j) v[j] = *reinterpret_cast<const float2*>(x + 2 * (lane + 32 * j));
      if (which < 0) keep_query(scratch.q() + item * L::q_pitch, v);
      else keep_fresh(which, v, kv_head, scratch.fresh());
      __syncwarp();
    }
  }

  // What depends on the row alone and was there before the step; of a stretch's first row asked for before the wait for the
  // kernel before.
  __device__ __forceinline__ void ask_row(int row) {
    present_row = row;
    turned = false;
    slot_of_row = __ldcg(p.kv_slot + row);
    if (whole_heads) registers.ask_turns(p, row);
  }
  __device__ __forceinline__ void make_row() {
    if (turned) return;
    turned = true;
    if (whole_heads) return registers.make_turns(p, own_turns());
    for (int i = threadIdx.x % 32; i < p.rope_dims / 2; i += 32) scratch.turns()[i] = rope_turn(p, present_row, i);
    __syncwarp();
  }
  // Queries of a head tile to scratch, ready for DecodeProducts; has_last: the row's own token is among those to attend to.
  // `between` runs while they are on their way.
  template <class Between> __device__ __forceinline__ void prepare(int row, int head, bool has_last, const Between& between) {
    if (row != present_row) ask_row(row);
    fresh = has_last && slot_of_row >= 0;
    __syncwarp();
    if (whole_heads) {
      prepare_whole(row, head, fresh, between);
    } else {
      between();
      make_row();
      prepare_any(row, head, fresh);
    }
    __syncwarp();
  }
  // The same of the row that was asked for last, by way of shared memory.
  __device__ __forceinline__ void prepare_alone(int row, int head, bool has_last) {
    fresh = has_last && slot_of_row >= 0;
    __syncwarp();
    make_row();
    prepare_any(row, head, fresh);
    __syncwarp();
  }

  // Rows of a tile that nobody may see, and the row that is not in the pool yet. All of it in shared memory.
  __device__ __forceinline__ void mend(uint32_t tile, uint32_t tile_scales, int token0, int first, int position) {
    const int lane = lane_anew();
    if constexpr (!INT8)
      for (int r = 0; r < kv_tokens; ++r)
        if ((token0 + r < first || token0 + r > position) && lane < L::chunks) shared_store16(tile + L::tile_bytes + L::at(r, lane), make_uint4(0, 0, 0, 0));
    const int r = position - token0;
    if (fresh && r >= 0 && r < kv_tokens) {
      if (lane < L::chunks)
        for (int i = 0; i < 2; ++i) shared_store16(tile + i * L::tile_bytes + L::at(r, lane), *reinterpret_cast<const uint4*>(scratch.fresh() + i * L::row_bytes + lane * 16));
      if (INT8 && lane < 2) asm volatile("st.shared.f32 [%0], %1;" ::"r"(tile_scales + lane * 64 + r * 4), "f"(reinterpret_cast<const float*>(scratch.fresh() + 2 * L::row_bytes)[lane]) : "memory");
    }
    __syncwarp();
  }
};

}  // namespace hearth::kernels::cuda
