// Decode attention over an int8 pool of a KV head with one query head: what the tensor cores would do for eight heads is here
// spread over the lanes, in half of the instructions and a third of the registers.
//   - Scores: the query's upper and lower bytes are two columns of one product.
//   - Values: a lane has four dimensions. Weights times their tokens' scales are 16-bit integers, of the block's largest, and two
//     tokens' bytes are multiplied at a time, without being widened.
#pragma once

#include "kernels/cuda/sm80/attention_decode_merge.cuh"

namespace hearth::kernels::cuda {

// d += both 16-bit halves of a times the two lower (UPPER: upper) bytes of b.
template <bool UPPER> __device__ __forceinline__ void dot2(int& d, uint32_t a, uint32_t b) {
  if constexpr (UPPER) d = __dp2a_hi(static_cast<int>(a), static_cast<int>(b), d);
  else d = __dp2a_lo(static_cast<int>(a), static_cast<int>(b), d);
}

template <int DP> struct SingleProducts {
  static_assert(DP == 128, "a lane has four dimensions");
  using L = DecodeLayout<true, DP>;
  static constexpr int steps = DP / 32;  // of k
  uint32_t q[steps][2], weights;         // weights: eight words in shared memory, of tokens i and i + 8
  float q_factor, best, sum, o[4];       // o: dimensions 4 lane and on

  // queries: as DecodeQueries left them; own: 32 bytes of the warp's.
  __device__ __forceinline__ void begin(const char* queries, int, float scale, void* own) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    weights = shared_address(own);
    q_factor = scale * 1.4426950408889634f * *reinterpret_cast<const float*>(queries + DP * 2);
#pragma unroll
    for (int j = 0; j < steps; ++j) {
      const uint2 v = *reinterpret_cast<const uint2*>(queries + j * 64 + t * 16 + g % 2 * 8);
      q[j][0] = v.x;
      q[j][1] = v.y;
    }
    best = -INFINITY;
    sum = o[0] = o[1] = o[2] = o[3] = 0;
  }

  // Of tokens g and g + 8.
  __device__ __forceinline__ void scores(uint32_t tile, float (&s)[2]) const {
    const int lane = threadIdx.x % 32;
    const uint32_t at = tile + L::at(lane % 8 + lane / 8 % 2 * 8, lane / 16);
    float d[2][4] = {};
#pragma unroll
    for (int j = 0; j < steps; ++j) {
      const uint4 v = load_matrix(at ^ (32 * j));
      const uint32_t a[4] = {v.x, v.y, v.z, v.w};
      mma<int8_t>(d[j % 2], a, q[j][0], q[j][1]);
    }
    auto sum_of = [&](int i) { return __float_as_int(d[0][i]) + __float_as_int(d[1][i]); };
#pragma unroll
    for (int h = 0; h < 2; ++h) s[h] = static_cast<float>(sum_of(2 * h) * 256 + sum_of(2 * h + 1));
  }
  // o = o * shrink + factor * the weighted values.
  __device__ __forceinline__ void values(uint32_t tile, float shrink, float factor) {
    const uint32_t at = tile + threadIdx.x % 32 * 4;
    int d[4] = {0, 0, 0, 0};
#pragma unroll
    for (int four = 0; four < 2; ++four) {
      const uint4 w = shared_load16(weights + four * 16);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int i = four * 4 + j;
        const uint32_t here = (at ^ (i * 16)) + i * DP, a = shared_load4(here), b = shared_load4(here + 8 * DP), both = j == 0 ? w.x : j == 1 ? w.y : j == 2 ? w.z : w.w;
        const uint32_t low = __byte_perm(a, b, 0x5140), high = __byte_perm(a, b, 0x7362);
        dot2<false>(d[0], both, low);
        dot2<true>(d[1], both, low);
        dot2<false>(d[2], both, high);
        dot2<true>(d[3], both, high);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) o[i] = o[i] * shrink + static_cast<float>(d[i]) * factor;
  }
  // A KV block: keys and values in `tile`, tokens from token0 on. edge: some may not be seen.
  __device__ __forceinline__ void block(uint32_t tile, uint32_t scales, bool edge, int token0, int first, int position) {
    const int lane = threadIdx.x % 32, g = lane / 4;
    float s[2], v_scale[2];
    scores(tile, s);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      s[h] *= q_factor * __uint_as_float(shared_load4(scales + (g + h * 8) * 4));
      v_scale[h] = __uint_as_float(shared_load4(scales + 64 + (g + h * 8) * 4));
    }
    if (edge) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int token = token0 + g + h * 8;
        if (token >= first && token <= position) continue;
        s[h] = -INFINITY;
        v_scale[h] = 0;
      }
    }
    float top = fmaxf(s[0], s[1]);
#pragma unroll
    for (int i = 4; i < 32; i *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, i));
    top = fmaxf(best, top);
    const float shrink = exp2_fast(best - top), p0 = exp2_fast(s[0] - top), p1 = exp2_fast(s[1] - top);
    best = top;
    sum = sum * shrink + (p0 + p1);
    const float w0 = p0 * v_scale[0], w1 = p1 * v_scale[1];
    // Weights are not negative: their bits are in order. 12582912 + n: n in the lower half of a float's bits.
    const float most = __uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(fmaxf(w0, w1))));
    const float inverse = most > 1e-30f ? __fdividef(32767.f, most) : 0.f;
    const uint32_t both = __byte_perm(__float_as_uint(__fmaf_rn(w0, inverse, 12582912.f)), __float_as_uint(__fmaf_rn(w1, inverse, 12582912.f)), 0x5410);
    if (lane % 4 == 0) asm volatile("st.shared.u32 [%0], %1;" ::"r"(weights + g * 4), "r"(both) : "memory");
    __syncwarp();
    values(tile + L::tile_bytes, shrink, most * (1.f / 32767.f));
  }
};

template <class Queries, int DP>
__device__ __forceinline__ void attend_block(Queries& queries, SingleProducts<DP>& products, uint32_t tile, uint32_t scales, int token0, int first, int position) {
  const bool edge = token0 < first || token0 + kv_tokens > position;
  if (edge) queries.mend(tile, scales, token0, first, position);
  products.block(tile, scales, edge, token0, first, position);
}

// [DP + decode_partial_pad].
template <int DP> __device__ __forceinline__ void keep_partial(SingleProducts<DP>& sums, int, float* partial) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 4; i < 32; i *= 2) sums.sum += __shfl_xor_sync(0xffffffffu, sums.sum, i);
  *reinterpret_cast<float4*>(partial + lane * 4) = make_float4(sums.o[0], sums.o[1], sums.o[2], sums.o[3]);
  if (lane == 0) *reinterpret_cast<float2*>(partial + DP) = make_float2(sums.best, sums.sum);
}

}  // namespace hearth::kernels::cuda
