// Int8 linears on AVX-512 VNNI: 16 outputs in one vector, up to eight rows a tile.
#pragma once

#include "kernels/cpu/simd/linear.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

constexpr int prefetch_bytes = 2048;  // how far a single stream is read ahead

HEARTH_INLINE __m512i broadcast4(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}

// sum + the products of four bytes of each lane, the signed ones at q: broadcast by the instruction itself, which GCC does not
// find, and which halves what the core must issue.
HEARTH_INLINE __m512i add_four(__m512i sum, __m512i w, const int8_t* q) {
  typedef int32_t Four __attribute__((may_alias, aligned(1)));
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*reinterpret_cast<const Four*>(q)));
  return sum;
}

// sums[i] += w[i] times the four bytes at q, which are broadcast once for all. In assembly, as GCC would broadcast for all rows
// first and spill the sums.
template <int n>
HEARTH_INLINE void add_four(__m512i (&sums)[n], const __m512i (&w)[n], const int8_t* q) {
  static_assert(n >= 1 && n <= 3);
  if constexpr (n == 1) {
    sums[0] = add_four(sums[0], w[0], q);
    return;
  }
  typedef int32_t Four __attribute__((may_alias, aligned(1)));
  const auto& four = *reinterpret_cast<const Four*>(q);
  __m512i x;
  if constexpr (n == 3) {
    asm("vpbroadcastd %7, %3\n\tvpdpbusd %3, %4, %0\n\tvpdpbusd %3, %5, %1\n\tvpdpbusd %3, %6, %2"
        : "+v"(sums[0]), "+v"(sums[1]), "+v"(sums[2]), "=&v"(x) : "v"(w[0]), "v"(w[1]), "v"(w[2]), "m"(four));
  } else if constexpr (n == 2) {
    asm("vpbroadcastd %5, %2\n\tvpdpbusd %2, %3, %0\n\tvpdpbusd %2, %4, %1"
        : "+v"(sums[0]), "+v"(sums[1]), "=&v"(x) : "v"(w[0]), "v"(w[1]), "m"(four));
  }
}

HEARTH_INLINE void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
HEARTH_INLINE void prefetch_far(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }

// Sums stay in registers only where all loops over them are unrolled: one index that is not constant, and GCC keeps the array in
// memory. So the kernels say it at each.

// tile<R> for a number of rows known only now.
template <class Kernel>
HEARTH_INLINE void tile_of_rows(const Kernel& kernel, const uint8_t* block, const Operands& o, int rows, float* out) {
  switch (rows) {
    case 1: return kernel.template rows_tile<1>(block, o, out);
    case 2: return kernel.template rows_tile<2>(block, o, out);
    case 3: return kernel.template rows_tile<3>(block, o, out);
    case 4: return kernel.template rows_tile<4>(block, o, out);
    case 5: return kernel.template rows_tile<5>(block, o, out);
    case 6: return kernel.template rows_tile<6>(block, o, out);
    case 7: return kernel.template rows_tile<7>(block, o, out);
    default: return kernel.template rows_tile<8>(block, o, out);
  }
}

// Zero points times the sums of a group: |sum| <= 128 * 127 fits in 16 bits, so vpmaddwd does it.
template <bool symmetric>
HEARTH_INLINE __m512i correction(__m512i zeros, int32_t sum) {
  return symmetric ? _mm512_set1_epi32(sum) : _mm512_madd_epi16(zeros, _mm512_set1_epi32(sum));
}

HEARTH_INLINE __m512 group_scales(const uint8_t* block, const W4Layout& layout, int g) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + layout.scales) + g));
}
HEARTH_INLINE __m512i group_zeros(const uint8_t* block, const W4Layout& layout, int g) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + layout.zeros) + g));
}

// Whole scales (whole_scales), each beside zero in its lane: vpdpwssd multiplies sums that fit 16 bits by them.
HEARTH_INLINE __m512i group_whole_scales(const uint8_t* block, const W4Layout& layout, int g) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + layout.scales) + g));
}

// A span's sums times its activations' scale.
HEARTH_INLINE __m512 add_span(__m512i sum, float scale, __m512 total) {
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(scale), total);
}

