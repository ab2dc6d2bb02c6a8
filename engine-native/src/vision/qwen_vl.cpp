#include "vision/qwen_vl.h"

#include <algorithm>

#include "vision/qwen_tables.h"

namespace hearth::vision {

using model::LinearRequest;
using model::Precision;
using model::WeightPlan;

namespace {

constexpr int images_max = 16;  // of a pass

}  // namespace

// ---- Weights ---------------------------------------------------------------------------------------------------------

Status QwenEncoder::declare_patches(WeightPlan& plan, const Precision& precision) {
  const int width = spec_.blocks.width, side = spec_.patch;
  const std::string module = "visual.patch_embed.proj";
  const formats::Checkpoint& checkpoint = plan.checkpoint();
  const int64_t shape[] = {width, 3, spec_.frames, side, side}, row[] = {width};
  HEARTH_TRY(checkpoint.require(module + ".weight", shape).status());
  LinearRequest request = patch_request(checkpoint, module, width, 3 * spec_.frames * side * side, columns(), precision);
  request.spec.residual = true;
  request.spec.x_type = patch_type_ = patch_type(request, device_.info());
  HEARTH_TRY(plan.linear(std::move(request), precision, &patch_));
  if (!spec_.third) return Status::ok();
  const int64_t table[] = {int64_t{spec_.position_side} * spec_.position_side, width};
  HEARTH_ASSIGN(position_table_, checkpoint.floats("visual.pos_embed.weight", table));
  HEARTH_ASSIGN(const std::vector<float> bias, checkpoint.floats(module + ".bias", row));
  for (size_t i = 0; i < position_table_.size(); i++) position_table_[i] += bias[i % bias.size()];
  return Status::ok();
}

Status QwenEncoder::declare_merger(WeightPlan& plan, const Precision& precision, const std::string& name, bool over_four, Merger* merger) {
  const DType type = transformer_.type();
  const int width = spec_.blocks.width, merged = 4 * width;
  merger->over_four = over_four;
  const std::string norm = name + (spec_.third ? "norm" : "ln_q");
  LinearRequest up;
  up.modules = {name + (spec_.third ? "linear_fc1" : "mlp.0")};
  up.rows = {merged};
  up.in = merged;
  up.bias_required = true;
  up.spec.activation = ops::Activation::gelu_erf;
  up.spec.y_type = type;
  if (over_four) {
    up.norm = norm;
    up.spec.norm = ops::NormKind::layer;
    up.spec.norm_epsilon = spec_.blocks.epsilon;
  } else {
    up.spec.x_type = type;
    HEARTH_TRY(plan.vector(norm + ".weight", width, 0, &merger->norm_weight));
    if (spec_.third) HEARTH_TRY(plan.vector(norm + ".bias", width, 0, &merger->norm_bias));
  }
  HEARTH_TRY(plan.linear(std::move(up), precision, &merger->up));
  LinearRequest down;
  down.modules = {name + (spec_.third ? "linear_fc2" : "mlp.2")};
  down.rows = {spec_.width_out};
  down.in = merged;
  down.bias_required = true;
  down.spec.x_type = type;
  HEARTH_TRY(plan.linear(std::move(down), precision, &merger->down));
  for (const model::Linear* linear : {&merger->up, &merger->down}) {
    transformer_.want_workspace(linear->op.workspace_bytes(max_rows(), device_.info()));
  }
  return Status::ok();
}

Status QwenEncoder::declare(WeightPlan& plan, const Precision& body) {
  const Precision precision = tower_precision(body);
  HEARTH_TRY(declare_patches(plan, precision));
  HEARTH_TRY(transformer_.declare(plan, precision));
  HEARTH_TRY(declare_merger(plan, precision, "visual.merger.", false, &merger_));
  deepstack_.resize(spec_.deepstack.size());
  for (size_t i = 0; i < deepstack_.size(); i++) {
    HEARTH_TRY(declare_merger(plan, precision, "visual.deepstack_merger_list." + std::to_string(i) + ".", true, &deepstack_[i]));
  }
  transformer_.want_workspace(patch_.op.workspace_bytes(spec_.patches_max, device_.info()));
  const ops::NormSpec norm{spec_.blocks.norm, spec_.blocks.width, spec_.blocks.epsilon, false, DType::f32, transformer_.type()};
  HEARTH_ASSIGN(norm_, ops::bind(norm, device_.info()));
  HEARTH_ASSIGN(reorder_, ops::bind(ops::GatherSpec{spec_.width_out, DType::f32, DType::f32}, device_.info()));
  return Status::ok();
}

// ---- Memory ----------------------------------------------------------------------------------------------------------

// Everything of a pass that is uploaded.
size_t QwenEncoder::table_bytes(int patches) const {
  const auto count = static_cast<size_t>(patches);
  return count * patch_bytes() + count * static_cast<size_t>(spec_.blocks.width) * 4 +
         2 * count * static_cast<size_t>(head_dim()) * 4 + (count + 4 + images_max) * 8 + images_max * 8 * 16;
}

int64_t QwenEncoder::activation_bytes() const {
  const auto most = static_cast<size_t>(spec_.patches_max), width = static_cast<size_t>(spec_.blocks.width);
  size_t bytes = table_bytes(spec_.patches_max) + 8 * 256;
  bytes += 2 * round_up(most * width * size_of(transformer_.type())) + round_up(most / 4 * static_cast<size_t>(spec_.width_out) * 4);
  return static_cast<int64_t>(bytes) + Uploader::cost(table_bytes(spec_.patches_max)) + transformer_.bytes(spec_.patches_max);
}

Status QwenEncoder::allocate() {
  const auto most = static_cast<size_t>(spec_.patches_max), width = static_cast<size_t>(spec_.blocks.width);
  const size_t element = size_of(transformer_.type()), head = static_cast<size_t>(head_dim());
  HEARTH_TRY(uploads_.allocate(table_bytes(spec_.patches_max)));
  HEARTH_TRY(transformer_.allocate(spec_.patches_max));
  HEARTH_TRY(take_bytes(pixels_, most * patch_bytes()));
  HEARTH_TRY(take(x_, most * width));
  HEARTH_TRY(take(cos_, most * head));
  HEARTH_TRY(take(sin_, most * head));
  HEARTH_TRY(take(merged_, most / 4 * static_cast<size_t>(spec_.width_out)));
  HEARTH_TRY(take_bytes(normed_, most * width * element));
  HEARTH_TRY(take_bytes(hidden_, most * width * element));
  HEARTH_TRY(take(windows_, most + 4 + images_max));
  HEARTH_TRY(take(whole_, 1 + images_max));
  HEARTH_TRY(take(cell_rows_, most / 4));
  host_windows_.reserve(most + 4 + images_max);
  host_cells_.reserve(most / 4);
  return Status::ok();
}

// ---- Images ----------------------------------------------------------------------------------------------------------

Result<Layout> QwenEncoder::layout(int width, int height) const {
  HEARTH_ASSIGN(const Size size, processed_size(spec_.processor, width, height));
  const int cells_h = size.height / spec_.patch / 2, cells_w = size.width / spec_.patch / 2;
  if (cells_h * cells_w > max_rows())
    return invalid("an image of " + std::to_string(width) + "x" + std::to_string(height) + " takes more rows than the model allows");
  Layout layout;
  layout.rows = cells_h * cells_w;
  layout.position_span = std::max(cells_h, cells_w);
  layout.positions.assign(static_cast<size_t>(layout.rows), 0);  // time: one moment
  for (int i = 0; i < layout.rows; i++) layout.positions.push_back(i / cells_w);
  for (int i = 0; i < layout.rows; i++) layout.positions.push_back(i % cells_w);
  return layout;
}

namespace {

// Patches in reading order of cells, brought into window order.
std::vector<float> reorder_patches(const std::vector<float>& patches, const std::vector<int32_t>& cells, size_t cell_values) {
  std::vector<float> out(patches.size());
  for (size_t i = 0; i < cells.size(); i++) {
    const auto from = patches.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(cells[i]) * cell_values);
    std::copy(from, from + static_cast<std::ptrdiff_t>(cell_values), out.begin() + static_cast<std::ptrdiff_t>(i * cell_values));
  }
  return out;
}

}  // namespace

