// Int8 linears for any processor: plain integer sums, and the roundings of the vector sets.
#include "kernels/cpu/simd/linear.h"

#define HEARTH_INT8_NAME "cpu/portable"
namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {

const char* w8_missing(const ops::LinearSpec&) { return nullptr; }
[[maybe_unused]] bool w8_many(const ops::LinearSpec&, const ops::LinearParams&, ops::Stream&) { return false; }

constexpr int vectors = block_rows / lanes;

// out = dot as floats * scales * scale, added to total.
HEARTH_INLINE F scaled(const int32_t* dot, int v, F by, F total) { return fused(to_f32(load_i32(dot + v * lanes)), by, total); }

template <int subgroups, bool symmetric>
struct W4Int8 {
  static constexpr int rows_max = 4, group = 32 * subgroups;
  static constexpr bool whole = symmetric && subgroups == 1;  // whole_scales
  int in;
  W4Layout layout;

  explicit W4Int8(const ops::LinearSpec& s) : in(s.in), layout(w4_layout(s.in, s.group, s.symmetric)) {}
  size_t block_bytes() const { return layout.bytes; }

  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const {
    for (int r = 0; r < rows; ++r) one_row(block, from_row(o, r), out + r * block_rows);
  }

  void one_row(const uint8_t* block, const Operands& o, float* out) const {
    F total[vectors] = {};
    I span[vectors] = {};
    for (int g = 0; g < in / group; ++g) {
      int32_t dot[block_rows];
      for (int row = 0; row < block_rows; ++row) {
        dot[row] = -(symmetric ? o.sum[g] : block[layout.zeros + g * block_rows + row] * o.sum[g]);
      }
      for (int k = g * group; k < (g + 1) * group; k += 8) {
        const uint8_t* w = block + layout.quants + k * 8;
        for (int row = 0; row < block_rows; ++row, w += 4) {
          for (int i = 0; i < 4; ++i) dot[row] += (w[i] & 15) * o.q[k + i] + (w[i] >> 4) * o.q[k + 4 + i];
        }
      }
      const uint8_t* scales = block + layout.scales + g * 2 * block_rows;
      for (int v = 0; v < vectors; ++v, scales += 2 * lanes) {
        if constexpr (whole) span[v] += load_i32(dot + v * lanes) * load_i16(scales);
        else total[v] = scaled(dot, v, load(reinterpret_cast<const Half*>(scales)) * o.scale[g], total[v]);
      }
      if (!whole || !ends_span(g, in / group)) continue;
      for (int v = 0; v < vectors; ++v) total[v] = fused(to_f32(span[v]), splat(o.scale[g / span_groups]), total[v]), span[v] = I{};
    }
    for (int v = 0; v < vectors; ++v) store(out + v * lanes, total[v] * load(reinterpret_cast<const float*>(block) + v * lanes));
  }
};

struct W8Int8 {
  static constexpr int rows_max = 4;
  int in;
  W8Layout layout;

  explicit W8Int8(const ops::LinearSpec& s) : in(s.in), layout(w8_layout(s.in)) {}
  size_t block_bytes() const { return layout.bytes; }

  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const {
    for (int r = 0; r < rows; ++r) one_row(block, from_row(o, r), out + r * block_rows);
  }

  void one_row(const uint8_t* block, const Operands& o, float* out) const {
    int32_t dot[block_rows] = {};
    const auto* w = reinterpret_cast<const int8_t*>(block + layout.quants);
    for (int k = 0; k < in; k += 4) {  // rows are padded with zeros
      for (int row = 0; row < block_rows; ++row, w += 4) {
        for (int i = 0; i < 4; ++i) dot[row] += w[i] * o.q[k + i];
      }
    }
    const auto* scales = reinterpret_cast<const float*>(block);
    for (int v = 0; v < vectors; ++v) {
      store(out + v * lanes, to_f32(load_i32(dot + v * lanes)) * (load(scales + v * lanes) * o.scale[0]));
    }
  }
};

}  // namespace
}  // namespace hearth::kernels::cpu::HEARTH_ISA
#include "kernels/cpu/simd/int8_linears.inl"
