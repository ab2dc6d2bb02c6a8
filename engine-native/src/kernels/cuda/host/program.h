// Collects the linears and attentions of a captured decode step of few rows into one launch (sm80/decode_program.cuh).
#pragma once

#include <functional>

#include "core/dtype.h"
#include "device/cuda_stream.h"
#include "kernels/cuda/params.h"

namespace hearth::kernels::cuda {

// Takes the op into the program that the stream collects; false: it must run as a kernel of its own. `alone` runs it that
// way later, should the program stay too short to be worth it.
bool program_linear(device::CudaStream& stream, const LinearArgs& args, DType narrow, std::function<void()> alone);
bool program_attention(device::CudaStream& stream, const AttentionArgs& args, DType narrow, std::function<void()> alone);

}  // namespace hearth::kernels::cuda
