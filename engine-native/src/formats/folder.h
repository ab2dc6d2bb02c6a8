// Hugging Face folders: config.json beside safetensors.
#pragma once

#include <memory>
#include <string>

#include "formats/checkpoint.h"

namespace hearth::formats {

// `torch_file`: the llm-awq .pt to take the language model from; empty = whatever the folder holds.
Result<std::unique_ptr<Checkpoint>> open_folder(const std::string& path, const std::string& torch_file = {});

}  // namespace hearth::formats
