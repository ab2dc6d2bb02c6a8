// Attention of many rows on Hopper (after FlashAttention-3, Shah et al. 2024): a block takes 64 query rows of one head a
// multiplying warpgroup (two of them, or one where there are few rows to share), and walks the keys in tiles of TK tokens. A
// loading warp keeps two tiles of K and of V in shared memory by the copy engine (int8 ones are widened by its warpgroup); the product with V of one tile runs while the softmax of the next is computed. The same body serves the
// paged KV pool (causal, sliding window, chunks against history) and vision towers (dense, both directions).
#pragma once

#include "kernels/cuda/hopper_params.h"
#include "kernels/cuda/sm80/attention_prefill.cuh"
#include "kernels/cuda/sm90/wgmma_tiles.cuh"

namespace hearth::kernels::cuda {

// DP: head size rounded up to what the kernels are made for. A row of Q, K or V is blocks of 64 dims = 128 bytes.
template <int GROUPS, int DP, int TK> struct AttentionLayout {
  static constexpr int rows = GROUPS * 64, blocks = (DP + 63) / 64;
  static constexpr int q_block = rows * 128, q_bytes = blocks * q_block;
  static constexpr int tile_block = TK * 128, tile_bytes = blocks * tile_block;
  static constexpr int bytes = q_bytes + 4 * tile_bytes + 1024;
};

__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void group_sync(int group) {
  if (group == 0) asm volatile("bar.sync 1, 128;" ::: "memory");
  else if (group == 1) asm volatile("bar.sync 2, 128;" ::: "memory");
  else asm volatile("bar.sync 3, 128;" ::: "memory");
}
__device__ __forceinline__ float exponential2(float v) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
}
// N contiguous: 64 of them are an atom of 128 bytes; atoms `leading` bytes apart, 8 k 1,024 bytes apart.
__device__ __forceinline__ uint64_t descriptor_transposed(uint32_t address, uint32_t leading) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | (static_cast<uint64_t>(leading >> 4) << 16) | (uint64_t{64} << 32) | (uint64_t{1} << 62);
}
// Where 16-byte chunk c of row r lies in blocks of `rows` rows.
__device__ __forceinline__ uint32_t swizzled(int rows, int r, int c) { return c / 8 * (rows * 128) + r * 128 + ((c ^ r) & 7) * 16; }

// Eight int8 values times a scale.
template <class T> __device__ __forceinline__ uint4 scaled8(uint2 raw, float scale) {
  uint32_t w[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint32_t pair = (j < 2 ? raw.x : raw.y) >> (j % 2 * 16);
    w[j] = pack2<T>(static_cast<float>(static_cast<int8_t>(pair)) * scale, static_cast<float>(static_cast<int8_t>(pair >> 8)) * scale);
  }
  return make_uint4(w[0], w[1], w[2], w[3]);
}

// ---- Where keys and values come from ----

// The paged pool, a block of 16 tokens a box.
struct PagedSource {
  template <int TILE> static constexpr int tokens = kv_tokens;
  const HopperAttentionArgs* p;
  const int32_t* table;
  int kv_head;
  __device__ __forceinline__ int64_t index(int token) const {  // of the token's head, in heads
    return (static_cast<int64_t>(__ldg(table + token / kv_tokens)) * p->attention.kv_heads + kv_head) * kv_tokens + token % kv_tokens;
  }
  __device__ __forceinline__ const void* map(bool value) const { return value ? &p->v : &p->k; }
  __device__ __forceinline__ int row(int token) const { return static_cast<int>(index(token)); }
  __device__ __forceinline__ int column(bool) const { return 0; }
};
// Rows of qkv, a whole tile a box.
struct DenseSource {
  template <int TILE> static constexpr int tokens = TILE;
  const HopperVisionArgs* p;
  int row0, head;
  __device__ __forceinline__ const void* map(bool) const { return &p->qkv; }
  __device__ __forceinline__ int row(int token) const { return row0 + token; }
  __device__ __forceinline__ int column(bool value) const { return ((value ? 2 : 1) * p->vision.heads + head) * p->vision.head_dim; }
};

// One warp starts the copies of a tile of K or V; `seen`: first and last token that any row of the block sees. Boxes that
// hold none are left out: nobody may have written them, or they may not exist.
template <int DP, int TK, class Source>
__device__ __forceinline__ void copy_attention_tile(const Source& source, bool value, int token0, int2 seen, uint32_t to, uint32_t barrier) {
  constexpr int blocks = (DP + 63) / 64, box = Source::template tokens<TK>;
  static_assert(TK / box * blocks <= 32);
  const int lane = threadIdx.x % 32, block = lane % blocks, part = lane / blocks, token = token0 + part * box;
  const bool live = part < TK / box && token <= seen.y && token + box > seen.x;
  const int row = live ? source.row(token) : 0, count = __popc(__ballot_sync(0xffffffffu, live));
  if (lane == 0) barrier_expect(barrier, count * box * 128);
  __syncwarp();
  if (live) tensor_copy(to + block * TK * 128 + part * box * 128, source.map(value), source.column(value) + block * 64, row, barrier);
}

