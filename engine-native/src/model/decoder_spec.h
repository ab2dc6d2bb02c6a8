// What a decoder is, once its config.json has been understood: plain data that the graph is built from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "ops/ops.h"

namespace hearth::model {

// One table of rope frequencies; most models have one, Gemma 3 one for local and one for global layers.
struct RopeTable {
  std::vector<float> inverse_frequency;  // [rope_dims / 2], scaling applied
  float amplitude = 1;                   // on cos and sin
};

struct LayerSpec {
  int window = 0;  // sliding window in tokens, 0 = the whole context
  int rope = 0;    // index in DecoderSpec::ropes
};

struct DecoderSpec {
  std::string architecture;  // model_type of config.json
  int width = 0;             // of the residual stream
  int ffn = 0;               // columns of gate and of up
  int heads = 0, kv_heads = 0, head_dim = 0;
  int vocabulary = 0;
  int context = 0;           // longest sequence the model was made for
  float norm_epsilon = 1e-6f;
  ops::Activation activation = ops::Activation::silu;
  float attention_scale = 0;  // of q·k
  float embed_scale = 1;
  bool qkv_bias = false;      // required; where the file has one it is used in any case
  bool o_bias = false, mlp_bias = false;
  bool qk_norm = false;
  bool tied = false;          // the head is the embedding table
  float norm_offset = 0;      // Gemma stores norm weights less one
  bool sandwich_norms = false;  // Gemma: attention's and the MLP's outputs are normed before they join the residual
  std::vector<LayerSpec> layers;
  std::vector<RopeTable> ropes;
  int position_axes = 1;      // 3: multimodal rope
  int axis_sections[3] = {0, 0, 0};
  bool axis_interleaved = false;
  int deepstack_layers = 0;   // Qwen3-VL: image features are added after each of the first layers
  DType dtype = DType::f32;   // as trained, from config.json
  std::optional<int32_t> bos_token;
  std::vector<int32_t> end_tokens;
};

}  // namespace hearth::model
