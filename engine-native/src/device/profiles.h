// Device profiles: what the datasheets say, as data. A GPU without one gets a profile computed from its properties.
#pragma once

#include <span>

#include "device/device.h"

namespace hearth::device {

std::span<const DeviceProfile> gpu_profiles();
// By profile name ("orin-agx"); nullptr when there is none.
const DeviceProfile* find_profile(const std::string& name);
// The profile of a GPU from its marketing name, SM version and count; nullptr when unknown.
const DeviceProfile* match_profile(const std::string& device_name, int sm, int multiprocessors);
// Dynamic shared memory one block may ask for, by SM version.
int shared_bytes_per_block(int sm);
// Registers a thread may have and bytes of registers an SM has are the same from sm_80 on.
inline constexpr int registers_per_multiprocessor = 65536;

// Rows up to which a captured decode step is one kernel, the decode program: where that was measured to be faster than a
// kernel an op; 0 on others, and everywhere with HEARTH_DECODE_PROGRAM=off.
int program_rows(const DeviceProfile& profile);

// Whether 4-bit linears of many rows sum 64 products in f16 on their way to f32: on cards whose tensor cores do that at twice
// the rate (GeForce: sm_86, sm_89, sm_120); nowhere with HEARTH_F16_SUMS=off.
bool sums_in_half(const DeviceProfile& profile);

}  // namespace hearth::device
