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

// Two blocks share each tile of rows, which comes from the L2 cache. What is added up before it becomes floats is a step of the walk over a stretch: a
// group, or a span of four with whole scales. While a step's products run, the sums of the step before are scaled and added to
// `out`, some rows after each product: as soon as tile instructions are near, one 512-bit operation starts a cycle.
template <int subgroups, bool symmetric>
struct W4Amx {
  static constexpr int rows_max = 8, panel_rows_min = 2, streams = 4, group = 32 * subgroups;
  static constexpr bool whole = symmetric && subgroups == 1;  // whole_scales
  static constexpr int depth = subgroups == 1 ? 32 : 64;      // inputs of one tile product
  static constexpr int step_groups = whole ? span_groups : 1, products = step_groups * group / depth, rows_apiece = 32 / products;
  static constexpr int step_inputs = step_groups * group, step_sums = 2 * step_groups * panel_tile_rows * block_rows;
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

  // Sums of a step that wait to be scaled: [blocks][groups][16][16]; their scales are at `number` in each block's.
  struct Waiting {
    const int32_t* sums;
    const Decoded* blocks;
    int number, count;   // count: blocks, 0 before the first step
    const float* scale;  // of the activations [16]
    float* out;          // [blocks, apart][16][16]
    int64_t apart;
  };

  // Rows [from, from + rows_apiece) of the blocks' sums, one block after the other.
  HEARTH_INLINE void add(const Waiting& w, int from) {
#pragma GCC unroll 2
    for (int at = from; at < from + rows_apiece; at += panel_tile_rows) {
      if (at / panel_tile_rows < w.count) add_block(w, at / panel_tile_rows, at % panel_tile_rows);
    }
  }

