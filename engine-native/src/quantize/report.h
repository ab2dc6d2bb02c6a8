// The quality report as a picture: error of each layer, before and after the search.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace hearth::quantize {

// `report` as quantize() makes it: {"method", "layers": [{"layer", "error", "error_rounding"}]}.
std::string draw_report(const nlohmann::json& report);

}  // namespace hearth::quantize
