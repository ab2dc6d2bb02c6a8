// Int8 linears on NEON's dot product (sdot): 16 outputs in four vectors, activations indexed by lane.
#pragma once

#include "kernels/cpu/simd/linear.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

constexpr int prefetch_bytes = 1024;

HEARTH_INLINE int8x16_t load_bytes(const uint8_t* p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }

// Scales of 16 outputs as four vectors of floats.
HEARTH_INLINE void load_scales(const uint8_t* p, float32x4_t (&scale)[4]) {
  const auto* half = reinterpret_cast<const __fp16*>(p);
  for (int v = 0; v < 4; ++v) scale[v] = vcvt_f32_f16(vld1_f16(half + 4 * v));
}

HEARTH_INLINE void load_zeros(const uint8_t* p, int32x4_t (&zero)[4]) {
  const uint8x16_t bytes = vld1q_u8(p);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
  zero[0] = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low)));
  zero[1] = vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(low)));
  zero[2] = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high)));
  zero[3] = vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(high)));
}

// Whole scales (whole_scales in layouts.h).
HEARTH_INLINE void load_scales(const uint8_t* p, int32x4_t (&scale)[4]) {
  for (int v = 0; v < 4; ++v) scale[v] = vmovl_s16(vld1_s16(reinterpret_cast<const int16_t*>(p) + 4 * v));
}

// What R rows have added up: floats, and with whole scales the integers of the present span.
template <int R, int subgroups, bool symmetric>
struct Totals {
  static constexpr bool whole = symmetric && subgroups == 1;
  float32x4_t total[R][4];
  int32x4_t span[R][4];

  HEARTH_INLINE void start(Totals& t) {
    for (int r = 0; r < R; ++r) for (int v = 0; v < 4; ++v) t.total[r][v] = vdupq_n_f32(0), t.span[r][v] = vdupq_n_s32(0);
  }

  // += (dot - zero * sum of activations) * scales of group g.
  HEARTH_INLINE void add(Totals& t, const uint8_t* block, const W4Layout& layout, const Operands& o, int g, int groups, const int32x4_t (&dot)[R][4]) {
    if constexpr (whole) {
      int32x4_t scale[4];
      load_scales(block + layout.scales + g * 32, scale);
      for (int r = 0; r < R; ++r) {
        const int32x4_t sum = vdupq_n_s32(o.sum[r * o.group_stride + g]);
        for (int v = 0; v < 4; ++v) t.span[r][v] = vmlaq_s32(t.span[r][v], vsubq_s32(dot[r][v], sum), scale[v]);
      }
      if (ends_span(g, groups)) end_span(t, o, g / span_groups);
    } else {
      float32x4_t scale[4];
      int32x4_t zero[4] = {};
      load_scales(block + layout.scales + g * 32, scale);
      if constexpr (!symmetric) load_zeros(block + layout.zeros + g * 16, zero);
      for (int r = 0; r < R; ++r) {
        const int32_t sum = o.sum[r * o.group_stride + g];
        const float by = o.scale[r * o.group_stride + g];
        for (int v = 0; v < 4; ++v) {
          const int32x4_t d = symmetric ? vsubq_s32(dot[r][v], vdupq_n_s32(sum)) : vmlsq_n_s32(dot[r][v], zero[v], sum);
          t.total[r][v] = vfmaq_f32(t.total[r][v], vcvtq_f32_s32(d), vmulq_n_f32(scale[v], by));
        }
      }
    }
  }

  HEARTH_INLINE void end_span(Totals& t, const Operands& o, int number) {
    for (int r = 0; r < R; ++r) {
      const float32x4_t scale = vdupq_n_f32(o.scale[r * o.group_stride + number]);
      for (int v = 0; v < 4; ++v) t.total[r][v] = vfmaq_f32(t.total[r][v], vcvtq_f32_s32(t.span[r][v]), scale), t.span[r][v] = vdupq_n_s32(0);
    }
  }

  HEARTH_INLINE void give(const Totals& t, const uint8_t* block, float* out) {
    const auto* factor = reinterpret_cast<const float*>(block);
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < 4; ++v) vst1q_f32(out + r * block_rows + 4 * v, vmulq_f32(t.total[r][v], vld1q_f32(factor + 4 * v)));
    }
  }
};

template <class Kernel>
HEARTH_INLINE void tile_of_rows(const Kernel& kernel, const uint8_t* block, const Operands& o, int rows, float* out) {
  switch (rows) {
    case 1: return kernel.template rows_tile<1>(block, o, out);
    case 2: return kernel.template rows_tile<2>(block, o, out);
    case 3: return kernel.template rows_tile<3>(block, o, out);
    default: return kernel.template rows_tile<4>(block, o, out);
  }
}

template <int subgroups, bool symmetric>
struct W4Dot {
  static constexpr int rows_max = 4;
  int in;
  W4Layout layout;

  explicit W4Dot(const ops::LinearSpec& s) : in(s.in), layout(w4_layout(s.in, s.group, s.symmetric)) {}
  size_t block_bytes() const { return layout.bytes; }
  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const { tile_of_rows(*this, block, o, rows, out); }

