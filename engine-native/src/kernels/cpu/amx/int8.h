// Int8 linears on AMX tiles, for many rows; up to eight (4-bit) or seven (8-bit) go to AVX-512 VNNI, which reads the same layout.
//
// C (16 rows x 16 outputs, int32) += A (16 rows x K int8) * B (K/4 x 16 outputs x 4). B is what the layouts hold. A tile
// product takes 16 cycles but gives its result after 52, so the next group's product is started before the sums of
// the last are scaled: the tiles work while the vector units do.
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

template <int subgroups, bool symmetric>
struct W4Amx {
  static constexpr int rows_max = 8, panel_rows_min = 2, few_rows_max = 8, streams = 4, group = 32 * subgroups;
  static constexpr bool whole = symmetric && subgroups == 1;  // whole_scales
  static constexpr int depth = subgroups == 1 ? 32 : 64;      // inputs of one tile product
  W4Vnni<subgroups, symmetric> few;
  mutable TileShapes shapes;

  explicit W4Amx(const ops::LinearSpec& s) : few(s) {}
  size_t block_bytes() const { return few.block_bytes(); }
  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const { few.tile(block, o, rows, out); }
  template <int n>
  void together(const uint8_t* const (&block)[n], size_t to_next, const Operands& o, float (*out)[block_rows]) const {
    few.template together<n>(block, to_next, o, out);
  }

