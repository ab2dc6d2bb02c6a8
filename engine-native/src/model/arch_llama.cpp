// Llama 1, 2 and 3, and what shares their graph: TinyLlama, SmolLM, Vicuna, DeepSeek-R1-Distill-Llama.
#include "model/config.h"

namespace hearth::model {

namespace {

Status read(const Config& config, DecoderSpec& spec) {
  HEARTH_TRY(read_common(config, spec));
  HEARTH_TRY(refuse(config, "pretraining_tp", 1));
  HEARTH_ASSIGN(spec.qkv_bias, config.boolean("attention_bias", false));
  spec.o_bias = spec.qkv_bias;
  HEARTH_ASSIGN(spec.mlp_bias, config.boolean("mlp_bias", false));
  HEARTH_ASSIGN(RopeTable rope, read_rope(config, spec.head_dim, 10000.0f));
  spec.ropes.push_back(std::move(rope));
  return Status::ok();
}

}  // namespace

const Architecture llama_architecture = {"llama", read};

}  // namespace hearth::model
