#include "quantize/rounding.h"

#include <algorithm>
#include <cmath>

#include "core/dtype.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hearth::quantize {

namespace {

inline float round_even(float x) { return (x + 12582912.0f) - 12582912.0f; }

struct Code { float scale, zero; };

Code make_code(float low, float high) {
  const float scale = to_float(to_half(std::max(high - low, 1e-5f) / 15.0f));
  return {scale, std::clamp(-round_even(low / scale), 0.0f, 15.0f)};
}

void round_generic(const float* from, int size, float* to) {
  float low = from[0], high = from[0];
  for (int k = 1; k < size; k++) {
    low = std::min(low, from[k]);
    high = std::max(high, from[k]);
  }
  const Code code = make_code(low, high);
  for (int k = 0; k < size; k++) {
    to[k] = (std::clamp(round_even(from[k] / code.scale) + code.zero, 0.0f, 15.0f) - code.zero) * code.scale;
  }
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) float reduce(__m256 v, bool maximum) {
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, v);
  return maximum ? *std::max_element(lanes, lanes + 8) : *std::min_element(lanes, lanes + 8);
}

// Sizes that are multiples of 8. The same operations in the same order as above: the results are equal.
__attribute__((target("avx2,fma"))) void round_avx2(const float* from, int size, float* to) {
  __m256 low = _mm256_loadu_ps(from), high = low;
  for (int k = 8; k < size; k += 8) {
    const __m256 v = _mm256_loadu_ps(from + k);
    low = _mm256_min_ps(low, v);
    high = _mm256_max_ps(high, v);
  }
  const Code code = make_code(reduce(low, false), reduce(high, true));
  const __m256 scale = _mm256_set1_ps(code.scale), zero = _mm256_set1_ps(code.zero);
  const __m256 least = _mm256_setzero_ps(), most = _mm256_set1_ps(15.0f);
  for (int k = 0; k < size; k += 8) {
    const __m256 steps = _mm256_round_ps(_mm256_div_ps(_mm256_loadu_ps(from + k), scale), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256 code_value = _mm256_min_ps(_mm256_max_ps(_mm256_add_ps(steps, zero), least), most);
    _mm256_storeu_ps(to + k, _mm256_mul_ps(_mm256_sub_ps(code_value, zero), scale));
  }
}
#endif

using Round = void (*)(const float*, int, float*);
Round choose_round() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return round_avx2;
#endif
  return round_generic;
}

}  // namespace

void round_group(const float* from, int size, float* to) {
  static const Round vector_round = choose_round();
  if (size % 8 == 0) vector_round(from, size, to);
  else round_generic(from, size, to);
}

void round_row(const float* row, int64_t columns, int group, std::span<const float> scales, float* to) {
  if (scales.empty()) {
    for (int64_t k = 0; k < columns; k += group) round_group(row + k, group, to + k);
    return;
  }
  for (int64_t k = 0; k < columns; k++) to[k] = row[k] * scales[static_cast<size_t>(k)];
  for (int64_t k = 0; k < columns; k += group) round_group(to + k, group, to + k);
  for (int64_t k = 0; k < columns; k++) to[k] /= scales[static_cast<size_t>(k)];
}

void round_int8(const float* from, int64_t count, float* to) {
  float largest = 1e-5f;
  for (int64_t k = 0; k < count; k++) largest = std::max(largest, std::fabs(from[k]));
  const float scale = largest / 127.0f;
  for (int64_t k = 0; k < count; k++) to[k] = round_even(from[k] / scale) * scale;
}

}  // namespace hearth::quantize
