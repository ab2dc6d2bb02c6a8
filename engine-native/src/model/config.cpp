#include "model/config.h"

#include <cmath>
#include <limits>

namespace hearth::model {

using nlohmann::json;

Status Config::bad(const char* key, const std::string& message) const {
  return corrupt(where_ + ": " + key + " " + message);
}

bool Config::has(const char* key) const {
  const auto found = object_->find(key);
  return found != object_->end() && !found->is_null();
}

Result<int> Config::integer(const char* key, int64_t low, int64_t high) const {
  if (!has(key)) return bad(key, "is missing");
  const json& value = (*object_)[key];
  const bool whole = value.is_number_integer() ||
                     (value.is_number_float() && std::trunc(value.get<double>()) == value.get<double>());
  const double number = value.is_number() ? value.get<double>() : 0;
  if (!whole || number < static_cast<double>(low) || number > static_cast<double>(high)) {
    return bad(key, "must be a whole number from " + std::to_string(low) + " to " + std::to_string(high) + ", not " +
                        value.dump().substr(0, 60));
  }
  return static_cast<int>(number);
}

Result<int> Config::integer(const char* key, int64_t low, int64_t high, int fallback) const {
  return has(key) ? integer(key, low, high) : Result<int>(fallback);
}

Result<float> Config::number(const char* key) const {
  if (!has(key)) return bad(key, "is missing");
  const json& value = (*object_)[key];
  const double number = value.is_number() ? value.get<double>() : std::numeric_limits<double>::infinity();
  if (!(std::fabs(number) <= std::numeric_limits<float>::max())) {
    return bad(key, "must be a finite number, not " + value.dump().substr(0, 60));
  }
  return static_cast<float>(number);
}

Result<float> Config::number(const char* key, float fallback) const { return has(key) ? number(key) : Result<float>(fallback); }

Result<bool> Config::boolean(const char* key, bool fallback) const {
  if (!has(key)) return fallback;
  const json& value = (*object_)[key];
  if (!value.is_boolean()) return bad(key, "must be true or false, not " + value.dump().substr(0, 60));
  return value.get<bool>();
}

Result<std::string> Config::text(const char* key, const std::string& fallback) const {
  if (!has(key)) return fallback;
  const json& value = (*object_)[key];
  if (!value.is_string()) return bad(key, "must be a string, not " + value.dump().substr(0, 60));
  return value.get<std::string>();
}

Result<Config> Config::object(const char* key) const {
  if (!has(key)) return bad(key, "is missing");
  const json& value = (*object_)[key];
  if (!value.is_object()) return bad(key, "must be an object, not " + value.dump().substr(0, 60));
  return Config(value, where_ + ": " + key);
}

Status refuse(const Config& config, const char* key, const json& neutral) {
  if (!config.has(key) || config.data()[key] == neutral) return Status::ok();
  return unsupported(config.where() + ": " + key + " = " + config.data()[key].dump().substr(0, 80) + " is not supported");
}

Result<ops::Activation> read_activation(const Config& config, const char* key, const std::string& fallback) {
  HEARTH_ASSIGN(const std::string name, config.text(key, fallback));
  if (name == "silu" || name == "swish") return ops::Activation::silu;
  if (name == "gelu") return ops::Activation::gelu_erf;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_fast") return ops::Activation::gelu_tanh;
  if (name == "quick_gelu") return ops::Activation::quick_gelu;
  if (name == "relu") return ops::Activation::relu;
  return unsupported(config.where() + ": " + key + " '" + name + "' is not supported");
}

Result<std::vector<int32_t>> read_tokens(const Config& config, const char* key, int vocabulary) {
  std::vector<int32_t> tokens;
  if (!config.has(key)) return tokens;
  const json& value = config.data()[key];
  const json list = value.is_array() ? value : json::array({value});
  for (const json& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocabulary) {
      return config.bad(key, "holds " + id.dump().substr(0, 40) + ", which is not a token of the vocabulary of " + std::to_string(vocabulary));
    }
    tokens.push_back(id.get<int32_t>());
  }
  return tokens;
}

