// Quantised weights against exact activations (W4A32, W8A32): weights become floats in registers, rows in lanes.
#include "kernels/cpu/simd/isa.h"
#include "kernels/cpu/simd/linear.h"

namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {

constexpr int vectors = block_rows / lanes;  // of one block

// total[r][h] += W[k .. k + 4] * x for the four bytes (or nibbles) of each lane, starting at bit `shift`.
template <int R, int bits, int h>
HEARTH_INLINE void four_inputs(I w, const float* x, int64_t stride, F (&sum)[R][vectors]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    F v;
    if constexpr (bits == 4) v = to_f32((w >> (8 * i)) & 15);
    else v = to_f32((w << (24 - 8 * i)) >> 24);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) sum[r][h] = fused(v, x[r * stride + i], sum[r][h]);
  }
}

template <int R, int h>
HEARTH_INLINE void eight_inputs_w4(const uint8_t* quants, const float* x, int64_t stride, F (&sum)[R][vectors]) {
  const I w = load_i32(quants + h * 4 * lanes);
  four_inputs<R, 4, h>(w, x, stride, sum);
  four_inputs<R, 4, h>(w >> 4, x + 4, stride, sum);
  if constexpr (h + 1 < vectors) eight_inputs_w4<R, h + 1>(quants, x, stride, sum);
}

template <int R, int h>
HEARTH_INLINE void four_inputs_w8(const uint8_t* quants, const float* x, int64_t stride, F (&sum)[R][vectors]) {
  four_inputs<R, 8, h>(load_i32(quants + h * 4 * lanes), x, stride, sum);
  if constexpr (h + 1 < vectors) four_inputs_w8<R, h + 1>(quants, x, stride, sum);
}

struct W4Exact {
  static constexpr int rows_max = 4;
  int in, group;
  bool symmetric, whole;
  W4Layout layout;

  explicit W4Exact(const ops::LinearSpec& s)
      : in(s.in), group(s.group), symmetric(s.symmetric), whole(whole_scales(s)), layout(w4_layout(s.in, s.group, s.symmetric)) {}
  size_t block_bytes() const { return layout.bytes; }
  F group_scales(const uint8_t* at) const {
    return whole ? to_f32(load_i16(at)) : load(reinterpret_cast<const Half*>(at));
  }

  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const {
    if (rows == 4) rows_tile<4>(block, o, out);
    else if (rows == 3) rows_tile<3>(block, o, out);
    else if (rows == 2) rows_tile<2>(block, o, out);
    else rows_tile<1>(block, o, out);
  }

  template <int R>
  __attribute__((noinline)) void rows_tile(const uint8_t* block, const Operands& o, float* out) const {
    const uint8_t* quants = block + layout.quants;
    F total[R][vectors] = {};
    for (int g = 0; g < in / group; ++g) {
      F sum[R][vectors] = {};
      const float* x = o.x + g * group;
      for (int k = 0; k < group; k += 8, quants += 64) {
        __builtin_prefetch(quants + 1024);
        eight_inputs_w4<R, 0>(quants, x + k, o.x_stride, sum);
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const float inputs = sum_row(x + r * o.x_stride, group);
#pragma GCC unroll 8
        for (int h = 0; h < vectors; ++h) {
          const int at = g * block_rows + h * lanes;
          const F zero = symmetric ? splat(8.0f) : load_u8(block + layout.zeros + at);
          total[r][h] = fused(fused(-zero, inputs, sum[r][h]), group_scales(block + layout.scales + 2 * at), total[r][h]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int h = 0; h < vectors; ++h) {
        store(out + r * block_rows + h * lanes, total[r][h] * load(reinterpret_cast<const float*>(block) + h * lanes));
      }
    }
  }
};

struct W8Exact {
  static constexpr int rows_max = 4;
  int in;
  W8Layout layout;

  explicit W8Exact(const ops::LinearSpec& s) : in(s.in), layout(w8_layout(s.in)) {}
  size_t block_bytes() const { return layout.bytes; }

  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const {
    if (rows == 4) rows_tile<4>(block, o, out);
    else if (rows == 3) rows_tile<3>(block, o, out);
    else if (rows == 2) rows_tile<2>(block, o, out);
    else rows_tile<1>(block, o, out);
  }

  template <int R>
  __attribute__((noinline)) void rows_tile(const uint8_t* block, const Operands& o, float* out) const {
    const uint8_t* quants = block + layout.quants;
    F sum[R][vectors] = {};
    int i = 0;
    for (; i + 4 <= in; i += 4, quants += 64) {
      __builtin_prefetch(quants + 1024);
      four_inputs_w8<R, 0>(quants, o.x + i, o.x_stride, sum);
    }
    if (i < in) {  // the layout is padded with zeros, the row is not
      float x[R][4] = {};
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        for (int j = 0; i + j < in; ++j) x[r][j] = o.x[r * o.x_stride + i + j];
      }
      four_inputs_w8<R, 0>(quants, x[0], 4, sum);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int h = 0; h < vectors; ++h) {
        store(out + r * block_rows + h * lanes, sum[r][h] * load(reinterpret_cast<const float*>(block) + h * lanes));
      }
    }
  }
};

const char* w4_exact_declines(const ops::LinearSpec& s, const ops::DeviceInfo& info) {
  if (const char* missing = isa_missing(info)) return missing;
  return w4_declines(s, ops::ActivationFormat::exact);
}
void w4_exact_run(const ops::LinearSpec& s, const ops::LinearParams& p, ops::Stream& stream) { run_blocked<W4Exact>(s, p, stream); }

const char* w8_exact_declines(const ops::LinearSpec& s, const ops::DeviceInfo& info) {
  if (const char* missing = isa_missing(info)) return missing;
  return w8_declines(s, ops::ActivationFormat::exact);
}
void w8_exact_run(const ops::LinearSpec& s, const ops::LinearParams& p, ops::Stream& stream) { run_blocked<W8Exact>(s, p, stream); }

}  // namespace

extern const ops::LinearImplementation linear_w4_exact, linear_w8_exact;
const ops::LinearImplementation linear_w4_exact{
    {HEARTH_ISA_NAME, w4_exact_declines, w4_exact_run, linear_workspace}, w4_layout_name, w4_packed_bytes, w4_pack, block_rows};
const ops::LinearImplementation linear_w8_exact{
    {HEARTH_ISA_NAME, w8_exact_declines, w8_exact_run, linear_workspace}, "w8-x16", w8_packed_bytes, w8_pack, block_rows};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
