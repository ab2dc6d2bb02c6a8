// Vectors of HEARTH_LANES floats, written once for every instruction set. A folder's CMake rule defines HEARTH_ISA (the
// namespace, so that no ISA's inline code can be linked into another's) and HEARTH_LANES, and gives the compiler flags.
// Arithmetic uses GCC's vector types; what they lack (half precision, int8, sums across lanes) is here. HEARTH_PORTABLE:
// four lanes of GCC's vectors alone, for any processor.
//
// The compiler joins no product with a sum on its own (-ffp-contract=off): fused() says where, so that every set rounds
// alike and turning one off changes no text.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "ops/ops.h"

#if !defined(HEARTH_ISA) || !defined(HEARTH_LANES)
#error "compiled through kernels/cpu/CMakeLists.txt, which names the instruction set"
#endif

#define HEARTH_INLINE static inline __attribute__((always_inline))

namespace hearth::kernels::cpu::HEARTH_ISA {

constexpr int lanes = HEARTH_LANES;
typedef float F __attribute__((vector_size(4 * HEARTH_LANES)));
typedef int32_t I __attribute__((vector_size(4 * HEARTH_LANES)));
typedef uint32_t U __attribute__((vector_size(4 * HEARTH_LANES)));
typedef float LooseF __attribute__((vector_size(4 * HEARTH_LANES), aligned(4), may_alias));
typedef int32_t LooseI __attribute__((vector_size(4 * HEARTH_LANES), aligned(1), may_alias));

HEARTH_INLINE F splat(float v) { return v - F{}; }
HEARTH_INLINE I splat(int32_t v) { return v - I{}; }
HEARTH_INLINE F load(const float* p) { return *reinterpret_cast<const LooseF*>(p); }
HEARTH_INLINE void store(float* p, F v) { *reinterpret_cast<LooseF*>(p) = v; }
HEARTH_INLINE I load_i32(const void* p) { return *reinterpret_cast<const LooseI*>(p); }
HEARTH_INLINE F to_f32(I v) { return __builtin_convertvector(v, F); }
HEARTH_INLINE I load_i16(const void* p) {
  typedef int16_t Words __attribute__((vector_size(2 * HEARTH_LANES), aligned(2), may_alias));
  return __builtin_convertvector(*static_cast<const Words*>(p), I);
}
HEARTH_INLINE F select(I mask, F yes, F no) { return reinterpret_cast<F>((reinterpret_cast<I>(yes) & mask) | (reinterpret_cast<I>(no) & ~mask)); }
// b where they are equal or one is NaN: what x86's own instruction does, which GCC does not find.
#if HEARTH_LANES == 16
HEARTH_INLINE F maximum(F a, F b) { return reinterpret_cast<F>(_mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b))); }
HEARTH_INLINE F minimum(F a, F b) { return reinterpret_cast<F>(_mm512_min_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b))); }
#elif HEARTH_LANES == 8
HEARTH_INLINE F maximum(F a, F b) { return reinterpret_cast<F>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b))); }
HEARTH_INLINE F minimum(F a, F b) { return reinterpret_cast<F>(_mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b))); }
#else
HEARTH_INLINE F maximum(F a, F b) { return a > b ? a : b; }
HEARTH_INLINE F minimum(F a, F b) { return a < b ? a : b; }
#endif
HEARTH_INLINE F absolute(F v) { return reinterpret_cast<F>(reinterpret_cast<I>(v) & 0x7fffffff); }

#if HEARTH_LANES == 16
HEARTH_INLINE F load(const Half* p) { return reinterpret_cast<F>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))); }
HEARTH_INLINE F load(const BFloat16* p) {
  return reinterpret_cast<F>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}
