// What panels of attention within segments share: a worker's memory, and the walk over chunks of keys that stay in the L2
// cache, with online softmax between them (Milakov and Gimelshein 2018). A panel says how a chunk is loaded and how a tile
// of rows attends to it. A row's result depends on its segment alone, not on how rows are shared between workers.
#pragma once

#include "kernels/cpu/simd/vec.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

constexpr int seen_keys = 256, seen_block = 16;  // keys of a chunk; keys or dims that lie side by side

// One worker's memory: keys turned [keys / 16][dim][16], values [dim / 16][keys][16], the output sums of a panel of `rows`
// [rows / tile][dim / 16][tile][16] and each row's best score and sum of weights.
template <int rows>
struct SeenScratchOf {
  size_t v, out, best, total, bytes;
  explicit SeenScratchOf(int head_dim) {
    const size_t dim = (static_cast<size_t>(head_dim) + seen_block - 1) / seen_block * seen_block;
    v = aligned(4 * dim * seen_keys);
    out = 2 * v;
    best = out + aligned(4 * dim * rows);
    total = best + aligned(4 * rows);
    bytes = total + aligned(4 * rows) + 64;  // aligned by who takes it
  }
};

// A head's rows of one segment: [rows][dim] each, q scaled. dim is a multiple of 8.
struct SeenHead { const float *q, *k, *v; int dim, keys; };

// `Panel` has load_chunk(first, keys) and attend(row, end, panel_row, first, keys): rows [row, row + tile) of the segment,
// rows after `end` being the last again, against the chunk. Keys and values are kept as `Value`.
template <class Panel, class Head, class Value, int tile, int rows>
struct SeenFrame {
  Head head;
  Value *k, *v;
  float *out, *best, *total;
  int dims;  // blocks of 16
  SeenFrame(const Head& of, uint8_t* memory) : head(of), dims((of.dim + seen_block - 1) / seen_block) {
    const SeenScratchOf<rows> at(of.dim);
    k = reinterpret_cast<Value*>(memory), v = reinterpret_cast<Value*>(memory + at.v), out = reinterpret_cast<float*>(memory + at.out);
    best = reinterpret_cast<float*>(memory + at.best), total = reinterpret_cast<float*>(memory + at.total);
  }

  // A panel row's sums, divided by the sum of its weights.
  template <class X>
  void give_row(int row, X* to) const {
    const float factor = 1.0f / total[row];
    const float* sums = out + static_cast<int64_t>(row / tile * tile) * dims * seen_block + row % tile * seen_block;
    for (int d = 0; d < head.dim; d += lanes) {
      const F value = load(sums + d / seen_block * tile * seen_block + d % seen_block) * factor;
      if (head.dim - d >= lanes) store(to + d, value);
      else store_some(to + d, value, head.dim - d);
    }
  }

  // Rows [begin, end) of the segment, at most a panel; row i's output goes to to + (i - begin) * stride.
  template <class X>
  void run(int begin, int end, X* to, int64_t stride) {
    Panel& panel = static_cast<Panel&>(*this);
    for (int i = 0; i < rows; ++i) best[i] = -INFINITY, total[i] = 0;
    for (int first = 0; first < head.keys; first += seen_keys) {
      const int keys = head.keys - first < seen_keys ? head.keys - first : seen_keys;
      panel.load_chunk(first, keys);
      for (int row = begin; row < end; row += tile) panel.attend(row, end, row - begin, first, keys);
    }
    for (int row = begin; row < end; ++row) give_row(row - begin, to + (row - begin) * stride);
  }
};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
