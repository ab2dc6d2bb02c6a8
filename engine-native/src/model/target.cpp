#include "model/target.h"

#include <charconv>

#include "device/cpu_features.h"
#include "device/profiles.h"
#include "ops/registry.h"

namespace hearth::model {

using device::CpuFeatures;
using device::DeviceInfo;

namespace {

// On a CPU ops run at once, so a stream has nothing to wait for.
class NoStream final : public device::Stream {
 public:
  Status synchronize() override { return Status::ok(); }
};

class TargetDevice final : public device::Device {
 public:
  explicit TargetDevice(DeviceInfo info, size_t free = 0) : info_(std::move(info)), free_(free) {}
  const DeviceInfo& info() const override { return info_; }
  device::Stream& stream() override { return stream_; }
  Result<void*> allocate(size_t, device::MemoryKind, const char*) override { return absent(); }
  void release(void*) override {}
  Result<size_t> available_bytes() override { return free_; }
  Status upload(void*, const void*, size_t) override { return absent(); }
  Status download(void*, const void*, size_t) override { return absent(); }
  Status copy(void*, const void*, size_t) override { return absent(); }
  Status fill_zero(void*, size_t) override { return absent(); }
  Result<std::unique_ptr<CopyQueue>> open_copy_queue() override { return absent(); }
  bool host_visible() const override { return true; }
  Result<uint32_t> mark() override { return uint32_t{0}; }
  Status wait(uint32_t) override { return Status::ok(); }

 private:
  static Status absent() { return Status(Code::internal, "a conversion target has no memory"); }
  DeviceInfo info_;
  size_t free_;
  NoStream stream_;
};

#if defined(__aarch64__)
constexpr const char* cpu_targets = "cpu-reference, cpu-neon, cpu-dotprod, cpu-i8mm";
CpuFeatures every_feature() {
  CpuFeatures all;
  all.neon = all.neon_dotprod = all.neon_i8mm = all.neon_fp16 = true;
  return all;
}
#else
constexpr const char* cpu_targets = "cpu-reference, cpu-avx2, cpu-avx-vnni, cpu-avx512, cpu-amx";
CpuFeatures every_feature() {
  CpuFeatures all;
  all.avx2 = all.avx_vnni = all.avx512 = all.avx512_vnni = all.avx512_bf16 = all.avx512_fp16 = all.amx_int8 = all.amx_bf16 = true;
  return all;
}
#endif

Status unknown(const std::string& name) {
  return invalid("target '" + name.substr(0, 40) + "' is none of cpu, cuda (this machine's), " + cpu_targets + ", cuda-sm80, cuda-sm86, cuda-sm87, cuda-sm89, cuda-sm90");
}

bool without_cuda() { return ops::linear_implementations(device::DeviceKind::cuda).empty(); }

Result<DeviceInfo> cuda_target(const std::string& name) {
  constexpr std::string_view prefix = "cuda-sm";
  int sm = 0;
  const char* begin = name.data() + prefix.size();
  const auto [end, error] = std::from_chars(begin, name.data() + name.size(), sm);
  const bool known = sm == 80 || sm == 86 || sm == 87 || sm == 89 || sm == 90;
  if (error != std::errc() || end != name.data() + name.size() || !known) return unknown(name);
  if (without_cuda()) return unsupported("target " + name + ": this build has no CUDA kernels (nvcc was not there when it was built)");
  DeviceInfo info;
  info.kind = device::DeviceKind::cuda;
  info.name = name;
  info.compute_capability = sm;
  info.profile.name = "computed";
  info.profile.sm = sm;
  info.profile.shared_bytes_per_block = device::shared_bytes_per_block(sm);
  return info;
}

}  // namespace

std::string target_name(const DeviceInfo& info) {
  if (info.kind == device::DeviceKind::cuda) return "cuda-sm" + std::to_string(info.compute_capability);
  const CpuFeatures& cpu = info.cpu;
  if (cpu.amx_int8) return "cpu-amx";
  if (cpu.avx512) return "cpu-avx512";
  if (cpu.avx_vnni) return "cpu-avx-vnni";
  if (cpu.avx2) return "cpu-avx2";
  if (cpu.neon_i8mm) return "cpu-i8mm";
  if (cpu.neon_dotprod) return "cpu-dotprod";
  return cpu.neon ? "cpu-neon" : "cpu-reference";
}

Result<std::unique_ptr<device::Device>> make_planning_target(const device::DeviceProfile& profile, size_t free) {
  if (without_cuda()) return unsupported("a plan for " + profile.name + ": this build has no CUDA kernels (nvcc was not there when it was built)");
  DeviceInfo info;
  info.kind = device::DeviceKind::cuda;
  info.name = profile.name;
  info.compute_capability = profile.sm;
  info.threads = profile.multiprocessors;
  info.profile = profile;
  return std::unique_ptr<device::Device>(std::make_unique<TargetDevice>(std::move(info), free));
}

Result<std::unique_ptr<device::Device>> make_target(const std::string& name) {
  DeviceInfo info;
  if (name.starts_with("cuda-sm")) {
    HEARTH_ASSIGN(info, cuda_target(name));
  } else {
    if (!name.starts_with("cpu-")) return unknown(name);
    const Result<CpuFeatures> features = device::cap_cpu_features(every_feature(), name.substr(4));
    if (!features || name == "cpu-") return unknown(name);
    info.name = name;
    info.cpu = *features;
  }
  return std::unique_ptr<device::Device>(std::make_unique<TargetDevice>(std::move(info)));
}

}  // namespace hearth::model
