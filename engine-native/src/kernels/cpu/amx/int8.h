// Int8 linears on AMX tiles, for many rows; up to eight (4-bit) or seven (8-bit) go to AVX-512 VNNI, which reads the same layout.
//
// C (16 rows x 16 outputs, int32) += A (16 rows x K int8) * B (K/4 x 16 outputs x 4). B is what the layouts hold. A tile
// product takes 16 cycles but gives its result after 52, so the next group's product is started before the sums of
// the last are scaled: the tiles work while the vector units do.
#pragma once

#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/avx512/int8.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

// What R rows of a block have added up before a stretch.
template <int R>
HEARTH_INLINE void load_totals(const Stretch& stretch, const float* out, __m512 (&total)[R]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) total[r] = stretch.begin == 0 ? _mm512_setzero_ps() : _mm512_load_ps(out + r * block_rows);
}

// And after it, times the outputs' factors at the block's last.
template <int R>
HEARTH_INLINE void store_totals(const uint8_t* block, const Stretch& stretch, const __m512 (&total)[R], float* out) {
  const __m512 factor = _mm512_loadu_ps(block);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) _mm512_store_ps(out + r * block_rows, stretch.last ? _mm512_mul_ps(total[r], factor) : total[r]);
}

// A kernel of tiles as the frame sees it: few rows go to AVX-512 VNNI, `Kernel::few_rows_max` of them, and more meet each block
// stretch by stretch, decoded for all of them: first the tiles of rows that the kernel can take in pairs of groups or spans
// (whole_pairs), then the others one by one. Kernel: group, few_rows_max, depth, pair_groups, decoded_bytes, decode, whole_pairs,
// rows_of_tile.
template <class Kernel, int subgroups, bool symmetric>
struct W4Tiles {
  static constexpr int rows_max = 8, panel_rows_min = 2, streams = 4, group = 32 * subgroups;
  W4Vnni<subgroups, symmetric> few;
  mutable TileShapes shapes;

  explicit W4Tiles(const ops::LinearSpec& s) : few(s) {}
  size_t block_bytes() const { return few.block_bytes(); }
  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const { few.tile(block, o, rows, out); }
  template <int n>
  void together(const uint8_t* const (&block)[n], size_t to_next, const Operands& o, float (*out)[block_rows]) const {
    few.template together<n>(block, to_next, o, out);
  }

  void panels(const uint8_t* block, int count, const PanelOperands& o, int rows, float* out, int64_t apart) const {
    if (rows <= Kernel::few_rows_max) return few.in_registers(block, count, o, rows, out, apart);
    shapes.set(Kernel::depth);
    for (int i = 0; i < count; ++i) many_rows(block + i * few.layout.bytes, o, rows, out + i * apart);
  }

  void many_rows(const uint8_t* block, const PanelOperands& o, int rows, float* out) const {
    const Kernel& kernel = static_cast<const Kernel&>(*this);
    alignas(64) int8_t decoded[Kernel::decoded_bytes];
    for_each_stretch<group>(block, few.layout, few.layout.bytes, few.in / group, [&](const Stretch& stretch) {
      Kernel::decode(block, few.layout, stretch, decoded);
      memory_is_written();
      const bool pairs = (stretch.end - stretch.begin) % Kernel::pair_groups == 0;
      const int whole_tiles = pairs ? (rows + 7) / panel_tile_rows : 0;
      if (whole_tiles > 0) kernel.whole_pairs(block, decoded, o, whole_tiles, stretch, out);
      for (int row = whole_tiles * panel_tile_rows; row < rows; row += panel_tile_rows) {
        if (rows - row > 8) kernel.template rows_of_tile<16>(block, decoded, o, row, stretch, out + row * block_rows);
        else kernel.template rows_of_tile<8>(block, decoded, o, row, stretch, out + row * block_rows);
      }
    });
  }
};

template <int subgroups, bool symmetric>
struct W4Amx : W4Tiles<W4Amx<subgroups, symmetric>, subgroups, symmetric> {
  using Tiles = W4Tiles<W4Amx, subgroups, symmetric>;
  using Tiles::few;
  using Tiles::Tiles;
  static constexpr int few_rows_max = 8, group = Tiles::group, pair_groups = 2;
  static constexpr int depth = subgroups == 1 ? 32 : 64;  // inputs of one tile product
  static constexpr int decoded_bytes = scratch_inputs * block_rows;

