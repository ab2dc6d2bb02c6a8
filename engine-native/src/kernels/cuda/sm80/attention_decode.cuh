// Attention of sequences that bring one row, on the paged pool, in one launch of one block a multiprocessor.
//
// Work is the list of all (sequence, tile of up to 8 query heads of a KV head, KV block of 16 tokens) in that order. Every
// block of threads takes an equal stretch of it, every warp an equal stretch of its block's: the kernel plans this itself
// from the contexts, so a captured graph fits any of them. A warp streams its KV blocks through a ring of its own in
// shared memory, across the borders of heads and sequences, and needs no other warp until its stretch ends: then the
// warps' partial results of one head meet in shared memory, and the blocks' in global memory, merged by the last to
// arrive, always in the order of the context.
//
// S^T = K Q^T (tokens as M, heads as N) and O^T = V^T P^T on the tensor cores. int8: values become halves exactly; a key's
// scale multiplies its score, a value's scale (relative to the largest seen, so that halves hold it) its weight; queries
// are 16-bit integers, two bytes that meet the keys' in two integer products, so that keys need no conversion at all.
#pragma once

#include <type_traits>

#include "kernels/cuda/generic/attention_prepare.cuh"

namespace hearth::kernels::cuda {

constexpr int decode_heads = 8;         // query heads of a tile
constexpr int decode_warps_max = 12;
constexpr int decode_aligned_blocks = 24;  // contexts up to this many KV blocks are not dealt to several blocks of threads, if all are equal

// Eight int8 values as T; exact, the scale is applied elsewhere.
template <class T> __device__ __forceinline__ uint4 widen8(uint2 v) {
  auto two = [](uint32_t w, int shift) {
    const float a = static_cast<float>(static_cast<int8_t>(w >> shift)), b = static_cast<float>(static_cast<int8_t>(w >> (shift + 8)));
    return pack2<T>(a, b);
  };
  return make_uint4(two(v.x, 0), two(v.x, 16), two(v.y, 0), two(v.y, 16));
}
template <> __device__ __forceinline__ uint4 widen8<__half>(uint2 v) {
  const uint32_t bias = 0x80808080u, minus = 0xE480E480u;  // 1024 + 128 + v, minus 1152
  const uint32_t a = v.x ^ bias, b = v.y ^ bias;
  return make_uint4(half2_add(__byte_perm(a, 0x64646464u, 0x4140), minus), half2_add(__byte_perm(a, 0x64646464u, 0x4342), minus),
                    half2_add(__byte_perm(b, 0x64646464u, 0x4140), minus), half2_add(__byte_perm(b, 0x64646464u, 0x4342), minus));
}
// The bytes of a word that `select` names twice (0x4240: 0 and 2), biased by 128, as two halves.
__device__ __forceinline__ uint32_t widen2(uint32_t biased, uint32_t select) { return half2_add(__byte_perm(biased, 0x64646464u, select), 0xE480E480u); }

__device__ __forceinline__ uint4 load_matrix_transposed(uint32_t address) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address) : "memory");
  return v;
}
__device__ __forceinline__ float exp2_fast(float v) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
}
// Waits until at most `pending` of this thread's groups of copies are under way.
__device__ __forceinline__ void copy_wait_for(int pending) {
  switch (pending) {
    case 1: copy_wait<1>(); break;
    case 2: copy_wait<2>(); break;
    case 3: copy_wait<3>(); break;
    case 5: copy_wait<5>(); break;
    default: copy_wait<0>();
  }
}

// A stage of the ring: one KV block, of int8 two. Rows of 16-byte chunks, swizzled so that eight rows of a chunk lie in
// different banks. host/attention.cpp mirrors the sizes.
template <bool INT8, int DP> struct DecodeLayout {
  static constexpr int blocks = INT8 ? 2 : 1;
  static constexpr int row_bytes = DP * (INT8 ? 1 : 2), tile_bytes = kv_tokens * row_bytes, stage_bytes = blocks * 2 * tile_bytes;
  static constexpr int scale_bytes = INT8 ? blocks * 128 : 0;  // [block][k, v][16] floats of a stage
  static constexpr int chunks = row_bytes / 16, lines = row_bytes >= 128 ? 1 : 128 / row_bytes, mask = (chunks < 8 ? chunks : 8) - 1;
  static constexpr int q_pitch = DP * 2 + 16;                  // int8: the upper bytes, the lower ones, the head's factor
  static constexpr int fresh_bytes = 2 * row_bytes + 16;       // the row's own k and v, their scales
  static __device__ __forceinline__ int at(int row, int chunk) { return row * row_bytes + (chunk ^ (row / lines & mask)) * 16; }
};

// A sequence's part of the list.
struct DecodeSequence { int begin, first_block, row, context; };  // begin: KV blocks of those before it
// One head tile of one sequence: places [begin, end) of the list.
struct DecodePair { int sequence, head, begin, end; };

