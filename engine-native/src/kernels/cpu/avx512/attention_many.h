// Attention within segments of a vision tower on AVX-512 (simd/seen.h): as avx2/attention_many.h with tiles of 12 x 16
// sums, taken in the same order.
#pragma once

#include "kernels/cpu/simd/seen.h"
#include "kernels/cpu/simd/transpose.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

constexpr int seen_tile = 12, seen_rows = 32 * seen_tile;  // rows of a tile and of a panel
using SeenScratch = SeenScratchOf<seen_rows>;

// sums[12][16] (+)= twelve rows times `inputs` of weights [inputs][16]. Twelve names, not an array: GCC keeps an array on
// the stack.
#define HEARTH_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
__attribute__((noinline)) inline void multiply_seen(const float* w, const float* const (&rows)[seen_tile], int inputs, bool more, float* s) {
#define HEARTH_START(j) F sum##j = more ? load(s + (j) * lanes) : F{}; const float* row##j = rows[j];
#define HEARTH_ADD(j) sum##j = fused(splat(row##j[i]), now, sum##j);
#define HEARTH_STORE(j) store(s + (j) * lanes, sum##j);
  HEARTH_EACH_ROW(HEARTH_START)
  for (int i = 0; i < inputs; ++i, w += lanes) {
    const F now = load(w);
    HEARTH_EACH_ROW(HEARTH_ADD)
  }
  HEARTH_EACH_ROW(HEARTH_STORE)
#undef HEARTH_START
#undef HEARTH_ADD
#undef HEARTH_STORE
}
#undef HEARTH_EACH_ROW

struct SeenPanel : SeenFrame<SeenPanel, SeenHead, float, seen_tile, seen_rows> {
  using SeenFrame::SeenFrame;

  void load_chunk(int first, int keys) {
    for (int at = 0; at < keys; at += square) {
      static const float none[head_dim_max] = {};
      const float* rows[square];
      for (int i = 0; i < square; ++i) rows[i] = at + i < keys ? head.k + static_cast<int64_t>(first + at + i) * head.dim : none;
      float* to = k + static_cast<int64_t>(at / lanes * lanes) * head.dim + at % lanes;
      for (int d = 0; d < head.dim; d += square) transpose_square(rows, d, to + d * lanes, lanes);
    }
    for (int block = 0; block < dims; ++block) {
      const int d = block * lanes, here = head.dim - d;
      for (int i = 0; i < keys; ++i) {
        const float* from = head.v + static_cast<int64_t>(first + i) * head.dim + d;
        store(v + (static_cast<int64_t>(block) * seen_keys + i) * lanes, here >= lanes ? load(from) : load_some(from, here));
      }
    }
  }

  // Scores [keys / 16][12][16] of a tile's row to weights [keys]; the row's sums so far shrink by the result.
  float soften(float* score, int row_of_tile, int keys, float* weight, float& high, float& sum) const {
    const int blocks = (keys + lanes - 1) / lanes, stride = seen_tile * lanes;
    float* from = score + row_of_tile * lanes;
    for (int i = keys % lanes; i > 0 && i < lanes; ++i) from[(blocks - 1) * stride + i] = -INFINITY;
    F top = splat(high);
    for (int b = 0; b < blocks; ++b) top = maximum(top, load(from + b * stride));
    const float best_now = largest(top);
    F sums[parts] = {};
    for (int b = 0; b < blocks; ++b) {
      const F e = exponential(load(from + b * stride) - best_now);
      store(weight + b * lanes, e);
      sums[0] += e;
    }
    const float shrink = high == -INFINITY ? 0.0f : exponential(splat(high - best_now))[0];
    sum = sum * shrink + sum_parts(sums);
    high = best_now;
    return shrink;
  }

  void attend(int row, int end, int panel_row, int first, int keys) {
    const bool first_chunk = first == 0;
    alignas(64) float score[seen_keys * seen_tile], weight[seen_tile][seen_keys];
    const float* rows[seen_tile];
    for (int i = 0; i < seen_tile; ++i) rows[i] = head.q + static_cast<int64_t>(row + i < end ? row + i : end - 1) * head.dim;
    for (int at = 0; at < keys; at += lanes) multiply_seen(k + static_cast<int64_t>(at) * head.dim, rows, head.dim, false, score + at * seen_tile);
    float* sums = out + static_cast<int64_t>(panel_row) * dims * lanes;
    for (int i = 0; i < seen_tile; ++i) {
      const float shrink = soften(score, i, keys, weight[i], best[panel_row + i], total[panel_row + i]);
      rows[i] = weight[i];
      for (int block = 0; !first_chunk && block < dims; ++block) {
        float* at = sums + (block * seen_tile + i) * lanes;
        store(at, load(at) * shrink);
      }
    }
    for (int block = 0; block < dims; ++block) {
      multiply_seen(v + static_cast<int64_t>(block) * seen_keys * lanes, rows, keys, !first_chunk, sums + block * seen_tile * lanes);
    }
  }
};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
