#include "formats/folder.h"

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "formats/awq.h"
#include "formats/converted.h"
#include "formats/gguf_checkpoint.h"
#include "formats/json_text.h"
#include "formats/linear_reader.h"
#include "formats/safetensors.h"
#include "formats/torch_file.h"

namespace hearth::formats {

using nlohmann::json;

namespace {

// "a, b, c and 2 more"
std::string file_names(const std::set<std::filesystem::path>& files) {
  constexpr size_t named_max = 3;
  std::string names;
  size_t named = 0;
  for (const std::filesystem::path& file : files) {
    if (named == named_max) break;
    names += (named++ ? ", " : "") + file.filename().string();
  }
  return files.size() > named ? names + " and " + std::to_string(files.size() - named) + " more" : names;
}

class FolderCheckpoint final : public Checkpoint {
 public:
  FolderCheckpoint(std::string path, std::string torch_file) : path_(std::move(path)), torch_file_(std::move(torch_file)) {}
  Status load();

  const json& config() const override { return config_; }
  const json& generation_config() const override { return generation_config_; }
  const std::string& path() const override { return path_; }
  std::string_view format() const override { return packed_ ? "hearth" : reader_ ? reader_->format() : "float"; }
  std::vector<std::string> notes() const override;
  std::string_view target() const override { return packed_ ? std::string_view(packed_->target()) : std::string_view(); }
  const tokenizer::GgufVocabulary* vocabulary() const override { return vocabulary_ ? &*vocabulary_ : nullptr; }
  const PackedHeader* packed_header(std::string_view key) const override { return packed_ ? packed_->find(key) : nullptr; }
  std::span<const std::byte> packed_bytes(std::string_view key) const override;
  const TensorView* find(std::string_view name) const override { return store_.find(name); }
  std::vector<std::string> names() const override { return store_.names(); }
  Result<LinearHeader> linear_header(std::string_view module) const override;
  Result<LinearData> linear(std::string_view module) const override;
  bool has_linear(std::string_view module) const override;
  Status read(std::span<const std::byte> stored, void* to) const override { return store_.read(stored, to); }
  void forget(std::string_view name) const override;
  void forget_all() const override { store_.forget_all(); }
  Status settle(const std::function<bool(double)>& progress) override { return packed_ ? store_.settle(progress) : Status::ok(); }
  const std::byte* settled(std::span<const std::byte> stored) const override { return packed_ ? store_.settled(stored) : nullptr; }
  int64_t page_cache_bytes() const override { return store_.page_cache_bytes(); }

 private:
  Status load_configs();
  Status load_vila_configs();
  Status load_vila();
  Result<bool> load_converted();
  Status load_language_model(const std::string& folder, const json& config);
  Status choose_reader(const std::string& folder, const json& config);
  Status check_scheme() const;

