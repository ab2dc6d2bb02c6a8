// Attention within segments of a vision tower on AVX2 (simd/seen.h): both products by tiles of 6 x 16 sums, or
// by int8_many.h's.
#pragma once

#include "kernels/cpu/avx2/int8_many.h"
#include "kernels/cpu/simd/seen.h"
#include "kernels/cpu/simd/transpose.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

static_assert(block_rows == seen_block);
constexpr int seen_tile = many_tile, seen_rows = 64 * seen_tile;  // rows of a tile and of a panel
using SeenScratch = SeenScratchOf<seen_rows>;

// Inputs that are turned stay in their order, 16 values each.
struct InOrder {
  static constexpr int apart = block_rows;
  int inputs;
  int at(int i) const { return i * block_rows; }
  int padded() const { return inputs; }
};

HEARTH_INLINE F add_product(F sum, F a, F w) {
  return reinterpret_cast<F>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(w), reinterpret_cast<__m256>(sum)));
}

// sums[6][16] (+)= six rows times `inputs` of weights [inputs][16]. Twelve names, not an array: GCC keeps an
// array on the stack.
__attribute__((noinline)) inline void multiply_seen(const float* w, const float* const (&rows)[seen_tile], int inputs, bool more, float* s) {
  F a0{}, a1{}, b0{}, b1{}, c0{}, c1{}, d0{}, d1{}, e0{}, e1{}, f0{}, f1{};
  if (more) {
    a0 = load(s), a1 = load(s + 8), b0 = load(s + 16), b1 = load(s + 24), c0 = load(s + 32), c1 = load(s + 40);
    d0 = load(s + 48), d1 = load(s + 56), e0 = load(s + 64), e1 = load(s + 72), f0 = load(s + 80), f1 = load(s + 88);
  }
  const float *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3], *re = rows[4], *rf = rows[5];
  for (int i = 0; i < inputs; ++i, w += block_rows) {
    const F w0 = load(w), w1 = load(w + 8);
    F v = splat(ra[i]);
    a0 = add_product(a0, v, w0), a1 = add_product(a1, v, w1);
    v = splat(rb[i]);
    b0 = add_product(b0, v, w0), b1 = add_product(b1, v, w1);
    v = splat(rc[i]);
    c0 = add_product(c0, v, w0), c1 = add_product(c1, v, w1);
    v = splat(rd[i]);
    d0 = add_product(d0, v, w0), d1 = add_product(d1, v, w1);
    v = splat(re[i]);
    e0 = add_product(e0, v, w0), e1 = add_product(e1, v, w1);
    v = splat(rf[i]);
    f0 = add_product(f0, v, w0), f1 = add_product(f1, v, w1);
  }
  store(s, a0), store(s + 8, a1), store(s + 16, b0), store(s + 24, b1), store(s + 32, c0), store(s + 40, c1);
  store(s + 48, d0), store(s + 56, d1), store(s + 64, e0), store(s + 72, e1), store(s + 80, f0), store(s + 88, f1);
}

struct SeenPanel : SeenFrame<SeenPanel, SeenHead, float, seen_tile, seen_rows> {
  using SeenFrame::SeenFrame;

  void load_chunk(int first, int keys) {
    for (int at = 0; at < keys; at += block_rows) {
      const int here = keys - at < block_rows ? keys - at : block_rows;
      turn_rows(head.k + static_cast<int64_t>(first + at) * head.dim, head.dim, here, block_rows, head.dim, InOrder{head.dim}, k + static_cast<int64_t>(at) * head.dim);
    }
    for (int block = 0; block < dims; ++block) {
      for (int i = 0; i < keys; ++i) {
        const float* from = head.v + static_cast<int64_t>(first + i) * head.dim + block * block_rows;
        float* to = v + (static_cast<int64_t>(block) * seen_keys + i) * block_rows;
        for (int part = 0; part < block_rows; part += lanes) store(to + part, block * block_rows + part < head.dim ? load(from + part) : F{});
      }
    }
  }

