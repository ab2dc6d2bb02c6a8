// Dense linears of many rows on AVX2, where arithmetic bounds: 16 outputs' weights are turned to [inputs][16] in f32 once for
// all rows, then 6 rows x 16 outputs of sums fill the registers (Goto and van de Geijn 2008), with no sum across lanes.
// Inputs are taken in the order of the other tiles (dense.cpp): 16 sums, of every sixteenth input each, joined at the end.
#pragma once

#include "kernels/cpu/simd/linear.h"
#include "kernels/cpu/simd/transpose.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

// 768 inputs of six rows stay in L1; the sums of a panel, 1 KiB a row, in L2 beside the turned weights.
constexpr int dense_many_min = 24, dense_many_tile = 6, dense_many_panel = 16 * dense_many_tile, dense_many_inputs = 768;
constexpr int dense_many_sums = dense_many_tile * block_rows;  // of a tile

// Where turned inputs go, 16 outputs each: in their order, or those of a lane together.
struct InOrder {
  static constexpr int apart = block_rows;
  int at(int i) const { return i * block_rows; }
};
struct ByLane {
  int steps, apart;
  explicit ByLane(int inputs) : steps((inputs + sum_lanes - 1) / sum_lanes), apart(steps * block_rows) {}
  int at(int i) const { return (i % sum_lanes * steps + i / sum_lanes) * block_rows; }
  int inputs_of(int lane, int inputs) const { return (inputs - lane + sum_lanes - 1) / sum_lanes; }
};

// Inputs [k, k + inputs) of `outs` rows of weights, turned; outputs that are not there are zero.
template <class T, class Order>
HEARTH_INLINE void turn_weights(const T* w, int in, int outs, int k, int inputs, const Order& order, float* to) {
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < inputs; i += 8) {
      __m256 rows[8];
      for (int o = 0; o < 8; ++o) {
        const int out = half * 8 + o;
        const T* from = w + static_cast<int64_t>(out) * in + k + i;
        rows[o] = reinterpret_cast<__m256>(out >= outs ? F{} : inputs - i >= 8 ? load(from) : load_some(from, inputs - i));
      }
      transpose_square(rows, to + order.at(i) + half * 8, order.apart);
    }
  }
}

HEARTH_INLINE F add_product(F sum, F a, F w) {
  return reinterpret_cast<F>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(w), reinterpret_cast<__m256>(sum)));
}

// sums[6][16] (+)= every step-th value of six rows times `inputs` of turned weights. Twelve names, not an array: GCC keeps an
// array on the stack.
template <int step>
__attribute__((noinline)) void multiply_dense(const float* w, const float* const (&rows)[dense_many_tile], int inputs, bool more, float* s) {
  F a0{}, a1{}, b0{}, b1{}, c0{}, c1{}, d0{}, d1{}, e0{}, e1{}, f0{}, f1{};
  if (more) {
    a0 = load(s), a1 = load(s + 8), b0 = load(s + 16), b1 = load(s + 24), c0 = load(s + 32), c1 = load(s + 40);
    d0 = load(s + 48), d1 = load(s + 56), e0 = load(s + 64), e1 = load(s + 72), f0 = load(s + 80), f1 = load(s + 88);
  }
  const float *ra = rows[0], *rb = rows[1], *rc = rows[2], *rd = rows[3], *re = rows[4], *rf = rows[5];
  for (int i = 0; i < inputs * step; i += step, w += block_rows) {
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

// The 16 lanes' sums of a tile joined as sum_parts() joins the lanes of a vector.
HEARTH_INLINE void join_lanes(float* sums, float* tile) {
  for (int half = sum_lanes / 2; half > 0; half /= 2) {
    float* to = half > 1 ? sums : tile;
    for (int i = 0; i < half * dense_many_sums; i += lanes) store(to + i, load(sums + i) + load(sums + half * dense_many_sums + i));
  }
}

struct DenseScratch {
  alignas(64) float turned[dense_many_inputs * block_rows];
  alignas(64) float sums[dense_many_panel / dense_many_tile * sum_lanes * dense_many_sums];
};

// Rows [first, first + rows) against `outs` rows of weights: tile[rows][16], with room for whole tiles of six rows.
template <class T>
HEARTH_INLINE void dense_panel(const T* w, int in, int outs, const Operands& x, int first, int rows, DenseScratch& scratch, float* tile) {
  for (int k = 0; k < in; k += dense_many_inputs) {
    const int inputs = in - k < dense_many_inputs ? in - k : dense_many_inputs;
    const ByLane order(inputs);
    turn_weights(w, in, outs, k, inputs, order, scratch.turned);
    float* sums = scratch.sums;
    for (int r = 0; r < rows; r += dense_many_tile) {
      const float* at[dense_many_tile];
      // Rows after the last are the last again.
      for (int i = 0; i < dense_many_tile; ++i) at[i] = x.x + (first + (r + i < rows ? r + i : rows - 1)) * x.x_stride + k;
      for (int lane = 0; lane < sum_lanes; ++lane, sums += dense_many_sums) {
        multiply_dense<sum_lanes>(scratch.turned + order.at(lane), at, order.inputs_of(lane, inputs), k > 0, sums);
        for (const float*& row : at) ++row;
      }
    }
  }
  for (int r = 0; r < rows; r += dense_many_tile) join_lanes(scratch.sums + r / dense_many_tile * sum_lanes * dense_many_sums, tile + r * block_rows);
}

template <class T>
void dense_many(const ops::LinearSpec& s, const ops::LinearParams& p, const Operands& x, Range units) {
  const int width = s.gated ? s.out / 2 : s.out;
  const T* w = static_cast<const T*>(p.weight);
  DenseScratch scratch;
  alignas(64) float tile[2][dense_many_panel * block_rows];
  const int panels = (p.rows + dense_many_panel - 1) / dense_many_panel;
  const int panel = ((p.rows + panels - 1) / panels + dense_many_tile - 1) / dense_many_tile * dense_many_tile;
  for (int first = 0; first < p.rows; first += panel) {
    const int rows = p.rows - first < panel ? p.rows - first : panel;
    for (int column = units.begin * block_rows; column < units.end * block_rows && column < width; column += block_rows) {
      const int outs = width - column < block_rows ? width - column : block_rows;
      dense_panel(w + static_cast<int64_t>(column) * s.in, s.in, outs, x, first, rows, scratch, tile[0]);
      if (s.gated) dense_panel(w + static_cast<int64_t>(width + column) * s.in, s.in, outs, x, first, rows, scratch, tile[1]);
      epilogue(s, p, first, rows, column, tile[0], tile[1]);
    }
  }
}

}  // namespace hearth::kernels::cpu::HEARTH_ISA
