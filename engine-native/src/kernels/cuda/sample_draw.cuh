// A token's noise, and the order of tokens, as every sampling kernel has them.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/sample_params.h"

namespace hearth::kernels::cuda {

// Philox 4x32-10 as in ops/noise.h.
__device__ __forceinline__ uint32_t philox_word(uint32_t seed, uint32_t position, uint32_t token) {
  uint32_t c0 = position, c1 = token, c2 = 0, c3 = 0, k0 = seed, k1 = 0;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0, h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
    c0 = h1 ^ c1 ^ k0;
    c1 = l1;
    c2 = h0 ^ c3 ^ k1;
    c3 = l0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}
constexpr float gumbel_max = 23.0f;  // as ops/noise.h: tokens further below the best cannot win
// Larger floats have larger keys; NaN is the smallest of all, and the two zeros are one.
__device__ __forceinline__ uint32_t order_key(float v) {
  if (v != v) return 0;
  const uint32_t bits = __float_as_uint(__fadd_rn(v, 0.f));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
// Best value first, then the lowest id. Id -1: none.
struct Best { float value; int id; };
__device__ __forceinline__ Best better(Best a, Best b) {
  if (b.id < 0) return a;
  if (a.id < 0) return b;
  if (b.value > a.value || (b.value == a.value && b.id < a.id)) return b;
  return a;
}

// The noise's upper bound: -log(-log(u)) <= -log(1 - u), nearly equal where u is near 1, where the winners are.
__device__ __forceinline__ float gumbel_bound(uint32_t word) {
  return -__logf((static_cast<float>(~word) + 0.5f) * 0x1p-32f) + 2e-3f;
}
// Takes token t into the draw if its noisy logit can beat `best`.
__device__ __forceinline__ Best draw_token(Best best, const SampleRowArgs& r, float l, int t) {
  const uint32_t word = philox_word(r.seed, r.position, t);
  const float scaled = __fdiv_rn(l, r.temperature);
  if (best.id >= 0 && scaled + gumbel_bound(word) + 1e-6f * fabsf(scaled) < best.value) return best;
  const double u = (word + 0.5) * 0x1p-32;
  return better(best, Best{__fadd_rn(scaled, static_cast<float>(-log(-log(u)))), t});
}

}  // namespace hearth::kernels::cuda
