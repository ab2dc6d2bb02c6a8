// Qwen2 and Qwen2.5: bias on q, k and v; some layers may have a sliding window. Also the language model of Qwen2.5-VL,
// whose positions have three axes (time, height, width).
#include "model/config.h"

namespace hearth::model {

namespace {

Status read_windows(const Config& config, DecoderSpec& spec) {
  HEARTH_ASSIGN(const bool sliding, config.boolean("use_sliding_window", false));
  HEARTH_ASSIGN(const int window, config.integer("sliding_window", 1, 1 << 27, 0));
  if (config.has("layer_types")) return read_layer_types(config, spec, window);
  if (!sliding || window == 0) return Status::ok();
  HEARTH_ASSIGN(const int full, config.integer("max_window_layers", 0, 1024, 28));
  for (size_t i = static_cast<size_t>(full); i < spec.layers.size(); i++) spec.layers[i].window = window;
  return Status::ok();
}

Status read(const Config& config, DecoderSpec& spec) {
  HEARTH_TRY(read_common(config, spec));
  spec.qkv_bias = true;
  HEARTH_ASSIGN(RopeTable rope, read_rope(config, spec.head_dim, 10000.0f));
  spec.ropes.push_back(std::move(rope));
  return read_windows(config, spec);
}

Status read_vl(const Config& config, DecoderSpec& spec) {
  HEARTH_TRY(read(config, spec));
  return read_axes(config, spec, false);
}

}  // namespace

const Architecture qwen2_architecture = {"qwen2", read};
const Architecture qwen2_5_vl_text_architecture = {"qwen2_5_vl_text", read_vl};

}  // namespace hearth::model
