#include "formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <string_view>

#include "formats/json_text.h"

namespace hearth::formats {

using nlohmann::json;

namespace {

std::optional<DType> parse_type(std::string_view name) {
  static constexpr std::pair<std::string_view, DType> types[] = {
      {"F32", DType::f32}, {"F16", DType::f16}, {"BF16", DType::bf16}, {"F64", DType::f64}, {"I64", DType::i64},
      {"I32", DType::i32}, {"I16", DType::i16}, {"I8", DType::i8},     {"U8", DType::u8},   {"BOOL", DType::boolean},
  };
  for (const auto& [text, type] : types) {
    if (text == name) return type;
  }
  return std::nullopt;
}

Status parse_shape(const json& value, TensorView& view) {
  if (!value.is_array() || value.size() > 8) return corrupt(label(view) + ": 'shape' is not a list of at most 8 sizes");
  for (const json& size : value) {
    const auto count = as_count(size);
    if (!count) return corrupt(label(view) + ": a size in 'shape' is not a number from 0 to 2^63-1");
    view.shape.push_back(*count);
  }
  return Status::ok();
}

// One entry of the header: type, shape and the byte range, checked against each other and the data's size.
Status parse_entry(const json& entry, std::span<const std::byte> data, TensorView& view) {
  const std::string type_name = string_member(entry, "dtype");
  const auto type = parse_type(type_name);
  if (!type) return corrupt(label(view) + ": dtype '" + type_name.substr(0, 32) + "' is not known");
  view.type = *type;
  const json* shape = member(entry, "shape");
  if (!shape) return corrupt(label(view) + ": no 'shape'");
  HEARTH_TRY(parse_shape(*shape, view));
  const json* offsets = member(entry, "data_offsets");
  if (!offsets || !offsets->is_array() || offsets->size() != 2) return corrupt(label(view) + ": 'data_offsets' is not a pair");
  const auto begin = as_count((*offsets)[0]), end = as_count((*offsets)[1]);
  if (!begin || !end || *begin > *end) return corrupt(label(view) + ": 'data_offsets' is not an ascending pair of sizes");
  if (static_cast<uint64_t>(*end) > data.size()) {
    return corrupt(label(view) + ": its data ends at byte " + std::to_string(*end) + " of " + std::to_string(data.size()) +
                   ": the file is truncated or its header is wrong");
  }
  const auto bytes = checked_bytes(view.shape, static_cast<int64_t>(size_of(view.type)));
  if (!bytes || *bytes != *end - *begin) {
    return corrupt(label(view) + ": shape " + shape_text(view.shape) + " of " + name_of(view.type) + " does not fit its " +
                   std::to_string(*end - *begin) + " bytes");
  }
  view.data = data.subspan(static_cast<size_t>(*begin), static_cast<size_t>(*bytes));
  return Status::ok();
}

Status parse_metadata(const json& value, const std::string& file, SafetensorsHeader& header) {
  if (!value.is_object()) return corrupt(file + ": '__metadata__' is not an object");
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) return corrupt(file + ": '__metadata__." + key + "' is not a string");
    header.metadata[key] = text.get<std::string>();
  }
  return Status::ok();
}

// Sorted by place, each tensor must begin where the one before it ended, and the last end the file.
Status check_places(SafetensorsHeader& header, std::span<const std::byte> data, const std::string& file) {
  auto& tensors = header.tensors;
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorView& a, const TensorView& b) {
    return a.data.data() != b.data.data() ? a.data.data() < b.data.data() : a.data.size() < b.data.size();
  });
  const std::byte* expected = data.data();
  for (const TensorView& view : tensors) {
    if (view.data.data() < expected) return corrupt(label(view) + " overlaps the tensor before it");
    if (view.data.data() > expected) return corrupt(label(view) + ": unused bytes before it");
    expected = view.data.data() + view.data.size();
  }
  if (expected != data.data() + data.size()) return corrupt(file + ": unused bytes at the end");
  return Status::ok();
}

// A shard's name must be a plain file name: an index cannot reach outside its folder.
bool plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
}

