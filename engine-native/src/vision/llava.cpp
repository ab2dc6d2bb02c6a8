#include "vision/llava.h"

#include <algorithm>

namespace hearth::vision {

using model::LinearRequest;
using model::Precision;
using model::WeightPlan;

namespace {

size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

LlavaEncoder::~LlavaEncoder() {
  for (void* memory : memory_) device_.release(memory);
}

int LlavaEncoder::rows_out() const {
  if (spec_.projector == LlavaSpec::Projector::mlp_downsample) return cells();
  return tokens() - (spec_.drop_first ? 1 : 0);
}

// ---- Weights ---------------------------------------------------------------------------------------------------------

Result<std::vector<float>> LlavaEncoder::position_table(const formats::Checkpoint& checkpoint) const {
  const int64_t width = spec_.blocks.width, count = tokens();
  const std::string name = spec_.root + "embeddings.";
  const int64_t table_shape[] = {count, width}, row_shape[] = {width};
  HEARTH_ASSIGN(std::vector<float> table, checkpoint.floats(name + "position_embedding.weight", table_shape));
  int64_t first = 0;
  if (spec_.clip) {
    HEARTH_ASSIGN(const std::vector<float> token, checkpoint.floats(name + "class_embedding", row_shape));
    for (int64_t i = 0; i < width; i++) table[static_cast<size_t>(i)] += token[static_cast<size_t>(i)];
    first = width;
  }
  if (!checkpoint.find(name + "patch_embedding.bias")) return table;
  HEARTH_ASSIGN(const std::vector<float> bias, checkpoint.floats(name + "patch_embedding.bias", row_shape));
  for (int64_t i = first; i < count * width; i++) table[static_cast<size_t>(i)] += bias[static_cast<size_t>(i % width)];
  return table;
}

Status LlavaEncoder::declare_embeddings(WeightPlan& plan, const Precision& precision) {
  const int width = spec_.blocks.width, side = spec_.patch;
  const std::string module = spec_.root + "embeddings.patch_embedding";
  const int64_t shape[] = {width, 3, side, side}, table[] = {tokens(), width};
  HEARTH_TRY(plan.checkpoint().require(module + ".weight", shape).status());
  HEARTH_TRY(plan.checkpoint().require(spec_.root + "embeddings.position_embedding.weight", table).status());
  LinearRequest request = patch_request(plan.checkpoint(), module, width, 3 * side * side, columns(), precision);
  request.spec.residual = true;
  HEARTH_TRY(plan.linear(std::move(request), precision, &patch_));
  HEARTH_TRY(plan.values(spec_.root + "embeddings", int64_t{tokens()} * width,
                         [this](const formats::Checkpoint& checkpoint) { return position_table(checkpoint); }, &positions_));
  if (!spec_.clip) return Status::ok();
  HEARTH_TRY(plan.vector(spec_.root + "pre_layrnorm.weight", width, 0, &pre_norm_weight_));
  HEARTH_TRY(plan.vector(spec_.root + "pre_layrnorm.bias", width, 0, &pre_norm_bias_));
  HEARTH_ASSIGN(pre_norm_, ops::bind(ops::NormSpec{ops::NormKind::layer, width, spec_.blocks.epsilon}, device_.info()));
  return Status::ok();
}

Status LlavaEncoder::declare_projector(WeightPlan& plan, const Precision& precision) {
  const bool merges = spec_.projector == LlavaSpec::Projector::mlp_downsample;
  const DType type = transformer_.type();
  const int from = spec_.blocks.width * (merges ? 4 : 1);
  LinearRequest first;
  first.modules = {spec_.projector_modules[0]};
  first.rows = {spec_.width_out};
  first.in = from;
  first.bias_required = spec_.projector_bias;
  if (merges) {
    first.norm = spec_.projector_norm;
    first.spec.norm = ops::NormKind::layer;
    first.spec.norm_epsilon = 1e-5f;  // torch's default, which the projector keeps
    HEARTH_ASSIGN(cell_gather_, ops::bind(ops::GatherSpec{spec_.blocks.width, DType::f32, DType::f32}, device_.info()));
  }
  if (spec_.projector == LlavaSpec::Projector::linear) return plan.linear(std::move(first), precision, &projector_[0]);
  first.spec.activation = spec_.projector_activation;
  first.spec.y_type = type;
  HEARTH_TRY(plan.linear(std::move(first), precision, &projector_[0]));
  LinearRequest second;
  second.modules = {spec_.projector_modules[1]};
  second.rows = {spec_.width_out};
  second.in = spec_.width_out;
  second.bias_required = spec_.projector_bias;
  second.spec.x_type = type;
  return plan.linear(std::move(second), precision, &projector_[1]);
}

Status LlavaEncoder::declare(WeightPlan& plan, const Precision& body) {
  const Precision precision = tower_precision(body);
  for (const char* root : {"vision_tower.vision_model.", "vision_tower.vision_tower.vision_model.", "vision_tower.", "vision_model."}) {
    spec_.root = root;
    if (plan.checkpoint().find(spec_.root + "embeddings.patch_embedding.weight")) break;
    spec_.root = "vision_tower.vision_model.";  // what errors name
  }
  transformer_.set_prefix(spec_.root + "encoder.layers.");
  transformer_.set_layers(spec_.layers_run);
  HEARTH_TRY(declare_embeddings(plan, precision));
  HEARTH_TRY(transformer_.declare(plan, precision));
  HEARTH_TRY(declare_projector(plan, precision));
  transformer_.want_workspace(patch_.op.workspace_bytes(patches(), device_.info()));
  transformer_.want_workspace(projector_[0].op.workspace_bytes(rows_out(), device_.info()));
  if (spec_.projector != LlavaSpec::Projector::linear) transformer_.want_workspace(projector_[1].op.workspace_bytes(rows_out(), device_.info()));
  return Status::ok();
}

// ---- Memory ----------------------------------------------------------------------------------------------------------

int64_t LlavaEncoder::activation_bytes() const {
  const size_t width = static_cast<size_t>(spec_.blocks.width), pixels = static_cast<size_t>(patches()) * static_cast<size_t>(columns()) * 4;
  size_t bytes = round_up(pixels) + 2 * round_up(static_cast<size_t>(tokens()) * width * 4) + round_up(static_cast<size_t>(cells()) * 4 * width * 4);
  bytes += round_up(static_cast<size_t>(rows_out()) * static_cast<size_t>(spec_.width_out) * 4);
  return static_cast<int64_t>(bytes) + Uploader::cost(pixels) + transformer_.bytes(tokens());
}

// Rows of the 2x2 cells, column by column as the reference's flat_square has it; -1 where the grid is padded.
std::vector<int32_t> LlavaEncoder::cell_index() const {
  const int side = grid(), half = (side + 1) / 2;
  std::vector<int32_t> index;
  for (int column = 0; column < half; column++) {
    for (int row = 0; row < half; row++) {
      for (int i = 0; i < 4; i++) {
        const int y = 2 * row + i / 2, x = 2 * column + i % 2;
        index.push_back(y < side && x < side ? y * side + x : -1);
      }
    }
  }
  return index;
}

Status LlavaEncoder::allocate() {
  const size_t width = static_cast<size_t>(spec_.blocks.width), pixels = static_cast<size_t>(patches()) * static_cast<size_t>(columns()) * 4;
  auto take = [&](size_t bytes) -> Result<void*> {
    HEARTH_ASSIGN(void* memory, device_.allocate(bytes, device::MemoryKind::workspace, "the vision tower"));
    memory_.push_back(memory);
    return memory;
  };
  HEARTH_TRY(uploads_.allocate(pixels));
  HEARTH_TRY(transformer_.allocate(tokens()));
  HEARTH_ASSIGN(void* uploaded, take(pixels));
  pixels_ = static_cast<float*>(uploaded);
  HEARTH_ASSIGN(void* x, take(static_cast<size_t>(tokens()) * width * 4));
  x_ = static_cast<float*>(x);
  HEARTH_ASSIGN(void* embedded, take(static_cast<size_t>(tokens()) * width * 4));
  embedded_ = static_cast<float*>(embedded);
  HEARTH_ASSIGN(merged_, take(static_cast<size_t>(cells()) * 4 * width * 4));
  HEARTH_ASSIGN(hidden_, take(static_cast<size_t>(rows_out()) * static_cast<size_t>(spec_.width_out) * 4));
  const std::vector<int32_t> index = cell_index();
  HEARTH_ASSIGN(void* cell_rows, take(index.size() * 4));
  cell_rows_ = static_cast<int32_t*>(cell_rows);
  HEARTH_TRY(device_.upload(cell_rows_, index.data(), index.size() * 4));
  host_segment_[1] = tokens();
  HEARTH_ASSIGN(void* segment, take(sizeof(host_segment_)));
  segment_ = static_cast<int32_t*>(segment);
  HEARTH_TRY(device_.upload(segment_, host_segment_, sizeof(host_segment_)));
  return device_.stream().synchronize();
}

// ---- Images ----------------------------------------------------------------------------------------------------------

Result<Layout> LlavaEncoder::layout(int width, int height) const {
  HEARTH_TRY(processed_size(spec_.processor, width, height).status());
  return Layout{rows_out(), {}, rows_out()};
}

Result<Prepared> LlavaEncoder::prepare(const Pixels& pixels) const {
  HEARTH_ASSIGN(const Image image, process(spec_.processor, pixels));
  Prepared prepared;
  prepared.grid_h = prepared.grid_w = grid();
  prepared.patches = to_patches(spec_.processor, image, spec_.patch, 1, 1, columns());
  return prepared;
}

void LlavaEncoder::project(float* rows) {
  device::Stream& stream = device_.stream();
  const int64_t width = spec_.blocks.width;
  const void* from = x_ + (spec_.drop_first ? width : 0);
  int64_t stride = width;
  if (spec_.projector == LlavaSpec::Projector::mlp_downsample) {
    cell_gather_.run({4 * cells(), from, width, cell_rows_, merged_, width}, stream);
    from = merged_;
    stride = 4 * width;
  }
  if (spec_.projector == LlavaSpec::Projector::linear) {
    return projector_[0].run(rows_out(), from, stride, rows, spec_.width_out, transformer_.workspace(), stream);
  }
  projector_[0].run(rows_out(), from, stride, hidden_, spec_.width_out, transformer_.workspace(), stream);
  projector_[1].run(rows_out(), hidden_, spec_.width_out, rows, spec_.width_out, transformer_.workspace(), stream);
}

Status LlavaEncoder::encode(const Prepared& image, float* rows, std::span<float* const>) {
  if (image.patches.size() != static_cast<size_t>(patches()) * static_cast<size_t>(columns())) return invalid("an image prepared for another model");
  device::Stream& stream = device_.stream();
  const int64_t width = spec_.blocks.width;
  HEARTH_TRY(uploads_.begin());
  HEARTH_TRY(uploads_.add(pixels_, image.patches.data(), image.patches.size() * 4));
  HEARTH_TRY(uploads_.end());
  float* to = spec_.clip ? embedded_ : x_;
  HEARTH_TRY(device_.copy(to, positions_, static_cast<size_t>(tokens()) * static_cast<size_t>(width) * 4));
  patch_.run(patches(), pixels_, columns(), to + (spec_.clip ? width : 0), width, transformer_.workspace(), stream);
  if (spec_.clip) pre_norm_.run({tokens(), embedded_, width, pre_norm_weight_, pre_norm_bias_, x_, width}, stream);
  const BlockRows all{tokens(), 1, tokens(), segment_, host_segment_, nullptr, nullptr};
  for (int i = 0; i < spec_.layers_run; i++) transformer_.run(i, x_, all);
  project(rows);
  return Status::ok();
}

}  // namespace hearth::vision
