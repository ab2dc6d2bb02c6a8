// Squares of floats, transposed in registers.
#pragma once

#include "kernels/cpu/simd/vec.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

#if HEARTH_LANES >= 8
constexpr int square = 8;

// Eight values in f32, or `count` of them and zeros.
HEARTH_INLINE __m256 load_square(const float* p) { return _mm256_loadu_ps(p); }
HEARTH_INLINE __m256 load_square(const Half* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
HEARTH_INLINE __m256 load_square(const BFloat16* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
template <class T>
HEARTH_INLINE __m256 load_square(const T* p, int count) {
  T some[square] = {};
  std::memcpy(some, p, static_cast<size_t>(count) * sizeof(T));
  return load_square(some);
}

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

// The first `inputs` of `rows` rows, input i of row r to to[order.at(i) + r], with zeros up to `count` rows and order.padded()
// inputs. All counts but `rows` and `inputs` are rounded up to squares. Two squares of a row are read together: rows are often a
// power of two apart, so that by the time others were read, a line would be gone from the L1 cache.
template <class T, class Order>
HEARTH_INLINE void turn_rows(const T* from, int64_t stride, int rows, int count, int inputs, const Order& order, float* to) {
  __m256 in[square];
  for (int i0 = 0; i0 < order.padded(); i0 += 2 * square) {
    for (int first = 0; first < count; first += square) {
      for (int i = i0; i < i0 + 2 * square && i < order.padded(); i += square) {
        const T* at = from + first * stride + i;
        if (first + square <= rows && i + square <= inputs) {
          for (int r = 0; r < square; ++r) in[r] = load_square(at + r * stride);
        } else {
          for (int r = 0; r < square; ++r) in[r] = first + r >= rows || i >= inputs ? __m256{} : load_square(at + r * stride, inputs - i < square ? inputs - i : square);
        }
        transpose_square(in, to + order.at(i) + first, order.apart);
      }
    }
  }
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