// A panel goes over a block in stretches of groups: a stretch is decoded to bytes once, then met by every tile of rows.
struct Stretch {
  int begin, end;            // groups
  bool last;                 // of the block
  const uint8_t* next;       // quants of the stretch after this one, be it of the next block: to read ahead
  const uint8_t* next_scales;  // the part of the next block's scales to read ahead
};

// Of a stretch at most: 8 KiB of bytes, so that a tile of rows, its sums and scales fit the L1 cache beside them (with 32 KiB
// AMX took 8-16 % longer), and memory and multipliers take turns often.
constexpr int scratch_inputs = 512;

// body(stretch) for each; `to_next`: bytes to the block that comes after this one.
template <int group, class Body>
HEARTH_INLINE void for_each_stretch(const uint8_t* block, const W4Layout& layout, size_t to_next, int groups, Body body) {
  constexpr int step = scratch_inputs / group;
  for (int begin = 0; begin < groups; begin += step) {
    const int end = begin + step < groups ? begin + step : groups;
    const uint8_t* next = end < groups ? block + layout.quants + static_cast<size_t>(end) * group * 8 : block + to_next + layout.quants;
    body(Stretch{begin, end, end == groups, next, block + to_next + static_cast<size_t>(begin) * 2 * block_rows});
  }
}

// Group g of the next stretch, of the block so many bytes after.
template <int subgroups>
HEARTH_INLINE void prefetch_group(const Stretch& stretch, int g, size_t after = 0) {
  prefetch(stretch.next_scales + after + static_cast<size_t>(g - stretch.begin) * 2 * block_rows);
#pragma GCC unroll 16
  for (int line = 0; line < 4 * subgroups; ++line) prefetch(stretch.next + after + static_cast<size_t>((g - stretch.begin) * 4 * subgroups + line) * 64);
}

template <int subgroups, bool symmetric>
struct W4Vnni {
  static constexpr int rows_max = 8, panel_rows_min = 2, streams = 4, group = 32 * subgroups;
  static constexpr int in_registers_max = 48;  // rows: more are worth a copy of the weights in bytes
  static constexpr size_t stretch_bytes = scratch_inputs * block_rows;
  static constexpr bool whole = symmetric && subgroups == 1;  // whole_scales
  int in;
  W4Layout layout;

  explicit W4Vnni(const ops::LinearSpec& s) : in(s.in), layout(w4_layout(s.in, s.group, s.symmetric)) {}
  size_t block_bytes() const { return layout.bytes; }
  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const { tile_of_rows(*this, block, o, rows, out); }