HEARTH_INLINE F load(const int8_t* p) {
  return reinterpret_cast<F>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))));
}
HEARTH_INLINE F load_u8(const uint8_t* p) {
  return reinterpret_cast<F>(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))));
}
HEARTH_INLINE void store(Half* p, F v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
}
HEARTH_INLINE void store_u16(void* p, U v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(v))); }
HEARTH_INLINE I round_to_int(F v) { return reinterpret_cast<I>(_mm512_cvtps_epi32(reinterpret_cast<__m512>(v))); }
HEARTH_INLINE void store(int8_t* p, I v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(v))); }
HEARTH_INLINE float sum(F v) { return _mm512_reduce_add_ps(reinterpret_cast<__m512>(v)); }
HEARTH_INLINE int32_t sum(I v) { return _mm512_reduce_add_epi32(reinterpret_cast<__m512i>(v)); }
HEARTH_INLINE float largest(F v) { return _mm512_reduce_max_ps(reinterpret_cast<__m512>(v)); }
HEARTH_INLINE bool any(I mask) { return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask)) != 0; }
#elif HEARTH_LANES == 8
HEARTH_INLINE F load(const Half* p) { return reinterpret_cast<F>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))); }
HEARTH_INLINE F load(const BFloat16* p) {
  return reinterpret_cast<F>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
HEARTH_INLINE F load(const int8_t* p) {
  return reinterpret_cast<F>(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))));
}
HEARTH_INLINE F load_u8(const uint8_t* p) {
  return reinterpret_cast<F>(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))));
}
HEARTH_INLINE void store(Half* p, F v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
}
// Low 16 bits of each lane, which the caller has made fit.
HEARTH_INLINE void store_u16(void* p, U v) {
  const __m256i x = reinterpret_cast<__m256i>(v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
}
HEARTH_INLINE I round_to_int(F v) { return reinterpret_cast<I>(_mm256_cvtps_epi32(reinterpret_cast<__m256>(v))); }
HEARTH_INLINE void store(int8_t* p, I v) {
  const __m256i x = reinterpret_cast<__m256i>(v);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
HEARTH_INLINE float sum(F v) {
  const __m256 x = reinterpret_cast<__m256>(v);
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
HEARTH_INLINE int32_t sum(I v) {
  const __m256i x = reinterpret_cast<__m256i>(v);
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
HEARTH_INLINE float largest(F v) {
  const __m256 x = reinterpret_cast<__m256>(v);
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
HEARTH_INLINE bool any(I mask) { return _mm256_movemask_ps(reinterpret_cast<__m256>(mask)) != 0; }
#elif !defined(HEARTH_PORTABLE)
HEARTH_INLINE F load(const Half* p) { return reinterpret_cast<F>(vcvt_f32_f16(vld1_f16(reinterpret_cast<const __fp16*>(p)))); }
HEARTH_INLINE F load(const BFloat16* p) { return reinterpret_cast<F>(vshll_n_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p)), 16)); }
HEARTH_INLINE F load(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  const int16x8_t words = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
  return reinterpret_cast<F>(vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))));
}
HEARTH_INLINE F load_u8(const uint8_t* p) {
  uint32_t four;
  std::memcpy(&four, p, 4);
  const uint16x8_t words = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)));
  return reinterpret_cast<F>(vcvtq_f32_u32(vmovl_u16(vget_low_u16(words))));
}
HEARTH_INLINE void store(Half* p, F v) { vst1_f16(reinterpret_cast<__fp16*>(p), vcvt_f16_f32(reinterpret_cast<float32x4_t>(v))); }
HEARTH_INLINE void store_u16(void* p, U v) { vst1_u16(static_cast<uint16_t*>(p), vmovn_u32(reinterpret_cast<uint32x4_t>(v))); }
HEARTH_INLINE I round_to_int(F v) { return reinterpret_cast<I>(vcvtnq_s32_f32(reinterpret_cast<float32x4_t>(v))); }
HEARTH_INLINE void store(int8_t* p, I v) {
  const int16x4_t words = vmovn_s32(reinterpret_cast<int32x4_t>(v));
  const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
  vst1_lane_s32(reinterpret_cast<int32_t*>(p), vreinterpret_s32_s8(bytes), 0);
}
HEARTH_INLINE float sum(F v) { const auto x = reinterpret_cast<float32x4_t>(v); return vpadds_f32(vadd_f32(vget_low_f32(x), vget_high_f32(x))); }  // in the order of the other sets
HEARTH_INLINE int32_t sum(I v) { return vaddvq_s32(reinterpret_cast<int32x4_t>(v)); }
HEARTH_INLINE float largest(F v) { return vmaxnmvq_f32(reinterpret_cast<float32x4_t>(v)); }
HEARTH_INLINE bool any(I mask) { return vmaxvq_u32(reinterpret_cast<uint32x4_t>(mask)) != 0; }
#else
template <class T>
HEARTH_INLINE F load_each(const T* p) { return F{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])}; }
HEARTH_INLINE F load(const Half* p) { return load_each(p); }
HEARTH_INLINE F load(const BFloat16* p) { return load_each(p); }
HEARTH_INLINE F load(const int8_t* p) { return to_f32(I{p[0], p[1], p[2], p[3]}); }
HEARTH_INLINE F load_u8(const uint8_t* p) { return to_f32(I{p[0], p[1], p[2], p[3]}); }
HEARTH_INLINE void store(Half* p, F v) { for (int i = 0; i < lanes; ++i) p[i] = to_half(v[i]); }
HEARTH_INLINE void store_u16(void* p, U v) {
  const uint16_t words[lanes] = {static_cast<uint16_t>(v[0]), static_cast<uint16_t>(v[1]), static_cast<uint16_t>(v[2]), static_cast<uint16_t>(v[3])};
  std::memcpy(p, words, sizeof words);
}
// To even, by the float whose last bit is worth one: for |v| < 2^22.
HEARTH_INLINE I round_to_int(F v) { return __builtin_convertvector((v + 12582912.0f) - 12582912.0f, I); }
HEARTH_INLINE void store(int8_t* p, I v) { for (int i = 0; i < lanes; ++i) p[i] = static_cast<int8_t>(v[i]); }
HEARTH_INLINE float sum(F v) { return (v[0] + v[2]) + (v[1] + v[3]); }
HEARTH_INLINE int32_t sum(I v) { return v[0] + v[1] + v[2] + v[3]; }
HEARTH_INLINE float largest(F v) {
  const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
}
HEARTH_INLINE bool any(I mask) { return (mask[0] | mask[1] | mask[2] | mask[3]) != 0; }
#endif

