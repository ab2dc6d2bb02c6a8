// What this CPU and this operating system can run.
#pragma once

#include <string>

#include "core/status.h"
#include "device/device.h"

namespace hearth::device {

// Every instruction set that is usable here: the CPU has it and the system saves its registers.
CpuFeatures detect_cpu_features();

// `features` without what lies above `cap`: reference, avx2, avx-vnni, avx512, amx (x86-64); reference, neon, dotprod,
// i8mm (aarch64). Empty = no cap. Anything else is an invalid_argument that lists the names.
Result<CpuFeatures> cap_cpu_features(CpuFeatures features, const std::string& cap);

// "AMD EPYC", from /proc/cpuinfo.
std::string cpu_name();

// "avx2 avx-vnni ...", for doctor and logs.
std::string describe(const CpuFeatures& features);

}  // namespace hearth::device
