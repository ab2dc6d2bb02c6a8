// Reads a JSON object whose keys are all known: a wrong type, a value out of range or a key nobody asked for is an error
// that names the key. Absent and null are the same.
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/nesting.h"
#include "core/status.h"

namespace hearth::runtime {

using Json = nlohmann::json;

// Text for messages and records that may hold bytes a client sent: bad UTF-8 is replaced, never thrown.
inline std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

// "error" of a FINISHED record.
inline Json error_json(const Status& status) {
  constexpr size_t message_bytes_max = 8000;
  return {{"status", static_cast<int>(status.code())}, {"message", status.message().substr(0, message_bytes_max)}};
}

class JsonReader {
 public:
  static constexpr int nesting_depth_max = 512;

  static Result<JsonReader> parse(std::string_view text, const char* what) {
    if (nesting_depth(text) > nesting_depth_max) return invalid(std::string(what) + " nests deeper than " + std::to_string(nesting_depth_max));
    Json json = Json::parse(text, nullptr, false);
    if (json.is_discarded() || !json.is_object()) return invalid(std::string(what) + " is not a JSON object");
    return JsonReader(std::move(json));
  }
  explicit JsonReader(Json object) : object_(std::move(object)) {}

  // The value, or nullptr when absent or null.
  const Json* find(const char* key) {
    known_.emplace_back(key);
    auto at = object_.find(key);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }

  Status read(const char* key, std::string& out) {
    const Json* value = find(key);
    if (!value) return Status::ok();
    if (!value->is_string()) return wrong(key, "a string");
    out = value->get<std::string>();
    return Status::ok();
  }
  Status read(const char* key, bool& out) {
    const Json* value = find(key);
    if (!value) return Status::ok();
    if (!value->is_boolean()) return wrong(key, "true or false");
    out = value->get<bool>();
    return Status::ok();
  }
  template <class Integer>
  Status read_integer(const char* key, int64_t low, int64_t high, Integer& out) {
    const Json* value = find(key);
    if (!value) return Status::ok();
    int64_t number = 0;
    if (!as_integer(*value, number) || number < low || number > high)
      return wrong(key, "an integer from " + std::to_string(low) + " to " + std::to_string(high));
    out = static_cast<Integer>(number);
    return Status::ok();
  }
  template <class Float>
  Status read_number(const char* key, double low, double high, Float& out) {
    const Json* value = find(key);
    if (!value) return Status::ok();
    double number = value->is_number() ? value->get<double>() : NAN;
    if (!(number >= low && number <= high)) {
      char text[80];
      std::snprintf(text, sizeof text, "a number from %g to %g", low, high);
      return wrong(key, text);
    }
    out = static_cast<Float>(number);
    return Status::ok();
  }

  // Every key must have been asked for by now.
  Status finish() const {
    for (auto& [key, value] : object_.items()) {
      bool seen = false;
      for (const std::string& known : known_) seen |= known == key;
      if (!seen) return invalid("unknown key \"" + key.substr(0, 64) + "\"");
    }
    return Status::ok();
  }

  static Status wrong(const char* key, const std::string& expected) {
    return invalid("\"" + std::string(key) + "\" must be " + expected);
  }
  static bool as_integer(const Json& value, int64_t& out) {
    if (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) return false;
    if (value.is_number_integer()) return out = value.get<int64_t>(), true;
    if (!value.is_number_float()) return false;
    double number = value.get<double>();  // 3.0 is an integer to JavaScript
    if (!(std::abs(number) < 9e15) || number != std::floor(number)) return false;
    return out = static_cast<int64_t>(number), true;
  }

 private:
  Json object_;
  std::vector<std::string> known_;
};

}  // namespace hearth::runtime