// Zeroes the values of tokens nobody sees: their weight is zero, but their memory may hold anything, and 0 x NaN is NaN.
template <int DP, int TK> __device__ __forceinline__ void clear_unseen(int token0, int2 seen, uint32_t at) {
  constexpr int blocks = (DP + 63) / 64;
  const int lane = threadIdx.x % 32;
  for (int r = lane / 8; r < TK; r += 4) {
    if (token0 + r >= seen.x && token0 + r <= seen.y) continue;
#pragma unroll
    for (int b = 0; b < blocks; ++b) shared_store16(at + b * TK * 128 + r * 128 + lane % 8 * 16, make_uint4(0, 0, 0, 0));
  }
  fence_async_proxy();
}

// The loading warpgroup widens one tile of an int8 pool.
template <class T, int DP, int TK>
__device__ __forceinline__ void widen_attention_tile(const PagedSource& source, const void* pool, const float* scales, int token0, int2 seen, uint32_t to, uint32_t full) {
  constexpr int chunks = DP / 8;
  const int head_dim = source.p->attention.head_dim;
#pragma unroll 4
  for (int piece = threadIdx.x; piece < TK * chunks; piece += 128) {
    const int r = piece / chunks, c = piece % chunks, token = token0 + r;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (token >= seen.x && token <= seen.y && c * 8 < head_dim) {
      const int64_t index = source.index(token);
      v = scaled8<T>(*reinterpret_cast<const uint2*>(static_cast<const int8_t*>(pool) + index * head_dim + c * 8), scales[index]);
    }
    shared_store16(to + swizzled(TK, r, c), v);
  }
  fence_async_proxy();
  barrier_arrive(full);
}

// Registers of a loading and of a multiplying thread. TIGHT: three multiplying warpgroups a block.
template <int GROUPS, bool TIGHT> struct AttentionRegisters {
  static constexpr int loading = TIGHT ? 32 : 56, multiplying = TIGHT ? 160 : GROUPS == 2 ? 224 : 200;
};

