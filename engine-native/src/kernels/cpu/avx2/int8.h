// Int8 linears on AVX2: 4-bit or 8-bit weights against int8 activations, 16 outputs in two vectors.
// Compiled twice: as it is, and with AVX-VNNI's vpdpbusd (HEARTH_AVX_VNNI).
#pragma once

#include "kernels/cpu/simd/linear.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

// How far a stream is read ahead, measured: with one stream a worker, and with each of two (together()).
constexpr int prefetch_bytes = 1536, prefetch_pair_bytes = 768;

HEARTH_INLINE __m256i broadcast4(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}

// Sums of products u8 x s8. Without VNNI the sums are int16 pairs: eight steps of 4-bit weights reach at most
// 8 * 2 * 15 * 127 = 30480, which fits; fold() turns them into int32 every 32 inputs. Whole scales (whole_scales): sums
// start at what the zero point takes off (less(sum)), so that 32 inputs' fit 16 bits, and fold() multiplies by the scales.
struct Sum {
#if defined(HEARTH_AVX_VNNI)
  HEARTH_INLINE __m256i less(const int32_t* sum) { return _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_set1_epi32(*sum)); }
  HEARTH_INLINE __m256i multipliers(const uint8_t* scales) { return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales))); }
  HEARTH_INLINE __m256i fold(__m256i total, __m256i sum, __m256i multipliers) { return _mm256_dpwssd_avx_epi32(total, sum, multipliers); }
  HEARTH_INLINE __m256i add(__m256i sum, __m256i w, __m256i a) { return _mm256_dpbusd_avx_epi32(sum, w, a); }
  HEARTH_INLINE __m256i fold(__m256i total, __m256i sum) { return _mm256_add_epi32(total, sum); }
#else
  // In one half of a lane; the other half's products take off the rest.
  HEARTH_INLINE __m256i less(const int32_t* sum) {
    const __m256i zero = _mm256_setzero_si256();
    return _mm256_blend_epi16(zero, _mm256_sub_epi16(zero, _mm256_set1_epi32(*sum)), 0x55);
  }
  HEARTH_INLINE __m256i multipliers(const uint8_t* scales) {
    const __m256i low = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
    return _mm256_or_si256(low, _mm256_slli_epi32(low, 16));
  }
  HEARTH_INLINE __m256i fold(__m256i total, __m256i sum, __m256i multipliers) { return _mm256_add_epi32(total, _mm256_madd_epi16(sum, multipliers)); }
  // In assembly, in this order: left alone, GCC gathers all products first and spills them.
  HEARTH_INLINE __m256i add(__m256i sum, __m256i w, __m256i a) {
    __m256i product;
    asm volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(w), "x"(a));
    return sum;
  }
  HEARTH_INLINE __m256i fold(__m256i total, __m256i sum) {
    return _mm256_add_epi32(total, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
  }
#endif
};

// 32 inputs of R rows against 16 outputs. With whole scales, times those of the group: `sums` of its activations lie
// `sum_stride` apart.
template <int R, bool whole>
HEARTH_INLINE void dot32(const uint8_t* quants, const int8_t* q, int64_t stride, const uint8_t* scales, const int32_t* sums, int64_t sum_stride,
                         __m256i (&dot)[R][2]) {
  const __m256i low = _mm256_set1_epi8(15);
  __m256i sum[R][2];
  for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = whole ? Sum::less(sums + r * sum_stride) : _mm256_setzero_si256();
  for (int chunk = 0; chunk < 4; ++chunk) {
    const auto* w = reinterpret_cast<const __m256i*>(quants + chunk * 64);
    _mm_prefetch(reinterpret_cast<const char*>(quants + chunk * 64 + prefetch_bytes), _MM_HINT_T0);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      // The high nibbles are loaded again: two weight registers fewer, and R = 4 just fits in sixteen.
      const __m256i w0 = _mm256_and_si256(half ? _mm256_srli_epi16(_mm256_loadu_si256(w), 4) : _mm256_loadu_si256(w), low);
      const __m256i w1 = _mm256_and_si256(half ? _mm256_srli_epi16(_mm256_loadu_si256(w + 1), 4) : _mm256_loadu_si256(w + 1), low);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m256i a = broadcast4(q + r * stride + chunk * 8 + half * 4);
        sum[r][0] = Sum::add(sum[r][0], w0, a);
        sum[r][1] = Sum::add(sum[r][1], w1, a);
      }
    }
  }
  if constexpr (whole) {
    const __m256i m0 = Sum::multipliers(scales), m1 = Sum::multipliers(scales + 16);
    for (int r = 0; r < R; ++r) dot[r][0] = Sum::fold(dot[r][0], sum[r][0], m0), dot[r][1] = Sum::fold(dot[r][1], sum[r][1], m1);
  } else {
    for (int r = 0; r < R; ++r) dot[r][0] = Sum::fold(dot[r][0], sum[r][0]), dot[r][1] = Sum::fold(dot[r][1], sum[r][1]);
  }
}