// a * b + c, rounded once. Where the processor may lack it, through float64, which rounds the same but once in 2^29.
#if HEARTH_LANES == 16
HEARTH_INLINE F fused(F a, F b, F c) {
  return reinterpret_cast<F>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
}
HEARTH_INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#elif HEARTH_LANES == 8
HEARTH_INLINE F fused(F a, F b, F c) {
  return reinterpret_cast<F>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
}
HEARTH_INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#elif !defined(HEARTH_PORTABLE)
HEARTH_INLINE F fused(F a, F b, F c) {
  return reinterpret_cast<F>(vfmaq_f32(reinterpret_cast<float32x4_t>(c), reinterpret_cast<float32x4_t>(a), reinterpret_cast<float32x4_t>(b)));
}
HEARTH_INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
HEARTH_INLINE F fused(F a, F b, F c) {
  typedef double D __attribute__((vector_size(8 * HEARTH_LANES)));
  return __builtin_convertvector(__builtin_convertvector(a, D) * __builtin_convertvector(b, D) + __builtin_convertvector(c, D), F);
}
HEARTH_INLINE float fused(float a, float b, float c) { return static_cast<float>(static_cast<double>(a) * b + c); }
#endif
HEARTH_INLINE F fused(F a, float b, F c) { return fused(a, splat(b), c); }
HEARTH_INLINE F fused(F a, float b, float c) { return fused(a, splat(b), splat(c)); }
HEARTH_INLINE F fused(F a, F b, float c) { return fused(a, b, splat(c)); }

