// Named shapes: models with random weights, so that speed and memory can be measured without a checkpoint.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "formats/checkpoint.h"
#include "model/precision.h"

namespace hearth::model {

std::vector<std::string> shape_names();

// A checkpoint that makes the weights up, in the forms `body` and `head` ask for, so that nothing is converted: 4-bit
// weights are random nibbles around zero point 8, all with the spread of trained layers. Same seed, same weights.
Result<std::unique_ptr<formats::Checkpoint>> open_shape(const std::string& name, const Precision& body, const Precision& head,
                                                        uint32_t seed);

}  // namespace hearth::model
