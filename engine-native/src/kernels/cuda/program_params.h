// A decode step of few rows as one launch: linears and attentions in the order of the model, run by one block a
// multiprocessor (sm80/decode_program.cuh). The whole program is the kernel's parameter, so nothing has to be kept alive.
#pragma once

#include "kernels/cuda/params.h"

namespace hearth::kernels::cuda {

enum : int { phase_linear = 0, phase_attention = 1 };

constexpr int program_workers = 16;                              // warps that multiply
// Warps that load, one with bulk copies, two otherwise; the other ones of four add up the workers' sums and store.
HEARTH_HOST_DEVICE constexpr int program_loaders(bool bulk) { return bulk ? 1 : 2; }
HEARTH_HOST_DEVICE constexpr int program_finishers(bool bulk) { return 4 - program_loaders(bulk); }
constexpr int program_threads = (program_workers + 4) * 32;
constexpr int program_rows_max = 4;
constexpr int program_split_blocks = 8;                          // KV blocks at least of a part of a context that blocks share
constexpr int program_heads = 8;                                 // query heads of one attention item
constexpr int program_slots_max = 24, program_phases_max = 320, program_shapes_max = 12;
constexpr int dense_unit = 512;                                  // k of one ring slot of 16-bit weights
constexpr int program_control_bytes = 4096;                      // of shared memory, followed by the shapes, the phases, the ring

// Sums of a tile: [row of activations][row of the tile][worker], rows `sum_pitch` floats apart: other banks.
constexpr int sum_pitch = program_workers + 4;
HEARTH_HOST_DEVICE constexpr int program_sum_bytes(int rows) { return rows * 16 * sum_pitch * 4; }
// Of an attention's head in shared memory: its query, and largest and sum by worker. Two heads' queries are in different banks.
HEARTH_HOST_DEVICE constexpr int attention_head_bytes(int padded_dim) { return padded_dim * 2 + 192; }
// Rows for which a product has columns, and shared memory room.
HEARTH_HOST_DEVICE constexpr int program_columns(int rows) { return rows <= 2 ? 2 : program_rows_max; }
constexpr int program_trace_at = 3 << 20, program_trace_all_at = program_trace_at + (1 << 16);  // words of the exchange: a block's points, all blocks'
constexpr int program_sum_slots_max = 8;

// Of a linear: group (dense, 128, 64 or 32 of 4 bits), rows (1, 2 or up to 4), slots of up to two units a worker, tiles of one
// slot, input that an earlier kernel left. Of an attention: cache of 8 bits, heads of more than 64, those of 64 or 128 turned by halves.
enum : int { form_dense = 0, form_128 = 1, form_64 = 2, form_32 = 3, form_groups = 3, form_one = 0, form_two = 4, form_four = 8, form_rows = 12, form_pairs = 16, form_steady = 32, form_loads = 64 };
enum : int { form_int8 = 1, form_wide = 2, form_quick = 4 };

// What the linears of all layers have in common, kept once. group 0: dense, 16 bits.
struct LinearShape {
  int32_t units, in, out, tiles;      // units of 128 k (dense: dense_unit) a tile
  int32_t per, extra;                 // tiles of a block; `extra` blocks from the phase's start on have one more
  int32_t x_stride, y_stride, factors_at;  // bytes from the weights to the rows' factors; 0: none
  float norm_epsilon;
  int16_t unit_bytes, group;
  int8_t x_type, y_type, norm, activation, gated, residual;
};
struct AttentionShape {
  void* qkv; void* out; const float* inverse_frequency;
  float scale, rope_amplitude;
  int32_t window;
};
struct ProgramShape {
  union { LinearShape linear; AttentionShape attention; };
};

struct LinearPhase { const void *weight, *x; void* y; const float *norm_weight, *bias, *next_norm; };
struct AttentionPhase { void *k, *v; float *k_scale, *v_scale; const float *q_norm, *k_norm; };
// from, to: where in the exchange the phase's input and output are, in words (see decode_program_exchange.cuh); -1: not
// there. An output's squares by tile follow its rows. reset: words that nobody reads any more (of a linear). parts: what
// blocks that share a context send to one of them (of an attention). spares: blocks that attend next have fewer of its tiles.
// form: of a linear or an attention, which of the functions of its kind does it.
struct alignas(8) ProgramPhase {
  int8_t kind, shape, to_plain, keeps;  // to_plain: the exchange in the order of memory; keeps: the output is stored, too
  int16_t start;
  int8_t spares;
  uint8_t form;
  int32_t from, to;
  union { int32_t reset_begin, parts; };
  int32_t reset_end;
  union { LinearPhase linear; AttentionPhase attention; };
};
struct Program {
  AttentionArgs attention;            // template
  uint32_t* exchange;                 // all zero before and after
  int32_t* ended;                     // zero; set back by the last block
  int32_t phases, rows, slots, slot_bytes, flight, attention_bytes;  // attention_bytes: one KV block of one head in the ring
  int32_t reset_begin, reset_end;     // by the last block
  int32_t sum_slots;                  // tiles whose sums may wait for the finishers
  int32_t slot_units;                 // of a w4 linear in a slot of the ring: one or two a worker
  int32_t unit_sums, group_sums_bytes, x_stride;  // of activations in shared memory: sums of 128 k, of all, then rows
  int32_t history_flight;             // flight: slots of weights being loaded at a time; of KV history: this many
  int32_t more;                       // slots beyond `flight` while nobody in the block waits for activations
  ProgramShape shape[program_shapes_max];
  ProgramPhase phase[program_phases_max];
};
static_assert(sizeof(ProgramPhase) == 72 && sizeof(Program) <= 32764, "kernel parameters are at most 32,764 bytes");

constexpr int program_shapes_bytes = program_shapes_max * static_cast<int>(sizeof(ProgramShape));
HEARTH_HOST_DEVICE constexpr int program_ring_at(int phases) {
  return (program_control_bytes + program_shapes_bytes + phases * static_cast<int>(sizeof(ProgramPhase)) + 127) / 128 * 128;
}

// Of an output of `rows` rows: words, then its tiles' sums of squares.
HEARTH_HOST_DEVICE constexpr int exchange_words(int rows, int width, int tiles) { return (rows * (width / 2 + tiles) + 31) / 32 * 32; }

}  // namespace hearth::kernels::cuda
