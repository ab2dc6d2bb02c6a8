// Attention of sequences that bring one row: split over the context, the query heads of a KV head packed into one tile.
// Everything stays in registers: S^T = K Q^T (tokens as M, heads as N), O^T = V^T P^T; K and V go straight from global
// memory into fragments, 16 bytes a lane, thanks to permutations of the head's dimensions that the mma does not see. The
// block prepares its queries (norm, rope, rotation) itself; whoever owns the last tokens writes the new K and V.
#pragma once

#include "kernels/cuda/generic/attention_prepare.cuh"

namespace hearth::kernels::cuda {

constexpr int decode_warps = 4, decode_threads = decode_warps * 32;
constexpr int decode_heads = 8;  // query heads of one block

template <class T> __device__ __forceinline__ uint4 kv_load16(const void* pool, int64_t element) {
  return *reinterpret_cast<const uint4*>(static_cast<const T*>(pool) + element);
}
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
template <class T, bool INT8> __device__ __forceinline__ uint4 kv_load8(const void* pool, int64_t element, bool valid) {
  if (!valid) return make_uint4(0, 0, 0, 0);
  if constexpr (INT8) return widen8<T>(*reinterpret_cast<const uint2*>(static_cast<const int8_t*>(pool) + element));
  else return kv_load16<T>(pool, element);
}

template <class T, bool INT8, int DP>
__device__ __forceinline__ void attention_decode(const AttentionArgs& p) {
  constexpr int q_pitch = DP * 2 + 16;  // bytes; the 16 spread the rows over the banks
  constexpr int KB = DP / 32, VB = (DP + 63) / 64;
  extern __shared__ __align__(16) char shared[];
  char* q_shared = shared;                                                          // [8][q_pitch]
  float* merge = reinterpret_cast<float*>(shared + decode_heads * q_pitch);          // [warps][8][DP], also the heads' scratch
  float* stats = merge + decode_warps * decode_heads * DP;                           // [warps][8][2]
  __shared__ int last_flag;
  __shared__ float2 turns[DP / 2];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int per_kv = p.heads / p.kv_heads, head_tiles = (per_kv + decode_heads - 1) / decode_heads;
  const int kv_head = blockIdx.y / head_tiles, head0 = kv_head * per_kv + blockIdx.y % head_tiles * decode_heads;
  const int live_heads = min(decode_heads, per_kv - blockIdx.y % head_tiles * decode_heads);
  const int sequence = blockIdx.z;
  // Before the wait: what describes the step (uploaded before its first kernel) and the history in the pool (written by
  // earlier steps). The row's own q, k and v come from the kernel before this one.
  const int row = __ldcg(p.row_begin + sequence), count = __ldcg(p.row_begin + sequence + 1) - row;
  const int context = __ldcg(p.context + sequence), position = context - 1;
  if (count != 1) { wait_predecessors(); launch_dependents(); return; }
  T* out = static_cast<T*>(p.out) + row * p.out_stride;
  if (context <= 0) {  // an empty slot of a bucket
    wait_predecessors();
    launch_dependents();
    if (blockIdx.x == 0)
      for (int i = threadIdx.x; i < live_heads * p.head_dim; i += decode_threads) out[static_cast<int64_t>(head0) * p.head_dim + i] = from_float<T>(0.f);
    return;
  }
  const int first = p.window > 0 ? max(0, position - p.window + 1) : 0;
  const int block_first = first / kv_tokens, blocks = position / kv_tokens - block_first + 1;
  // A few blocks a warp at least, so that short contexts do not pay for a merge.
  const int per_split = max(4 * decode_warps, (blocks + p.splits - 1) / p.splits);
  const int active = (blocks + per_split - 1) / per_split;
  const int split = blockIdx.x;
  if (split >= active) { wait_predecessors(); launch_dependents(); return; }
  const int begin = block_first + split * per_split, end = min(begin + per_split, block_first + blocks);
  const int32_t* table = p.block_table + static_cast<int64_t>(sequence) * p.block_table_stride;
  int64_t next_block = begin + warp < end ? __ldcg(table + begin + warp) : 0;
  const int slot = __ldcg(p.kv_slot + row);
  for (int i = threadIdx.x; i < p.rope_dims / 2; i += decode_threads) turns[i] = rope_turn(p, row, i);
  for (int i = threadIdx.x; i < decode_heads * q_pitch / 4; i += decode_threads) reinterpret_cast<uint32_t*>(q_shared)[i] = 0;
  if (begin + warp < end) {  // the first block of each warp, to the L2
    const int64_t bytes = static_cast<int64_t>(kv_tokens) * p.head_dim * (INT8 ? 1 : 2), at = (next_block * p.kv_heads + kv_head) * bytes;
    for (int i = lane * 128; i < bytes; i += 4096) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(p.k) + at + i));
      asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(p.v) + at + i));
    }
  }
  wait_predecessors();
  if (p.releases_early) launch_dependents();
  __syncthreads();

  // Queries to shared memory as T; the new token's K and V to the pool (head tiles of one KV head write the same values).
  {
    float* x = merge + warp * DP;
    const bool writes = split == active - 1 && slot >= 0;
    for (int item = warp; item < live_heads + (writes ? 2 : 0); item += decode_warps) {
      const int which = item - live_heads;  // 0: k, 1: v
      head_load(p, row, which < 0 ? head0 + item : p.heads + which * p.kv_heads + kv_head, x);
      if (which < 1) head_prepare(p, row, which < 0 ? p.q_norm : p.k_norm, x, turns);
      if (which < 0) {
        T* q = reinterpret_cast<T*>(q_shared + item * q_pitch);
        for (int i = lane; i < p.head_dim; i += 32) q[i] = from_float<T>(x[i]);
      } else {
        head_write(p, slot, kv_head, which == 0 ? p.k : p.v, which == 0 ? p.k_scale : p.v_scale, x);
      }
      __syncwarp();
    }
  }
  __syncthreads();
  uint4 q[KB];
