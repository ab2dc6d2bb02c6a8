// Row-wise pieces: norms, and int8 quantisation exactly as kernels/cpu/scalar.h defines it.
#pragma once

#include "kernels/cpu/simd/vec.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

// y = norm(x) * weight (+ bias); y may be x. x and y are f32 rows.
struct NormRow {
  ops::NormKind kind;
  float epsilon;
  const float* weight;
  const float* bias;
};

HEARTH_INLINE float sum_row(const float* x, int n) {
  F a[parts] = {}, b[parts] = {};
  int i = 0;
  for (; i + 2 * sum_lanes <= n; i += 2 * sum_lanes) {
    for (int k = 0; k < parts; ++k) a[k] += load(x + i + k * lanes), b[k] += load(x + i + sum_lanes + k * lanes);
  }
  float tail = 0;
  for (; i < n; ++i) tail += x[i];
  for (int k = 0; k < parts; ++k) a[k] += b[k];
  return sum_parts(a) + tail;
}

HEARTH_INLINE float sum_squares(const float* x, int n, float mean) {
  F a[parts] = {}, b[parts] = {};
  int i = 0;
  for (; i + 2 * sum_lanes <= n; i += 2 * sum_lanes) {
    for (int k = 0; k < parts; ++k) {
      const F u = load(x + i + k * lanes) - mean, v = load(x + i + sum_lanes + k * lanes) - mean;
      a[k] = fused(u, u, a[k]);
      b[k] = fused(v, v, b[k]);
    }
  }
  float tail = 0;
  for (; i < n; ++i) tail = fused(x[i] - mean, x[i] - mean, tail);
  for (int k = 0; k < parts; ++k) a[k] += b[k];
  return sum_parts(a) + tail;
}

HEARTH_INLINE void norm_row(const NormRow& norm, const float* x, int n, float* y) {
  const float mean = norm.kind == ops::NormKind::layer ? sum_row(x, n) / static_cast<float>(n) : 0.0f;
  const float factor = 1.0f / std::sqrt(sum_squares(x, n, mean) / static_cast<float>(n) + norm.epsilon);
  int i = 0;
  for (; i + lanes <= n; i += lanes) {
    F v = (load(x + i) - mean) * factor * load(norm.weight + i);
    if (norm.bias != nullptr) v += load(norm.bias + i);
    store(y + i, v);
  }
  for (; i < n; ++i) {
    y[i] = (x[i] - mean) * factor * norm.weight[i];
    if (norm.bias != nullptr) y[i] += norm.bias[i];
  }
}

template <class T>
HEARTH_INLINE void widen_row(const T* x, int n, float* y) {
  int i = 0;
  for (; i + lanes <= n; i += lanes) store(y + i, load(x + i));
  if (i < n) store_some(y + i, load_some(x + i, n - i), n - i);
}

HEARTH_INLINE float largest_magnitude(const float* x, int n) {
  F a = {};
  int i = 0;
  for (; i + lanes <= n; i += lanes) a = maximum(a, absolute(load(x + i)));
  float best = largest(a);
  for (; i < n; ++i) best = std::fabs(x[i]) > best ? std::fabs(x[i]) : best;
  return best;
}

// q = round(x * inverse) limited to +-127; returns the sum of q. Writes n values and zeros up to `padded`.
HEARTH_INLINE int32_t quantise(const float* x, int n, int padded, float inverse, int8_t* q) {
  I total = {};
  int i = 0;
  const F low = splat(-127.0f), high = splat(127.0f);
  for (; i + lanes <= n; i += lanes) {
    const I v = round_to_int(minimum(maximum(load(x + i) * inverse, low), high));
    total += v;
    store(q + i, v);
  }
  if (i < n) {
    const I v = round_to_int(minimum(maximum(load_some(x + i, n - i) * inverse, low), high));
    total += v;
    int8_t part[lanes];
    store(part, v);
    for (int j = 0; i + j < n; ++j) q[i + j] = part[j];
    i = n;
  }
  for (; i < padded; ++i) q[i] = 0;
  return sum(total);
}

struct Int8Scale { float scale, inverse; };
HEARTH_INLINE Int8Scale int8_scale(float amax) {
  if (!(amax > 1e-36f)) return {0.0f, 0.0f};
  return {amax / 127.0f, 127.0f / amax};
}

}  // namespace hearth::kernels::cpu::HEARTH_ISA