  // total + (dot - zero * sum of activations) * scales of group g.
  HEARTH_INLINE __m512 add_group(const uint8_t* block, const W4Layout& layout, int g, __m512i dot, int32_t sum, float scale, __m512 total) {
    __m512i zeros = _mm512_setzero_si512();
    if constexpr (!symmetric) zeros = group_zeros(block, layout, g);
    const __m512i d = _mm512_sub_epi32(dot, correction<symmetric>(zeros, sum));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(d), _mm512_mul_ps(group_scales(block, layout, g), _mm512_set1_ps(scale)), total);
  }

  // Reads ahead go over a block's bytes evenly, scales included, and on into the stream's next block, to the L2 cache first:
  // with four streams 8 % faster than two of quants alone (Emerald Rapids).
  template <int n>
  __attribute__((noinline)) void together(const uint8_t* const (&block)[n], size_t to_next, const Operands& o, float (*out)[block_rows]) const {
    constexpr size_t far = 8192, near = 512;
    const __m512i low = _mm512_set1_epi8(15);
    const int8_t* q = o.q;
    const int groups = in / group;
    const size_t share = layout.bytes / groups + 1, jump = to_next - layout.bytes;  // bytes of a group in all; over the blocks between
    const uint8_t* quants[n];
    __m512 total[n];
    __m512i span[n];
    for (int b = 0; b < n; ++b) quants[b] = block[b] + layout.quants, total[b] = _mm512_setzero_ps(), span[b] = _mm512_setzero_si512();
    for (int g = 0; g < groups; ++g) {
      const size_t at = far + g * share, ahead = at < layout.bytes ? at : at + jump;
      __m512i dot[n][2];
#pragma GCC unroll 4
      for (int b = 0; b < n; ++b) {
        dot[b][0] = whole ? _mm512_set1_epi32(-o.sum[g]) : _mm512_setzero_si512();
        dot[b][1] = _mm512_setzero_si512();
        prefetch_far(block[b] + ahead + 4 * subgroups * 64);
      }
#pragma GCC unroll 16
      for (int chunk = 0; chunk < 4 * subgroups; ++chunk) {
        const __m512i first = broadcast4(q + chunk * 8), second = broadcast4(q + chunk * 8 + 4);
#pragma GCC unroll 4
        for (int b = 0; b < n; ++b) {
          const __m512i w = _mm512_loadu_si512(quants[b] + chunk * 64);
          prefetch_far(block[b] + ahead + chunk * 64);
          prefetch(quants[b] + chunk * 64 + near);
          dot[b][0] = _mm512_dpbusd_epi32(dot[b][0], _mm512_and_si512(w, low), first);
          dot[b][1] = _mm512_dpbusd_epi32(dot[b][1], _mm512_and_si512(_mm512_srli_epi16(w, 4), low), second);
        }
      }
      q += group;
#pragma GCC unroll 4
      for (int b = 0; b < n; ++b) {
        quants[b] += group * 8;
        const __m512i sum = _mm512_add_epi32(dot[b][0], dot[b][1]);
        if constexpr (whole) span[b] = _mm512_dpwssd_epi32(span[b], sum, group_whole_scales(block[b], layout, g));
        else total[b] = add_group(block[b], layout, g, sum, o.sum[g], o.scale[g], total[b]);
      }
      if (!whole || !ends_span(g, groups)) continue;
#pragma GCC unroll 4
      for (int b = 0; b < n; ++b) total[b] = add_span(span[b], o.scale[g / span_groups], total[b]), span[b] = _mm512_setzero_si512();
    }
    for (int b = 0; b < n; ++b) _mm512_storeu_ps(out[b], _mm512_mul_ps(total[b], _mm512_loadu_ps(block[b])));
  }

  template <int R>
  __attribute__((noinline)) void rows_tile(const uint8_t* block, const Operands& o, float* out) const {
    const __m512i low = _mm512_set1_epi8(15);
    const uint8_t* quants = block + layout.quants;
    const int8_t* q = o.q;
    __m512 total[R];
    __m512i span[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) total[r] = _mm512_setzero_ps(), span[r] = _mm512_setzero_si512();
    for (int g = 0; g < in / group; ++g) {
      // Two sums a row while registers last: vpdpbusd takes five cycles to give its sum to the next.
      constexpr int chains = R <= 4 ? 2 : 1;
      __m512i dot[R][2];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        dot[r][0] = whole ? _mm512_set1_epi32(-o.sum[r * o.group_stride + g]) : _mm512_setzero_si512();
        dot[r][1] = _mm512_setzero_si512();
      }
      for (int chunk = 0; chunk < 4 * subgroups; ++chunk, quants += 64, q += 8) {
        const __m512i w = _mm512_loadu_si512(quants);
        prefetch(quants + prefetch_bytes);
        const __m512i first = _mm512_and_si512(w, low), second = _mm512_and_si512(_mm512_srli_epi16(w, 4), low);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          dot[r][0] = add_four(dot[r][0], first, q + r * o.q_stride);
          dot[r][chains - 1] = add_four(dot[r][chains - 1], second, q + r * o.q_stride + 4);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512i sum = chains == 2 ? _mm512_add_epi32(dot[r][0], dot[r][1]) : dot[r][0];
        if constexpr (whole) span[r] = _mm512_dpwssd_epi32(span[r], sum, group_whole_scales(block, layout, g));
        else total[r] = add_group(block, layout, g, sum, o.sum[r * o.group_stride + g], o.scale[r * o.group_stride + g], total[r]);
      }
      if (!whole || !ends_span(g, in / group)) continue;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) total[r] = add_span(span[r], o.scale[r * o.group_stride + g / span_groups], total[r]), span[r] = _mm512_setzero_si512();
    }
    const __m512 factor = _mm512_loadu_ps(block);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) _mm512_storeu_ps(out + r * block_rows, _mm512_mul_ps(total[r], factor));
  }

  // `chunks` of 8 inputs of 16 outputs, nibbles to bytes.
  HEARTH_INLINE void decode(const uint8_t* quants, int chunks, uint8_t* to) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const __m512i w = _mm512_loadu_si512(quants + chunk * 64);
      _mm512_store_si512(to + chunk * 128, _mm512_and_si512(w, low));
      _mm512_store_si512(to + chunk * 128 + 64, _mm512_and_si512(_mm512_srli_epi16(w, 4), low));
    }
  }

  void panels(const uint8_t* block, int count, const PanelOperands& o, int rows, float* out, int64_t apart) const {
    if (rows <= in_registers_max) return in_registers(block, count, o, rows, out, apart);
    for (; count >= 2; count -= 2, block += 2 * layout.bytes, out += 2 * apart) decoded_once<2>(block, o, rows, out, apart);
    if (count == 1) decoded_once<1>(block, o, rows, out, apart);
  }

  // Nibbles become bytes in registers, again for every eight rows; in between the blocks stay in the L2 cache.
  void in_registers(const uint8_t* block, int count, const PanelOperands& o, int rows, float* out, int64_t apart) const {
    const auto all_rows = [&]<int n>(int i) {
      for (int row = 0; row < rows; row += rows_max) {
        few_rows_of<n>(block + i * layout.bytes, from_row(o, row), rows - row, out + i * apart + row * block_rows, apart);
      }
    };
    int i = 0;
    // With float scales turns of 128 inputs cost more than four streams gain: a block at a time.
    if constexpr (whole) {
      for (; i + streams <= count; i += streams) all_rows.template operator()<streams>(i);
    }
    for (; i < count; ++i) all_rows.template operator()<1>(i);
  }

  // n neighbouring blocks, decoded a stretch at a time.
  template <int n>
  void decoded_once(const uint8_t* block, const PanelOperands& o, int rows, float* out, int64_t apart) const {
    alignas(64) uint8_t weights[n * stretch_bytes];
    for_each_stretch<group>(block, layout, n * layout.bytes, in / group, [&](const Stretch& stretch) {
      for (int b = 0; b < n; ++b) {
        const uint8_t* quants = block + b * layout.bytes + layout.quants + static_cast<size_t>(stretch.begin) * group * 8;
        decode(quants, (stretch.end - stretch.begin) * 4 * subgroups, weights + b * stretch_bytes);
      }
      for (int row = 0; row < rows; row += rows_max) eight_rows<n>(block, weights, from_row(o, row), row == 0, stretch, out + row * block_rows, apart);
    });
  }

  template <int n>
  void few_rows_of(const uint8_t* block, const PanelOperands& o, int rows, float* out, int64_t apart) const {
    switch (rows) {
      case 1: return few_rows<1, n>(block, o, out, apart);  // a panel's last
      case 2: return few_rows<2, n>(block, o, out, apart);
      case 3: return few_rows<3, n>(block, o, out, apart);
      case 4: return few_rows<4, n>(block, o, out, apart);
      case 5: return few_rows<5, n>(block, o, out, apart);
      case 6: return few_rows<6, n>(block, o, out, apart);
      case 7: return few_rows<7, n>(block, o, out, apart);
      default: return few_rows<8, n>(block, o, out, apart);
    }
  }

  // R rows and n neighbouring blocks, with whole scales a span of each in turn: several streams keep DRAM busier than one, and activations that do
  // not fit the L1 cache are fetched once for n blocks. Of more than four rows two blocks share each broadcast: they wait for loads,
  // fewer wait for memory.
  template <int R, int n>
  __attribute__((noinline)) void few_rows(const uint8_t* block, const PanelOperands& o, float* out, int64_t apart) const {
    constexpr int abreast = n > 1 && R > 4 ? 2 : 1;
    const int groups = in / group, turn = whole ? span_groups : groups;
    for (int first = 0; first < groups; first += turn) {
      const int last = first + turn < groups ? first + turn : groups;
      for (int b = 0; b < n; b += abreast) few_rows_turn<R, abreast>(block + b * layout.bytes, n * layout.bytes, o, first, last, out + b * apart, apart);
    }
    for (int b = 0; b < n; ++b) {
      const __m512 factor = _mm512_loadu_ps(block + b * layout.bytes);
      for (int r = 0; r < R; ++r) _mm512_store_ps(out + b * apart + r * block_rows, _mm512_mul_ps(_mm512_load_ps(out + b * apart + r * block_rows), factor));
    }
  }

  // Groups [first, last) of n blocks, added to out; set at the blocks' first. `to_next`: bytes to a stream's next block.
  template <int R, int n>
  __attribute__((always_inline)) inline void few_rows_turn(const uint8_t* block, size_t to_next, const PanelOperands& o, int first, int last, float* out, int64_t apart) const {
    static_assert(n == 1 || whole);
    constexpr size_t far = 8192, near = 512;
    const __m512i low = _mm512_set1_epi8(15);
    const uint8_t* quants = block + layout.quants + static_cast<size_t>(first) * group * 8;
    const size_t share = layout.bytes / (in / group) + 1, jump = to_next - layout.bytes;
    __m512i span[R][n];
    __m512 total[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      total[r] = _mm512_setzero_ps();
#pragma GCC unroll 2
      for (int b = 0; b < n; ++b) span[r][b] = _mm512_setzero_si512();
    }
    for (int g = first; g < last; ++g) {
      const size_t at_far = far + g * share;
      const uint8_t* ahead = block + (at_far < layout.bytes ? at_far : at_far + jump);
      const int32_t* negated_sum = o.sum + g * panel_tile_rows;
      // Two sums a row while registers last: vpdpbusd takes five cycles to give its sum to the next.
      constexpr bool chains = R * n <= 4;
      __m512i dot[R][n], odd[R][n];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512i sum = _mm512_set1_epi32(negated_sum[r]);
#pragma GCC unroll 2
        for (int b = 0; b < n; ++b) {
          dot[r][b] = symmetric ? sum : _mm512_madd_epi16(group_zeros(block, layout, g), sum);
          odd[r][b] = _mm512_setzero_si512();
        }
      }
#pragma GCC unroll 2
      for (int b = 0; b < n; ++b) prefetch_far(ahead + b * layout.bytes + 4 * subgroups * 64);
#pragma GCC unroll 4
      for (int sub = 0; sub < subgroups; ++sub) {
        const int at = g * group + sub * 32;
        const int8_t* q = o.q + at / 64 * 1024 + at % 64;
#pragma GCC unroll 4
        for (int chunk = 0; chunk < 4; ++chunk, quants += 64, ahead += 64) {
          __m512i first4[n], second4[n];
#pragma GCC unroll 2
          for (int b = 0; b < n; ++b) {
            const __m512i w = _mm512_loadu_si512(quants + b * layout.bytes);
            prefetch_far(ahead + b * layout.bytes);
            prefetch(quants + b * layout.bytes + near);
            first4[b] = _mm512_and_si512(w, low), second4[b] = _mm512_and_si512(_mm512_srli_epi16(w, 4), low);
          }
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) add_four(dot[r], first4, q + r * 64 + chunk * 8);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) add_four(chains ? odd[r] : dot[r], second4, q + r * 64 + chunk * 8 + 4);
        }
      }
      const float* scale = o.scale + g * panel_tile_rows;
