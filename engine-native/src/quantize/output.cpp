#include "quantize/output.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "formats/json_text.h"
#include "formats/safetensors.h"

namespace hearth::quantize {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int64_t one_file_bytes_max = int64_t{5} << 30;
constexpr const char* layer_modules[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};

// Tensors that write_layer writes: the seven linears and the two norms.
bool of_a_layer(const std::string& name) {
  if (!name.starts_with("model.layers.")) return false;
  if (name.ends_with(".input_layernorm.weight") || name.ends_with(".post_attention_layernorm.weight")) return true;
  for (const char* module : layer_modules) {
    if (name.ends_with(std::string(".") + module + ".weight") || name.ends_with(std::string(".") + module + ".bias")) return true;
  }
  return false;
}

bool is_weight_file(const std::string& name) {
  for (const char* end : {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf"}) {
    if (name.ends_with(end)) return true;
  }
  return false;
}

std::string numbered(const char* format, int first, int second = 0) {
  char text[64];
  std::snprintf(text, sizeof text, format, first, second);
  return text;
}

Status failed(const std::string& path, const std::error_code& error) { return io_error(path + ": " + error.message()); }

Status copy_to(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::create_directories(to.parent_path(), error);
  return error ? failed(to.string(), error) : formats::copy_file_atomically(from.string(), to.string());
}

// A folder and what is below it, so that names in it survive a power cut.
Status sync_folders(const std::string& path) {
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(path, error)) {
    if (entry.is_directory(error)) HEARTH_TRY(formats::sync_folder(entry.path().string()));
  }
  return error ? failed(path, error) : formats::sync_folder(path);
}

// What an interrupted process was writing.
void remove_asides(const std::string& path) {
  std::error_code error;
  std::vector<fs::path> asides;
  for (const auto& entry : fs::recursive_directory_iterator(path, error)) {
    if (entry.is_regular_file(error) && entry.path().extension() == ".partial") asides.push_back(entry.path());
  }
  for (const fs::path& aside : asides) fs::remove(aside, error);
}

}  // namespace

Result<OutputFolder> OutputFolder::open(const formats::Checkpoint& source, const std::string& out, const json& state) {
  OutputFolder folder(source);
  folder.out_ = out;
  while (folder.out_.size() > 1 && folder.out_.back() == '/') folder.out_.pop_back();
  folder.partial_ = folder.out_ + ".partial";
  if (formats::file_exists(folder.out_)) return invalid(folder.out_ + " exists already; choose another --out");
  if (formats::member(source.config(), "llm_cfg") && formats::file_exists(source.path() + "/llm")) folder.part_ = "/llm";
  std::error_code error;
  fs::create_directories(folder.partial_ + folder.part_, error);
  if (error) return failed(folder.partial_, error);
  remove_asides(folder.partial_);
  const std::string state_path = folder.partial_ + "/state.json";
  if (formats::file_exists(state_path)) {
    HEARTH_ASSIGN(const json before, formats::read_json(state_path));
    if (before != state) return invalid(folder.partial_ + " was begun with other options; remove it, or choose another --out");
  } else {
    HEARTH_TRY(formats::write_file_atomically(state_path, state.dump(1)));
  }
  const auto layers = formats::integer_member(state, "layers").value_or(0);
  folder.reports_.resize(static_cast<size_t>(layers));
  for (int layer = 0; layer < layers; layer++) {  // the report is written after the tensors: both are there or neither counts
    if (!formats::file_exists(folder.layer_path(layer, ".json")) || !formats::file_exists(folder.layer_path(layer, ".safetensors"))) continue;
    HEARTH_ASSIGN(folder.reports_[static_cast<size_t>(layer)], formats::read_json(folder.layer_path(layer, ".json")));
  }
  return folder;
}

std::string OutputFolder::layer_path(int layer, const char* extension) const {
  return partial_ + part_ + "/" + numbered("layer-%05d", layer) + extension;
}

const json* OutputFolder::finished(int layer) const {
  const json& report = reports_[static_cast<size_t>(layer)];
  return report.is_null() ? nullptr : &report;
}

std::string OutputFolder::file_module(const std::string& module) const {
  const formats::TensorView* view = source_.find(module + ".weight");
  return view ? view->name.substr(0, view->name.size() - std::string(".weight").size()) : module;
}

Status OutputFolder::write_layer(int layer, const formats::SafetensorsWriter& tensors, const json& report) {
  HEARTH_TRY(tensors.write(layer_path(layer, ".safetensors"), {{"format", "pt"}}));
  HEARTH_TRY(formats::write_file_atomically(layer_path(layer, ".json"), report.dump(1)));
  reports_[static_cast<size_t>(layer)] = report;
  return Status::ok();
}

Status OutputFolder::write_rest() {
  formats::SafetensorsWriter writer;
  std::set<std::string> written;  // an alias shows one tensor under two names
  const std::string folder = source_.path() + part_ + "/";
  for (const std::string& name : source_.names()) {
    const formats::TensorView& view = *source_.find(name);
    const fs::path relative = fs::path(view.file).lexically_relative(folder);
    if (of_a_layer(name) || relative.has_parent_path() || !written.insert(view.name).second) continue;
    const bool language = name.starts_with("model.") || name.starts_with("lm_head.");
    if (view.type == DType::f32 && language) {
      writer.add(view.name, DType::f16, view.shape, [&view, this]() -> Result<std::vector<std::byte>> {
        HEARTH_ASSIGN(const std::vector<float> values, source_.floats(view.name, view.shape));
        return formats::to_half_bytes(values);
      });
    } else {
      writer.add(view.name, view.type, view.shape, [&view]() -> Result<std::vector<std::byte>> { return std::vector<std::byte>(view.data.begin(), view.data.end()); });
    }
  }
  return writer.write(partial_ + part_ + "/rest.safetensors", {{"format", "pt"}});
}

