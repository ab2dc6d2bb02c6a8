#include "ops/describe.h"

namespace hearth::ops {
namespace {

std::string number(int64_t n) { return std::to_string(n); }
std::string types(DType x, DType y) {
  return std::string(" ") + hearth::name_of(x) + "->" + hearth::name_of(y);
}

}  // namespace

const char* name_of(WeightFormat format) {
  constexpr const char* names[] = {"f32", "f16", "bf16", "w4", "w8"};
  return names[static_cast<int>(format)];
}
const char* name_of(ActivationFormat format) {
  constexpr const char* names[] = {"exact", "int8-group", "int8-row"};
  return names[static_cast<int>(format)];
}
const char* name_of(Activation activation) {
  constexpr const char* names[] = {"none", "silu", "gelu-tanh", "gelu-erf", "quick-gelu", "relu"};
  return names[static_cast<int>(activation)];
}
const char* name_of(NormKind kind) {
  constexpr const char* names[] = {"none", "rms", "layer"};
  return names[static_cast<int>(kind)];
}
const char* name_of(KvFormat format) {
  constexpr const char* names[] = {"f32", "f16", "bf16", "int8"};
  return names[static_cast<int>(format)];
}

std::string describe(const EmbedSpec& s) {
  return number(s.vocabulary) + "x" + number(s.width) + " " + hearth::name_of(s.table_type);
}
std::string describe(const NormSpec& s) {
  return std::string(name_of(s.kind)) + " " + number(s.width) + types(s.x_type, s.y_type) + (s.accumulate ? " +=" : "");
}
std::string describe(const LinearSpec& s) {
  std::string text = number(s.in) + "->" + number(s.out) + " " + name_of(s.weight);
  if (s.weight == WeightFormat::w4) text += "g" + number(s.group) + (s.symmetric ? "s" : "");
  text += std::string(" ") + name_of(s.activations);
  if (s.norm != NormKind::none) text += std::string(" ") + name_of(s.norm) + "-norm";
  if (s.bias) text += " bias";
  if (s.activation != Activation::none) text += std::string(" ") + name_of(s.activation);
  if (s.gated) text += " gated";
  if (s.residual) text += " residual";
  return text + types(s.x_type, s.y_type);
}
std::string describe(const GateSpec& s) {
  return number(s.width) + " " + name_of(s.activation) + " " + hearth::name_of(s.type);
}
std::string describe(const AddSpec& s) { return number(s.width) + " " + hearth::name_of(s.x_type); }
std::string describe(const GatherSpec& s) { return number(s.width) + types(s.x_type, s.y_type); }
std::string describe(const AttentionSpec& s) {
  std::string text = number(s.heads) + "/" + number(s.kv_heads) + " heads of " + number(s.head_dim) + " kv " + name_of(s.kv);
  if (s.int8_products) text += " int8-products";
  if (s.fixed_point) text += " fixed-point";
  if (s.window > 0) text += " window " + number(s.window);
  if (s.rope_dims > 0) text += " rope " + number(s.rope_dims) + (s.rope_interleaved ? " interleaved" : "");
  if (s.position_axes > 1) text += " axes " + number(s.position_axes);
  if (s.qk_norm) text += " qk-norm";
  return text + " " + hearth::name_of(s.type);
}
std::string describe(const VisionAttentionSpec& s) {
  return number(s.heads) + " heads of " + number(s.head_dim) + (s.rope ? " rope " : " ") + hearth::name_of(s.type);
}
std::string describe(const SampleSpec& s) { return "vocabulary " + number(s.vocabulary); }

}  // namespace hearth::ops