#pragma GCC unroll 2
      for (int b = 0; b < n; ++b) {
        const __m512 scales = whole ? __m512{} : group_scales(block, layout, g);
        const __m512i multipliers = whole ? group_whole_scales(block + b * layout.bytes, layout, g) : __m512i{};
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const __m512i sum = chains ? _mm512_add_epi32(dot[r][b], odd[r][b]) : dot[r][b];
          if constexpr (whole) span[r][b] = _mm512_dpwssd_epi32(span[r][b], sum, multipliers);
          else total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(scales, _mm512_set1_ps(scale[r])), total[r]);
        }
      }
    }
    const float* scale = o.scale + first / span_groups * panel_tile_rows;
#pragma GCC unroll 2
    for (int b = 0; b < n; ++b) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        float* to = out + b * apart + r * block_rows;
        if constexpr (whole) total[r] = add_span(span[r][b], scale[r], first == 0 ? _mm512_setzero_ps() : _mm512_load_ps(to));
        _mm512_store_ps(to, total[r]);
      }
    }
  }

  // Eight rows by n blocks over the decoded stretch, added to out; set at a block's first, scaled at its last. A group's sums fill half of the
  // registers, and a broadcast serves n products; a span's sums and what they add up to wait in the L1 cache. `fetches`: reads the next stretch ahead.
  template <int n>
  __attribute__((noinline)) void eight_rows(const uint8_t* block, const uint8_t* weights, const PanelOperands& o, bool fetches, const Stretch& stretch, float* out, int64_t apart) const {
    constexpr int R = rows_max;
    __m512i span[R][n];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int b = 0; b < n; ++b) span[r][b] = _mm512_setzero_si512();
    bool first = stretch.begin == 0;
    for (int g = stretch.begin; g < stretch.end; ++g) {
      if (fetches) for (int b = 0; b < n; ++b) prefetch_group<subgroups>(stretch, g, b * layout.bytes);
      __m512i dot[R][n];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512i sum = _mm512_set1_epi32(o.sum[g * panel_tile_rows + r]);
#pragma GCC unroll 2
        for (int b = 0; b < n; ++b) dot[r][b] = symmetric ? sum : _mm512_madd_epi16(group_zeros(block + b * layout.bytes, layout, g), sum);
      }
      for (int sub = 0; sub < subgroups; ++sub) {
        const int at = g * group + sub * 32;
        const int8_t* q = o.q + at / 64 * 1024 + at % 64;
#pragma GCC unroll 8
        for (int four = 0; four < 8; ++four, weights += 64) {
          __m512i w[n];
#pragma GCC unroll 2
          for (int b = 0; b < n; ++b) w[b] = _mm512_load_si512(weights + b * stretch_bytes);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) add_four(dot[r], w, q + r * 64 + four * 4);
        }
      }
      if constexpr (whole) {
#pragma GCC unroll 2
        for (int b = 0; b < n; ++b) {
          const __m512i multipliers = group_whole_scales(block + b * layout.bytes, layout, g);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) span[r][b] = _mm512_dpwssd_epi32(span[r][b], dot[r][b], multipliers);
        }
        if (!ends_span(g, stretch.end)) continue;
      }
      const float* scale = o.scale + (whole ? g / span_groups : g) * panel_tile_rows;
