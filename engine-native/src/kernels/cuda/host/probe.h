// The device's limits, measured in this process.
#pragma once

#include "core/status.h"
#include "device/device.h"

namespace hearth::kernels::cuda {

struct Limits {
  double read_gb_s = 0, mma_tflop_s = 0;  // mma.sync: what the Ampere path can reach
  double wgmma_tflop_s = 0;               // 0 where there is no wgmma, or a profile forbids it
};
// Takes about 50 ms and up to 2 GiB of device memory (a quarter of what is free, at most) while it runs.
Result<Limits> probe(device::Device& device);

}  // namespace hearth::kernels::cuda
