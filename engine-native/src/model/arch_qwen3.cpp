// Qwen3: RMS norm on each head of q and k, no bias. Also the language model of Qwen3-VL, whose three position axes are
// interleaved over the rope pairs and which takes image features after its first layers.
#include "model/config.h"

namespace hearth::model {

namespace {

Status read(const Config& config, DecoderSpec& spec) {
  HEARTH_TRY(read_common(config, spec));
  spec.qk_norm = true;
  HEARTH_ASSIGN(spec.qkv_bias, config.boolean("attention_bias", false));
  spec.o_bias = spec.qkv_bias;
  HEARTH_ASSIGN(RopeTable rope, read_rope(config, spec.head_dim, 1000000.0f));
  spec.ropes.push_back(std::move(rope));
  HEARTH_ASSIGN(const bool sliding, config.boolean("use_sliding_window", false));
  HEARTH_ASSIGN(const int window, config.integer("sliding_window", 1, 1 << 27, 0));
  return read_layer_types(config, spec, sliding ? window : 0);
}

Status read_vl(const Config& config, DecoderSpec& spec) {
  HEARTH_TRY(read(config, spec));
  return read_axes(config, spec, true);
}

}  // namespace

const Architecture qwen3_architecture = {"qwen3", read};
const Architecture qwen3_vl_text_architecture = {"qwen3_vl_text", read_vl};

}  // namespace hearth::model
