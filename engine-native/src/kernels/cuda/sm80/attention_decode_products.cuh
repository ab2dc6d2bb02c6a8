// Decode attention: scores, weights and weighted values of one head tile, KV block by KV block, on the tensor cores.
#pragma once

#include "kernels/cuda/sm80/attention_decode_queries.cuh"

namespace hearth::kernels::cuda {

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

template <class T, bool INT8, int DP> struct DecodeProducts {
  using L = DecodeLayout<INT8, DP>;
  using M = std::conditional_t<INT8, __half, T>;  // the tensor cores' type
  static constexpr int steps = DP / 16;
  uint32_t q[INT8 ? 1 : steps][2], q_at;  // int8: q is read where it is wanted, from q_at
  float q_factor[2], best[2], sum[2], v_best, o[steps][4];

  // queries: as DecodeQueries left them, `live` heads.
  __device__ __forceinline__ void begin(const char* queries, int live, float scale, void* = nullptr) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const char* mine = queries + min(g, live - 1) * L::q_pitch;
    if constexpr (INT8) {
      q_at = shared_address(mine) + t * 16;
    } else {
#pragma unroll
      for (int j = 0; j < steps; ++j) {  // the order of k of the key fragments
        q[j][0] = *reinterpret_cast<const uint32_t*>(mine + j * 32 + t * 4);
        q[j][1] = *reinterpret_cast<const uint32_t*>(mine + j * 32 + t * 4 + 16);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      q_factor[i] = scale * 1.4426950408889634f * (INT8 ? *reinterpret_cast<const float*>(queries + min(2 * t + i, live - 1) * L::q_pitch + DP * 2) : 1.f);
      best[i] = -INFINITY;
      sum[i] = 0;
    }
    v_best = 0;
#pragma unroll
    for (int m = 0; m < steps; ++m) o[m][0] = o[m][1] = o[m][2] = o[m][3] = 0;
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
        const uint4 q_bytes = shared_load16(q_at + j * 64);
        mma<int8_t>(even, a, q_bytes.x, q_bytes.y);
        mma<int8_t>(odd, a, q_bytes.z, q_bytes.w);
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
  // A KV block: keys and values in `tile`, tokens from token0 on.
  __device__ __forceinline__ void block(uint32_t tile, uint32_t scales, int token0, int first, int position) {
    const int g = threadIdx.x % 32 / 4, token = token0 + g;
    const bool visible[2] = {token >= first && token <= position, token + 8 >= first && token + 8 <= position};
    float s[4], v_scale[2] = {1, 1}, top[2] = {-INFINITY, -INFINITY};
    scores(tile, s);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float k_scale = 1;
      if constexpr (INT8) {
        k_scale = __uint_as_float(shared_load4(scales + (g + h * 8) * 4));
        v_scale[h] = visible[h] ? __uint_as_float(shared_load4(scales + 64 + (g + h * 8) * 4)) : 0.f;
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        s[2 * h + i] = visible[h] ? s[2 * h + i] * q_factor[i] * k_scale : -INFINITY;
        top[i] = fmaxf(top[i], s[2 * h + i]);
      }
    }
    float shrink[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float next = fmaxf(best[i], reduce_max(top[i]));
      shrink[i] = exp2_fast(best[i] - next);
      best[i] = next;
      s[i] = exp2_fast(s[i] - next);
      s[i + 2] = exp2_fast(s[i + 2] - next);
      sum[i] = sum[i] * shrink[i] + (s[i] + s[i + 2]);
    }
    if constexpr (INT8) {  // scales are not negative: their bits are in order
      const float next = fmaxf(v_best, __uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(fmaxf(v_scale[0], v_scale[1])))));
      const float inverse = next > 0 ? __fdividef(1.f, next) : 0.f;
      if (next != v_best) { shrink[0] *= v_best * inverse; shrink[1] *= v_best * inverse; }
      v_best = next;
      v_scale[0] *= inverse;
      v_scale[1] *= inverse;
    }
    if (__any_sync(0xffffffffu, shrink[0] != 1.f || shrink[1] != 1.f)) {
#pragma unroll
      for (int m = 0; m < steps; ++m) { o[m][0] *= shrink[0]; o[m][1] *= shrink[1]; o[m][2] *= shrink[0]; o[m][3] *= shrink[1]; }
    }
    const uint32_t p0 = transpose8x8(pack2<M>(s[0] * v_scale[0], s[1] * v_scale[0])), p1 = transpose8x8(pack2<M>(s[2] * v_scale[1], s[3] * v_scale[1]));
    values(tile + L::tile_bytes, p0, p1);
  }

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
};

// A KV block that has landed, the first token of which is token0.
template <class Queries, class Products>
__device__ __forceinline__ void attend_block(Queries& queries, Products& products, uint32_t tile, uint32_t scales, int token0, int first, int position) {
  if (token0 < first || token0 + kv_tokens > position) queries.mend(tile, scales, token0, first, position);
  products.block(tile, scales, token0, first, position);
}

}  // namespace hearth::kernels::cuda