  // A stretch to signed bytes, q - zero: with the zero point gone, a group's sum needs no correction.
  HEARTH_INLINE void decode(const uint8_t* block, const W4Layout& layout, const Stretch& stretch, int8_t* to) {
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i four_times = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0x00000000);
    const uint8_t* quants = block + layout.quants + static_cast<size_t>(stretch.begin) * group * 8;
    for (int g = stretch.begin; g < stretch.end; ++g) {
      const __m512i zeros = symmetric ? _mm512_set1_epi8(8) : _mm512_shuffle_epi8(group_zeros(block, layout, g), four_times);
#pragma GCC unroll 16
      for (int chunk = 0; chunk < 4 * subgroups; ++chunk, quants += 64, to += 128) {
        const __m512i w = _mm512_loadu_si512(quants);
        _mm512_store_si512(to, _mm512_sub_epi8(_mm512_and_si512(w, low), zeros));
        _mm512_store_si512(to + 64, _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(w, 4), low), zeros));
      }
    }
  }

  // The sums of one group of 16 rows, through tiles C, A and B, which differ from those of the group before.
  template <int parity>
  HEARTH_INLINE void multiply(const int8_t* weights, const int8_t* q_tile, int g) {
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
  }

  template <int parity, int R>
  HEARTH_INLINE void add(const uint8_t* block, const W4Layout& layout, int g, const float* scale, int32_t* sums, __m512 (&total)[R]) {
    if constexpr (parity == 0) _tile_stored(0, sums, 64);
    else _tile_stored(1, sums, 64);
    const __m512 scales = group_scales(block, layout, g);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const __m512 by = _mm512_mul_ps(scales, _mm512_set1_ps(scale[g * panel_tile_rows + r]));
      total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + r * block_rows)), by, total[r]);
    }
  }

  // The first tiles of rows over a stretch of whole pairs of groups, as rows_of_tile; the next rows' first products are started before
  // the last group's sums leave the tiles.
  __attribute__((noinline)) void whole_pairs(const uint8_t* block, const int8_t* weights, const PanelOperands& o, int tiles, const Stretch& stretch, float* out) const {
    alignas(64) int32_t sums[2][16 * block_rows];
    const int8_t* q_tile = o.q;
    const float* scale = o.scale;
    constexpr int group_weights = group * block_rows;
    multiply<0>(weights, q_tile, stretch.begin);
    for (int tile = 0; tile < tiles; ++tile, q_tile += o.q_tile, scale += o.group_tile, out += panel_tile_rows * block_rows) {
      __m512 total[16];
      load_totals(stretch, out, total);
      for (int g = stretch.begin; g < stretch.end; g += 2) {
        const int8_t* pair = weights + (g - stretch.begin) * group_weights;
        if (tile == 0) prefetch_group<subgroups>(stretch, g);
        multiply<1>(pair + group_weights, q_tile, g + 1);
        add<0>(block, few.layout, g, scale, sums[0], total);
        if (tile == 0) prefetch_group<subgroups>(stretch, g + 1);
        if (g + 2 < stretch.end) multiply<0>(pair + 2 * group_weights, q_tile, g + 2);
        else if (tile + 1 < tiles) multiply<0>(weights, q_tile + o.q_tile, stretch.begin);
        add<1>(block, few.layout, g + 1, scale, sums[1], total);
      }
      store_totals(block, stretch, total, out);
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
    __m512 total[R];
    load_totals(stretch, out, total);
    multiply<0>(weights, q_tile, stretch.begin);
    for (int g = stretch.begin; g < stretch.end; g += 2) {
      if (row == 0) prefetch_group<subgroups>(stretch, g);
      weights += group_weights;
      if (g + 1 < stretch.end) multiply<1>(weights, q_tile, g + 1);
      add<0>(block, few.layout, g, scale, sums[0], total);
      if (g + 1 == stretch.end) break;
      if (row == 0) prefetch_group<subgroups>(stretch, g + 1);
      weights += group_weights;
      if (g + 2 < stretch.end) multiply<0>(weights, q_tile, g + 2);
      add<1>(block, few.layout, g + 1, scale, sums[1], total);
    }
    store_totals(block, stretch, total, out);
  }
};

