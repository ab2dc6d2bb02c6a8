#include "vision/qwen_vl.h"

#include <algorithm>

#include "vision/qwen_tables.h"

namespace hearth::vision {

using model::LinearRequest;
using model::Precision;
using model::WeightPlan;

namespace {

size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

QwenEncoder::~QwenEncoder() {
  for (void* memory : memory_) device_.release(memory);
}

// ---- Weights ---------------------------------------------------------------------------------------------------------

Status QwenEncoder::declare_patches(WeightPlan& plan, const Precision& precision) {
  const int width = spec_.blocks.width, side = spec_.patch;
  const std::string module = "visual.patch_embed.proj";
  const formats::Checkpoint& checkpoint = plan.checkpoint();
  const int64_t shape[] = {width, 3, spec_.frames, side, side}, row[] = {width};
  HEARTH_TRY(checkpoint.require(module + ".weight", shape).status());
  LinearRequest request = patch_request(checkpoint, module, width, 3 * spec_.frames * side * side, columns(), precision);
  request.spec.residual = true;
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

// Everything of an image that is uploaded.
size_t QwenEncoder::table_bytes(int patches) const {
  const auto count = static_cast<size_t>(patches);
  return count * static_cast<size_t>(columns()) * 4 + count * static_cast<size_t>(spec_.blocks.width) * 4 +
         2 * count * static_cast<size_t>(head_dim()) * 4 + (count + 4) * 8 + 8 * 16;
}

int64_t QwenEncoder::activation_bytes() const {
  const auto most = static_cast<size_t>(spec_.patches_max), width = static_cast<size_t>(spec_.blocks.width);
  size_t bytes = table_bytes(spec_.patches_max) + 8 * 256;
  bytes += 2 * round_up(most * width * size_of(transformer_.type())) + round_up(most / 4 * static_cast<size_t>(spec_.width_out) * 4);
  return static_cast<int64_t>(bytes) + Uploader::cost(table_bytes(spec_.patches_max)) + transformer_.bytes(spec_.patches_max);
}

Status QwenEncoder::allocate() {
  const auto most = static_cast<size_t>(spec_.patches_max), width = static_cast<size_t>(spec_.blocks.width);
  const size_t element = size_of(transformer_.type());
  auto take = [&](size_t bytes) -> Result<void*> {
    HEARTH_ASSIGN(void* memory, device_.allocate(bytes, device::MemoryKind::workspace, "the vision tower"));
    memory_.push_back(memory);
    return memory;
  };
  HEARTH_TRY(uploads_.allocate(table_bytes(spec_.patches_max)));
  HEARTH_TRY(transformer_.allocate(spec_.patches_max));
  struct { float** to; size_t count; } const floats[] = {{&pixels_, most * static_cast<size_t>(columns())}, {&x_, most * width},
                                                         {&cos_, most * static_cast<size_t>(head_dim())},
                                                         {&sin_, most * static_cast<size_t>(head_dim())},
                                                         {&unordered_, most / 4 * static_cast<size_t>(spec_.width_out)}};
  for (const auto& [to, count] : floats) {
    HEARTH_ASSIGN(void* memory, take(count * 4));
    *to = static_cast<float*>(memory);
  }
  HEARTH_ASSIGN(normed_, take(most * width * element));
  HEARTH_ASSIGN(hidden_, take(most * width * element));
  struct { int32_t** to; size_t count; } const integers[] = {{&windows_, most + 4}, {&whole_, 2}, {&cell_rows_, most / 4}};
  for (const auto& [to, count] : integers) {
    HEARTH_ASSIGN(void* memory, take(count * 4));
    *to = static_cast<int32_t*>(memory);
  }
  host_windows_.reserve(most + 4);
  return Status::ok();
}

// ---- Images ----------------------------------------------------------------------------------------------------------

Result<Layout> QwenEncoder::layout(int width, int height) const {
  HEARTH_ASSIGN(const Size size, processed_size(spec_.processor, width, height));
  const int cells_h = size.height / spec_.patch / 2, cells_w = size.width / spec_.patch / 2;
  if (cells_h * cells_w > max_rows()) return invalid("an image of " + std::to_string(width) + "x" + std::to_string(height) + " takes more rows than the model allows");
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
  prepared.patches = to_patches(spec_.processor, image, spec_.patch, spec_.frames, 2, columns());
  if (spec_.window_cells > 0) prepared.patches = reorder_patches(prepared.patches, order.cells, 4 * static_cast<size_t>(columns()));
  prepared.cell_rows.resize(order.cells.size());
  for (size_t i = 0; i < order.cells.size(); i++) prepared.cell_rows[static_cast<size_t>(order.cells[i])] = static_cast<int32_t>(i);
  prepared.windows = std::move(order.windows);
  return prepared;
}

Status QwenEncoder::check(const Prepared& image) const {
  const size_t patches = static_cast<size_t>(image.grid_h) * static_cast<size_t>(image.grid_w);
  const bool fits = patches > 0 && patches <= static_cast<size_t>(spec_.patches_max) && image.patches.size() == patches * static_cast<size_t>(columns()) &&
                    image.cos.size() == patches * static_cast<size_t>(head_dim()) && image.cell_rows.size() == patches / 4 &&
                    image.embeddings.size() == (spec_.third ? patches * static_cast<size_t>(spec_.blocks.width) : 0);
  return fits ? Status::ok() : invalid("an image prepared for another model");
}

Status QwenEncoder::upload(const Prepared& image) {
  auto bytes = [](const auto& values) { return values.size() * sizeof(values[0]); };
  host_whole_[1] = image.grid_h * image.grid_w;
  host_windows_.assign(image.windows.begin(), image.windows.end());
  HEARTH_TRY(uploads_.begin());
  HEARTH_TRY(uploads_.add(pixels_, image.patches.data(), bytes(image.patches)));
  HEARTH_TRY(uploads_.add(cos_, image.cos.data(), bytes(image.cos)));
  HEARTH_TRY(uploads_.add(sin_, image.sin.data(), bytes(image.sin)));
  HEARTH_TRY(uploads_.add(windows_, image.windows.data(), bytes(image.windows)));
  HEARTH_TRY(uploads_.add(whole_, host_whole_, sizeof(host_whole_)));
  HEARTH_TRY(uploads_.add(cell_rows_, image.cell_rows.data(), bytes(image.cell_rows)));
  if (spec_.third) {
    HEARTH_TRY(uploads_.add(x_, image.embeddings.data(), bytes(image.embeddings)));
  } else {
    HEARTH_TRY(device_.fill_zero(x_, static_cast<size_t>(host_whole_[1]) * static_cast<size_t>(spec_.blocks.width) * 4));
  }
  return uploads_.end();
}

void QwenEncoder::merge(const Merger& merger, int patches, float* rows) {
  device::Stream& stream = device_.stream();
  const int cells = patches / 4;
  const int64_t width = spec_.blocks.width, merged = 4 * width;
  const void* from = x_;
  if (!merger.over_four) {
    norm_.run({patches, x_, width, merger.norm_weight, merger.norm_bias, normed_, width}, stream);
    from = normed_;
  }
  merger.up.run(cells, from, merged, hidden_, merged, transformer_.workspace(), stream);
  merger.down.run(cells, hidden_, merged, rows, spec_.width_out, transformer_.workspace(), stream);
}

Status QwenEncoder::encode(const Prepared& image, float* rows, std::span<float* const> deepstack) {
  HEARTH_TRY(check(image));
  HEARTH_TRY(upload(image));
  device::Stream& stream = device_.stream();
  const int patches = host_whole_[1];
  const int64_t width = spec_.blocks.width;
  patch_.run(patches, pixels_, columns(), x_, width, transformer_.workspace(), stream);
  int longest = 0;
  for (size_t i = 1; i < host_windows_.size(); i++) longest = std::max(longest, host_windows_[i] - host_windows_[i - 1]);
  const BlockRows whole{patches, 1, patches, whole_, host_whole_, cos_, sin_};
  const BlockRows windowed{patches, static_cast<int>(host_windows_.size()) - 1, longest, windows_, host_windows_.data(), cos_, sin_};
  for (int i = 0; i < spec_.blocks.layers; i++) {
    transformer_.run(i, x_, spec_.full[static_cast<size_t>(i)] ? whole : windowed);
    const auto found = std::find(spec_.deepstack.begin(), spec_.deepstack.end(), i);
    const auto depth = static_cast<size_t>(found - spec_.deepstack.begin());
    if (found != spec_.deepstack.end() && depth < deepstack.size()) merge(deepstack_[depth], patches, deepstack[depth]);
  }
  if (spec_.third) {
    merge(merger_, patches, rows);
  } else {
    merge(merger_, patches, unordered_);
    reorder_.run({patches / 4, unordered_, spec_.width_out, cell_rows_, rows, spec_.width_out}, stream);
  }
  return Status::ok();
}

}  // namespace hearth::vision
