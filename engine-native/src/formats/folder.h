// Hugging Face folders: config.json beside safetensors.
#pragma once

#include <memory>
#include <string>

#include "formats/checkpoint.h"

namespace hearth::formats {

Result<std::unique_ptr<Checkpoint>> open_folder(const std::string& path);

}  // namespace hearth::formats