  std::string path_;
  std::string torch_file_;  // the .pt named by the caller, or empty
  json config_, generation_config_;
  TensorStore store_;
  std::map<std::string, std::string> metadata_;
  std::unique_ptr<LinearReader> reader_;
  std::string promised_;  // the file that says the linears are packed by AWQ or GPTQ; empty where none does
  std::optional<PackedIndex> packed_;  // of a converted folder
  std::optional<tokenizer::GgufVocabulary> vocabulary_;  // of one that was a GGUF file
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

// llm-awq keeps its 4-bit weights in one `*-v2.pt`; an index beside it may name safetensors that are not there.
Result<std::string> find_llm_awq_file(const std::string& folder) {
  std::string found, other;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with(".pt")) continue;
    if (!name.ends_with("v2.pt")) {
      other = name;
    } else if (!found.empty()) {
      return invalid(folder + ": both " + found + " and " + name + ": name the one to load");
    } else {
      found = name;
    }
  }
  if (found.empty() && !other.empty()) return unsupported(folder + "/" + other + ": only llm-awq's v2 layout (*-v2.pt) is read");
  return found.empty() ? std::string() : folder + "/" + found;
}

// The weights of a language model in `folder`: llm-awq's file, or safetensors.
Status FolderCheckpoint::load_language_model(const std::string& folder, const json& config) {
  Result<std::string> torch_file = find_llm_awq_file(folder);
  if (!torch_file_.empty()) torch_file = torch_file_;
  if (torch_file && !torch_file->empty()) {
    reader_ = make_gemv_fast_reader(0, "scaled_zeros", "llm-awq-v2");
    return add_torch_file(store_, *torch_file);
  }
  const Status added = add_safetensors_folder(store_, folder, "", &metadata_);
  if (added.code() == Code::not_found && !torch_file) return torch_file.status();
  if (added.code() == Code::not_found && file_exists(folder + "/pytorch_model.bin")) {
    return unsupported(folder + "/pytorch_model.bin: save the model as safetensors to load it here");
  }
  HEARTH_TRY(added);
  return choose_reader(folder, config);
}

// quantization_config stands in config.json, in the text model's part of it, or in a file of its own (older writers).
Status FolderCheckpoint::choose_reader(const std::string& folder, const json& config) {
  const json* text = member(config, "text_config");
  const json* quantization = member(config, "quantization_config");
  if (!quantization && text) quantization = member(*text, "quantization_config");
  if (quantization) {
    HEARTH_ASSIGN(reader_, make_linear_reader(*quantization, folder + "/config.json"));
    // compressed-tensors may describe the cache alone.
    if (!reader_->format().starts_with("compressed")) promised_ = folder + "/config.json";
    return Status::ok();
  }
  for (const auto& [name, method] : {std::pair{"/quant_config.json", "awq"}, std::pair{"/quantize_config.json", "gptq"}}) {
    if (!file_exists(folder + name)) continue;
    HEARTH_ASSIGN(json old, read_json(folder + name));
    if (!old.is_object()) return corrupt(folder + name + ": not a JSON object");
    if (string_member(old, "quant_method").empty()) old["quant_method"] = method;
    HEARTH_ASSIGN(reader_, make_linear_reader(old, folder + name));
    promised_ = folder + name;
    return Status::ok();
  }
  return Status::ok();
}

// Quantised tensors that no reader was chosen for would otherwise read as missing weights, and a model that is said to be
// quantised and is not would run at 16 bits without a word.
Status FolderCheckpoint::check_scheme() const {
  if (!promised_.empty()) {
    for (const std::string& name : store_.names()) {
      const size_t dot = name.rfind('.');
      if (dot != std::string::npos && reader_->has(store_, name.substr(0, dot))) return Status::ok();
    }
    return corrupt(promised_ + ": says that the weights are quantised (" + std::string(reader_->format()) +
                   "), but none of them is: use the quantised files, or take the quantization away to load these as they are");
  }
  if (reader_) return Status::ok();
  for (const std::string& name : store_.names()) {
    if (!name.ends_with(".qweight") && !name.ends_with(".weight_packed")) continue;
    return corrupt(label(*store_.find(name)) + " is quantised, but config.json has no quantization_config");
  }
  return Status::ok();
}

// A folder made by `hearth convert` holds everything in one model.safetensors, also of a VILA model.
Result<bool> FolderCheckpoint::load_converted() {
  const std::string file = path_ + "/model.safetensors";
  if (!file_exists(file)) return false;
  HEARTH_ASSIGN(const auto mapped, MappedFile::open(file));
  HEARTH_ASSIGN(const SafetensorsHeader header, parse_safetensors(mapped->bytes(), file));
  if (!header.metadata.contains(target_key)) return false;
  HEARTH_TRY(add_safetensors(store_, mapped, header));
  HEARTH_ASSIGN(packed_, PackedIndex::parse(header.metadata, store_, file));
  const std::string texts = gguf_texts_file(path_);
  if (texts.empty()) return true;
  HEARTH_ASSIGN(const auto kept, MappedFile::open(texts));
  HEARTH_ASSIGN(const Gguf gguf, parse_gguf(kept->bytes(), texts));
  vocabulary_ = read_vocabulary(gguf);
  return true;
}

// VILA: a folder for each part, whose prefixes were stripped when it was saved.
Status FolderCheckpoint::load_vila_configs() {
  for (const auto& [key, folder] : {std::pair{"text_config", "/llm"}, std::pair{"vision_config", "/vision_tower"},
                                    std::pair{"mm_projector_config", "/mm_projector"}}) {
    HEARTH_ASSIGN(config_[key], read_json(path_ + folder + "/config.json"));
  }
  const std::string generation = path_ + "/llm/generation_config.json";
  if (generation_config_.empty() && file_exists(generation)) {
    HEARTH_ASSIGN(generation_config_, read_json(generation));
  }
  return Status::ok();
}

Status FolderCheckpoint::load_vila() {
  HEARTH_TRY(load_language_model(path_ + "/llm", config_["text_config"]));
  HEARTH_TRY(add_safetensors_folder(store_, path_ + "/vision_tower", "vision_tower.", nullptr));
  return add_safetensors_folder(store_, path_ + "/mm_projector", "mm_projector.", nullptr);
}

Status FolderCheckpoint::load() {
  HEARTH_TRY(load_configs());
  const bool vila = member(config_, "llm_cfg") && file_exists(path_ + "/llm/config.json");
  if (vila) HEARTH_TRY(load_vila_configs());
  HEARTH_ASSIGN(const bool converted, load_converted());
  if (converted) return Status::ok();
  HEARTH_TRY(vila ? load_vila() : load_language_model(path_, config_));
  // The original LLaVA layout names a CLIP repository, which people put into vision_tower/ beside the model.
  if (member(config_, "mm_vision_tower") && file_exists(path_ + "/vision_tower/config.json")) {
    const Status tower = add_safetensors_folder(store_, path_ + "/vision_tower", "vision_tower.", nullptr);
    if (!tower && tower.code() != Code::not_found) return tower;  // not_found: the tower's weights are in the model's own files
  }
  HEARTH_TRY(check_scheme());
  const json* text = member(config_, "text_config");
  if (bool_member(config_, "tie_word_embeddings").value_or(text && bool_member(*text, "tie_word_embeddings").value_or(false))) {
    store_.alias("model.embed_tokens.weight", "lm_head.weight");  // some writers keep the head's name for the shared table
  }
  return Status::ok();
}

// An adapter, or another writer's copy of the weights: whoever put it there may take it for what is served.
std::vector<std::string> FolderCheckpoint::notes() const {
  std::set<std::filesystem::path> folders{path_}, read, unread;
  for (const auto& file : store_.files()) {
    const std::filesystem::path path(file->path());
    folders.insert(path.parent_path());
    read.insert(path.lexically_normal());
  }
  for (const std::filesystem::path& folder : folders) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
      const std::filesystem::path path = entry.path().lexically_normal();
      if (path.extension() == ".safetensors" && !read.contains(path)) unread.insert(path);
    }
  }
  if (unread.empty()) return {};
  return {file_names(unread) + ": in the model's folder, but not read; the weights come from " + file_names(read)};
}

