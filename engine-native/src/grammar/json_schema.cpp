#include "grammar/json_schema.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "grammar/json_text.h"
#include "grammar/numbers.h"
#include "grammar/regex.h"
#include "grammar/schema_facts.h"
#include "grammar/schema_spread.h"

namespace hearth::grammar {
namespace {

constexpr int references_max = 4096;
constexpr int count_max = 10000;  // of characters and items in bounds

const std::string date = R"((?:\d{4})-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8])))";
const std::string time_of_day = R"((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d))";
const std::string host_label = R"([A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?)";
const std::string hostname = host_label + R"((?:\.)" + host_label + "){0,4}";

const std::map<std::string, std::string> formats = {
    {"date", date},
    {"time", time_of_day},
    {"date-time", date + "T" + time_of_day},
    {"duration", R"(P(?:\d{1,4}W|\d{1,4}D(?:T\d{1,4}H)?|T\d{1,4}(?:H(?:\d{1,4}M(?:\d{1,4}S)?)?|M(?:\d{1,4}S)?|S)))"},
    {"uuid", R"([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})"},
    {"email", R"([A-Za-z0-9_+-]{1,32}(?:\.[A-Za-z0-9_+-]{1,16}){0,3}@)" + host_label + R"((?:\.)" + host_label + "){1,4}"},
    {"hostname", hostname},
    {"ipv4", R"((?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d))"},
    {"ipv6", R"((?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4})"},
    {"uri", "https?://" + hostname + R"((?::[1-9]\d{0,3})?(?:/[A-Za-z0-9._~-]*)*(?:\?[A-Za-z0-9._~=&-]*)?(?:#[A-Za-z0-9._~-]*)?)"},
};

// Names that zod writes beside a pattern which says all there is to them.
const std::set<std::string> spelt_out_by_pattern = {
    "cidrv4", "cidrv6", "cuid", "cuid2", "e164", "ends_with", "hex", "includes", "ksuid", "lowercase", "mac", "nanoid",
    "starts_with", "ulid", "uppercase", "xid"};

class Compiler {
 public:
  Compiler(const Json& root, Rules& rules, std::string path) : spreader_(root, rules), rules_(rules), root_path_(std::move(path)) {}

