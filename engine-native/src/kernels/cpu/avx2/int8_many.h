// W8A8 of many rows on AVX2 (vision towers, long prompts), where arithmetic bounds. Weights of 16 outputs become int16 once
// for a panel of rows and activations are kept as int16: vpmaddwd then sums two exact products a lane, with no split of a
// weight into halves and nothing to fold. 6 rows x 16 outputs of sums fill the registers (after Goto and van de Geijn 2008);
// two multiplications a cycle are 32 multiply-adds, twice what FMA does in f32.
#pragma once

#include "kernels/cpu/simd/linear.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

constexpr int many_rows_min = 24, many_tile = 6, many_panel = 64 * many_tile, many_inputs = 4096;

// Offsets in the workspace, which Scratch has made larger: 2 bytes of its 5 a value.
struct ManyScratch {
  size_t scale, wide;
  int64_t stride;  // int16 values of a row, zero padded; a line more, so that rows do not meet in one cache set
  ManyScratch(const ops::LinearSpec& s, int rows) {
    stride = (s.in + 3) / 4 * 4 + 32;
    scale = aligned(static_cast<size_t>(stride) * (rows + many_tile) * 2);
    wide = scale + aligned(4 * static_cast<size_t>(rows));
  }
};

inline bool w8_many_takes(const ops::LinearSpec& s, int rows, int workers) {
  if (rows < many_rows_min || s.in < 128) return false;
  const ManyScratch at(s, rows);
  return at.wide + aligned(4 * static_cast<size_t>(s.in)) * workers <= Scratch(s, scratch_rows(rows, workers)).bytes;
}

HEARTH_INLINE void quantise_row(const float* x, int n, float inverse, int16_t* q, int64_t padded) {
  int i = 0;
  const F low = splat(-127.0f), high = splat(127.0f);
  for (; i + lanes <= n; i += lanes) {
    const auto v = reinterpret_cast<__m256i>(round_to_int(minimum(maximum(load(x + i) * inverse, low), high)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i), _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
  }
  if (i < n) {
    const I v = round_to_int(minimum(maximum(load_some(x + i, n - i) * inverse, low), high));
    for (int j = 0; i + j < n; ++j) q[i + j] = static_cast<int16_t>(v[j]);
  }
  for (int64_t at = n; at < padded; ++at) q[at] = 0;
}

// Row `row` normed, quantised and kept; `wide` has room for one row.
HEARTH_INLINE void prepare_many(const ops::LinearSpec& s, const ops::LinearParams& p, const ManyScratch& at, uint8_t* base, int row, float* wide) {
  const float* x = wide;
  if (s.x_type == DType::f32) {
    x = static_cast<const float*>(p.x) + row * p.x_stride;
  } else {
    with_type(s.x_type, [&](auto* type) { widen_row(static_cast<const std::remove_pointer_t<decltype(type)>*>(p.x) + row * p.x_stride, s.in, wide); });
  }
  if (s.norm != ops::NormKind::none) {
    norm_row({s.norm, s.norm_epsilon, p.norm_weight, p.norm_bias}, x, s.in, wide);
    x = wide;
  }
  const Int8Scale by = s.static_scale > 0 ? Int8Scale{s.static_scale, 1.0f / s.static_scale} : int8_scale(largest_magnitude(x, s.in));
  reinterpret_cast<float*>(base + at.scale)[row] = by.scale;
  quantise_row(x, s.in, by.inverse, reinterpret_cast<int16_t*>(base) + row * at.stride, at.stride);
}

// `inputs` (a multiple of 4) of a block to pairs: [inputs / 2][16 outputs][2].
HEARTH_INLINE void widen_block(const uint8_t* quants, int inputs, int16_t* to) {
  for (int i = 0; i < inputs; i += 4, quants += 64, to += 64) {
    for (int h = 0; h < 2; ++h) {
      const auto* from = reinterpret_cast<const __m128i*>(quants + h * 32);
      const __m256 a = _mm256_castsi256_ps(_mm256_cvtepi8_epi16(_mm_loadu_si128(from))), b = _mm256_castsi256_ps(_mm256_cvtepi8_epi16(_mm_loadu_si128(from + 1)));
      const __m256i first = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88)), 0xd8);
      const __m256i second = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd)), 0xd8);
      _mm256_store_si256(reinterpret_cast<__m256i*>(to + h * 16), first);
      _mm256_store_si256(reinterpret_cast<__m256i*>(to + 32 + h * 16), second);
    }
  }
}

HEARTH_INLINE __m256i broadcast_pair(const int16_t* p) { return _mm256_castps_si256(_mm256_broadcast_ss(reinterpret_cast<const float*>(p))); }
HEARTH_INLINE __m256i add_products(__m256i sum, __m256i a, __m256i w) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, w)); }