struct DecodeCursor {
  int sequence, head, block, blocks, left;  // blocks: of the sequence; left: of the warp's stretch
  __device__ __forceinline__ void seek(const DecodeSequence* list, int sequences, int heads, int place, int length) {
    int low = 0, high = sequences - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (list[middle].begin * heads <= place) low = middle; else high = middle - 1;
    }
    sequence = low;
    blocks = list[low + 1].begin - list[low].begin;
    const int rest = place - list[low].begin * heads;
    head = rest / max(blocks, 1);
    block = rest - head * blocks;
    left = length;
  }
  __device__ __forceinline__ void advance(const DecodeSequence* list, int heads, int count) {
    block += count;
    left -= count;
    if (block < blocks || left <= 0) return;
    block = 0;
    if (++head < heads) return;
    head = 0;
    do { ++sequence; blocks = list[sequence + 1].begin - list[sequence].begin; } while (blocks == 0);
  }
};

// Queries, keys and values of whole heads with rotary embedding over all of the head or none of it: in registers, lane l
// holds elements 2 (l + 32 j) and the next. Everything else goes through shared memory (attention_prepare.cuh).
template <int DP> struct HeadRegisters {
  static constexpr int words = DP / 64, turns_count = words < 2 ? 2 : words;
  float2 turn[turns_count];
  __device__ __forceinline__ void load_turns(const AttentionArgs& p, int row) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < turns_count; ++i) {
      // Interleaved: pair lane + 32 i. Otherwise pairs 2 (lane + 32 j) and the next, j < words / 2.
      const int pair = p.rope_interleaved ? (words == 1 && i ? lane : lane + 32 * i) : (2 * (lane + 32 * (i / 2)) + i % 2) % (DP / 2);
      turn[i] = p.rope_dims ? rope_turn(p, row, pair) : make_float2(1, 0);
    }
  }
  __device__ __forceinline__ void rotate(const AttentionArgs& p, float2 (&x)[words]) const {
    if (p.rope_dims == 0) return;
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
  __device__ __forceinline__ void prepare(const AttentionArgs& p, const float* norm_weight, float2 (&x)[words]) const {
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
    rotate(p, x);
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

// A warp's own part of shared memory.
struct DecodeScratch {
  char *q, *fresh;
  float *x, *first, *last;  // x: a head and its turns; first, last: partial results of the stretch's two ends
  float2* turns;
};

template <class T, bool INT8, int DP> struct DecodeWarp {
  using L = DecodeLayout<INT8, DP>;
  using M = std::conditional_t<INT8, __half, T>;  // the tensor cores' type
  static constexpr int steps = DP / 16, words = DP / 64;
  static constexpr int partial_pitch = DP + 4;

  const AttentionArgs& p;
  const DecodeSequence* list;
  const int heads, per_kv, head_tiles;  // heads: tiles of all KV heads
  DecodeScratch scratch;
  uint32_t ring, scales;                // of this warp
  int stages, slot = 0;
  DecodeCursor loading;
  int loading_place = 0, tiles_begin = 0, tiles = 0, tiles_next = 0;  // a lane's tiles of the places tiles_begin + lane, and 32 on
  HeadRegisters<DP> registers;
  int turned_row = -1;
  const bool whole_heads;               // HeadRegisters takes them
  bool fresh = false;                   // the pair's last token is the row's own, to be patched in
  uint32_t q[steps][2];
  float q_factor[2], best[2], sum[2], v_best, o[steps][4];

  __device__ __forceinline__ int live_heads(int head) const { return min(decode_heads, per_kv - head % head_tiles * decode_heads); }
  __device__ __forceinline__ int first_head(int head) const { return head / head_tiles * per_kv + head % head_tiles * decode_heads; }

  // ---- Loading ----

  // Where the tile of a place of the list lies in the pool: KV block and head.
  __device__ __forceinline__ int tile_at(int sequences, int place) const {
    if (place >= list[sequences].begin * heads) return 0;
    DecodeCursor c;
    c.seek(list, sequences, heads, place, 0);
    return __ldcg(p.block_table + static_cast<int64_t>(c.sequence) * p.block_table_stride + list[c.sequence].first_block + c.block) * p.kv_heads + c.head / head_tiles;
  }
  __device__ __forceinline__ void copy_tile(uint32_t to, const void* pool, int64_t row0) {
    const int lane = threadIdx.x % 32;
    constexpr int rows = L::chunks < 32 ? 32 / L::chunks : 1;  // of one instruction
    if (p.head_dim == DP) {  // constants only: one instruction a copy
      const char* from = static_cast<const char*>(pool) + row0 * L::row_bytes + lane * 16;
#pragma unroll
      for (int i = 0; i < kv_tokens / rows; ++i) copy16(to + L::at(lane / L::chunks + i * rows, lane % L::chunks), from + i * 512);
      return;
    }
    const int bytes = p.head_dim * (INT8 ? 1 : 2);
    const char* from = static_cast<const char*>(pool) + row0 * bytes;
    if (!INT8 || bytes % 16 == 0) {
      const int row = lane / L::chunks, chunk = lane % L::chunks;
      const bool inside = chunk * 16 < bytes;
      from += row * bytes + (inside ? chunk * 16 : 0);
#pragma unroll
      for (int i = 0; i < kv_tokens / rows; ++i) copy16(to + L::at(row + i * rows, chunk), from + i * rows * bytes, inside);
      return;
    }
    for (int i = lane; i < kv_tokens * L::chunks * 2; i += 32) {
      const int row = i / (L::chunks * 2), half = i % (L::chunks * 2);
      if (half * 8 < bytes) copy8(to + L::at(row, half / 2) + half % 2 * 8, from + row * bytes + half * 8);
    }
  }
  // The next stage of the stretch to the ring's slot `at`; an empty group when there is none.
  __device__ __forceinline__ void load_stage(int at) {
    if (loading.left > 0) {
      const int count = min(L::blocks, min(loading.left, loading.blocks - loading.block)), lane = threadIdx.x % 32;
#pragma unroll
      for (int b = 0; b < L::blocks; ++b)
        if (b < count) {
          const int at_place = loading_place + b - tiles_begin;
          const int64_t row0 = static_cast<int64_t>(__shfl_sync(0xffffffffu, at_place < 32 ? tiles : tiles_next, at_place % 32)) * kv_tokens;
          const uint32_t to = ring + at * L::stage_bytes + b * 2 * L::tile_bytes;
          copy_tile(to, p.k, row0);
          copy_tile(to + L::tile_bytes, p.v, row0);
          if (INT8 && lane < 8) copy16(scales + at * L::scale_bytes + b * 128 + lane * 16, (lane < 4 ? p.k_scale : p.v_scale) + row0 + lane % 4 * 4);
        }
      loading.advance(list, heads, count);
      loading_place += count;
      if (loading_place - tiles_begin >= 32) {
        tiles = tiles_next;
        tiles_begin += 32;
        tiles_next = tile_at(p.sequences, tiles_begin + 32 + lane);
      }
    }
    copy_commit();
  }

  // ---- Queries, and the row's own key and value ----

  // To the pool and to this warp's shared memory: the pool's copy may arrive too late for the stage under way.
  __device__ __forceinline__ void keep_fresh(int which, const float2 (&x)[words], int slot_of_row, int kv_head) {
    const int lane = threadIdx.x % 32;
    const int64_t at = (static_cast<int64_t>(slot_of_row / kv_tokens) * p.kv_heads + kv_head) * kv_tokens + slot_of_row % kv_tokens;
    char* fresh = scratch.fresh + which * L::row_bytes;
    void* pool = which ? p.v : p.k;
    if constexpr (INT8) {  // the rule of head_write
      float largest = 0;
#pragma unroll
      for (int j = 0; j < words; ++j) largest = fmaxf(largest, fmaxf(fabsf(x[j].x), fabsf(x[j].y)));
      largest = warp_max(largest);
      const float inverse = largest > 1e-36f ? __fdiv_rn(127.f, largest) : 0.f, scale = largest > 1e-36f ? __fdiv_rn(largest, 127.f) : 0.f;
      if (lane == 0) {
        (which ? p.v_scale : p.k_scale)[at] = scale;
        reinterpret_cast<float*>(scratch.fresh + 2 * L::row_bytes)[which] = scale;
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
  __device__ __forceinline__ void keep_query(int item, const float2 (&x)[words]) {
    const int lane = threadIdx.x % 32;
    char* row = scratch.q + item * L::q_pitch;
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
        reinterpret_cast<uint16_t*>(row)[lane + 32 * j] = static_cast<uint16_t>(((a - a_low) >> 8 & 255) | (b - b_low) & 0xff00);
        reinterpret_cast<uint16_t*>(row + DP)[lane + 32 * j] = static_cast<uint16_t>((a_low & 255) | (b_low & 255) << 8);
      }
    } else {
#pragma unroll
      for (int j = 0; j < words; ++j) reinterpret_cast<uint32_t*>(row)[lane + 32 * j] = pack2<M>(x[j].x, x[j].y);
    }
  }
  __device__ __forceinline__ void prepare_whole(int row, int head, bool writes, int slot_of_row) {
    const int lane = threadIdx.x % 32, live = live_heads(head), head0 = first_head(head), kv_head = head / head_tiles;
    if (turned_row != row) { registers.load_turns(p, row); turned_row = row; }
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
    // One body for all heads: unrolled, it is fetched cold from memory at every launch.
    uint32_t* staged = reinterpret_cast<uint32_t*>(scratch.q);
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
      if (which < 1) registers.prepare(p, which < 0 ? p.q_norm : p.k_norm, x);
      __syncwarp();  // int8: other lanes' words
      if (which < 0) keep_query(item, x);
      else keep_fresh(which, x, slot_of_row, kv_head);
    }
  }
  // Heads of any kind, by way of shared memory.
  __device__ __forceinline__ void prepare_any(int row, int head, bool writes, int slot_of_row) {
    const int lane = threadIdx.x % 32, live = live_heads(head), head0 = first_head(head), kv_head = head / head_tiles;
    float* x = scratch.x;
    if (turned_row != row)
      for (int i = lane; i < p.rope_dims / 2; i += 32) scratch.turns[i] = rope_turn(p, row, i);
    turned_row = row;
    __syncwarp();
    for (int item = 0; item < live + (writes ? 2 : 0); ++item) {
      const int which = item - live;  // 0: k, 1: v
      head_load(p, row, which < 0 ? head0 + item : p.heads + which * p.kv_heads + kv_head, x);
      if (which < 1) head_prepare(p, row, which < 0 ? p.q_norm : p.k_norm, x, scratch.turns);
      for (int i = lane; i < DP; i += 32) if (i >= p.head_dim) x[i] = 0;
      __syncwarp();
      float2 v[words];
#pragma unroll
      for (int j = 0; j < words; ++j) v[j] = *reinterpret_cast<const float2*>(x + 2 * (lane + 32 * j));
      if (which < 0) keep_query(item, v);
      else keep_fresh(which, v, slot_of_row, kv_head);
      __syncwarp();
    }
  }
  __device__ __forceinline__ void begin_pair(const DecodeCursor& c, bool has_last) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, row = list[c.sequence].row;
    const int slot_of_row = __ldcg(p.kv_slot + row);
    fresh = has_last && slot_of_row >= 0;
    __syncwarp();
    if (whole_heads) prepare_whole(row, c.head, fresh, slot_of_row);
    else prepare_any(row, c.head, fresh, slot_of_row);
    __syncwarp();
    const int live = live_heads(c.head);
    const char* mine = scratch.q + min(g, live - 1) * L::q_pitch;
#pragma unroll
    for (int j = 0; j < steps; ++j) {  // the order of k of the key fragments
      const char* at = mine + (INT8 ? j % 2 * DP + j / 2 * 32 : j * 32) + t * 4;  // int8: of 32 dims the upper bytes, then the lower
      q[j][0] = *reinterpret_cast<const uint32_t*>(at);
      q[j][1] = *reinterpret_cast<const uint32_t*>(at + 16);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      q_factor[i] = p.scale * 1.4426950408889634f * (INT8 ? *reinterpret_cast<const float*>(scratch.q + min(2 * t + i, live - 1) * L::q_pitch + DP * 2) : 1.f);
      best[i] = -INFINITY;
      sum[i] = 0;
    }
    v_best = 0;
#pragma unroll
    for (int m = 0; m < steps; ++m) o[m][0] = o[m][1] = o[m][2] = o[m][3] = 0;
  }

  // ---- A stage ----

  // Rows of a tile that nobody may see, and the row that is not in the pool yet. All of it in shared memory.
  __device__ __forceinline__ void mend(uint32_t tile, uint32_t tile_scales, int token0, int first, int position) {
    const int lane = threadIdx.x % 32;
    if constexpr (!INT8)
      for (int r = 0; r < kv_tokens; ++r)
        if ((token0 + r < first || token0 + r > position) && lane < L::chunks) shared_store16(tile + L::tile_bytes + L::at(r, lane), make_uint4(0, 0, 0, 0));
    const int r = position - token0;
    if (fresh && r >= 0 && r < kv_tokens) {
      if (lane < L::chunks)
        for (int i = 0; i < 2; ++i) shared_store16(tile + i * L::tile_bytes + L::at(r, lane), *reinterpret_cast<const uint4*>(scratch.fresh + i * L::row_bytes + lane * 16));
      if (INT8 && lane < 2) asm volatile("st.shared.f32 [%0], %1;" ::"r"(tile_scales + lane * 64 + r * 4), "f"(reinterpret_cast<const float*>(scratch.fresh + 2 * L::row_bytes)[lane]) : "memory");
    }
    __syncwarp();
  }
  // `low`, `high`: this lane's addresses of ldmatrix in a tile, rows and chunks or chunks and rows first.
  static __device__ __forceinline__ uint32_t matrix(uint32_t base, int i) {
    if constexpr (L::row_bytes < 128) return base ^ (32 * i);
    else return (base ^ (32 * (i % 4))) + 128 * (i / 4);
  }
  __device__ __forceinline__ void scores(uint32_t tile, float (&s)[4]) const {
    const int lane = threadIdx.x % 32;
    const uint32_t at = tile + L::at(lane % 8 + lane / 8 % 2 * 8, lane / 16);
    float even[4] = {0, 0, 0, 0}, odd[4] = {0, 0, 0, 0};
    if constexpr (INT8) {
#pragma unroll
      for (int j = 0; j < steps / 2; ++j) {
        const uint4 v = load_matrix(matrix(at, j));
        const uint32_t a[4] = {v.x, v.y, v.z, v.w};
        mma<int8_t>(even, a, q[2 * j][0], q[2 * j][1]);
        mma<int8_t>(odd, a, q[2 * j + 1][0], q[2 * j + 1][1]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) s[i] = static_cast<float>(__float_as_int(even[i]) * 256 + __float_as_int(odd[i]));
    } else {
#pragma unroll
      for (int j = 0; j < steps; ++j) {
        const uint4 v = load_matrix(matrix(at, j));
        const uint32_t a[4] = {v.x, v.y, v.z, v.w};
        mma<M>(j % 2 ? odd : even, a, q[j][0], q[j][1]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) s[i] = even[i] + odd[i];
    }
  }
  __device__ __forceinline__ void values(uint32_t tile, uint32_t p0, uint32_t p1) {
    const int lane = threadIdx.x % 32;
    if constexpr (INT8) {
      const uint32_t at = tile + L::at(lane % 8 + lane / 8 % 2 * 8, lane / 16);
#pragma unroll
      for (int j = 0; j < steps / 2; ++j) {  // a word: dims 2g, 2g + 1 of two tokens
        uint4 v = load_matrix_transposed(matrix(at, j));
        v.x ^= 0x80808080u; v.y ^= 0x80808080u; v.z ^= 0x80808080u; v.w ^= 0x80808080u;
        const uint32_t a[4] = {widen2(v.x, 0x4240), widen2(v.x, 0x4341), widen2(v.y, 0x4240), widen2(v.y, 0x4341)};
        mma<M>(o[2 * j], a, p0, p1);
        const uint32_t b[4] = {widen2(v.z, 0x4240), widen2(v.z, 0x4341), widen2(v.w, 0x4240), widen2(v.w, 0x4341)};
        mma<M>(o[2 * j + 1], b, p0, p1);
      }
    } else {
      const uint32_t at = tile + L::at(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
      for (int j = 0; j < steps; ++j) {
        const uint4 v = load_matrix_transposed(matrix(at, j));
        const uint32_t a[4] = {v.x, v.y, v.z, v.w};
        mma<M>(o[j], a, p0, p1);
      }
    }
  }
  __device__ __forceinline__ static float reduce_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 4));
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 8));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 16));
  }
  // `count` blocks from token0 on.
  __device__ __forceinline__ void stage(uint32_t tiles, uint32_t stage_scales, int count, int token0, int first, int position) {
    const int g = threadIdx.x % 32 / 4;
    float s[L::blocks][4], v_scale[L::blocks][2], top[2] = {-INFINITY, -INFINITY}, v_top = 0;
#pragma unroll
    for (int b = 0; b < L::blocks; ++b) {
      if (b >= count) {
        s[b][0] = s[b][1] = s[b][2] = s[b][3] = -INFINITY;
        v_scale[b][0] = v_scale[b][1] = 0;
        continue;
      }
      scores(tiles + b * 2 * L::tile_bytes, s[b]);
      const int token = token0 + b * kv_tokens + g;
      const bool visible[2] = {token >= first && token <= position, token + 8 >= first && token + 8 <= position};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float k_scale = 1;
        if constexpr (INT8) {
          k_scale = __uint_as_float(shared_load4(stage_scales + b * 128 + (g + h * 8) * 4));
          v_scale[b][h] = visible[h] ? __uint_as_float(shared_load4(stage_scales + b * 128 + 64 + (g + h * 8) * 4)) : 0.f;
          v_top = fmaxf(v_top, v_scale[b][h]);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          s[b][2 * h + i] = visible[h] ? s[b][2 * h + i] * q_factor[i] * k_scale : -INFINITY;
          top[i] = fmaxf(top[i], s[b][2 * h + i]);
        }
      }
    }
    float shrink[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float next = fmaxf(best[i], reduce_max(top[i]));
      shrink[i] = exp2_fast(best[i] - next);
      best[i] = next;
      sum[i] *= shrink[i];
#pragma unroll
      for (int b = 0; b < L::blocks; ++b) {
        s[b][i] = exp2_fast(s[b][i] - next);
        s[b][i + 2] = exp2_fast(s[b][i + 2] - next);
        sum[i] += s[b][i] + s[b][i + 2];
      }
    }
    float v_inverse = 0;
    if constexpr (INT8) {
      const float next = fmaxf(v_best, reduce_max(v_top));
      v_inverse = next > 0 ? __fdividef(1.f, next) : 0.f;
      if (next != v_best) { shrink[0] *= v_best * v_inverse; shrink[1] *= v_best * v_inverse; }
      v_best = next;
    }
    if (__any_sync(0xffffffffu, shrink[0] != 1.f || shrink[1] != 1.f)) {
#pragma unroll
      for (int m = 0; m < steps; ++m) { o[m][0] *= shrink[0]; o[m][1] *= shrink[1]; o[m][2] *= shrink[0]; o[m][3] *= shrink[1]; }
    }
