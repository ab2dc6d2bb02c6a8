// Speed against the limits measured in the same process.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "core/status.h"
#include "device/device.h"

namespace hearth::verify {

// [{"what", "measured", "unit", "limit", "fraction"}]: the memory's read (CPU) or copy (GPU) bandwidth, then 4-bit linears of
// a 7B model's width: one row (limit: that bandwidth) and 512 rows (limit
// on a GPU: the largest dense product's rate).
Result<nlohmann::json> measure_speed(device::Device& device);

}  // namespace hearth::verify
