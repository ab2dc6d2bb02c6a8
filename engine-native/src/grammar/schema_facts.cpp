#include "grammar/schema_facts.h"

#include <algorithm>
#include <set>
#include <unordered_set>

namespace hearth::grammar {
namespace {

const std::set<std::string> known_keywords = {
    "type", "enum", "const", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern", "format", "anyOf",
    "oneOf", "allOf", "$ref", "$defs", "definitions", "title", "description", "default", "examples", "$schema", "$id",
    "$comment", "deprecated", "readOnly", "writeOnly"};

bool has_object_keys(const Json& s) { return s.contains("properties") || s.contains("required") || s.contains("additionalProperties"); }

Json values(const Json& schema) {
  if (schema.contains("const")) return Json::array({schema["const"]});
  return schema.contains("enum") && schema["enum"].is_array() ? schema["enum"] : Json::array();
}

// Integers count as numbers.
std::set<std::string> types(const Json& schema) {
  std::set<std::string> out;
  auto add = [&](const std::string& type) { out.insert(type == "integer" ? "number" : type); };
  if (schema.contains("type")) {
    for (const std::string& t : types_of(schema["type"])) add(t);
    return out;
  }
  for (const Json& v : values(schema)) add(type_of(v));
  if (out.empty() && has_object_keys(schema)) add("object");
  return out;
}

bool all_text(const Json& list) {
  return list.is_array() && std::all_of(list.begin(), list.end(), [](const Json& one) { return one.is_string(); });
}

// Whether the two lists have a value in common.
bool share_a_value(Json a, const Json& b) {
  std::sort(a.begin(), a.end());
  return std::any_of(b.begin(), b.end(), [&](const Json& value) { return std::binary_search(a.begin(), a.end(), value); });
}

Status check_shape(const std::string& key, const Json& value, const std::string& path) {
  if (key == "type" && !value.is_string() && !all_text(value)) return invalid(path + "/type: must be a string or a list of strings");
  if (key == "properties" && !value.is_object()) return invalid(path + "/properties: must be an object");
  if (key == "required" && !all_text(value)) return invalid(path + "/required: must be a list of names");
  if (key == "enum" && (!value.is_array() || value.empty())) return invalid(path + "/enum: must be a list that is not empty");
  return Status::ok();
}

std::unordered_set<std::string_view> required_of(const Json& schema) {
  std::unordered_set<std::string_view> out;
  if (schema.contains("required"))
    for (const Json& name : schema["required"])
      if (name.is_string()) out.insert(name.get_ref<const std::string&>());
  return out;
}

// Whether a member that both require cannot fulfil what both say of it.
bool members_exclude_each_other(const Json& a, const Json& b, int depth) {
  const auto of_a = required_of(a), of_b = required_of(b);
  const Members members = members_of(b);
  for (auto& [name, schema] : a["properties"].items()) {
    auto other = members.find(name);
    if (other != members.end() && of_a.contains(name) && of_b.contains(name) && exclude_each_other(schema, *other->second, depth + 1)) return true;
  }
  return false;
}

}  // namespace

Members members_of(const Json& schema) {
  Members out;
  if (schema.contains("properties") && schema["properties"].is_object())
    for (auto& [name, member] : schema["properties"].get_ref<const Json::object_t&>()) out.emplace(name, &member);
  return out;
}

void append_member(Json& object, const std::string& name, Json value) {
  object.get_ref<Json::object_t&>().Json::object_t::Container::emplace_back(name, std::move(value));
}

std::string escaped(std::string_view name) {
  std::string out;
  for (char c : name) {
    if (c == '~') out += "~0";
    else if (c == '/') out += "~1";
    else out += c;
  }
  return out;
}

bool is_annotation(const std::string& key) {
  static const std::set<std::string> annotations = {"title", "description", "default", "examples", "$schema", "$id", "$comment",
                                                    "deprecated", "readOnly", "writeOnly", "$defs", "definitions"};
  return annotations.contains(key);
}

bool only_annotations_beside(const Json& schema, const std::string& main) {
  for (auto& [key, value] : schema.items())
    if (key != main && !is_annotation(key)) return false;
  return true;
}

Status check_keywords(const Json& schema, const std::string& path) {
  for (auto& [key, value] : schema.items()) {
    if (!known_keywords.contains(key)) return unsupported(path + "/" + escaped(key) + ": this keyword is not supported");
    HEARTH_TRY(check_shape(key, value, path));
  }
  return Status::ok();
}

std::string type_of(const Json& v) {
  return v.is_null() ? "null" : v.is_boolean() ? "boolean" : v.is_number_integer() ? "integer" : v.is_number() ? "number"
         : v.is_string() ? "string" : v.is_array() ? "array" : "object";
}

std::set<std::string> types_of(const Json& type) {
  std::set<std::string> out;
  for (const Json& t : type)  // of a string: itself
    if (t.is_string()) out.insert(t.get<std::string>());
  return out;
}

bool fits_type(const Json& v, const std::set<std::string>& types) {
  std::string own = type_of(v);
  return types.contains(own) || (own == "integer" && types.contains("number"));
}

std::vector<std::string> implied_types(const Json& s) {
  if (has_object_keys(s)) return {"object"};
  if (s.contains("items") || s.contains("prefixItems") || s.contains("minItems") || s.contains("maxItems")) return {"array"};
  if (s.contains("pattern") || s.contains("format") || s.contains("minLength") || s.contains("maxLength")) return {"string"};
  if (s.contains("minimum") || s.contains("maximum") || s.contains("exclusiveMinimum") || s.contains("exclusiveMaximum")) return {"number"};
  return {};
}

bool exclude_each_other(const Json& a, const Json& b, int depth) {
  if (!a.is_object() || !b.is_object() || depth > 8) return false;
  const std::set<std::string> ta = types(a), tb = types(b);
  if (!ta.empty() && !tb.empty() && std::none_of(ta.begin(), ta.end(), [&](const std::string& t) { return tb.contains(t); })) return true;
  Json va = values(a), vb = values(b);
  if (!va.empty() && !vb.empty()) return !share_a_value(std::move(va), vb);
  return a.contains("properties") && b.contains("properties") && members_exclude_each_other(a, b, depth);
}

}  // namespace hearth::grammar
