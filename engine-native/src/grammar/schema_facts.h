// What can be read off a JSON Schema without compiling it: its keywords, the types it allows, whether two exclude each other.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/status.h"

namespace hearth::grammar {

using Json = nlohmann::ordered_json;

// Members by their names: an ordered object looks through all of them for each. The object must outlive it.
using Members = std::unordered_map<std::string_view, const Json*>;
Members members_of(const Json& schema);  // of its "properties", if any
// Adds a member that is not there yet, without looking for it.
void append_member(Json& object, const std::string& name, Json value);

// A key as it stands in a JSON pointer.
std::string escaped(std::string_view key);

bool is_annotation(const std::string& key);
bool only_annotations_beside(const Json& schema, const std::string& main);
// An error that names the first keyword that is not supported, or whose value has not the shape that those who read it
// count on: "type", "properties", "required", "enum". `path` begins its JSON path.
Status check_keywords(const Json& schema, const std::string& path);

// The JSON type of a value: "integer" or "number" for numbers.
std::string type_of(const Json& value);
// What the keyword "type" names: one type or several.
std::set<std::string> types_of(const Json& type);
// Whether the value has one of the types.
bool fits_type(const Json& value, const std::set<std::string>& types);
// The type that keywords imply where "type" is missing; empty when none does.
std::vector<std::string> implied_types(const Json& schema);

// Whether provably nothing fulfils both: by type, by constants, or by a required member for which that holds.
bool exclude_each_other(const Json& a, const Json& b, int depth = 0);

}  // namespace hearth::grammar
