// Built without CUDA: no implementations. (Built with it, kernels.cpp takes this file's place.)
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/host/tuning.h"

namespace hearth::kernels::cuda {

ops::Implementations<ops::EmbedSpec, ops::EmbedParams> embed_implementations() { return {}; }
ops::Implementations<ops::NormSpec, ops::NormParams> norm_implementations() { return {}; }
std::span<const ops::LinearImplementation* const> linear_implementations() { return {}; }
ops::Implementations<ops::GateSpec, ops::GateParams> gate_implementations() { return {}; }
ops::Implementations<ops::AddSpec, ops::AddParams> add_implementations() { return {}; }
ops::Implementations<ops::GatherSpec, ops::GatherParams> gather_implementations() { return {}; }
ops::Implementations<ops::AttentionSpec, ops::AttentionParams> attention_implementations() { return {}; }
ops::Implementations<ops::VisionAttentionSpec, ops::VisionAttentionParams> vision_attention_implementations() { return {}; }
ops::Implementations<ops::SampleSpec, ops::SampleParams> sample_implementations() { return {}; }
const ops::CalibrationOps* calibration_ops() { return nullptr; }
Status tune_linears(device::Device&, std::span<const ops::TuneRequest>, int, const std::function<void(double, double)>&) { return Status::ok(); }
std::string describe_tuning(device::Device&) { return "not in this build"; }
Status set_tuning(const std::string&) { return unsupported("this build has no CUDA kernels to choose between"); }

}  // namespace hearth::kernels::cuda