#pragma GCC unroll 2
      for (int b = 0; b < n; ++b) {
        const __m512 scales = whole ? __m512{} : group_scales(block + b * layout.bytes, layout, g);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          float* to = out + b * apart + r * block_rows;
          const __m512 total = first ? _mm512_setzero_ps() : _mm512_load_ps(to);
          if constexpr (whole) {
            _mm512_store_ps(to, add_span(span[r][b], scale[r], total));
            span[r][b] = _mm512_setzero_si512();
          } else {
            _mm512_store_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r][b]), _mm512_mul_ps(scales, _mm512_set1_ps(scale[r])), total));
          }
        }
      }
      first = false;
    }
    if (!stretch.last) return;
#pragma GCC unroll 2
    for (int b = 0; b < n; ++b) {
      const __m512 factor = _mm512_loadu_ps(block + b * layout.bytes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) _mm512_store_ps(out + b * apart + r * block_rows, _mm512_mul_ps(_mm512_load_ps(out + b * apart + r * block_rows), factor));
    }
  }
};

// 8-bit weights + 128 as the unsigned side, corrected by 128 times the row's sum of activations.
struct W8Vnni {
  static constexpr int rows_max = 8, panel_rows_min = 9, abreast = 3;  // blocks of a panel's tile
  int in;
  W8Layout layout;

