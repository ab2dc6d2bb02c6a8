// Int8 linears on AVX-512 VNNI: 16 outputs in one vector, up to eight rows a tile.
#pragma once

#include "kernels/cpu/simd/linear.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

constexpr int prefetch_bytes = 2048;

HEARTH_INLINE __m512i broadcast4(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}

// tile<R> for a number of rows known only now.
template <class Kernel>
HEARTH_INLINE void tile_of_rows(const Kernel& kernel, const uint8_t* block, const Operands& o, int rows, float* out) {
  switch (rows) {
    case 1: return kernel.template rows_tile<1>(block, o, out);
    case 2: return kernel.template rows_tile<2>(block, o, out);
    case 3: return kernel.template rows_tile<3>(block, o, out);
    case 4: return kernel.template rows_tile<4>(block, o, out);
    case 5: return kernel.template rows_tile<5>(block, o, out);
    case 6: return kernel.template rows_tile<6>(block, o, out);
    case 7: return kernel.template rows_tile<7>(block, o, out);
    default: return kernel.template rows_tile<8>(block, o, out);
  }
}

// Zero points times the sums of a group: |sum| <= 128 * 127 fits in 16 bits, so vpmaddwd does it.
template <bool symmetric>
HEARTH_INLINE __m512i correction(__m512i zeros, int32_t sum) {
  return symmetric ? _mm512_set1_epi32(sum) : _mm512_madd_epi16(zeros, _mm512_set1_epi32(sum));
}

template <int subgroups, bool symmetric>
struct W4Vnni {
  static constexpr int rows_max = 8;
  int in;
  W4Layout layout;

  explicit W4Vnni(const ops::LinearSpec& s) : in(s.in), layout(w4_layout(s.in, s.group, s.symmetric)) {}
  size_t block_bytes() const { return layout.bytes; }
  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const { tile_of_rows(*this, block, o, rows, out); }

  template <int R>
  __attribute__((noinline)) void rows_tile(const uint8_t* block, const Operands& o, float* out) const {
    const __m512i low = _mm512_set1_epi8(15);
    const uint8_t* quants = block + layout.quants;
    const int8_t* q = o.q;
    __m512 total[R];
    for (int r = 0; r < R; ++r) total[r] = _mm512_setzero_ps();
    for (int g = 0; g < in / (32 * subgroups); ++g) {
      // Two sums a row while registers last: vpdpbusd takes five cycles to give its sum to the next.
      constexpr int chains = R <= 4 ? 2 : 1;
      __m512i dot[R][2];
      for (int r = 0; r < R; ++r) dot[r][0] = dot[r][1] = _mm512_setzero_si512();
      for (int chunk = 0; chunk < 4 * subgroups; ++chunk, quants += 64, q += 8) {
        const __m512i w = _mm512_loadu_si512(quants);
        _mm_prefetch(reinterpret_cast<const char*>(quants + prefetch_bytes), _MM_HINT_T0);
        const __m512i first = _mm512_and_si512(w, low), second = _mm512_and_si512(_mm512_srli_epi16(w, 4), low);
        for (int r = 0; r < R; ++r) {
          dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], first, broadcast4(q + r * o.q_stride));
          dot[r][chains - 1] = _mm512_dpbusd_epi32(dot[r][chains - 1], second, broadcast4(q + r * o.q_stride + 4));
        }
      }
      const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + layout.scales) + g));
      __m512i zeros = _mm512_setzero_si512();
      if constexpr (!symmetric) zeros = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + layout.zeros) + g));
      for (int r = 0; r < R; ++r) {
        const __m512i sum = chains == 2 ? _mm512_add_epi32(dot[r][0], dot[r][1]) : dot[r][0];
        const __m512i d = _mm512_sub_epi32(sum, correction<symmetric>(zeros, o.sum[r * o.group_stride + g]));
        const __m512 by = _mm512_mul_ps(scale, _mm512_set1_ps(o.scale[r * o.group_stride + g]));
        total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(d), by, total[r]);
      }
    }
    const __m512 factor = _mm512_loadu_ps(block);
    for (int r = 0; r < R; ++r) _mm512_storeu_ps(out + r * block_rows, _mm512_mul_ps(total[r], factor));
  }
};

// 8-bit weights + 128 as the unsigned side, corrected by 128 times the row's sum of activations.
struct W8Vnni {
  static constexpr int rows_max = 8;
  int in;
  W8Layout layout;

  explicit W8Vnni(const ops::LinearSpec& s) : in(s.in), layout(w8_layout(s.in)) {}
  size_t block_bytes() const { return layout.bytes; }
  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const { tile_of_rows(*this, block, o, rows, out); }

  template <int R>
  __attribute__((noinline)) void rows_tile(const uint8_t* block, const Operands& o, float* out) const {
    const __m512i flip = _mm512_set1_epi8(-128);
    const uint8_t* quants = block + layout.quants;
    __m512i even[R], odd[R];
    for (int r = 0; r < R; ++r) even[r] = odd[r] = _mm512_setzero_si512();
    int i = 0;
    for (; i + 8 <= in; i += 8, quants += 128) {
      const __m512i w0 = _mm512_xor_si512(_mm512_loadu_si512(quants), flip), w1 = _mm512_xor_si512(_mm512_loadu_si512(quants + 64), flip);
      _mm_prefetch(reinterpret_cast<const char*>(quants + prefetch_bytes), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(quants + prefetch_bytes + 64), _MM_HINT_T0);
      for (int r = 0; r < R; ++r) {
        even[r] = _mm512_dpbusd_epi32(even[r], w0, broadcast4(o.q + r * o.q_stride + i));
        odd[r] = _mm512_dpbusd_epi32(odd[r], w1, broadcast4(o.q + r * o.q_stride + i + 4));
      }
    }
    for (; i < in; i += 4, quants += 64) {
      const __m512i w = _mm512_xor_si512(_mm512_loadu_si512(quants), flip);
      for (int r = 0; r < R; ++r) even[r] = _mm512_dpbusd_epi32(even[r], w, broadcast4(o.q + r * o.q_stride + i));
    }
    const __m512 scale = _mm512_loadu_ps(block);
    for (int r = 0; r < R; ++r) {
      const __m512i d = _mm512_sub_epi32(_mm512_add_epi32(even[r], odd[r]), _mm512_set1_epi32(o.sum[r * o.group_stride] * 128));
      const __m512 by = _mm512_mul_ps(scale, _mm512_set1_ps(o.scale[r * o.group_stride]));
      _mm512_storeu_ps(out + r * block_rows, _mm512_mul_ps(_mm512_cvtepi32_ps(d), by));
    }
  }
};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
