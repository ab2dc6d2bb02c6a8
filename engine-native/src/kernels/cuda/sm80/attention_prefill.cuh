// Attention of many rows on tensor cores (after FlashAttention-2, Dao 2023): a block takes WARPS x 16 query rows of one
// head and walks the keys in tiles of TK tokens, K and V double-buffered in shared memory by cp.async. The same body
// serves the paged KV pool (causal, sliding window, chunks against history) and vision towers (dense, both directions,
// segments of any length).
#pragma once

#include "kernels/cuda/sm80/attention_decode_products.cuh"

namespace hearth::kernels::cuda {

__device__ __forceinline__ void load_matrix_transposed(uint32_t address, uint32_t (&v)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"(address) : "memory");
}

// What a block attends to; `row0` is the tile's first row in q and out.
struct AttentionTile {
  const void* q; int64_t q_stride;  // elements; row r of the tile at r * q_stride
  void* out; int64_t out_stride;
  int rows;                          // live rows of the tile
  int position;                      // position of the tile's first row; row r sees tokens first(r) .. position + r
  int tokens;                        // dense: tokens of the segment
  int head_dim, window, causal;
  float scale;
};

template <class T, int DP> struct PrefillLayout {
  static constexpr int pitch = DP == 96 ? 256 : DP * 2;  // a power of two, for the swizzles
};

// `source(token)` gives the element index of a token's head in K; V has the same index in its own array.
template <class T, bool INT8, int DP, int WARPS, int TK, class Source>
__device__ __forceinline__ void attention_tile(const AttentionTile& a, const void* k_base, const void* v_base, const float* k_scale,
                                               const float* v_scale, Source source) {
  constexpr int pitch = PrefillLayout<T, DP>::pitch, chunks = DP / 8, threads = WARPS * 32;
  constexpr int KB = DP / 32, NS = TK / 8, NO = DP / 8;
  extern __shared__ __align__(128) char shared[];  // [2 buffers][K, V][TK][pitch]
  const uint32_t base = shared_address(shared);
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;

  const int last_token = a.causal ? a.position + a.rows - 1 : a.tokens - 1;
  const int first_token = a.causal && a.window > 0 ? max(0, a.position - a.window + 1) / TK * TK : 0;
  const int tiles = (last_token - first_token) / TK + 1;

  auto load_tile = [&](int tile, int buffer) {
    const uint32_t k_to = base + buffer * 2 * TK * pitch, v_to = k_to + TK * pitch;
#pragma unroll
    for (int i = 0; i < (TK * chunks + threads - 1) / threads; ++i) {
      const int piece = i * threads + thread, r = piece / chunks, c = piece % chunks;
      if (TK * chunks % threads != 0 && r >= TK) continue;
      const int token = first_token + tile * TK + r;
      const bool valid = token <= last_token && c * 8 < a.head_dim;
      const int64_t index = valid ? source(token) : 0, at = index * (INT8 ? a.head_dim : 1) + c * 8;
      const uint32_t k_at = k_to + r * pitch + ((c ^ ((r & 1) << 2)) * 16), v_at = v_to + r * pitch + ((c ^ (r & 7)) * 16);
      if constexpr (INT8) {  // index counts tokens here: the scales are per token
        uint4 kv = make_uint4(0, 0, 0, 0), vv = kv;
        if (valid) {
          auto scaled = [](uint2 raw, float s) {
            uint32_t w[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              const uint32_t pair = (j < 2 ? raw.x : raw.y) >> (j % 2 * 16);
              w[j] = pack2<T>(static_cast<float>(static_cast<int8_t>(pair)) * s, static_cast<float>(static_cast<int8_t>(pair >> 8)) * s);
            }
            return make_uint4(w[0], w[1], w[2], w[3]);
          };
          kv = scaled(*reinterpret_cast<const uint2*>(static_cast<const int8_t*>(k_base) + at), k_scale[index]);
          vv = scaled(*reinterpret_cast<const uint2*>(static_cast<const int8_t*>(v_base) + at), v_scale[index]);
        }
        shared_store16(k_at, kv);
        shared_store16(v_at, vv);
      } else {
        copy16(k_at, static_cast<const T*>(k_base) + (valid ? at : 0), valid);
        copy16(v_at, static_cast<const T*>(v_base) + (valid ? at : 0), valid);
      }
    }
  };

  load_tile(0, 0);
  copy_commit();
  // Queries as A fragments: lane (g, t) owns dims 32 b + 8 t ... + 7 of rows g and g + 8.
  uint4 q[KB][2];
#pragma unroll
  for (int b = 0; b < KB; ++b)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = warp * 16 + g + 8 * i;
      q[b][i] = make_uint4(0, 0, 0, 0);
      if (r < a.rows && 32 * b + 8 * t < a.head_dim) q[b][i] = __ldcg(reinterpret_cast<const uint4*>(static_cast<const T*>(a.q) + r * a.q_stride + 32 * b + 8 * t));
    }