#pragma unroll
    for (int b = 0; b < L::blocks; ++b) {
      if (b >= count) continue;
      const float low = INT8 ? v_scale[b][0] * v_inverse : 1.f, high = INT8 ? v_scale[b][1] * v_inverse : 1.f;
      const uint32_t p0 = transpose8x8(pack2<M>(s[b][0] * low, s[b][1] * low)), p1 = transpose8x8(pack2<M>(s[b][2] * high, s[b][3] * high));
      values(tiles + b * 2 * L::tile_bytes + L::tile_bytes, p0, p1);
    }
  }

  // ---- Results ----

  // Where sum m, i (and i + 2) of a lane lies in the head.
  __device__ __forceinline__ int dim_of(int m, bool second) const {
    const int g = threadIdx.x % 32 / 4;
    return INT8 ? 16 * m + 2 * g + second : 16 * m + g + second * 8;
  }
  __device__ __forceinline__ void finish_sums() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 4);
      sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 8);
      sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 16);
    }
  }
  __device__ __forceinline__ void write_out(int row, int head) {
    const int t = threadIdx.x % 4, live = live_heads(head);
    finish_sums();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (2 * t + i >= live) continue;
      const float factor = __fdividef(INT8 ? v_best : 1.f, sum[i]);
      T* to = static_cast<T*>(p.out) + row * p.out_stride + static_cast<int64_t>(first_head(head) + 2 * t + i) * p.head_dim;
#pragma unroll
      for (int m = 0; m < steps; ++m) {
        if (16 * m >= p.head_dim) continue;
        if constexpr (INT8) {
          if (dim_of(m, 0) < p.head_dim) *reinterpret_cast<uint32_t*>(to + dim_of(m, 0)) = pack2<T>(o[m][i] * factor, o[m][i + 2] * factor);
        } else {
          to[dim_of(m, 0)] = from_float<T>(o[m][i] * factor);
          if (dim_of(m, 1) < p.head_dim) to[dim_of(m, 1)] = from_float<T>(o[m][i + 2] * factor);
        }
      }
    }
  }
  __device__ __forceinline__ void keep_partial(float* partial, int head) {
    const int t = threadIdx.x % 4, g = threadIdx.x % 32 / 4, live = live_heads(head);
    finish_sums();
    __syncwarp();
    const float factor = INT8 ? v_best : 1.f;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (2 * t + i >= live) continue;
      float* to = partial + (2 * t + i) * partial_pitch;
#pragma unroll
      for (int m = 0; m < steps; ++m) { to[dim_of(m, 0)] = o[m][i] * factor; to[dim_of(m, 1)] = o[m][i + 2] * factor; }
      if (g == 0) { to[DP] = best[i]; to[DP + 1] = sum[i]; }
    }
  }

  // ---- A stretch ----

  __device__ __forceinline__ void fill(int sequences, int place, int length) {
    const int lane = threadIdx.x % 32;
    loading_place = tiles_begin = place;
    tiles = tile_at(sequences, place + lane);
    tiles_next = tile_at(sequences, place + 32 + lane);
    loading.seek(list, sequences, heads, place, length);
    for (int i = 0; i < stages; ++i) load_stage(i);
  }
  // `place` on, `length` blocks; the block of threads begins at `block_begin`. Whole pairs are written out; the others are
  // left in scratch and named in `head` (begun before the block) or `tail` by the block's first warp that has a part.
  __device__ __forceinline__ void walk(int sequences, int place, int length, int block_begin, DecodePair& head, DecodePair& tail) {
    DecodeCursor c;
    c.seek(list, sequences, heads, place, length);
    while (c.left > 0) {
      const DecodeSequence s = list[c.sequence];
      const int position = s.context - 1, first = p.window > 0 ? max(0, s.context - p.window) : 0;
      const int pair_begin = s.begin * heads + c.head * c.blocks, count = min(c.left, c.blocks - c.block);
      const DecodePair pair{c.sequence, c.head, pair_begin, pair_begin + c.blocks};
      const bool whole = count == c.blocks, ends = count == c.left;
      begin_pair(c, c.block + count == c.blocks);
      for (int done = 0; done < count;) {
        const int now = min(L::blocks, count - done), token0 = (s.first_block + c.block) * kv_tokens;
        const uint32_t tiles = ring + slot * L::stage_bytes, stage_scales = scales + slot * L::scale_bytes;
        copy_wait_for(stages - 1);
        __syncwarp();
#pragma unroll
        for (int b = 0; b < L::blocks; ++b) {
          const int at = token0 + b * kv_tokens;
          if (b < now && (at < first || at + kv_tokens > position)) mend(tiles + b * 2 * L::tile_bytes, stage_scales + b * 128, at, first, position);
        }
        stage(tiles, stage_scales, now, token0, first, position);
        __syncwarp();
        load_stage(slot);
        if (++slot == stages) slot = 0;
        done += now;
        c.advance(list, heads, now);
      }
      if (whole) {
        write_out(s.row, pair.head);
        continue;
      }
      keep_partial(ends ? scratch.last : scratch.first, pair.head);
      if (threadIdx.x % 32) continue;
      if (!ends) { if (place == block_begin) head = pair; }
      else if (pair_begin >= place || place == block_begin) tail = pair;
    }
  }
};

