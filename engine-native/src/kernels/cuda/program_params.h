// A decode step of few rows as one launch: linears and attentions in the order of the model, run by one block a
// multiprocessor (sm80/decode_program.cuh). The whole program is the kernel's parameter, so nothing has to be kept alive.
#pragma once

#include "kernels/cuda/params.h"

namespace hearth::kernels::cuda {

enum : int { phase_linear = 0, phase_attention = 1 };

constexpr int program_workers = 16;                              // warps that compute; one more loads
constexpr int program_threads = (program_workers + 1) * 32;
constexpr int program_rows_max = 4;
constexpr int program_heads = 8;                                 // query heads of one attention item
constexpr int program_slots_max = 24, program_phases_max = 300;
constexpr int dense_unit = 512;                                  // k of one ring slot of 16-bit weights
constexpr int program_control_bytes = 4096;                      // of shared memory, followed by the phases
constexpr int program_sum_bytes = 16 * 1024;                     // partial sums of the warps

// A w4-mma linear, or with group 0 a dense one of 16 bits; fields as in LinearArgs.
struct ProgramLinear {
  const void* weight; const float* weight_scale; const void* x; void* y; const float* norm_weight; const float* bias;
  int32_t units, in, out;             // units of 128 k (dense: dense_unit) a tile
  int32_t per, extra, start;          // tiles of a block; `extra` blocks from `start` on have one more
  int32_t x_stride, y_stride;
  float norm_epsilon;
  int16_t unit_bytes, group, pass;    // pass: tiles between two meetings of the warps
  int8_t x_type, y_type, norm, activation, gated, residual;
};
// What differs from attention to attention; the rest is in the program's template.
struct ProgramAttention {
  void *k, *v; float *k_scale, *v_scale;
  const float *q_norm, *k_norm, *inverse_frequency;
  void* qkv; void* out;
  float scale, rope_amplitude;
  int32_t window;
};
struct alignas(8) ProgramPhase {
  int32_t kind, arrivals;             // arrivals: blocks that have work in it
  union { ProgramLinear linear; ProgramAttention attention; };
};
struct Program {
  AttentionArgs attention;            // template
  int32_t* arrived;                   // [-1 .. phases) zero; set back by the last block: those that ended, and by phase
  int32_t phases, rows, slots, slot_bytes, flight, attention_bytes;  // attention_bytes: one KV block of one head in the ring
  ProgramPhase phase[program_phases_max];
};
static_assert(sizeof(ProgramPhase) <= 112 && sizeof(Program) <= 32764, "kernel parameters are at most 32,764 bytes");

}  // namespace hearth::kernels::cuda