namespace {

Result<DType> read_dtype(const Config& config) {
  const char* key = config.has("dtype") ? "dtype" : "torch_dtype";
  HEARTH_ASSIGN(std::string name, config.text(key, "float16"));
  if (name.rfind("torch.", 0) == 0) name = name.substr(6);
  if (name == "float32") return DType::f32;
  if (name == "bfloat16") return DType::bf16;
  if (name == "float16" || name == "auto") return DType::f16;
  return unsupported(config.where() + ": " + key + " '" + name + "' is not supported");
}

Status read_sizes(const Config& config, DecoderSpec& spec) {
  constexpr int most = 1 << 20;
  HEARTH_ASSIGN(spec.width, config.integer("hidden_size", 1, most));
  HEARTH_ASSIGN(spec.ffn, config.integer("intermediate_size", 1, most));
  HEARTH_ASSIGN(spec.vocabulary, config.integer("vocab_size", 1, 1 << 24));
  HEARTH_ASSIGN(spec.context, config.integer("max_position_embeddings", 1, 1 << 27));
  HEARTH_ASSIGN(spec.heads, config.integer("num_attention_heads", 1, 4096));
  HEARTH_ASSIGN(spec.kv_heads, config.integer("num_key_value_heads", 1, 4096, spec.heads));
  HEARTH_ASSIGN(const int layers, config.integer("num_hidden_layers", 1, 1024));
  if (spec.heads % spec.kv_heads != 0) return config.bad("num_key_value_heads", "must divide num_attention_heads");
  if (!config.has("head_dim") && spec.width % spec.heads != 0) {
    return config.bad("num_attention_heads", "must divide hidden_size where head_dim is not given");
  }
  HEARTH_ASSIGN(spec.head_dim, config.integer("head_dim", 2, 1024, spec.width / spec.heads));
  if (spec.head_dim % 2 != 0) return config.bad("head_dim", "must be even");
  spec.layers.assign(static_cast<size_t>(layers), LayerSpec{});
  return Status::ok();
}

// Settings that change what is computed and that no architecture here has.
Status refuse_common(const Config& config) {
  HEARTH_TRY(refuse(config, "attn_logit_softcapping", nullptr));
  HEARTH_TRY(refuse(config, "final_logit_softcapping", nullptr));
  HEARTH_TRY(refuse(config, "partial_rotary_factor", 1.0));
  HEARTH_TRY(refuse(config, "num_experts", 0));
  HEARTH_TRY(refuse(config, "num_local_experts", 0));
  HEARTH_TRY(refuse(config, "logit_scale", 1.0));
  HEARTH_TRY(refuse(config, "residual_multiplier", 1.0));
  return refuse(config, "embedding_multiplier", 1.0);
}

}  // namespace

Status read_common(const Config& config, DecoderSpec& spec) {
  HEARTH_TRY(refuse_common(config));
  HEARTH_TRY(read_sizes(config, spec));
  HEARTH_ASSIGN(spec.norm_epsilon, config.number("rms_norm_eps", 1e-6f));
  if (!(spec.norm_epsilon > 0)) return config.bad("rms_norm_eps", "must be positive");
  HEARTH_ASSIGN(spec.activation, read_activation(config, config.has("hidden_activation") ? "hidden_activation" : "hidden_act", "silu"));
  HEARTH_ASSIGN(spec.tied, config.boolean("tie_word_embeddings", spec.tied));
  HEARTH_ASSIGN(spec.dtype, read_dtype(config));
  HEARTH_ASSIGN(spec.end_tokens, read_tokens(config, "eos_token_id", spec.vocabulary));
  HEARTH_ASSIGN(const auto begin, read_tokens(config, "bos_token_id", spec.vocabulary));
  if (!begin.empty()) spec.bos_token = begin.front();
  spec.attention_scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim));
  return Status::ok();
}

Status read_layer_types(const Config& config, DecoderSpec& spec, int window) {
  if (!config.has("layer_types")) {
    for (LayerSpec& layer : spec.layers) layer.window = window;
    return Status::ok();
  }
  const json& types = config.data()["layer_types"];
  if (!types.is_array() || types.size() != spec.layers.size()) return config.bad("layer_types", "must name every layer");
  for (size_t i = 0; i < spec.layers.size(); i++) {
    const std::string type = types[i].is_string() ? types[i].get<std::string>() : types[i].dump();
    if (type != "full_attention" && type != "sliding_attention") {
      return unsupported(config.where() + ": layer_types holds '" + type.substr(0, 60) + "', which is not supported");
    }
    if (type == "sliding_attention" && window <= 0) return config.bad("sliding_window", "is missing, but layer_types asks for it");
    spec.layers[i].window = type == "sliding_attention" ? window : 0;
  }
  return Status::ok();
}

Result<DecoderSpec> read_decoder(const Config& config) {
  static const Architecture* const known[] = {&llama_architecture,  &mistral_architecture, &qwen2_architecture,
                                              &qwen3_architecture,  &gemma3_architecture,  &qwen2_5_vl_text_architecture,
                                              &qwen3_vl_text_architecture};
  HEARTH_ASSIGN(const std::string type, config.text("model_type", ""));
  std::string names;
  for (const Architecture* architecture : known) {
    names += (names.empty() ? "" : ", ") + std::string(architecture->model_type);
    if (type != architecture->model_type) continue;
    DecoderSpec spec;
    spec.architecture = type;
    HEARTH_TRY(architecture->read(config, spec));
    return spec;
  }
  return unsupported(config.where() + ": model_type '" + type.substr(0, 60) + "' is not supported; supported are " + names);
}

}  // namespace hearth::model
