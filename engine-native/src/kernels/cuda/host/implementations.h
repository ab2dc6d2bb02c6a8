// The implementations, one declaration each; kernels.cpp lists them in order of preference.
#pragma once

#include "ops/ops.h"

namespace hearth::kernels::cuda {

extern const ops::Implementation<ops::EmbedSpec, ops::EmbedParams> embed;
extern const ops::Implementation<ops::NormSpec, ops::NormParams> norm;
extern const ops::Implementation<ops::GateSpec, ops::GateParams> gate;
extern const ops::Implementation<ops::AddSpec, ops::AddParams> add;
extern const ops::Implementation<ops::GatherSpec, ops::GatherParams> gather;
extern const ops::LinearImplementation linear_w4, linear_dense, linear_int8, linear_generic;
extern const ops::Implementation<ops::AttentionSpec, ops::AttentionParams> attention_mma, attention_generic;
extern const ops::Implementation<ops::VisionAttentionSpec, ops::VisionAttentionParams> vision_mma, vision_generic;
extern const ops::Implementation<ops::SampleSpec, ops::SampleParams> sample;

}  // namespace hearth::kernels::cuda