  Result<Expr> value(const Json& schema, const std::string& path, int depth) {
    if (depth > schema_nesting_max) return invalid(path + ": schemas nest too deeply");
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
  // Each target is one rule, so recursion is a rule that calls itself.
  Result<Expr> reference(const Json& ref, const std::string& path, int depth) {
    HEARTH_ASSIGN(const Json* target, spreader_.resolve(ref, path));
    auto [at, fresh] = targets_.try_emplace(target, -1);
    if (!fresh) return call(at->second);
    if (targets_.size() > static_cast<size_t>(references_max)) return invalid(path + ": too many references");
    int rule = at->second = rules_.add();
    HEARTH_ASSIGN(Expr body, value(*target, root_path_ + ref.get<std::string>().substr(1), depth + 1));
    rules_.define(rule, body);
    return call(rule);
  }

  // $ref with neighbours, allOf, and keywords beside anyOf or oneOf: spread out into alternatives of plain schemas.
  Result<Expr> combination(const Json& schema, const std::string& path, int depth) {
    HEARTH_ASSIGN(std::vector<Json> alternatives, spreader_.spread(schema, path, depth));
    std::vector<Expr> parts;
    for (size_t i = 0; i < alternatives.size(); ++i) {
      HEARTH_ASSIGN(Expr part, value(alternatives[i], path, depth + 1));
      parts.push_back(part);
    }
    Expr all = choice(std::move(parts));
    if (all->kind == Expression::Kind::nothing) return invalid(path + ": nothing fulfils this schema");
    return all;
  }

  Result<Expr> plain(const Json& s, const std::string& path, int depth) {
    HEARTH_ASSIGN(Expr made, s.contains("const") || s.contains("enum") ? enumeration(s, path) : of_types(s, path, depth));
    if (!rules_.take_states(made->states)) return invalid(path + ": the schema is too large");
    return made;
  }

  Result<Expr> of_types(const Json& s, const std::string& path, int depth) {
    std::vector<std::string> wanted;
    if (s.contains("type")) {
      std::set<std::string> seen;
      for (const Json& t : s["type"])  // of a string: itself
        if (seen.insert(t.get<std::string>()).second) wanted.push_back(t);
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
    const std::set<std::string> types = s.contains("type") ? types_of(s["type"]) : std::set<std::string>();
    std::vector<Expr> parts;
    for (const Json& v : s.contains("const") ? Json::array({s["const"]}) : s["enum"]) {
      if (s.contains("const") && s.contains("enum") && std::find(s["enum"].begin(), s["enum"].end(), v) == s["enum"].end()) continue;
      if (s.contains("type") && !fits_type(v, types)) continue;
      parts.push_back(literal(v.dump(-1, ' ', false, Json::error_handler_t::replace)));
    }
    if (parts.empty()) return invalid(path + ": no value of the list fulfils the schema");
    return choice(std::move(parts));
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
    if (n < 0 || n != std::trunc(n)) return invalid(path + "/" + key + ": must be a whole number that is not negative");
    if (n > count_max) return unsupported(path + "/" + key + ": more than " + std::to_string(count_max) + " is not supported");
    out = static_cast<int>(n);
    return Status::ok();
  }

  Result<Expr> string(const Json& s, const std::string& path) {
    int least = 0, most = -1;
    HEARTH_TRY(count(s, "minLength", path, least));
    HEARTH_TRY(count(s, "maxLength", path, most));
    if (most >= 0 && least > most) return invalid(path + ": minLength is more than maxLength");
    std::vector<Pattern> patterns;
    for (const char* key : {"pattern", "format"}) {
      if (!s.contains(key)) continue;
      if (!s[key].is_string()) return invalid(path + "/" + key + ": must be a string");
      bool is_format = key == std::string_view("format");
      std::string text = s[key];
      if (is_format && s.contains("pattern") && spelt_out_by_pattern.contains(text)) continue;
      if (is_format) {
        auto known = formats.find(text);
        if (known == formats.end()) return unsupported(path + "/format: \"" + text.substr(0, 40) + "\" is not supported");
        text = known->second;
      }
      patterns.push_back({text, is_format});
    }
    Expr& made = strings_[{least, most, patterns.empty() ? "" : patterns[0].text, patterns.size() < 2 ? "" : patterns[1].text, s.contains("pattern")}];
    if (made) return made;
    if (patterns.empty()) return made = quoted(repeat(string_character(), least, most));
    auto body = compile_regex(patterns, TextForm::json_string, rules_, least, most);
    if (!body) return body.status().with(path + (s.contains("pattern") ? "/pattern" : "/format"));
    return made = (*body)->kind == Expression::Kind::nothing ? nothing() : quoted(*body);
  }
  // A rule of its own, so that all strings of one kind share their masks.
  Expr quoted(Expr body) {
    take_states(body);
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
    return array_of(first, more, least, most);
  }
  Result<Expr> item_rule(const Json& schema, const std::string& path, int depth) {
    HEARTH_ASSIGN(Expr body, value(schema, path, depth + 1));
    if (body->kind == Expression::Kind::call || body->kind == Expression::Kind::nothing) return body;
    int rule = rules_.add();
    rules_.define(rule, body);
    return call(rule);
  }
  Result<Expr> object(const Json& s, const std::string& path, int depth) {
    static const Json none = Json::object();
    const Json& members = s.contains("properties") ? s["properties"] : none;
    std::set<std::string> required;
    if (s.contains("required"))
      for (const Json& name : s["required"]) required.insert(name.get<std::string>());
    const Json rest = s.contains("additionalProperties") ? s["additionalProperties"] : Json(true);
    Expr other_value = nothing();  // one rule for all members without a schema of their own
    if (rest != Json(false)) {
      HEARTH_ASSIGN(other_value, item_rule(rest, path + "/additionalProperties", depth));
    }
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
      if (other_value->kind == Expression::Kind::nothing)
        return invalid(path + "/required: \"" + name.substr(0, 60) + "\" is not allowed by additionalProperties");
      names.push_back(name);
      pairs.emplace_back(member(name, other_value), true);
    }
    if (other_value->kind == Expression::Kind::nothing) return object_of(pairs, nothing());
    Expr name = other_name(names);
    if (!name) return invalid(path + ": the schema is too large");
    take_states(name);
    return object_of(pairs, rule_of(sequence({std::move(name), literal(":"), ws(), other_value})));
  }
  Expr rule_of(Expr body) {
    int rule = rules_.add();
    rules_.define(rule, std::move(body));
    return call(rule);
  }
  Expr member(const std::string& name, Expr value) {
    Expr text = literal(Json(name).dump(-1, ' ', false, Json::error_handler_t::replace));
    take_states(text);
    return rule_of(sequence({std::move(text), literal(":"), ws(), std::move(value)}));
  }
  // What a rule has beside the values in it, which plain() counted. It counts all of it, and looks whether it is too much.
  void take_states(const Expr& part) { rules_.take_states(part->states); }
  Expr any_value() {
    if (any_value_ >= 0) return call(any_value_);
    any_value_ = rules_.add();
    Expr self = call(any_value_);
    Expr text = *string(Json::object(), "");
    int numeric = shared(any_number_, [] { return any_number(); });
    Expr pair = rule_of(sequence({text, literal(":"), ws(), self}));
    rules_.define(any_value_, choice({text, call(numeric), literal("true"), literal("false"), literal("null"),
                                      array_of({}, self, 0, -1), object_of({}, pair)}));
    return self;
  }

  SchemaSpreader spreader_;
  Rules& rules_;
  std::string root_path_;
  std::map<const Json*, int> targets_;
  int any_value_ = -1, any_number_ = -1, any_integer_ = -1;
  std::map<std::tuple<int, int, std::string, std::string, bool>, Expr> strings_;  // by their bounds, pattern and format
};

}  // namespace

Result<Expr> compile_schema(const Json& schema, Rules& rules, const std::string& path) {
  Compiler compiler(schema, rules, path);
  HEARTH_ASSIGN(Expr body, compiler.value(schema, path, 0));
  if (body->kind == Expression::Kind::nothing) return invalid(path + ": nothing fulfils this schema");
  return body;
}

}  // namespace hearth::grammar
