// Activations as one short formula each, cheap enough to stand in a loop of the prefill kernels: most are v times the
// logistic function of a cubic in v.
#pragma once

#include "kernels/cuda/common.cuh"

namespace hearth::kernels::cuda {

// v * logistic(v * (linear + cubic * v * v)): SiLU, quick GELU and the tanh form of GELU. As powers of two, negated.
struct LogisticForm { float linear, cubic; };
__device__ __forceinline__ LogisticForm logistic_form(int activation) {
  constexpr float unit = -1.4426950408889634f;
  if (activation == activation_gelu_tanh) return {1.5957691216057308f * unit, 0.07135481627159605f * unit};  // 2 sqrt(2/pi) (1, 0.044715)
  return {activation == activation_quick_gelu ? 1.702f * unit : unit, 0.f};
}
// 1 / logistic. Beyond 2^60 what is left of v is nothing in any type that is stored.
__device__ __forceinline__ float logistic_inverse(float v, LogisticForm form) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(fminf(v * (form.linear + form.cubic * v * v), 60.f)));
  return 1.f + power;
}
// Two values: their quotients share one reciprocal, of which a multiprocessor makes 16 a cycle (128 products).
__device__ __forceinline__ void logistic_times(float& a, float& b, LogisticForm form) {
  const float x = logistic_inverse(a, form), y = logistic_inverse(b, form);
  float both;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(both) : "f"(x * y));
  a *= both * y;
  b *= both * x;
}
template <int N> __device__ __forceinline__ void activate_logistic(float (&v)[N], int activation) {
  const LogisticForm form = logistic_form(activation);
#pragma unroll
  for (int i = 0; i < N; i += 2) logistic_times(v[i], v[i + 1], form);
}
// v times the normal distribution function; Abramowitz and Stegun 7.1.26, absolute error 1.5e-7, relative in the tail.
__device__ __forceinline__ float gelu_erf(float v) {
  const float x = fabsf(v) * 0.7071067811865476f, t = __fdividef(1.f, 1.f + 0.3275911f * x);
  const float series = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  const float tail = 0.5f * series * __expf(-x * x);
  return v * (v < 0 ? tail : 1.f - tail);
}
// N values at once; the branch is the same for every thread.
template <int N> __device__ __forceinline__ void activate(float (&v)[N], int activation) {
  if (activation == activation_none) return;
  if (activation == activation_relu) {
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = fmaxf(v[i], 0.f);
  } else if (activation == activation_gelu_erf) {
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = gelu_erf(v[i]);
  } else {
    activate_logistic(v, activation);
  }
}

}  // namespace hearth::kernels::cuda