bool FolderCheckpoint::has_linear(std::string_view module) const {
  const std::string name(module);
  return (packed_ && packed_->module(module)) || has_dense(store_, name) || (reader_ && reader_->has(store_, name));
}

std::span<const std::byte> FolderCheckpoint::packed_bytes(std::string_view key) const {
  const PackedHeader* header = packed_header(key);
  return header ? store_.find(packed_prefix + std::string(key))->data.first(static_cast<size_t>(header->bytes)) : std::span<const std::byte>();
}

Result<LinearHeader> FolderCheckpoint::linear_header(std::string_view module) const {
  if (packed_) {
    if (const auto header = packed_->module(module)) return *header;
  }
  const std::string name(module);
  Result<LinearHeader> header = reader_ && reader_->has(store_, name) ? reader_->header(store_, name) : dense_header(store_, name);
  if (!header) return header.status().with(path_);
  return header;
}

Result<LinearData> FolderCheckpoint::linear(std::string_view module) const {
  if (packed_ && packed_->module(module))
    return unsupported(path_ + ": '" + std::string(module) + "' is packed for " + packed_->target() +
                       " and cannot be read back; use the folder it was converted from");
  const std::string name(module);
  Result<LinearData> linear = reader_ && reader_->has(store_, name) ? reader_->read(store_, name) : read_dense(store_, name);
  if (!linear) return linear.status().with(path_);
  return linear;
}

void FolderCheckpoint::forget(std::string_view name) const {
  if (packed_ && packed_->find(name)) return store_.forget(packed_bytes(name));
  for (const char* suffix : {"", ".weight", ".qweight", ".qzeros", ".scaled_zeros", ".scales", ".weight_packed", ".weight_scale"}) {
    if (const TensorView* view = store_.find(std::string(name) + suffix)) store_.forget(view->data);
  }
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> open_folder(const std::string& path, const std::string& torch_file) {
  auto checkpoint = std::make_unique<FolderCheckpoint>(path, torch_file);
  HEARTH_TRY(checkpoint->load());
  return std::unique_ptr<Checkpoint>(std::move(checkpoint));
}

}  // namespace hearth::formats
