// Int8 linears on NEON's matrix products (smmla: 2 outputs x 8 inputs by 2 rows x 8 inputs). Zipping the two 4-input
// halves of a line gives two outputs of eight inputs each: the layout needs no second form. One row goes to sdot.
#pragma once

#include "kernels/cpu/neon_dotprod/int8.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

// Sums of two rows against 16 outputs: pair[v] holds outputs 2v, 2v + 1: [o0 r0, o0 r1, o1 r0, o1 r1].
struct PairSums {
  int32x4_t pair[8];

  HEARTH_INLINE void clear(PairSums& s) { for (auto& p : s.pair) p = vdupq_n_s32(0); }
  // Four inputs of four outputs in each of first and second: eight consecutive inputs of outputs 4v .. 4v + 3.
  HEARTH_INLINE void add(PairSums& s, int v, int8x16_t first, int8x16_t second, int8x16_t a) {
    const int32x4_t x = vreinterpretq_s32_s8(first), y = vreinterpretq_s32_s8(second);
    s.pair[2 * v] = vmmlaq_s32(s.pair[2 * v], vreinterpretq_s8_s32(vzip1q_s32(x, y)), a);
    s.pair[2 * v + 1] = vmmlaq_s32(s.pair[2 * v + 1], vreinterpretq_s8_s32(vzip2q_s32(x, y)), a);
  }
  // The 16 sums of one of the two rows.
  HEARTH_INLINE void row(const PairSums& s, int r, int32x4_t (&dot)[4]) {
    for (int v = 0; v < 4; ++v) {
      dot[v] = r == 0 ? vuzp1q_s32(s.pair[2 * v], s.pair[2 * v + 1]) : vuzp2q_s32(s.pair[2 * v], s.pair[2 * v + 1]);
    }
  }
};

// Eight inputs of two rows as smmla wants them; a missing second row repeats the first.
HEARTH_INLINE int8x16_t two_rows(const int8_t* first, const int8_t* second) { return vcombine_s8(vld1_s8(first), vld1_s8(second)); }

template <int subgroups, bool symmetric>
struct W4Mmla {
  static constexpr int rows_max = 4;
  W4Dot<subgroups, symmetric> one;

  explicit W4Mmla(const ops::LinearSpec& s) : one(s) {}
  size_t block_bytes() const { return one.block_bytes(); }
  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const {
    if (rows == 1) one.tile(block, o, 1, out);
    else if (rows == 2) rows_tile<2>(block, o, out);
    else if (rows == 3) rows_tile<3>(block, o, out);
    else rows_tile<4>(block, o, out);
  }

  template <int R>
  __attribute__((noinline)) void rows_tile(const uint8_t* block, const Operands& o, float* out) const {
    constexpr int pairs = (R + 1) / 2;
    const W4Layout& layout = one.layout;
    const uint8_t* quants = block + layout.quants;
    const int8_t* q = o.q;
    const uint8x16_t low = vdupq_n_u8(15);
    const int groups = one.in / (32 * subgroups);
    using Sums = Totals<R, subgroups, symmetric>;
    Sums totals;
    Sums::start(totals);
    for (int g = 0; g < groups; ++g) {
      PairSums sums[pairs];
      for (auto& s : sums) PairSums::clear(s);
      for (int chunk = 0; chunk < 4 * subgroups; ++chunk, quants += 64, q += 8) {
        __builtin_prefetch(quants + prefetch_bytes);
        int8x16_t a[pairs];
        for (int p = 0; p < pairs; ++p) a[p] = two_rows(q + 2 * p * o.q_stride, q + (2 * p + 1 < R ? 2 * p + 1 : 2 * p) * o.q_stride);
        for (int v = 0; v < 4; ++v) {
          const uint8x16_t w = vld1q_u8(quants + 16 * v);
          const int8x16_t first = vreinterpretq_s8_u8(vandq_u8(w, low)), second = vreinterpretq_s8_u8(vshrq_n_u8(w, 4));
          for (int p = 0; p < pairs; ++p) PairSums::add(sums[p], v, first, second, a[p]);
        }
      }
      int32x4_t dot[R][4];
      for (int r = 0; r < R; ++r) PairSums::row(sums[r / 2], r % 2, dot[r]);
      Sums::add(totals, block, layout, o, g, groups, dot);
    }
    Sums::give(totals, block, out);
  }
};

struct W8Mmla {
  static constexpr int rows_max = 4;
  W8Dot one;

  explicit W8Mmla(const ops::LinearSpec& s) : one(s) {}
  size_t block_bytes() const { return one.block_bytes(); }
  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const {
    if (rows == 1) one.tile(block, o, 1, out);
    else if (rows == 2) rows_tile<2>(block, o, out);
    else if (rows == 3) rows_tile<3>(block, o, out);
    else rows_tile<4>(block, o, out);
  }

  template <int R>
  __attribute__((noinline)) void rows_tile(const uint8_t* block, const Operands& o, float* out) const {
    constexpr int pairs = (R + 1) / 2;
    const uint8_t* quants = block + one.layout.quants;
    PairSums sums[pairs];
    for (auto& s : sums) PairSums::clear(s);
    const int steps = (one.in + 3) / 4;  // of four inputs
    for (int step = 0; step < steps; step += 2, quants += 128) {
      __builtin_prefetch(quants + prefetch_bytes);
      int8x16_t a[pairs];
      for (int p = 0; p < pairs; ++p) {
        const int8_t* q = o.q + step * 4;
        a[p] = two_rows(q + 2 * p * o.q_stride, q + (2 * p + 1 < R ? 2 * p + 1 : 2 * p) * o.q_stride);
      }
      for (int v = 0; v < 4; ++v) {
        const int8x16_t first = load_bytes(quants + 16 * v);
        const int8x16_t second = step + 1 < steps ? load_bytes(quants + 64 + 16 * v) : vdupq_n_s8(0);
        for (int p = 0; p < pairs; ++p) PairSums::add(sums[p], v, first, second, a[p]);
      }
    }
    const auto* scale = reinterpret_cast<const float*>(block);
    for (int r = 0; r < R; ++r) {
      int32x4_t dot[4];
      PairSums::row(sums[r / 2], r % 2, dot);
      const float by = o.scale[r * o.group_stride];
      for (int v = 0; v < 4; ++v) {
        vst1q_f32(out + r * block_rows + 4 * v, vmulq_f32(vcvtq_f32_s32(dot[v]), vmulq_n_f32(vld1q_f32(scale + 4 * v), by)));
      }
    }
  }
};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