// 32 inputs of one row against the 16 outputs of each of two blocks.
template <bool whole>
HEARTH_INLINE void dot32_pair(const uint8_t* const (&quants)[2], const int8_t* q, const uint8_t* const (&scales)[2], const int32_t* group_sum,
                              __m256i (&dot)[2][2]) {
  const __m256i low = _mm256_set1_epi8(15);
  __m256i sum[2][2];
  for (auto& s : sum) s[0] = s[1] = whole ? Sum::less(group_sum) : _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int chunk = 0; chunk < 4; ++chunk) {
    const __m256i first = broadcast4(q + chunk * 8), second = broadcast4(q + chunk * 8 + 4);
#pragma GCC unroll 2
    for (int b = 0; b < 2; ++b) {
      _mm_prefetch(reinterpret_cast<const char*>(quants[b] + chunk * 64 + prefetch_pair_bytes), _MM_HINT_T0);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(quants[b] + chunk * 64) + h);
        sum[b][h] = Sum::add(sum[b][h], _mm256_and_si256(w, low), first);
        sum[b][h] = Sum::add(sum[b][h], _mm256_and_si256(_mm256_srli_epi16(w, 4), low), second);
      }
    }
  }
  for (int b = 0; b < 2; ++b) {
    for (int h = 0; h < 2; ++h) {
      if constexpr (whole) dot[b][h] = Sum::fold(dot[b][h], sum[b][h], Sum::multipliers(scales[b] + 16 * h));
      else dot[b][h] = Sum::fold(dot[b][h], sum[b][h]);
    }
  }
}

template <int subgroups, bool symmetric>
struct W4Int8 {
  static constexpr int rows_max = 4, streams = 2;  // together(): two streams of sixteen registers
  static constexpr bool whole = symmetric && subgroups == 1;  // whole_scales
  static constexpr int span = whole ? span_groups : subgroups;  // dots of 32 inputs that are added up as integers
  int in;
  W4Layout layout;

  explicit W4Int8(const ops::LinearSpec& s) : in(s.in), layout(w4_layout(s.in, s.group, s.symmetric)) {}
  size_t block_bytes() const { return layout.bytes; }

  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const {
    if (rows == 4) rows_tile<4>(block, o, out);
    else if (rows == 3) rows_tile<3>(block, o, out);
    else if (rows == 2) rows_tile<2>(block, o, out);
    else rows_tile<1>(block, o, out);
  }

  template <int n>
  __attribute__((noinline)) void together(const uint8_t* const (&block)[n], size_t, const Operands& o, float (*out)[block_rows]) const {
    const int8_t* q = o.q;
    const uint8_t* quants[2] = {block[0] + layout.quants, block[1] + layout.quants};
    __m256 total[2][2];
    for (auto& t : total) t[0] = t[1] = _mm256_setzero_ps();
    for (int at = 0, g = 0; at < in / 32; at += span, ++g) {
      __m256i dot[2][2];
      for (auto& d : dot) d[0] = d[1] = _mm256_setzero_si256();
      for (int sub = at; sub < at + span && sub < in / 32; ++sub, quants[0] += 256, quants[1] += 256, q += 32) {
        const uint8_t* const scales[2] = {block[0] + layout.scales + sub * 32, block[1] + layout.scales + sub * 32};
        dot32_pair<whole>(quants, q, scales, o.sum + sub, dot);
      }
      for (int b = 0; b < 2; ++b) {
        if constexpr (whole) add_span(dot[b], o.scale[g], total[b]);
        else add_group(block[b], o, g, dot[b], total[b]);
      }
    }
    for (int b = 0; b < 2; ++b) {
      const auto* factor = reinterpret_cast<const float*>(block[b]);
      _mm256_storeu_ps(out[b], _mm256_mul_ps(total[b][0], _mm256_loadu_ps(factor)));
      _mm256_storeu_ps(out[b] + 8, _mm256_mul_ps(total[b][1], _mm256_loadu_ps(factor + 8)));
    }
  }

