// Squares of floats, transposed in registers.
#pragma once

#include "kernels/cpu/simd/vec.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

#if HEARTH_LANES >= 8
constexpr int square = 8;

// to[j * stride + i] = in[i][j]
HEARTH_INLINE void transpose_square(const __m256 (&in)[8], float* to, int64_t stride) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i += 2) a[i] = _mm256_unpacklo_ps(in[i], in[i + 1]), a[i + 1] = _mm256_unpackhi_ps(in[i], in[i + 1]);
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44), b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44), b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + i * stride, _mm256_permute2f128_ps(b[i], b[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * stride, _mm256_permute2f128_ps(b[i], b[i + 4], 0x31));
  }
}

// to[j * stride + i] = rows[i][at + j]
HEARTH_INLINE void transpose_square(const float* const (&rows)[8], int64_t at, float* to, int64_t stride) {
  __m256 in[8];
  for (int i = 0; i < 8; ++i) in[i] = _mm256_loadu_ps(rows[i] + at);
  transpose_square(in, to, stride);
}
#else
constexpr int square = 4;

// to[j * stride + i] = rows[i][at + j]
HEARTH_INLINE void transpose_square(const float* const (&rows)[4], int64_t at, float* to, int64_t stride) {
  const F a = load(rows[0] + at), b = load(rows[1] + at), c = load(rows[2] + at), d = load(rows[3] + at);
  const F low0 = __builtin_shuffle(a, b, I{0, 4, 1, 5}), low1 = __builtin_shuffle(c, d, I{0, 4, 1, 5});
  const F high0 = __builtin_shuffle(a, b, I{2, 6, 3, 7}), high1 = __builtin_shuffle(c, d, I{2, 6, 3, 7});
  store(to, __builtin_shuffle(low0, low1, I{0, 1, 4, 5}));
  store(to + stride, __builtin_shuffle(low0, low1, I{2, 3, 6, 7}));
  store(to + 2 * stride, __builtin_shuffle(high0, high1, I{0, 1, 4, 5}));
  store(to + 3 * stride, __builtin_shuffle(high0, high1, I{2, 3, 6, 7}));
}
#endif

}  // namespace hearth::kernels::cpu::HEARTH_ISA
