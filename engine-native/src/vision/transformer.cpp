#include "vision/transformer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace hearth::vision {

using model::LinearRequest;
using model::Precision;
using model::WeightPlan;

namespace {

int64_t round_up(int64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

Precision tower_precision(const Precision& body) {
  Precision precision = body;
  if (body.kind == Precision::Kind::w4) precision.kind = Precision::Kind::as_file;
  return precision;
}

int padded_columns(int columns) { return (columns + 63) / 64 * 64; }

LinearRequest patch_request(const formats::Checkpoint& checkpoint, const std::string& module, int width, int columns, int in,
                            const Precision& precision) {
  LinearRequest request;
  request.modules = {module};
  request.rows = {width};
  request.in = in;
  request.custom_format = ops::WeightFormat::f16;
  if (const formats::TensorView* view = checkpoint.find(module + ".weight")) {
    if (view->type == DType::bf16) request.custom_format = ops::WeightFormat::bf16;
    if (view->type == DType::f32 && !precision.narrow_f32) request.custom_format = ops::WeightFormat::f32;
  }
  if (precision.kind == Precision::Kind::dense) request.custom_format = precision.dense;
  request.custom = [module, width, columns, in](const formats::Checkpoint& from) -> Result<std::vector<float>> {
    const formats::TensorView* view = from.find(module + ".weight");
    if (!view) return corrupt(from.path() + ": tensor '" + module + ".weight' is missing");
    if (view->shape.empty() || view->shape[0] != width || view->elements() != int64_t{width} * columns) {
      return corrupt(view->file + ": tensor '" + module + ".weight' has the wrong shape for patches of " + std::to_string(columns) + " values");
    }
    HEARTH_ASSIGN(const std::vector<float> values, from.floats(module + ".weight", view->shape));
    std::vector<float> padded(static_cast<size_t>(width) * static_cast<size_t>(in), 0);
    for (int row = 0; row < width; row++) {
      std::copy_n(values.begin() + int64_t{row} * columns, columns, padded.begin() + int64_t{row} * in);
    }
    return padded;
  };
  return request;
}

DType patch_type(const LinearRequest& request, const device::DeviceInfo& device) {
  if (device.kind == device::DeviceKind::cpu) return DType::f32;
  return request.custom_format == ops::WeightFormat::f16 ? DType::f16 : request.custom_format == ops::WeightFormat::bf16 ? DType::bf16 : DType::f32;
}

void narrow_patches(const std::vector<float>& patches, DType type, std::byte* to) {
  if (type == DType::f32) std::memcpy(to, patches.data(), patches.size() * sizeof(float));
  auto* narrow = reinterpret_cast<uint16_t*>(to);
  for (size_t i = 0; type == DType::f16 && i < patches.size(); i++) narrow[i] = to_half(patches[i]).bits;
  for (size_t i = 0; type == DType::bf16 && i < patches.size(); i++) narrow[i] = to_bfloat16(patches[i]).bits;
}

std::vector<std::byte> narrow_patches(const std::vector<float>& patches, DType type) {
  std::vector<std::byte> out(patches.size() * size_of(type));
  narrow_patches(patches, type, out.data());
  return out;
}

Transformer::~Transformer() {
  for (void* memory : memory_) device_.release(memory);
}

Status Transformer::declare_block(WeightPlan& plan, const Precision& precision, int index) {
  Block& block = blocks_[static_cast<size_t>(index)];
  const std::string name = spec_.prefix + std::to_string(index) + ".";
  const int width = spec_.width;
  auto request = [&](const std::vector<std::string>& modules, int rows, int in) {
    LinearRequest made;
    for (const std::string& module : modules) {
      made.modules.push_back(name + module);
      made.rows.push_back(rows);
    }
    made.in = in;
    made.bias_required = true;
    made.spec.x_type = made.spec.y_type = type_;
    return made;
  };
  auto after_norm = [&](LinearRequest made, const std::string& norm) {
    made.spec.norm = spec_.norm;
    made.spec.norm_epsilon = spec_.epsilon;
    made.spec.x_type = DType::f32;
    made.norm = name + norm;
    return made;
  };
  auto to_residual = [](LinearRequest made) {
    made.spec.residual = true;
    made.spec.y_type = DType::f32;
    return made;
  };
  LinearRequest qkv = request(spec_.qkv, spec_.qkv.size() == 1 ? 3 * width : width, width);
  HEARTH_TRY(plan.linear(after_norm(std::move(qkv), spec_.norm1), precision, &block.qkv));
  HEARTH_TRY(plan.linear(to_residual(request({spec_.out}, width, width)), precision, &block.out));
  LinearRequest up = after_norm(request(spec_.up, spec_.ffn, width), spec_.norm2);
  up.spec.gated = spec_.gated;
  up.spec.activation = spec_.activation;
  HEARTH_TRY(plan.linear(std::move(up), precision, &block.up));
  return plan.linear(to_residual(request({spec_.down}, width, spec_.ffn)), precision, &block.down);
}

Status Transformer::declare(WeightPlan& plan, const Precision& precision) {
  type_ = model::activation_type(device_.info(), plan.checkpoint(), spec_.prefix + "0." + spec_.qkv.front(), precision, DType::f16);
  blocks_.resize(static_cast<size_t>(spec_.layers));
  for (int i = 0; i < spec_.layers; i++) HEARTH_TRY(declare_block(plan, precision, i));
  ops::VisionAttentionSpec attention;
  attention.heads = spec_.heads;
  attention.head_dim = spec_.width / spec_.heads;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim));
  attention.type = type_;
  attention.rope = spec_.rope;
  attention.int8_products = precision.kind == Precision::Kind::w8;
  HEARTH_ASSIGN(attention_op_, ops::bind(attention, device_.info()));
  return Status::ok();
}

