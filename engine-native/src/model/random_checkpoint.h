// A checkpoint without a file: the tensors that a configuration names, made up from a seed.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "core/status.h"
#include "formats/checkpoint.h"
#include "model/precision.h"

namespace hearth::model {

// `config` as in config.json. Text models, and LLaVA and VILA compositions.
Result<std::unique_ptr<formats::Checkpoint>> make_random_checkpoint(nlohmann::json config, const Precision& body, const Precision& head,
                                                                    uint32_t seed);

}  // namespace hearth::model
