#include "formats/tensor_store.h"

#include <algorithm>
#include <array>
#include <utility>

namespace hearth::formats {

std::string canonical_name(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 7> rules{{
      {"language_model.model.", "model."},
      {"language_model.lm_head.", "lm_head."},
      {"model.language_model.", "model."},
      {"model.vision_tower.", "vision_tower."},
      {"model.multi_modal_projector.", "multi_modal_projector."},
      {"model.mm_projector.", "mm_projector."},
      {"model.visual.", "visual."},
  }};
  for (const auto& [from, to] : rules) {
    if (name.starts_with(from)) return std::string(to).append(name.substr(from.size()));
  }
  return std::string(name);
}

Status TensorStore::add(TensorView view, const std::string& prefix) {
  const std::string message = label(view);
  std::string key = canonical_name(prefix + view.name);
  const auto [position, added] = tensors_.emplace(std::move(key), std::move(view));
  if (!added) return corrupt(message + ": the same tensor is also in " + position->second.file);
  return Status::ok();
}

void TensorStore::alias(const std::string& name, const std::string& target) {
  const auto found = tensors_.find(canonical_name(target));
  if (found == tensors_.end()) return;
  tensors_.emplace(canonical_name(name), found->second);
}

const TensorView* TensorStore::find(std::string_view name) const {
  auto found = tensors_.find(name);
  if (found == tensors_.end()) found = tensors_.find(canonical_name(name));
  return found == tensors_.end() ? nullptr : &found->second;
}

std::vector<std::string> TensorStore::names() const {
  std::vector<std::string> all;
  all.reserve(tensors_.size());
  for (const auto& [name, view] : tensors_) all.push_back(name);
  return all;
}

Status TensorStore::read(std::span<const std::byte> range, void* to) const {
  for (const auto& file : files_) {
    if (!range.empty() && file->holds(range.data())) return file->read(range, to);
  }
  std::copy(range.begin(), range.end(), static_cast<std::byte*>(to));  // of an archive, unpacked
  return Status::ok();
}

void TensorStore::forget(std::span<const std::byte> range) const {
  for (const auto& file : files_) file->forget(range);
}

Status TensorStore::settle(const MappedFile::Progress& progress) {
  double before = 0;
  for (const auto& file : files_) {
    HEARTH_TRY(file->settle([&](double bytes) { return !progress || progress(before + bytes); }));
    before += static_cast<double>(file->bytes().size());
  }
  return Status::ok();
}

const std::byte* TensorStore::settled(std::span<const std::byte> range) const {
  for (const auto& file : files_) {
    if (!range.empty() && file->holds(range.data())) return file->settled(range.data());
  }
  return nullptr;
}

int64_t TensorStore::page_cache_bytes() const {
  int64_t bytes = 0;
  for (const auto& file : files_) bytes += file->in_place() ? static_cast<int64_t>(file->bytes().size()) : 0;
  return bytes;
}

void TensorStore::forget_all() const {
  for (const auto& file : files_) file->forget(file->bytes());
}

std::optional<int64_t> checked_bytes(std::span<const int64_t> shape, int64_t element_size) {
  int64_t bytes = element_size;
  bool zero = false;
  for (const int64_t size : shape) {
    if (size < 0) return std::nullopt;
    zero |= size == 0;
    if (size > 0 && __builtin_mul_overflow(bytes, size, &bytes)) return std::nullopt;
  }
  return zero ? 0 : bytes;
}

std::string shape_text(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); i++) {
    if (i) text += ", ";
    text += shape[i] < 0 ? "any" : std::to_string(shape[i]);
  }
  return text + "]";
}

std::string label(const TensorView& view) { return view.file + ": tensor '" + view.name + "'"; }

Status expect(const TensorView& view, DType type, std::span<const int64_t> shape) {
  if (view.type != type) {
    return corrupt(label(view) + " has type " + name_of(view.type) + ", expected " + name_of(type));
  }
  bool same = view.shape.size() == shape.size();
  for (size_t i = 0; same && i < shape.size(); i++) same = shape[i] < 0 || shape[i] == view.shape[i];
  if (!same) return corrupt(label(view) + " has shape " + shape_text(view.shape) + ", expected " + shape_text(shape));
  return Status::ok();
}

}  // namespace hearth::formats
