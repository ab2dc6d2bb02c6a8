#include "grammar/schema_merge.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <unordered_set>

namespace hearth::grammar {
namespace {

Json all_of(const Json& a, const Json& b) {
  if (a == b || b == Json(true)) return a;
  if (a == Json(true)) return b;
  return Json{{"allOf", Json::array({a, b})}};
}

Json common_types(const Json& a, const Json& b) {
  Json out = Json::array();
  const std::set<std::string> of_b = types_of(b);
  auto in_b = [&](const std::string& t) { return of_b.contains(t); };
  for (const std::string& t : types_of(a)) {
    if (in_b(t)) out.push_back(t);
    else if (t == "integer" && in_b("number")) out.push_back("integer");
    else if (t == "number" && in_b("integer")) out.push_back("integer");
  }
  return out;
}

// Strings, which long lists are made of, by their hash: an ordering of JSON values takes ten times as long.
Json common_values(const Json& a, const Json& b) {
  std::unordered_set<std::string_view> strings;
  std::vector<Json> others;
  for (const Json& value : b) {
    if (value.is_string()) strings.insert(value.get_ref<const std::string&>());
    else others.push_back(value);
  }
  std::sort(others.begin(), others.end());
  auto in_b = [&](const Json& value) {
    if (value.is_string()) return strings.contains(value.get_ref<const std::string&>());
    return std::binary_search(others.begin(), others.end(), value);
  };
  Json out = Json::array();
  std::copy_if(a.begin(), a.end(), std::back_inserter(out), in_b);
  return out;
}

// A member that only one side names must also fulfil what the other says of members it does not name.
void merge_members(const Json& a, const Json& b, Json& out) {
  auto rest = [](const Json& s) { return s.contains("additionalProperties") ? s["additionalProperties"] : Json(true); };
  const Json rest_a = rest(a), rest_b = rest(b);
  const Members of_a = members_of(a), of_b = members_of(b);
  Json members = Json::object();
  if (!of_a.empty())
    for (auto& [name, schema] : a["properties"].items()) {
      auto other = of_b.find(name);
      append_member(members, name, all_of(schema, other == of_b.end() ? rest_b : *other->second));
    }
  if (!of_b.empty())
    for (auto& [name, schema] : b["properties"].items())
      if (!of_a.contains(name)) append_member(members, name, all_of(schema, rest_a));
  if (!members.empty()) out["properties"] = std::move(members);
  if (a.contains("additionalProperties") || b.contains("additionalProperties")) {
    bool closed = rest_a == Json(false) || rest_b == Json(false);
    out["additionalProperties"] = closed ? Json(false) : all_of(rest_a, rest_b);
  }
}

void merge_required(const Json& a, const Json& b, Json& out) {
  if (!a.contains("required") && !b.contains("required")) return;
  Json required = Json::array();
  std::unordered_set<std::string_view> seen;
  for (const Json* schema : {&a, &b})
    if (schema->contains("required"))
      for (const Json& name : (*schema)["required"])
        if (seen.insert(name.get_ref<const std::string&>()).second) required.push_back(name);
  out["required"] = std::move(required);
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
