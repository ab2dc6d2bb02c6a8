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
constexpr int program_rows_max = 8;
constexpr int program_split_blocks = 8;                          // KV blocks at least of a part of a context that blocks share
constexpr int program_parts_max = 8;                             // blocks that share the K of their tiles
constexpr int program_heads = 8;                                 // query heads of one attention item
constexpr int program_slots_max = 24, program_phases_max = 320, program_attentions_max = 128, program_shapes_max = 12;
constexpr int dense_unit = 512;                                  // k of one ring slot of 16-bit weights
constexpr int program_control_bytes = 2048;                      // of shared memory, followed by the shapes, the phases, the attentions, rope's turns, the ring
constexpr int program_turns_bytes = 64 * 8;                       // of a row

// More than four rows are finished by fours.
HEARTH_HOST_DEVICE constexpr int program_fours(int rows) { return rows <= 4 ? 1 : 2; }
HEARTH_HOST_DEVICE constexpr int program_four(int rows) { return rows < 4 ? rows : 4; }
// Sums of a tile: [row of activations][row of the tile][worker], rows `sum_pitch` floats apart: other banks.
constexpr int sum_pitch = program_workers + 4;
HEARTH_HOST_DEVICE constexpr int program_sum_bytes(int rows) { return (rows <= 4 ? rows : 8) * 16 * sum_pitch * 4; }
// Of an attention's head in shared memory: its query, and largest and sum by worker. Two heads' queries are in different banks.
HEARTH_HOST_DEVICE constexpr int attention_head_bytes(int padded_dim) { return padded_dim * 2 + 192; }
// Rows for which a product has columns, and shared memory room.
HEARTH_HOST_DEVICE constexpr int program_columns(int rows) { return rows <= 2 ? 2 : 4; }
constexpr int program_trace_at = 15 << 19, program_trace_all_at = program_trace_at + (1 << 16);  // words of the exchange: a block's points, all blocks'
constexpr int program_sum_slots_max = 8;

// Of a linear: group (dense, 128, 64 or 32 of 4 bits), rows (1, 2, up to 4, or any as columns of 16 bits), slots of up to two units a worker, tiles of one
// slot, input that an earlier kernel left. Of an attention: cache of 8 bits, heads of more than 64, those of 64 or 128 turned by halves.
enum : int { form_dense = 0, form_128 = 1, form_64 = 2, form_32 = 3, form_groups = 3, form_one = 0, form_two = 4, form_four = 8, form_columns = 12, form_rows = 12, form_pairs = 16, form_steady = 32, form_loads = 64 };
enum : int { form_int8 = 1, form_wide = 2, form_quick = 4 };

// What the linears of all layers have in common, kept once. group 0: dense, 16 bits.
struct LinearShape {
  int32_t units, in, out, tiles;      // units of 128 k (dense: dense_unit) a tile
  int32_t per, extra;                 // tiles of a block; `extra` blocks from the phase's start on have one more
  int32_t x_stride, y_stride;
  float norm_epsilon;
  int16_t unit_bytes, group;
  int16_t parts, part_units;          // so many blocks share K: each multiplies its units of it for the tiles of all of them
  int8_t x_type, y_type, norm, activation, gated, residual;
  int32_t parts_at;                   // what they send to one another, in words from the input on
  void* y;
};
struct AttentionShape {
  void* qkv; void* out; const float* inverse_frequency;
  float scale, rope_amplitude;
  int32_t window;
};
struct ProgramShape {
  union { LinearShape linear; AttentionShape attention; };
};

// A block has all phases of a program in shared memory, so they are small: places in the exchange are counted in units of 256
// words, arrays of floats in 16 bytes from one of them on.
constexpr int exchange_unit = 256, exchange_units_max = INT16_MAX;
constexpr int32_t floats_none = INT32_MIN;
// from, to: where in the exchange the phase's input and output are (see decode_program_exchange.cuh); -1: not there. An
// output's squares by tile follow its rows. reset_end: up to here nobody reads any more, from the phase before on. form: of a
// linear or an attention, which of the functions of its kind does it. at: where in shared memory an attention's operands are,
// in 8 bytes. parts: what blocks that share a context send to one of them, in words (of an attention).
struct ProgramPhase {
  uint8_t kind : 1, to_plain : 1, keeps : 1, spares : 1;  // to_plain: the exchange in the order of memory; keeps: the output is stored, too; spares: blocks that attend next have fewer of its tiles
  uint8_t form;
  int8_t shape;
  union { int16_t start, at; };
  int16_t from, to, reset_end;
  union { int32_t bias, parts; };
  int32_t next_norm, factors;

  HEARTH_HOST_DEVICE int input() const { return from * exchange_unit; }  // in words; negative: not there
  HEARTH_HOST_DEVICE int output() const { return to * exchange_unit; }
};
// Read by who loads. Of linears they stay among the kernel's parameters.
struct LinearOperands { const void *weight, *x; const float* norm_weight; };
struct AttentionOperands { void *k, *v; float *k_scale, *v_scale; const float *q_norm, *k_norm; };
struct Program {
  AttentionArgs attention;            // template
  uint32_t* exchange;                 // all zero before and after
  const float* floats;                // where places of biases and norms count from
  int32_t* ended;                     // blocks that have read all they want; zero; set back by block 0
  int32_t phases, attentions, rows, slots, slot_bytes, flight, attention_bytes;  // attention_bytes: one KV block of one head in the ring
  int32_t reset_begin, reset_end;     // at the end
  int32_t sum_slots;                  // tiles whose sums may wait for the finishers
  int32_t slot_units;                 // of a w4 linear in a slot of the ring: one or two a worker
  int32_t unit_sums, group_sums_bytes, x_stride;  // of activations in shared memory: sums of 128 k, of all, then rows
  int32_t history_flight;             // flight: slots of weights being loaded at a time; of KV history: this many
  int32_t more;                       // slots beyond `flight` while nobody in the block waits for activations
  ProgramShape shape[program_shapes_max];
  ProgramPhase phase[program_phases_max];
  AttentionOperands attended[program_attentions_max];
  LinearOperands linear[program_phases_max];  // by phase
};
static_assert(sizeof(ProgramPhase) == 24 && sizeof(Program) <= 32764, "kernel parameters are at most 32,764 bytes");

constexpr int program_shapes_bytes = program_shapes_max * static_cast<int>(sizeof(ProgramShape));
HEARTH_HOST_DEVICE constexpr int program_attentions_at(int phases) { return program_control_bytes + program_shapes_bytes + phases * static_cast<int>(sizeof(ProgramPhase)); }
HEARTH_HOST_DEVICE constexpr int program_turns_at(int phases, int attentions) { return (program_attentions_at(phases) + attentions * static_cast<int>(sizeof(AttentionOperands)) + 15) / 16 * 16; }
HEARTH_HOST_DEVICE constexpr int program_ring_at(int phases, int attentions, int rows) { return (program_turns_at(phases, attentions) + rows * program_turns_bytes + 127) / 128 * 128; }

// What blocks that share K send to one another, in words: sums [sender][tile][row][16].
HEARTH_HOST_DEVICE constexpr int part_words(int rows, int tiles, int parts) { return ((parts - 1) * tiles * rows * 16 + exchange_unit - 1) / exchange_unit * exchange_unit; }
// Of an output of `rows` rows: words, then its tiles' sums of squares.
HEARTH_HOST_DEVICE constexpr int exchange_words(int rows, int width, int tiles) { return (rows * (width / 2 + tiles) + exchange_unit - 1) / exchange_unit * exchange_unit; }

}  // namespace hearth::kernels::cuda