double QwenEncoder::flops(int width, int height) const {
  const auto size = processed_size(spec_.processor, width, height);
  if (!size) return 0;
  const double patches = double(size->width / spec_.patch) * (size->height / spec_.patch), merged = 4.0 * spec_.blocks.width;
  const double window = std::min(patches, 4.0 * spec_.window_cells * spec_.window_cells);
  double total = 2 * patches * 3 * spec_.frames * spec_.patch * spec_.patch * spec_.blocks.width;
  for (const bool full : spec_.full) total += transformer_.flops(patches, full ? patches : window);
  return total + (1.0 + static_cast<double>(deepstack_.size())) * patches / 2 * merged * (merged + spec_.width_out);
}

Result<Prepared> QwenEncoder::prepare(const Pixels& pixels) const {
  HEARTH_TRY(layout(pixels.width, pixels.height).status());
  HEARTH_ASSIGN(const Image image, process(spec_.processor, pixels));
  Prepared prepared;
  prepared.grid_h = image.height / spec_.patch;
  prepared.grid_w = image.width / spec_.patch;
  CellOrder order = cell_order(prepared.grid_h / 2, prepared.grid_w / 2, spec_.window_cells);
  const std::vector<PatchAt> patches = patch_order(prepared.grid_h, prepared.grid_w, order.cells);
  fill_rope(patches, head_dim(), prepared.cos, prepared.sin);
  if (spec_.third) {
    prepared.embeddings = interpolate_positions(position_table_, spec_.position_side, spec_.blocks.width, prepared.grid_h, prepared.grid_w, patches);
  }
  std::vector<float> values = to_patches(spec_.processor, image, spec_.patch, spec_.frames, 2, columns());
  if (spec_.window_cells > 0) values = reorder_patches(values, order.cells, 4 * static_cast<size_t>(columns()));
  prepared.patches = narrow_patches(values, patch_type_);
  prepared.cell_rows.resize(order.cells.size());
  for (size_t i = 0; i < order.cells.size(); i++) prepared.cell_rows[static_cast<size_t>(order.cells[i])] = static_cast<int32_t>(i);
  prepared.windows = std::move(order.windows);
  return prepared;
}

