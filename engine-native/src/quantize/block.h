// One decoder layer in f32, for calibration: its weights, and a forward pass that shows what each linear was fed.
// Covers the Llama family (RMS norm, rope, grouped-query attention, gated MLP, optional biases and q/k norms).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "formats/checkpoint.h"
#include "model/decoder_spec.h"

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
  std::vector<float> values;   // [out, in]
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
};

// unsupported for what the forward pass does not do (sandwich norms, other layers than the Llama family's).
Status check_supported(const model::DecoderSpec& spec);
Result<Block> read_block(const formats::Checkpoint& checkpoint, const model::DecoderSpec& spec, int index);

// Tokens in whole sequences of the same length, each from position 0.
struct Tokens {
  int64_t sequences = 0, length = 0;
  int64_t rows() const { return sequences * length; }
};

// What the four linear inputs saw: [rows, width], attention heads' output, [rows, width], [rows, ffn].
struct Capture {
  std::vector<float> attention_input, output_input, mlp_input, down_input;
};

class BlockRunner {
 public:
  BlockRunner(const model::DecoderSpec& spec, ThreadPool& pool) : spec_(spec), pool_(pool) {}

  // x [rows, width] becomes the layer's output. int8: weights are taken as they are, activations are rounded to int8 a
  // token before every linear (W8A8).
  void forward(const Block& block, const Tokens& tokens, std::vector<float>& x, Capture* capture, bool int8 = false);
  // The attention's output (through o) for the given inputs of q, k and v and weights in their place; the parts of the
  // forward pass that the scale search looks at.
  std::vector<float> attention(const Block& block, const Tokens& tokens, const float* input, const float* q, const float* k,
                               const float* v, bool int8 = false, std::vector<float>* heads_out = nullptr);
  std::vector<float> mlp(const Block& block, int64_t rows, const float* input, const float* gate, const float* up,
                         bool int8 = false, std::vector<float>* down_input = nullptr);
  // y = x wᵀ (+ bias).
  std::vector<float> linear(const Weight& weight, const float* values, const float* x, int64_t rows, bool with_bias, bool int8 = false);
  std::vector<float> norm(const std::vector<float>& weight, const std::vector<float>& x, int64_t rows);

 private:
  void rotate(std::vector<float>& x, int heads, const std::vector<float>& norm_weight, const Tokens& tokens, const model::RopeTable& rope);
  void attend(const Block& block, const Tokens& tokens, const std::vector<float>& q, const std::vector<float>& k,
              const std::vector<float>& v, std::vector<float>& out);
  // body(row) for all rows, over the pool.
  void each_row(int64_t rows, const std::function<void(int64_t)>& body);

  const model::DecoderSpec& spec_;
  ThreadPool& pool_;
};

}  // namespace hearth::quantize