  // 16 inputs of R rows: two lines of 64 bytes, four sdot lanes.
  template <int R>
  HEARTH_INLINE void dot16(const uint8_t* quants, const int8_t* q, int64_t stride, int32x4_t (&dot)[R][4]) {
    const uint8x16_t low = vdupq_n_u8(15);
    int8x16_t a[R];
    for (int r = 0; r < R; ++r) a[r] = vld1q_s8(q + r * stride);
    for (int v = 0; v < 4; ++v) {
      const uint8x16_t w0 = vld1q_u8(quants + 16 * v), w1 = vld1q_u8(quants + 64 + 16 * v);
      const int8x16_t l0 = vreinterpretq_s8_u8(vandq_u8(w0, low)), h0 = vreinterpretq_s8_u8(vshrq_n_u8(w0, 4));
      const int8x16_t l1 = vreinterpretq_s8_u8(vandq_u8(w1, low)), h1 = vreinterpretq_s8_u8(vshrq_n_u8(w1, 4));
      for (int r = 0; r < R; ++r) {
        dot[r][v] = vdotq_laneq_s32(dot[r][v], l0, a[r], 0);
        dot[r][v] = vdotq_laneq_s32(dot[r][v], h0, a[r], 1);
        dot[r][v] = vdotq_laneq_s32(dot[r][v], l1, a[r], 2);
        dot[r][v] = vdotq_laneq_s32(dot[r][v], h1, a[r], 3);
      }
    }
  }

  template <int R>
  __attribute__((noinline)) void rows_tile(const uint8_t* block, const Operands& o, float* out) const {
    using Sums = Totals<R, subgroups, symmetric>;
    const uint8_t* quants = block + layout.quants;
    const int8_t* q = o.q;
    const int groups = in / (32 * subgroups);
    Sums sums;
    Sums::start(sums);
    for (int g = 0; g < groups; ++g) {
      int32x4_t dot[R][4];
      for (int r = 0; r < R; ++r) for (int v = 0; v < 4; ++v) dot[r][v] = vdupq_n_s32(0);
      for (int part = 0; part < 2 * subgroups; ++part, quants += 128, q += 16) {
        __builtin_prefetch(quants + prefetch_bytes);
        __builtin_prefetch(quants + prefetch_bytes + 64);
        dot16<R>(quants, q, o.q_stride, dot);
      }
      Sums::add(sums, block, layout, o, g, groups, dot);
    }
    Sums::give(sums, block, out);
  }
};

struct W8Dot {
  static constexpr int rows_max = 4;
  int in;
  W8Layout layout;

  explicit W8Dot(const ops::LinearSpec& s) : in(s.in), layout(w8_layout(s.in)) {}
  size_t block_bytes() const { return layout.bytes; }
  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const { tile_of_rows(*this, block, o, rows, out); }

  template <int R>
  __attribute__((noinline)) void rows_tile(const uint8_t* block, const Operands& o, float* out) const {
    const uint8_t* quants = block + layout.quants;
    int32x4_t dot[R][4];
    for (int r = 0; r < R; ++r) for (int v = 0; v < 4; ++v) dot[r][v] = vdupq_n_s32(0);
    int i = 0;
    for (; i + 16 <= in; i += 16, quants += 256) {
      __builtin_prefetch(quants + prefetch_bytes);
      int8x16_t a[R];
      for (int r = 0; r < R; ++r) a[r] = vld1q_s8(o.q + r * o.q_stride + i);
      for (int v = 0; v < 4; ++v) {
        const int8x16_t w0 = load_bytes(quants + 16 * v), w1 = load_bytes(quants + 64 + 16 * v);
        const int8x16_t w2 = load_bytes(quants + 128 + 16 * v), w3 = load_bytes(quants + 192 + 16 * v);
        for (int r = 0; r < R; ++r) {
          dot[r][v] = vdotq_laneq_s32(dot[r][v], w0, a[r], 0);
          dot[r][v] = vdotq_laneq_s32(dot[r][v], w1, a[r], 1);
          dot[r][v] = vdotq_laneq_s32(dot[r][v], w2, a[r], 2);
          dot[r][v] = vdotq_laneq_s32(dot[r][v], w3, a[r], 3);
        }
      }
    }
    for (; i < in; i += 4, quants += 64) {
      for (int r = 0; r < R; ++r) {
        int32_t four;
        std::memcpy(&four, o.q + r * o.q_stride + i, 4);
        const int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(four));
        for (int v = 0; v < 4; ++v) dot[r][v] = vdotq_s32(dot[r][v], load_bytes(quants + 16 * v), a);
      }
    }
    const auto* scale = reinterpret_cast<const float*>(block);
    for (int r = 0; r < R; ++r) {
      const float by = o.scale[r * o.group_stride];
      for (int v = 0; v < 4; ++v) {
        vst1q_f32(out + r * block_rows + 4 * v, vmulq_f32(vcvtq_f32_s32(dot[r][v]), vmulq_n_f32(vld1q_f32(scale + 4 * v), by)));
      }
    }
  }
};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