template <class T, bool INT8, int GROUPS, int DP, int TK, bool TIGHT = false, class Source>
__device__ __forceinline__ void attention_wgmma_tile(const AttentionTile& a, const Source& source) {
  using Layout = AttentionLayout<GROUPS, DP, TK>;
  constexpr int attention_rows = Layout::rows;
  constexpr int NS = TK / 2, NO = DP / 2;  // sums of a thread: scores, output
  extern __shared__ __align__(1024) char shared[];  // Q, then K of two tiles, then V of two
  __shared__ __align__(8) uint64_t k_full[2], k_empty[2], v_full[2], v_empty[2], v_edge;
  const uint32_t q_at = (shared_address(shared) + 1023) & ~1023u, k_at = q_at + Layout::q_bytes, v_at = k_at + 2 * Layout::tile_bytes;
  const uint32_t k_full0 = shared_address(k_full), k_empty0 = shared_address(k_empty), v_full0 = shared_address(v_full), v_empty0 = shared_address(v_empty), v_edge0 = shared_address(&v_edge);
  const int thread = threadIdx.x;
  if (thread == 0) {
    for (int i = 0; i < 2; ++i) {
      barrier_init(k_full0 + i * 8, INT8 ? 128 : 1); barrier_init(v_full0 + i * 8, INT8 ? 128 : 1);
      barrier_init(k_empty0 + i * 8, GROUPS); barrier_init(v_empty0 + i * 8, GROUPS);
    }
    barrier_init(v_edge0, 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  wait_predecessors();

  const int last_token = a.causal ? a.position + a.rows - 1 : a.tokens - 1;
  const int first_seen = a.causal && a.window > 0 ? max(0, a.position - a.window + 1) : 0, first_token = first_seen / TK * TK;
  const int tiles = (last_token - first_token) / TK + 1;

  if (thread < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(AttentionRegisters<GROUPS, TIGHT>::loading));
    if (!INT8 && thread >= 32) return;
    const int2 seen = make_int2(first_seen, last_token);
    int edges = 0;
    // K runs a tile ahead of V, as the products want them.
    for (int tile = 0; tile <= tiles; ++tile) {
      if (tile < tiles) {
        const int stage = tile % 2, token0 = first_token + tile * TK;
        barrier_wait(k_empty0 + stage * 8, (tile / 2 + 1) % 2);
        if constexpr (INT8) widen_attention_tile<T, DP, TK>(source, source.p->attention.k, source.p->attention.k_scale, token0, seen, k_at + stage * Layout::tile_bytes, k_full0 + stage * 8);
        else copy_attention_tile<DP, TK>(source, false, token0, seen, k_at + stage * Layout::tile_bytes, k_full0 + stage * 8);
      }
      if (tile == 0) continue;
      const int stage = (tile - 1) % 2, token0 = first_token + (tile - 1) * TK;
      barrier_wait(v_empty0 + stage * 8, ((tile - 1) / 2 + 1) % 2);
      const uint32_t to = v_at + stage * Layout::tile_bytes;
      if constexpr (INT8) {
        widen_attention_tile<T, DP, TK>(source, source.p->attention.v, source.p->attention.v_scale, token0, seen, to, v_full0 + stage * 8);
      } else if (token0 >= seen.x && token0 + TK - 1 <= seen.y) {
        copy_attention_tile<DP, TK>(source, true, token0, seen, to, v_full0 + stage * 8);
      } else {
        copy_attention_tile<DP, TK>(source, true, token0, seen, to, v_edge0);
        barrier_wait(v_edge0, edges++ % 2);
        clear_unseen<DP, TK>(token0, seen, to);
        __syncwarp();
        if (thread == 0) barrier_arrive(v_full0 + stage * 8);
      }
    }
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(AttentionRegisters<GROUPS, TIGHT>::multiplying));
  const int group = thread / 128 - 1, warp = thread / 32 % 4, lane = thread % 32, g = lane / 4, t = lane % 4;
  for (int piece = thread % 128; piece < 64 * (DP / 8); piece += 128) {
    const int r = group * 64 + piece / (DP / 8), c = piece % (DP / 8);
    const bool valid = r < a.rows && c * 8 < a.head_dim;
    copy16(q_at + swizzled(attention_rows, r, c), static_cast<const T*>(a.q) + (valid ? r * a.q_stride + c * 8 : 0), valid);
  }
  copy_commit();
  copy_wait<0>();
  fence_async_proxy();
  group_sync(group);

  const uint32_t q_mine = q_at + group * 64 * 128;
  const int row = group * 64 + warp * 16 + g;  // and row + 8
  const float scale = a.scale * 1.4426950408889634f;
  float o[NO], s[NS], best[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, shrink[2] = {1, 1};
  uint32_t p[TK / 16][4];

  auto scores = [&](int tile) {  // s = Q K^T, started
    barrier_wait(k_full0 + tile % 2 * 8, tile / 2 % 2);
    const uint32_t k = k_at + tile % 2 * Layout::tile_bytes;
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < DP / 16; ++i)
      WgmmaShared<T, TK>::run(s, descriptor(q_mine + i / 4 * Layout::q_block + i % 4 * 32), descriptor(k + i / 4 * Layout::tile_block + i % 4 * 32), i > 0);
    wgmma_commit();
  };
  auto values = [&](int tile) {  // o += P V, started
    barrier_wait(v_full0 + tile % 2 * 8, tile / 2 % 2);
    const uint32_t v = v_at + tile % 2 * Layout::tile_bytes;
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < TK / 16; ++i) WgmmaTransposed<T, DP>::run(o, p[i], descriptor_transposed(v + i * 2048, Layout::tile_block), tile > 0 || i > 0);
    wgmma_commit();
  };
  auto settle_scores = [&] {
#pragma unroll
    for (int i = 0; i < NS; ++i) asm volatile("" : "+f"(s[i])::"memory");
  };
  // Scores to weights; what the sums so far must be multiplied with goes to `shrink`.
  auto softmax = [&](int tile) {
    if (group * 64 + warp * 16 >= a.rows) return;  // the block's rows end above
    const int token0 = first_token + tile * TK, low = a.position + group * 64 + warp * 16;
    const bool inner = a.causal ? token0 + TK - 1 <= low && (a.window <= 0 || token0 > low + 15 - a.window) : token0 + TK <= a.tokens;
    if (!inner) {
#pragma unroll
      for (int i = 0; i < NS; ++i) {
        const int token = token0 + i / 4 * 8 + 2 * t + i % 2, position = a.position + row + i / 2 % 2 * 8;
        const bool visible = a.causal ? token <= position && (a.window <= 0 || token > position - a.window) : token < a.tokens;
        if (!visible) s[i] = -INFINITY;
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = s[2 * h];
#pragma unroll
      for (int i = 0; i < NS / 4; ++i) top = fmaxf(top, fmaxf(s[4 * i + 2 * h], s[4 * i + 2 * h + 1]));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      const float next = fmaxf(best[h], top), reference = next == -INFINITY ? 0.f : next * scale;
      shrink[h] = exponential2(best[h] * scale - reference);
      best[h] = next;
      float part = 0;
#pragma unroll
      for (int i = 0; i < NS / 4; ++i) {
        s[4 * i + 2 * h] = exponential2(s[4 * i + 2 * h] * scale - reference);
        s[4 * i + 2 * h + 1] = exponential2(s[4 * i + 2 * h + 1] * scale - reference);
        part += s[4 * i + 2 * h] + s[4 * i + 2 * h + 1];
      }
      sum[h] = sum[h] * shrink[h] + part;
    }
  };
  auto pack = [&] {
#pragma unroll
    for (int i = 0; i < TK / 16; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) p[i][j] = pack2<T>(s[8 * i + 2 * j], s[8 * i + 2 * j + 1]);
  };

  scores(0);
  wgmma_wait<0>();
  settle_scores();
  if (thread % 128 == 0) barrier_arrive(k_empty0);
  softmax(0);
  pack();
  for (int tile = 1; tile < tiles; ++tile) {
    scores(tile);
    values(tile - 1);
    wgmma_wait<1>();
    settle_scores();
    if (thread % 128 == 0) barrier_arrive(k_empty0 + tile % 2 * 8);
    softmax(tile);
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < NO; ++i) asm volatile("" : "+f"(o[i])::"memory");
    if (thread % 128 == 0) barrier_arrive(v_empty0 + (tile - 1) % 2 * 8);
#pragma unroll
    for (int i = 0; i < NO; ++i) o[i] *= shrink[i / 2 % 2];
    pack();
  }
  values(tiles - 1);
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < NO; ++i) asm volatile("" : "+f"(o[i])::"memory");

  // Out through the queries' rows of shared memory, 16 bytes a lane.
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
    sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
    sum[h] = sum[h] > 0 ? 1.f / sum[h] : 0.f;
  }
  group_sync(group);
