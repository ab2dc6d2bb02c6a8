// Decode attention: a warp's ring in shared memory, and the copies of its stretch's KV blocks into it.
#pragma once

#include "kernels/cuda/sm80/attention_decode_plan.cuh"

namespace hearth::kernels::cuda {

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

template <bool INT8, int DP> struct DecodeRing {
  using L = DecodeLayout<INT8, DP>;
  const AttentionArgs& p;
  const DecodeSequence* list;
  const DecodeHeads& heads;
  const uint32_t ring, scales;          // where they begin
  const int stages;
  int slot = 0;
  DecodeCursor loading{};
  int loading_place = 0, tiles_begin = 0, tiles = 0, tiles_next = 0;  // a lane's tiles of the places tiles_begin + lane, and 32 on

  __device__ __forceinline__ uint32_t tiles_of(int at) const { return ring + at * L::stage_bytes; }
  __device__ __forceinline__ uint32_t scales_of(int at) const { return scales + at * L::scale_bytes; }

  // Where the tile of a place of the list lies in the pool: KV block and head.
  __device__ __forceinline__ int tile_at(int sequences, int place) const {
    if (place >= list[sequences].begin * heads.tiles) return 0;
    DecodeCursor c;
    c.seek(list, sequences, heads.tiles, place, 0);
    return __ldcg(p.block_table + static_cast<int64_t>(c.sequence) * p.block_table_stride + list[c.sequence].first_block + c.block) * p.kv_heads + heads.kv(c.head);
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
          const uint32_t to = tiles_of(at) + b * 2 * L::tile_bytes;
          copy_tile(to, p.k, row0);
          copy_tile(to + L::tile_bytes, p.v, row0);
          if (INT8 && lane < 8) copy16(scales_of(at) + b * 128 + lane * 16, (lane < 4 ? p.k_scale : p.v_scale) + row0 + lane % 4 * 4);
        }
      loading.advance(list, heads.tiles, count);
      loading_place += count;
      if (loading_place - tiles_begin >= 32) {
        tiles = tiles_next;
        tiles_begin += 32;
        tiles_next = tile_at(p.sequences, tiles_begin + 32 + lane);
      }
    }
    copy_commit();
  }
  __device__ __forceinline__ void fill(int sequences, int place, int length) {
    const int lane = threadIdx.x % 32;
    loading_place = tiles_begin = place;
    tiles = tile_at(sequences, place + lane);
    tiles_next = tile_at(sequences, place + 32 + lane);
    loading.seek(list, sequences, heads.tiles, place, length);
    for (int i = 0; i < stages; ++i) load_stage(i);
  }
  // The stage under way; done with it, it is loaded with the one `stages` on.
  __device__ __forceinline__ void wait() const {
    copy_wait_for(stages - 1);
    __syncwarp();
  }
  __device__ __forceinline__ void next() {
    __syncwarp();
    load_stage(slot);
    if (++slot == stages) slot = 0;
  }
};

}  // namespace hearth::kernels::cuda
