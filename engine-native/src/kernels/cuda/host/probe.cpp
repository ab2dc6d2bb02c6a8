#include "kernels/cuda/host/probe.h"

#include <algorithm>
#include <chrono>

#include "device/cuda_stream.h"
#include "kernels/cuda/host/hopper.h"

namespace hearth::kernels::cuda {

extern const device::CudaModule module_probe, module_probe_wgmma;

namespace {

struct ProbeArgs { const void* data; uint64_t count; void* sink; int rounds; };
const device::CudaKernel read_kernel{&module_probe, "probe_read_kernel"}, mma_kernel{&module_probe, "probe_mma_kernel"}, wgmma_kernel{&module_probe_wgmma, "probe_wgmma_kernel"};

// Seconds of the fastest of a few runs, the first not counted.
Result<double> fastest(device::CudaStream& stream, const device::CudaKernel& kernel, const device::LaunchShape& shape, const ProbeArgs& args) {
  double best = 1e30;
  for (int i = 0; i < 6; ++i) {
    const auto start = std::chrono::steady_clock::now();
    for (int repeat = 0; repeat < 4; ++repeat) stream.launch(kernel, shape, args);
    HEARTH_TRY(stream.synchronize());
    const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 4;
    if (i > 0) best = std::min(best, s);
  }
  return best;
}

}  // namespace

Result<Limits> probe(device::Device& device) {
  device::CudaStream& stream = device::cuda(device.stream());
  HEARTH_ASSIGN(const size_t free, device.available_bytes());
  const size_t bytes = std::min<size_t>(size_t{2} << 30, free / 4) / 4096 * 4096;
  HEARTH_ASSIGN(void* data, device.allocate(bytes, device::MemoryKind::workspace, "measuring the bandwidth"));
  Limits limits;
  Status status = device.fill_zero(data, bytes);
  if (status) {
    auto seconds = fastest(stream, read_kernel, {stream.multiprocessors() * 4, 1, 1, 512, 0, false}, {data, bytes / 16, stream.counters(), 0});
    if (seconds) limits.read_gb_s = bytes / *seconds / 1e9; else status = seconds.status();
  }
  if (status) {
    constexpr int rounds = 20000;
    auto seconds = fastest(stream, mma_kernel, {stream.multiprocessors() * 4, 1, 1, 256, 0, false}, {data, 0, stream.counters(), rounds});
    if (seconds) limits.mma_tflop_s = 2.0 * 16 * 8 * 16 * 8 * rounds * 8 * stream.multiprocessors() * 4 / *seconds / 1e12; else status = seconds.status();
  }
  if (status && hopper_linear_takes(stream.info().compute_capability)) {
    constexpr int rounds = 2000;
    auto seconds = fastest(stream, wgmma_kernel, {stream.multiprocessors(), 1, 1, 256, 384 * 128 + 1024, false}, {data, 0, stream.counters(), rounds});
    if (seconds) limits.wgmma_tflop_s = 2.0 * 128 * 256 * 64 * rounds * stream.multiprocessors() / *seconds / 1e12; else status = seconds.status();
  }
  device.release(data);
  if (!status) return status;
  return limits;
}

}  // namespace hearth::kernels::cuda
