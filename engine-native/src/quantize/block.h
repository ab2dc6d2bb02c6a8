// One decoder layer in f32 and its forward pass over calibration text: what AWQ and SmoothQuant search with. Dense
// decoders of the Llama kind (Llama, Mistral, Qwen2, Qwen3: grouped queries, optional biases and q/k norms).
#pragma once

#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "model/decoder_spec.h"
#include "quantize/math.h"

namespace hearth::quantize {

// Weights on a 4-bit grid, group by group along the input: (code - zero) * scale.
struct Grid {
  std::vector<uint8_t> codes;  // [out, in / 2], low nibble first
  std::vector<float> scales;   // [out, in / group], FP16 numbers
  std::vector<uint8_t> zeros;  // [out, in / group]
  bool empty() const { return codes.empty(); }
};

struct Weight {
  std::string module;          // "model.layers.0.self_attn.q_proj"
  int64_t out = 0, in = 0;
  Array values;                // [out, in]
  std::vector<float> bias;     // [out] or empty
  Grid grid;                   // set when `values` were rounded to it
};

// AutoAWQ packs whole groups of inputs, eight outputs to a word; other linears stay FP16.
inline bool fits_grid(const Weight& weight, int group) { return weight.in % group == 0 && weight.out % 8 == 0; }

struct Block {
  int index = 0;
  Weight q, k, v, o, gate, up, down;
  std::vector<float> input_norm, post_norm;  // [width], the architecture's offset added
  std::vector<float> q_norm, k_norm;         // [head_dim] or empty
  std::vector<Weight*> weights() { return {&q, &k, &v, &o, &gate, &up, &down}; }
  std::vector<const Weight*> weights() const { return {&q, &k, &v, &o, &gate, &up, &down}; }
};

// unsupported for what the forward pass does not do (sandwich norms, other layers than the Llama family's).
Status check_supported(const model::DecoderSpec& spec);
Result<Block> read_block(const formats::Checkpoint& checkpoint, const model::DecoderSpec& spec, int index, Math& math);

// What the four linear inputs saw: [rows, width], attention heads' output, [rows, width], [rows, ffn].
struct Capture { Array attention_input, output_input, mlp_input, down_input; };

class BlockRunner {
 public:
  BlockRunner(const model::DecoderSpec& spec, Math& math) : spec_(spec), math_(math) {}
  Math& math() { return math_; }

  // x [rows, width] becomes the layer's output. int8: weights are taken as they are, activations are rounded to int8 a
  // token before every linear (W8A8).
  void forward(const Block& block, const Tokens& tokens, Array& x, Capture* capture, bool int8 = false);
  // The attention's output (through o) for the given inputs of q, k and v and weights in their place; the parts of the
  // forward pass that the scale search looks at.
  Array attention(const Block& block, const Tokens& tokens, const Array& input, const Array& q, const Array& k, const Array& v,
                  bool int8 = false, Array* heads_out = nullptr);
  Array mlp(const Block& block, const Array& input, const Array& gate, const Array& up, bool int8 = false, Array* down_input = nullptr);
  // y = x wᵀ (+ bias).
  Array linear(const Weight& weight, const Array& values, const Array& x, bool with_bias, bool int8 = false);
  Array norm(const std::vector<float>& weight, const Array& x) { return math_.norm(x, weight, spec_.norm_epsilon); }

 private:
  const model::DecoderSpec& spec_;
  Math& math_;
};

}  // namespace hearth::quantize