  // A span's sums times its activations' scale.
  HEARTH_INLINE void add_span(const __m256i (&dot)[2], float scale, __m256 (&total)[2]) {
    for (int h = 0; h < 2; ++h) total[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[h]), _mm256_set1_ps(scale), total[h]);
  }

  // total += (dot - zero * sum of activations) * scales of group g, one row.
  HEARTH_INLINE void add_group_at(const uint8_t* block, const W4Layout& layout, const Operands& o, int g, const __m256i (&dot)[2],
                                  __m256 (&total)[2]) {
    const __m256i sum = _mm256_set1_epi32(o.sum[g]);
    const __m256 scale = _mm256_set1_ps(o.scale[g]);
    const auto* scales = reinterpret_cast<const __m128i*>(block + layout.scales) + 2 * g;
    __m128i zeros = _mm_setzero_si128();
    if constexpr (!symmetric) zeros = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + layout.zeros) + g);
    for (int h = 0; h < 2; ++h) {
      const __m256i z = _mm256_cvtepu8_epi32(h ? _mm_srli_si128(zeros, 8) : zeros);
      const __m256i d = _mm256_sub_epi32(dot[h], symmetric ? sum : _mm256_madd_epi16(z, sum));
      const __m256 by = _mm256_mul_ps(_mm256_cvtph_ps(_mm_loadu_si128(scales + h)), scale);
      total[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(d), by, total[h]);
    }
  }
  void add_group(const uint8_t* block, const Operands& o, int g, const __m256i (&dot)[2], __m256 (&total)[2]) const {
    add_group_at(block, layout, o, g, dot, total);
  }

  template <int R>
  __attribute__((noinline)) void rows_tile(const uint8_t* block, const Operands& o, float* out) const {
    const auto* scales = reinterpret_cast<const __m128i*>(block + layout.scales);
    const auto* zeros = reinterpret_cast<const __m128i*>(block + layout.zeros);
    const uint8_t* quants = block + layout.quants;
    const int8_t* q = o.q;
    __m256 total[R][2];
    for (int r = 0; r < R; ++r) total[r][0] = total[r][1] = _mm256_setzero_ps();
    for (int at = 0, g = 0; at < in / 32; at += span, ++g) {
      __m256i dot[R][2];
      for (int r = 0; r < R; ++r) dot[r][0] = dot[r][1] = _mm256_setzero_si256();
      for (int sub = at; sub < at + span && sub < in / 32; ++sub, quants += 256, q += 32) {
        dot32<R, whole>(quants, q, o.q_stride, block + layout.scales + sub * 32, o.sum + sub, o.group_stride, dot);
      }
      if constexpr (whole) {
        for (int r = 0; r < R; ++r) add_span(dot[r], o.scale[r * o.group_stride + g], total[r]);
        continue;
      }
      const __m256 s0 = _mm256_cvtph_ps(_mm_loadu_si128(scales + 2 * g)), s1 = _mm256_cvtph_ps(_mm_loadu_si128(scales + 2 * g + 1));
      __m256i z0, z1;
      if constexpr (!symmetric) {
        const __m128i z = _mm_loadu_si128(zeros + g);
        z0 = _mm256_cvtepu8_epi32(z);
        z1 = _mm256_cvtepu8_epi32(_mm_srli_si128(z, 8));
      }
      for (int r = 0; r < R; ++r) {
        const __m256i sum = _mm256_set1_epi32(o.sum[r * o.group_stride + g]);
        const __m256 scale = _mm256_set1_ps(o.scale[r * o.group_stride + g]);
        // |sum| <= 128 * 127 fits in 16 bits, so vpmaddwd multiplies it by the zero point in one step.
        const __m256i c0 = symmetric ? sum : _mm256_madd_epi16(z0, sum), c1 = symmetric ? sum : _mm256_madd_epi16(z1, sum);
        total[r][0] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(dot[r][0], c0)), _mm256_mul_ps(s0, scale), total[r][0]);
        total[r][1] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(dot[r][1], c1)), _mm256_mul_ps(s1, scale), total[r][1]);
      }
    }
    const __m256 f0 = _mm256_loadu_ps(reinterpret_cast<const float*>(block)), f1 = _mm256_loadu_ps(reinterpret_cast<const float*>(block) + 8);
    for (int r = 0; r < R; ++r) {
      _mm256_storeu_ps(out + r * block_rows, _mm256_mul_ps(total[r][0], f0));
      _mm256_storeu_ps(out + r * block_rows + 8, _mm256_mul_ps(total[r][1], f1));
    }
  }
};

// 8-bit weights + 128 as the unsigned side, corrected by 128 times the row's sum of activations. Without VNNI they are
// split as 16 h + l into 4-bit halves, so that int16 sums hold for 32 inputs.
struct W8Int8 {
#if defined(HEARTH_AVX_VNNI)
  static constexpr int rows_max = 6;
#else
  static constexpr int rows_max = 4;
#endif
  int in;
  W8Layout layout;

