// `hearth verify`: is this device computing what it should, and how near its limits? Every kernel that this build has for
// the device against the CPU reference on fresh random data, a model's output against the CPU's, and speed against the
// bandwidth measured in the same process. For owners of hardware that nobody else could try.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/status.h"
#include "device/device.h"

namespace hearth::verify {

struct Options {
  std::string model;    // a folder whose logits are compared with the CPU reference kernels'; empty: none
  uint32_t seed = 0;    // of the random data; a report names it, so that a failure can be had again
  bool speed = true;    // measure bandwidth, a decode-sized and a prefill-sized linear
};

// Called between checks. False ends the job with Code::cancelled.
using Progress = std::function<bool(const std::string& stage, double done, double total)>;

// {"seed", "passed", "checks": [{"op", "implementation", "cases", "error", "allowed", "passed", "skipped", "failures"}],
//  "model": {...}, "speed": [{"what", "measured", "unit", "limit", "fraction"}]}
// A wrong result is a check that did not pass, not an error; an error is a device that cannot be used.
Result<nlohmann::json> verify(device::Device& device, const Options& options, const Progress& progress);

}  // namespace hearth::verify