// Symmetric groups of 32, with whole scales: q - 8 times its scale fits 16 bits, so a weight becomes two bytes, of which the tiles
// add up the low ones and the high ones of a whole span. A span's sums leave the tiles twice where a group's left them four times,
// and are scaled once; the integers are those of the other sets.
struct W4AmxWhole : W4Tiles<W4AmxWhole, 1, true> {
  using W4Tiles::W4Tiles;
  static constexpr int few_rows_max = 12, depth = 64, pair_groups = 2 * span_groups, span = span_groups * 32;
  static constexpr int decoded_bytes = 2 * scratch_inputs * block_rows;  // two planes
  static constexpr int plane_bytes = 64 * block_rows;  // a tile: 64 inputs of 16 outputs

  // Words of the even and of the odd bytes' weights, in [-2^15, 2^15), to bytes of both planes.
  HEARTH_INLINE void store_planes(__m512i evens, __m512i odds, int8_t* low, int8_t* high) {
    const __m512i even = _mm512_set1_epi16(0x00ff);
    // Even bytes of one and odd bytes of the other; what was shifted is first, since the instruction overwrites that.
    constexpr int second_even = 0xd8, first_even = 0xe4;
    _mm512_store_si512(low, _mm512_ternarylogic_epi64(_mm512_slli_epi16(odds, 8), evens, even, second_even));
    _mm512_store_si512(high, _mm512_ternarylogic_epi64(_mm512_srli_epi16(evens, 8), odds, even, first_even));
  }

  // A stretch to [inputs / 64][low, high][a tile]; zeros where the last tile's inputs end. The next stretch is read ahead from here:
  // asked for between the tiles of the first rows it came too late (128 rows: 380 GMAC/s instead of 430).
  HEARTH_INLINE void decode(const uint8_t* block, const W4Layout& layout, const Stretch& stretch, int8_t* planes) {
    const __m512i nibble = _mm512_set1_epi16(15);
    const int begin = stretch.begin, end = stretch.end;
    const uint8_t* quants = block + layout.quants + static_cast<size_t>(begin) * 32 * 8;
    for (int g = begin; g < end; ++g) {
      prefetch_group<1>(stretch, g);
      const __m512i whole = group_whole_scales(block, layout, g), scales = _mm512_or_si512(whole, _mm512_slli_epi32(whole, 16));
      const __m512i zeros = _mm512_slli_epi16(scales, 3);
      int8_t* low = planes + (g - begin) / 2 * 2 * plane_bytes + (g - begin) % 2 * plane_bytes / 2;
#pragma GCC unroll 4
      for (int chunk = 0; chunk < 4; ++chunk, quants += 64, low += 128) {
        const __m512i q = _mm512_loadu_si512(quants);
        const auto weights = [&](__m512i nibbles) { return _mm512_sub_epi16(_mm512_mullo_epi16(nibbles, scales), zeros); };
        store_planes(weights(_mm512_and_si512(q, nibble)), weights(_mm512_and_si512(_mm512_srli_epi16(q, 8), nibble)), low, low + plane_bytes);
        store_planes(weights(_mm512_and_si512(_mm512_srli_epi16(q, 4), nibble)), weights(_mm512_srli_epi16(q, 12)), low + 64, low + 64 + plane_bytes);
      }
    }
    if ((end - begin) % 2 == 0) return;
    int8_t* rest = planes + (end - begin) / 2 * 2 * plane_bytes + plane_bytes / 2;
    std::memset(rest, 0, plane_bytes / 2);
    std::memset(rest + plane_bytes, 0, plane_bytes / 2);
  }

  // The sums of a span of 16 rows, `tiles` of 64 inputs (1 or 2), of the low and of the high bytes, in tiles that the span before does
  // not use: its sums leave theirs while these are multiplied (stored before, they held up the next tiles by 8 % of all).
  template <int parity>
  HEARTH_INLINE void multiply(const int8_t* planes, const int8_t* q, int tiles) {
    if constexpr (parity == 0) {
      _tile_zero(0);
      _tile_zero(1);
    } else {
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int k = 0; k < tiles; ++k, q += 1024, planes += 2 * plane_bytes) {
      if constexpr (parity == 0) {
        _tile_loadd(4, q, 64);
        _tile_loadd(6, planes, 64);
        _tile_dpbsud(0, 4, 6);
        _tile_loadd(7, planes + plane_bytes, 64);
        _tile_dpbssd(1, 4, 7);
      } else {
        _tile_loadd(5, q, 64);
        _tile_loadd(6, planes, 64);
        _tile_dpbsud(2, 5, 6);
        _tile_loadd(7, planes + plane_bytes, 64);
        _tile_dpbssd(3, 5, 7);
      }
    }
  }

