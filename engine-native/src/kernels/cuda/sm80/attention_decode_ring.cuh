// Decode attention: a warp's ring in shared memory, and the copies of its stretch's KV blocks into it.
#pragma once

#include "kernels/cuda/sm80/attention_decode_plan.cuh"

namespace hearth::kernels::cuda {

// Waits until at most `pending` of this thread's groups of copies are under way. By comparisons, the usual first: a table of jumps
// is read from memory at every turn.
__device__ __forceinline__ void copy_wait_for(int pending) {
  if (pending < 1) copy_wait<0>();
  else if (pending < 2) copy_wait<1>();
  else if (pending < 3) copy_wait<2>();
  else if (pending < 4) copy_wait<3>();
  else if (pending < 5) copy_wait<4>();
  else copy_wait<5>();
}

// A stage of the ring: one KV block. Rows of 16-byte chunks, swizzled so that eight rows of a chunk lie in
// different banks. host/attention.cpp mirrors the sizes.
template <bool INT8, int DP> struct DecodeLayout {
  static constexpr int row_bytes = DP * (INT8 ? 1 : 2), tile_bytes = kv_tokens * row_bytes, stage_bytes = 2 * tile_bytes;
  static constexpr int scale_bytes = INT8 ? 128 : 0;           // [k, v][16] floats of a stage
  static constexpr int chunks = row_bytes / 16, lines = row_bytes >= 128 ? 1 : 128 / row_bytes, mask = (chunks < 8 ? chunks : 8) - 1;
  static constexpr int q_pitch = DP * 2 + 16;                  // int8: the upper bytes, the lower ones, the head's factor
  static constexpr int fresh_bytes = 2 * row_bytes + 16;       // the row's own k and v, their scales
  static __device__ __forceinline__ int at(int row, int chunk) { return row * row_bytes + (chunk ^ (row / lines & mask)) * 16; }
};

// The lane, read where it is used: what is derived from it once and for all spills.
__device__ __forceinline__ int lane_anew() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

// The keys or the values of a KV block, by a warp. They leave the L2 first: what is left there is code, tables and activations,
// which every layer wants again (without it a block's first 8 us went into fetching its code from memory).
template <bool INT8, int DP>
__device__ __forceinline__ void copy_tile(const AttentionArgs& p, uint32_t to, const void* pool, int64_t row0) {
  using L = DecodeLayout<INT8, DP>;
  const int lane = lane_anew();
  constexpr int rows = L::chunks < 32 ? 32 / L::chunks : 1;  // of one instruction
  const uint64_t policy = evict_first_policy();
  if (p.head_dim == DP) {  // constants only: one instruction a copy
    const char* from = static_cast<const char*>(pool) + row0 * L::row_bytes + lane * 16;
#pragma unroll
    for (int i = 0; i < kv_tokens / rows; ++i) copy16_once(to + L::at(lane / L::chunks + i * rows, lane % L::chunks), from + i * 512, policy);
    return;
  }
  const int bytes = p.head_dim * (INT8 ? 1 : 2);
  const char* from = static_cast<const char*>(pool) + row0 * bytes;
  if constexpr (INT8)
    if (bytes % 16) {
      for (int i = lane; i < kv_tokens * L::chunks * 2; i += 32) {
        const int row = i / (L::chunks * 2), half = i % (L::chunks * 2);
        if (half * 8 < bytes) copy8(to + L::at(row, half / 2) + half % 2 * 8, from + row * bytes + half * 8);
      }
      return;
    }
  const int row = lane / L::chunks, chunk = lane % L::chunks;
  const bool inside = chunk * 16 < bytes;
  from += row * bytes + (inside ? chunk * 16 : 0);
#pragma unroll
  for (int i = 0; i < kv_tokens / rows; ++i) copy16_once(to + L::at(row + i * rows, chunk), from + i * rows * bytes, policy, inside);
}

// A KV block of one KV head: keys, values and, of int8, their scales. row0: its first row in the pool.
template <bool INT8, int DP>
__device__ __forceinline__ void copy_block(const AttentionArgs& p, uint32_t tile, uint32_t scales, int64_t row0) {
  using L = DecodeLayout<INT8, DP>;
  const int lane = threadIdx.x % 32;
  copy_tile<INT8, DP>(p, tile, p.k, row0);
  copy_tile<INT8, DP>(p, tile + L::tile_bytes, p.v, row0);
  if (INT8 && lane < 8) copy16(scales + lane * 16, (lane < 4 ? p.k_scale : p.v_scale) + row0 + lane % 4 * 4);
}

// The same where heads are DP wide: tile number `number` of the pool, 32 lanes of 16 bytes at a time, straight through.
template <bool INT8, int DP>
__device__ __forceinline__ void copy_whole_block(const AttentionArgs& p, uint32_t tile, uint32_t scales, uint32_t number) {
  using L = DecodeLayout<INT8, DP>;
  static_assert(L::row_bytes == 128, "rows of a tile four at a time, swizzled by their lower three bits");
  const int lane = threadIdx.x % 32;
  const uint64_t policy = evict_first_policy();
  const uint32_t even = tile + L::at(lane / 8, lane % 8), odd = even ^ 64;  // rows of a copy
#pragma unroll
  for (int values = 0; values < 2; ++values) {
    const char* from = static_cast<const char*>(values ? p.v : p.k) + lane * 16 + static_cast<uint64_t>(number) * L::tile_bytes;
#pragma unroll
    for (int i = 0; i < kv_tokens / 4; ++i) copy16_once((i % 2 ? odd : even) + values * L::tile_bytes + i * 512, from + i * 512, policy);
  }
  if (lane < 8) copy16(scales + lane * 16, (lane < 4 ? p.k_scale : p.v_scale) + static_cast<uint64_t>(number) * kv_tokens + lane % 4 * 4);
}

template <bool INT8, int DP> struct DecodeRing {
  using L = DecodeLayout<INT8, DP>;
  const AttentionArgs& p;
  const DecodeSequence* list;
  const DecodeHeads& heads;
  const uint32_t ring, scales;          // where they begin
  const int stages;
  int slot = 0;
  bool filled = false;
  int window = 0, next_place = 0, left = 0;  // the window of places whose tiles are known, the next one to load in it, how many are left
  int tiles = 0, tiles_next = 0;             // a lane's tiles of the places window + lane, and 32 on

  __device__ __forceinline__ uint32_t tile_of(int at) const { return ring + at * L::stage_bytes; }
  __device__ __forceinline__ uint32_t scales_of(int at) const { return scales + at * L::scale_bytes; }

  // Where the tile of a place of the list lies in the pool: KV block and head. c: a cursor of the same sequence perhaps.
  __device__ __forceinline__ int tile_at(int place, DecodeCursor c) const {
    if (place >= list[p.sequences].begin * heads.tiles) return 0;
    const int rest = place - list[c.sequence].begin * heads.tiles;
    if (rest < c.blocks * heads.tiles) c.place_at(rest);
    else c.seek(list, p.sequences, heads.tiles, place, 0);
    return __ldcg(p.block_table + static_cast<int64_t>(c.sequence) * p.block_table_stride + list[c.sequence].first_block + c.block) * p.kv_heads + heads.kv(c.head);
  }
  // The next stage of the stretch to the ring's slot `at`; an empty group when there is none.
  __device__ __forceinline__ void load_stage(int at) {
    if (left > 0) {
      const int64_t row0 = static_cast<int64_t>(__shfl_sync(0xffffffffu, tiles, next_place)) * kv_tokens;
      copy_block<INT8, DP>(p, tile_of(at), scales_of(at), row0);
      --left;
      if (++next_place == 32) {
        next_place = 0;
        window += 32;
        tiles = tiles_next;
        tiles_next = tile_at(window + 32 + lane_anew(), DecodeCursor{});
      }
    }
    copy_commit();
  }
  // A stretch begins: at `place`, which `begin` is at.
  __device__ __forceinline__ void seek(const DecodeCursor& begin, int place) {
    const int lane = threadIdx.x % 32;
    window = place;
    left = begin.left;
    tiles = tile_at(place + lane, begin);
    tiles_next = tile_at(place + 32 + lane, begin);
  }
  // Its first stages, unless they are under way.
  __device__ __forceinline__ void fill() {
    if (filled) return;
    filled = true;
#pragma unroll 1
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
