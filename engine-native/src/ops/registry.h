// Which implementations this build has, in order of preference. registry.cpp is the one file that names kernels.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/status.h"
#include "ops/ops.h"

namespace hearth::ops {

template <class Spec, class Params>
using Implementations = std::span<const Implementation<Spec, Params>* const>;

Implementations<EmbedSpec, EmbedParams> embed_implementations(device::DeviceKind);
Implementations<NormSpec, NormParams> norm_implementations(device::DeviceKind);
std::span<const LinearImplementation* const> linear_implementations(device::DeviceKind);
Implementations<GateSpec, GateParams> gate_implementations(device::DeviceKind);
Implementations<AddSpec, AddParams> add_implementations(device::DeviceKind);
Implementations<GatherSpec, GatherParams> gather_implementations(device::DeviceKind);
Implementations<AttentionSpec, AttentionParams> attention_implementations(device::DeviceKind);
Implementations<VisionAttentionSpec, VisionAttentionParams> vision_attention_implementations(device::DeviceKind);
Implementations<SampleSpec, SampleParams> sample_implementations(device::DeviceKind);

// What calibration runs on a GPU (ops/calibration.h); nullptr in a build without CUDA and for a CPU.
struct CalibrationOps;
const CalibrationOps* calibration_ops(device::DeviceKind);

// Times the ways to run these linears with up to `max_rows` rows, once per device and shape: the results are kept in a file
// and read from it later. Devices without choices return at once. Errors are the device's own.
Status tune(device::Device&, std::span<const TuneRequest>, int max_rows, const std::function<void(double done, double total)>& progress);
// Whether that is done on this device and what is kept of it, as a line for people.
std::string describe_tuning(device::Device&);

// One line of what was asked for, chosen and refused. HEARTH_KERNELS=trace prints each as it is made; doctor lists all.
struct Choice {
  std::string op, spec, chosen;
  std::vector<std::pair<std::string, std::string>> refused;  // implementation, reason
};
const std::vector<Choice>& choices();

}  // namespace hearth::ops
