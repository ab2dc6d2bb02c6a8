// The one file that names kernels. Lists are in order of preference; the last entry takes any shape.
#include "ops/registry.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cuda/cuda_kernels.h"

namespace hearth::ops {
namespace {

namespace cpu = kernels::cpu;
namespace cuda = kernels::cuda;
using device::DeviceKind;

// The sets of vector instructions this architecture may have, best first.
#if defined(__x86_64__)
#define HEARTH_VECTOR(op) &cpu::avx512::op, &cpu::avx2::op, &cpu::portable::op,
#elif defined(__aarch64__)
#define HEARTH_VECTOR(op) &cpu::neon::op, &cpu::portable::op,
#else
#define HEARTH_VECTOR(op) &cpu::portable::op,
#endif

constexpr const LinearImplementation* cpu_linear[] = {
#if defined(__x86_64__)
    &cpu::amx::linear_w4_int8,      &cpu::amx::linear_w8_int8,
    &cpu::avx512::linear_w4_int8,   &cpu::avx512::linear_w8_int8,
    &cpu::avx_vnni::linear_w4_int8, &cpu::avx_vnni::linear_w8_int8,
    &cpu::avx2::linear_w4_int8,     &cpu::avx2::linear_w8_int8,
#elif defined(__aarch64__)
    &cpu::neon_i8mm::linear_w4_int8,    &cpu::neon_i8mm::linear_w8_int8,
    &cpu::neon_dotprod::linear_w4_int8, &cpu::neon_dotprod::linear_w8_int8,
#endif
    &cpu::portable::linear_w4_int8, &cpu::portable::linear_w8_int8,
    HEARTH_VECTOR(linear_w4_exact) HEARTH_VECTOR(linear_w8_exact) HEARTH_VECTOR(linear_dense)
    &cpu::reference::linear};
constexpr const Implementation<EmbedSpec, EmbedParams>* cpu_embed[] = {HEARTH_VECTOR(embed) &cpu::reference::embed};
constexpr const Implementation<NormSpec, NormParams>* cpu_norm[] = {HEARTH_VECTOR(norm) &cpu::reference::norm};
constexpr const Implementation<GateSpec, GateParams>* cpu_gate[] = {HEARTH_VECTOR(gate) &cpu::reference::gate};
constexpr const Implementation<AddSpec, AddParams>* cpu_add[] = {HEARTH_VECTOR(add) &cpu::reference::add};
constexpr const Implementation<GatherSpec, GatherParams>* cpu_gather[] = {HEARTH_VECTOR(gather) &cpu::reference::gather};
constexpr const Implementation<AttentionSpec, AttentionParams>* cpu_attention[] = {
#if defined(__x86_64__)
    &cpu::amx::attention,      &cpu::avx512_vnni::attention, &cpu::avx512::attention,
    &cpu::avx_vnni::attention, &cpu::avx2::attention,        &cpu::portable::attention,
#else
    HEARTH_VECTOR(attention)
#endif
    &cpu::reference::attention};
constexpr const Implementation<VisionAttentionSpec, VisionAttentionParams>* cpu_vision_attention[] = {
    HEARTH_VECTOR(vision_attention) &cpu::reference::vision_attention};
constexpr const Implementation<SampleSpec, SampleParams>* cpu_sample[] = {HEARTH_VECTOR(sample) &cpu::reference::sample};

}  // namespace

Implementations<EmbedSpec, EmbedParams> embed_implementations(DeviceKind kind) {
  if (kind == DeviceKind::cuda) return cuda::embed_implementations();
  return cpu_embed;
}
Implementations<NormSpec, NormParams> norm_implementations(DeviceKind kind) {
  if (kind == DeviceKind::cuda) return cuda::norm_implementations();
  return cpu_norm;
}
std::span<const LinearImplementation* const> linear_implementations(DeviceKind kind) {
  if (kind == DeviceKind::cuda) return cuda::linear_implementations();
  return cpu_linear;
}
Implementations<GateSpec, GateParams> gate_implementations(DeviceKind kind) {
  if (kind == DeviceKind::cuda) return cuda::gate_implementations();
  return cpu_gate;
}
Implementations<AddSpec, AddParams> add_implementations(DeviceKind kind) {
  if (kind == DeviceKind::cuda) return cuda::add_implementations();
  return cpu_add;
}
Implementations<GatherSpec, GatherParams> gather_implementations(DeviceKind kind) {
  if (kind == DeviceKind::cuda) return cuda::gather_implementations();
  return cpu_gather;
}
Implementations<AttentionSpec, AttentionParams> attention_implementations(DeviceKind kind) {
  if (kind == DeviceKind::cuda) return cuda::attention_implementations();
  return cpu_attention;
}
Implementations<VisionAttentionSpec, VisionAttentionParams> vision_attention_implementations(DeviceKind kind) {
  if (kind == DeviceKind::cuda) return cuda::vision_attention_implementations();
  return cpu_vision_attention;
}
Implementations<SampleSpec, SampleParams> sample_implementations(DeviceKind kind) {
  if (kind == DeviceKind::cuda) return cuda::sample_implementations();
  return cpu_sample;
}

const CalibrationOps* calibration_ops(DeviceKind kind) { return kind == DeviceKind::cuda ? cuda::calibration_ops() : nullptr; }

std::string describe_tuning(device::Device& device) {
  return device.info().kind == DeviceKind::cuda ? cuda::describe_tuning(device) : "not on a CPU";
}
Status tune(device::Device& device, std::span<const TuneRequest> requests, int max_rows, const std::function<void(double, double)>& progress) {
  return device.info().kind == DeviceKind::cuda ? cuda::tune_linears(device, requests, max_rows, progress) : Status::ok();
}

}  // namespace hearth::ops