// int8 in pairs, exact: 2 * lanes values widened to int16 pairs; lanes values of each of two rows side by side; and the
// sum of a pair's products in each lane.
#if HEARTH_LANES == 16
HEARTH_INLINE I widen_pairs(const int8_t* p) { return reinterpret_cast<I>(_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))); }
HEARTH_INLINE I zip_pairs(const int8_t* a, const int8_t* b) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a)), y = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b));
  return reinterpret_cast<I>(_mm512_cvtepi8_epi16(_mm256_set_m128i(_mm_unpackhi_epi8(x, y), _mm_unpacklo_epi8(x, y))));
}
HEARTH_INLINE I multiply_pairs(I a, I b) { return reinterpret_cast<I>(_mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b))); }
#elif HEARTH_LANES == 8
HEARTH_INLINE I widen_pairs(const int8_t* p) { return reinterpret_cast<I>(_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))); }
HEARTH_INLINE I zip_pairs(const int8_t* a, const int8_t* b) {
  const __m128i x = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(a)), y = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(b));
  return reinterpret_cast<I>(_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(x, y)));
}
HEARTH_INLINE I multiply_pairs(I a, I b) { return reinterpret_cast<I>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b))); }
#elif !defined(HEARTH_PORTABLE)
HEARTH_INLINE I widen_pairs(const int8_t* p) { return reinterpret_cast<I>(vmovl_s8(vld1_s8(p))); }
HEARTH_INLINE I zip_pairs(const int8_t* a, const int8_t* b) {
  int32_t x, y;
  std::memcpy(&x, a, 4), std::memcpy(&y, b, 4);
  return reinterpret_cast<I>(vmovl_s8(vzip1_s8(vreinterpret_s8_s32(vdup_n_s32(x)), vreinterpret_s8_s32(vdup_n_s32(y)))));
}
HEARTH_INLINE I multiply_pairs(I a, I b) {
  const int16x8_t x = reinterpret_cast<int16x8_t>(a), y = reinterpret_cast<int16x8_t>(b);
  return reinterpret_cast<I>(vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y)));
}
#else
HEARTH_INLINE int32_t pair_of(int8_t low, int8_t high) { return static_cast<uint16_t>(low) | static_cast<uint32_t>(static_cast<uint16_t>(high)) << 16; }
HEARTH_INLINE I widen_pairs(const int8_t* p) { return I{pair_of(p[0], p[1]), pair_of(p[2], p[3]), pair_of(p[4], p[5]), pair_of(p[6], p[7])}; }
HEARTH_INLINE I zip_pairs(const int8_t* a, const int8_t* b) { return I{pair_of(a[0], b[0]), pair_of(a[1], b[1]), pair_of(a[2], b[2]), pair_of(a[3], b[3])}; }
HEARTH_INLINE I multiply_pairs(I a, I b) { return (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16); }
#endif

// The high halves of the 64-bit products of each lane with c.
HEARTH_INLINE U multiply_high(U a, uint32_t c) {
#if HEARTH_LANES == 16
  const __m512i x = reinterpret_cast<__m512i>(a), m = _mm512_set1_epi64(c);
  const __m512i even = _mm512_srli_epi64(_mm512_mul_epu32(x, m), 32), odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), m);
  return reinterpret_cast<U>(_mm512_mask_blend_epi32(0xaaaa, even, odd));
#elif HEARTH_LANES == 8
  const __m256i x = reinterpret_cast<__m256i>(a), m = _mm256_set1_epi64x(c);
  const __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(x, m), 32), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), m);
  return reinterpret_cast<U>(_mm256_blend_epi32(even, odd, 0xaa));
#elif defined(HEARTH_PORTABLE)
  U high;
  for (int i = 0; i < lanes; ++i) high[i] = static_cast<uint32_t>(static_cast<uint64_t>(a[i]) * c >> 32);
  return high;
#else
  const uint32x4_t x = reinterpret_cast<uint32x4_t>(a);
  return reinterpret_cast<U>(vcombine_u32(vshrn_n_u64(vmull_n_u32(vget_low_u32(x), c), 32), vshrn_n_u64(vmull_n_u32(vget_high_u32(x), c), 32)));
#endif
}

// Round to nearest even; NaN stays NaN.
HEARTH_INLINE void store(BFloat16* p, F v) {
  const U u = reinterpret_cast<U>(v);
  const U rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const U nan = (u >> 16) | 0x40u;
  const U is_nan = reinterpret_cast<U>((u & 0x7fffffffu) > 0x7f800000u);
  store_u16(p, (nan & is_nan) | (rounded & ~is_nan));
}

