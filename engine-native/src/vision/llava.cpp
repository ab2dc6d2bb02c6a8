#include "vision/llava.h"

#include <algorithm>

namespace hearth::vision {

using model::LinearRequest;
using model::Precision;
using model::WeightPlan;

namespace {

// Images of one pass: a GPU wants more rows than one image has; a CPU is busy with some 1,000 and gains nothing beyond.
constexpr int images_max = 8, cpu_rows_wanted = 1024;

}  // namespace

LlavaEncoder::LlavaEncoder(LlavaSpec spec, device::Device& device) : Tower(spec.blocks, device), spec_(std::move(spec)) {
  const bool cpu = device.info().kind == device::DeviceKind::cpu;
  images_max_ = cpu ? std::clamp(cpu_rows_wanted / tokens(), 1, images_max) : images_max;
}

int LlavaEncoder::rows_out() const { return merges() ? cells() : tokens() - (spec_.drop_first ? 1 : 0); }

// Of several images the class tokens' rows go through the projector too, so that it is one product.
int LlavaEncoder::projected_rows(int images) const { return images == 1 ? rows_out() : images * (merges() ? cells() : tokens()); }

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
  request.spec.x_type = patch_type_ = patch_type(request, device_.info());
  HEARTH_TRY(plan.linear(std::move(request), precision, &patch_));
  HEARTH_ASSIGN(position_gather_, ops::bind(ops::GatherSpec{width, DType::f32, DType::f32}, device_.info()));
  HEARTH_TRY(plan.values(spec_.root + "embeddings", int64_t{tokens()} * width,
                         [this](const formats::Checkpoint& checkpoint) { return position_table(checkpoint); }, &positions_));
  if (!spec_.clip) return Status::ok();
  HEARTH_TRY(plan.vector(spec_.root + "pre_layrnorm.weight", width, 0, &pre_norm_weight_));
  HEARTH_TRY(plan.vector(spec_.root + "pre_layrnorm.bias", width, 0, &pre_norm_bias_));
  HEARTH_ASSIGN(pre_norm_, ops::bind(ops::NormSpec{ops::NormKind::layer, width, spec_.blocks.epsilon}, device_.info()));
  return Status::ok();
}

