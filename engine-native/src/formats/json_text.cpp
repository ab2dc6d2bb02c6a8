#include "formats/json_text.h"

#include <sys/stat.h>

#include <limits>
#include <set>
#include <vector>

#include "core/nesting.h"
#include "formats/mapped_file.h"

namespace hearth::formats {

using nlohmann::json;

Result<json> parse_json(std::string_view text, const std::string& what) {
  if (text.size() > json_bytes_max) {
    return corrupt(what + ": JSON of " + std::to_string(text.size()) + " bytes, the limit is " + std::to_string(json_bytes_max));
  }
  if (nesting_depth(text) > json_depth_max) return corrupt(what + ": JSON nested deeper than " + std::to_string(json_depth_max));
  std::vector<std::set<std::string>> keys;
  std::string duplicate;
  auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    const size_t level = static_cast<size_t>(depth);
    if (event == json::parse_event_t::object_start) {
      if (keys.size() <= level + 1) keys.resize(level + 2);
      keys[level + 1].clear();
    } else if (event == json::parse_event_t::key && !keys[level].insert(parsed.get<std::string>()).second) {
      duplicate = parsed.get<std::string>();
    }
    return true;
  };
  json value = json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (value.is_discarded()) return corrupt(what + ": not valid JSON");
  if (!duplicate.empty()) return corrupt(what + ": '" + duplicate + "' appears twice");
  return value;
}

Result<json> read_json(const std::string& path) {
  HEARTH_ASSIGN(auto file, MappedFile::open(path));
  const auto bytes = file->bytes();
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

bool file_exists(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0;
}

const json* member(const json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(std::string(key));
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::optional<int64_t> as_count(const json& value) {
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    if (number <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return static_cast<int64_t>(number);
  }
  return std::nullopt;
}

std::optional<int64_t> integer_member(const json& object, std::string_view key) {
  const json* value = member(object, key);
  if (!value || !value->is_number_integer()) return std::nullopt;
  if (value->is_number_unsigned()) return as_count(*value);
  return value->get<int64_t>();
}

std::optional<bool> bool_member(const json& object, std::string_view key) {
  const json* value = member(object, key);
  if (!value || !value->is_boolean()) return std::nullopt;
  return value->get<bool>();
}

std::string string_member(const json& object, std::string_view key) {
  const json* value = member(object, key);
  return value && value->is_string() ? value->get<std::string>() : std::string();
}

}  // namespace hearth::formats