  HEARTH_INLINE void add_block(const Waiting& w, int block, int from) {
    constexpr int rows = rows_apiece < panel_tile_rows ? rows_apiece : panel_tile_rows;
    const int32_t* sums = w.sums + (block * step_groups * panel_tile_rows + from) * block_rows;
    float* out = w.out + block * w.apart + from * block_rows;
    __m512i scales[step_groups];
#pragma GCC unroll 4
    for (int g = 0; g < step_groups; ++g) scales[g] = _mm512_load_si512(w.blocks[block].scales[w.number + g]);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r, sums += block_rows, out += block_rows) {
      const __m512 scale = _mm512_set1_ps(w.scale[from + r]);
      if constexpr (whole) {
        __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int g = 0; g < step_groups; ++g) sum = _mm512_dpwssd_epi32(sum, _mm512_load_si512(sums + g * panel_tile_rows * block_rows), scales[g]);
        _mm512_store_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, _mm512_load_ps(out)));
      } else {
        const __m512 by = _mm512_mul_ps(_mm512_castsi512_ps(scales[0]), scale);
        _mm512_store_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)), by, _mm512_load_ps(out)));
      }
    }
  }

  // Product `number` of a step, of one or two blocks. Tiles of sums change from group to group, or from step to step.
  template <int blocks, int number, int parity>
  HEARTH_INLINE void product(const Decoded* d, int at, const int8_t* q) {
    constexpr bool starts = whole || number == 0, odd = (whole || products > 1 ? number : parity) % 2 != 0, odd_sums = (whole ? number : parity) % 2 != 0;
    at = (at * group + number * depth) * block_rows;
    q += number * depth / 64 * 1024 + number * depth % 64;
    if constexpr (odd) _tile_loadd(5, q, 64);
    else _tile_loadd(4, q, 64);
    if constexpr (starts && odd_sums) _tile_zero(2);
    if constexpr (starts && !odd_sums) _tile_zero(0);
    _tile_loadd(6, d[0].weights + at, 64);
    if constexpr (odd && odd_sums) _tile_dpbssd(2, 5, 6);
    if constexpr (odd && !odd_sums) _tile_dpbssd(0, 5, 6);
    if constexpr (!odd && odd_sums) _tile_dpbssd(2, 4, 6);
    if constexpr (!odd && !odd_sums) _tile_dpbssd(0, 4, 6);
    if constexpr (blocks == 1) return;
    if constexpr (starts && odd_sums) _tile_zero(3);
    if constexpr (starts && !odd_sums) _tile_zero(1);
    _tile_loadd(7, d[1].weights + at, 64);
    if constexpr (odd && odd_sums) _tile_dpbssd(3, 5, 7);
    if constexpr (odd && !odd_sums) _tile_dpbssd(1, 5, 7);
    if constexpr (!odd && odd_sums) _tile_dpbssd(3, 4, 7);
    if constexpr (!odd && !odd_sums) _tile_dpbssd(1, 4, 7);
  }

  // The sums of a product, after the rows between, by when they are ready.
  template <int blocks, int number, int parity>
  HEARTH_INLINE void give(int32_t* sums) {
    if constexpr (!whole && number + 1 < products) return;
    constexpr bool odd_sums = (whole ? number : parity) % 2 != 0;
    constexpr int block_sums = step_groups * panel_tile_rows * block_rows;
    if constexpr (whole) sums += number * panel_tile_rows * block_rows;
    if constexpr (odd_sums) _tile_stored(2, sums, 64);
    else _tile_stored(0, sums, 64);
    if constexpr (odd_sums && blocks > 1) _tile_stored(3, sums + block_sums, 64);
    if constexpr (!odd_sums && blocks > 1) _tile_stored(1, sums + block_sums, 64);
  }

  template <int blocks, int parity, int number = 0>
  HEARTH_INLINE void step(const Decoded* d, int at, const int8_t* q, int32_t* sums, const Waiting& before) {
    product<blocks, number, parity>(d, at, q);
    add(before, number * rows_apiece);
    give<blocks, number, parity>(sums);
    if constexpr (number + 1 < products) step<blocks, parity, number + 1>(d, at, q, sums, before);
  }

  void panels(const uint8_t* block, int count, const PanelOperands& o, int rows, float* out, int64_t apart) const {
    if (rows <= few.few_rows_max) return few.few_rows_panels(block, count, o, rows, out, apart);
    shapes.set(depth);
    int i = 0;
    for (; i + 2 <= count; i += 2) many_rows<2>(block + i * few.layout.bytes, o, rows, out + i * apart, apart);
    if (i < count) many_rows<1>(block + i * few.layout.bytes, o, rows, out + i * apart, apart);
  }

  template <int blocks>
  void many_rows(const uint8_t* block, const PanelOperands& o, int rows, float* out, int64_t apart) const {
    const int whole_tiles = (rows + panel_tile_rows - 1) / panel_tile_rows * panel_tile_rows;
    for (int b = 0; b < blocks; ++b) std::memset(out + b * apart, 0, sizeof(float) * block_rows * whole_tiles);
    Decoded decoded[blocks];
    for_each_stretch<group>(block, few.layout, blocks * few.layout.bytes, few.in / group, [&](const Stretch& stretch) {
      for (int b = 0; b < blocks; ++b) decode(block + b * few.layout.bytes, few.layout, stretch, decoded[b]);
      memory_is_written();
      over_stretch<blocks>(decoded, o, rows, stretch, out, apart);
    });
    for (int b = 0; b < blocks; ++b) {
      const __m512 factor = _mm512_loadu_ps(block + b * few.layout.bytes);
      float* to = out + b * apart;
      for (int r = 0; r < rows; ++r, to += block_rows) _mm512_store_ps(to, _mm512_mul_ps(_mm512_load_ps(to), factor));
    }
  }

  // All rows over a decoded stretch, added to out.
  template <int blocks>
  __attribute__((noinline)) void over_stretch(const Decoded* d, const PanelOperands& o, int rows, const Stretch& stretch, float* out, int64_t apart) const {
    alignas(64) int32_t sums[2][step_sums];
    Waiting before{};
    int parity = 0;
    for (int row = 0; row < rows; row += panel_tile_rows) {
      const int tile = row / panel_tile_rows;
      for (int g = stretch.begin; g < stretch.end; g += step_groups, parity ^= 1) {
        if (row == 0) read_ahead<blocks>(stretch, g);
        const int8_t* q = o.q + tile * o.q_tile + g * group / 64 * 1024 + g * group % 64;
        if (parity) step<blocks, 1>(d, g - stretch.begin, q, sums[1], before);
        else step<blocks, 0>(d, g - stretch.begin, q, sums[0], before);
        before = {sums[parity], d, g - stretch.begin, blocks, o.scale + tile * o.group_tile + g / step_groups * panel_tile_rows, out + row * block_rows, apart};
      }
    }
    for (int from = 0; from < blocks * panel_tile_rows; from += rows_apiece) add(before, from);
  }

  // What the step at group g wants of the next stretch.
  template <int blocks>
  __attribute__((always_inline)) inline void read_ahead(const Stretch& stretch, int g) const {
    for (int b = 0; b < blocks; ++b) {
      for (int i = 0; i < step_groups && g + i < stretch.end; ++i) prefetch_group<subgroups>(stretch, g + i, b * few.layout.bytes);
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
