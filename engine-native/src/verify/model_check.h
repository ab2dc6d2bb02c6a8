// A whole model on the device against the same model on the CPU with exact activations.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/status.h"
#include "device/device.h"

namespace hearth::verify {

// {"path", "precision", "against", "tokens", "error", "kl", "top1_agreement", "allowed_kl", "passed"} over a few windows of
// random tokens: logits of the device with the precision it would serve at, against the CPU's with unrounded activations.
Result<nlohmann::json> check_model(device::Device& device, const std::string& path, uint32_t seed);

}  // namespace hearth::verify
