// Decode attention: who does what. The list of all (sequence, head tile, KV block) is cut into equal stretches, planned in
// the kernel from the contexts (attention_decode.cuh).
#pragma once

#include "kernels/cuda/generic/attention_prepare.cuh"

namespace hearth::kernels::cuda {

constexpr int decode_heads = 8;         // query heads of a tile
constexpr int decode_warps_max = 16;
// From so many sequences on this kernel's blocks do not stand beside the one's before: nothing is gained by filling the rings
// before the queries are asked for, which would wait behind them.
constexpr int decode_many = 9;
// Warps that a block may have, at most (mirrored in host/attention.cpp).
__host__ __device__ constexpr int decode_warps(bool int8, int head_size) { return head_size > 128 ? 8 : int8 ? decode_warps_max : 12; }
constexpr int decode_aligned_blocks = 24;  // contexts up to this many KV blocks are not dealt to several blocks of threads, if all are equal

// Query heads by tiles of up to decode_heads, all of one KV head.
struct DecodeHeads {
  const int per_kv, of_kv, tiles;  // query heads of a KV head, tiles of a KV head, tiles of all
  __device__ __forceinline__ explicit DecodeHeads(const AttentionArgs& p)
      : per_kv(p.heads / p.kv_heads), of_kv((per_kv + decode_heads - 1) / decode_heads), tiles(p.kv_heads * of_kv) {}
  __device__ __forceinline__ int live(int tile) const { return min(decode_heads, per_kv - tile % of_kv * decode_heads); }
  __device__ __forceinline__ int first(int tile) const { return tile / of_kv * per_kv + tile % of_kv * decode_heads; }
  __device__ __forceinline__ int kv(int tile) const { return tile / of_kv; }
  __device__ __forceinline__ int most() const { return min(decode_heads, per_kv); }  // live heads of any tile
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
    place_at(place - list[low].begin * heads);
    left = length;
  }
  __device__ __forceinline__ void place_at(int rest) {  // places after the sequence's first
    head = rest / max(blocks, 1);
    block = rest - head * blocks;
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
  struct Next { int row, end, context; } next{};
  auto ask = [&](int i) { if (i < p.sequences) next = {__ldcg(p.row_begin + i), __ldcg(p.row_begin + i + 1), __ldcg(p.context + i)}; };
  ask(lane);
  for (int base = 0; base < p.sequences; base += 32) {
    const int i = base + lane;
    int blocks = 0;
    DecodeSequence s{0, 0, next.row, -1};
    if (i < p.sequences && next.end - next.row == 1) {
      s.context = max(next.context, 0);
      if (p.window > 0) s.first_block = max(0, s.context - p.window) / kv_tokens;
      if (s.context > 0) blocks = (s.context - 1) / kv_tokens - s.first_block + 1;
    }
    ask(i + 32);  // under way while these are added up
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

}  // namespace hearth::kernels::cuda