Status LlavaEncoder::declare_projector(WeightPlan& plan, const Precision& precision) {
  const DType type = transformer_.type();
  const int from = spec_.blocks.width * (merges() ? 4 : 1);
  LinearRequest first;
  first.modules = {spec_.projector_modules[0]};
  first.rows = {spec_.width_out};
  first.in = from;
  first.bias_required = spec_.projector_bias;
  if (merges()) {
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
  want_workspace();
  return Status::ok();
}

void LlavaEncoder::want_workspace() {
  const int projected = projected_rows(images_max_);
  size_t bytes = std::max(patch_.op.workspace_bytes(images_max_ * tokens(), device_.info()), projector_[0].op.workspace_bytes(projected, device_.info()));
  if (spec_.projector != LlavaSpec::Projector::linear) bytes = std::max(bytes, projector_[1].op.workspace_bytes(projected, device_.info()));
  transformer_.want_workspace(bytes);
}

// ---- Memory ----------------------------------------------------------------------------------------------------------

void LlavaEncoder::bound_batch(int64_t bytes) {
  while (images_max_ > 1 && activation_bytes() > bytes) {
    images_max_ /= 2;
    want_workspace();
  }
}

int64_t LlavaEncoder::activation_bytes() const {
  const auto images = static_cast<size_t>(images_max_), rows = images * static_cast<size_t>(tokens()), width = static_cast<size_t>(spec_.blocks.width);
  const size_t pixels = rows * static_cast<size_t>(columns()) * size_of(patch_type_);
  const size_t projected = static_cast<size_t>(projected_rows(images_max_)) * static_cast<size_t>(spec_.width_out) * 4;
  size_t bytes = round_up(pixels) + (spec_.clip ? 2 : 1) * round_up(rows * width * 4) + 2 * round_up(projected) + round_up(rows * 4);
  if (merges()) bytes += round_up(images * static_cast<size_t>(cells()) * 4 * width * 4);
  return static_cast<int64_t>(bytes) + Uploader::cost(pixels) + pinned_images() * static_cast<int64_t>(image_bytes()) + transformer_.bytes(static_cast<int>(rows));
}

// Rows of each image's 2x2 cells, column by column as the reference's flat_square has it; -1 where the grid is padded.
std::vector<int32_t> LlavaEncoder::cell_index() const {
  const int side = grid(), half = (side + 1) / 2;
  std::vector<int32_t> index;
  for (int at = 0; at < images_max_ * half * half; at++) {
    const int image = at / (half * half), column = at / half % half, row = at % half;
    for (int i = 0; i < 4; i++) {
      const int y = 2 * row + i / 2, x = 2 * column + i % 2;
      index.push_back(y < side && x < side ? image * tokens() + first_patch() + y * side + x : -1);
    }
  }
  return index;
}

Status LlavaEncoder::allocate() {
  const auto images = static_cast<size_t>(images_max_), rows = images * static_cast<size_t>(tokens()), width = static_cast<size_t>(spec_.blocks.width);
  const size_t pixels = rows * static_cast<size_t>(columns()) * size_of(patch_type_);
  const size_t projected = static_cast<size_t>(projected_rows(images_max_)) * static_cast<size_t>(spec_.width_out);
  HEARTH_TRY(uploads_.allocate(pixels));
  if (pinned_images() > 0) HEARTH_TRY(pinned_.allocate(pinned_images(), image_bytes()));
  HEARTH_TRY(transformer_.allocate(static_cast<int>(rows)));
  HEARTH_TRY(take_bytes(pixels_, pixels));
  HEARTH_TRY(device_.fill_zero(pixels_, pixels));
  HEARTH_TRY(take(x_, rows * width));
  if (spec_.clip) HEARTH_TRY(take(embedded_, rows * width));
  HEARTH_TRY(take(hidden_, projected));
  HEARTH_TRY(take(projected_, projected));
  if (merges()) {
    const std::vector<int32_t> index = cell_index();
    HEARTH_TRY(take(merged_, index.size() * width));
    HEARTH_TRY(take(cell_rows_, index.size()));
    HEARTH_TRY(device_.upload(cell_rows_, index.data(), index.size() * 4));
    HEARTH_TRY(device_.stream().synchronize());  // the index goes
  }
  std::vector<int32_t> position_rows(rows);
  for (size_t i = 0; i < rows; i++) position_rows[i] = static_cast<int32_t>(i % static_cast<size_t>(tokens()));
  HEARTH_TRY(take(position_rows_, rows));
  HEARTH_TRY(device_.upload(position_rows_, position_rows.data(), rows * 4));
  for (int i = 0; i <= images_max_; i++) host_segment_.push_back(i * tokens());
  HEARTH_TRY(take(segment_, host_segment_.size()));
  HEARTH_TRY(device_.upload(segment_, host_segment_.data(), host_segment_.size() * 4));
  return device_.stream().synchronize();
}

// ---- Images ----------------------------------------------------------------------------------------------------------

Result<Layout> LlavaEncoder::layout(int width, int height) const {
  HEARTH_TRY(processed_size(spec_.processor, width, height).status());
  return Layout{rows_out(), {}, rows_out()};
}

double LlavaEncoder::flops(int, int) const {
  const double width = spec_.blocks.width, out = spec_.width_out, from = width * (merges() ? 4 : 1);
  const double patch = 2.0 * patches() * 3 * spec_.patch * spec_.patch * width;
  const double projector = 2.0 * rows_out() * (from * out + (spec_.projector == LlavaSpec::Projector::linear ? 0 : out * out));
  return patch + projector + spec_.layers_run * transformer_.flops(tokens(), tokens());
}

Result<Prepared> LlavaEncoder::prepare(const Pixels& pixels) const {
  HEARTH_ASSIGN(const Image image, process(spec_.processor, pixels));
  Prepared prepared;
  prepared.grid_h = prepared.grid_w = grid();
  const std::vector<float> values = to_patches(spec_.processor, image, spec_.patch, 1, 1, columns());
  prepared.pinned = pinned_.take();
  prepared.pinned_bytes = image_bytes();
  if (prepared.pinned) narrow_patches(values, patch_type_, prepared.pinned.get());
  else prepared.patches = narrow_patches(values, patch_type_);
  return prepared;
}

int LlavaEncoder::batch(std::span<const Prepared* const> images) const {
  return static_cast<int>(std::min<size_t>(images.size(), static_cast<size_t>(images_max_)));
}

Status LlavaEncoder::begin(std::span<const Job> jobs) {
  const size_t bytes = image_bytes();
  if (jobs.empty() || jobs.size() > static_cast<size_t>(images_max_)) return Status(Code::internal, "a pass of too many images");
  for (const Job& job : jobs) {
    if ((job.image->pinned ? job.image->pinned_bytes : job.image->patches.size()) != bytes) return invalid("an image prepared for another model");
  }
  const size_t row = static_cast<size_t>(columns()) * size_of(patch_type_);
  HEARTH_TRY(uploads_.begin());
  for (size_t i = 0; i < jobs.size(); i++) {
    const size_t first = i * static_cast<size_t>(tokens()) + static_cast<size_t>(first_patch());
    const Prepared& image = *jobs[i].image;
    std::byte* to = static_cast<std::byte*>(pixels_) + first * row;
    HEARTH_TRY(image.pinned ? uploads_.add(to, image.pinned, bytes) : uploads_.add(to, image.patches.data(), bytes));
  }
  HEARTH_TRY(uploads_.end());
  start(jobs, {static_cast<int32_t>(jobs.size())});
  return Status::ok();
}

Status LlavaEncoder::embed() {
  device::Stream& stream = device_.stream();
  const int rows = static_cast<int>(jobs().size()) * tokens();
  const int64_t width = spec_.blocks.width;
  float* to = spec_.clip ? embedded_ : x_;
  position_gather_.run({rows, positions_, width, position_rows_, to, width}, stream);
  patch_.run(rows, pixels_, columns(), to, width, transformer_.workspace(), stream);
  if (spec_.clip) pre_norm_.run({rows, embedded_, width, pre_norm_weight_, pre_norm_bias_, x_, width}, stream);
  return Status::ok();
}

void LlavaEncoder::run_block(int index) {
  const int images = static_cast<int>(jobs().size());
  transformer_.run(index, x_, {images * tokens(), images, tokens(), segment_, host_segment_.data(), nullptr, nullptr});
}

void LlavaEncoder::run_projector(const void* from, int64_t stride, int rows) {
  device::Stream& stream = device_.stream();
  const int64_t out = spec_.width_out;
  if (spec_.projector == LlavaSpec::Projector::linear)
    return projector_[0].run(rows, from, stride, projected_, out, transformer_.workspace(), stream);
  projector_[0].run(rows, from, stride, hidden_, out, transformer_.workspace(), stream);
  projector_[1].run(rows, hidden_, out, projected_, out, transformer_.workspace(), stream);
}

Status LlavaEncoder::project() {
  const int images = static_cast<int>(jobs().size()), rows = projected_rows(images);
  const int64_t width = spec_.blocks.width;
  if (merges()) {
    cell_gather_.run({4 * images * cells(), x_, width, cell_rows_, merged_, width}, device_.stream());
    run_projector(merged_, 4 * width, rows);
  } else {
    run_projector(x_ + (images == 1 ? skipped() * width : 0), width, rows);
  }
  return Status::ok();
}

Status LlavaEncoder::hand_on(int) {
  const int images = static_cast<int>(jobs().size()), each = projected_rows(images) / images, first = images == 1 || merges() ? 0 : skipped();
  for (int i = 0; i < images; i++) {
    const float* from = projected_ + (int64_t{i} * each + first) * spec_.width_out;
    HEARTH_TRY(device_.copy(jobs()[static_cast<size_t>(i)].rows, from, static_cast<size_t>(rows_out()) * static_cast<size_t>(spec_.width_out) * 4));
  }
  return Status::ok();
}

}  // namespace hearth::vision
