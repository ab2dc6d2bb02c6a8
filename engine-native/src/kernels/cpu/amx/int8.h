// Int8 linears on AMX tiles, for many rows; up to eight (4-bit) or seven (8-bit) go to AVX-512 VNNI, which reads the same layout.
//
// C (16 rows x 16 outputs, int32) += A (16 rows x K int8) * B (K/4 x 16 outputs x 4). B is what the layouts hold. A tile
// product takes 16 cycles but gives its result after 52.
#pragma once

#include "kernels/cpu/avx512/int8.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

// GCC's tile intrinsics are assembly that does not say it reads memory: what they read must be written before.
HEARTH_INLINE void memory_is_written() { asm volatile("" ::: "memory"); }

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// The tile shapes of a worker while a linear runs; released at the end, so that the system need not save 8 KiB at every
// switch. Tiles 0-3: sums. 4, 5: 16 rows of `depth` activations. 6, 7: weights of `depth` inputs.
class TileShapes {
 public:
  ~TileShapes() { if (set_) _tile_release(); }
  void set(int depth) {
    if (set_) return;
    set_ = true;
    TileConfig config;
    for (int tile = 0; tile < 8; ++tile) {
      config.rows[tile] = static_cast<uint8_t>(tile < 6 ? 16 : depth / 4);
      config.row_bytes[tile] = static_cast<uint16_t>(tile == 4 || tile == 5 ? depth : 64);
    }
    memory_is_written();
    _tile_loadconfig(&config);
  }

 private:
  bool set_ = false;
};

// Two tiles of rows share each tile of weights. What is added up before it becomes floats is a step of the walk over a stretch: a
// group, or a span of four with whole scales. While a step's products run, the sums of the step before are scaled and added to
// `out`, some rows after each product: as soon as tile instructions are near, one 512-bit operation starts a cycle.
template <int subgroups, bool symmetric>
struct W4Amx {
  static constexpr int rows_max = 8, panel_rows_min = 2, streams = 4, group = 32 * subgroups;
  static constexpr bool whole = symmetric && subgroups == 1;  // whole_scales
  static constexpr int depth = subgroups == 1 ? 32 : 64;      // inputs of one tile product
  static constexpr int step_groups = whole ? span_groups : 1, products = step_groups * group / depth, rows_apiece = 32 / products;
  static constexpr int step_inputs = step_groups * group, step_sums = step_groups * 2 * panel_tile_rows * block_rows;
  W4Vnni<subgroups, symmetric> few;
  mutable TileShapes shapes;

  explicit W4Amx(const ops::LinearSpec& s) : few(s) {}
  size_t block_bytes() const { return few.block_bytes(); }
  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const { few.tile(block, o, rows, out); }
  template <int n>
  void together(const uint8_t* const (&block)[n], size_t to_next, const Operands& o, float (*out)[block_rows]) const {
    few.template together<n>(block, to_next, o, out);
  }

  // A stretch ready for tiles: q - zero in bytes, so that a group's sum needs no correction, and each group's scales, as integers or
  // floats. Groups that a last span lacks have weight 0.
  struct Decoded {
    alignas(64) int8_t weights[scratch_inputs * block_rows];
    alignas(64) int32_t scales[scratch_inputs / group][block_rows];
  };

