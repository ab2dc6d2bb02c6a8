#include "quantize/block.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "quantize/gemm.h"
#include "quantize/rounding.h"

namespace hearth::quantize {

namespace {

float activate(ops::Activation kind, float x) {
  if (kind == ops::Activation::gelu_tanh) return 0.5f * x * (1.0f + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
  return x / (1.0f + std::exp(-x));
}

Result<Weight> read_weight(const formats::Checkpoint& checkpoint, const std::string& module, int64_t out, int64_t in) {
  HEARTH_ASSIGN(const formats::LinearData linear, checkpoint.linear(module));
  if (linear.host.out != out || linear.host.in != in) {
    return corrupt(checkpoint.path() + ": tensor '" + module + ".weight' has shape [" + std::to_string(linear.host.out) + ", " +
                   std::to_string(linear.host.in) + "], expected [" + std::to_string(out) + ", " + std::to_string(in) + "]");
  }
  Weight weight{module, out, in, formats::dequantize(linear.host), linear.bias, {}};
  checkpoint.forget(module);
  return weight;
}

Result<std::vector<float>> read_norm(const formats::Checkpoint& checkpoint, const std::string& name, int64_t size, float offset) {
  HEARTH_ASSIGN(std::vector<float> values, checkpoint.floats(name, {{size}}));
  for (float& value : values) value += offset;
  return values;
}

// exp over many rows is the softmax's cost; the pool splits heads, so plain loops do.
void softmax(float* row, int64_t from, int64_t to, int64_t length) {
  float largest = row[from];
  for (int64_t j = from; j < to; j++) largest = std::max(largest, row[j]);
  float sum = 0;
  for (int64_t j = from; j < to; j++) sum += row[j] = std::exp(row[j] - largest);
  for (int64_t j = 0; j < length; j++) row[j] = j < from || j >= to ? 0 : row[j] / sum;
}

}  // namespace

Status check_supported(const model::DecoderSpec& spec) {
  const bool known = (spec.activation == ops::Activation::silu || spec.activation == ops::Activation::gelu_tanh) && !spec.sandwich_norms &&
                     spec.deepstack_layers == 0 && spec.norm_offset == 0;
  if (known) return Status::ok();
  return unsupported("calibrated quantization of '" + spec.architecture + "' models; --method rtn and --quantize at load work for them");
}

Result<Block> read_block(const formats::Checkpoint& checkpoint, const model::DecoderSpec& spec, int index) {
  const std::string layer = "model.layers." + std::to_string(index) + ".";
  const int64_t width = spec.width, ffn = spec.ffn, q = int64_t{spec.heads} * spec.head_dim, kv = int64_t{spec.kv_heads} * spec.head_dim;
  Block block;
  block.index = index;
  HEARTH_ASSIGN(block.q, read_weight(checkpoint, layer + "self_attn.q_proj", q, width));
  HEARTH_ASSIGN(block.k, read_weight(checkpoint, layer + "self_attn.k_proj", kv, width));
  HEARTH_ASSIGN(block.v, read_weight(checkpoint, layer + "self_attn.v_proj", kv, width));
  HEARTH_ASSIGN(block.o, read_weight(checkpoint, layer + "self_attn.o_proj", width, q));
  HEARTH_ASSIGN(block.gate, read_weight(checkpoint, layer + "mlp.gate_proj", ffn, width));
  HEARTH_ASSIGN(block.up, read_weight(checkpoint, layer + "mlp.up_proj", ffn, width));
  HEARTH_ASSIGN(block.down, read_weight(checkpoint, layer + "mlp.down_proj", width, ffn));
  HEARTH_ASSIGN(block.input_norm, read_norm(checkpoint, layer + "input_layernorm.weight", width, spec.norm_offset));
  HEARTH_ASSIGN(block.post_norm, read_norm(checkpoint, layer + "post_attention_layernorm.weight", width, spec.norm_offset));
  if (spec.qk_norm) {
    HEARTH_ASSIGN(block.q_norm, read_norm(checkpoint, layer + "self_attn.q_norm.weight", spec.head_dim, spec.norm_offset));
    HEARTH_ASSIGN(block.k_norm, read_norm(checkpoint, layer + "self_attn.k_norm.weight", spec.head_dim, spec.norm_offset));
  }
  return block;
}

void BlockRunner::each_row(int64_t rows, const std::function<void(int64_t)>& body) {
  pool_.parallel([&](int worker, int workers) {
    for (int64_t row = rows * worker / workers; row < rows * (worker + 1) / workers; row++) body(row);
  });
}

std::vector<float> BlockRunner::norm(const std::vector<float>& weight, const std::vector<float>& x, int64_t rows) {
  const int64_t width = static_cast<int64_t>(weight.size());
  std::vector<float> y(static_cast<size_t>(rows * width));
  each_row(rows, [&](int64_t row) {
    const float* from = x.data() + row * width;
    double sum = 0;
    for (int64_t i = 0; i < width; i++) sum += double{from[i]} * from[i];
    const float scale = 1.0f / std::sqrt(static_cast<float>(sum / static_cast<double>(width)) + spec_.norm_epsilon);
    for (int64_t i = 0; i < width; i++) y[static_cast<size_t>(row * width + i)] = from[i] * scale * weight[static_cast<size_t>(i)];
  });
  return y;
}

std::vector<float> BlockRunner::linear(const Weight& weight, const float* values, const float* x, int64_t rows, bool with_bias, bool int8) {
  std::vector<float> y(static_cast<size_t>(rows * weight.out)), rounded;
  if (int8) {
    rounded.resize(static_cast<size_t>(rows * weight.in));
    each_row(rows, [&](int64_t row) { round_int8(x + row * weight.in, weight.in, rounded.data() + row * weight.in); });
    x = rounded.data();
  }
  multiply(pool_, {x, rows, weight.in, weight.in}, {values, weight.out, weight.in, weight.in}, y.data(), weight.out, false);
  if (with_bias && !weight.bias.empty()) {
    each_row(rows, [&](int64_t row) {
      for (int64_t n = 0; n < weight.out; n++) y[static_cast<size_t>(row * weight.out + n)] += weight.bias[static_cast<size_t>(n)];
    });
  }
  return y;
}

// q/k norm and rope on [rows, heads * head_dim].
void BlockRunner::rotate(std::vector<float>& x, int heads, const std::vector<float>& norm_weight, const Tokens& tokens, const model::RopeTable& rope) {
  const int64_t size = spec_.head_dim, half = static_cast<int64_t>(rope.inverse_frequency.size());
  each_row(tokens.rows(), [&](int64_t row) {
    const float position = static_cast<float>(row % tokens.length);
    for (int head = 0; head < heads; head++) {
      float* at = x.data() + (row * heads + head) * size;
      if (!norm_weight.empty()) {
        float sum = 0;
        for (int64_t i = 0; i < size; i++) sum += at[i] * at[i];
        const float scale = 1.0f / std::sqrt(sum / static_cast<float>(size) + spec_.norm_epsilon);
        for (int64_t i = 0; i < size; i++) at[i] *= scale * norm_weight[static_cast<size_t>(i)];
      }
      for (int64_t i = 0; i < half; i++) {
        const float angle = position * rope.inverse_frequency[static_cast<size_t>(i)];
        const float c = std::cos(angle) * rope.amplitude, s = std::sin(angle) * rope.amplitude;
        const float a = at[i], b = at[i + half];
        at[i] = a * c - b * s;
        at[i + half] = b * c + a * s;
      }
    }
  });
}

void BlockRunner::attend(const Block& block, const Tokens& tokens, const std::vector<float>& q, const std::vector<float>& k,
                         const std::vector<float>& v, std::vector<float>& out) {
  const int64_t length = tokens.length, size = spec_.head_dim, heads = spec_.heads, kv_heads = spec_.kv_heads;
  const int64_t window = spec_.layers[static_cast<size_t>(block.index)].window;
  each_row(tokens.sequences * heads, [&](int64_t task) {
    const int64_t sequence = task / heads, head = task % heads, kv_head = head / (heads / kv_heads), first = sequence * length;
    thread_local std::vector<float> scores, turned;
    scores.resize(static_cast<size_t>(length * length));
    turned.resize(static_cast<size_t>(size * length));
    multiply({q.data() + (first * heads + head) * size, length, size, heads * size},
             {k.data() + (first * kv_heads + kv_head) * size, length, size, kv_heads * size}, scores.data(), length, false);
    for (int64_t i = 0; i < length; i++) {
      float* row = scores.data() + i * length;
      for (int64_t j = 0; j <= i; j++) row[j] *= spec_.attention_scale;
      softmax(row, window > 0 ? std::max<int64_t>(0, i + 1 - window) : 0, i + 1, length);
      for (int64_t d = 0; d < size; d++) turned[static_cast<size_t>(d * length + i)] = v[static_cast<size_t>(((first + i) * kv_heads + kv_head) * size + d)];
    }
    multiply({scores.data(), length, length, length}, {turned.data(), size, length, length},
             out.data() + (first * heads + head) * size, heads * size, false);
  });
}

std::vector<float> BlockRunner::attention(const Block& block, const Tokens& tokens, const float* input, const float* q_values,
                                          const float* k_values, const float* v_values, bool int8, std::vector<float>* heads_out) {
  const int64_t rows = tokens.rows();
  const model::RopeTable& rope = spec_.ropes[static_cast<size_t>(spec_.layers[static_cast<size_t>(block.index)].rope)];
  std::vector<float> q = linear(block.q, q_values, input, rows, true, int8), k = linear(block.k, k_values, input, rows, true, int8);
  const std::vector<float> v = linear(block.v, v_values, input, rows, true, int8);
  rotate(q, spec_.heads, block.q_norm, tokens, rope);
  rotate(k, spec_.kv_heads, block.k_norm, tokens, rope);
  std::vector<float> heads(static_cast<size_t>(rows * block.o.in));
  attend(block, tokens, q, k, v, heads);
  std::vector<float> y = linear(block.o, block.o.values.data(), heads.data(), rows, true, int8);
  if (heads_out) *heads_out = std::move(heads);
  return y;
}

std::vector<float> BlockRunner::mlp(const Block& block, int64_t rows, const float* input, const float* gate_values, const float* up_values,
                                    bool int8, std::vector<float>* down_input) {
  std::vector<float> gate = linear(block.gate, gate_values, input, rows, true, int8);
  const std::vector<float> up = linear(block.up, up_values, input, rows, true, int8);
  const int64_t ffn = block.gate.out;
  each_row(rows, [&](int64_t row) {
    for (int64_t i = row * ffn; i < (row + 1) * ffn; i++) {
      const size_t at = static_cast<size_t>(i);
      gate[at] = activate(spec_.activation, gate[at]) * up[at];
    }
  });
  std::vector<float> y = linear(block.down, block.down.values.data(), gate.data(), rows, true, int8);
  if (down_input) *down_input = std::move(gate);
  return y;
}

void BlockRunner::forward(const Block& block, const Tokens& tokens, std::vector<float>& x, Capture* capture, bool int8) {
  const int64_t rows = tokens.rows();
  std::vector<float> input = norm(block.input_norm, x, rows);
  const std::vector<float> attended = attention(block, tokens, input.data(), block.q.values.data(), block.k.values.data(),
                                                block.v.values.data(), int8, capture ? &capture->output_input : nullptr);
  for (size_t i = 0; i < x.size(); i++) x[i] += attended[i];
  std::vector<float> mlp_input = norm(block.post_norm, x, rows);
  const std::vector<float> changed = mlp(block, rows, mlp_input.data(), block.gate.values.data(), block.up.values.data(), int8,
                                         capture ? &capture->down_input : nullptr);
  for (size_t i = 0; i < x.size(); i++) x[i] += changed[i];
  if (capture) {
    capture->attention_input = std::move(input);
    capture->mlp_input = std::move(mlp_input);
  }
}

}  // namespace hearth::quantize
