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
// What the blocks of that chain leave of a multiprocessor to the attention after it: warps of 96 registers a thread, and shared
// memory, of which each block takes 1 KB more than it asks for. None: it leaves no room.
struct ChainLeaves { int warps, shared_bytes; };
ChainLeaves chain_leaves(const device::CudaStream& stream);
size_t chain_scratch_bytes(int rows, int in);

}  // namespace hearth::kernels::cuda