  HEARTH_INLINE void decode(const uint8_t* block, const W4Layout& layout, const Stretch& stretch, Decoded& d) {
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i four_times = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0x00000000);
    const uint8_t* quants = block + layout.quants + static_cast<size_t>(stretch.begin) * group * 8;
    int8_t* to = d.weights;
    for (int g = stretch.begin; g < stretch.end; ++g) {
      const __m512i zeros = symmetric ? _mm512_set1_epi8(8) : _mm512_shuffle_epi8(group_zeros(block, layout, g), four_times);
      const __m512i scales = whole ? group_whole_scales(block, layout, g) : _mm512_castps_si512(group_scales(block, layout, g));
      _mm512_store_si512(d.scales[g - stretch.begin], scales);
#pragma GCC unroll 16
      for (int chunk = 0; chunk < 4 * subgroups; ++chunk, quants += 64, to += 128) {
        const __m512i w = _mm512_loadu_si512(quants);
        _mm512_store_si512(to, _mm512_sub_epi8(_mm512_and_si512(w, low), zeros));
        _mm512_store_si512(to + 64, _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(w, 4), low), zeros));
      }
    }
    for (int g = stretch.end - stretch.begin; g % step_groups != 0; ++g, to += group * block_rows) {
      std::memset(to, 0, group * block_rows);
      _mm512_store_si512(d.scales[g], _mm512_setzero_si512());
    }
  }

  // Sums of a step that wait to be scaled: [tiles][groups][16][16].
  struct Waiting {
    const int32_t* sums;
    const int32_t (*scales)[block_rows];
    const float* scale;  // of the activations, [tiles, group_tile apart][16]
    int64_t group_tile;
    float* out;
    int rows;  // 0, 16 or 32
  };

  // Rows [from, from + rows_apiece) of a step.
  HEARTH_INLINE void add(const Waiting& w, int from) {
    if (from >= w.rows) return;
    const int tile = from / panel_tile_rows, lane = from % panel_tile_rows;
    __m512i multipliers[step_groups];
#pragma GCC unroll 4
    for (int g = 0; g < step_groups; ++g) multipliers[g] = _mm512_load_si512(w.scales[g]);
#pragma GCC unroll 32
    for (int r = 0; r < rows_apiece; ++r) {
      const int row = (lane + r) % panel_tile_rows, of = tile + (lane + r) / panel_tile_rows;
      if (of * panel_tile_rows >= w.rows) return;
      const int32_t* sums = w.sums + (of * step_groups * panel_tile_rows + row) * block_rows;
      float* out = w.out + (from + r) * block_rows;
      const __m512 scale = _mm512_set1_ps(w.scale[of * w.group_tile + row]);
      if constexpr (whole) {
        __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int g = 0; g < step_groups; ++g) sum = _mm512_dpwssd_epi32(sum, _mm512_load_si512(sums + g * panel_tile_rows * block_rows), multipliers[g]);
        _mm512_store_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, _mm512_load_ps(out)));
      } else {
        const __m512 by = _mm512_mul_ps(_mm512_castsi512_ps(multipliers[0]), scale);
        _mm512_store_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)), by, _mm512_load_ps(out)));
      }
    }
  }

  // Product `number` of a step of one or two tiles of rows. Tiles C change from group to group, or from step to step.
  template <int tiles, int number, int parity>
  HEARTH_INLINE void product(const int8_t* weights, const int8_t* q, int64_t q_tile, int32_t* sums) {
    constexpr bool starts = whole || number == 0, ends = whole || number == products - 1;
    constexpr bool odd = (whole || products > 1 ? number : parity) % 2 != 0, odd_sums = (whole ? number : parity) % 2 != 0;
    constexpr int tile_sums = step_groups * panel_tile_rows * block_rows;
    weights += number * depth * block_rows;
    q += number * depth / 64 * 1024 + number * depth % 64;
    if constexpr (odd) _tile_loadd(7, weights, 64);
    else _tile_loadd(6, weights, 64);
    _tile_loadd(4, q, 64);
    if constexpr (tiles > 1) _tile_loadd(5, q + q_tile, 64);
    if constexpr (starts && odd_sums) _tile_zero(2);
    if constexpr (starts && !odd_sums) _tile_zero(0);
    if constexpr (starts && odd_sums && tiles > 1) _tile_zero(3);
    if constexpr (starts && !odd_sums && tiles > 1) _tile_zero(1);
    multiply<tiles, odd, odd_sums>();
    if constexpr (!ends) return;
    if constexpr (whole) sums += number * panel_tile_rows * block_rows;
    if constexpr (odd_sums) _tile_stored(2, sums, 64);
    else _tile_stored(0, sums, 64);
    if constexpr (odd_sums && tiles > 1) _tile_stored(3, sums + tile_sums, 64);
    if constexpr (!odd_sums && tiles > 1) _tile_stored(1, sums + tile_sums, 64);
  }

  template <int tiles, bool odd, bool odd_sums>
  HEARTH_INLINE void multiply() {
    if constexpr (odd && odd_sums) _tile_dpbssd(2, 4, 7);
    if constexpr (odd && !odd_sums) _tile_dpbssd(0, 4, 7);
    if constexpr (!odd && odd_sums) _tile_dpbssd(2, 4, 6);
    if constexpr (!odd && !odd_sums) _tile_dpbssd(0, 4, 6);
    if constexpr (tiles == 1) return;
    if constexpr (odd && odd_sums) _tile_dpbssd(3, 5, 7);
    if constexpr (odd && !odd_sums) _tile_dpbssd(1, 5, 7);
    if constexpr (!odd && odd_sums) _tile_dpbssd(3, 5, 6);
    if constexpr (!odd && !odd_sums) _tile_dpbssd(1, 5, 6);
  }

  template <int tiles, int parity, int number = 0>
  HEARTH_INLINE void step(const int8_t* weights, const int8_t* q, int64_t q_tile, int32_t* sums, const Waiting& before) {
    product<tiles, number, parity>(weights, q, q_tile, sums);
    add(before, number * rows_apiece);
    if constexpr (number + 1 < products) step<tiles, parity, number + 1>(weights, q, q_tile, sums, before);
  }

  void panel(const uint8_t* block, const PanelOperands& o, int rows, float* out) const {
    if (rows <= few.few_rows_max) return few.panel(block, o, rows, out);
    shapes.set(depth);
    for (int r = 0; r < (rows + panel_tile_rows - 1) / panel_tile_rows * panel_tile_rows; ++r) _mm512_store_ps(out + r * block_rows, _mm512_setzero_ps());
    Decoded decoded;
    for_each_stretch<group>(block, few.layout, few.in / group, [&](const Stretch& stretch) {
      decode(block, few.layout, stretch, decoded);
      memory_is_written();
      over_stretch(decoded, o, rows, stretch, out);
    });
    const __m512 factor = _mm512_loadu_ps(block);
    for (int r = 0; r < rows; ++r) _mm512_store_ps(out + r * block_rows, _mm512_mul_ps(_mm512_load_ps(out + r * block_rows), factor));
  }

  // All rows over a decoded stretch, added to out.
  __attribute__((noinline)) void over_stretch(const Decoded& d, const PanelOperands& o, int rows, const Stretch& stretch, float* out) const {
    alignas(64) int32_t sums[2][step_sums];
    Waiting before{};
    int parity = 0;
    for (int row = 0; row < rows; row += 2 * panel_tile_rows) {
      const int tile = row / panel_tile_rows;
      const bool two = rows - row > panel_tile_rows;
      for (int g = stretch.begin; g < stretch.end; g += step_groups, parity ^= 1) {
        for (int i = 0; row == 0 && i < step_groups && g + i < stretch.end; ++i) prefetch_group<subgroups>(stretch, g + i);
        const int at = g - stretch.begin;
        const int8_t *weights = d.weights + at * group * block_rows, *q = o.q + tile * o.q_tile + g * group / 64 * 1024 + g * group % 64;
        if (two && parity) step<2, 1>(weights, q, o.q_tile, sums[1], before);
        else if (two) step<2, 0>(weights, q, o.q_tile, sums[0], before);
        else if (parity) step<1, 1>(weights, q, o.q_tile, sums[1], before);
        else step<1, 0>(weights, q, o.q_tile, sums[0], before);
        before = {sums[parity], d.scales + at, o.scale + tile * o.group_tile + g / step_groups * panel_tile_rows, o.group_tile, out + row * block_rows,
                  two ? 2 * panel_tile_rows : panel_tile_rows};
      }
    }
    for (int from = 0; from < before.rows; from += rows_apiece) add(before, from);
  }
};