  const float scale = a.scale * 1.4426950408889634f;
  float o[NO][4] = {}, best[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) load_tile(tile + 1, (tile + 1) & 1);
    copy_commit();
    copy_wait<1>();
    __syncthreads();
    const uint32_t k_from = base + (tile & 1) * 2 * TK * pitch, v_from = k_from + TK * pitch;
    const int token0 = first_token + tile * TK;
    float s[NS][4];
#pragma unroll
    for (int n = 0; n < NS; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[n][i] = 0;
#pragma unroll
      for (int b = 0; b < KB; ++b) {
        const uint4 k = shared_load16(k_from + (n * 8 + g) * pitch + (((4 * b + t) ^ ((g & 1) << 2)) * 16));
        const uint32_t a0[4] = {q[b][0].x, q[b][1].x, q[b][0].y, q[b][1].y}, a1[4] = {q[b][0].z, q[b][1].z, q[b][0].w, q[b][1].w};
        mma<T>(s[n], a0, k.x, k.y);
        mma<T>(s[n], a1, k.z, k.w);
      }
    }
    const int row = warp * 16 + g;
    const bool inner = a.causal ? token0 + TK - 1 <= a.position + warp * 16 && (a.window <= 0 || token0 > a.position + warp * 16 + 15 - a.window)
                                : token0 + TK <= a.tokens;
    float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int n = 0; n < NS; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        s[n][i] *= scale;
        if (!inner) {
          const int token = token0 + n * 8 + 2 * t + (i & 1), position = a.position + row + (i >> 1) * 8;
          const bool visible = a.causal ? token <= position && (a.window <= 0 || token > position - a.window) : token < a.tokens;
          if (!visible) s[n][i] = -INFINITY;
        }
        top[i >> 1] = fmaxf(top[i >> 1], s[n][i]);
      }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffu, top[i], 1));
      top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffu, top[i], 2));
      const float next = fmaxf(best[i], top[i]), reference = next == -INFINITY ? 0.f : next, shrink = exp2f(best[i] - reference);
      best[i] = next;
      float part = 0;
#pragma unroll
      for (int n = 0; n < NS; ++n) {
        s[n][2 * i] = exp2f(s[n][2 * i] - reference);
        s[n][2 * i + 1] = exp2f(s[n][2 * i + 1] - reference);
        part += s[n][2 * i] + s[n][2 * i + 1];
      }
      sum[i] = sum[i] * shrink + part;
#pragma unroll
      for (int n = 0; n < NO; ++n) { o[n][2 * i] *= shrink; o[n][2 * i + 1] *= shrink; }
    }
#pragma unroll
    for (int k = 0; k < TK / 16; ++k) {
      const uint32_t p[4] = {pack2<T>(s[2 * k][0], s[2 * k][1]), pack2<T>(s[2 * k][2], s[2 * k][3]),
                             pack2<T>(s[2 * k + 1][0], s[2 * k + 1][1]), pack2<T>(s[2 * k + 1][2], s[2 * k + 1][3])};
      const int r = k * 16 + lane % 16;  // matrices: tokens 0-7, 8-15 at chunk 2 n, then at chunk 2 n + 1
#pragma unroll
      for (int n = 0; n < NO / 2; ++n) {
        uint32_t v[4];
        load_matrix_transposed(v_from + r * pitch + (((2 * n + lane / 16) ^ (r & 7)) * 16), v);
        mma<T>(o[2 * n], p, v[0], v[1]);
        mma<T>(o[2 * n + 1], p, v[2], v[3]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 1);
    sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 2);
    const int r = warp * 16 + g + 8 * i;
    if (r >= a.rows) continue;
    const float factor = sum[i] > 0 ? 1.f / sum[i] : 0.f;
    T* out = static_cast<T*>(a.out) + r * a.out_stride;
#pragma unroll
    for (int n = 0; n < NO; ++n) {
      const int d = n * 8 + 2 * t;
      if (d < a.head_dim) *reinterpret_cast<uint32_t*>(out + d) = pack2<T>(o[n][2 * i] * factor, o[n][2 * i + 1] * factor);
    }
  }
}

