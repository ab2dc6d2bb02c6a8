// What a worker of the decode program gathers of its KV blocks, and the products of INT8 KV, which stays bytes: scores are integer
// products with a query's upper and lower bytes; values go to the tensor cores as they are, as the smallest halves there are.
#pragma once

#include "kernels/cuda/sm80/decode_program_history.cuh"

namespace hearth::kernels::cuda {

// The first product of a sum: with accumulators that are set to zero before, these take registers from early on.
template <class T> __device__ __forceinline__ void mma_first(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.f));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.f));
}

// What a worker has gathered of its KV blocks. Lane (g, t) holds dimensions 64 b + 8 g + 2 c + {0, 1} of heads 2 t and 2 t + 1.
template <int DP> struct AttentionSums {
  float best[2], sum[2], o[DP / 64][4][4];
};

// Scores of tokens g and g + 8 of one head to their weights, with the best score so far, which it keeps. FIRST: there is none yet.
// Returns what the sums so far shrink by.
template <bool FIRST> __device__ __forceinline__ float scores_to_weights(float& low, float& high, float& best) {
  float top = fmaxf(low, high);
  top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 4));
  top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 8));
  top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 16));
  const float next = FIRST ? top : fmaxf(best, top), reference = next == -INFINITY ? 0.f : next;
  low = exp2_fast(low - reference);
  high = exp2_fast(high - reference);
  const float shrink = FIRST ? 1.f : exp2_fast(best - reference);
  best = next;
  return shrink;
}

// Of INT8 KV: o and bias are of weights times their tokens' scales, relative to v_best. A byte's bits are a half of as many 2^-24,
// biased by 128: so the result is (o * 2^24 - 128 bias) * v_best. bias: of the lane's tokens.
template <int DP> struct ByteSums : AttentionSums<DP> {
  static constexpr float unit = 0x1p-24f;  // as v_best: o is the result
  float v_best, bias[2];
  __device__ __forceinline__ void settle() {
    const float factor = v_best * 0x1p24f;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int apart = 4; apart < 32; apart <<= 1) bias[j] += __shfl_xor_sync(0xffffffffu, bias[j], apart);
      const float offset = -128.f * bias[j] * v_best;
#pragma unroll
      for (int i = 0; i < DP / 16; ++i) {
        float(&o)[4] = this->o[i / 4][i % 4];
        o[j] = o[j] * factor + offset;
        o[j + 2] = o[j + 2] * factor + offset;
      }
    }
  }
};

template <int DP> struct ByteProducts {
  uint32_t query;   // of the lane's column, head g, where the lane's part of 32 dimensions begins
  float factor[2];  // of scores of heads 2 t and 2 t + 1

  // query: of head 0, the others `pitch` apart. What there is of heads from `live` on is ignored.
  __device__ __forceinline__ ByteProducts(uint32_t query0, int pitch, int live, float scale) {
    const Place my;
    query = query0 + min(my.g, live - 1) * pitch + my.t * 16;
#pragma unroll
    for (int j = 0; j < 2; ++j) factor[j] = scale * __uint_as_float(shared_load4(query_unit<DP>(query0 + min(2 * my.t + j, live - 1) * pitch)));
  }
  // Tokens g and g + 8 of heads 2 t and 2 t + 1.
  __device__ __forceinline__ void scores(const KvBytes<DP>& block, float (&s)[4]) const {
    float upper[4] = {}, lower[4] = {};
#pragma unroll
    for (int h = 0; h < DP / 64; ++h) {
      const uint4 k = block.keys[h][0], l = block.keys[h][1];
      const uint4 q = shared_load16(query + h * 128), r = shared_load16(query + h * 128 + 64);
      const uint32_t a[4] = {k.x, l.x, k.y, l.y}, b[4] = {k.z, l.z, k.w, l.w};
      mma<int8_t>(upper, a, q.x, q.y);
      mma<int8_t>(lower, a, q.z, q.w);
      mma<int8_t>(upper, b, r.x, r.y);
      mma<int8_t>(lower, b, r.z, r.w);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] = static_cast<float>(__float_as_int(upper[i]) * 256 + __float_as_int(lower[i])) * factor[i % 2];
  }
  // Of 64 dimensions: rows of a product are dimensions, two tokens' bytes of which come together.
  template <bool FIRST> static __device__ __forceinline__ void add_values(const uint2 (&values)[4], uint2 p, float (&o)[4][4]) {
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      uint32_t v[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) v[j] = (w ? values[j].y : values[j].x) ^ 0x80808080u;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t select = i ? 0x7362 : 0x5140, low = __byte_perm(v[0], v[1], select), high = __byte_perm(v[2], v[3], select);
        const uint32_t a[4] = {__byte_perm(low, 0, 0x4140), __byte_perm(low, 0, 0x4342), __byte_perm(high, 0, 0x4140), __byte_perm(high, 0, 0x4342)};
        if constexpr (FIRST) mma_first<__half>(o[2 * w + i], a, p.x, p.y);
        else mma<__half>(o[2 * w + i], a, p.x, p.y);
      }
    }
  }
  // FIRST: there is nothing yet in the sums.
  template <bool FIRST> __device__ __forceinline__ void add(const KvBytes<DP>& block, ByteSums<DP>& w) const {
    float s[4], shrink[2];
    scores(block, s);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      s[j] = block.v_scale[0] >= 0 ? s[j] * block.k_scale[0] : -INFINITY;
      s[j + 2] = block.v_scale[1] >= 0 ? s[j + 2] * block.k_scale[1] : -INFINITY;
      shrink[j] = scores_to_weights<FIRST>(s[j], s[j + 2], w.best[j]);
      w.sum[j] = (FIRST ? 0.f : w.sum[j] * shrink[j]) + (s[j] + s[j + 2]);
    }
    const float v_most = warp_most(fmaxf(fmaxf(block.v_scale[0], block.v_scale[1]), w.unit)), v_best = FIRST ? v_most : fmaxf(w.v_best, v_most), inverse = __fdividef(1.f, v_best);
    const float v[2] = {fmaxf(block.v_scale[0], 0.f) * inverse, fmaxf(block.v_scale[1], 0.f) * inverse};
    if constexpr (!FIRST) {
      const float other = w.v_best * inverse;
      shrink[0] *= other;
      shrink[1] *= other;
      if (__any_sync(0xffffffffu, shrink[0] != 1.f || shrink[1] != 1.f)) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          w.bias[j] *= shrink[j];
#pragma unroll
          for (int i = 0; i < DP / 16; ++i) {
            w.o[i / 4][i % 4][j] *= shrink[j];
            w.o[i / 4][i % 4][j + 2] *= shrink[j];
          }
        }
      }
    }
    w.v_best = v_best;
    const uint32_t low = pack2<__half>(s[0] * v[0], s[1] * v[0]), high = pack2<__half>(s[2] * v[1], s[3] * v[1]);
    const float2 of_low = unpack2<__half>(low), of_high = unpack2<__half>(high);
    w.bias[0] = (FIRST ? 0.f : w.bias[0]) + (of_low.x + of_high.x);
    w.bias[1] = (FIRST ? 0.f : w.bias[1]) + (of_low.y + of_high.y);
    const uint2 p = make_uint2(transpose8x8(low), transpose8x8(high));
#pragma unroll
    for (int b = 0; b < DP / 64; ++b) add_values<FIRST>(block.values[b], p, w.o[b]);
  }
};

}  // namespace hearth::kernels::cuda
