#include "grammar/schema_spread.h"

#include <algorithm>

#include "grammar/schema_merge.h"

namespace hearth::grammar {
namespace {

constexpr size_t alternatives_max = 256;  // that a schema may be spread out into

std::string unescaped(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '~' && i + 1 < text.size()) out += text[++i] == '1' ? '/' : '~';
    else if (text[i] == '%' && i + 2 < text.size()) out += static_cast<char>(std::stoi("0" + text.substr(i + 1, 2), nullptr, 16)), i += 2;
    else out += text[i];
  }
  return out;
}

Status require_list(const Json& list, const std::string& path) {
  return list.is_array() && !list.empty() ? Status::ok() : invalid(path + ": must be a list of schemas that is not empty");
}

int64_t values_in(const Json& json) {
  if (!json.is_structured()) return 1;
  int64_t count = 1;
  for (const Json& one : json) count += values_in(one);
  return count;
}

}  // namespace

Status SchemaSpreader::spend(const Json& a, const Json& b, const std::string& path) {
  constexpr int64_t overhead = 16;  // of a copy or a comparison, in values
  return rules_.spend(values_in(a) + values_in(b) + overhead) ? Status::ok() : invalid(path + ": too many combinations");
}

// Of each of `out` and each of `more`, what fulfils both.
Status SchemaSpreader::cross(std::vector<Json>& out, const std::vector<Json>& more, const std::string& path) {
  std::vector<Json> joined;
  for (const Json& a : out)
    for (const Json& b : more) {
      bool reference = b.is_object() && b.contains("$ref");
      if (reference && !a.empty()) {
        bool bare = std::all_of(a.items().begin(), a.items().end(), [](const auto& item) { return is_annotation(item.key()); });
        if (!bare) return unsupported(path + ": a reference beside other keywords here is not supported");
      }
      HEARTH_TRY(spend(a, b, path));
      HEARTH_ASSIGN(Json both, reference ? b : merge_schemas(a, b, path));
      if (both != Json(false)) joined.push_back(std::move(both));
      if (joined.size() > alternatives_max) return invalid(path + ": too many combinations");
    }
  out = std::move(joined);
  return Status::ok();
}

Result<const Json*> SchemaSpreader::resolve(const Json& ref, const std::string& path) const {
  if (!ref.is_string()) return invalid(path + "/$ref: must be a string");
  std::string text = ref.get<std::string>();
  if (text == "#") return &root_;
  if (!text.starts_with("#/")) return unsupported(path + "/$ref: only references into this schema (#/...) are supported");
  const Json* at = &root_;
  for (size_t begin = 2; begin <= text.size();) {
    size_t end = std::min(text.find('/', begin), text.size());
    std::string key = unescaped(text.substr(begin, end - begin));
    if (at->is_object() && at->contains(key)) at = &(*at)[key];
    else if (at->is_array() && !key.empty() && key.size() < 6 && std::all_of(key.begin(), key.end(), ::isdigit) && std::stoul(key) < at->size())
      at = &(*at)[std::stoul(key)];
    else return invalid(path + "/$ref: nothing is at " + text.substr(0, 100));
    begin = end + 1;
  }
  return at;
}

Result<std::vector<Json>> SchemaSpreader::spread(const Json& schema, const std::string& path, int depth) {
  if (depth > schema_nesting_max) return invalid(path + ": schemas refer to each other without end");
  HEARTH_TRY(spend(schema, Json(), path));
  if (schema.is_boolean()) return std::vector<Json>{schema};
  if (!schema.is_object()) return invalid(path + ": a schema must be an object, true or false");
  HEARTH_TRY(check_keywords(schema, path));
  Json base = Json::object();
  for (auto& [key, value] : schema.items())
    if (key != "$ref" && key != "allOf" && key != "anyOf" && key != "oneOf") base[key] = value;
  std::vector<Json> out = {base};
  if (schema.contains("$ref")) {
    HEARTH_ASSIGN(const Json* target, resolve(schema["$ref"], path));
    HEARTH_ASSIGN(std::vector<Json> more, spread(*target, path + "/$ref", depth + 1));
    HEARTH_TRY(cross(out, more, path));
  }
  if (schema.contains("allOf")) {
    HEARTH_TRY(require_list(schema["allOf"], path + "/allOf"));
    for (size_t i = 0; i < schema["allOf"].size(); ++i) {
      HEARTH_ASSIGN(std::vector<Json> more, spread(schema["allOf"][i], path + "/allOf/" + std::to_string(i), depth + 1));
      HEARTH_TRY(cross(out, more, path));
    }
  }
  for (const char* key : {"anyOf", "oneOf"}) {
    if (!schema.contains(key)) continue;
    HEARTH_ASSIGN(std::vector<Json> more, spread_choices(schema[key], key, path + "/" + key, depth, only_annotations_beside(schema, key)));
    HEARTH_TRY(cross(out, more, path));
  }
  return out;
}

// A choice that stands alone keeps references as they are, so that recursion through it stays a rule.
Result<std::vector<Json>> SchemaSpreader::spread_choices(const Json& list, const std::string& key, const std::string& path, int depth, bool alone) {
  HEARTH_TRY(require_list(list, path));
  std::vector<Json> out;
  for (size_t i = 0; i < list.size(); ++i) {
    const Json& one = list[i];
    bool keep = alone && one.is_object() && one.contains("$ref") && only_annotations_beside(one, "$ref");
    if (keep) {
      out.push_back(one);
      continue;
    }
    HEARTH_ASSIGN(std::vector<Json> more, spread(one, path + "/" + std::to_string(i), depth + 1));
    out.insert(out.end(), more.begin(), more.end());
  }
  if (key == "oneOf") HEARTH_TRY(check_exclusive(list, path, depth));
  return out;
}

Status SchemaSpreader::check_exclusive(const Json& list, const std::string& path, int depth) {
  std::vector<std::vector<Json>> groups;
  for (size_t i = 0; i < list.size(); ++i) {
    HEARTH_ASSIGN(std::vector<Json> group, spread(list[i], path + "/" + std::to_string(i), depth + 1));
    for (size_t k = 0; k < groups.size(); ++k)
      for (const Json& a : groups[k])
        for (const Json& b : group) {
          HEARTH_TRY(spend(a, b, path));
          if (!exclude_each_other(a, b))
            return unsupported(path + "/" + std::to_string(i) + ": alternatives of oneOf must exclude each other by type or by a constant member; use anyOf");
        }
    groups.push_back(std::move(group));
  }
  return Status::ok();
}

}  // namespace hearth::grammar
