#include "formats/folder.h"

#include <map>
#include <nlohmann/json.hpp>

#include "formats/json_text.h"
#include "formats/linear_reader.h"
#include "formats/safetensors.h"

namespace hearth::formats {

using nlohmann::json;

namespace {

class FolderCheckpoint final : public Checkpoint {
 public:
  explicit FolderCheckpoint(std::string path) : path_(std::move(path)) {}
  Status load();

  const json& config() const override { return config_; }
  const json& generation_config() const override { return generation_config_; }
  const std::string& path() const override { return path_; }
  std::string_view format() const override { return reader_ ? reader_->format() : "float"; }
  const TensorView* find(std::string_view name) const override { return store_.find(name); }
  std::vector<std::string> names() const override { return store_.names(); }
  Result<LinearHeader> linear_header(std::string_view module) const override;
  Result<LinearData> linear(std::string_view module) const override;
  bool has_linear(std::string_view module) const override;
  void forget(std::string_view module) const override;

 private:
  Status load_configs();

  std::string path_;
  json config_, generation_config_;
  TensorStore store_;
  std::map<std::string, std::string> metadata_;
  std::unique_ptr<LinearReader> reader_;
};

Status FolderCheckpoint::load_configs() {
  HEARTH_ASSIGN(config_, read_json(path_ + "/config.json"));
  if (!config_.is_object()) return corrupt(path_ + "/config.json: not a JSON object");
  generation_config_ = json::object();
  const std::string generation = path_ + "/generation_config.json";
  if (file_exists(generation)) {
    HEARTH_ASSIGN(generation_config_, read_json(generation));
  }
  if (!generation_config_.is_object()) return corrupt(generation + ": not a JSON object");
  return Status::ok();
}

Status FolderCheckpoint::load() {
  HEARTH_TRY(load_configs());
  HEARTH_TRY(add_safetensors_folder(store_, path_, "", &metadata_));
  if (bool_member(config_, "tie_word_embeddings").value_or(false)) {
    store_.alias("model.embed_tokens.weight", "lm_head.weight");  // some writers keep the head's name for the shared table
  }
  return Status::ok();
}

bool FolderCheckpoint::has_linear(std::string_view module) const {
  const std::string name(module);
  return has_dense(store_, name) || (reader_ && reader_->has(store_, name));
}

Result<LinearHeader> FolderCheckpoint::linear_header(std::string_view module) const {
  const std::string name(module);
  Result<LinearHeader> header = reader_ && reader_->has(store_, name) ? reader_->header(store_, name) : dense_header(store_, name);
  if (!header) return header.status().with(path_);
  return header;
}

Result<LinearData> FolderCheckpoint::linear(std::string_view module) const {
  const std::string name(module);
  Result<LinearData> linear = reader_ && reader_->has(store_, name) ? reader_->read(store_, name) : read_dense(store_, name);
  if (!linear) return linear.status().with(path_);
  return linear;
}

void FolderCheckpoint::forget(std::string_view module) const {
  for (const char* suffix : {".weight", ".qweight", ".qzeros", ".scales", ".weight_packed", ".weight_scale"}) {
    if (const TensorView* view = store_.find(std::string(module) + suffix)) store_.forget(view->data);
  }
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> open_folder(const std::string& path) {
  auto checkpoint = std::make_unique<FolderCheckpoint>(path);
  HEARTH_TRY(checkpoint->load());
  return std::unique_ptr<Checkpoint>(std::move(checkpoint));
}

}  // namespace hearth::formats
