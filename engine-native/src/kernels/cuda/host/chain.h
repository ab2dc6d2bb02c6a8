// Collects consecutive w4 linears of a captured decode step of 5 to 64 rows into one launch (sm90/linear_w4_chain.cuh).
#pragma once

#include <functional>

#include "core/dtype.h"
#include "device/cuda_stream.h"
#include "kernels/cuda/params.h"

namespace hearth::kernels::cuda {

// Takes the linear into the chain that the stream collects; false: it must run as a kernel of its own. `scratch`: of
// chain_scratch_bytes, what its normed rows and their squares may use. `alone` runs it that way later, should the chain
// stay a single linear.
bool chain_linear(device::CudaStream& stream, const LinearArgs& args, DType narrow, void* scratch, std::function<void()> alone);
// Tells the chain that the stream collects, if any, which attention comes next.
void chain_precedes(device::CudaStream& stream, const AttentionArgs& attention);
size_t chain_scratch_bytes(int rows, int in);

}  // namespace hearth::kernels::cuda