// Tile `tile` of `height` rows of a sequence's head; false when there is nothing to do: past the end, an empty slot of a
// bucket, or a single row that the decode kernel serves.
template <class T> __device__ __forceinline__ bool prefill_tile(const AttentionArgs& p, int sequence, int head, int tile, int height, AttentionTile& a) {
  const int row0 = __ldcg(p.row_begin + sequence), count = __ldcg(p.row_begin + sequence + 1) - row0;
  if (count <= tile * height || (p.prepared && count == 1)) return false;
  const int context = __ldcg(p.context + sequence);
  const int64_t row = row0 + tile * height, at = static_cast<int64_t>(head) * p.head_dim;
  a.q = static_cast<const T*>(p.qkv) + row * p.qkv_stride + at; a.q_stride = p.qkv_stride;
  a.out = static_cast<T*>(p.out) + row * p.out_stride + at; a.out_stride = p.out_stride;
  a.rows = min(height, count - tile * height);
  a.position = context - count + tile * height;
  a.tokens = context; a.head_dim = p.head_dim; a.window = p.window; a.causal = 1; a.scale = p.scale;
  return a.position >= 0;
}
// The same of a vision segment; returns its keys, or nullptr.
template <class T> __device__ __forceinline__ const T* vision_tile(const VisionArgs& p, int segment, int head, int tile, int height, AttentionTile& a) {
  const int row0 = __ldcg(p.segment + segment), count = __ldcg(p.segment + segment + 1) - row0;
  if (count <= tile * height) return nullptr;
  const int64_t row = row0 + tile * height, at = static_cast<int64_t>(head) * p.head_dim, width = static_cast<int64_t>(p.heads) * p.head_dim;
  a.q = static_cast<const T*>(p.qkv) + row * p.qkv_stride + at; a.q_stride = p.qkv_stride;
  a.out = static_cast<T*>(p.out) + row * p.out_stride + at; a.out_stride = p.out_stride;
  a.rows = min(height, count - tile * height);
  a.position = 0; a.tokens = count; a.head_dim = p.head_dim; a.window = 0; a.causal = 0; a.scale = p.scale;
  return static_cast<const T*>(p.qkv) + row0 * p.qkv_stride + width + at;
}

template <class T, bool INT8, int DP, int WARPS, int TK>
__device__ __forceinline__ void attention_prefill(const AttentionArgs& p) {
  launch_dependents();
  wait_predecessors();
  AttentionTile a;
  if (!prefill_tile<T>(p, blockIdx.z, blockIdx.y, gridDim.x - 1 - blockIdx.x, WARPS * 16, a)) return;  // the longest first
  const int kv_head = blockIdx.y / (p.heads / p.kv_heads);
  const int32_t* table = p.block_table + static_cast<int64_t>(blockIdx.z) * p.block_table_stride;
  attention_tile<T, INT8, DP, WARPS, TK>(a, p.k, p.v, p.k_scale, p.v_scale, [&](int token) {
    const int64_t index = (static_cast<int64_t>(table[token / kv_tokens]) * p.kv_heads + kv_head) * kv_tokens + token % kv_tokens;
    return INT8 ? index : index * p.head_dim;
  });
}

template <class T, int DP, int WARPS, int TK>
__device__ __forceinline__ void attention_vision(const VisionArgs& p) {
  launch_dependents();
  wait_predecessors();
  AttentionTile a;
  const T* k = vision_tile<T>(p, blockIdx.z, blockIdx.y, blockIdx.x, WARPS * 16, a);
  if (!k) return;
  attention_tile<T, false, DP, WARPS, TK>(a, k, k + static_cast<int64_t>(p.heads) * p.head_dim, nullptr, nullptr, [&](int token) { return static_cast<int64_t>(token) * p.qkv_stride; });
}

}  // namespace hearth::kernels::cuda
