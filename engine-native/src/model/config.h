// Reading config.json: typed access whose errors name the file and the key, and the table of architectures.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "core/status.h"
#include "model/decoder_spec.h"

namespace hearth::model {

// A JSON object of a configuration file, with the place it came from for messages.
class Config {
 public:
  Config(const nlohmann::json& object, std::string where) : object_(&object), where_(std::move(where)) {}

  const nlohmann::json& data() const { return *object_; }
  const std::string& where() const { return where_; }
  // True when the key is there and not null.
  bool has(const char* key) const;
  // An integer from low to high. Required without a fallback.
  Result<int> integer(const char* key, int64_t low, int64_t high) const;
  Result<int> integer(const char* key, int64_t low, int64_t high, int fallback) const;
  // A finite number.
  Result<float> number(const char* key) const;
  Result<float> number(const char* key, float fallback) const;
  Result<bool> boolean(const char* key, bool fallback) const;
  Result<std::string> text(const char* key, const std::string& fallback) const;
  // An object member; an error when it is missing or no object.
  Result<Config> object(const char* key) const;
  // "config.json: KEY MESSAGE".
  Status bad(const char* key, const std::string& message) const;

 private:
  const nlohmann::json* object_;
  std::string where_;
};

// One architecture: how its config.json becomes a DecoderSpec. One file each: arch_<name>.cpp.
struct Architecture {
  const char* model_type;
  Status (*read)(const Config&, DecoderSpec&);
};
extern const Architecture llama_architecture, mistral_architecture, qwen2_architecture, qwen3_architecture,
    gemma3_architecture, qwen2_5_vl_text_architecture, qwen3_vl_text_architecture;

// The decoder of a configuration, of the text part when it has one. Refuses unknown architectures and settings by name.
Result<DecoderSpec> read_decoder(const Config&);
// What most architectures share: sizes, norm, activation, rope, tokens. An architecture calls it first.
Status read_common(const Config&, DecoderSpec&);
// Rope tables from rope_theta + rope_scaling (older) or rope_parameters (transformers 5): default, linear, llama3.
Result<RopeTable> read_rope(const Config&, int rope_dims, float theta_default);
// The rope object of `config`: rope_parameters, rope_scaling, or an empty one.
const nlohmann::json& rope_object(const Config&);
// Multimodal rope: three position axes that share the pairs of a head (mrope_section), one after the other or interleaved.
Status read_axes(const Config&, DecoderSpec&, bool interleaved);
// Sets windows from layer_types, or `window` for every layer without it.
Status read_layer_types(const Config&, DecoderSpec&, int window);
// Refuses the setting unless it is absent, null or `neutral`.
Status refuse(const Config&, const char* key, const nlohmann::json& neutral);
Result<ops::Activation> read_activation(const Config&, const char* key, const std::string& fallback);
// eos_token_id as a number, a list or absent; every id must be in the vocabulary.
Result<std::vector<int32_t>> read_tokens(const Config&, const char* key, int vocabulary);

}  // namespace hearth::model