  // Scores [keys / 16][6][16] of a tile's row to weights [keys]; the row's sums so far shrink by the result.
  float soften(float* score, int row_of_tile, int keys, float* weight, float& high, float& sum) const {
    const int blocks = (keys + block_rows - 1) / block_rows, stride = seen_tile * block_rows;
    float* from = score + row_of_tile * block_rows;
    for (int i = keys % block_rows; i > 0 && i < block_rows; ++i) from[(blocks - 1) * stride + i] = -INFINITY;
    F top0 = splat(high), top1 = top0;
    for (int b = 0; b < blocks; ++b) top0 = maximum(top0, load(from + b * stride)), top1 = maximum(top1, load(from + b * stride + lanes));
    const float best_now = largest(maximum(top0, top1));
    F sum0{}, sum1{};
    for (int b = 0; b < blocks; ++b) {
      const F e0 = exponential(load(from + b * stride) - best_now), e1 = exponential(load(from + b * stride + lanes) - best_now);
      store(weight + b * block_rows, e0), store(weight + b * block_rows + lanes, e1);
      sum0 += e0, sum1 += e1;
    }
    const float shrink = high == -INFINITY ? 0.0f : exponential(splat(high - best_now))[0];
    sum = sum * shrink + hearth::kernels::cpu::HEARTH_ISA::sum(sum0 + sum1);
    high = best_now;
    return shrink;
  }

  void attend(int row, int end, int panel_row, int first, int keys) {
    const bool first_chunk = first == 0;
    alignas(64) float score[seen_keys * seen_tile], weight[seen_tile][seen_keys];
    const float* rows[seen_tile];
    for (int i = 0; i < seen_tile; ++i) rows[i] = head.q + static_cast<int64_t>(row + i < end ? row + i : end - 1) * head.dim;
    for (int at = 0; at < keys; at += block_rows) {
      multiply_seen(k + static_cast<int64_t>(at) * head.dim, rows, head.dim, false, score + at * seen_tile);
    }
    float* sums = out + static_cast<int64_t>(panel_row) * dims * block_rows;
    for (int i = 0; i < seen_tile; ++i) {
      const float shrink = soften(score, i, keys, weight[i], best[panel_row + i], total[panel_row + i]);
      rows[i] = weight[i];
      for (int part = 0; !first_chunk && part < dims * block_rows; part += lanes) {
        float* at = sums + part / block_rows * seen_tile * block_rows + i * block_rows + part % block_rows;
        store(at, load(at) * shrink);
      }
    }
    for (int block = 0; block < dims; ++block) {
      multiply_seen(v + static_cast<int64_t>(block) * seen_keys * block_rows, rows, keys, !first_chunk, sums + block * seen_tile * block_rows);
    }
  }
};

// ---- Int8 products ----
//
// Queries, keys and values rounded to int8 with one scale a row and head, sums exact; weights times the values' scales are
// rounded to 14 bits.

// A head's rows of one segment: [rows][dim] int16 of int8 size, and their scales (q's with the softmax's factor).
struct RoundedHead { const int16_t *q, *k, *v; const float *q_scale, *k_scale, *v_scale; int dim, keys; };

constexpr float weight_steps = 16383.0f;  // 2 * 16383 * 127 * 128 pairs of a chunk fit int32

// Two rows of values zipped to pairs, 16 dims: `b` may be nullptr.
HEARTH_INLINE void zip_values(const int16_t* a, const int16_t* b, int16_t* to) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a));
  const __m256i y = b ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)) : _mm256_setzero_si256();
  const __m256i low = _mm256_unpacklo_epi16(x, y), high = _mm256_unpackhi_epi16(x, y);
  _mm256_store_si256(reinterpret_cast<__m256i*>(to), _mm256_permute2x128_si256(low, high, 0x20));
  _mm256_store_si256(reinterpret_cast<__m256i*>(to + 16), _mm256_permute2x128_si256(low, high, 0x31));
}

// k and v hold pairs: [keys / 16][dim / 2][16][2], [dim / 16][keys / 2][16][2].
struct RoundedPanel : SeenFrame<RoundedPanel, RoundedHead, int16_t, seen_tile, seen_rows> {
  using SeenFrame::SeenFrame;
  float largest_value = 0;  // scale of a chunk's values

