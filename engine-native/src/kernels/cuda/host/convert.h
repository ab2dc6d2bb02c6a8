// Host-side helpers shared by the CUDA implementations; checks that the kernels' plain constants mirror ops.h.
#pragma once

#include "device/cuda_stream.h"
#include "kernels/cuda/params.h"
#include "kernels/cuda/sample_params.h"
#include "ops/ops.h"

namespace hearth::kernels::cuda {

static_assert(static_cast<int>(DType::f32) == type_f32 && static_cast<int>(DType::f16) == type_f16 && static_cast<int>(DType::bf16) == type_bf16);
static_assert(static_cast<int>(ops::Activation::silu) == activation_silu && static_cast<int>(ops::Activation::relu) == activation_relu &&
              static_cast<int>(ops::Activation::gelu_erf) == activation_gelu_erf && static_cast<int>(ops::Activation::quick_gelu) == activation_quick_gelu);
static_assert(static_cast<int>(ops::NormKind::rms) == norm_rms && static_cast<int>(ops::NormKind::layer) == norm_layer);
static_assert(sizeof(SampleRowArgs) == sizeof(ops::SampleRow) && max_top == ops::max_top_logprobs);

inline bool is_float(DType t) { return t == DType::f32 || t == DType::f16 || t == DType::bf16; }
inline bool is_narrow(DType t) { return t == DType::f16 || t == DType::bf16; }
inline bool is_cuda(const device::DeviceInfo& info) { return info.kind == device::DeviceKind::cuda; }
inline size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }
template <class I> constexpr I divide_up(I a, I b) { return (a + b - 1) / b; }
template <class I> constexpr I round_up(I a, I b) { return divide_up(a, b) * b; }
inline bool aligned16(const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }

// Hands out pieces of a workspace.
struct Scratch {
  char* at;
  explicit Scratch(void* workspace) : at(static_cast<char*>(workspace)) {}
  template <class T> T* take(size_t bytes) {
    T* p = reinterpret_cast<T*>(at);
    at += aligned(bytes);
    return p;
  }
};

// Norm (or just a change of type) of rows to y, used by linears whose norm is not fused. In elementwise.cpp.
void launch_norm(device::CudaStream& stream, const NormArgs& args);
void launch_quantize(device::CudaStream& stream, const QuantizeArgs& args);
// The widest row those two keep in shared memory.
int norm_width_max(const device::DeviceInfo& info);

}  // namespace hearth::kernels::cuda