  // To `sums` and from there to the totals.
  template <int parity, int R>
  HEARTH_INLINE void add(int32_t* sums, const float* scale, __m512 (&total)[R]) {
    if constexpr (parity == 0) {
      _tile_stored(0, sums, 64);
      _tile_stored(1, sums + 16 * block_rows, 64);
    } else {
      _tile_stored(2, sums, 64);
      _tile_stored(3, sums + 16 * block_rows, 64);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const __m512i high = _mm512_slli_epi32(_mm512_load_si512(sums + (16 + r) * block_rows), 8);
      total[r] = add_span(_mm512_add_epi32(high, _mm512_load_si512(sums + r * block_rows)), scale[r], total[r]);
    }
  }

  // The first tiles of rows over a stretch of whole pairs of spans, as rows_of_tile; the next rows' first products are started before
  // the last span's sums leave the tiles, else each tile of rows would begin with a wait (8 %).
  __attribute__((noinline)) void whole_pairs(const uint8_t* block, const int8_t* planes, const PanelOperands& o, int tiles, const Stretch& stretch, float* out) const {
    alignas(64) int32_t sums[2][2 * 16 * block_rows];
    constexpr int span_planes = span / 64 * 2 * plane_bytes, span_q = span / 64 * 1024;
    const int8_t* q = o.q + stretch.begin / 2 * 1024;
    const float* scale = o.scale + stretch.begin / span_groups * panel_tile_rows;
    const int pairs = (stretch.end - stretch.begin) / (2 * span_groups);
    multiply<0>(planes, q, 2);
    for (int tile = 0; tile < tiles; ++tile, q += o.q_tile, scale += o.group_tile, out += panel_tile_rows * block_rows) {
      __m512 total[16];
      load_totals(stretch, out, total);
      for (int pair = 0; pair < pairs; ++pair) {
        const int8_t* pair_planes = planes + pair * 2 * span_planes;
        const int8_t* pair_q = q + pair * 2 * span_q;
        const float* pair_scale = scale + pair * 2 * panel_tile_rows;
        multiply<1>(pair_planes + span_planes, pair_q + span_q, 2);
        add<0>(sums[0], pair_scale, total);
        if (pair + 1 < pairs) multiply<0>(pair_planes + 2 * span_planes, pair_q + 2 * span_q, 2);
        else if (tile + 1 < tiles) multiply<0>(planes, q + o.q_tile, 2);
        add<1>(sums[1], pair_scale + panel_tile_rows, total);
      }
      store_totals(block, stretch, total, out);
    }
  }

  // R rows of the tile at `row` over the decoded stretch, added to out; set at a block's first, scaled at its last.
  template <int R>
  __attribute__((noinline)) void rows_of_tile(const uint8_t* block, const int8_t* planes, const PanelOperands& o, int row, const Stretch& stretch, float* out) const {
    alignas(64) int32_t sums[2][2 * 16 * block_rows];
    const int tile = row / panel_tile_rows;
    const int8_t* q = o.q + tile * o.q_tile + stretch.begin / 2 * 1024;
    const float* scale = o.scale + tile * o.group_tile + stretch.begin / span_groups * panel_tile_rows;
    const auto tiles_from = [&](int g) { return g + 2 < stretch.end ? 2 : 1; };
    const auto next = [&] { planes += span / 64 * 2 * plane_bytes, q += span / 64 * 1024; };
    __m512 total[R];
    load_totals(stretch, out, total);
    multiply<0>(planes, q, tiles_from(stretch.begin));
    for (int g = stretch.begin; g < stretch.end; g += 2 * span_groups, scale += 2 * panel_tile_rows) {
      next();
      if (g + span_groups < stretch.end) multiply<1>(planes, q, tiles_from(g + span_groups));
      add<0>(sums[0], scale, total);
      if (g + span_groups >= stretch.end) break;
      next();
      if (g + 2 * span_groups < stretch.end) multiply<0>(planes, q, tiles_from(g + 2 * span_groups));
      add<1>(sums[1], scale + panel_tile_rows, total);
    }
    store_totals(block, stretch, total, out);
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
