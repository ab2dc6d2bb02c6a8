// Composite configurations: which part is the language model, which the vision tower, and what their writers left out.
#include "model/model_spec.h"

#include "formats/json_text.h"

namespace hearth::model {

using nlohmann::json;

namespace {

// transformers writes only what differs from a class's defaults into nested configurations.
json with_defaults(const json& object, json defaults) {
  if (object.is_object()) defaults.update(object);
  return defaults;
}

json llama_defaults() {
  return {{"model_type", "llama"},       {"vocab_size", 32000},          {"hidden_size", 4096},
          {"intermediate_size", 11008},  {"num_hidden_layers", 32},      {"num_attention_heads", 32},
          {"max_position_embeddings", 2048}, {"rms_norm_eps", 1e-6},     {"hidden_act", "silu"},
          {"bos_token_id", 1},           {"eos_token_id", 2}};
}

json tower_defaults(const std::string& type) {
  if (type == "siglip_vision_model") {
    return {{"hidden_size", 768}, {"intermediate_size", 3072}, {"num_hidden_layers", 12}, {"num_attention_heads", 12},
            {"num_channels", 3},  {"image_size", 224},         {"patch_size", 16},        {"hidden_act", "gelu_pytorch_tanh"},
            {"layer_norm_eps", 1e-6}};
  }
  return {{"hidden_size", 768}, {"intermediate_size", 3072}, {"num_hidden_layers", 12}, {"num_attention_heads", 12},
          {"num_channels", 3},  {"image_size", 224},         {"patch_size", 32},        {"hidden_act", "quick_gelu"},
          {"layer_norm_eps", 1e-5}};
}

std::string text_or(const json& object, const char* key, const std::string& fallback) {
  const std::string text = formats::string_member(object, key);
  return text.empty() ? fallback : text;
}

void set_tower(const json& tower, const char* type_default, VisionSource& vision) {
  const std::string type = text_or(tower, "model_type", type_default);
  vision.tower = with_defaults(tower, tower_defaults(type));
  vision.tower["model_type"] = type;
}

// preprocessor_config.json, or the image_processor of transformers 5's processor_config.json; {} without either.
Result<json> read_preprocessor(const std::string& folder) {
  if (folder.empty()) return json::object();
  const std::string older = folder + "/preprocessor_config.json", newer = folder + "/processor_config.json";
  if (formats::file_exists(older)) return formats::read_json(older);
  if (!formats::file_exists(newer)) return json::object();
  HEARTH_ASSIGN(const json whole, formats::read_json(newer));
  const json* inner = formats::member(whole, "image_processor");
  return inner && inner->is_object() ? *inner : json::object();
}

Result<std::string> read_placeholder(const std::string& folder, const std::string& fallback) {
  const std::string path = folder + "/processor_config.json";
  if (folder.empty() || !formats::file_exists(path)) return fallback;
  HEARTH_ASSIGN(const json whole, formats::read_json(path));
  return text_or(whole, "image_token", fallback);
}

// Keys that writers put at the top of a composite configuration and the language model needs.
json text_part(const json& config, json text) {
  for (const char* key : {"tie_word_embeddings", "torch_dtype", "dtype", "eos_token_id", "bos_token_id"}) {
    if (!text.contains(key) && config.contains(key)) text[key] = config[key];
  }
  return text;
}

Result<DecoderSpec> read_text(const json& text, const std::string& where) { return read_decoder(Config(text, where)); }

Result<int> token_id(const Config& config, const char* key, const char* other, int vocabulary) {
  const char* used = config.has(key) ? key : other;
  return config.integer(used, 0, vocabulary - 1);
}

// LlavaForConditionalGeneration as transformers writes it.
Status read_llava(const Config& config, const std::string& folder, ModelSpec& spec) {
  HEARTH_ASSIGN(const Config text, config.object("text_config"));
  HEARTH_ASSIGN(const Config tower, config.object("vision_config"));
  HEARTH_ASSIGN(const std::string kind, text.text("model_type", "llama"));
  const json whole = text_part(config.data(), kind == "llama" ? with_defaults(text.data(), llama_defaults()) : text.data());
  HEARTH_ASSIGN(spec.decoder, read_text(whole, text.where()));
  VisionSource vision;
  vision.family = VisionFamily::llava;
  vision.config = config.data();
  set_tower(tower.data(), "clip_vision_model", vision);
  HEARTH_ASSIGN(vision.preprocessor, read_preprocessor(folder));
  HEARTH_ASSIGN(vision.image_token, token_id(config, "image_token_index", "image_token_id", spec.decoder.vocabulary));
  HEARTH_ASSIGN(vision.placeholder, read_placeholder(folder, "<image>"));
  spec.vision = std::move(vision);
  return Status::ok();
}

// VILA-1.5: folders llm, vision_tower and mm_projector, whose configurations the root repeats.
Status read_vila(const Config& config, const std::string& folder, ModelSpec& spec) {
  auto part = [&](const char* key, const char* name) -> Result<json> {
    const std::string path = folder + "/" + name + "/config.json";
    if (!folder.empty() && formats::file_exists(path)) {
      HEARTH_ASSIGN(json whole, formats::read_json(path));
      if (!whole.is_object()) return corrupt(path + ": not a JSON object");
      return whole;
    }
    HEARTH_ASSIGN(const Config inlined, config.object(key));
    return inlined.data();
  };
  HEARTH_ASSIGN(const json text, part("llm_cfg", "llm"));
  HEARTH_ASSIGN(spec.decoder, read_text(text_part(config.data(), text), config.where() + ": llm"));
  VisionSource vision;
  vision.family = VisionFamily::vila;
  vision.config = config.data();
  HEARTH_ASSIGN(const json tower, part("vision_tower_cfg", "vision_tower"));
  set_tower(tower, "siglip_vision_model", vision);
  HEARTH_ASSIGN(vision.config["mm_projector_cfg"], part("mm_projector_cfg", "mm_projector"));
  HEARTH_ASSIGN(vision.preprocessor, read_preprocessor(folder.empty() ? "" : folder + "/vision_tower"));
  vision.placeholder = "<image>";
  spec.vision = std::move(vision);
  return Status::ok();
}

// The original LLaVA repository's layout: Llama's keys at the top, the CLIP tower in another repository.
Status read_original_llava(const Config& config, const std::string& folder, ModelSpec& spec) {
  json text = config.data();
  text["model_type"] = "llama";
  HEARTH_ASSIGN(spec.decoder, read_text(text, config.where()));
  const std::string tower_folder = folder + "/vision_tower";
  const std::string path = tower_folder + "/config.json";
  if (!folder.empty() && !formats::file_exists(path)) {
    return not_found(path + ": this checkpoint keeps its vision tower (" + text_or(config.data(), "mm_vision_tower", "CLIP") +
                     ") elsewhere; download it into " + tower_folder);
  }
  json tower;
  if (folder.empty()) {
    HEARTH_ASSIGN(const Config inlined, config.object("vision_tower_cfg"));
    tower = inlined.data();
  } else {
    HEARTH_ASSIGN(tower, formats::read_json(path));
  }
  if (const json* inner = formats::member(tower, "vision_config")) tower = json(*inner);
  VisionSource vision;
  vision.family = VisionFamily::vila;  // same keys, without llm_cfg
  vision.config = config.data();
  vision.config["mm_projector_cfg"] = {{"mm_projector_type", text_or(config.data(), "mm_projector_type", "linear")}};
  set_tower(tower, "clip_vision_model", vision);
  HEARTH_ASSIGN(vision.preprocessor, read_preprocessor(folder.empty() ? "" : tower_folder));
  vision.placeholder = "<image>";
  spec.vision = std::move(vision);
  return Status::ok();
}

// Qwen2.5-VL and Qwen3-VL. Older files have the language model's keys at the top.
Status read_qwen_vl(const Config& config, const std::string& folder, VisionFamily family, ModelSpec& spec) {
  const bool third = family == VisionFamily::qwen3_vl;
  json text = config.has("text_config") && config.data()["text_config"].is_object() ? config.data()["text_config"] : config.data();
  text = text_part(config.data(), std::move(text));
  text["model_type"] = third ? "qwen3_vl_text" : "qwen2_5_vl_text";
  HEARTH_ASSIGN(spec.decoder, read_text(text, config.where()));
  HEARTH_ASSIGN(const Config tower, config.object("vision_config"));
  VisionSource vision;
  vision.family = family;
  vision.config = config.data();
  vision.tower = tower.data();
  const int vocabulary = spec.decoder.vocabulary;
  HEARTH_ASSIGN(vision.image_token, config.integer("image_token_id", 0, vocabulary - 1));
  HEARTH_ASSIGN(vision.start_token, config.integer("vision_start_token_id", 0, vocabulary - 1));
  HEARTH_ASSIGN(vision.end_token, config.integer("vision_end_token_id", 0, vocabulary - 1));
  HEARTH_ASSIGN(vision.preprocessor, read_preprocessor(folder));
  HEARTH_ASSIGN(vision.placeholder, read_placeholder(folder, "<|image_pad|>"));
  if (third) {
    const auto indexes = tower.data().find("deepstack_visual_indexes");
    if (indexes == tower.data().end() || !indexes->is_array()) return tower.bad("deepstack_visual_indexes", "is missing");
    if (indexes->size() > spec.decoder.layers.size()) return tower.bad("deepstack_visual_indexes", "holds more entries than the model has layers");
    spec.decoder.deepstack_layers = static_cast<int>(indexes->size());
  }
  spec.vision = std::move(vision);
  return Status::ok();
}

// Gemma 3 with a vision tower: the text half is served; images are refused by what lies above, since vision is absent.
Status read_gemma3(const Config& config, ModelSpec& spec) {
  HEARTH_ASSIGN(const Config text, config.object("text_config"));
  json whole = text_part(config.data(), text.data());
  whole["model_type"] = "gemma3_text";
  HEARTH_ASSIGN(spec.decoder, read_text(whole, text.where()));
  return Status::ok();
}

}  // namespace

const char* name_of(VisionFamily family) {
  constexpr const char* names[] = {"llava", "vila", "qwen2.5-vl", "qwen3-vl"};
  return names[static_cast<int>(family)];
}

Result<ModelSpec> read_model_spec(const formats::Checkpoint& checkpoint) {
  const bool random = checkpoint.path().empty();
  const bool file = checkpoint.format() == "gguf";
  const Config config(checkpoint.config(), random ? "shape" : file ? checkpoint.path() : checkpoint.path() + "/config.json");
  const std::string folder = file ? "" : checkpoint.path();
  ModelSpec spec;
  HEARTH_ASSIGN(spec.model_type, config.text("model_type", ""));
  if (spec.model_type.empty()) return config.bad("model_type", "is missing");
  if (spec.model_type == "llava" && config.has("text_config")) {
    HEARTH_TRY(read_llava(config, folder, spec));
  } else if (config.has("llm_cfg")) {
    HEARTH_TRY(read_vila(config, folder, spec));
  } else if (config.has("mm_vision_tower")) {
    HEARTH_TRY(read_original_llava(config, folder, spec));
  } else if (spec.model_type == "qwen2_5_vl") {
    HEARTH_TRY(read_qwen_vl(config, folder, VisionFamily::qwen2_5_vl, spec));
  } else if (spec.model_type == "qwen3_vl") {
    HEARTH_TRY(read_qwen_vl(config, folder, VisionFamily::qwen3_vl, spec));
  } else if (spec.model_type == "gemma3") {
    HEARTH_TRY(read_gemma3(config, spec));
  } else {
    HEARTH_ASSIGN(spec.decoder, read_decoder(config));
  }
  return spec;
}

}  // namespace hearth::model
