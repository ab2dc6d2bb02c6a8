// Activations as one short formula each, cheap enough to stand in a loop of the prefill kernels: most are v times the
// logistic function of a cubic in v.
#pragma once

#include "kernels/cuda/common.cuh"

namespace hearth::kernels::cuda {

// v * logistic(v * (linear + cubic * v * v)): SiLU, quick GELU and the tanh form of GELU.
struct LogisticForm { float linear, cubic; };
__device__ __forceinline__ LogisticForm logistic_form(int activation) {
  if (activation == activation_gelu_tanh) return {1.5957691216057308f, 0.07135481627159605f};  // 2 sqrt(2/pi) (1, 0.044715)
  return {activation == activation_quick_gelu ? 1.702f : 1.f, 0.f};
}
__device__ __forceinline__ float logistic_times(float v, LogisticForm form) {
  const float z = v * (form.linear + form.cubic * v * v);
  return __fdividef(v, 1.f + __expf(fminf(-z, 80.f)));
}
// v times the normal distribution function; Abramowitz and Stegun 7.1.26, absolute error 1.5e-7, relative in the tail.
__device__ __forceinline__ float gelu_erf(float v) {
  const float x = fabsf(v) * 0.7071067811865476f, t = __fdividef(1.f, 1.f + 0.3275911f * x);
  const float series = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  const float tail = 0.5f * series * __expf(-x * x);
  return v * (v < 0 ? tail : 1.f - tail);
}
// Four values at once; the branch is the same for every thread.
__device__ __forceinline__ void activate4(float (&v)[4], int activation) {
  if (activation == activation_none) return;
  if (activation == activation_relu) {
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = fmaxf(v[i], 0.f);
  } else if (activation == activation_gelu_erf) {
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = gelu_erf(v[i]);
  } else {
    const LogisticForm form = logistic_form(activation);
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = logistic_times(v[i], form);
  }
}

}  // namespace hearth::kernels::cuda
