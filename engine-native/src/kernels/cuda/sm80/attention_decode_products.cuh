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
  uint32_t q[steps][2];
  float q_factor[2], best[2], sum[2], v_best, o[steps][4];

  // queries: as DecodeQueries left them, `live` heads.
  __device__ __forceinline__ void begin(const char* queries, int live, float scale) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const char* mine = queries + min(g, live - 1) * L::q_pitch;
#pragma unroll
    for (int j = 0; j < steps; ++j) {  // the order of k of the key fragments
      const char* at = mine + (INT8 ? j % 2 * DP + j / 2 * 32 : j * 32) + t * 4;  // int8: of 32 dims the upper bytes, then the lower
      q[j][0] = *reinterpret_cast<const uint32_t*>(at);
      q[j][1] = *reinterpret_cast<const uint32_t*>(at + 16);
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

}  // namespace hearth::kernels::cuda
