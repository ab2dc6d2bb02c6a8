// The CPU implementations this build can hold, a namespace an instruction set. Included by ops/registry.cpp and tests.
#pragma once

#include "ops/ops.h"

namespace hearth::kernels::cpu {

template <class Spec, class Params>
using Kernel = ops::Implementation<Spec, Params>;

// Plain C++, any shape and type. The oracle of every other implementation on the CPU.
namespace reference {
extern const Kernel<ops::EmbedSpec, ops::EmbedParams> embed;
extern const Kernel<ops::NormSpec, ops::NormParams> norm;
extern const ops::LinearImplementation linear;
extern const Kernel<ops::GateSpec, ops::GateParams> gate;
extern const Kernel<ops::AddSpec, ops::AddParams> add;
extern const Kernel<ops::GatherSpec, ops::GatherParams> gather;
extern const Kernel<ops::AttentionSpec, ops::AttentionParams> attention;
extern const Kernel<ops::VisionAttentionSpec, ops::VisionAttentionParams> vision_attention;
extern const Kernel<ops::SampleSpec, ops::SampleParams> sample;
}  // namespace reference

// What simd/ gives every set of vector instructions.
#define HEARTH_COMMON_KERNELS                                                                       \
  extern const Kernel<ops::EmbedSpec, ops::EmbedParams> embed;                                      \
  extern const Kernel<ops::NormSpec, ops::NormParams> norm;                                         \
  extern const Kernel<ops::GateSpec, ops::GateParams> gate;                                         \
  extern const Kernel<ops::AddSpec, ops::AddParams> add;                                            \
  extern const Kernel<ops::GatherSpec, ops::GatherParams> gather;                                   \
  extern const Kernel<ops::AttentionSpec, ops::AttentionParams> attention;                          \
  extern const Kernel<ops::VisionAttentionSpec, ops::VisionAttentionParams> vision_attention;       \
  extern const Kernel<ops::SampleSpec, ops::SampleParams> sample;                                   \
  extern const ops::LinearImplementation linear_w4_exact, linear_w8_exact, linear_dense;

// The same on any processor.
namespace portable {
HEARTH_COMMON_KERNELS
extern const ops::LinearImplementation linear_w4_int8, linear_w8_int8;
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
HEARTH_COMMON_KERNELS
extern const ops::LinearImplementation linear_w4_int8, linear_w8_int8;
}  // namespace avx2
namespace avx_vnni {
extern const Kernel<ops::AttentionSpec, ops::AttentionParams> attention;
extern const ops::LinearImplementation linear_w4_int8, linear_w8_int8;
}  // namespace avx_vnni
namespace avx512 {
HEARTH_COMMON_KERNELS
extern const ops::LinearImplementation linear_w4_int8, linear_w8_int8;
}  // namespace avx512
namespace avx512_vnni {
extern const Kernel<ops::AttentionSpec, ops::AttentionParams> attention;
}  // namespace avx512_vnni
namespace amx {
extern const Kernel<ops::AttentionSpec, ops::AttentionParams> attention;
extern const ops::LinearImplementation linear_w4_int8, linear_w8_int8;
}  // namespace amx
#elif defined(__aarch64__)
namespace neon {
HEARTH_COMMON_KERNELS
}  // namespace neon
namespace neon_dotprod {
extern const ops::LinearImplementation linear_w4_int8, linear_w8_int8;
}  // namespace neon_dotprod
namespace neon_i8mm {
extern const ops::LinearImplementation linear_w4_int8, linear_w8_int8;
}  // namespace neon_i8mm
#endif

}  // namespace hearth::kernels::cpu