// What of the list a block of threads, or a warp of it, does.
struct DecodeStretch { int begin, end; };
__device__ __forceinline__ DecodeStretch decode_part(const DecodeStretch& block, int warp, int warps) {
  const int length = block.end - block.begin;
  return {block.begin + length * warp / warps, block.begin + length * (warp + 1) / warps};
}

// Warp 0: the list, its length and the stretch of a block. Reads only what was uploaded before the step's first kernel.
__device__ __forceinline__ int decode_plan(const AttentionArgs& p, int heads, DecodeSequence* list) {
  const int lane = threadIdx.x % 32;
  int total = 0, least = 1 << 30, most = 0;
  for (int base = 0; base < p.sequences; base += 32) {
    const int i = base + lane;
    int blocks = 0;
    DecodeSequence s{0, 0, 0, -1};
    if (i < p.sequences) {
      s.row = __ldcg(p.row_begin + i);
      const int rows = __ldcg(p.row_begin + i + 1) - s.row, context = __ldcg(p.context + i);
      if (rows == 1) {
        s.context = max(context, 0);
        if (p.window > 0) s.first_block = max(0, context - p.window) / kv_tokens;
        if (context > 0) blocks = (context - 1) / kv_tokens - s.first_block + 1;
      }
    }
    int until = blocks;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int before = __shfl_up_sync(0xffffffffu, until, d);
      if (lane >= d) until += before;
    }
    s.begin = total + until - blocks;
    if (i < p.sequences) list[i] = s;
    total += __shfl_sync(0xffffffffu, until, 31);
    if (blocks) { least = min(least, blocks); most = max(most, blocks); }
  }
  if (lane == 0) list[p.sequences].begin = total;
  least = -static_cast<int>(__reduce_max_sync(0xffffffffu, -least));
  most = __reduce_max_sync(0xffffffffu, most);
  const int per_block = max((total * heads + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x), 4);
  // Short and equal contexts: whole heads, whose results need not meet in global memory.
  return least == most && most <= decode_aligned_blocks ? (per_block + most - 1) / most * most : per_block;
}