  explicit W8Vnni(const ops::LinearSpec& s) : in(s.in), layout(w8_layout(s.in)) {}
  size_t block_bytes() const { return layout.bytes; }
  void tile(const uint8_t* block, const Operands& o, int rows, float* out) const { tile_of_rows(*this, block, o, rows, out); }

  template <int R>
  __attribute__((noinline)) void rows_tile(const uint8_t* block, const Operands& o, float* out) const {
    const __m512i flip = _mm512_set1_epi8(-128);
    const uint8_t* quants = block + layout.quants;
    __m512i even[R], odd[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) even[r] = odd[r] = _mm512_setzero_si512();
    int i = 0;
    for (; i + 8 <= in; i += 8, quants += 128) {
      const __m512i w0 = _mm512_xor_si512(_mm512_loadu_si512(quants), flip), w1 = _mm512_xor_si512(_mm512_loadu_si512(quants + 64), flip);
      _mm_prefetch(reinterpret_cast<const char*>(quants + prefetch_bytes), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(quants + prefetch_bytes + 64), _MM_HINT_T0);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        even[r] = _mm512_dpbusd_epi32(even[r], w0, broadcast4(o.q + r * o.q_stride + i));
        odd[r] = _mm512_dpbusd_epi32(odd[r], w1, broadcast4(o.q + r * o.q_stride + i + 4));
      }
    }
    for (; i < in; i += 4, quants += 64) {
      const __m512i w = _mm512_xor_si512(_mm512_loadu_si512(quants), flip);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) even[r] = _mm512_dpbusd_epi32(even[r], w, broadcast4(o.q + r * o.q_stride + i));
    }
    const __m512 scale = _mm512_loadu_ps(block);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512i d = _mm512_sub_epi32(_mm512_add_epi32(even[r], odd[r]), _mm512_set1_epi32(o.sum[r * o.group_stride] * 128));
      const __m512 by = _mm512_mul_ps(scale, _mm512_set1_ps(o.scale[r * o.group_stride]));
      _mm512_storeu_ps(out + r * block_rows, _mm512_mul_ps(_mm512_cvtepi32_ps(d), by));
    }
  }

  // Eight rows by three blocks: 24 sums, and one load of activations for three products. A stretch of the blocks' weights stays
  // in the L1 cache for all rows; between stretches integer sums wait in `out`.
  void panels(const uint8_t* block, int count, const PanelOperands& o, int rows, float* out, int64_t apart) const {
    for (; count >= abreast; count -= abreast, block += abreast * layout.bytes, out += abreast * apart) panels_of<abreast>(block, o, rows, out, apart);
    if (count == 2) panels_of<2>(block, o, rows, out, apart);
    if (count == 1) panels_of<1>(block, o, rows, out, apart);
  }

  template <int n>
  void panels_of(const uint8_t* block, const PanelOperands& o, int rows, float* out, int64_t apart) const {
    for (int begin = 0; begin < in; begin += scratch_inputs) {
      const int end = begin + scratch_inputs < in ? begin + scratch_inputs : in;
      for (int row = 0; row < rows; row += 8) eight_rows<n>(block, from_row(o, row), row == 0, begin, end, out + row * block_rows, apart);
    }
  }

  // Eight rows over inputs [begin, end). `fetches`: reads weights ahead.
  template <int n>
  __attribute__((noinline)) void eight_rows(const uint8_t* block, const PanelOperands& o, bool fetches, int begin, int end, float* out, int64_t apart) const {
    const __m512i flip = _mm512_set1_epi8(-128);
    const int8_t* q = o.q + begin / 64 * 1024;
    const uint8_t* quants = block + layout.quants + static_cast<size_t>(begin) * block_rows;
    __m512i sum[8][n];
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
      const __m512i first = _mm512_set1_epi32(o.sum[r] * 128);
#pragma GCC unroll 3
      for (int b = 0; b < n; ++b) sum[r][b] = begin == 0 ? first : _mm512_load_si512(out + b * apart + r * block_rows);
    }
    for (int k = begin; k < end; k += 64, q += 1024) {
      const int fours = end - k < 64 ? (end - k + 3) / 4 : 16;
      for (int four = 0; four < fours; ++four, quants += 64) {
        __m512i w[n];
#pragma GCC unroll 3
        for (int b = 0; b < n; ++b) {
          w[b] = _mm512_xor_si512(_mm512_loadu_si512(quants + b * layout.bytes), flip);
          if (fetches) prefetch(quants + b * layout.bytes + prefetch_bytes);
        }
#pragma GCC unroll 8
        for (int r = 0; r < 8; ++r) add_four(sum[r], w, q + r * 64 + four * 4);
      }
    }
#pragma GCC unroll 3
    for (int b = 0; b < n; ++b) {
      const __m512 scales = _mm512_loadu_ps(block + b * layout.bytes);
      float* to = out + b * apart;
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) {
        if (end < in) _mm512_store_si512(to + r * block_rows, sum[r][b]);
        else _mm512_store_ps(to + r * block_rows, _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][b]), _mm512_mul_ps(scales, _mm512_set1_ps(o.scale[r]))));
      }
    }
  }
};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
