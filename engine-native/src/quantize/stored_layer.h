// How a quantised layer lies in the file, for other tools to read: AutoAWQ's three tensors a linear at 4 bits,
// compressed-tensors' int-quantized at 8.
#pragma once

#include <nlohmann/json.hpp>

#include "formats/checkpoint.h"
#include "formats/safetensors_writer.h"
#include "quantize/block.h"
#include "quantize/output.h"

namespace hearth::quantize {

struct StoredForm {
  bool four_bits = true;  // else 8
  int group = 128;        // of 4 bits; linears that it does not divide stay FP16
};

// The layer's linears and norms. What has no grid yet is rounded to nearest.
Status add_layer(formats::SafetensorsWriter& writer, const OutputFolder& output, const Block& block, const model::DecoderSpec& spec,
                 const StoredForm& form, Math& math);

// "quantization_config" of config.json. Every layer must be finished.
nlohmann::json stored_config(const formats::Checkpoint& checkpoint, const OutputFolder& output, const model::DecoderSpec& spec, const StoredForm& form);

}  // namespace hearth::quantize
