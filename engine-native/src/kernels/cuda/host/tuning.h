// Choices between equally right kernels that only a measurement can make. One set a process: defaults by architecture,
// replaced by what the tuning pass found.
#pragma once

namespace hearth::kernels::cuda {

struct Tuning {
  int rows_stages = 4;                    // ring depth of the decode linears: 3 or 4
  int rows_blocks_per_multiprocessor = 2; // blocks of the FP16 and int8 ones on a multiprocessor
  int dense_stages = 6;                   // ring depth of the FP16 ones: 4 or 6
  int rows_max = 4;                       // rows up to which they are used (at most 8)
  int rows_x_bytes = 96 * 1024;           // shared memory they may spend on activations
  int fused_norm_rows = 4;                // rows up to which the norm is fused into them
  int prefill_rows = 1024;                // rows from which Hopper decodes weights to scratch first; below, in registers
};
Tuning& tuning();

}  // namespace hearth::kernels::cuda
