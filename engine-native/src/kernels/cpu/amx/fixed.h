// Products in fixed point on AMX tiles: a word of 16 bits is a low byte without and a high byte with a sign, so a product of words is
// four of bytes, whose sums meet shifted in 32 bits.
#pragma once

#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/simd/fixed.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

// In the memory of PairProducts' words: a row of the left side is its low bytes, then its high ones; of the right side the low bytes
// of four inputs take the place of the first of two words, the high ones that of the second.
struct AmxProducts {
  struct Setting {
    TileShapes shapes;
    Setting() { shapes.set(64); }
  };
  static int padded(int inputs) { return (inputs + 63) / 64 * 64; }

  static void to_left(int32_t* words, int rows, int pairs) {
    for (int row = 0; row < rows; ++row, words += pairs) {
      __m512i bytes[head_dim_max / 32][2];
      for (int i = 0; i < pairs / 32; ++i) {
        const __m512i a = _mm512_loadu_si512(words + i * 32), b = _mm512_loadu_si512(words + i * 32 + 16);
        bytes[i][0] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(a)), _mm512_cvtepi16_epi8(b), 1);
        bytes[i][1] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(_mm512_srli_epi16(a, 8))), _mm512_cvtepi16_epi8(_mm512_srli_epi16(b, 8)), 1);
      }
      for (int i = 0; i < pairs / 32; ++i) {
        _mm512_storeu_si512(words + i * 16, bytes[i][0]);
        _mm512_storeu_si512(words + pairs / 2 + i * 16, bytes[i][1]);
      }
    }
  }

  static void to_right(int32_t* words, int pairs) {
    // Bytes 0 and 2 of a word, or 1 and 3, to the lower and to the upper half; the rest zero.
    const __m512i low_first = _mm512_set1_epi32(static_cast<int32_t>(0x80800200)), low_second = _mm512_set1_epi32(0x02008080);
    const __m512i high_first = _mm512_set1_epi32(static_cast<int32_t>(0x80800301)), high_second = _mm512_set1_epi32(0x03018080);
    const __m512i lane = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
    const auto pick = [&](__m512i from, __m512i bytes) { return _mm512_shuffle_epi8(from, _mm512_add_epi8(bytes, lane)); };
    for (int pair = 0; pair < pairs; pair += 2, words += 2 * fixed_lanes) {
      for (int v = 0; v < fixed_lanes; v += 16) {
        const __m512i a = _mm512_loadu_si512(words + v), b = _mm512_loadu_si512(words + fixed_lanes + v);
        _mm512_storeu_si512(words + v, _mm512_or_si512(pick(a, low_first), pick(b, low_second)));
        _mm512_storeu_si512(words + fixed_lanes + v, _mm512_or_si512(pick(a, high_first), pick(b, high_second)));
      }
    }
  }

  // The sums of low, mixed and high bytes of 16 rows by 16 queries, in tiles 0 to 2 or 3 to 5, by turns: a block's sums leave theirs
  // while the next one's are multiplied.
  template <int parity>
  HEARTH_INLINE void start_block(const int32_t* left, const int32_t* right, int pairs) {
    constexpr int right_stride = 2 * fixed_lanes * 4;
    const auto* a = reinterpret_cast<const uint8_t*>(left);
    if constexpr (parity == 0) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
    } else {
      _tile_zero(3);
      _tile_zero(4);
      _tile_zero(5);
    }
    for (int pair = 0; pair < pairs; pair += 32, a += 64, right += 32 * fixed_lanes) {
      _tile_loadd(6, a, 4 * pairs);
      _tile_loadd(7, right, right_stride);
      if constexpr (parity == 0) _tile_dpbuud(0, 6, 7);
      else _tile_dpbuud(3, 6, 7);
      _tile_loadd(6, a + 2 * pairs, 4 * pairs);
      if constexpr (parity == 0) _tile_dpbsud(1, 6, 7);
      else _tile_dpbsud(4, 6, 7);
      _tile_loadd(7, right + fixed_lanes, right_stride);
      if constexpr (parity == 0) _tile_dpbssd(2, 6, 7);
      else _tile_dpbssd(5, 6, 7);
      _tile_loadd(6, a, 4 * pairs);
      if constexpr (parity == 0) _tile_dpbusd(1, 6, 7);
      else _tile_dpbusd(4, 6, 7);
    }
  }

  template <int parity, class Emit>
  HEARTH_INLINE void finish_block(int32_t (&part)[3][256], int row, int v, Emit&& emit) {
    if constexpr (parity == 0) {
      _tile_stored(0, part[0], 64);
      _tile_stored(2, part[2], 64);
      _tile_stored(1, part[1], 64);
    } else {
      _tile_stored(3, part[0], 64);
      _tile_stored(5, part[2], 64);
      _tile_stored(4, part[1], 64);
    }
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) {
      const __m512i high = _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(part[2] + r * 16), 8), _mm512_load_si512(part[1] + r * 16));
      emit(row + r, v, reinterpret_cast<I>(_mm512_add_epi32(_mm512_slli_epi32(high, 8), _mm512_load_si512(part[0] + r * 16))));
    }
  }

  template <class Emit>
  HEARTH_INLINE void multiply(const int32_t* left, const int32_t* right, int rows, int pairs, Emit&& emit) {
    static_assert(fixed_lanes == 32);
    alignas(64) int32_t part[2][3][256];
    memory_is_written();
    start_block<0>(left, right, pairs);
    for (int row = 0; row < rows; row += 16, left += 16 * pairs) {
      start_block<1>(left, right + 16, pairs);
      finish_block<0>(part[0], row, 0, emit);
      if (row + 16 < rows) start_block<0>(left + 16 * pairs, right, pairs);
      finish_block<1>(part[1], row, 1, emit);
    }
  }
};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
