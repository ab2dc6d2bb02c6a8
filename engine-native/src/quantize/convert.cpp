#include "quantize/convert.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "formats/checkpoint.h"
#include "formats/converted.h"
#include "formats/gguf.h"
#include "formats/json_text.h"
#include "formats/mapped_file.h"
#include "formats/safetensors_writer.h"
#include "model/shapes.h"
#include "model/target.h"

namespace hearth::quantize {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

Status failed(const std::string& path, const std::error_code& error) { return io_error(path + ": " + error.message()); }

// Everything in the folder but weights: configuration, tokenizer, templates, also of a VILA folder's parts.
Status copy_settings(const std::string& from, const std::string& to) {
  std::error_code error;
  for (auto entry = fs::recursive_directory_iterator(from, error); !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    const fs::path relative = entry->path().lexically_relative(from);
    const std::string name = relative.filename().string();
    if (entry->is_directory(error)) {
      const bool part = name == "llm" || name == "vision_tower" || name == "mm_projector";
      if (!part) entry.disable_recursion_pending();
      continue;
    }
    bool weights = false;
    for (const char* end : {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf"}) weights |= name.ends_with(end);
    if (weights || !entry->is_regular_file(error)) continue;
    fs::create_directories((fs::path(to) / relative).parent_path(), error);
    if (error) return failed((fs::path(to) / relative).string(), error);
    HEARTH_TRY(formats::copy_file_atomically(entry->path().string(), (fs::path(to) / relative).string()));
  }
  return error ? failed(from, error) : Status::ok();
}

class Converter {
 public:
  explicit Converter(const ConvertOptions& options) : options_(options) {}

  Status gather() {
    if (!options_.shape.empty()) return gather_shape();
    HEARTH_ASSIGN(checkpoint_, formats::Checkpoint::open(options_.path));
    if (!checkpoint_->target().empty())
      return invalid(options_.path + " is already converted, for " + std::string(checkpoint_->target()) +
                     "; convert the folder it came from");
    load_.path = options_.path;
    return choose_target();
  }

  // What else a folder needs to be served.
  Status write_settings(const std::string& folder) const {
    const bool gguf = options_.path.ends_with(".gguf");
    if (options_.shape.empty() && !gguf) return copy_settings(options_.path, folder);
    HEARTH_TRY(formats::write_file_atomically(folder + "/config.json", checkpoint_->config().dump(1)));
    if (!gguf) return Status::ok();
    if (!checkpoint_->generation_config().empty()) HEARTH_TRY(formats::write_file_atomically(folder + "/generation_config.json", checkpoint_->generation_config().dump(1)));
    HEARTH_ASSIGN(const auto file, formats::MappedFile::open(options_.path));
    HEARTH_ASSIGN(const std::string texts, formats::gguf_without_tensors(file->bytes(), options_.path));
    return formats::write_file_atomically(folder + "/" + formats::gguf_texts_name, texts);
  }

  // Binds the model, then writes its linears and what was not packed.
  Result<json> write(const std::string& file, const Progress& progress) {
    const Clock clock;
    int64_t linears = 0;
    const Status packed = model::pack_model(load_, *target_, [&](std::span<const model::PackedItem> items) {
      linears = static_cast<int64_t>(items.size());
      return write_items(items, file, progress, clock);
    });
    HEARTH_TRY(packed);
    return json{{"target", options_.target}, {"linears", linears}, {"bytes", bytes_}, {"seconds", clock.seconds()}};
  }

 private:
  Status choose_target() {
    HEARTH_ASSIGN(target_, model::make_target(options_.target));
    load_.precision = options_.precision;
    load_.group = options_.group;
    load_.head_bits = options_.head_bits;
    return Status::ok();
  }

  Status gather_shape() {
    HEARTH_TRY(choose_target());
    HEARTH_ASSIGN(const model::Precision body, model::read_precision(options_.precision, options_.group, target_->info().kind));
    HEARTH_ASSIGN(const model::Precision head, model::read_head_precision(options_.head_bits, body));
    load_.shape = options_.shape;
    HEARTH_ASSIGN(checkpoint_, model::open_shape(options_.shape, body, head, load_.seed));
    return Status::ok();
  }

  Status write_items(std::span<const model::PackedItem> items, const std::string& file, const Progress& progress, const Clock& clock) {
    formats::SafetensorsWriter writer;
    std::vector<formats::PackedHeader> headers;
    std::set<std::string> packed;
    for (const model::PackedItem& item : items) {
      headers.push_back(item.header);
      packed.insert(item.header.modules.begin(), item.header.modules.end());
      const int64_t size = (item.header.bytes + formats::packed_alignment - 1) / formats::packed_alignment * formats::packed_alignment;
      writer.add_filled(formats::packed_prefix + item.header.key(), DType::u8, {size}, [&item, size](std::byte* to) {
        std::memset(to, 0, static_cast<size_t>(size));  // layouts have gaps: what this memory held before must not show there
        return item.fill(to);
      });
    }
    add_plain(writer, packed);
    bytes_ = writer.bytes();
    return writer.write(file, {{"format", "pt"}, {formats::target_key, options_.target}, {formats::linears_key, formats::PackedIndex::write(headers)}},
                        [&](double done, double total) { return !progress || progress({"write", done, total, clock.seconds_left(done, total), ""}); });
  }

  // Tensors that no packed linear stands for: norms, biases, embeddings, what a vision tower reads in its own way.
  void add_plain(formats::SafetensorsWriter& writer, const std::set<std::string>& packed) const {
    for (const std::string& name : checkpoint_->names()) {
      const size_t dot = name.rfind('.');
      const std::string module = name.substr(0, dot), part = dot == std::string::npos ? "" : name.substr(dot + 1);
      if (packed.contains(module) && part != "bias" && module != "model.embed_tokens") continue;
      const formats::TensorView& view = *checkpoint_->find(name);  // of a GGUF file, unpacked: only what is written
      writer.add(name, view.type, view.shape, [&view]() -> Result<std::vector<std::byte>> { return std::vector<std::byte>(view.data.begin(), view.data.end()); });
    }
  }

  const ConvertOptions& options_;
  std::unique_ptr<formats::Checkpoint> checkpoint_;
  std::unique_ptr<device::Device> target_;
  model::LoadOptions load_;
  int64_t bytes_ = 0;
};

// "cpu" and "cuda" are this machine's own.
Result<std::string> full_target(const std::string& name) {
  if (name != "cpu" && name != "cuda") return name;
  HEARTH_ASSIGN(const auto device, name == "cpu" ? device::open_cpu_device(1) : device::open_cuda_device(0, "", false));
  return model::target_name(device->info());
}

}  // namespace

Result<json> convert(const ConvertOptions& asked, const Progress& progress) {
  ConvertOptions options = asked;
  HEARTH_ASSIGN(options.target, full_target(asked.target));
  std::string out = options.out;
  while (out.size() > 1 && out.back() == '/') out.pop_back();
  if (out.empty()) return invalid("--out names no folder");
  if (formats::file_exists(out)) return invalid(out + " exists already; choose another --out");
  Converter converter(options);
  HEARTH_TRY(converter.gather());
  const std::string partial = out + ".partial";
  std::error_code error;
  fs::remove_all(partial, error);
  fs::create_directories(partial, error);
  if (error) return failed(partial, error);
  Result<json> result = converter.write(partial + "/model.safetensors", progress);
  const Status copied = result ? converter.write_settings(partial) : result.status();
  if (!copied) {
    fs::remove_all(partial, error);
    return copied;
  }
  fs::rename(partial, out, error);
  if (error) return failed(out, error);
  const std::string parent = fs::path(out).parent_path().string();
  HEARTH_TRY(formats::sync_folder(parent.empty() ? "." : parent));
  return result;
}

}  // namespace hearth::quantize
