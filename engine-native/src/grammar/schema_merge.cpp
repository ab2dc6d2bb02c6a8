#include "grammar/schema_merge.h"

#include <algorithm>
#include <vector>

namespace hearth::grammar {
namespace {

Json all_of(const Json& a, const Json& b) {
  if (a == b || b == Json(true)) return a;
  if (a == Json(true)) return b;
  return Json{{"allOf", Json::array({a, b})}};
}

std::vector<std::string> types_of(const Json& type) {
  std::vector<std::string> out;
  if (type.is_string()) out.push_back(type.get<std::string>());
  if (type.is_array())
    for (const Json& t : type)
      if (t.is_string()) out.push_back(t.get<std::string>());
  return out;
}

Json common_types(const Json& a, const Json& b) {
  Json out = Json::array();
  std::vector<std::string> of_b = types_of(b);
  auto in_b = [&](const std::string& t) { return std::find(of_b.begin(), of_b.end(), t) != of_b.end(); };
  for (const std::string& t : types_of(a)) {
    if (in_b(t)) out.push_back(t);
    else if (t == "integer" && in_b("number")) out.push_back("integer");
    else if (t == "number" && in_b("integer")) out.push_back("integer");
  }
  return out;
}

Json common_values(const Json& a, const Json& b) {
  Json out = Json::array();
  for (const Json& value : a)
    if (std::find(b.begin(), b.end(), value) != b.end()) out.push_back(value);
  return out;
}

// A member that only one side names must also fulfil what the other says of members it does not name.
void merge_members(const Json& a, const Json& b, Json& out) {
  auto rest = [](const Json& s) { return s.contains("additionalProperties") ? s["additionalProperties"] : Json(true); };
  Json members = Json::object();
  const Json none = Json::object();
  const Json& of_a = a.contains("properties") ? a["properties"] : none;
  const Json& of_b = b.contains("properties") ? b["properties"] : none;
  for (auto& [name, schema] : of_a.items()) members[name] = all_of(schema, of_b.contains(name) ? of_b[name] : rest(b));
  for (auto& [name, schema] : of_b.items())
    if (!of_a.contains(name)) members[name] = all_of(schema, rest(a));
  if (!members.empty()) out["properties"] = members;
  if (a.contains("additionalProperties") || b.contains("additionalProperties")) {
    bool closed = rest(a) == Json(false) || rest(b) == Json(false);
    out["additionalProperties"] = closed ? Json(false) : all_of(rest(a), rest(b));
  }
}

void merge_required(const Json& a, const Json& b, Json& out) {
  if (!a.contains("required") && !b.contains("required")) return;
  Json required = a.contains("required") ? a["required"] : Json::array();
  if (b.contains("required"))
    for (const Json& name : b["required"])
      if (std::find(required.begin(), required.end(), name) == required.end()) required.push_back(name);
  out["required"] = required;
}

}  // namespace

Result<Json> merge_schemas(const Json& a, const Json& b, const std::string& path) {
  if (a == Json(false) || b == Json(false)) return Json(false);
  if (a == Json(true) || a.empty()) return b;
  if (b == Json(true) || b.empty()) return a;
  Json out = a;
  for (auto& [key, value] : b.items()) {
    if (!a.contains(key)) { out[key] = value; continue; }
    const Json& mine = a[key];
    if (mine == value) continue;
    if (key == "type") out[key] = common_types(mine, value);
    else if (key == "enum" && mine.is_array() && value.is_array()) out[key] = common_values(mine, value);
    else if (key == "const") return Json(false);
    else if (key == "minimum" || key == "exclusiveMinimum" || key == "minLength" || key == "minItems") out[key] = std::max(mine, value);
    else if (key == "maximum" || key == "exclusiveMaximum" || key == "maxLength" || key == "maxItems") out[key] = std::min(mine, value);
    else if (key == "items") out[key] = all_of(mine, value);
    else if (key == "properties" || key == "additionalProperties" || key == "required") continue;  // below
    else if (key == "title" || key == "description" || key == "default" || key == "examples" || key == "$comment" ||
             key == "$defs" || key == "definitions" || key == "$id" || key == "$schema") continue;
    else return unsupported(path + "/" + key + ": two different values that must both hold are not supported");
  }
  merge_members(a, b, out);
  merge_required(a, b, out);
  return out;
}

}  // namespace hearth::grammar
