// Choices between equally right kernels that only a measurement can make. One set a process: defaults by architecture,
// replaced by what the tuning pass found.
#pragma once

#include <string>

#include "core/status.h"

namespace hearth::kernels::cuda {

struct Tuning {
  int rows_stages = 5;                    // ring depth of the decode linears: 3 or 5
  int rows_max = 8;                       // rows up to which they are used (at most 8)
  int rows_x_bytes = 96 * 1024;           // shared memory they may spend on activations
  int fused_norm_rows = 8;                // rows up to which the norm is fused into them
  int attention_overlaps = 1;             // decode attention may start while the linear before it ends
  // From how many sequences on it lets the linear after it start loading its weights; also up to two. Between, the linear
  // takes too much shared memory to stand beside it (7B, batch 4: 2,463 us a step against 2,397); a chain does not (batch 5: 1,962 against 2,110).
  int attention_early_sequences = 5;
  int attention_early_pairs = 32;         // and how many of its blocks must have work: sequences times KV heads
  int decode_warps = 8;                   // of the decode attention's blocks, at most; each streams its own part of the KV cache
  int decode_int8_warps = 16;             // the same of int8 pools, whose KV blocks are half as long and take as many instructions
  int decode_stages = 2;                  // of a warp's ring: 2, 3, 4 or 6
  int decode_shared_kb = 226;             // shared memory it may take
  int decode_few = 9;                     // fewer sequences than this take less, so that one block of the linears before and
  int decode_few_kb = 108;                // after it fits beside it
  // Where few sequences let the next linear in early, few warps: of 168 registers a thread only one in each quarter of a multiprocessor
  // fits beside 16 warps of 64 (7B, batch 1: 4 warps 1,910 us a step, 6 and 8 2,540 to 2,570). More sequences
  // need the warps themselves (7B, batch 64 through the engine: 8 warps 12,223 tok/s, 4 warps 11,484).
  int decode_few_warps = 4;
  int short_context = 1024;               // steps for contexts up to this take sm80/attention_short
  int short_pairs = 16;                   // where there are at most so many pairs (sequence, head tile) a multiprocessor
  int short_ranks = 8;                    // blocks of a cluster that share a pair there: 1, 2, 4 or 8 at most
  int program_rows = -1;                  // rows up to which a captured step is one program (host/program.cpp; at most 8); -1: as the device's profile says
  int program_columns = 5;                // rows from which its linears multiply in 16 bits (at most 5)
  int program_dense = 0;                  // 1: 16-bit linears too
  int program_phases_min = 3;             // ops that are worth one
  int program_parts = 1;                  // blocks of the decode program share the K of long linears: 1: where it pays, 2: wherever they can
  int program_slots = 24;                 // ring slots at most
  int program_flight = 0;                 // slots of weights being loaded at a time; 0: 1 or 2 (host/program.cpp)
  int program_always = 0;                 // 1: every op of few rows as a program of its own, captured or not: for tests
  int cluster_rows = 9;                   // rows from which w4 linears on Hopper take clusters instead
  int prefill_rows = 256;                 // rows from which w4 linears on Hopper take whole tiles of 128 or 256 rows
  int mma_rows = 257;                     // rows from which w4 linears before Hopper do (sm80/linear_mma.cuh)
  int half_sums = -1;                     // 1: from 33 rows on w4 linears of f16 sum in f16 (sm80/half_sums.cuh); -1: as the device's profile says
  int attention_groups = 1;               // multiplying warpgroups of Hopper's prefill attention for heads of 64: 1 or 2
  int dense_stream = 1;                   // 1: dense linears on Hopper by linear_stream where it was faster (host/hopper_dense.cpp)
  int chain_rows_min = 5, chain_rows = 64; // rows of a captured step whose w4 linears between attentions are one kernel (Hopper; at most 64)
  int chain_trace = 0;                    // 1: clocks of the last chain go to the exchange (hearth-gpu-bench --what chaintrace)
  int chain_kb = 227;                     // shared memory of its blocks at most
  int chain_beside_kb = 137;              // the same up to 8 rows, where blocks of the decode attention stand beside them
  int w4_ranks = 0;                       // blocks of a cluster that share K: 1, 2 or 4; 0: by the model of hopper.cpp
  int w4_wide = 2;                        // other kernels for 65-128 rows (bit 0) and 17-32 (bit 1)
  int w4_prefetch_kb = 0;                 // of a block's weights after its ring, brought to the L2 before the wait; measured to cost 1 us
  int program_wide_slots = 0;             // ring slots of the decode program from which a slot is two units a worker; 0: 2
};
Tuning& tuning();
// "name=value,..." for measurements (the benches' --set). Errors: invalid (no such choice), unsupported (built without CUDA).
Status set_tuning(const std::string& choices);

}  // namespace hearth::kernels::cuda
