// The device's limits, measured in this process.
#pragma once

#include "core/status.h"
#include "device/device.h"

namespace hearth::kernels::cuda {

struct Limits { double read_gb_s = 0, mma_tflop_s = 0; };
// Takes about 50 ms and up to 2 GiB of device memory (a quarter of what is free, at most) while it runs.
Result<Limits> probe(device::Device& device);

}  // namespace hearth::kernels::cuda
