// Decode attention: what a warp has of a head tile goes out if it is all of it, else to shared memory; there the parts of a
// block's warps meet, and in global memory those of blocks, merged by the last to arrive, in the order of the context.
#pragma once

#include "kernels/cuda/sm80/attention_decode_products.cuh"

namespace hearth::kernels::cuda {

constexpr int decode_partial_pad = 4;  // floats after a head's sums: best, total, unused

// A warp's finished tile to the output.
template <class T, bool INT8, int DP>
__device__ __forceinline__ void write_tile(DecodeProducts<T, INT8, DP>& sums, const AttentionArgs& p, const DecodeHeads& heads, int row, int head) {
  const int t = threadIdx.x % 4, live = heads.live(head);
  sums.finish_sums();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (2 * t + i >= live) continue;
    const float factor = __fdividef(INT8 ? sums.v_best : 1.f, sums.sum[i]);
    T* to = static_cast<T*>(p.out) + row * p.out_stride + static_cast<int64_t>(heads.first(head) + 2 * t + i) * p.head_dim;
#pragma unroll
    for (int m = 0; m < sums.steps; ++m) {
      if (16 * m >= p.head_dim) continue;
      if constexpr (INT8) {
        if (sums.dim_of(m, 0) < p.head_dim) *reinterpret_cast<uint32_t*>(to + sums.dim_of(m, 0)) = pack2<T>(sums.o[m][i] * factor, sums.o[m][i + 2] * factor);
      } else {
        to[sums.dim_of(m, 0)] = from_float<T>(sums.o[m][i] * factor);
        if (sums.dim_of(m, 1) < p.head_dim) to[sums.dim_of(m, 1)] = from_float<T>(sums.o[m][i + 2] * factor);
      }
    }
  }
}

// A part of a tile: [live heads][DP + decode_partial_pad].
template <class T, bool INT8, int DP>
__device__ __forceinline__ void keep_partial(DecodeProducts<T, INT8, DP>& sums, int live, float* partial) {
  const int t = threadIdx.x % 4, g = threadIdx.x % 32 / 4;
  sums.finish_sums();
  __syncwarp();
  const float factor = INT8 ? sums.v_best : 1.f;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (2 * t + i >= live) continue;
    float* to = partial + (2 * t + i) * (DP + decode_partial_pad);
#pragma unroll
    for (int m = 0; m < sums.steps; ++m) { to[sums.dim_of(m, 0)] = sums.o[m][i] * factor; to[sums.dim_of(m, 1)] = sums.o[m][i + 2] * factor; }
    if (g == 0) { to[DP] = sums.best[i]; to[DP + 1] = sums.sum[i]; }
  }
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

// What the warps of a block share about tiles that are not one warp's alone.
struct DecodeShared {
  DecodePair pairs[decode_warps_max + 1];  // begun before the block, then by warps; sequence -1: none
  int per_block;                           // places of the list
  int crossing[2], is_last[2];             // pairs that began before the block, or end after it; -1: none
};