  void load_chunk(int first, int keys) {
    const int pairs = head.dim / 2;
    for (int at = 0; at < keys; at += block_rows) {  // pairs move as floats do
      const auto* from = reinterpret_cast<const float*>(head.k + static_cast<int64_t>(first + at) * head.dim);
      turn_rows(from, pairs, keys - at < block_rows ? keys - at : block_rows, block_rows, pairs, InOrder{pairs}, reinterpret_cast<float*>(k + static_cast<int64_t>(at) * head.dim));
    }
    alignas(32) int16_t part[2][block_rows];
    for (int block = 0; block < dims; ++block) {
      const int d = block * block_rows, here = head.dim - d < block_rows ? head.dim - d : block_rows;
      for (int i = 0; i < keys; i += 2) {
        const int16_t *a = head.v + static_cast<int64_t>(first + i) * head.dim + d, *b = i + 1 < keys ? a + head.dim : nullptr;
        if (here < block_rows) {
          std::memset(part, 0, sizeof(part));
          std::memcpy(part[0], a, 2 * static_cast<size_t>(here));
          if (b) std::memcpy(part[1], b, 2 * static_cast<size_t>(here));
          a = part[0], b = part[1];
        }
        zip_values(a, b, v + (static_cast<int64_t>(block) * seen_keys + i) * block_rows);
      }
    }
    largest_value = largest_magnitude(head.v_scale + first, keys);
  }

  // As SeenPanel::soften, from integer sums to rounded weights.
  float soften(int32_t* score, int row_of_tile, float scale, int first, int keys, int16_t* weight, float& high, float& sum) const {
    const int blocks = (keys + block_rows - 1) / block_rows, stride = seen_tile * block_rows;
    alignas(64) float scaled[seen_keys];
    F top = splat(high);
    for (int i = 0; i < blocks * block_rows; i += lanes) {
      const F by = i + lanes <= keys ? load(head.k_scale + first + i) : i < keys ? load_some(head.k_scale + first + i, keys - i) : F{};
      F x = to_f32(load_i32(score + i / block_rows * stride + row_of_tile * block_rows + i % block_rows)) * (by * scale);
      for (int j = keys - i; j >= 0 && j < lanes; ++j) x[j] = -INFINITY;
      if (i >= keys) x = splat(-INFINITY);
      store(scaled + i, x);
      top = maximum(top, x);
    }
    const float best_now = largest(top), steps = largest_value > 0 ? weight_steps / largest_value : 0.0f;
    F sums{};
    for (int i = 0; i < blocks * block_rows; i += lanes) {
      const F e = exponential(load(scaled + i) - best_now);
      const F by = i + lanes <= keys ? load(head.v_scale + first + i) : i < keys ? load_some(head.v_scale + first + i, keys - i) : F{};
      sums += e;
      store_u16(weight + i, reinterpret_cast<U>(round_to_int(e * (by * steps))));
    }
    const float shrink = high == -INFINITY ? 0.0f : exponential(splat(high - best_now))[0];
    sum = sum * shrink + hearth::kernels::cpu::HEARTH_ISA::sum(sums);
    high = best_now;
    return shrink;
  }

  void attend(int row, int end, int panel_row, int first, int keys) {
    alignas(64) int32_t score[seen_keys * seen_tile], product[seen_tile * block_rows];
    alignas(64) int16_t weight[seen_tile][seen_keys], query[seen_tile * head_dim_max];
    for (int i = 0; i < seen_tile; ++i) {
      std::memcpy(query + i * head.dim, head.q + static_cast<int64_t>(row + i < end ? row + i : end - 1) * head.dim, 2 * static_cast<size_t>(head.dim));
    }
    for (int at = 0; at < keys; at += block_rows) multiply_many(k + static_cast<int64_t>(at) * head.dim, query, head.dim, head.dim, false, score + at * seen_tile);
    float shrink[seen_tile];
    for (int i = 0; i < seen_tile; ++i) {
      const float scale = head.q_scale[row + i < end ? row + i : end - 1];
      shrink[i] = soften(score, i, scale, first, keys, weight[i], best[panel_row + i], total[panel_row + i]);
    }
    float* sums = out + static_cast<int64_t>(panel_row) * dims * block_rows;
    const float step = largest_value / weight_steps;
    for (int block = 0; block < dims; ++block, sums += seen_tile * block_rows) {
      multiply_many(v + static_cast<int64_t>(block) * seen_keys * block_rows, weight[0], seen_keys, (keys + 1) / 2 * 2, false, product);
      for (int i = 0; i < seen_tile * block_rows; i += lanes) {
        const F now = to_f32(load_i32(product + i)) * step;
        store(sums + i, first == 0 ? now : load(sums + i) * shrink[i / block_rows] + now);
      }
    }
  }
};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
