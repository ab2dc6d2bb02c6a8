// Reading JSON that nobody vouches for: every access checks the type and names the field.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>

#include "core/status.h"

namespace hearth::tokenizer {

using Json = nlohmann::json;

inline Result<Json> parse_json(std::string_view text, const char* what) {
  Json json = Json::parse(text.begin(), text.end(), nullptr, false);
  if (json.is_discarded()) return corrupt(std::string(what) + " is not JSON");
  if (!json.is_object()) return corrupt(std::string(what) + " is not a JSON object");
  return json;
}

// The member, or null where it is missing or json is no object.
inline const Json& member(const Json& json, const char* key) {
  static const Json none;
  if (!json.is_object()) return none;
  auto it = json.find(key);
  return it == json.end() ? none : *it;
}

inline Status wrong_type(const char* key, const char* wanted) { return corrupt(std::string("\"") + key + "\" is not " + wanted); }

inline Result<bool> bool_or(const Json& json, const char* key, bool otherwise) {
  const Json& value = member(json, key);
  if (value.is_null()) return otherwise;
  if (!value.is_boolean()) return wrong_type(key, "true or false");
  return value.get<bool>();
}

inline Result<std::string> string_or(const Json& json, const char* key, std::string otherwise) {
  const Json& value = member(json, key);
  if (value.is_null()) return otherwise;
  if (!value.is_string()) return wrong_type(key, "a string");
  return value.get<std::string>();
}

inline Result<std::string> string_of(const Json& json, const char* key) {
  const Json& value = member(json, key);
  if (!value.is_string()) return wrong_type(key, "a string");
  return value.get<std::string>();
}

// A whole number that fits; the caller checks the range.
inline Result<int64_t> integer_of(const Json& value, const char* key) {
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX)) return wrong_type(key, "a whole number");
  return value.get<int64_t>();
}

}  // namespace hearth::tokenizer