// Partial results of one head, `pitch` floats apart: sums [DP], best, total. Adds one to what a lane holds of it.
template <int DP> struct DecodeMerge {
  static constexpr int parts = DP < 128 ? 1 : DP / 128;
  float4 value[parts];
  float total = 0;
  __device__ __forceinline__ DecodeMerge() {
#pragma unroll
    for (int i = 0; i < parts; ++i) value[i] = make_float4(0, 0, 0, 0);
  }
  static __device__ __forceinline__ int dim(int i) { return threadIdx.x % 32 * 4 + i * 128; }
  __device__ __forceinline__ void add(const float4 (&from)[parts], float weight, float of_total) {
    total += weight * of_total;
#pragma unroll
    for (int i = 0; i < parts; ++i) { value[i].x += weight * from[i].x; value[i].y += weight * from[i].y; value[i].z += weight * from[i].z; value[i].w += weight * from[i].w; }
  }
  template <class T> __device__ __forceinline__ void write_out(const AttentionArgs& p, int row, int head) const {
    const float inverse = 1.f / total;
    T* to = static_cast<T*>(p.out) + row * p.out_stride + static_cast<int64_t>(head) * p.head_dim;
#pragma unroll
    for (int i = 0; i < parts; ++i)
      if (dim(i) < p.head_dim)  // a multiple of 8; rows begin at even places
#pragma unroll
        for (int j = 0; j < 2; ++j)
          reinterpret_cast<uint32_t*>(to + dim(i))[j] = j ? pack2<T>(value[i].z * inverse, value[i].w * inverse) : pack2<T>(value[i].x * inverse, value[i].y * inverse);
  }
};