// A block's view of the merge. Scratch: the place in shared memory of a warp's DecodeScratch.
template <class T, int DP, class Scratch> struct DecodeMeeting {
  using Merge = DecodeMerge<DP>;
  static constexpr int pitch = DP + decode_partial_pad;
  const AttentionArgs& p;
  const DecodeSequence* list;
  const DecodeHeads& heads;
  const DecodeStretch block;
  const Scratch& scratch_of;
  DecodeShared& shared;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;

  // The warp that has a place of the block's stretch (decode_part).
  __device__ __forceinline__ int warp_of(int place) const { return ((place - block.begin + 1) * warps - 1) / (block.end - block.begin); }
  // What warp w, one of those from the pair's first to its last, left of head h; nullptr: its stretch is empty.
  __device__ __forceinline__ const float* part_of_warp(const DecodePair& pair, int w, int h) const {
    const DecodeStretch s = decode_part(block, w, warps);
    if (s.begin == s.end) return nullptr;
    const auto scratch = scratch_of(w);
    return (s.end <= pair.end ? scratch.last : scratch.first()) + h * pitch;
  }
  // The part of head h that block b left; `after`: of a pair that ends behind it.
  __device__ __forceinline__ float* part_of_block(int b, int after, int h) const {
    return p.partial + ((static_cast<int64_t>(b) * 2 + after) * heads.most() + h) * pitch;
  }

  // Heads of the block's pairs go round the warps: to the output, or to memory when other blocks have parts of them.
  __device__ __forceinline__ void merge_warps() const {
    for (int job = warp; job < (warps + 1) * heads.most(); job += warps) {
      const DecodePair pair = shared.pairs[job / heads.most()];
      const int h = job % heads.most();
      if (pair.sequence < 0 || h >= heads.live(pair.head)) continue;
      const int from = warp_of(max(pair.begin, block.begin)), until = warp_of(min(pair.end, block.end) - 1) + 1;
      float top = -INFINITY;
      for (int w = from; w < until; ++w)
        if (const float* part = part_of_warp(pair, w, h)) top = fmaxf(top, part[DP]);
      Merge merge;
      for (int w = from; w < until; ++w) {
        const float* part = part_of_warp(pair, w, h);
        if (!part) continue;
        float4 v[Merge::parts];
#pragma unroll
        for (int i = 0; i < Merge::parts; ++i) v[i] = *reinterpret_cast<const float4*>(part + Merge::dim(i) % DP);
        merge.add(v, exp2_fast(part[DP] - top), part[DP + 1]);
      }
      if (pair.begin >= block.begin && pair.end <= block.end) {
        merge.template write_out<T>(p, list[pair.sequence].row, heads.first(pair.head) + h);
        continue;
      }
      const int after = pair.end > block.end;
      float* to = part_of_block(blockIdx.x, after, h);
#pragma unroll
      for (int i = 0; i < Merge::parts; ++i)
        if (Merge::dim(i) < DP) __stcg(reinterpret_cast<float4*>(to + Merge::dim(i)), merge.value[i]);
      if (lane == 0) { __stcg(to + DP, top); __stcg(to + DP + 1, merge.total); shared.crossing[after] = job / heads.most(); }
    }
  }

  // By two threads, one for each end of the block: whether this block is the last of those that share the pair there.
  __device__ __forceinline__ void count(int end) const {
    shared.is_last[end] = 0;
    if (shared.crossing[end] < 0) return;
    const DecodePair pair = shared.pairs[shared.crossing[end]];
    int32_t* counter = p.counters + pair.sequence * heads.tiles + pair.head;
    const int parts = (pair.end - 1) / shared.per_block - pair.begin / shared.per_block + 1;
    shared.is_last[end] = atomicAdd(counter, 1) == parts - 1;
    if (shared.is_last[end]) *counter = 0;
  }
  __device__ __forceinline__ void merge_blocks(const DecodePair& pair) const {
    const int per_block = shared.per_block, from = pair.begin / per_block, until = (pair.end - 1) / per_block + 1;
    for (int h = warp; h < heads.live(pair.head); h += warps) {
      auto part_of = [&](int b) { return part_of_block(b, (b + 1) * per_block < pair.end, h); };
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
      merge.template write_out<T>(p, list[pair.sequence].row, heads.first(pair.head) + h);
    }
  }

  // Whether other blocks have parts of this one's pairs too.
  __device__ __forceinline__ bool crosses() const {
    bool any = false;
    for (int i = 0; i <= warps; ++i) any |= shared.pairs[i].sequence >= 0 && (shared.pairs[i].begin < block.begin || shared.pairs[i].end > block.end);
    return any;
  }

  __device__ __forceinline__ void run() const {
    merge_warps();
    if (!crosses()) return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x < 2) count(threadIdx.x);
    __syncthreads();
    __threadfence();
    for (int end = 0; end < 2; ++end)
      if (shared.is_last[end]) merge_blocks(shared.pairs[shared.crossing[end]]);
  }
};

}  // namespace hearth::kernels::cuda