#pragma unroll
  for (int b = 0; b < KB; ++b) q[b] = *reinterpret_cast<const uint4*>(q_shared + g * q_pitch + b * 64 + t * 16);

  constexpr float log2e = 1.4426950408889634f;
  const float scale = p.scale * log2e;
  float best[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, o[VB][4][4] = {};
  for (int block = begin + warp; block < end; block += decode_warps) {
    const int64_t token0 = (next_block * p.kv_heads + kv_head) * kv_tokens;
    if (block + decode_warps < end) next_block = __ldcg(table + block + decode_warps);
    const int base = block * kv_tokens;
    uint4 k[KB][2], v[VB][4];
#pragma unroll
    for (int b = 0; b < KB; ++b) {
      const bool inside = 32 * b + 8 * t < p.head_dim;
      k[b][0] = kv_load8<T, INT8>(p.k, (token0 + g) * p.head_dim + 32 * b + 8 * t, inside);
      k[b][1] = kv_load8<T, INT8>(p.k, (token0 + g + 8) * p.head_dim + 32 * b + 8 * t, inside);
    }
    auto visible = [&](int token) { return base + token >= first && base + token <= position; };
#pragma unroll
    for (int b = 0; b < VB; ++b) {
      const bool inside = 64 * b + 8 * g < p.head_dim;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int token = 2 * t + (i & 1) + (i & 2) * 4;
        v[b][i] = kv_load8<T, INT8>(p.v, (token0 + token) * p.head_dim + 64 * b + 8 * g, inside && visible(token));
      }
    }
    float k_scale[2] = {1, 1}, v_scale[2] = {1, 1};
    if constexpr (INT8) {
      k_scale[0] = p.k_scale[token0 + g]; k_scale[1] = p.k_scale[token0 + g + 8];
      v_scale[0] = p.v_scale[token0 + g]; v_scale[1] = p.v_scale[token0 + g + 8];
    }
    float s[4] = {0, 0, 0, 0};
#pragma unroll
    for (int b = 0; b < KB; ++b) {
      const uint32_t a0[4] = {k[b][0].x, k[b][1].x, k[b][0].y, k[b][1].y}, a1[4] = {k[b][0].z, k[b][1].z, k[b][0].w, k[b][1].w};
      mma<T>(s, a0, q[b].x, q[b].y);
      mma<T>(s, a1, q[b].z, q[b].w);
    }
    const bool low = visible(g), high = visible(g + 8);
    float top[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      s[i] = low ? s[i] * scale * k_scale[0] : -INFINITY;
      s[i + 2] = high ? s[i + 2] * scale * k_scale[1] : -INFINITY;
      top[i] = fmaxf(s[i], s[i + 2]);
      top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffu, top[i], 4));
      top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffu, top[i], 8));
      top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffu, top[i], 16));
      const float next = fmaxf(best[i], top[i]);
      const float reference = next == -INFINITY ? 0.f : next, shrink = exp2f(best[i] - reference);
      best[i] = next;
      s[i] = exp2f(s[i] - reference);
      s[i + 2] = exp2f(s[i + 2] - reference);
      sum[i] = sum[i] * shrink + s[i] + s[i + 2];
#pragma unroll
      for (int b = 0; b < VB; ++b)
