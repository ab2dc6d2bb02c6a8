// Linears of many rows with mma.sync (sm80/linear_mma.cuh): what Ampere and Ada run.
#pragma once

#include <vector>

#include "kernels/cuda/host/convert.h"
#include "kernels/cuda/host/resources.h"

namespace hearth::kernels::cuda {

// y = epilogue(weight * x): args.x contiguous rows of `type` (f16, bf16; i8 with kind_int8), args.weight w4-mma units
// (kind_w4) or rows [tiles * 16, in]. Needs no workspace.
void mma_linear(device::CudaStream& stream, int kind, DType type, const LinearArgs& args);
// Whether 4-bit linears of f16 and more than 32 rows sum 64 k in f16 (sm80/half_sums.cuh).
bool half_sums(const device::CudaStream& stream);
void append_mma_shared(int sm, std::vector<SharedUse>& uses);

}  // namespace hearth::kernels::cuda