// 8-bit weights need no decoding and one scaling at the end: up to 64 rows, four sums, share each tile of weights.
struct W8Amx {
  static constexpr int rows_max = 8, panel_rows_min = 8, rows_at_once = 64;
  W8Vnni few;
  mutable TileShapes shapes;

  explicit W8Amx(const ops::LinearSpec& s) : few(s) {}
  size_t block_bytes() const { return few.block_bytes(); }
  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const { few.tile(block, o, rows, out); }

  void panel(const uint8_t* block, const PanelOperands& o, int rows, float* out) const {
    shapes.set(64);
    memory_is_written();
    for (int row = 0; row < rows; row += rows_at_once) {
      const int tiles = rows - row < rows_at_once ? (rows - row + panel_tile_rows - 1) / panel_tile_rows : 4;
      float* to = out + row * block_rows;
      if (tiles == 4) rows_of_tiles<4>(block, o, row, to);
      else if (tiles == 3) rows_of_tiles<3>(block, o, row, to);
      else if (tiles == 2) rows_of_tiles<2>(block, o, row, to);
      else rows_of_tiles<1>(block, o, row, to);
    }
  }

  template <int tiles>
  __attribute__((noinline)) void rows_of_tiles(const uint8_t* block, const PanelOperands& o, int row, float* out) const {
    alignas(64) int32_t sums[tiles * 16 * block_rows];
    const uint8_t* quants = block + few.layout.quants;
    const int8_t* q = o.q + row / panel_tile_rows * o.q_tile;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < few.in; k += 64, quants += 1024, q += 1024) {
      if (row == 0) for (int line = 0; line < 16; ++line) prefetch(quants + prefetch_bytes + line * 64);
      _tile_loadd(6, quants, 64);
      _tile_loadd(4, q, 64);
      _tile_dpbssd(0, 4, 6);
      if constexpr (tiles > 1) {
        _tile_loadd(5, q + o.q_tile, 64);
        _tile_dpbssd(1, 5, 6);
      }
      if constexpr (tiles > 2) {
        _tile_loadd(4, q + 2 * o.q_tile, 64);
        _tile_dpbssd(2, 4, 6);
      }
      if constexpr (tiles > 3) {
        _tile_loadd(5, q + 3 * o.q_tile, 64);
        _tile_dpbssd(3, 5, 6);
      }
    }
    _tile_stored(0, sums, 64);
    if constexpr (tiles > 1) _tile_stored(1, sums + 256, 64);
    if constexpr (tiles > 2) _tile_stored(2, sums + 512, 64);
    if constexpr (tiles > 3) _tile_stored(3, sums + 768, 64);
    const __m512 scales = _mm512_loadu_ps(block);
    for (int r = 0; r < tiles * 16; ++r) {
      const float scale = o.scale[(row + r) / panel_tile_rows * o.group_tile + r % panel_tile_rows];
      const __m512 by = _mm512_mul_ps(scales, _mm512_set1_ps(scale));
      _mm512_storeu_ps(out + r * block_rows, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + r * block_rows)), by));
    }
  }
};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
