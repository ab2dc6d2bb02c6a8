// A whole model's configuration: the decoder, and for vision-language models what turns images into its rows.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "formats/checkpoint.h"
#include "model/config.h"
#include "model/decoder_spec.h"

namespace hearth::model {

enum class VisionFamily { llava, vila, qwen2_5_vl, qwen3_vl };
const char* name_of(VisionFamily family);

// The vision half of a composite configuration, as JSON still: src/vision reads what its family needs.
struct VisionSource {
  VisionFamily family = VisionFamily::llava;
  nlohmann::json config;        // the whole config.json
  nlohmann::json tower;         // vision_config, with the defaults of its kind filled in
  nlohmann::json preprocessor;  // preprocessor_config.json, or an empty object
  int image_token = -1;         // -1: the vocabulary has none
  int start_token = -1, end_token = -1;  // Qwen's vision_start and vision_end
  std::string placeholder;
};

struct ModelSpec {
  std::string model_type;  // of config.json
  DecoderSpec decoder;
  std::optional<VisionSource> vision;
};

// Understands a checkpoint's configuration. Errors name the file and the key.
Result<ModelSpec> read_model_spec(const formats::Checkpoint& checkpoint);

}  // namespace hearth::model
