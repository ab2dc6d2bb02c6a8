#include "model/decoder.h"

#include <algorithm>

namespace hearth::model {

namespace {

int64_t round_up(int64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

Decoder::~Decoder() {
  for (void* memory : memory_) device_.release(memory);
}

Status Decoder::declare_ends(WeightPlan& plan, const Precision& head) {
  HEARTH_TRY(plan.table("model.embed_tokens.weight", spec_.vocabulary, spec_.width, &table_type_, &table_));
  HEARTH_ASSIGN(embed_, ops::bind(ops::EmbedSpec{spec_.width, spec_.vocabulary, table_type_, spec_.embed_scale}, device_.info()));
  LinearRequest request;
  request.modules = {spec_.tied ? "model.embed_tokens" : "lm_head"};
  request.rows = {spec_.vocabulary};
  request.in = spec_.width;
  request.spec.norm = ops::NormKind::rms;
  request.spec.norm_epsilon = spec_.norm_epsilon;
  request.norm = "model.norm";
  request.norm_offset = spec_.norm_offset;
  HEARTH_TRY(plan.linear(std::move(request), head, &head_));
  ops::NormSpec norm;
  norm.width = spec_.width;
  norm.epsilon = spec_.norm_epsilon;
  HEARTH_ASSIGN(final_norm_, ops::bind(norm, device_.info()));
  HEARTH_ASSIGN(gather_, ops::bind(ops::GatherSpec{spec_.width, DType::f32, DType::f32}, device_.info()));
  HEARTH_ASSIGN(add_, ops::bind(ops::AddSpec{spec_.width, DType::f32}, device_.info()));
  if (spec_.sandwich_norms) {
    norm.accumulate = true;
    HEARTH_ASSIGN(sandwich_norm_, ops::bind(norm, device_.info()));
  }
  return Status::ok();
}

Status Decoder::declare_attention(WeightPlan& plan, ops::KvFormat kv, int index) {
  Layer& layer = layers_[static_cast<size_t>(index)];
  ops::AttentionSpec spec;
  spec.heads = spec_.heads;
  spec.kv_heads = spec_.kv_heads;
  spec.head_dim = spec_.head_dim;
  spec.scale = spec_.attention_scale;
  spec.window = spec_.layers[static_cast<size_t>(index)].window;
  spec.kv = kv;
  spec.int8_products = int8_attention_;
  spec.fixed_point = layer.qkv.op.spec().activations != ops::ActivationFormat::exact;  // its inputs are rounded more coarsely
  spec.type = type_;
  spec.rope_dims = spec_.head_dim;
  spec.position_axes = spec_.position_axes;
  std::copy(std::begin(spec_.axis_sections), std::end(spec_.axis_sections), std::begin(spec.axis_sections));
  spec.axis_interleaved = spec_.axis_interleaved;
  spec.qk_norm = spec_.qk_norm;
  spec.qk_norm_epsilon = spec_.norm_epsilon;
  HEARTH_ASSIGN(layer.attention, ops::bind(spec, device_.info()));
  if (!spec_.qk_norm) return Status::ok();
  const std::string name = "model.layers." + std::to_string(index) + ".self_attn.";
  HEARTH_TRY(plan.vector(name + "q_norm.weight", spec_.head_dim, spec_.norm_offset, &layer.q_norm));
  return plan.vector(name + "k_norm.weight", spec_.head_dim, spec_.norm_offset, &layer.k_norm);
}

Status Decoder::declare_layer(WeightPlan& plan, const Precision& precision, ops::KvFormat kv, int index) {
  Layer& layer = layers_[static_cast<size_t>(index)];
  const std::string name = "model.layers." + std::to_string(index) + ".";
  const int q = spec_.heads * spec_.head_dim, k = spec_.kv_heads * spec_.head_dim;
  auto request = [&](std::vector<std::string> modules, std::vector<int> rows, int in, bool bias) {
    LinearRequest made;
    for (std::string& module : modules) made.modules.push_back(name + module);
    made.rows = std::move(rows);
    made.in = in;
    made.bias_required = bias;
    return made;
  };
  auto after_norm = [&](LinearRequest made, const char* norm) {
    made.spec.norm = ops::NormKind::rms;
    made.spec.norm_epsilon = spec_.norm_epsilon;
    made.spec.y_type = type_;
    made.norm = name + norm;
    made.norm_offset = spec_.norm_offset;
    return made;
  };
  auto to_residual = [&](LinearRequest made) {
    made.spec.x_type = type_;
    made.spec.residual = !spec_.sandwich_norms;
    return made;
  };
  LinearRequest qkv = request({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, {q, k, k}, spec_.width, spec_.qkv_bias);
  HEARTH_TRY(plan.linear(after_norm(std::move(qkv), "input_layernorm"), precision, &layer.qkv));
  HEARTH_TRY(plan.linear(to_residual(request({"self_attn.o_proj"}, {spec_.width}, q, spec_.o_bias)), precision, &layer.o));
  LinearRequest gate = request({"mlp.gate_proj", "mlp.up_proj"}, {spec_.ffn, spec_.ffn}, spec_.width, spec_.mlp_bias);
  gate.spec.gated = true;
  gate.spec.activation = spec_.activation;
  const char* norm = spec_.sandwich_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
  HEARTH_TRY(plan.linear(after_norm(std::move(gate), norm), precision, &layer.gate_up));
  HEARTH_TRY(plan.linear(to_residual(request({"mlp.down_proj"}, {spec_.width}, spec_.ffn, spec_.mlp_bias)), precision, &layer.down));
  if (spec_.sandwich_norms) {
    HEARTH_TRY(plan.vector(name + "post_attention_layernorm.weight", spec_.width, spec_.norm_offset, &layer.after_attention));
    HEARTH_TRY(plan.vector(name + "post_feedforward_layernorm.weight", spec_.width, spec_.norm_offset, &layer.after_mlp));
  }
  return declare_attention(plan, kv, index);
}

Status Decoder::declare(WeightPlan& plan, const Precision& body, const Precision& head, ops::KvFormat kv, bool int8_attention) {
  int8_attention_ = int8_attention;
  type_ = activation_type(device_.info(), plan.checkpoint(), "model.layers.0.self_attn.q_proj", body, spec_.dtype);
  layers_.resize(spec_.layers.size());
  rope_.assign(spec_.ropes.size(), nullptr);
  for (size_t i = 0; i < spec_.ropes.size(); i++) {
    const std::vector<float>& table = spec_.ropes[i].inverse_frequency;
    HEARTH_TRY(plan.values("rope frequencies", static_cast<int64_t>(table.size()),
                           [table](const formats::Checkpoint&) -> Result<std::vector<float>> { return table; }, &rope_[i]));
  }
  HEARTH_TRY(declare_ends(plan, head));
  for (size_t i = 0; i < layers_.size(); i++) HEARTH_TRY(declare_layer(plan, body, kv, static_cast<int>(i)));
  return Status::ok();
}

int64_t Decoder::activation_bytes(const DecoderLimits& limits) const {
  const int64_t rows = limits.rows, q = int64_t{spec_.heads} * spec_.head_dim, k = int64_t{spec_.kv_heads} * spec_.head_dim;
  const auto element = static_cast<int64_t>(size_of(type_));
  const bool extra = spec_.sandwich_norms || spec_.deepstack_layers > 0;
  return round_up(rows * spec_.width * 4) * (extra ? 2 : 1) + round_up(rows * (q + 2 * k) * element) +
         round_up(rows * q * element) + round_up(rows * spec_.ffn * element);
}

int64_t Decoder::workspace_bytes(const DecoderLimits& limits) const {
  size_t most = head_.op.workspace_bytes(limits.logit_rows, device_.info());
  for (const Layer& layer : layers_) {
    for (const Linear* linear : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      most = std::max(most, linear->op.workspace_bytes(limits.rows, device_.info()));
    }
    most = std::max(most, layer.attention.workspace_bytes(limits.rows, device_.info()));
  }
  return round_up(static_cast<int64_t>(most));
}

int64_t Decoder::logit_bytes(const DecoderLimits& limits) const {
  return round_up(int64_t{limits.logit_rows} * spec_.vocabulary * 4) + 2 * round_up(int64_t{limits.logit_rows} * spec_.width * 4) +
         round_up(int64_t{limits.sequences} * 4);
}

Result<void*> Decoder::take(int64_t bytes, const char* what) {
  HEARTH_ASSIGN(void* memory, device_.allocate(static_cast<size_t>(round_up(bytes)), device::MemoryKind::workspace, what));
  memory_.push_back(memory);
  return memory;
}

Status Decoder::allocate(const DecoderLimits& limits) {
  const int64_t rows = limits.rows, q = int64_t{spec_.heads} * spec_.head_dim, k = int64_t{spec_.kv_heads} * spec_.head_dim;
  const auto element = static_cast<int64_t>(size_of(type_));
  HEARTH_ASSIGN(void* x, take(rows * spec_.width * 4, "the residual stream"));
  x_ = static_cast<float*>(x);
  HEARTH_ASSIGN(qkv_, take(rows * (q + 2 * k) * element, "activations"));
  HEARTH_ASSIGN(attention_, take(rows * q * element, "activations"));
  HEARTH_ASSIGN(gate_, take(rows * spec_.ffn * element, "activations"));
  if (spec_.sandwich_norms || spec_.deepstack_layers > 0) {
    HEARTH_ASSIGN(void* extra, take(rows * spec_.width * 4, "activations"));
    extra_ = static_cast<float*>(extra);
  }
  HEARTH_ASSIGN(void* picked, take(int64_t{limits.logit_rows} * spec_.width * 4, "rows of the head"));
  picked_ = static_cast<float*>(picked);
  HEARTH_ASSIGN(void* hidden, take(int64_t{limits.logit_rows} * spec_.width * 4, "hidden states"));
  hidden_ = static_cast<float*>(hidden);
  HEARTH_ASSIGN(void* logits, take(int64_t{limits.logit_rows} * spec_.vocabulary * 4, "logits"));
  logits_ = static_cast<float*>(logits);
  HEARTH_ASSIGN(void* sampled, take(int64_t{limits.sequences} * 4, "sampled tokens"));
  sampled_ = static_cast<int32_t*>(sampled);
  HEARTH_TRY(device_.fill_zero(sampled_, static_cast<size_t>(limits.sequences) * 4));
  const int64_t workspace = workspace_bytes(limits);
  if (workspace > 0) {
    HEARTH_ASSIGN(workspace_, take(workspace, "workspace"));
  }
  return Status::ok();
}

void Decoder::run_into_residual(const Linear& linear, const float* norm, const void* x, int64_t stride, int rows) {
  device::Stream& stream = device_.stream();
  float* to = norm ? extra_ : x_;
  linear.run(rows, x, stride, to, spec_.width, workspace_, stream);
  if (norm) sandwich_norm_.run({rows, extra_, spec_.width, norm, nullptr, x_, spec_.width}, stream);
}

void Decoder::run_layer(const Step& step, const Layer& layer, const LayerSpec& spec, const ops::KvLayer& kv) {
  device::Stream& stream = device_.stream();
  const int rows = step.batch.rows;
  const int64_t q = int64_t{spec_.heads} * spec_.head_dim;
  const int64_t qkv = q + 2 * int64_t{spec_.kv_heads} * spec_.head_dim;
  layer.qkv.run(rows, x_, spec_.width, qkv_, qkv, workspace_, stream);
  ops::AttentionParams attention;
  attention.batch = step.batch;
  attention.qkv = qkv_;
  attention.qkv_stride = qkv;
  attention.q_norm = layer.q_norm;
  attention.k_norm = layer.k_norm;
  attention.inverse_frequency = rope_[static_cast<size_t>(spec.rope)];
  attention.rope_amplitude = spec_.ropes[static_cast<size_t>(spec.rope)].amplitude;
  attention.kv = kv;
  attention.out = attention_;
  attention.out_stride = q;
  attention.workspace = workspace_;
  layer.attention.run(attention, stream);
  run_into_residual(layer.o, layer.after_attention, attention_, q, rows);
  layer.gate_up.run(rows, x_, spec_.width, gate_, spec_.ffn, workspace_, stream);
  run_into_residual(layer.down, layer.after_mlp, gate_, spec_.ffn, rows);
}

// Rows of images receive their features of this depth; the others zeros.
void Decoder::add_deepstack(const Step& step, const float* features) {
  const int rows = step.batch.rows;
  gather_.run({rows, features, spec_.width, step.image_row, extra_, spec_.width}, device_.stream());
  add_.run({rows, extra_, spec_.width, x_, spec_.width}, device_.stream());
}

void Decoder::run_head(const Step& step, bool hidden) {
  device::Stream& stream = device_.stream();
  const float* rows = x_;
  if (!step.all_rows) {
    gather_.run({step.logits, x_, spec_.width, step.logit_rows, picked_, spec_.width}, stream);
    rows = picked_;
  }
  if (hidden) {
    final_norm_.run({step.logits, rows, spec_.width, head_.norm_weight, nullptr, hidden_, spec_.width}, stream);
  } else {
    head_.run(step.logits, rows, spec_.width, logits_, spec_.vocabulary, workspace_, stream);
  }
}

void Decoder::run(const Step& step, const KvPool& kv, const ImageArena& images, bool hidden) {
  ops::EmbedParams embed{step.batch.rows, step.ids, step.source, sampled_, table_, images.rows, x_};
  embed_.run(embed, device_.stream());
  for (size_t i = 0; i < layers_.size(); i++) {
    run_layer(step, layers_[i], spec_.layers[i], kv.layer(static_cast<int>(i)));
    if (step.images && i < images.deepstack.size()) add_deepstack(step, images.deepstack[i]);
  }
  if (step.logits > 0) run_head(step, hidden);
}

}  // namespace hearth::model