// sums[6][16] (+)= six rows times `inputs` of a widened block. Twelve names, not an array: GCC keeps an array on the stack.
__attribute__((noinline)) inline void multiply_many(const int16_t* w, const int16_t* x, int64_t stride, int inputs, bool more, int32_t* sums) {
  auto* s = reinterpret_cast<__m256i*>(sums);
  __m256i a0{}, a1{}, b0{}, b1{}, c0{}, c1{}, d0{}, d1{}, e0{}, e1{}, f0{}, f1{};
  if (more) a0 = s[0], a1 = s[1], b0 = s[2], b1 = s[3], c0 = s[4], c1 = s[5], d0 = s[6], d1 = s[7], e0 = s[8], e1 = s[9], f0 = s[10], f1 = s[11];
  const int16_t* y = x + 3 * stride;
  for (int i = 0; i < inputs; i += 2, w += 32, x += 2, y += 2) {
    const __m256i w0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(w)), w1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(w + 16));
    __m256i v = broadcast_pair(x);
    a0 = add_products(a0, v, w0), a1 = add_products(a1, v, w1);
    v = broadcast_pair(x + stride);
    b0 = add_products(b0, v, w0), b1 = add_products(b1, v, w1);
    v = broadcast_pair(x + 2 * stride);
    c0 = add_products(c0, v, w0), c1 = add_products(c1, v, w1);
    v = broadcast_pair(y);
    d0 = add_products(d0, v, w0), d1 = add_products(d1, v, w1);
    v = broadcast_pair(y + stride);
    e0 = add_products(e0, v, w0), e1 = add_products(e1, v, w1);
    v = broadcast_pair(y + 2 * stride);
    f0 = add_products(f0, v, w0), f1 = add_products(f1, v, w1);
  }
  s[0] = a0, s[1] = a1, s[2] = b0, s[3] = b1, s[4] = c0, s[5] = c1, s[6] = d0, s[7] = d1, s[8] = e0, s[9] = e1, s[10] = f0, s[11] = f1;
}

// A panel's rows against one block, scaled: tile[rows][16]; sums in place become floats.
HEARTH_INLINE void multiply_panel(const ops::LinearSpec& s, const ManyScratch& at, const uint8_t* base, const uint8_t* block, int first, int rows,
                                  int16_t* wide, float* tile) {
  const uint8_t* quants = block + w8_layout(s.in).quants;
  auto* sums = reinterpret_cast<int32_t*>(tile);
  const int inputs = (s.in + 3) / 4 * 4;
  for (int k = 0; k < inputs; k += many_inputs) {
    const int count = inputs - k < many_inputs ? inputs - k : many_inputs;
    widen_block(quants + static_cast<size_t>(k) * block_rows, count, wide);
    for (int r = 0; r < rows; r += many_tile) {
      multiply_many(wide, reinterpret_cast<const int16_t*>(base) + (first + r) * at.stride + k, at.stride, count, k > 0, sums + r * block_rows);
    }
  }
  const auto* scales = reinterpret_cast<const float*>(block);
  const auto* scale = reinterpret_cast<const float*>(base + at.scale) + first;
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < block_rows; i += lanes) store(tile + r * block_rows + i, to_f32(load_i32(sums + r * block_rows + i)) * (scale[r] * load(scales + i)));
  }
}

inline void w8_many_run(const ops::LinearSpec& s, const ops::LinearParams& p, ops::Stream& stream) {
  const ManyScratch at(s, p.rows);
  auto* base = static_cast<uint8_t*>(p.workspace);
  const int per_unit = s.gated ? 2 : 1, panels = (p.rows + many_panel - 1) / many_panel;
  const int panel = ((p.rows + panels - 1) / panels + many_tile - 1) / many_tile * many_tile;
  const size_t bytes = w8_layout(s.in).bytes;
  ThreadPool& pool = device::pool_of(stream);
  pool.parallel([&](int worker, int) {
    auto* wide_row = reinterpret_cast<float*>(base + at.wide + aligned(4 * static_cast<size_t>(s.in)) * worker);
    pool.deal(worker, p.rows, 1, [&](int begin, int end) {
      for (int row = begin; row < end; ++row) prepare_many(s, p, at, base, row, wide_row);
    });
    // Rows of the last tile that are not there.
    if (worker == 0) std::memset(base + 2 * at.stride * p.rows, 0, 2 * static_cast<size_t>(at.stride) * many_tile);
    pool.barrier();
    alignas(64) int16_t wide[many_inputs * block_rows];
    alignas(64) float tile[2][many_panel * block_rows];
    pool.deal(worker, block_count(s).units, 1, [&](int begin, int end) {
      for (int first = 0; first < p.rows; first += panel) {
        const int rows = p.rows - first < panel ? p.rows - first : panel;
        for (int unit = begin; unit < end; ++unit) {
          const uint8_t* block = static_cast<const uint8_t*>(p.weight) + bytes * per_unit * unit;
          multiply_panel(s, at, base, block, first, rows, wide, tile[0]);
          if (s.gated) multiply_panel(s, at, base, block + bytes, first, rows, wide, tile[1]);
          epilogue(s, p, first, rows, unit * block_rows, tile[0], tile[1]);
        }
      }
    });
  });
}

}  // namespace hearth::kernels::cpu::HEARTH_ISA
