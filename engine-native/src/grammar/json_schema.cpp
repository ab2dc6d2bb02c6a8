#include "grammar/json_schema.h"

#include <algorithm>
#include <map>
#include <set>

#include "grammar/numbers.h"
#include "grammar/regex.h"
#include "grammar/schema_merge.h"

namespace hearth::grammar {
namespace {

constexpr int nesting_max = 64;
constexpr int rules_max = 4096;
constexpr int count_max = 10000;  // of characters and items in bounds

const std::set<std::string> known_keywords = {
    "type", "enum", "const", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern", "format", "anyOf",
    "oneOf", "allOf", "$ref", "$defs", "definitions", "title", "description", "default", "examples", "$schema", "$id",
    "$comment", "deprecated", "readOnly", "writeOnly"};

const std::map<std::string, const char*> formats = {
    {"date", R"((?:\d{4})-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8])))"},
    {"time", R"((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d))"},
    {"date-time", R"((?:\d{4})-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d))"},
    {"duration", R"(P(?:\d{1,4}W|\d{1,4}D(?:T\d{1,4}H)?|T\d{1,4}(?:H(?:\d{1,4}M(?:\d{1,4}S)?)?|M(?:\d{1,4}S)?|S)))"},
    {"uuid", R"([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})"},
    {"email", R"([A-Za-z0-9_+-]{1,32}(?:\.[A-Za-z0-9_+-]{1,16}){0,3}@[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?){1,4})"},
    {"hostname", R"([A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?){0,4})"},
    {"ipv4", R"((?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d))"},
    {"ipv6", R"((?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4})"},
    {"uri", R"(https?://[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?){0,4}(?::[1-9]\d{0,3})?(?:/[A-Za-z0-9._~-]*)*(?:\?[A-Za-z0-9._~=&-]*)?(?:#[A-Za-z0-9._~-]*)?)"},
};

std::string escaped(std::string_view name) {
  std::string out;
  for (char c : name) {
    if (c == '~') out += "~0";
    else if (c == '/') out += "~1";
    else out += c;
  }
  return out;
}

// Bounded, since small models fall into writing blanks for ever where they are allowed to.
constexpr int indent_max = 16;

Expr ws() {
  ByteSet blank;
  blank.add(' ', ' '), blank.add('\t', '\t');
  static const Expr instance = optional(choice({literal(" "), sequence({literal("\n"), repeat(byte_set(blank), 0, indent_max)})}));
  return instance;
}

// One character inside a JSON string, in every way JSON can write it; surrogates only in pairs. As a graph with shared
// states, since bounds on the length copy it hundreds of times.
Expr string_character() {
  static const Expr instance = [] {
    enum { start, done, one, two, three, e0, ed, f0, f4, escape, hex4, hex3, hex2, hex1, after_d, high2, high1, low, low_u, low_d, low3, count };
    std::vector<GraphEdge> edges;
    auto add = [&](int from, int to, std::initializer_list<std::pair<int, int>> ranges) {
      ByteSet set;
      for (auto [first, last] : ranges) set.add(first, last);
      edges.push_back({from, to, byte_set(set)});
    };
    add(start, done, {{0x20, 0x21}, {0x23, 0x5b}, {0x5d, 0x7f}});
    add(start, one, {{0xc2, 0xdf}});
    add(start, e0, {{0xe0, 0xe0}}), add(start, two, {{0xe1, 0xec}, {0xee, 0xef}}), add(start, ed, {{0xed, 0xed}});
    add(start, f0, {{0xf0, 0xf0}}), add(start, three, {{0xf1, 0xf3}}), add(start, f4, {{0xf4, 0xf4}});
    add(one, done, {{0x80, 0xbf}}), add(two, one, {{0x80, 0xbf}}), add(three, two, {{0x80, 0xbf}});
    add(e0, one, {{0xa0, 0xbf}}), add(ed, one, {{0x80, 0x9f}}), add(f0, two, {{0x90, 0xbf}}), add(f4, two, {{0x80, 0x8f}});
    add(start, escape, {{'\\', '\\'}});
    add(escape, done, {{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', 'b'}, {'f', 'f'}, {'n', 'n'}, {'r', 'r'}, {'t', 't'}});
    add(escape, hex4, {{'u', 'u'}});
    add(hex4, hex3, {{'0', '9'}, {'a', 'c'}, {'A', 'C'}, {'e', 'f'}, {'E', 'F'}}), add(hex4, after_d, {{'d', 'd'}, {'D', 'D'}});
    const std::initializer_list<std::pair<int, int>> any = {{'0', '9'}, {'a', 'f'}, {'A', 'F'}};
    add(hex3, hex2, any), add(hex2, hex1, any), add(hex1, done, any);
    add(after_d, hex2, {{'0', '7'}}), add(after_d, high2, {{'8', '9'}, {'a', 'b'}, {'A', 'B'}});
    add(high2, high1, any), add(high1, low, any), add(low, low_u, {{'\\', '\\'}}), add(low_u, low_d, {{'u', 'u'}});
    add(low_d, low3, {{'d', 'd'}, {'D', 'D'}}), add(low3, hex2, {{'c', 'f'}, {'C', 'F'}});
    return graph(count, std::move(edges), {done});
  }();
  return instance;
}

class Compiler {
 public:
  Compiler(const Json& root, Rules& rules, std::string path) : root_(root), rules_(rules), root_path_(std::move(path)) {}

  Result<Expr> value(const Json& schema, const std::string& path, int depth) {
    if (depth > nesting_max) return invalid(path + ": schemas nest too deeply");
    if (schema == Json(true)) return any_value();
    if (schema == Json(false)) return nothing();
    if (!schema.is_object()) return invalid(path + ": a schema must be an object, true or false");
    HEARTH_TRY(check_keywords(schema, path));
    if (schema.contains("$ref") && only_annotations_beside(schema, "$ref")) return reference(schema["$ref"], path, depth);
    if (schema.contains("$ref") || schema.contains("allOf") || schema.contains("anyOf") || schema.contains("oneOf"))
      return combination(schema, path, depth);
    return plain(schema, path, depth);
  }

 private:
  static bool is_annotation(const std::string& key) {
    static const std::set<std::string> annotations = {"title", "description", "default", "examples", "$schema", "$id", "$comment",
                                                      "deprecated", "readOnly", "writeOnly", "$defs", "definitions"};
    return annotations.contains(key);
  }
  static bool only_annotations_beside(const Json& schema, const std::string& main) {
    for (auto& [key, value] : schema.items())
      if (key != main && !is_annotation(key)) return false;
    return true;
  }
  static Status check_keywords(const Json& schema, const std::string& path) {
    for (auto& [key, value] : schema.items())
      if (!known_keywords.contains(key)) return unsupported(path + "/" + escaped(key) + ": this keyword is not supported");
    return Status::ok();
  }

  // ---- References and combinations ----

  Result<const Json*> resolve(const Json& ref, const std::string& path) {
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
  static std::string unescaped(const std::string& text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '~' && i + 1 < text.size()) out += text[++i] == '1' ? '/' : '~';
      else if (text[i] == '%' && i + 2 < text.size()) out += static_cast<char>(std::stoi("0" + text.substr(i + 1, 2), nullptr, 16)), i += 2;
      else out += text[i];
    }
    return out;
  }

  // Each target is one rule, so recursion is a rule that calls itself.
  Result<Expr> reference(const Json& ref, const std::string& path, int depth) {
    HEARTH_ASSIGN(const Json* target, resolve(ref, path));
    auto [at, fresh] = targets_.try_emplace(target, -1);
    if (!fresh) return call(at->second);
    if (targets_.size() > static_cast<size_t>(rules_max)) return invalid(path + ": too many references");
    int rule = at->second = rules_.add();
    HEARTH_ASSIGN(Expr body, value(*target, root_path_ + ref.get<std::string>().substr(1), depth + 1));
    rules_.define(rule, body);
    return call(rule);
  }

  // $ref with neighbours, allOf, and keywords beside anyOf or oneOf: spread out into alternatives of plain schemas.
  Result<Expr> combination(const Json& schema, const std::string& path, int depth) {
    HEARTH_ASSIGN(std::vector<Json> alternatives, spread(schema, path, depth));
    std::vector<Expr> parts;
    for (size_t i = 0; i < alternatives.size(); ++i) {
      HEARTH_ASSIGN(Expr part, value(alternatives[i], path, depth + 1));
      parts.push_back(part);
    }
    Expr all = choice(std::move(parts));
    if (all->kind == Expression::Kind::nothing) return invalid(path + ": nothing fulfils this schema");
    return all;
  }

  // The schema as a list of schemas of which one must hold, none of them with combinations at its top but single $refs.
  Result<std::vector<Json>> spread(const Json& schema, const std::string& path, int depth) {
    if (depth > nesting_max) return invalid(path + ": schemas refer to each other without end");
    if (!schema.is_object()) return std::vector<Json>{schema};
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
  Result<std::vector<Json>> spread_choices(const Json& list, const std::string& key, const std::string& path, int depth, bool alone) {
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
  static Status require_list(const Json& list, const std::string& path) {
    return list.is_array() && !list.empty() ? Status::ok() : invalid(path + ": must be a list of schemas that is not empty");
  }
  static Status cross(std::vector<Json>& out, const std::vector<Json>& more, const std::string& path) {
    std::vector<Json> joined;
    for (const Json& a : out)
      for (const Json& b : more) {
        bool reference = b.is_object() && b.contains("$ref");
        if (reference && !a.empty()) {
          bool bare = std::all_of(a.items().begin(), a.items().end(), [](const auto& item) { return is_annotation(item.key()); });
          if (!bare) return unsupported(path + ": a reference beside other keywords here is not supported");
        }
        if (reference) { joined.push_back(b); continue; }
        HEARTH_ASSIGN(Json both, merge_schemas(a, b, path));
        if (both != Json(false)) joined.push_back(both);
      }
    if (joined.size() > 256) return invalid(path + ": too many combinations");
    out = std::move(joined);
    return Status::ok();
  }

  // ---- oneOf ----

  Status check_exclusive(const Json& list, const std::string& path, int depth) {
    std::vector<std::vector<Json>> groups;
    for (size_t i = 0; i < list.size(); ++i) {
      HEARTH_ASSIGN(std::vector<Json> group, spread(list[i], path + "/" + std::to_string(i), depth + 1));
      for (size_t k = 0; k < groups.size(); ++k)
        for (const Json& a : groups[k])
          for (const Json& b : group)
            if (!exclude_each_other(a, b, 0))
              return unsupported(path + "/" + std::to_string(i) + ": alternatives of oneOf must exclude each other by type or by a constant member; use anyOf");
      groups.push_back(std::move(group));
    }
    return Status::ok();
  }
  static std::vector<std::string> types(const Json& schema) {
    std::vector<std::string> out;
    if (schema.contains("type")) {
      if (schema["type"].is_string()) out.push_back(schema["type"]);
      else for (const Json& t : schema["type"]) if (t.is_string()) out.push_back(t);
      return out;
    }
    for (const Json& v : values(schema)) {
      std::string t = type_of(v);
      if (std::find(out.begin(), out.end(), t) == out.end()) out.push_back(t);
    }
    if (out.empty() && has_object_keys(schema)) out.push_back("object");
    return out;
  }
  static Json values(const Json& schema) {
    if (schema.contains("const")) return Json::array({schema["const"]});
    return schema.contains("enum") && schema["enum"].is_array() ? schema["enum"] : Json::array();
  }
  static std::string type_of(const Json& v) {
    return v.is_null() ? "null" : v.is_boolean() ? "boolean" : v.is_number_integer() ? "integer" : v.is_number() ? "number"
           : v.is_string() ? "string" : v.is_array() ? "array" : "object";
  }
  static bool exclude_each_other(const Json& a, const Json& b, int depth) {
    if (!a.is_object() || !b.is_object() || depth > 8) return false;
    std::vector<std::string> ta = types(a), tb = types(b);
    if (!ta.empty() && !tb.empty()) {
      bool shared = false;
      auto number = [](const std::string& t) { return t == "integer" ? std::string("number") : t; };
      for (const std::string& x : ta)
        for (const std::string& y : tb) shared |= number(x) == number(y);
      if (!shared) return true;
    }
    Json va = values(a), vb = values(b);
    if (!va.empty() && !vb.empty()) {
      bool shared = false;
      for (const Json& v : va) shared |= std::find(vb.begin(), vb.end(), v) != vb.end();
      return !shared;
    }
    if (!a.contains("properties") || !b.contains("properties")) return false;
    for (auto& [name, schema] : a["properties"].items())
      if (requires_member(a, name) && requires_member(b, name) && b["properties"].contains(name) &&
          exclude_each_other(schema, b["properties"][name], depth + 1))
        return true;
    return false;
  }
  static bool requires_member(const Json& schema, const std::string& name) {
    return schema.contains("required") && std::find(schema["required"].begin(), schema["required"].end(), Json(name)) != schema["required"].end();
  }

  // ---- Plain schemas ----

  static bool has_object_keys(const Json& s) { return s.contains("properties") || s.contains("required") || s.contains("additionalProperties"); }

  Result<Expr> plain(const Json& s, const std::string& path, int depth) {
    if (s.contains("const") || s.contains("enum")) return enumeration(s, path);
    std::vector<std::string> wanted;
    if (s.contains("type")) {
      const Json& type = s["type"];
      if (!type.is_string() && !type.is_array()) return invalid(path + "/type: must be a string or a list of strings");
      for (const Json& t : type.is_array() ? type : Json::array({type})) {
        if (!t.is_string()) return invalid(path + "/type: must be a string or a list of strings");
        wanted.push_back(t);
      }
      if (wanted.empty()) return invalid(path + "/type: nothing fulfils this schema");
    } else {
      wanted = implied_types(s);
    }
    if (wanted.empty()) return any_value();
    std::vector<Expr> parts;
    for (const std::string& type : wanted) {
      HEARTH_ASSIGN(Expr part, of_type(type, s, path, depth));
      parts.push_back(part);
    }
    return choice(std::move(parts));
  }

  static std::vector<std::string> implied_types(const Json& s) {
    if (has_object_keys(s)) return {"object"};
    if (s.contains("items") || s.contains("prefixItems") || s.contains("minItems") || s.contains("maxItems")) return {"array"};
    if (s.contains("pattern") || s.contains("format") || s.contains("minLength") || s.contains("maxLength")) return {"string"};
    if (s.contains("minimum") || s.contains("maximum") || s.contains("exclusiveMinimum") || s.contains("exclusiveMaximum")) return {"number"};
    return {};
  }

  Result<Expr> of_type(const std::string& type, const Json& s, const std::string& path, int depth) {
    if (type == "null") return literal("null");
    if (type == "boolean") return choice({literal("true"), literal("false")});
    if (type == "integer" || type == "number") return number(s, type == "integer", path);
    if (type == "string") return string(s, path);
    if (type == "array") return array(s, path, depth);
    if (type == "object") return object(s, path, depth);
    return invalid(path + "/type: \"" + type.substr(0, 40) + "\" is no JSON type");
  }

  // Only values that also have the type; other keywords beside enum are refused rather than ignored.
  Result<Expr> enumeration(const Json& s, const std::string& path) {
    for (auto& [key, value] : s.items())
      if (key != "enum" && key != "const" && key != "type" && !is_annotation(key))
        return unsupported(path + "/" + escaped(key) + ": not supported beside enum or const");
    if (s.contains("enum") && (!s["enum"].is_array() || s["enum"].empty())) return invalid(path + "/enum: must be a list that is not empty");
    std::vector<Expr> parts;
    for (const Json& v : s.contains("const") ? Json::array({s["const"]}) : s["enum"]) {
      if (s.contains("const") && s.contains("enum") && std::find(s["enum"].begin(), s["enum"].end(), v) == s["enum"].end()) continue;
      if (s.contains("type") && !fits_type(v, s["type"])) continue;
      parts.push_back(literal(v.dump(-1, ' ', false, Json::error_handler_t::replace)));
    }
    if (parts.empty()) return invalid(path + ": no value of the list fulfils the schema");
    return choice(std::move(parts));
  }
  static bool fits_type(const Json& v, const Json& type) {
    std::string own = type_of(v);
    for (const Json& t : type.is_array() ? type : Json::array({type}))
      if (t == own || (t == "number" && own == "integer")) return true;
    return false;
  }

  Result<Expr> number(const Json& s, bool integer, const std::string& path) {
    std::optional<NumberBound> low, high;
    HEARTH_TRY(bound(s, "minimum", "exclusiveMinimum", path, true, low));
    HEARTH_TRY(bound(s, "maximum", "exclusiveMaximum", path, false, high));
    if (!low && !high) return call(shared(integer ? any_integer_ : any_number_, [&] { return integer ? any_integer() : any_number(); }));
    auto made = bounded_number(low, high, integer);
    if (!made) return made.status().with(path);
    return made;
  }
  static Status bound(const Json& s, const char* inclusive, const char* exclusive, const std::string& path, bool low, std::optional<NumberBound>& out) {
    for (const char* key : {inclusive, exclusive}) {
      if (!s.contains(key)) continue;
      if (!s[key].is_number()) return invalid(path + "/" + key + ": must be a number");
      NumberBound next{s[key].dump(), key == exclusive};
      double now = s[key].get<double>(), before = out ? std::strtod(out->text.c_str(), nullptr) : now;
      if (!out || (low ? now > before : now < before) || (now == before && next.exclusive)) out = next;
    }
    return Status::ok();
  }

  static Status count(const Json& s, const char* key, const std::string& path, int& out) {
    if (!s.contains(key)) return Status::ok();
    const Json& v = s[key];
    double n = v.is_number() ? v.get<double>() : -1;
    if (n < 0 || n != static_cast<double>(static_cast<int64_t>(n))) return invalid(path + "/" + key + ": must be a whole number that is not negative");
    if (n > count_max) return unsupported(path + "/" + key + ": more than " + std::to_string(count_max) + " is not supported");
    out = static_cast<int>(n);
    return Status::ok();
  }

  Result<Expr> string(const Json& s, const std::string& path) {
    int least = 0, most = -1;
    HEARTH_TRY(count(s, "minLength", path, least));
    HEARTH_TRY(count(s, "maxLength", path, most));
    if (most >= 0 && least > most) return invalid(path + ": minLength is more than maxLength");
    if (s.contains("pattern") && s.contains("format")) return unsupported(path + "/format: not supported beside pattern");
    for (const char* key : {"pattern", "format"}) {
      if (!s.contains(key)) continue;
      if (!s[key].is_string()) return invalid(path + "/" + key + ": must be a string");
      bool is_format = key == std::string_view("format");
      std::string pattern = s[key];
      if (is_format) {
        auto known = formats.find(pattern);
        if (known == formats.end()) return unsupported(path + "/format: \"" + pattern.substr(0, 40) + "\" is not supported");
        pattern = known->second;
      }
      auto body = compile_regex(pattern, TextForm::json_string, is_format, least, most);
      if (!body) return body.status().with(path + "/" + key);
      return quoted(*body);
    }
    if (least == 0 && most < 0) return call(shared(any_string_, [&] { return quoted(repeat(string_character(), 0, -1)); }));
    return quoted(repeat(string_character(), least, most));
  }
  // A rule of its own, so that all strings of one kind share their masks.
  Expr quoted(Expr body) {
    int rule = rules_.add();
    rules_.define(rule, sequence({literal("\""), std::move(body), literal("\"")}));
    return call(rule);
  }

  template <class Make>
  int shared(int& rule, Make make) {
    if (rule >= 0) return rule;
    rule = rules_.add();
    rules_.define(rule, make());
    return rule;
  }

  Result<Expr> array(const Json& s, const std::string& path, int depth) {
    int least = 0, most = -1;
    HEARTH_TRY(count(s, "minItems", path, least));
    HEARTH_TRY(count(s, "maxItems", path, most));
    if (most >= 0 && least > most) return invalid(path + ": minItems is more than maxItems");
    std::vector<Expr> first;
    if (s.contains("prefixItems")) {
      if (!s["prefixItems"].is_array()) return invalid(path + "/prefixItems: must be a list of schemas");
      for (size_t i = 0; i < s["prefixItems"].size() && (most < 0 || static_cast<int>(i) < most); ++i) {
        HEARTH_ASSIGN(Expr item, item_rule(s["prefixItems"][i], path + "/prefixItems/" + std::to_string(i), depth));
        first.push_back(item);
      }
    }
    bool closed = s.contains("items") && s["items"] == Json(false);
    int fixed = static_cast<int>(first.size());
    if (closed && least > fixed) return invalid(path + ": minItems is more than the items allowed");
    if (closed && (most < 0 || most > fixed)) most = fixed;
    Expr more = nothing();
    if (most < 0 || most > fixed) {
      HEARTH_ASSIGN(more, item_rule(s.contains("items") ? s["items"] : Json(true), path + "/items", depth));
    }
    return list(first, more, least, most);
  }
  Result<Expr> item_rule(const Json& schema, const std::string& path, int depth) {
    HEARTH_ASSIGN(Expr body, value(schema, path, depth + 1));
    if (body->kind == Expression::Kind::call || body->kind == Expression::Kind::nothing) return body;
    int rule = rules_.add();
    rules_.define(rule, body);
    return call(rule);
  }
  // State i: i items stand there; the last state loops when there is no most.
  static Expr list(const std::vector<Expr>& first, const Expr& more, int least, int most) {
    int fixed = static_cast<int>(first.size()), states = most >= 0 ? most + 1 : std::max(least, fixed) + 2;
    Expr comma = sequence({literal(","), ws()});
    std::vector<GraphEdge> edges;
    std::vector<int> accepting;
    for (int i = 0; i < states; ++i) {
      if (i >= least) accepting.push_back(i);
      int to = i + 1 < states ? i + 1 : most < 0 ? i : -1;
      const Expr& item = i < fixed ? first[i] : more;
      if (to >= 0 && item->kind != Expression::Kind::nothing) edges.push_back({i, to, i == 0 ? item : sequence({comma, item})});
    }
    return sequence({literal("["), ws(), graph(states, std::move(edges), std::move(accepting)), ws(), literal("]")});
  }

  Result<Expr> object(const Json& s, const std::string& path, int depth) {
    static const Json none = Json::object();
    const Json& members = s.contains("properties") ? s["properties"] : none;
    if (!members.is_object()) return invalid(path + "/properties: must be an object");
    std::set<std::string> required;
    if (s.contains("required")) {
      if (!s["required"].is_array()) return invalid(path + "/required: must be a list of names");
      for (const Json& name : s["required"]) {
        if (!name.is_string()) return invalid(path + "/required: must be a list of names");
        required.insert(name.get<std::string>());
      }
    }
    Json rest = s.contains("additionalProperties") ? s["additionalProperties"] : Json(true);
    std::vector<std::pair<Expr, bool>> pairs;  // member, must it come
    std::vector<std::string> names;
    for (auto& [name, schema] : members.items()) {
      names.push_back(name);
      HEARTH_ASSIGN(Expr inner, value(schema, path + "/properties/" + escaped(name), depth + 1));
      bool must = required.erase(name) > 0;
      if (inner->kind == Expression::Kind::nothing) {
        if (must) return invalid(path + "/properties/" + escaped(name) + ": required, but nothing fulfils it");
        continue;
      }
      pairs.emplace_back(member(name, inner), must);
    }
    for (const std::string& name : required) {  // required without a schema of its own
      HEARTH_ASSIGN(Expr inner, value(rest, path + "/additionalProperties", depth + 1));
      if (inner->kind == Expression::Kind::nothing) return invalid(path + "/required: \"" + name.substr(0, 60) + "\" is not allowed by additionalProperties");
      names.push_back(name);
      pairs.emplace_back(member(name, inner), true);
    }
    Expr other = nothing();
    if (rest != Json(false)) {
      HEARTH_ASSIGN(Expr inner, value(rest, path + "/additionalProperties", depth + 1));
      if (inner->kind != Expression::Kind::nothing) other = rule_of(sequence({other_name(names), literal(":"), ws(), inner}));
    }
    return members_in_order(pairs, other);
  }
  Expr rule_of(Expr body) {
    int rule = rules_.add();
    rules_.define(rule, std::move(body));
    return call(rule);
  }
  Expr member(const std::string& name, Expr value) {
    return rule_of(sequence({literal(Json(name).dump(-1, ' ', false, Json::error_handler_t::replace)), literal(":"), ws(), std::move(value)}));
  }
  // States 0..n: nothing written yet, before member i; n+1..2n+1: something was written.
  static Expr members_in_order(const std::vector<std::pair<Expr, bool>>& pairs, const Expr& other) {
    int n = static_cast<int>(pairs.size());
    Expr comma = sequence({literal(","), ws()});
    std::vector<GraphEdge> edges;
    for (int i = 0; i < n; ++i) {
      const auto& [pair, must] = pairs[i];
      edges.push_back({i, n + 2 + i, pair});
      edges.push_back({n + 1 + i, n + 2 + i, sequence({comma, pair})});
      if (!must) edges.push_back({i, i + 1, literal("")}), edges.push_back({n + 1 + i, n + 2 + i, literal("")});
    }
    if (other->kind != Expression::Kind::nothing) {
      edges.push_back({n, 2 * n + 1, other});
      edges.push_back({2 * n + 1, 2 * n + 1, sequence({comma, other})});
    }
    return sequence({literal("{"), ws(), graph(2 * n + 2, std::move(edges), {n, 2 * n + 1}), ws(), literal("}")});
  }

  // A name that is none of `names`: a walk over their trie in which leaving it is always allowed, ending on a name is not.
  Expr other_name(const std::vector<std::string>& names) {
    Expr any = utf8_characters(complement(normalized({{0, 0x1f}, {'"', '"'}, {'\\', '\\'}})));
    if (names.empty()) return sequence({literal("\""), repeat(any, 0, -1), literal("\"")});
    std::map<std::string, int> nodes = {{"", 0}};  // prefix, in characters
    std::map<int, CodeRanges> used;
    std::set<int> ends;
    std::vector<GraphEdge> edges;
    for (const std::string& name : names) {
      std::string prefix;
      int at = 0;
      bool plain = true;
      for (size_t i = 0; i < name.size();) {
        uint8_t lead = static_cast<uint8_t>(name[i]);
        size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
        std::string character = name.substr(i, length);
        if (lead < 0x20 || lead == '"' || lead == '\\') { plain = false; break; }  // never a plain name
        prefix += character;
        auto [found, fresh] = nodes.try_emplace(prefix, static_cast<int>(nodes.size()));
        if (fresh) {
          edges.push_back({at, found->second, literal(character)});
          uint32_t code = lead < 0x80 ? lead : lead < 0xe0 ? lead & 31 : lead < 0xf0 ? lead & 15 : lead & 7;
          for (size_t k = 1; k < character.size(); ++k) code = code << 6 | (static_cast<uint8_t>(character[k]) & 63);
          used[at].push_back({code, code});
        }
        at = found->second;
        i += length;
      }
      if (plain) ends.insert(at);
    }
    int free_state = static_cast<int>(nodes.size());
    std::vector<int> accepting = {free_state};
    for (auto& [prefix, node] : nodes) {
      CodeRanges out = used[node];
      out.insert(out.end(), {{0, 0x1f}, {'"', '"'}, {'\\', '\\'}});
      edges.push_back({node, free_state, utf8_characters(complement(normalized(out)))});
      if (!ends.contains(node)) accepting.push_back(node);
    }
    edges.push_back({free_state, free_state, any});
    return sequence({literal("\""), graph(free_state + 1, std::move(edges), std::move(accepting)), literal("\"")});
  }

  Expr any_value() {
    if (any_value_ >= 0) return call(any_value_);
    any_value_ = rules_.add();
    Expr self = call(any_value_);
    int text = shared(any_string_, [&] { return quoted(repeat(string_character(), 0, -1)); });
    int numeric = shared(any_number_, [] { return any_number(); });
    Expr pair = rule_of(sequence({call(text), literal(":"), ws(), self}));
    rules_.define(any_value_, choice({call(text), call(numeric), literal("true"), literal("false"), literal("null"),
                                      list({}, self, 0, -1), members_in_order({}, pair)}));
    return self;
  }

  const Json& root_;
  Rules& rules_;
  std::string root_path_;
  std::map<const Json*, int> targets_;
  int any_value_ = -1, any_string_ = -1, any_number_ = -1, any_integer_ = -1;
};

}  // namespace

Result<Expr> compile_schema(const Json& schema, Rules& rules, const std::string& path) {
  Compiler compiler(schema, rules, path);
  HEARTH_ASSIGN(Expr body, compiler.value(schema, path, 0));
  if (body->kind == Expression::Kind::nothing) return invalid(path + ": nothing fulfils this schema");
  return body;
}

}  // namespace hearth::grammar
