#include "formats/converted.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "formats/json_text.h"

namespace hearth::formats {

using nlohmann::json;
using ops::WeightFormat;

namespace {

constexpr const char* format_names[] = {"f32", "f16", "bf16", "w4", "w8"};
constexpr const char* activation_names[] = {"exact", "int8_group", "int8_row"};

template <size_t count>
std::optional<int> index_of(const char* const (&names)[count], const std::string& name) {
  for (size_t i = 0; i < count; i++) {
    if (name == names[i]) return static_cast<int>(i);
  }
  return std::nullopt;
}

std::optional<int> size_member(const json& object, const char* key, int64_t low) {
  const auto value = integer_member(object, key);
  if (!value || *value < low || *value > std::numeric_limits<int>::max()) return std::nullopt;
  return static_cast<int>(*value);
}

Status parse_modules(const json& entry, const std::string& where, PackedHeader& header) {
  const json *modules = member(entry, "modules"), *rows = member(entry, "rows"), *biases = member(entry, "biases");
  const bool lists = modules && rows && biases && modules->is_array() && rows->is_array() && biases->is_array();
  if (!lists || modules->empty() || modules->size() != rows->size() || modules->size() != biases->size())
    return corrupt(where + ": modules, rows and biases do not match");
  int64_t out = 0;
  for (size_t i = 0; i < modules->size(); i++) {
    const auto count = as_count((*rows)[i]);
    if (!(*modules)[i].is_string() || !(*biases)[i].is_boolean() || !count || *count < 1 || *count > std::numeric_limits<int>::max()) {
      return corrupt(where + ": a module, its rows or its bias is of the wrong type");
    }
    header.modules.push_back((*modules)[i].get<std::string>());
    header.rows.push_back(static_cast<int>(*count));
    header.biases.push_back((*biases)[i].get<bool>());
    out += *count;
  }
  if (out > std::numeric_limits<int>::max()) return corrupt(where + ": too many rows");
  header.linear.out = static_cast<int>(out);
  return Status::ok();
}

Status parse_linear(const json& entry, const std::string& where, PackedHeader& header) {
  const auto in = size_member(entry, "in", 1), group = size_member(entry, "group", 0);
  const auto format = index_of(format_names, string_member(entry, "format")), activations = index_of(activation_names, string_member(entry, "activations"));
  const auto symmetric = bool_member(entry, "symmetric");
  const auto bytes = integer_member(entry, "bytes");
  const json* scale = member(entry, "static_scale");
  header.linear.layout = string_member(entry, "layout");
  if (!in || !group || !format || !activations || !symmetric || !bytes || *bytes < 1 || !scale || !scale->is_number() || header.linear.layout.empty()) {
    return corrupt(where + ": a field is missing or out of range");
  }
  header.linear.in = *in;
  header.linear.group = *group;
  header.linear.format = static_cast<WeightFormat>(*format);
  header.linear.symmetric = *symmetric;
  header.linear.static_scale = scale->get<float>();
  header.activations = static_cast<ops::ActivationFormat>(*activations);
  header.bytes = *bytes;
  return Status::ok();
}

}  // namespace

std::string PackedHeader::key() const {
  std::string joined;
  for (const std::string& module : modules) joined += (joined.empty() ? "" : "+") + module;
  return joined;
}

std::string PackedIndex::write(const std::vector<PackedHeader>& headers) {
  json list = json::array();
  for (const PackedHeader& header : headers) {
    list.push_back({{"modules", header.modules}, {"rows", header.rows}, {"biases", header.biases}, {"in", header.linear.in},
                    {"format", format_names[static_cast<int>(header.linear.format)]}, {"group", header.linear.group},
                    {"symmetric", header.linear.symmetric}, {"static_scale", header.linear.static_scale},
                    {"activations", activation_names[static_cast<int>(header.activations)]}, {"layout", header.linear.layout}, {"bytes", header.bytes}});
  }
  return list.dump();
}

Result<PackedIndex> PackedIndex::parse(const std::map<std::string, std::string>& metadata, const TensorStore& store, const std::string& file) {
  PackedIndex index;
  const auto target = metadata.find(target_key), linears = metadata.find(linears_key);
  if (target == metadata.end() || linears == metadata.end()) return corrupt(file + ": not a converted file");
  index.target_ = target->second;
  HEARTH_ASSIGN(const json list, parse_json(linears->second, file + ": " + linears_key));
  if (!list.is_array()) return corrupt(file + ": " + linears_key + " is not a list");
  for (const json& entry : list) {
    PackedHeader header;
    const std::string where = file + ": " + linears_key + "[" + std::to_string(index.headers_.size()) + "]";
    HEARTH_TRY(parse_modules(entry, where, header));
    HEARTH_TRY(parse_linear(entry, where, header));
    const std::string key = header.key();
    const TensorView* view = store.find(packed_prefix + key);
    if (!view || view->type != DType::u8 || static_cast<int64_t>(view->data.size()) < header.bytes) {
      return corrupt(file + ": tensor '" + packed_prefix + key + "' is missing or shorter than its " + std::to_string(header.bytes) + " bytes");
    }
    for (size_t i = 0; i < header.modules.size(); i++) {
      header.linear.bias |= header.biases[i];
      if (!index.modules_.emplace(header.modules[i], std::pair{key, i}).second)
        return corrupt(where + ": module '" + header.modules[i] + "' is packed twice");
    }
    index.headers_.emplace(key, std::move(header));
  }
  return index;
}

const PackedHeader* PackedIndex::find(std::string_view key) const {
  const auto found = headers_.find(key);
  return found == headers_.end() ? nullptr : &found->second;
}

std::optional<LinearHeader> PackedIndex::module(std::string_view name) const {
  const auto found = modules_.find(name);
  if (found == modules_.end()) return std::nullopt;
  const PackedHeader& header = headers_.find(found->second.first)->second;
  LinearHeader linear = header.linear;
  linear.out = header.rows[found->second.second];
  linear.bias = header.biases[found->second.second];
  return linear;
}

}  // namespace hearth::formats