// e^x with about 1 ulp: 2^n times a polynomial on [-ln2/2, ln2/2] (coefficients of the Taylor series). 0 below -87,
// also for -inf; NaN is not expected.
HEARTH_INLINE F exponential(F x) {
  const F clamped = minimum(maximum(x, splat(-87.0f)), splat(88.0f));
  const I n = round_to_int(clamped * 1.44269504f);
  const F nf = to_f32(n);
  const F r = fused(nf, 2.12194440e-4f, fused(nf, -0.693359375f, clamped));
  F p = fused(r, 1.0f / 5040, 1.0f / 720);
  p = fused(p, r, 1.0f / 120);
  p = fused(p, r, 1.0f / 24);
  p = fused(p, r, 1.0f / 6);
  p = fused(p, r, 0.5f);
  p = fused(p, r * r, r) + 1.0f;
#if HEARTH_LANES == 16
  const __mmask16 seen = _mm512_cmp_ps_mask(reinterpret_cast<__m512>(x), _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
  return reinterpret_cast<F>(_mm512_maskz_scalef_ps(seen, reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(nf)));
#else
  return select(x < -87.0f, F{}, p * reinterpret_cast<F>((n + 127) << 23));
#endif
}

// Abramowitz and Stegun 7.1.26: |error| <= 1.5e-7.
HEARTH_INLINE F error_function(F x) {
  const F a = absolute(x), t = 1.0f / fused(a, 0.3275911f, 1.0f);
  F p = fused(t, 1.061405429f, -1.453152027f);
  p = fused(p, t, 1.421413741f);
  p = fused(p, t, -0.284496736f);
  p = fused(p, t, 0.254829592f) * t;
  const F y = fused(-p, exponential(-a * a), 1.0f);
  return select(x < 0.0f, -y, y);
}

HEARTH_INLINE F activate(ops::Activation activation, F x) {
  switch (activation) {
    case ops::Activation::none: return x;
    case ops::Activation::silu: return x / (1.0f + exponential(-x));
    case ops::Activation::gelu_tanh: {
      // 0.5 (1 + tanh u) = 1 / (1 + e^-2u)
      const F u = 0.7978845608028654f * fused(0.044715f * x * x, x, x);
      return x / (1.0f + exponential(-2.0f * u));
    }
    case ops::Activation::gelu_erf: return 0.5f * x * (1.0f + error_function(x * 0.7071067811865476f));
    case ops::Activation::quick_gelu: return x / (1.0f + exponential(-1.702f * x));
    case ops::Activation::relu: return maximum(x, F{});
  }
  return x;
}

// The first `count` (fewer than lanes) elements, the rest zero.
template <class T>
HEARTH_INLINE F load_some(const T* p, int count) {
  T part[lanes] = {};
  for (int i = 0; i < count; ++i) part[i] = p[i];
  return load(part);
}
template <class T>
HEARTH_INLINE void store_some(T* p, F v, int count) {
  T part[lanes];
  store(part, v);
  for (int i = 0; i < count; ++i) p[i] = part[i];
}

// body(T*{}) with the storage type of `type`.
template <class Body>
HEARTH_INLINE void with_type(DType type, Body&& body) {
  if (type == DType::f16) body(static_cast<Half*>(nullptr));
  else if (type == DType::bf16) body(static_cast<BFloat16*>(nullptr));
  else body(static_cast<float*>(nullptr));
}

HEARTH_INLINE bool is_float(DType type) { return type == DType::f32 || type == DType::f16 || type == DType::bf16; }
HEARTH_INLINE size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }
HEARTH_INLINE size_t bytes_of(DType type) { return type == DType::f32 ? 4 : 2; }

// Sums run over 16 lanes on every set, as `parts` vectors: so that AVX2 and AVX-512 round alike, int8 values made from what
// they give are the same, and turning a set off never changes text.
constexpr int sum_lanes = 16, parts = sum_lanes / lanes;
HEARTH_INLINE float sum_parts(F (&v)[parts]) {
  for (int half = parts / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  }
  return sum(v[0]);
}

struct Range { int begin, end; };
// Splits [0, count) into `size` near-equal ranges; the worker's.
HEARTH_INLINE Range share(int count, int worker, int size) {
  return {static_cast<int>(static_cast<int64_t>(count) * worker / size),
          static_cast<int>(static_cast<int64_t>(count) * (worker + 1) / size)};
}

}  // namespace hearth::kernels::cpu::HEARTH_ISA