  // Groups [begin, end) to signed bytes, q - zero: with the zero point gone, a group's sum needs no correction.
  HEARTH_INLINE void decode(const uint8_t* block, const W4Layout& layout, int begin, int end, int8_t* to) {
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i four_times = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0x00000000);
    const uint8_t* quants = block + layout.quants + static_cast<size_t>(begin) * group * 8;
    for (int g = begin; g < end; ++g) {
      const __m512i zeros = symmetric ? _mm512_set1_epi8(8) : _mm512_shuffle_epi8(group_zeros(block, layout, g), four_times);
#pragma GCC unroll 16
      for (int chunk = 0; chunk < 4 * subgroups; ++chunk, quants += 64, to += 128) {
        const __m512i w = _mm512_loadu_si512(quants);
        _mm512_store_si512(to, _mm512_sub_epi8(_mm512_and_si512(w, low), zeros));
        _mm512_store_si512(to + 64, _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(w, 4), low), zeros));
      }
    }
  }

  void panels(const uint8_t* block, int count, const PanelOperands& o, int rows, float* out, int64_t apart) const {
    if (rows <= few_rows_max) return few.in_registers(block, count, o, rows, out, apart);
    shapes.set(depth);
    for (int i = 0; i < count; ++i) many_rows(block + i * few.layout.bytes, o, rows, out + i * apart);
  }

  void many_rows(const uint8_t* block, const PanelOperands& o, int rows, float* out) const {
    alignas(64) int8_t weights[scratch_inputs * block_rows];
    for_each_stretch<group>(block, few.layout, few.layout.bytes, few.in / group, [&](const Stretch& stretch) {
      decode(block, few.layout, stretch.begin, stretch.end, weights);
      memory_is_written();
      for (int row = 0; row < rows; row += panel_tile_rows) {
        if (rows - row > 8) rows_of_tile<16>(block, weights, o, row, stretch, out + row * block_rows);
        else rows_of_tile<8>(block, weights, o, row, stretch, out + row * block_rows);
      }
    });
  }

  // The sums of one group of 16 rows, through tiles C, A and B, which differ from those of the group before.
  template <int parity>
  HEARTH_INLINE void product(const int8_t* weights, const int8_t* q_tile, int g, int32_t* sums) {
    const int8_t* q = q_tile + g * group / 64 * 1024 + g * group % 64;
    if constexpr (parity == 0) _tile_zero(0);
    else _tile_zero(1);
#pragma GCC unroll 2
    for (int k = 0; k < group; k += depth) {
      if constexpr (parity == 0) {
        _tile_loadd(6, weights + k * block_rows, 64);
        _tile_loadd(4, q + k / 64 * 1024, 64);
        _tile_dpbssd(0, 4, 6);
      } else {
        _tile_loadd(7, weights + k * block_rows, 64);
        _tile_loadd(5, q + k / 64 * 1024, 64);
        _tile_dpbssd(1, 5, 7);
      }
    }
    if constexpr (parity == 0) _tile_stored(0, sums, 64);
    else _tile_stored(1, sums, 64);
  }

  // What R rows add up: floats, or with whole scales the integers of the present span.
  template <int R>
  struct Sums { __m512 total[whole ? 1 : R]; __m512i span[whole ? R : 1]; };

  template <int R>
  HEARTH_INLINE void add(const uint8_t* block, const W4Layout& layout, int g, int end, const float* scale, const int32_t* sums, float* out, Sums<R>& s) {
    if constexpr (whole) {
      const __m512i scales = group_whole_scales(block, layout, g);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) s.span[r] = _mm512_dpwssd_epi32(s.span[r], _mm512_load_si512(sums + r * block_rows), scales);
      if (!ends_span(g, end)) return;
      scale += g / span_groups * panel_tile_rows;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const __m512 before = g < span_groups ? _mm512_setzero_ps() : _mm512_load_ps(out + r * block_rows);
        _mm512_store_ps(out + r * block_rows, add_span(s.span[r], scale[r], before));
        s.span[r] = _mm512_setzero_si512();
      }
    } else {
      const __m512 scales = group_scales(block, layout, g);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const __m512 by = _mm512_mul_ps(scales, _mm512_set1_ps(scale[g * panel_tile_rows + r]));
        s.total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + r * block_rows)), by, s.total[r]);
      }
    }
  }

  // R rows of the tile at `row` over the decoded stretch, added to out; set at a block's first, scaled at its last.
  template <int R>
  __attribute__((noinline)) void rows_of_tile(const uint8_t* block, const int8_t* weights, const PanelOperands& o, int row,
                                              const Stretch& stretch, float* out) const {
    alignas(64) int32_t sums[2][16 * block_rows];
    const int tile = row / panel_tile_rows;
    const int8_t* q_tile = o.q + tile * o.q_tile;
    const float* scale = o.scale + tile * o.group_tile;
    constexpr int group_weights = group * block_rows;
    Sums<R> s;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      if constexpr (whole) s.span[r] = _mm512_setzero_si512();
      else s.total[r] = stretch.begin == 0 ? _mm512_setzero_ps() : _mm512_load_ps(out + r * block_rows);
    }
    product<0>(weights, q_tile, stretch.begin, sums[0]);
    for (int g = stretch.begin; g < stretch.end; g += 2) {
      if (row == 0) prefetch_group<subgroups>(stretch, g);
      weights += group_weights;
      if (g + 1 < stretch.end) product<1>(weights, q_tile, g + 1, sums[1]);
      add<R>(block, few.layout, g, stretch.end, scale, sums[0], out, s);
      if (g + 1 == stretch.end) break;
      if (row == 0) prefetch_group<subgroups>(stretch, g + 1);
      weights += group_weights;
      if (g + 2 < stretch.end) product<0>(weights, q_tile, g + 2, sums[0]);
      add<R>(block, few.layout, g + 1, stretch.end, scale, sums[1], out, s);
    }
    const __m512 factor = _mm512_loadu_ps(block);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const __m512 total = whole ? _mm512_load_ps(out + r * block_rows) : s.total[whole ? 0 : r];
      if (!whole || stretch.last) _mm512_store_ps(out + r * block_rows, stretch.last ? _mm512_mul_ps(total, factor) : total);
    }
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

  void panels(const uint8_t* block, int count, const PanelOperands& o, int rows, float* out, int64_t apart) const {
    shapes.set(64);
    memory_is_written();
    for (int i = 0; i < count; ++i) many_rows(block + i * few.layout.bytes, o, rows, out + i * apart);
  }

  void many_rows(const uint8_t* block, const PanelOperands& o, int rows, float* out) const {
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