#pragma unroll
        for (int j = 0; j < 4; ++j) { o[b][j][i] *= shrink; o[b][j][i + 2] *= shrink; }
    }
    // An unwritten scale of a token past the context may be anything: its weight is zero either way.
    const float low_scale = low ? v_scale[0] : 0.f, high_scale = high ? v_scale[1] : 0.f;
    const uint32_t p0 = transpose8x8(pack2<T>(s[0] * low_scale, s[1] * low_scale));
    const uint32_t p1 = transpose8x8(pack2<T>(s[2] * high_scale, s[3] * high_scale));
#pragma unroll
    for (int b = 0; b < VB; ++b) {
      const uint32_t* v0 = reinterpret_cast<const uint32_t*>(&v[b][0]);
      const uint32_t* v1 = reinterpret_cast<const uint32_t*>(&v[b][1]);
      const uint32_t* v2 = reinterpret_cast<const uint32_t*>(&v[b][2]);
      const uint32_t* v3 = reinterpret_cast<const uint32_t*>(&v[b][3]);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t a[4] = {__byte_perm(v0[j], v1[j], 0x5410), __byte_perm(v0[j], v1[j], 0x7632),
                               __byte_perm(v2[j], v3[j], 0x5410), __byte_perm(v2[j], v3[j], 0x7632)};
        mma<T>(o[b][j], a, p0, p1);
      }
    }
  }
  // Merge the warps: lane (g, t) holds dims 64 b + 8 g + 2 j + {0, 1} of heads 2 t, 2 t + 1.
  __syncthreads();  // the scratch of the preparation becomes the merge buffer
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 4);
    sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 8);
    sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 16);
    const int h = 2 * t + i;
    if (g == 0) {
      stats[(warp * decode_heads + h) * 2] = best[i];
      stats[(warp * decode_heads + h) * 2 + 1] = sum[i];
    }
    float* to = merge + (warp * decode_heads + h) * DP;
#pragma unroll
    for (int b = 0; b < VB; ++b)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int d = 64 * b + 8 * g + 2 * j;
        if (d < DP) { to[d] = o[b][j][i]; to[d + 1] = o[b][j][i + 2]; }
      }
  }
  __syncthreads();
  const int dim = p.head_dim;
  const int64_t slice = dim + 2;  // a partial: sums [dim], best, total
  float* partial = p.partial + ((static_cast<int64_t>(sequence) * p.heads + head0) * p.splits) * slice;
  for (int i = threadIdx.x; i < live_heads * dim; i += decode_threads) {
    const int h = i / dim, d = i % dim;
    float top = -INFINITY;
#pragma unroll
    for (int w = 0; w < decode_warps; ++w) top = fmaxf(top, stats[(w * decode_heads + h) * 2]);
    float total = 0, value = 0;
#pragma unroll
    for (int w = 0; w < decode_warps; ++w) {
      const float weight = exp2f(stats[(w * decode_heads + h) * 2] - top);
      total += weight * stats[(w * decode_heads + h) * 2 + 1];
      value += weight * merge[(w * decode_heads + h) * DP + d];
    }
    if (active == 1) {
      out[static_cast<int64_t>(head0 + h) * dim + d] = from_float<T>(value / total);
    } else {
      float* to = partial + (static_cast<int64_t>(h) * p.splits + split) * slice;
      to[d] = value;
      if (d == 0) { to[dim] = top; to[dim + 1] = total; }
    }
  }
  if (active == 1) return;
  __threadfence();
  __syncthreads();
  int32_t* counter = p.counters + static_cast<int64_t>(sequence) * gridDim.y + blockIdx.y;
  if (threadIdx.x == 0) {
    last_flag = atomicAdd(counter, 1) == active - 1;
    if (last_flag) *counter = 0;
  }
  __syncthreads();
  if (!last_flag) return;
  __threadfence();
  for (int i = threadIdx.x; i < live_heads * dim; i += decode_threads) {
    const int h = i / dim, d = i % dim;
    const float* from = partial + static_cast<int64_t>(h) * p.splits * slice;
    float top = -INFINITY;
    for (int s = 0; s < active; ++s) top = fmaxf(top, __ldcg(from + s * slice + dim));
    float total = 0, value = 0;
    for (int s = 0; s < active; ++s) {
      const float weight = exp2f(__ldcg(from + s * slice + dim) - top);
      total += weight * __ldcg(from + s * slice + dim + 1);
      value += weight * __ldcg(from + s * slice + d);
    }
    out[static_cast<int64_t>(head0 + h) * dim + d] = from_float<T>(value / total);
  }
}

}  // namespace hearth::kernels::cuda
