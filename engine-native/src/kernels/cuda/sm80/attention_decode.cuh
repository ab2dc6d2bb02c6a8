// Attention of sequences that bring one row, on the paged pool, in one launch of one block a multiprocessor: for long
// contexts, and for single rows beside prompts (attention_short.cuh has the others).
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
//
// attention_decode_plan.cuh     the list and its stretches
// attention_decode_ring.cuh     a warp's ring
// attention_decode_queries.cuh  queries, and the row's own key and value
// attention_decode_products.cuh scores, weights, values
// attention_decode_merge.cuh    parts of one head meet
#pragma once

#include "kernels/cuda/sm80/attention_decode_merge.cuh"

namespace hearth::kernels::cuda {

// One warp and its stretch of the list.
template <class T, bool INT8, int DP> struct DecodeWarp {
  const AttentionArgs& p;
  const DecodeSequence* list;
  const DecodeHeads& heads;
  DecodeRing<INT8, DP> ring;
  DecodeQueries<T, INT8, DP> queries;
  DecodeProducts<T, INT8, DP> products;

  // `count` blocks of the head tile that the cursor is at.
  __device__ __forceinline__ void attend(const DecodeCursor& c, int count) {
    const DecodeSequence s = list[c.sequence];
    const int position = s.context - 1, first = p.window > 0 ? max(0, s.context - p.window) : 0;
    queries.prepare(s.row, c.head, c.block + count == c.blocks, [&] { ring.fill(); });
    products.begin(queries.scratch.q(), heads.live(c.head), p.scale);
    int token0 = (s.first_block + c.block) * kv_tokens;
#pragma unroll 1
    for (const int until = token0 + count * kv_tokens; token0 < until; token0 += kv_tokens) {
      ring.wait();
      attend_block(queries, products, ring.tile_of(ring.slot), ring.scales_of(ring.slot), token0, first, position);
      ring.next();
    }
  }
  // From `c` on, which is at `place`; the block of threads begins at `block_begin`. Whole pairs are written out; the others are
  // left in scratch and named in `head` (begun before the block) or `tail` by the block's first warp that has a part.
  __device__ __forceinline__ void walk(DecodeCursor c, int place, int block_begin, DecodePair& head, DecodePair& tail) {
    while (c.left > 0) {
      const int count = min(c.left, c.blocks - c.block);
      attend(c, count);
      const DecodeSequence s = list[c.sequence];
      const int pair_begin = s.begin * heads.tiles + c.head * c.blocks;
      const DecodePair pair{c.sequence, c.head, pair_begin, pair_begin + c.blocks};
      const bool whole = count == c.blocks, ends = count == c.left;
      c.advance(list, heads.tiles, count);
      if (whole) {
        write_tile(products, p, heads, s.row, pair.head);
        continue;
      }
      keep_partial(products, heads.live(pair.head), ends ? queries.scratch.last : queries.scratch.first());
      if (threadIdx.x % 32) continue;
      if (!ends) { if (place == block_begin) head = pair; }
      else if (pair_begin >= place || place == block_begin) tail = pair;
    }
  }
};

template <class T, bool INT8, int DP>
__device__ __forceinline__ void attention_decode(const AttentionArgs& p) {
  using L = DecodeLayout<INT8, DP>;
  using Scratch = DecodeScratch<INT8, DP>;
  extern __shared__ __align__(1024) char memory[];
  __shared__ DecodeShared shared;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const DecodeHeads heads(p);
  const int ring_bytes = p.stages * L::stage_bytes, scratch_bytes = Scratch::bytes_without_parts(heads.most()) + heads.most() * (DP + decode_partial_pad) * 4;
  char* own = memory + warps * (ring_bytes + p.stages * L::scale_bytes);
  DecodeSequence* list = reinterpret_cast<DecodeSequence*>(own + warps * scratch_bytes);
  auto scratch_of = [&](int w) { return Scratch{own + w * scratch_bytes, reinterpret_cast<float*>(memory + w * ring_bytes), heads.most()}; };
  if (warp == 0) {
    const int per_block = decode_plan(p, heads.tiles, list);
    if (lane == 0) { shared.per_block = per_block; shared.crossing[0] = shared.crossing[1] = -1; }
  }
  if (lane == 0) shared.pairs[warp + 1].sequence = -1;
  if (threadIdx.x == 0) shared.pairs[0].sequence = -1;
  __syncthreads();
  const int total = list[p.sequences].begin * heads.tiles;
  const DecodeStretch block{min(total, static_cast<int>(blockIdx.x) * shared.per_block), min(total, (static_cast<int>(blockIdx.x) + 1) * shared.per_block)};
  const DecodeStretch mine = decode_part(block, warp, warps);
  const uint32_t ring = shared_address(memory) + warp * ring_bytes, scales = shared_address(memory) + warps * ring_bytes + warp * p.stages * L::scale_bytes;
  DecodeWarp<T, INT8, DP> worker{p, list, heads, {p, list, heads, ring, scales, p.stages}, {p, heads, scratch_of(warp), p.head_dim == DP && (p.rope_dims == 0 || p.rope_dims == DP)}};
  DecodeCursor cursor{};
  if (mine.begin < mine.end) {
    cursor.seek(list, p.sequences, heads.tiles, mine.begin, mine.end - mine.begin);
    worker.queries.ask_row(list[cursor.sequence].row);
    worker.ring.seek(cursor, mine.begin);
    if (p.sequences < decode_many) {
      worker.ring.fill();
      worker.queries.make_row();
    }
  }
  // Before the wait: the next kernel's blocks take their places while every block of this one still holds its own, one a
  // multiprocessor. After it those without work would be gone, and the next kernel would double up where they were.
  if (p.releases_early) launch_dependents();
  wait_predecessors();
  for (int i = blockIdx.x; i < p.sequences; i += gridDim.x)  // empty slots of a bucket
    if (list[i].context == 0)
      for (int k = threadIdx.x; k < p.heads * p.head_dim; k += blockDim.x) static_cast<T*>(p.out)[list[i].row * p.out_stride + k] = from_float<T>(0.f);
  if (mine.begin < mine.end) worker.walk(cursor, mine.begin, block.begin, shared.pairs[0], shared.pairs[warp + 1]);
  if (block.begin == block.end) return;
  __syncthreads();
  DecodeMeeting<T, DP, decltype(scratch_of)>{p, list, heads, block, scratch_of, shared}.run();
}

}  // namespace hearth::kernels::cuda