#pragma unroll
  for (int i = 0; i < DP / 8; ++i)
#pragma unroll
    for (int h = 0; h < 2; ++h)
      asm volatile("st.shared.u32 [%0], %1;" ::"r"(q_at + swizzled(attention_rows, row + 8 * h, i) + t * 4), "r"(pack2<T>(o[4 * i + 2 * h] * sum[h], o[4 * i + 2 * h + 1] * sum[h])) : "memory");
  __syncwarp();
  const bool wide = a.out_stride % 8 == 0 && (reinterpret_cast<uint64_t>(a.out) & 15) == 0;
  for (int piece = lane; piece < 16 * (DP / 8); piece += 32) {
    const int r = group * 64 + warp * 16 + piece / (DP / 8), c = piece % (DP / 8);
    if (r >= a.rows || c * 8 >= a.head_dim) continue;
    const uint4 v = shared_load16(q_at + swizzled(attention_rows, r, c));
    uint32_t* to = reinterpret_cast<uint32_t*>(static_cast<T*>(a.out) + r * a.out_stride + c * 8);
    if (wide) *reinterpret_cast<uint4*>(to) = v;
    else { to[0] = v.x; to[1] = v.y; to[2] = v.z; to[3] = v.w; }
  }
}

// Grid: heads, tiles of rows (the longest first), sequences.
template <class T, bool INT8, int GROUPS, int DP, int TK> __device__ __forceinline__ void attention_prefill_wgmma(const HopperAttentionArgs& args) {
  const AttentionArgs& p = args.attention;
  if (!INT8 && threadIdx.x < 2) prefetch_map(threadIdx.x ? &args.v : &args.k);
  launch_dependents();
  wait_predecessors();
  AttentionTile a;
  if (!prefill_tile<T>(p, blockIdx.z, blockIdx.x, gridDim.y - 1 - blockIdx.y, GROUPS * 64, a)) return;
  const PagedSource source{&args, p.block_table + static_cast<int64_t>(blockIdx.z) * p.block_table_stride, static_cast<int>(blockIdx.x) / (p.heads / p.kv_heads)};
  attention_wgmma_tile<T, INT8, GROUPS, DP, TK>(a, source);
}
template <class T, int GROUPS, int DP, int TK, bool TIGHT = false> __device__ __forceinline__ void attention_vision_wgmma(const HopperVisionArgs& args) {
  const VisionArgs& p = args.vision;
  if (threadIdx.x == 0) prefetch_map(&args.qkv);
  launch_dependents();
  AttentionTile a;  // segments are older than the kernel before this one
  if (!vision_tile<T>(p, blockIdx.z, blockIdx.x, blockIdx.y, GROUPS * 64, a)) return;
  attention_wgmma_tile<T, false, GROUPS, DP, TK, TIGHT>(a, DenseSource{&args, __ldcg(p.segment + blockIdx.z), static_cast<int>(blockIdx.x)});
}

}  // namespace hearth::kernels::cuda
