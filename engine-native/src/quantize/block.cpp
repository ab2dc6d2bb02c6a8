#include "quantize/block.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "formats/nearest.h"

namespace hearth::quantize {

namespace {

// Dense rows are independent: each thread turns its share into f32.
void to_floats(ThreadPool& pool, const ops::HostLinear& dense, std::vector<float>& values) {
  if (!formats::is_dense(dense.format)) {
    values = formats::dequantize(dense);
    return;
  }
  const size_t element = dense.format == ops::WeightFormat::f32 ? 4 : 2;
  pool.parallel([&](int worker, int workers) {
    const int begin = static_cast<int>(int64_t{dense.out} * worker / workers), end = static_cast<int>(int64_t{dense.out} * (worker + 1) / workers);
    if (begin == end) return;
    ops::HostLinear part = dense;
    part.out = end - begin;
    part.data = static_cast<const char*>(dense.data) + element * static_cast<size_t>(begin) * static_cast<size_t>(dense.in);
    const std::vector<float> floats = formats::dequantize(part);
    std::copy(floats.begin(), floats.end(), values.begin() + int64_t{begin} * dense.in);
  });
}

// Whoever rounds or searches with such a value would spoil what it touches without a word.
Status check_finite(const formats::Checkpoint& checkpoint, const std::string& name, std::span<const float> values) {
  if (std::ranges::all_of(values, [](float value) { return std::isfinite(value); })) return Status::ok();
  return corrupt(checkpoint.path() + ": tensor '" + name + "' holds values that are not finite; the file is damaged, or its numbers were too large for its type");
}

Result<Weight> read_weight(const formats::Checkpoint& checkpoint, const std::string& module, int64_t out, int64_t in, Math& math) {
  HEARTH_ASSIGN(const formats::LinearData linear, checkpoint.linear(module));
  if (linear.host.out != out || linear.host.in != in) {
    return corrupt(checkpoint.path() + ": tensor '" + module + ".weight' has shape [" + std::to_string(linear.host.out) + ", " +
                   std::to_string(linear.host.in) + "], expected [" + std::to_string(out) + ", " + std::to_string(in) + "]");
  }
  Array values(out, in);
  to_floats(math.pool(), linear.host, values.host);
  HEARTH_TRY(check_finite(checkpoint, module + ".weight", values.host));
  Weight weight{module, out, in, math.upload(std::move(values)), linear.bias, {}};
  checkpoint.forget(module);
  return weight;
}

Result<std::vector<float>> read_norm(const formats::Checkpoint& checkpoint, const std::string& name, int64_t size, float offset) {
  HEARTH_ASSIGN(std::vector<float> values, checkpoint.floats(name, {{size}}));
  HEARTH_TRY(check_finite(checkpoint, name, values));
  for (float& value : values) value += offset;
  return values;
}

}  // namespace

Status check_supported(const model::DecoderSpec& spec) {
  const bool known = (spec.activation == ops::Activation::silu || spec.activation == ops::Activation::gelu_tanh) && !spec.sandwich_norms &&
                     spec.deepstack_layers == 0 && spec.norm_offset == 0;
  if (known) return Status::ok();
  return unsupported("calibrated quantization of '" + spec.architecture + "' models; --method rtn and --quantize at load work for them");
}

Result<Block> read_block(const formats::Checkpoint& checkpoint, const model::DecoderSpec& spec, int index, Math& math) {
  const std::string layer = "model.layers." + std::to_string(index) + ".";
  const int64_t width = spec.width, ffn = spec.ffn, q = int64_t{spec.heads} * spec.head_dim, kv = int64_t{spec.kv_heads} * spec.head_dim;
  Block block;
  block.index = index;
  HEARTH_ASSIGN(block.q, read_weight(checkpoint, layer + "self_attn.q_proj", q, width, math));
  HEARTH_ASSIGN(block.k, read_weight(checkpoint, layer + "self_attn.k_proj", kv, width, math));
  HEARTH_ASSIGN(block.v, read_weight(checkpoint, layer + "self_attn.v_proj", kv, width, math));
  HEARTH_ASSIGN(block.o, read_weight(checkpoint, layer + "self_attn.o_proj", width, q, math));
  HEARTH_ASSIGN(block.gate, read_weight(checkpoint, layer + "mlp.gate_proj", ffn, width, math));
  HEARTH_ASSIGN(block.up, read_weight(checkpoint, layer + "mlp.up_proj", ffn, width, math));
  HEARTH_ASSIGN(block.down, read_weight(checkpoint, layer + "mlp.down_proj", width, ffn, math));
  HEARTH_ASSIGN(block.input_norm, read_norm(checkpoint, layer + "input_layernorm.weight", width, spec.norm_offset));
  HEARTH_ASSIGN(block.post_norm, read_norm(checkpoint, layer + "post_attention_layernorm.weight", width, spec.norm_offset));
  if (spec.qk_norm) {
    HEARTH_ASSIGN(block.q_norm, read_norm(checkpoint, layer + "self_attn.q_norm.weight", spec.head_dim, spec.norm_offset));
    HEARTH_ASSIGN(block.k_norm, read_norm(checkpoint, layer + "self_attn.k_norm.weight", spec.head_dim, spec.norm_offset));
  }
  return block;
}

Array BlockRunner::linear(const Weight& weight, const Array& values, const Array& x, bool with_bias, bool int8) {
  Array y;
  if (int8) {
    Array rounded = x;
    math_.round_int8(rounded);
    y = math_.multiply(rounded, values);
  } else {
    y = math_.multiply(x, values);
  }
  if (with_bias && !weight.bias.empty()) math_.add_row(y, weight.bias);
  return y;
}

Array BlockRunner::attention(const Block& block, const Tokens& tokens, const Array& input, const Array& q_values, const Array& k_values,
                             const Array& v_values, bool int8, Array* heads_out) {
  const model::LayerSpec& layer = spec_.layers[static_cast<size_t>(block.index)];
  const model::RopeTable& rope = spec_.ropes[static_cast<size_t>(layer.rope)];
  Array q = linear(block.q, q_values, input, true, int8), k = linear(block.k, k_values, input, true, int8);
  const Array v = linear(block.v, v_values, input, true, int8);
  math_.rotate(q, {spec_.heads, spec_.head_dim, block.q_norm, spec_.norm_epsilon, &rope, tokens.length});
  math_.rotate(k, {spec_.kv_heads, spec_.head_dim, block.k_norm, spec_.norm_epsilon, &rope, tokens.length});
  Array heads = math_.attend(q, k, v, {spec_.heads, spec_.kv_heads, spec_.head_dim, spec_.attention_scale, layer.window}, tokens);
  Array y = linear(block.o, block.o.values, heads, true, int8);
  if (heads_out) *heads_out = std::move(heads);
  return y;
}

Array BlockRunner::mlp(const Block& block, const Array& input, const Array& gate_values, const Array& up_values, bool int8, Array* down_input) {
  Array gate = linear(block.gate, gate_values, input, true, int8);
  math_.gate(gate, linear(block.up, up_values, input, true, int8), spec_.activation);
  Array y = linear(block.down, block.down.values, gate, true, int8);
  if (down_input) *down_input = std::move(gate);
  return y;
}

void BlockRunner::forward(const Block& block, const Tokens& tokens, Array& x, Capture* capture, bool int8) {
  Array input = norm(block.input_norm, x);
  math_.add(x, attention(block, tokens, input, block.q.values, block.k.values, block.v.values, int8, capture ? &capture->output_input : nullptr));
  if (capture) capture->attention_input = std::move(input);
  Array mlp_input = norm(block.post_norm, x);
  math_.add(x, mlp(block, mlp_input, block.gate.values, block.up.values, int8, capture ? &capture->down_input : nullptr));
  if (capture) capture->mlp_input = std::move(mlp_input);
}

}  // namespace hearth::quantize
