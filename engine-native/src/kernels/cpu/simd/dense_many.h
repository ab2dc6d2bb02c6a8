// Dense linears of many rows, where arithmetic bounds (AVX2 and AVX-512): weights of two vectors of outputs are turned to
// [inputs][outputs] in f32 once for a panel of rows, activations to [inputs][rows] once for all, then a tile's sums fill the
// registers (Goto and van de Geijn 2008), with no sum across lanes. Inputs are taken in the order of the other tiles
// (dense.cpp): 16 sums, of every sixteenth input each, joined at the end. So what is turned lies by lane: all inputs of the
// first sum, then those of the second.
#pragma once

#include "kernels/cpu/simd/linear.h"
#include "kernels/cpu/simd/transpose.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

// Rows of a tile and the room that one input of them takes; outputs of a tile; inputs turned at a time; rows of a panel, whose
// sums stay in L2 beside the turned weights.
constexpr int dense_many_min = 24, dense_many_tile = HEARTH_LANES == 16 ? 14 : 6, dense_many_slot = HEARTH_LANES;
constexpr int dense_many_outs = 2 * lanes, dense_many_blocks = dense_many_outs / block_rows, dense_many_inputs = 1024;
constexpr int dense_many_panel = HEARTH_LANES == 16 ? 14 * dense_many_tile : 16 * dense_many_tile;
constexpr int dense_many_sums = dense_many_tile * dense_many_outs;

// Where turned inputs go, `width` values each. From one lane to the next a line more, as a power of two would meet in one cache set.
struct ByLane {
  int steps, width, apart;
  ByLane(int inputs, int values) : steps((inputs + sum_lanes - 1) / sum_lanes), width(values), apart(steps * values + 16) {}
  int at(int i) const { return i % sum_lanes * apart + i / sum_lanes * width; }
  int padded() const { return steps * sum_lanes; }
  static constexpr size_t floats(int inputs, int values) { return sum_lanes * (static_cast<size_t>((inputs + sum_lanes - 1) / sum_lanes) * values + 16); }
};

// sums[tile][outputs] (+)= the rows at x times the weights at w, `steps` inputs. Names, not an array: GCC keeps an array on the
// stack.
#if HEARTH_LANES == 16
#define HEARTH_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13)
#else
#define HEARTH_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#endif
__attribute__((noinline)) inline void multiply_dense(const float* w, const float* x, int steps, bool more, float* s) {
#define HEARTH_START(r) \
  F low##r = more ? load(s + (r) * dense_many_outs) : F{}; \
  F high##r = more ? load(s + (r) * dense_many_outs + lanes) : F{};
#define HEARTH_ADD(r) \
  { \
    const F v = splat(x[r]); \
    low##r = fused(v, w0, low##r), high##r = fused(v, w1, high##r); \
  }
#define HEARTH_STORE(r) store(s + (r) * dense_many_outs, low##r), store(s + (r) * dense_many_outs + lanes, high##r);
  HEARTH_EACH_ROW(HEARTH_START)
  for (int i = 0; i < steps; ++i, w += dense_many_outs, x += dense_many_slot) {
    const F w0 = load(w), w1 = load(w + lanes);
    HEARTH_EACH_ROW(HEARTH_ADD)
  }
  HEARTH_EACH_ROW(HEARTH_STORE)
#undef HEARTH_START
#undef HEARTH_ADD
#undef HEARTH_STORE
}
#undef HEARTH_EACH_ROW

// A tile's 16 sums joined as sum_parts() joins the lanes of a vector, to tile[blocks][panel][16].
HEARTH_INLINE void join_lanes(float* sums, float* tile) {
  for (int half = sum_lanes / 2; half > 1; half /= 2) {
    for (int i = 0; i < half * dense_many_sums; i += lanes) store(sums + i, load(sums + i) + load(sums + half * dense_many_sums + i));
  }
  for (int r = 0; r < dense_many_tile; ++r) {
    for (int o = 0; o < dense_many_outs; o += lanes) {
      const float* from = sums + r * dense_many_outs + o;
      store(tile + o / block_rows * dense_many_panel * block_rows + r * block_rows + o % block_rows, load(from) + load(from + dense_many_sums));
    }
  }
}

// Activations turned for all workers: by tiles of rows, each by stretches of inputs.
struct DenseRows {
  int in;
  size_t tile;  // floats
  explicit DenseRows(int inputs) : in(inputs), tile(inputs / dense_many_inputs * stretch() + ByLane::floats(inputs % dense_many_inputs, dense_many_slot)) {}
  static constexpr size_t stretch() { return ByLane::floats(dense_many_inputs, dense_many_slot); }
  static int tiles(int rows) { return (rows + dense_many_tile - 1) / dense_many_tile; }
  size_t bytes(int rows) const { return aligned(4 * tile * tiles(rows)); }

