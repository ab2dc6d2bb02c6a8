// Gemma 3, text: the worked example of docs/adding-a-model.md. Local and global layers with a rope each, norms around
// attention and MLP, norm weights stored less one, embeddings scaled by the root of the width.
#include <cmath>

#include "model/config.h"

namespace hearth::model {

using nlohmann::json;

namespace {

// transformers 5 nests one rope object a kind of layer; before, global layers had rope_theta and rope_scaling, and local
// layers rope_local_base_freq without scaling.
Result<RopeTable> read_layer_rope(const Config& config, const DecoderSpec& spec, const char* kind, bool local) {
  const json& rope = rope_object(config);
  json flat = json::object();
  if (rope.contains(kind)) {
    flat["rope_parameters"] = rope[kind];
  } else {
    HEARTH_ASSIGN(const float theta, config.number(local ? "rope_local_base_freq" : "rope_theta", local ? 1e4f : 1e6f));
    flat["rope_theta"] = theta;
    if (!local) flat["rope_scaling"] = rope;
  }
  return read_rope(Config(flat, config.where() + ": " + kind), spec.head_dim, local ? 1e4f : 1e6f);
}

Status read_windows(const Config& config, DecoderSpec& spec) {
  HEARTH_ASSIGN(const int window, config.integer("sliding_window", 1, 1 << 27, 4096));
  if (config.has("layer_types")) return read_layer_types(config, spec, window);
  HEARTH_ASSIGN(const int pattern, config.integer("sliding_window_pattern", 1, 1024, 6));
  for (size_t i = 0; i < spec.layers.size(); i++) {
    spec.layers[i].window = (i + 1) % static_cast<size_t>(pattern) == 0 ? 0 : window;
  }
  return Status::ok();
}

Status read(const Config& config, DecoderSpec& spec) {
  spec.tied = true;  // unless config.json says otherwise
  HEARTH_TRY(read_common(config, spec));
  HEARTH_TRY(refuse(config, "use_bidirectional_attention", false));
  HEARTH_ASSIGN(spec.activation, read_activation(config, "hidden_activation", "gelu_pytorch_tanh"));
  HEARTH_ASSIGN(const float scalar, config.number("query_pre_attn_scalar", 256));
  if (!(scalar > 0)) return config.bad("query_pre_attn_scalar", "must be positive");
  spec.attention_scale = 1.0f / std::sqrt(scalar);
  spec.embed_scale = std::sqrt(static_cast<float>(spec.width));
  // The scale is rounded to the model's type, as in training.
  if (spec.dtype == DType::bf16) spec.embed_scale = to_float(to_bfloat16(spec.embed_scale));
  if (spec.dtype == DType::f16) spec.embed_scale = to_float(to_half(spec.embed_scale));
  spec.qk_norm = true;
  spec.norm_offset = 1;
  spec.sandwich_norms = true;
  HEARTH_TRY(read_windows(config, spec));
  HEARTH_ASSIGN(RopeTable global, read_layer_rope(config, spec, "full_attention", false));
  HEARTH_ASSIGN(RopeTable local, read_layer_rope(config, spec, "sliding_attention", true));
  spec.ropes = {std::move(global), std::move(local)};
  for (LayerSpec& layer : spec.layers) layer.rope = layer.window > 0 ? 1 : 0;
  return Status::ok();
}

}  // namespace

const Architecture gemma3_architecture = {"gemma3_text", read};

}  // namespace hearth::model