Status QwenEncoder::check(const Prepared& image) const {
  const size_t patches = static_cast<size_t>(image.grid_h) * static_cast<size_t>(image.grid_w);
  const bool fits = patches > 0 && patches <= static_cast<size_t>(spec_.patches_max) && image.patches.size() == patches * patch_bytes() &&
                    image.cos.size() == patches * static_cast<size_t>(head_dim()) && image.cell_rows.size() == patches / 4 &&
                    image.embeddings.size() == (spec_.third ? patches * static_cast<size_t>(spec_.blocks.width) : 0);
  return fits ? Status::ok() : invalid("an image prepared for another model");
}

int QwenEncoder::batch(std::span<const Prepared* const> images) const {
  int count = 0;
  int64_t patches = 0;
  for (const Prepared* image : images.first(std::min<size_t>(images.size(), images_max))) {
    patches += int64_t{image->grid_h} * image->grid_w;
    if (count > 0 && patches > spec_.patches_max) break;
    count++;
  }
  return count;
}

// Where each image's patches, windows and cells lie in the pass.
Status QwenEncoder::place(std::span<const Job> jobs) {
  if (jobs.empty() || jobs.size() > images_max) return Status(Code::internal, "a pass of too many images");
  first_.assign(1, 0);
  host_windows_.assign(1, 0);
  host_cells_.clear();
  longest_window_ = longest_image_ = 0;
  for (const Job& job : jobs) {
    HEARTH_TRY(check(*job.image));
    const int begin = patches(), count = job.image->grid_h * job.image->grid_w;
    for (size_t i = 1; i < job.image->windows.size(); i++) {
      longest_window_ = std::max(longest_window_, job.image->windows[i] - job.image->windows[i - 1]);
      host_windows_.push_back(begin + job.image->windows[i]);
    }
    for (const int32_t row : job.image->cell_rows) host_cells_.push_back(begin / 4 + row);
    longest_image_ = std::max(longest_image_, count);
    first_.push_back(begin + count);
  }
  return patches() <= spec_.patches_max ? Status::ok() : Status(Code::internal, "a pass of too many patches");
}