  void turn(const float* x, int64_t stride, int rows, float* to) const {
    for (int k = 0; k < in; k += dense_many_inputs, to += stretch()) {
      const int inputs = in - k < dense_many_inputs ? in - k : dense_many_inputs;
      turn_rows(x + k, stride, rows, dense_many_tile, inputs, ByLane(inputs, dense_many_slot), to);
    }
  }
};

struct DenseScratch {
  alignas(64) float turned[ByLane::floats(dense_many_inputs, dense_many_outs)];
  alignas(64) float sums[dense_many_panel / dense_many_tile * sum_lanes * dense_many_sums];
};

// Weights that will be turned next, brought to the L2 cache while others are multiplied: more rows than the processor sees as streams.
template <class T>
struct DenseAhead {
  const T* from;
  int64_t stride;
  int lines, left;  // of a row; of all
  int row = 0, line = 0;
  DenseAhead(const T* at, int64_t row_stride, int rows, int inputs) : from(at), stride(row_stride), lines((inputs * static_cast<int>(sizeof(T)) + 63) / 64), left(rows * lines) {}
  void fetch(int count) {
    for (count = count < left ? count : left, left -= count; count > 0; --count) {
      _mm_prefetch(reinterpret_cast<const char*>(from + row * stride) + line * 64, _MM_HINT_T1);
      if (++line == lines) line = 0, ++row;
    }
  }
};

// Tiles [first, last) of rows against `outs` outputs' weights: tile[blocks][panel][16]. `next`: `next_outs` outputs' weights that come after.
template <class T>
HEARTH_INLINE void dense_panel(const T* w, const DenseRows& rows, int outs, const T* next, int next_outs, const float* x, int first, int last, DenseScratch& scratch, float* tile) {
  for (int k = 0; k < rows.in; k += dense_many_inputs) {
    const int inputs = rows.in - k < dense_many_inputs ? rows.in - k : dense_many_inputs;
    const ByLane by_outs(inputs, dense_many_outs), by_rows(inputs, dense_many_slot);
    turn_rows(w + k, rows.in, outs, dense_many_outs, inputs, by_outs, scratch.turned);
    const float* from = x + first * rows.tile + k / dense_many_inputs * DenseRows::stretch();
    const bool more = k + inputs < rows.in;
    const int ahead_inputs = !more ? rows.in : rows.in - k - inputs;
    DenseAhead<T> ahead(more ? w + k + inputs : next, rows.in, more ? outs : next_outs, ahead_inputs < dense_many_inputs ? ahead_inputs : dense_many_inputs);
    const int share = ahead.left / (sum_lanes * (last - first)) + 1;
    for (int lane = 0; lane < sum_lanes; ++lane) {
      for (int t = 0; t < last - first; ++t) {
        ahead.fetch(share);
        multiply_dense(scratch.turned + lane * by_outs.apart, from + t * rows.tile + lane * by_rows.apart, by_rows.steps, k > 0,
                       scratch.sums + (t * sum_lanes + lane) * dense_many_sums);
      }
    }
  }
  for (int t = 0; t < last - first; ++t) join_lanes(scratch.sums + t * sum_lanes * dense_many_sums, tile + t * dense_many_tile * block_rows);
}

// A worker's outputs of all rows; x as DenseRows turned them.
template <class T>
void dense_many(const ops::LinearSpec& s, const ops::LinearParams& p, const float* x, Range units) {
  const int width = s.gated ? s.out / 2 : s.out, end = units.end * block_rows < width ? units.end * block_rows : width;
  const T* w = static_cast<const T*>(p.weight);
  const DenseRows rows(s.in);
  DenseScratch scratch;
  alignas(64) float tile[2][dense_many_panel * dense_many_outs];
  constexpr int panel_tiles = dense_many_panel / dense_many_tile;
  const int tiles = DenseRows::tiles(p.rows), panels = (tiles + panel_tiles - 1) / panel_tiles, panel = (tiles + panels - 1) / panels;
  for (int first = 0; first < tiles; first += panel) {
    const int last = first + panel < tiles ? first + panel : tiles, row = first * dense_many_tile;
    const int count = last * dense_many_tile < p.rows ? (last - first) * dense_many_tile : p.rows - row;
    for (int column = units.begin * block_rows; column < end; column += dense_many_outs) {
      const int outs = end - column < dense_many_outs ? end - column : dense_many_outs;
      const int left = end - column - outs, next_outs = left < dense_many_outs ? left : dense_many_outs;
      const T *here = w + static_cast<int64_t>(column) * s.in, *up = here + static_cast<int64_t>(width) * s.in, *next = here + static_cast<int64_t>(outs) * s.in;
      dense_panel(here, rows, outs, s.gated ? up : next, s.gated ? outs : next_outs, x, first, last, scratch, tile[0]);
      if (s.gated) dense_panel(up, rows, outs, next, next_outs, x, first, last, scratch, tile[1]);
      epilogue(s, p, row, count, column, tile[0], tile[1], (outs + block_rows - 1) / block_rows, dense_many_panel * block_rows);
    }
  }
}

}  // namespace hearth::kernels::cpu::HEARTH_ISA
