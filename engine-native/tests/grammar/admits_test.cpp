// The other direction of structured output: whatever a reference says is a document of the schema, written in every way the
// grammar promises (blanks, escapes, how numbers are written), goes through the mask token by token, however it is cut into tokens; what a
// reference refuses does not. The reference here is a writer of documents and a validator that share no code with the grammar.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>
#include <unordered_map>

#include "grammar/grammar.h"
#include "support/grammar_words.h"

using namespace hearth;
using namespace hearth::grammar;
using hearth::testing::Words;
using Spec = nlohmann::ordered_json;

namespace {

const Words& words() {
  static const Words instance = hearth::testing::make_words(4000, 23);
  return instance;
}

using Random = std::mt19937;
int pick(Random& random, int least, int most) { return least + static_cast<int>(random() % static_cast<unsigned>(most - least + 1)); }

// ---- Schemas -------------------------------------------------------------------------------------------------------

Spec leaf(Random& random) {
  switch (random() % 9) {
    case 0: { int low = pick(random, -300, 300); return {{"type", "integer"}, {"minimum", low}, {"maximum", low + pick(random, 0, 500)}}; }
    case 1: { int low = pick(random, -300, 300); return {{"type", "number"}, {"exclusiveMinimum", low / 8.0}, {"exclusiveMaximum", (low + pick(random, 1, 90)) / 8.0}}; }
    case 2: { int low = pick(random, 0, 6); return {{"type", "string"}, {"minLength", low}, {"maxLength", low + pick(random, 0, 30)}}; }
    case 3: return {{"type", "string"}, {"minLength", pick(random, 0, 12)}};
    case 4: return {{"enum", {"red", 7, nullptr, {{"x", {1, "y"}}}, "é\"", true}}};
    case 5: return {{"const", pick(random, 0, 9)}};
    case 6: return {{"type", {"boolean", "null"}}};
    case 7: return {{"type", "integer"}, {"exclusiveMaximum", pick(random, -50, 50)}};
    default: return {{"type", "string"}};
  }
}

Spec object_of(Random& random, int depth);

Spec random_schema(Random& random, int depth) {
  int kind = depth == 0 ? 0 : pick(random, 0, 6);
  if (kind < 2) return leaf(random);
  if (kind == 2) {
    int least = pick(random, 0, 3);
    Spec s = {{"type", "array"}, {"items", random_schema(random, depth - 1)}, {"minItems", least}, {"maxItems", least + pick(random, 0, 3)}};
    if (random() % 3 == 0) s["prefixItems"] = {leaf(random), leaf(random)};
    return s;
  }
  if (kind == 3) return {{"anyOf", {random_schema(random, depth - 1), random_schema(random, depth - 1)}}};
  if (kind == 4) {
    Spec a = {{"type", "object"}, {"properties", {{"t", {{"const", "a"}}}, {"v", leaf(random)}}}, {"required", {"t", "v"}}, {"additionalProperties", false}}, b = a;
    b["properties"]["t"] = {{"const", "b"}};
    b["properties"]["v"] = leaf(random);
    return {{"oneOf", {a, b}}};
  }
  return object_of(random, depth);
}

Spec object_of(Random& random, int depth) {
  Spec properties = Spec::object(), required = Spec::array();
  const char* names[] = {"a", "ab", "b", "é", "q\"", "x y"};
  for (const char* name : names) {
    if (random() % 2) continue;
    properties[name] = random_schema(random, depth - 1);
    if (random() % 2) required.push_back(name);
  }
  return {{"type", "object"}, {"properties", properties}, {"required", required}, {"additionalProperties", random() % 2 ? Spec(false) : leaf(random)}};
}

// ---- The validator -------------------------------------------------------------------------------------------------

int characters(const std::string& text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

bool fits(const Spec& v, const std::string& type) {
  if (type == "number") return v.is_number();
  if (type == "integer") return v.is_number_integer() || (v.is_number() && v.get<double>() == std::trunc(v.get<double>()));
  return type == std::string(v.type_name());
}

bool valid(const Spec& v, const Spec& s, const Spec& root);

bool valid_members(const Spec& v, const Spec& s, const Spec& root) {
  if (s.contains("required"))
    for (const Spec& name : s["required"])
      if (!v.contains(name.get<std::string>())) return false;
  for (auto& [name, item] : v.items()) {
    bool known = s.contains("properties") && s["properties"].contains(name);
    if (known ? !valid(item, s["properties"][name], root) : s.contains("additionalProperties") && !valid(item, s["additionalProperties"], root)) return false;
  }
  return true;
}

bool valid_items(const Spec& v, const Spec& s, const Spec& root) {
  if (v.size() < s.value("minItems", 0u) || v.size() > s.value("maxItems", 1000u)) return false;
  for (size_t i = 0; i < v.size(); ++i) {
    bool fixed = s.contains("prefixItems") && i < s["prefixItems"].size();
    if (fixed ? !valid(v[i], s["prefixItems"][i], root) : s.contains("items") && !valid(v[i], s["items"], root)) return false;
  }
  return true;
}

bool valid(const Spec& v, const Spec& s, const Spec& root) {
  if (s.is_boolean()) return s.get<bool>();
  if (s.contains("$ref")) return valid(v, root["$defs"][s["$ref"].get<std::string>().substr(8)], root);
  for (const char* key : {"anyOf", "oneOf"})
    if (s.contains(key)) {
      auto holds = std::count_if(s[key].begin(), s[key].end(), [&](const Spec& one) { return valid(v, one, root); });
      if (key == std::string("oneOf") ? holds != 1 : holds == 0) return false;
    }
  if (s.contains("const") && v != s["const"]) return false;
  if (s.contains("enum") && std::find(s["enum"].begin(), s["enum"].end(), v) == s["enum"].end()) return false;
  if (s.contains("type")) {
    Spec types = s["type"].is_array() ? s["type"] : Spec::array({s["type"]});
    if (std::none_of(types.begin(), types.end(), [&](const Spec& t) { return fits(v, t); })) return false;
  }
  if (v.is_number()) {
    if (s.contains("minimum") && v < s["minimum"]) return false;
    if (s.contains("maximum") && v > s["maximum"]) return false;
    if (s.contains("exclusiveMinimum") && v <= s["exclusiveMinimum"]) return false;
    if (s.contains("exclusiveMaximum") && v >= s["exclusiveMaximum"]) return false;
  }
  if (v.is_string()) {
    int n = characters(v.get<std::string>());
    if (n < s.value("minLength", 0) || n > s.value("maxLength", 1 << 20)) return false;
  }
  if (v.is_array()) return valid_items(v, s, root);
  return !v.is_object() || valid_members(v, s, root);
}

// ---- The writer: documents of a schema, as text ----------------------------------------------------------------------

class Writer {
 public:
  Writer(const Spec& root, Random& random, bool canonical) : root_(root), random_(random), canonical_(canonical) {}

  std::string value(const Spec& s, int depth = 0) {
    if (s.contains("$ref")) return value(root_["$defs"][s["$ref"].get<std::string>().substr(8)], depth + 1);
    for (const char* key : {"anyOf", "oneOf"})  // the first ends a recursion
      if (s.contains(key)) return value(depth > 5 ? s[key][0] : s[key][random_() % s[key].size()], depth + 1);
    if (s.contains("const")) return s["const"].dump();
    if (s.contains("enum")) return s["enum"][random_() % s["enum"].size()].dump();
    std::string type = s["type"].is_array() ? s["type"][random_() % s["type"].size()] : s["type"];
    if (type == "null") return "null";
    if (type == "boolean") return random_() % 2 ? "true" : "false";
    if (type == "integer") return integer(s);
    if (type == "number") return number(s);
    if (type == "string") return string(s.value("minLength", 0), s.value("maxLength", s.value("minLength", 0) + 25));
    return type == "array" ? array(s, depth) : object(s, depth);
  }

 private:
  // White space as grammar.h promises it.
  std::string blank() {
    if (canonical_ || random_() % 2) return "";
    if (random_() % 2) return " ";
    std::string out = "\n";
    for (int n = pick(random_, 0, 16); n > 0; --n) out += random_() % 4 ? ' ' : '\t';
    return out;
  }

  std::string integer(const Spec& s) {
    int high = s.contains("maximum") ? s["maximum"].get<int>() : s.value("exclusiveMaximum", 1000) - 1;
    return std::to_string(pick(random_, s.value("minimum", high - 1000), high));
  }

  // Strictly between the bounds, sometimes with zeros behind.
  std::string number(const Spec& s) {
    double low = s["exclusiveMinimum"], high = s["exclusiveMaximum"];
    double v = low + (high - low) * pick(random_, 1, 15) / 16;
    std::string text = Spec(v).dump();
    if (!canonical_ && text.find('.') != std::string::npos && random_() % 3 == 0) text += "0";
    return text;
  }

  std::string string(int least, int most) {
    std::string out = "\"";
    for (int n = pick(random_, least, most); n > 0; --n) out += character();
    return out + "\"";
  }
  std::string character() {
    static const char* plain[] = {"a", "b", " ", "e", "0", "{", "]", ":", ",", "é", "😀", "あ", "\\\"", "\\\\", "\\n", "t"};
    static const char* other[] = {"\\/", "\\u0041", "\\u00E9", "\\ud83d\\ude00", "\\b", "\\f", "\\r", "\\t", "\x7f", "\\u0000"};
    return canonical_ || random_() % 4 ? plain[random_() % std::size(plain)] : other[random_() % std::size(other)];
  }

  std::string array(const Spec& s, int depth) {
    std::string out = "[" + blank();
    int least = s.value("minItems", 0), most = s.value("maxItems", least + 4);
    for (int i = 0, n = depth > 5 ? least : pick(random_, least, most); i < n; ++i) {
      bool fixed = s.contains("prefixItems") && i < static_cast<int>(s["prefixItems"].size());
      out += (i ? "," + blank() : "") + value(fixed ? s["prefixItems"][i] : s["items"], depth + 1);
    }
    return out + blank() + "]";
  }

  std::string object(const Spec& s, int depth) {
    std::string out = "{" + blank();
    bool first = true;
    auto member = [&](const std::string& name, const Spec& inner) {
      out += (first ? "" : "," + blank()) + Spec(name).dump() + ":" + blank() + value(inner, depth + 1);
      first = false;
    };
    for (auto& [name, inner] : s["properties"].items()) {
      bool must = std::find(s["required"].begin(), s["required"].end(), Spec(name)) != s["required"].end();
      if (must || random_() % 2) member(name, inner);
    }
    if (s["additionalProperties"].is_object())
      for (const char* name : {"", "abc", "zz", "éa", "A b"})
        if (random_() % 4 == 0) member(name, s["additionalProperties"]);
    return out + blank() + "}";
  }

  const Spec& root_;
  Random& random_;
  bool canonical_;
};

// ---- Cutting into tokens -------------------------------------------------------------------------------------------

enum class Cut { bytes, longest, random };

std::vector<int32_t> tokens_of(const std::string& text, Cut cut, Random& random) {
  static const auto ids = [] {
    std::unordered_map<std::string, int32_t> out;
    for (size_t id = 1; id < words().text.size(); ++id)
      if (!words().special.contains(static_cast<int32_t>(id))) out.emplace(words().text[id], static_cast<int32_t>(id));
    return out;
  }();
  std::vector<int32_t> out;
  for (size_t at = 0; at < text.size();) {
    std::vector<int32_t> fitting;
    for (size_t n = 1; n <= std::min<size_t>(24, text.size() - at); ++n)
      if (auto found = ids.find(text.substr(at, n)); found != ids.end()) fitting.push_back(found->second);
    int32_t id = cut == Cut::bytes ? fitting.front() : cut == Cut::longest ? fitting.back() : fitting[random() % fitting.size()];
    out.push_back(id);
    at += words().text[id].size();
  }
  return out;
}

// How far the mask lets the tokens through, in tokens; and may it end there.
struct Walk { size_t taken; bool complete; };
Walk walk(const std::shared_ptr<Grammar>& grammar, const std::vector<int32_t>& tokens) {
  Matcher m(grammar);
  for (size_t i = 0; i < tokens.size(); ++i) {
    int32_t id = tokens[i];
    bool allowed = (m.mask()[id >> 5] >> (id & 31)) & 1;
    bool taken = m.accept(id);
    EXPECT_EQ(allowed, taken);
    if (!allowed || !taken) return {i, false};
  }
  return {tokens.size(), (m.mask()[0] & 1) != 0};
}

void expect_admitted(const std::shared_ptr<Grammar>& grammar, const std::string& text, const Spec& s, Random& random) {
  for (Cut cut : {Cut::bytes, Cut::longest, Cut::random, Cut::random}) {
    std::vector<int32_t> tokens = tokens_of(text, cut, random);
    Walk w = walk(grammar, tokens);
    ASSERT_TRUE(w.complete) << s.dump() << "\n" << text << "\nstopped at token " << w.taken << " of " << tokens.size();
  }
}

std::string mutated(std::string text, Random& random) {
  static const std::string pieces = "\"\\{}[],:0123456789-.eabtn ";
  for (int n = pick(random, 1, 2); n > 0; --n) {
    size_t at = random() % (text.size() + 1);
    switch (random() % 3) {
      case 0: text.insert(at, 1, pieces[random() % pieces.size()]); break;
      case 1: if (at < text.size()) text.erase(at, pick(random, 1, 3)); break;
      default: if (at < text.size()) text[at] = pieces[random() % pieces.size()];
    }
  }
  return text;
}

}  // namespace

TEST(GrammarAdmits, EveryDocumentOfARandomSchemaHoweverItIsCut) {
  Random random(29);
  int refused = 0, still_valid = 0;
  for (int round = 0; round < 250; ++round) {
    Spec s = round % 25 ? random_schema(random, 3) : Spec{
        {"$defs", {{"node", {{"type", "object"}, {"properties", {{"v", leaf(random)}, {"next", {{"anyOf", {{{"type", "null"}}, {{"$ref", "#/$defs/node"}}}}}}}},
                             {"required", {"v", "next"}}, {"additionalProperties", false}}}}}, {"$ref", "#/$defs/node"}};
    auto made = Grammar::compile({{"type", "json_schema"}, {"spec", s}}, words().trie);
    ASSERT_TRUE(made) << made.status().message() << "\n" << s.dump();
    for (int i = 0; i < 6; ++i) {
      std::string text = Writer(s, random, i % 2 == 0).value(s);
      Spec parsed = Spec::parse(text, nullptr, false);
      ASSERT_TRUE(!parsed.is_discarded() && valid(parsed, s, s)) << "the writer is wrong: " << s.dump() << "\n" << text;
      expect_admitted(*made, text, s, random);
      if (HasFatalFailure()) return;
      std::string other = mutated(text, random);
      Spec read = Spec::parse(other, nullptr, false);
      bool fine = !read.is_discarded() && valid(read, s, s);
      fine ? ++still_valid : ++refused;
      if (fine) continue;
      ASSERT_FALSE(walk(*made, tokens_of(other, Cut::random, random)).complete) << s.dump() << "\ntook " << other;
    }
  }
  EXPECT_GT(refused, 700);
  EXPECT_GT(still_valid, 50);
}

// Numbers just inside an exclusive bound must not round onto it when they are read.
TEST(GrammarAdmits, NumbersNeverRoundOntoAnExclusiveBound) {
  for (auto [low, high] : std::vector<std::pair<double, double>>{{0.1, 0.2}, {9, 10}, {-10, -9}, {0, 121}, {999, 1000}, {-0.5, 0.5}, {99999.99, 1000000}}) {
    Spec s = {{"type", "number"}, {"exclusiveMinimum", low}, {"exclusiveMaximum", high}};
    auto made = Grammar::compile({{"type", "json_schema"}, {"spec", s}}, words().trie);
    ASSERT_TRUE(made) << made.status().message();
    for (unsigned seed = 0; seed < 60; ++seed) {
      Random random(seed);
      Matcher m(*made);
      std::string text;
      for (bool taken = true; taken;) {  // as long as it can be, close to a bound: nines or noughts first
        taken = false;
        std::string order = seed % 3 == 0 ? "-9.876543210" : seed % 3 == 1 ? "-0.123456789" : "-1.023456789";
        if (seed > 2) std::shuffle(order.begin(), order.end(), random);
        for (char c : order)
          if (m.accept_bytes(std::string(1, c))) { text += c, taken = true; break; }
      }
      ASSERT_TRUE(m.complete()) << text;
      double v = std::strtod(text.c_str(), nullptr);
      ASSERT_TRUE(v > low && v < high) << s.dump() << " " << text;
    }
  }
}
