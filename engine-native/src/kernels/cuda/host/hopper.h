// The wgmma path of sm_90: dense 16-bit weights [tiles * 16, k_padded], many rows.
#pragma once

#include "kernels/cuda/host/convert.h"

namespace hearth::kernels::cuda {

bool hopper_linear_takes(int compute_capability);
// y = epilogue(weight * x); args.x contiguous 16-bit rows, args.weight rows of k_padded elements.
void hopper_linear(device::CudaStream& stream, DType type, const LinearArgs& args);

// y = epilogue(weight * x) with w4-mma weights decoded in registers; args.x contiguous 16-bit rows.
void hopper_w4(device::CudaStream& stream, DType type, LinearArgs args, void* partial);
size_t hopper_w4_partial_bytes(int max_rows, int multiprocessors);

}  // namespace hearth::kernels::cuda
