// The table of named shapes. Sizes are those of the published config.json files.
#include "model/shapes.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "model/random_checkpoint.h"

namespace hearth::model {

using nlohmann::json;

namespace {

struct TextShape {
  const char* name;
  const char* type;
  int width, ffn, layers, heads, kv_heads, head_dim, vocabulary, context;
  float theta;
  bool tied;
};

constexpr TextShape text_shapes[] = {
    {"tiny", "llama", 128, 256, 2, 4, 2, 32, 512, 512, 1e4f, true},  // for tests
    {"llama-1.1b", "llama", 2048, 8192, 16, 32, 8, 64, 32000, 8192, 1e4f, false},
    {"tinyllama-1.1b", "llama", 2048, 5632, 22, 32, 4, 64, 32000, 2048, 1e4f, false},
    {"llama-2-7b", "llama", 4096, 11008, 32, 32, 32, 128, 32000, 4096, 1e4f, false},
    {"llama-2-13b", "llama", 5120, 13824, 40, 40, 40, 128, 32000, 4096, 1e4f, false},
    {"llama-2-70b", "llama", 8192, 28672, 80, 64, 8, 128, 32000, 4096, 1e4f, false},
    {"llama-3-8b", "llama", 4096, 14336, 32, 32, 8, 128, 128256, 131072, 5e5f, false},
    {"llama-3.2-1b", "llama", 2048, 8192, 16, 32, 8, 64, 128256, 131072, 5e5f, true},
    {"llama-3.2-3b", "llama", 3072, 8192, 28, 24, 8, 128, 128256, 131072, 5e5f, true},
    {"mistral-7b", "mistral", 4096, 14336, 32, 32, 8, 128, 32768, 32768, 1e6f, false},
    {"qwen2.5-0.5b", "qwen2", 896, 4864, 24, 14, 2, 64, 151936, 32768, 1e6f, true},
    {"qwen2.5-1.5b", "qwen2", 1536, 8960, 28, 12, 2, 128, 151936, 32768, 1e6f, true},
    {"qwen2.5-7b", "qwen2", 3584, 18944, 28, 28, 4, 128, 152064, 32768, 1e6f, false},
    {"qwen3-0.6b", "qwen3", 1024, 3072, 28, 16, 8, 128, 151936, 40960, 1e6f, true},
    {"qwen3-1.7b", "qwen3", 2048, 6144, 28, 16, 8, 128, 151936, 40960, 1e6f, true},
    {"qwen3-4b", "qwen3", 2560, 9728, 36, 32, 8, 128, 151936, 40960, 1e6f, true},
    {"qwen3-8b", "qwen3", 4096, 12288, 36, 32, 8, 128, 151936, 40960, 1e6f, false},
    {"qwen3-14b", "qwen3", 5120, 17408, 40, 40, 8, 128, 151936, 40960, 1e6f, false},
    {"qwen3-32b", "qwen3", 5120, 25600, 64, 64, 8, 128, 151936, 40960, 1e6f, false},
};

// Language models of VILA-1.5 and LLaVA-1.5, by the name of the whole.
constexpr TextShape vision_shapes[] = {
    {"tiny-vila", "llama", 128, 256, 2, 4, 2, 32, 512, 512, 1e4f, false},  // for tests
    {"clip-l-336", "llama", 128, 256, 2, 4, 2, 32, 512, 8192, 1e4f, false},     // the tower alone, before next to nothing
    {"siglip-so400m-384", "llama", 128, 256, 2, 4, 2, 32, 512, 8192, 1e4f, false},
    {"vila-1.5-3b", "llama", 2560, 6912, 32, 20, 20, 128, 32000, 4096, 1e4f, false},
    {"vila-1.5-8b", "llama", 4096, 14336, 32, 32, 8, 128, 128256, 8192, 5e5f, false},
    {"vila-1.5-13b", "llama", 5120, 13824, 40, 40, 40, 128, 32000, 4096, 1e4f, false},
    {"llava-1.5-7b", "llama", 4096, 11008, 32, 32, 32, 128, 32064, 4096, 1e4f, false},
    {"llava-1.5-13b", "llama", 5120, 13824, 40, 40, 40, 128, 32064, 4096, 1e4f, false},
};

json text_config(const TextShape& shape) {
  return {{"model_type", shape.type},           {"hidden_size", shape.width},        {"intermediate_size", shape.ffn},
          {"num_hidden_layers", shape.layers},  {"num_attention_heads", shape.heads}, {"num_key_value_heads", shape.kv_heads},
          {"head_dim", shape.head_dim},         {"vocab_size", shape.vocabulary},    {"max_position_embeddings", shape.context},
          {"rope_theta", shape.theta},          {"tie_word_embeddings", shape.tied}, {"rms_norm_eps", 1e-5},
          {"torch_dtype", "float16"},           {"bos_token_id", 1},                 {"eos_token_id", 2}};
}

json siglip_so400m() {
  return {{"model_type", "siglip_vision_model"}, {"hidden_size", 1152}, {"intermediate_size", 4304}, {"num_hidden_layers", 27},
          {"num_attention_heads", 16},           {"image_size", 384},   {"patch_size", 14}};
}

json siglip_tiny() {
  return {{"model_type", "siglip_vision_model"}, {"hidden_size", 64}, {"intermediate_size", 128}, {"num_hidden_layers", 3},
          {"num_attention_heads", 2},            {"image_size", 70},  {"patch_size", 14}};
}

json clip_large_336() {
  return {{"model_type", "clip_vision_model"}, {"hidden_size", 1024}, {"intermediate_size", 4096}, {"num_hidden_layers", 24},
          {"num_attention_heads", 16},         {"image_size", 336},   {"patch_size", 14}};
}

json vision_config(const TextShape& shape) {
  const std::string name = shape.name;
  const bool siglip = name.rfind("siglip", 0) == 0;
  if (name.rfind("llava", 0) == 0 || name.rfind("clip", 0) == 0 || siglip) {
    json text = text_config(shape);
    return {{"model_type", "llava"},        {"text_config", std::move(text)},     {"vision_config", siglip ? siglip_so400m() : clip_large_336()},
            {"image_token_index", std::min(32000, shape.vocabulary - 1)},   {"projector_hidden_act", "gelu"},     {"vision_feature_layer", -2},
            {"vision_feature_select_strategy", siglip ? "full" : "default"}};
  }
  return {{"model_type", "llava_llama"},  {"llm_cfg", text_config(shape)},
          {"vision_tower_cfg", name.rfind("tiny", 0) == 0 ? siglip_tiny() : siglip_so400m()}, {"mm_projector_cfg", {{"mm_projector_type", "mlp_downsample"}}},
          {"mm_vision_select_layer", -2}, {"mm_vision_select_feature", "cls_patch"}, {"image_aspect_ratio", "resize"}};
}

}  // namespace

std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  for (const TextShape& shape : text_shapes) names.push_back(shape.name);
  for (const TextShape& shape : vision_shapes) names.push_back(shape.name);
  return names;
}

Result<std::unique_ptr<formats::Checkpoint>> open_shape(const std::string& name, const Precision& body, const Precision& head, uint32_t seed) {
  for (const TextShape& shape : text_shapes) {
    if (name == shape.name) return make_random_checkpoint(text_config(shape), body, head, seed);
  }
  for (const TextShape& shape : vision_shapes) {
    if (name == shape.name) return make_random_checkpoint(vision_config(shape), body, head, seed);
  }
  std::string known;
  for (const std::string& other : shape_names()) known += (known.empty() ? "" : ", ") + other;
  return not_found("no shape '" + name.substr(0, 60) + "'; there are " + known);
}

}  // namespace hearth::model