Status add_shards(TensorStore& store, const std::string& folder, const std::string& index_path, const std::string& prefix,
                  std::map<std::string, std::string>* metadata) {
  HEARTH_ASSIGN(const json index, read_json(index_path));
  const json* map = member(index, "weight_map");
  if (!map || !map->is_object() || map->empty()) return corrupt(index_path + ": no 'weight_map'");
  std::set<std::string> shards;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || !plain_file_name(file.get<std::string>())) {
      return corrupt(index_path + ": tensor '" + tensor + "' is not mapped to a file name");
    }
    shards.insert(file.get<std::string>());
  }
  std::map<std::string, std::string> place;  // tensor -> shard it was found in
  for (const std::string& shard : shards) {
    HEARTH_ASSIGN(const SafetensorsHeader header, add_safetensors(store, folder + "/" + shard, prefix));
    for (const TensorView& view : header.tensors) place[view.name] = shard;
    if (metadata) metadata->insert(header.metadata.begin(), header.metadata.end());
  }
  for (const auto& [tensor, file] : map->items()) {
    if (place[tensor] != file.get<std::string>()) {
      return corrupt(index_path + ": tensor '" + tensor + "' is not in " + file.get<std::string>());
    }
  }
  return Status::ok();
}

}  // namespace

Result<SafetensorsHeader> parse_safetensors(std::span<const std::byte> bytes, const std::string& file) {
  uint64_t header_size = 0;
  if (bytes.size() < sizeof header_size) return corrupt(file + ": too short for a safetensors file");
  std::memcpy(&header_size, bytes.data(), sizeof header_size);
  if (header_size > bytes.size() - sizeof header_size) {
    const std::string_view start(reinterpret_cast<const char*>(bytes.data()), std::min<size_t>(bytes.size(), 64));
    if (start.starts_with("version https://git-lfs.github.com/spec/")) {
      return corrupt(file + ": a pointer of Git LFS, not the file itself; git lfs pull, or hearth pull, brings it");
    }
    if (start.starts_with('<')) return corrupt(file + ": a web page, not a safetensors file: what was downloaded is an error message or a login");
    return corrupt(file + ": header of " + std::to_string(header_size) + " bytes in a file of " + std::to_string(bytes.size()));
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof header_size, header_size);
  HEARTH_ASSIGN(const json object, parse_json(text, file + ": header"));
  if (!object.is_object()) return corrupt(file + ": the header is not a JSON object");
  const auto data = bytes.subspan(sizeof header_size + header_size);

  SafetensorsHeader header;
  for (const auto& [name, entry] : object.items()) {
    if (name == "__metadata__") {
      HEARTH_TRY(parse_metadata(entry, file, header));
      continue;
    }
    TensorView view{.name = name, .type = DType::f32, .shape = {}, .data = {}, .file = file};
    HEARTH_TRY(parse_entry(entry, data, view));
    header.tensors.push_back(std::move(view));
  }
  HEARTH_TRY(check_places(header, data, file));
  return header;
}

Result<SafetensorsHeader> add_safetensors(TensorStore& store, const std::string& path, const std::string& prefix) {
  HEARTH_ASSIGN(auto file, MappedFile::open(path));
  HEARTH_ASSIGN(SafetensorsHeader header, parse_safetensors(file->bytes(), path));
  HEARTH_TRY(add_safetensors(store, std::move(file), header, prefix));
  return header;
}

Status add_safetensors(TensorStore& store, std::shared_ptr<MappedFile> file, const SafetensorsHeader& header, const std::string& prefix) {
  store.keep(std::move(file));
  for (const TensorView& view : header.tensors) HEARTH_TRY(store.add(view, prefix));
  for (const auto& [name, target] : header.metadata) store.alias(prefix + name, prefix + target);
  return Status::ok();
}

Status add_safetensors_folder(TensorStore& store, const std::string& folder, const std::string& prefix,
                              std::map<std::string, std::string>* metadata) {
  const std::string index = folder + "/model.safetensors.index.json";
  if (file_exists(index)) return add_shards(store, folder, index, prefix, metadata);
  std::vector<std::string> files;
  if (file_exists(folder + "/model.safetensors")) {
    files.push_back(folder + "/model.safetensors");
  } else {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
      if (entry.path().extension() == ".safetensors") files.push_back(entry.path().string());
    }
    std::sort(files.begin(), files.end());
  }
  if (files.empty()) return not_found(folder + ": no .safetensors file");
  for (const std::string& file : files) {
    HEARTH_ASSIGN(const SafetensorsHeader header, add_safetensors(store, file, prefix));
    if (metadata) metadata->insert(header.metadata.begin(), header.metadata.end());
  }
  return Status::ok();
}

}  // namespace hearth::formats
