// The plain tensors of a checkpoint by name, over one or several mapped files.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"
#include "formats/checkpoint.h"
#include "formats/mapped_file.h"

namespace hearth::formats {

// One spelling for each tensor. Transformers has moved the parts of vision models about: the language model is
// `model.*` and `lm_head` whether the file says `language_model.model.*`, `model.language_model.*` or `model.*`, and
// towers and projectors lose a leading `model.`.
std::string canonical_name(std::string_view name);

class TensorStore {
 public:
  // Refuses a second tensor of the same (canonical) name. `prefix` is put before the name, for parts in sub-folders.
  Status add(TensorView view, const std::string& prefix = {});
  void keep(std::shared_ptr<MappedFile> file) { files_.push_back(std::move(file)); }
  // Another name for a tensor that is there; ignored when the name is taken or the target absent.
  void alias(const std::string& name, const std::string& target);

  const TensorView* find(std::string_view name) const;
  std::vector<std::string> names() const;  // canonical, sorted
  bool empty() const { return tensors_.empty(); }
  const std::vector<std::shared_ptr<MappedFile>>& files() const { return files_; }
  // Copies bytes that a tensor's view shows, by reading its file.
  Status read(std::span<const std::byte> range, void* to) const;
  void forget(std::span<const std::byte> range) const;
  void forget_all() const;
  // MappedFile's, over all files.
  Status settle(const MappedFile::Progress& progress);
  const std::byte* settled(std::span<const std::byte> range) const;
  int64_t page_cache_bytes() const;

 private:
  std::map<std::string, TensorView, std::less<>> tensors_;
  std::vector<std::shared_ptr<MappedFile>> files_;
};

// Bytes of a tensor of this shape, or nothing when the product leaves 63 bits or a dimension is negative.
std::optional<int64_t> checked_bytes(std::span<const int64_t> shape, int64_t element_size);
std::string shape_text(std::span<const int64_t> shape);
// "file: tensor 'name'", the start of every message about a tensor.
std::string label(const TensorView& view);
// Checks a tensor's type and shape; -1 in `shape` matches any size.
Status expect(const TensorView& view, DType type, std::span<const int64_t> shape);

}  // namespace hearth::formats
