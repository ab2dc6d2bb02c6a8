// What every checkpoint shares, and the choice of reader by what lies at the path.
#include "formats/checkpoint.h"

#include <sys/stat.h>

#include "formats/folder.h"
#include "formats/gguf_checkpoint.h"
#include "formats/linear_reader.h"

namespace hearth::formats {

int64_t TensorView::elements() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;  // checked against the file's size when it was opened
  return count;
}

Result<const TensorView*> Checkpoint::require(std::string_view name, std::span<const int64_t> shape) const {
  const TensorView* view = find(name);
  if (!view) return corrupt(path() + ": tensor '" + std::string(name) + "' is missing");
  bool same = view->shape.size() == shape.size();
  for (size_t i = 0; same && i < shape.size(); i++) same = shape[i] < 0 || view->shape[i] == shape[i];
  if (!same) return corrupt(label(*view) + " has shape " + shape_text(view->shape) + ", expected " + shape_text(shape));
  return view;
}

Result<std::vector<float>> Checkpoint::floats(std::string_view name, std::span<const int64_t> shape) const {
  HEARTH_ASSIGN(const TensorView* view, require(name, shape));
  return to_floats(*view);
}

Result<std::unique_ptr<Checkpoint>> Checkpoint::open(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return not_found(path + ": no such file or folder");
  if (S_ISDIR(info.st_mode)) return open_folder(path);
  if (path.ends_with(".gguf")) return open_gguf(path);
  const size_t slash = path.rfind('/');
  if (path.ends_with(".pt")) return open_folder(slash == std::string::npos ? "." : path.substr(0, slash), path);
  return unsupported(path + ": give a model's folder, a .gguf file, or an llm-awq *-v2.pt beside its config.json");
}

}  // namespace hearth::formats
