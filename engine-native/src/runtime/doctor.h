// hearth_doctor: what this machine is, which kernels were chosen and which refused with why.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "core/status.h"

namespace hearth::runtime {

class Engine;

// options_json: {"device": as of hearth_open, "threads"}. Without an engine a device is opened for the answer.
Result<nlohmann::json> doctor(Engine* engine, std::string_view options_json);

}  // namespace hearth::runtime
