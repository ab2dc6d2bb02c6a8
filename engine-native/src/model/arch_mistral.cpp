// Mistral: Llama with a sliding window over every layer, where config.json gives one.
#include "model/config.h"

namespace hearth::model {

namespace {

Status read(const Config& config, DecoderSpec& spec) {
  HEARTH_TRY(read_common(config, spec));
  HEARTH_ASSIGN(RopeTable rope, read_rope(config, spec.head_dim, 10000.0f));
  spec.ropes.push_back(std::move(rope));
  HEARTH_ASSIGN(const int window, config.integer("sliding_window", 1, 1 << 27, 0));
  return read_layer_types(config, spec, window);
}

}  // namespace

const Architecture mistral_architecture = {"mistral", read};

}  // namespace hearth::model