Status QwenEncoder::upload_tables(std::span<const Job> jobs) {
  auto put = [&](auto* to, const auto& values) { return uploads_.add(to, values.data(), values.size() * sizeof(values[0])); };
  const auto head = static_cast<size_t>(head_dim());
  for (size_t i = 0; i < jobs.size(); i++) {
    const Prepared& image = *jobs[i].image;
    const auto first = static_cast<size_t>(first_[i]);
    HEARTH_TRY(put(static_cast<std::byte*>(pixels_) + first * patch_bytes(), image.patches));
    HEARTH_TRY(put(cos_ + first * head, image.cos));
    HEARTH_TRY(put(sin_ + first * head, image.sin));
    if (spec_.third) HEARTH_TRY(put(x_ + first * static_cast<size_t>(spec_.blocks.width), image.embeddings));
  }
  HEARTH_TRY(put(windows_, host_windows_));
  HEARTH_TRY(put(whole_, first_));
  return put(cell_rows_, host_cells_);
}

Status QwenEncoder::upload(std::span<const Job> jobs) {
  HEARTH_TRY(uploads_.begin());
  HEARTH_TRY(upload_tables(jobs));
  return uploads_.end();
}

Status QwenEncoder::begin(std::span<const Job> jobs) {
  HEARTH_TRY(place(jobs));
  HEARTH_TRY(upload(jobs));
  Shape shape = first_;  // launches follow from these; what the tables hold is read on the device
  shape.insert(shape.end(), host_windows_.begin(), host_windows_.end());
  start(jobs, std::move(shape));
  return Status::ok();
}

Status QwenEncoder::embed() {
  if (!spec_.third) HEARTH_TRY(device_.fill_zero(x_, static_cast<size_t>(patches()) * static_cast<size_t>(spec_.blocks.width) * 4));
  patch_.run(patches(), pixels_, columns(), x_, spec_.blocks.width, transformer_.workspace(), device_.stream());
  return Status::ok();
}

void QwenEncoder::run_block(int index) {
  const int images = static_cast<int>(jobs().size()), windows = static_cast<int>(host_windows_.size()) - 1;
  const BlockRows whole{patches(), images, longest_image_, whole_, first_.data(), cos_, sin_};
  const BlockRows windowed{patches(), windows, longest_window_, windows_, host_windows_.data(), cos_, sin_};
  transformer_.run(index, x_, spec_.full[static_cast<size_t>(index)] ? whole : windowed);
  if (const auto depth = deepstack_after(index)) merge(deepstack_[*depth], merged_);
}

std::optional<size_t> QwenEncoder::deepstack_after(int block) const {
  const auto found = std::find(spec_.deepstack.begin(), spec_.deepstack.end(), block);
  if (found == spec_.deepstack.end()) return std::nullopt;
  return static_cast<size_t>(found - spec_.deepstack.begin());
}

void QwenEncoder::merge(const Merger& merger, float* rows) {
  device::Stream& stream = device_.stream();
  const int cells = patches() / 4;
  const int64_t width = spec_.blocks.width, merged = 4 * width;
  const void* from = x_;
  if (!merger.over_four) {
    norm_.run({patches(), x_, width, merger.norm_weight, merger.norm_bias, normed_, width}, stream);
    from = normed_;
  }
  merger.up.run(cells, from, merged, hidden_, merged, transformer_.workspace(), stream);
  merger.down.run(cells, hidden_, merged, rows, spec_.width_out, transformer_.workspace(), stream);
}

// Rows of the language model: merged cells of each image, brought back into reading order where windows had their own.
void QwenEncoder::give(size_t index, float* to) {
  const int cells = (first_[index + 1] - first_[index]) / 4;
  reorder_.run({cells, merged_, spec_.width_out, cell_rows_ + first_[index] / 4, to, spec_.width_out}, device_.stream());
}

Status QwenEncoder::project() {
  merge(merger_, merged_);
  return Status::ok();
}

Status QwenEncoder::hand_on(int block) {
  const auto depth = block < transformer_.layers() ? deepstack_after(block) : std::nullopt;
  for (size_t i = 0; i < jobs().size(); i++) {
    const Job& job = jobs()[i];
    if (!depth) give(i, job.rows);
    else if (*depth < job.deepstack.size()) give(i, job.deepstack[*depth]);
  }
  return Status::ok();
}

}  // namespace hearth::vision
