// Int8 linears on AMX tiles, for eight rows and more; fewer go to AVX-512 VNNI, which reads the same layout.
//
// C (16 rows x 16 outputs, int32) += A (16 rows x K int8) * B (K/4 x 16 outputs x 4). B is what the layouts hold, decoded
// from nibbles into L1. Two C tiles: up to 32 rows share each B. Tiles: 0, 1 sums; 2, 3 activations; 4 weights.
#pragma once

#include "kernels/cpu/avx512/int8.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

constexpr int amx_rows_min = 8;

// GCC's tile intrinsics are assembly that does not say it reads memory: what they read must be written before.
HEARTH_INLINE void memory_is_written() { asm volatile("" ::: "memory"); }

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// The tile shapes of a worker, loaded again only when the number of rows changes; released at the end, so that the
// system need not save 8 KiB at every switch.
class TileShapes {
 public:
  ~TileShapes() { if (rows_ != 0) _tile_release(); }
  void set(int rows, int depth) {
    if (rows == rows_) return;
    rows_ = rows;
    TileConfig config;
    const int first = rows < 16 ? rows : 16, second = rows > 16 ? rows - 16 : 1;
    auto shape = [&](int tile, int tile_rows, int bytes) {
      config.rows[tile] = static_cast<uint8_t>(tile_rows);
      config.row_bytes[tile] = static_cast<uint16_t>(bytes);
    };
    shape(0, first, 64), shape(1, second, 64);
    shape(2, first, depth), shape(3, second, depth);
    shape(4, depth / 4, 64);
    memory_is_written();
    _tile_loadconfig(&config);
  }

 private:
  int rows_ = 0;
};

template <int subgroups, bool symmetric>
struct W4Amx {
  static constexpr int rows_max = 32;
  static constexpr int depth = subgroups == 1 ? 32 : 64;  // inputs of one tile product
  W4Vnni<subgroups, symmetric> few;
  mutable TileShapes shapes;

  explicit W4Amx(const ops::LinearSpec& s) : few(s) {}
  size_t block_bytes() const { return few.block_bytes(); }

  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const {
    if (rows >= amx_rows_min) return tiles(block, o, rows, out);
    few.tile(block, o, rows, out);
  }

  // 32 * subgroups inputs of 16 outputs, nibbles to bytes.
  HEARTH_INLINE void decode(const uint8_t* quants, uint8_t* to) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int chunk = 0; chunk < 4 * subgroups; ++chunk) {
      const __m512i w = _mm512_loadu_si512(quants + chunk * 64);
      _mm_prefetch(reinterpret_cast<const char*>(quants + chunk * 64 + prefetch_bytes), _MM_HINT_T0);
      _mm512_store_si512(to + chunk * 128, _mm512_and_si512(w, low));
      _mm512_store_si512(to + chunk * 128 + 64, _mm512_and_si512(_mm512_srli_epi16(w, 4), low));
    }
  }

  __attribute__((noinline)) void tiles(const uint8_t* block, const Operands& o, int rows, float* out) const {
    shapes.set(rows, depth);
    const W4Layout& layout = few.layout;
    alignas(64) uint8_t weights[subgroups * 32 * block_rows];
    alignas(64) int32_t sums[rows_max * block_rows];
    for (int r = 0; r < rows; ++r) _mm512_storeu_ps(out + r * block_rows, _mm512_setzero_ps());
    for (int g = 0; g < few.in / (32 * subgroups); ++g) {
      decode(block + layout.quants + static_cast<size_t>(g) * subgroups * 256, weights);
      memory_is_written();
      const int8_t* q = o.q + g * subgroups * 32;
      _tile_zero(0);
      _tile_zero(1);
      for (int k = 0; k < 32 * subgroups; k += depth) {
        _tile_loadd(4, weights + k * block_rows, 64);
        _tile_loadd(2, q + k, o.q_stride);
        _tile_dpbssd(0, 2, 4);
        if (rows > 16) {
          _tile_loadd(3, q + k + 16 * o.q_stride, o.q_stride);
          _tile_dpbssd(1, 3, 4);
        }
      }
      _tile_stored(0, sums, 64);
      if (rows > 16) _tile_stored(1, sums + 16 * block_rows, 64);
      add_group(block, o, rows, g, sums, out);
    }
    const __m512 factor = _mm512_loadu_ps(block);
    for (int r = 0; r < rows; ++r) _mm512_storeu_ps(out + r * block_rows, _mm512_mul_ps(_mm512_loadu_ps(out + r * block_rows), factor));
  }

  // out += (sums - zero * sum of activations) * scales of a group.
  HEARTH_INLINE void add_group_rows(const uint8_t* block, const W4Layout& layout, const Operands& o, int rows, int g, const int32_t* sums,
                                    float* out) {
    const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + layout.scales) + g));
    __m512i zeros = _mm512_setzero_si512();
    if constexpr (!symmetric) zeros = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + layout.zeros) + g));
    for (int r = 0; r < rows; ++r) {
      const __m512i d = _mm512_sub_epi32(_mm512_load_si512(sums + r * block_rows), correction<symmetric>(zeros, o.sum[r * o.group_stride + g]));
      const __m512 by = _mm512_mul_ps(scale, _mm512_set1_ps(o.scale[r * o.group_stride + g]));
      _mm512_storeu_ps(out + r * block_rows, _mm512_fmadd_ps(_mm512_cvtepi32_ps(d), by, _mm512_loadu_ps(out + r * block_rows)));
    }
  }
  void add_group(const uint8_t* block, const Operands& o, int rows, int g, const int32_t* sums, float* out) const {
    add_group_rows(block, few.layout, o, rows, g, sums, out);
  }
};

struct W8Amx {
  static constexpr int rows_max = 32;
  W8Vnni few;
  mutable TileShapes shapes;

  explicit W8Amx(const ops::LinearSpec& s) : few(s) {}
  size_t block_bytes() const { return few.block_bytes(); }

  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const {
    if (rows >= amx_rows_min) return tiles(block, o, rows, out);
    few.tile(block, o, rows, out);
  }

  __attribute__((noinline)) void tiles(const uint8_t* block, const Operands& o, int rows, float* out) const {
    shapes.set(rows, 64);
    alignas(64) int32_t sums[rows_max * block_rows];
    const uint8_t* quants = block + few.layout.quants;
    memory_is_written();
    _tile_zero(0);
    _tile_zero(1);
    for (int k = 0; k < few.in; k += 64, quants += 1024) {
      for (int line = 0; line < 16; ++line) _mm_prefetch(reinterpret_cast<const char*>(quants + prefetch_bytes + line * 64), _MM_HINT_T0);
      _tile_loadd(4, quants, 64);
      _tile_loadd(2, o.q + k, o.q_stride);
      _tile_dpbssd(0, 2, 4);
      if (rows > 16) {
        _tile_loadd(3, o.q + k + 16 * o.q_stride, o.q_stride);
        _tile_dpbssd(1, 3, 4);
      }
    }
    _tile_stored(0, sums, 64);
    if (rows > 16) _tile_stored(1, sums + 16 * block_rows, 64);
    const __m512 scale = _mm512_loadu_ps(block);
    for (int r = 0; r < rows; ++r) {
      const __m512 by = _mm512_mul_ps(scale, _mm512_set1_ps(o.scale[r * o.group_stride]));
      _mm512_storeu_ps(out + r * block_rows, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + r * block_rows)), by));
    }
  }
};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