// One model.safetensors up to 5 GB; beyond it the layers' files become the shards, under an index.
Status OutputFolder::join_files() {
  const std::string folder = partial_ + part_;
  std::vector<std::string> files{folder + "/rest.safetensors"};
  for (size_t layer = 0; layer < reports_.size(); layer++) files.push_back(layer_path(static_cast<int>(layer), ".safetensors"));
  std::error_code error;
  int64_t total = 0;
  for (const std::string& file : files) total += static_cast<int64_t>(fs::file_size(file, error));
  if (total <= one_file_bytes_max) {
    formats::TensorStore store;
    formats::SafetensorsWriter writer;
    for (const std::string& file : files) {
      HEARTH_ASSIGN(const auto header, formats::add_safetensors(store, file));
      for (const formats::TensorView& view : header.tensors) {
        writer.add(view.name, view.type, view.shape, [view]() -> Result<std::vector<std::byte>> { return std::vector<std::byte>(view.data.begin(), view.data.end()); });
      }
    }
    HEARTH_TRY(writer.write(folder + "/model.safetensors", {{"format", "pt"}}));
  } else {
    json map = json::object();
    for (size_t i = 0; i < files.size(); i++) {
      const std::string shard = numbered("model-%05d-of-%05d.safetensors", static_cast<int>(i + 1), static_cast<int>(files.size()));
      formats::TensorStore store;
      HEARTH_ASSIGN(const auto header, formats::add_safetensors(store, files[i]));
      for (const formats::TensorView& view : header.tensors) map[view.name] = shard;
      fs::remove(folder + "/" + shard, error);
      fs::create_hard_link(files[i], folder + "/" + shard, error);  // the layer's own name goes last
      if (error) fs::rename(files[i], folder + "/" + shard, error);
      if (error) return failed(files[i], error);
    }
    HEARTH_TRY(formats::write_file_atomically(folder + "/model.safetensors.index.json",
                                              json{{"metadata", {{"total_size", total}}}, {"weight_map", map}}.dump(1)));
  }
  return Status::ok();
}

// What the folder was made of. Only when all else is there and synced: a process killed before goes on from these.
void OutputFolder::remove_parts() const {
  std::error_code error;
  for (size_t layer = 0; layer < reports_.size(); layer++) {
    for (const char* extension : {".safetensors", ".json"}) fs::remove(layer_path(static_cast<int>(layer), extension), error);
  }
  fs::remove(partial_ + part_ + "/rest.safetensors", error);
  fs::remove(partial_ + "/state.json", error);
}

// Tokenizer, templates, preprocessor settings; of a VILA folder also the tower's and projector's folders as they are.
Status OutputFolder::copy_files() const {
  std::error_code error;
  const fs::path source(source_.path());
  for (auto entry = fs::recursive_directory_iterator(source, error); !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    const fs::path relative = fs::path(entry->path()).lexically_relative(source);
    const std::string name = entry->path().filename().string(), top = relative.begin()->string();
    const bool part = part_.empty() ? false : top == "vision_tower" || top == "mm_projector";
    if (entry->is_directory(error)) {
      if (name.starts_with(".") || (!part && relative.string() != part_.substr(part_.empty() ? 0 : 1))) entry.disable_recursion_pending();
      continue;
    }
    const bool written = !part && (is_weight_file(name) || (name == "config.json" && relative.parent_path().string() == part_.substr(part_.empty() ? 0 : 1)));
    if (!written && entry->is_regular_file(error)) HEARTH_TRY(copy_to(entry->path(), partial_ / relative));
  }
  return error ? failed(source_.path(), error) : Status::ok();
}

Status OutputFolder::write_config(const json& quantization) const {
  HEARTH_ASSIGN(json config, formats::read_json(source_.path() + part_ + "/config.json"));
  config["quantization_config"] = quantization;
  if (config.contains("torch_dtype")) config["torch_dtype"] = "float16";
  return formats::write_file_atomically(partial_ + part_ + "/config.json", config.dump(2) + "\n");
}

Status OutputFolder::finish(const json& quantization, const json& report, const std::string& picture) {
  HEARTH_TRY(write_rest());
  HEARTH_TRY(join_files());
  HEARTH_TRY(copy_files());
  HEARTH_TRY(write_config(quantization));
  HEARTH_TRY(formats::write_file_atomically(partial_ + "/quantize-report.json", report.dump(1) + "\n"));
  HEARTH_TRY(formats::write_file_atomically(partial_ + "/quantize-report.svg", picture));
  HEARTH_TRY(sync_folders(partial_));
  remove_parts();
  std::error_code error;
  fs::rename(partial_, out_, error);
  if (error) return failed(out_, error);
  const std::string parent = fs::path(out_).parent_path().string();
  return formats::sync_folder(parent.empty() ? "." : parent);
}

}  // namespace hearth::quantize