  explicit W8Int8(const ops::LinearSpec& s) : in(s.in), layout(w8_layout(s.in)) {}
  size_t block_bytes() const { return layout.bytes; }

  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const {
    if (rows_max == 6 && rows == 6) rows_tile<rows_max>(block, o, out);
    else if (rows_max == 6 && rows == 5) rows_tile<rows_max - 1>(block, o, out);
    else if (rows == 4) rows_tile<4>(block, o, out);
    else if (rows == 3) rows_tile<3>(block, o, out);
    else if (rows == 2) rows_tile<2>(block, o, out);
    else rows_tile<1>(block, o, out);
  }

#if defined(HEARTH_AVX_VNNI)
  // sums += products of four bytes of each lane with those at q, broadcast. In assembly, as GCC copies every sum, some through
  // the stack.
  HEARTH_INLINE void add_four(__m256i (&sums)[2], __m256i w0, __m256i w1, const int8_t* q) {
    typedef int32_t Four __attribute__((may_alias, aligned(1)));
    __m256i x;
    asm("vpbroadcastd %5, %2\n\t%{vex%} vpdpbusd %2, %3, %0\n\t%{vex%} vpdpbusd %2, %4, %1"
        : "+x"(sums[0]), "+x"(sums[1]), "=&x"(x) : "x"(w0), "x"(w1), "m"(*reinterpret_cast<const Four*>(q)));
  }

  template <int R>
  __attribute__((noinline)) void rows_tile(const uint8_t* block, const Operands& o, float* out) const {
    const uint8_t* quants = block + layout.quants;
    const __m256i flip = _mm256_set1_epi8(-128);
    const int8_t* q = o.q;
    __m256i dot[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) dot[r][0] = dot[r][1] = _mm256_setzero_si256();
    for (int i = 0; i < in; i += 4, quants += 64, q += 4) {
      const __m256i w0 = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(quants)), flip);
      const __m256i w1 = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(quants + 32)), flip);
      _mm_prefetch(reinterpret_cast<const char*>(quants + prefetch_bytes), _MM_HINT_T0);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) add_four(dot[r], w0, w1, q + r * o.q_stride);
    }
    scale_out<R>(block, o, dot, out);
  }
#else
  // 4 * steps inputs into two int16 sums each, folded into int32 at the end; steps <= 8.
  template <int R>
  HEARTH_INLINE void dot_steps(const uint8_t* quants, const int8_t* q, int64_t stride, int steps, __m256i (&dot)[R][2]) {
    const __m256i low = _mm256_set1_epi8(15), flip = _mm256_set1_epi8(-128);
    for (int h = 0; h < 2; ++h) {
      __m256i fine[R], coarse[R];
      for (int r = 0; r < R; ++r) fine[r] = coarse[r] = _mm256_setzero_si256();
      for (int step = 0; step < steps; ++step) {
        const __m256i w = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(quants + step * 64 + h * 32)), flip);
        const __m256i l = _mm256_and_si256(w, low), c = _mm256_and_si256(_mm256_srli_epi16(w, 4), low);
        for (int r = 0; r < R; ++r) {
          const __m256i a = broadcast4(q + r * stride + step * 4);
          fine[r] = _mm256_add_epi16(fine[r], _mm256_maddubs_epi16(l, a));
          coarse[r] = _mm256_add_epi16(coarse[r], _mm256_maddubs_epi16(c, a));
        }
      }
      const __m256i one = _mm256_set1_epi16(1), sixteen = _mm256_set1_epi16(16);
      for (int r = 0; r < R; ++r) {
        dot[r][h] = _mm256_add_epi32(dot[r][h], _mm256_add_epi32(_mm256_madd_epi16(fine[r], one), _mm256_madd_epi16(coarse[r], sixteen)));
      }
    }
  }

  template <int R>
  __attribute__((noinline)) void rows_tile(const uint8_t* block, const Operands& o, float* out) const {
    const uint8_t* quants = block + layout.quants;
    __m256i dot[R][2];
    for (int r = 0; r < R; ++r) dot[r][0] = dot[r][1] = _mm256_setzero_si256();
    const int steps = (in + 3) / 4;
    for (int step = 0; step < steps; step += 8) {
      for (int line = 0; line < 8; ++line) {
        _mm_prefetch(reinterpret_cast<const char*>(quants + (step + line) * 64 + prefetch_bytes), _MM_HINT_T0);
      }
      if (step + 8 <= steps) dot_steps<R>(quants + step * 64, o.q + step * 4, o.q_stride, 8, dot);
      else dot_steps<R>(quants + step * 64, o.q + step * 4, o.q_stride, steps - step, dot);
    }
    scale_out<R>(block, o, dot, out);
  }
#endif

  template <int R>
  HEARTH_INLINE void scale_out(const uint8_t* block, const Operands& o, const __m256i (&dot)[R][2], float* out) {
    const auto* scales = reinterpret_cast<const float*>(block);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const __m256 a = _mm256_set1_ps(o.scale[r * o.group_stride]);
      const __m256i offset = _mm256_set1_epi32(o.sum[r * o.group_stride] * 128);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(dot[r][h], offset)), _mm256_mul_ps(a, _mm256_loadu_ps(scales + 8 * h)));
        _mm256_storeu_ps(out + r * block_rows + 8 * h, v);
      }
    }
  }
};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
