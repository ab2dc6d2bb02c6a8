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

#if defined(__x86_64__)
namespace avx2 {
extern const Kernel<ops::EmbedSpec, ops::EmbedParams> embed;
extern const Kernel<ops::NormSpec, ops::NormParams> norm;
extern const Kernel<ops::GateSpec, ops::GateParams> gate;
extern const Kernel<ops::AddSpec, ops::AddParams> add;
extern const Kernel<ops::GatherSpec, ops::GatherParams> gather;
extern const Kernel<ops::AttentionSpec, ops::AttentionParams> attention;
extern const Kernel<ops::VisionAttentionSpec, ops::VisionAttentionParams> vision_attention;
extern const Kernel<ops::SampleSpec, ops::SampleParams> sample;
extern const ops::LinearImplementation linear_w4_int8, linear_w8_int8, linear_w4_exact, linear_w8_exact, linear_dense;
}  // namespace avx2
namespace avx_vnni {
extern const ops::LinearImplementation linear_w4_int8, linear_w8_int8;
}  // namespace avx_vnni
#endif

}  // namespace hearth::kernels::cpu
