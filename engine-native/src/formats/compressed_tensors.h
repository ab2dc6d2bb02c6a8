// compressed-tensors (llm-compressor): `pack-quantized` 4-bit and `int-quantized` W8A8.
#pragma once

#include "formats/linear_reader.h"

namespace hearth::formats {

// `config` is the quantization_config. unsupported names the setting that is not read.
Result<std::unique_ptr<LinearReader>> make_compressed_tensors_reader(const nlohmann::json& config, const std::string& file);

}  // namespace hearth::formats
