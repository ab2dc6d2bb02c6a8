// A .gguf file as a Checkpoint: names and metadata in Hugging Face terms.
#pragma once

#include <memory>
#include <string>

#include "formats/checkpoint.h"

namespace hearth::formats {

Result<std::unique_ptr<Checkpoint>> open_gguf(const std::string& path);

}  // namespace hearth::formats