template <class T, bool INT8, int DP>
__device__ __forceinline__ void attention_decode(const AttentionArgs& p) {
  using L = DecodeLayout<INT8, DP>;
  using Warp = DecodeWarp<T, INT8, DP>;
  using Merge = DecodeMerge<DP>;
  constexpr int pitch = Warp::partial_pitch;
  extern __shared__ __align__(1024) char shared[];
  __shared__ DecodePair pairs[decode_warps_max + 1];  // what the warps' stretches share: begun before the block, then by warps
  __shared__ int per_block_shared, crossing[2], is_last[2];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const int per_kv = p.heads / p.kv_heads, head_tiles = (per_kv + decode_heads - 1) / decode_heads, heads = p.kv_heads * head_tiles, tile_rows = min(decode_heads, per_kv);
  const int ring_bytes = p.stages * L::stage_bytes, scratch_bytes = tile_rows * (L::q_pitch + pitch * 4) + L::fresh_bytes + DP * 8;
  char* own = shared + warps * (ring_bytes + p.stages * L::scale_bytes);
  DecodeSequence* list = reinterpret_cast<DecodeSequence*>(own + warps * scratch_bytes);
  auto scratch_of = [&](int w) {
    DecodeScratch s;
    s.q = own + w * scratch_bytes;
    s.fresh = s.q + tile_rows * L::q_pitch;
    s.x = reinterpret_cast<float*>(s.fresh + L::fresh_bytes);
    s.turns = reinterpret_cast<float2*>(s.x + DP);
    s.first = s.x + 2 * DP;
    s.last = reinterpret_cast<float*>(shared + w * ring_bytes);  // the ring is drained then
    return s;
  };
  if (warp == 0) {
    const int per_block = decode_plan(p, heads, list);
    if (lane == 0) { per_block_shared = per_block; crossing[0] = crossing[1] = -1; }
  }
  if (lane == 0) pairs[warp + 1].sequence = -1;
  if (threadIdx.x == 0) pairs[0].sequence = -1;
  __syncthreads();
  const int per_block = per_block_shared, total = list[p.sequences].begin * heads;
  const DecodeStretch block{min(total, static_cast<int>(blockIdx.x) * per_block), min(total, (static_cast<int>(blockIdx.x) + 1) * per_block)};
  const DecodeStretch mine = decode_part(block, warp, warps);
  Warp worker{p, list, heads, per_kv, head_tiles, scratch_of(warp), shared_address(shared) + warp * ring_bytes,
              shared_address(shared) + warps * ring_bytes + warp * p.stages * L::scale_bytes, p.stages, 0, {}, 0, 0, 0, 0, {}, -1,
              p.head_dim == DP && (p.rope_dims == 0 || p.rope_dims == DP)};
  if (mine.begin < mine.end) worker.fill(p.sequences, mine.begin, mine.end - mine.begin);
  // Before the wait: the next kernel's blocks take their places while every block of this one still holds its own, one a
  // multiprocessor. After it those without work would be gone, and the next kernel would double up where they were.
  if (p.releases_early) launch_dependents();
  wait_predecessors();
  for (int i = blockIdx.x; i < p.sequences; i += gridDim.x)  // empty slots of a bucket
    if (list[i].context == 0)
      for (int k = threadIdx.x; k < p.heads * p.head_dim; k += blockDim.x) static_cast<T*>(p.out)[list[i].row * p.out_stride + k] = from_float<T>(0.f);
  if (mine.begin < mine.end) worker.walk(p.sequences, mine.begin, mine.end - mine.begin, block.begin, pairs[0], pairs[warp + 1]);
  if (block.begin == block.end) return;
  __syncthreads();

  // The warps' parts of a head.
  auto live_heads = [&](int head) { return min(decode_heads, per_kv - head % head_tiles * decode_heads); };
  auto first_head = [&](int head) { return head / head_tiles * per_kv + head % head_tiles * decode_heads; };
  for (int job = warp; job < (warps + 1) * tile_rows; job += warps) {
    const DecodePair pair = pairs[job / tile_rows];
    const int h = job % tile_rows;
    if (pair.sequence < 0 || h >= live_heads(pair.head)) continue;
    auto part_of = [&](int w) -> const float* {
      const DecodeStretch s = decode_part(block, w, warps);
      if (max(s.begin, pair.begin) >= min(s.end, pair.end)) return nullptr;
      const DecodeScratch scratch = scratch_of(w);
      return (s.end <= pair.end ? scratch.last : scratch.first) + h * pitch;
    };
    float top = -INFINITY;
    for (int w = 0; w < warps; ++w)
      if (const float* part = part_of(w)) top = fmaxf(top, part[DP]);
    Merge merge;
    for (int w = 0; w < warps; ++w)
      if (const float* part = part_of(w)) {
        float4 v[Merge::parts];
#pragma unroll
        for (int i = 0; i < Merge::parts; ++i) v[i] = *reinterpret_cast<const float4*>(part + Merge::dim(i) % DP);
        merge.add(v, exp2_fast(part[DP] - top), part[DP + 1]);
      }
    if (pair.begin >= block.begin && pair.end <= block.end) {
      merge.template write_out<T>(p, list[pair.sequence].row, first_head(pair.head) + h);
      continue;
    }
    const int after = pair.end > block.end;
    float* to = p.partial + ((static_cast<int64_t>(blockIdx.x) * 2 + after) * tile_rows + h) * pitch;
#pragma unroll
    for (int i = 0; i < Merge::parts; ++i)
      if (Merge::dim(i) < DP) __stcg(reinterpret_cast<float4*>(to + Merge::dim(i)), merge.value[i]);
    if (lane == 0) { __stcg(to + DP, top); __stcg(to + DP + 1, merge.total); crossing[after] = job / tile_rows; }
  }
  __threadfence();
  __syncthreads();
  if (crossing[0] < 0 && crossing[1] < 0) return;
  // The blocks' parts: whoever comes last adds them up.
  if (threadIdx.x < 2) {
    is_last[threadIdx.x] = 0;
    if (crossing[threadIdx.x] >= 0) {
      const DecodePair pair = pairs[crossing[threadIdx.x]];
      int32_t* counter = p.counters + pair.sequence * heads + pair.head;
      const int parts = (pair.end - 1) / per_block - pair.begin / per_block + 1;
      is_last[threadIdx.x] = atomicAdd(counter, 1) == parts - 1;
      if (is_last[threadIdx.x]) *counter = 0;
    }
  }
  __syncthreads();
  __threadfence();
  for (int k = 0; k < 2; ++k) {
    if (!is_last[k]) continue;
    const DecodePair pair = pairs[crossing[k]];
    const int from = pair.begin / per_block, until = (pair.end - 1) / per_block + 1;
    for (int h = warp; h < live_heads(pair.head); h += warps) {
      auto part_of = [&](int b) { return p.partial + ((static_cast<int64_t>(b) * 2 + ((b + 1) * per_block < pair.end)) * tile_rows + h) * pitch; };
      float top = -INFINITY;
      for (int b = from + lane; b < until; b += 32) top = fmaxf(top, __ldcg(part_of(b) + DP));
      top = warp_max(top);
      Merge merge;
#pragma unroll 4
      for (int b = from; b < until; ++b) {
        const float* part = part_of(b);
        float4 v[Merge::parts];
#pragma unroll
        for (int i = 0; i < Merge::parts; ++i) v[i] = __ldcg(reinterpret_cast<const float4*>(part + Merge::dim(i) % DP));
        merge.add(v, exp2_fast(__ldcg(part + DP) - top), __ldcg(part + DP + 1));
      }
      merge.template write_out<T>(p, list[pair.sequence].row, first_head(pair.head) + h);
    }
  }
}

}  // namespace hearth::kernels::cuda
