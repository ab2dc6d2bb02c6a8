// JSON from untrusted files: bounded in size and depth, duplicate keys refused, and typed access that never throws.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "core/status.h"

namespace hearth::formats {

inline constexpr size_t json_bytes_max = size_t{32} << 20;
inline constexpr int json_depth_max = 64;

// `what` names the file in messages.
Result<nlohmann::json> parse_json(std::string_view text, const std::string& what);
// not_found when the file is not there.
Result<nlohmann::json> read_json(const std::string& path);
bool file_exists(const std::string& path);

// The member as the type asked for, or nothing when it is absent, null or of another type.
const nlohmann::json* member(const nlohmann::json& object, std::string_view key);
std::optional<int64_t> integer_member(const nlohmann::json& object, std::string_view key);
std::optional<bool> bool_member(const nlohmann::json& object, std::string_view key);
std::string string_member(const nlohmann::json& object, std::string_view key);
// A number that is an integer in 0 .. 2^63-1.
std::optional<int64_t> as_count(const nlohmann::json& value);

}  // namespace hearth::formats
