// The CUDA implementations this build holds, most specific first. Every span is empty when it was built without CUDA.
// Included by ops/registry.cpp and by the GPU tests, by nothing else.
#pragma once

#include "ops/calibration.h"
#include "ops/registry.h"

namespace hearth::kernels::cuda {

ops::Implementations<ops::EmbedSpec, ops::EmbedParams> embed_implementations();
ops::Implementations<ops::NormSpec, ops::NormParams> norm_implementations();
std::span<const ops::LinearImplementation* const> linear_implementations();
ops::Implementations<ops::GateSpec, ops::GateParams> gate_implementations();
ops::Implementations<ops::AddSpec, ops::AddParams> add_implementations();
ops::Implementations<ops::GatherSpec, ops::GatherParams> gather_implementations();
ops::Implementations<ops::AttentionSpec, ops::AttentionParams> attention_implementations();
ops::Implementations<ops::VisionAttentionSpec, ops::VisionAttentionParams> vision_attention_implementations();
ops::Implementations<ops::SampleSpec, ops::SampleParams> sample_implementations();
// nullptr when built without CUDA.
const ops::CalibrationOps* calibration_ops();
// The tuning pass behind ops::tune (host/tune.cpp).
Status tune_linears(device::Device&, std::span<const ops::TuneRequest>, int max_rows, const std::function<void(double done, double total)>& progress);
// Whether the pass runs on this device and what is kept of earlier ones, as a line for `hearth doctor`.
std::string describe_tuning(device::Device&);

}  // namespace hearth::kernels::cuda