size_t Transformer::needed_workspace(int rows) const {
  size_t most = std::max(workspace_bytes_, attention_op_.workspace_bytes(rows, device_.info()));
  for (const Block& block : blocks_) {
    for (const model::Linear* linear : {&block.qkv, &block.out, &block.up, &block.down}) {
      most = std::max(most, linear->op.workspace_bytes(rows, device_.info()));
    }
  }
  return most;
}

int64_t Transformer::bytes(int rows) const {
  const auto element = static_cast<int64_t>(size_of(type_));
  return round_up(int64_t{rows} * spec_.width * 3 * element) + round_up(int64_t{rows} * spec_.width * element) +
         round_up(int64_t{rows} * spec_.ffn * element) + round_up(static_cast<int64_t>(needed_workspace(rows)));
}

Status Transformer::allocate(int rows) {
  const size_t element = size_of(type_), r = static_cast<size_t>(rows), width = static_cast<size_t>(spec_.width);
  auto take = [&](size_t bytes) -> Result<void*> {
    HEARTH_ASSIGN(void* memory, device_.allocate(bytes, device::MemoryKind::workspace, "the vision tower"));
    memory_.push_back(memory);
    return memory;
  };
  HEARTH_ASSIGN(qkv_, take(r * width * 3 * element));
  HEARTH_ASSIGN(attention_, take(r * width * element));
  HEARTH_ASSIGN(ffn_, take(r * static_cast<size_t>(spec_.ffn) * element));
  HEARTH_ASSIGN(workspace_, take(std::max<size_t>(256, needed_workspace(rows))));
  return Status::ok();
}

void Transformer::run(int index, float* x, const BlockRows& rows) {
  const Block& block = blocks_[static_cast<size_t>(index)];
  device::Stream& stream = device_.stream();
  const int64_t width = spec_.width;
  block.qkv.run(rows.rows, x, width, qkv_, 3 * width, workspace_, stream);
  ops::VisionAttentionParams attention;
  attention.rows = rows.rows;
  attention.segments = rows.segments;
  attention.max_segment = rows.max_segment;
  attention.segment = rows.segment;
  attention.host_segment = rows.host_segment;
  attention.rope_cos = rows.rope_cos;
  attention.rope_sin = rows.rope_sin;
  attention.qkv = qkv_;
  attention.qkv_stride = 3 * width;
  attention.out = attention_;
  attention.out_stride = width;
  attention.workspace = workspace_;
  attention_op_.run(attention, stream);
  block.out.run(rows.rows, attention_, width, x, width, workspace_, stream);
  block.up.run(rows.rows, x, width, ffn_, spec_.ffn, workspace_, stream);
  block.down.run(rows.rows, ffn_, spec_.ffn, x, width, workspace_, stream);
}

}  // namespace hearth::vision
