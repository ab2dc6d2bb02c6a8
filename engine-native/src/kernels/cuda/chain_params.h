// Parameters of linear_w4_chain.
#pragma once

#include "kernels/cuda/hopper_params.h"

namespace hearth::kernels::cuda {

// linear_w4_chain: consecutive w4 linears of a step as one kernel. Every cluster of two blocks takes `some` tiles of a
// phase, the first `more` clusters one more; the blocks share K.
constexpr int w4_chain_phases_max = 6, w4_chain_workers = 12;
struct W4ChainPhase {
  TensorMapBytes x, weight_few, weight_more;  // of `some` tiles, and of one more
  const float* factors; const float* bias;
  void* y; int64_t y_stride;
  // A residual whose norm the next phase wants: its rows times next_norm / 16 as 16-bit values, and each tile's sums of
  // squares, [tile][rows of the kernel].
  const float* next_norm; void* next_x; float* next_squares;
  const float* squares;                       // of the tiles of the phase before; nullptr: no norm, or the same as the phase before
  int squares_tiles, width;                   // that many of `width` values a row
  float norm_epsilon;
  int units, some, more, unit_bytes, stage_units;  // stage_units: of 128 k that a stage of the ring holds
  int columns, parts, tiles_warp;             // warps side by side, how many share k, tiles of a warp
  int chunk;                                  // eights of rows whose sums meet at a time, or
  int split_rows;                             // 1: the blocks of a pair finish half of the rows each
  int inbox;                                  // from a block's own sums to those that the other sends
  int after, normed;                          // the phase whose outputs it reads (-1: none); 1: its sums have the rows' factors
  int out, gated, residual, activation, y_type;
};
// The history that the attention after the chain reads, in a pool of blocks: `block_bytes` of keys and as many of values each.
struct W4ChainHistory {
  const void *k, *v;
  const int32_t *context, *block_table;
  int sequences, block_table_stride, window, block_tokens, block_bytes;  // no sequences: nothing is known of it
};
struct W4ChainArgs {
  int32_t* counters;                          // one a phase, then one of blocks that have ended; zero before and after
  long long* trace;                           // [block][phase][8] clocks, or nullptr
  int phases, rows, slots, slot_bytes;         // the ring's
  W4ChainHistory history;
  W4ChainPhase phase[w4_chain_phases_max];
};

}  // namespace hearth::kernels::cuda
