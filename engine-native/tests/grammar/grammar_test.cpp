#include "grammar/grammar.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <regex>
#include <set>

#include "grammar/automaton.h"
#include "support/grammar_words.h"
#include "support/processor_time.h"

using namespace hearth;
using namespace hearth::grammar;
using hearth::testing::end_id;
using hearth::testing::make_words;
using hearth::testing::processor_seconds;
using hearth::testing::Words;
using Spec = nlohmann::ordered_json;

namespace {

const Words& words() {
  static const Words instance = make_words(2000, 1);
  return instance;
}

std::shared_ptr<Grammar> compile(const Spec& spec, const Words& w = words()) {
  auto grammar = Grammar::compile(spec, w.trie);
  EXPECT_TRUE(grammar) << grammar.status().message() << "\n" << spec.dump();
  return grammar ? *grammar : nullptr;
}
std::shared_ptr<Grammar> schema(const std::string& text) { return compile(Spec{{"type", "json_schema"}, {"spec", Spec::parse(text)}}); }

bool matches(const std::shared_ptr<Grammar>& grammar, const std::string& text) {
  Matcher m(grammar);
  return m.accept_bytes(text) && m.complete();
}

void expect_matches(const std::string& schema_text, std::initializer_list<const char*> yes, std::initializer_list<const char*> no) {
  auto grammar = schema(schema_text);
  ASSERT_TRUE(grammar);
  for (const char* text : yes) EXPECT_TRUE(matches(grammar, text)) << schema_text << " should take " << text;
  for (const char* text : no) EXPECT_FALSE(matches(grammar, text)) << schema_text << " should refuse " << text;
}

std::string error_of(const std::string& schema_text) {
  auto grammar = Grammar::compile(Spec{{"type", "json_schema"}, {"spec", Spec::parse(schema_text)}}, words().trie);
  return grammar ? "" : grammar.status().message();
}

// Draws random tokens the mask allows until the text may end; prefers ending, so that it does.
std::string draw(const std::shared_ptr<Grammar>& grammar, std::mt19937& random, const Words& w, int limit = 400) {
  Matcher m(grammar);
  std::string text;
  for (int i = 0; i < limit; ++i) {
    auto mask = m.mask();
    std::vector<int32_t> allowed;
    for (int32_t id = 0; id < static_cast<int32_t>(w.text.size()); ++id)
      if ((mask[id >> 5] >> (id & 31)) & 1) allowed.push_back(id);
    EXPECT_FALSE(allowed.empty()) << text;
    if (allowed.empty()) return text;
    bool may_end = (mask[0] & 1) != 0;
    EXPECT_EQ(may_end, m.complete());
    if (may_end && (random() % 2 || m.exhausted())) return text;
    // Closing characters come more often than chance would have it.
    std::vector<int32_t> closing;
    for (int32_t id : allowed)
      if (id != end_id && w.text[id].find_first_of("\"}],:") != std::string::npos) closing.push_back(id);
    const auto& from = !closing.empty() && random() % 2 ? closing : allowed;
    int32_t id = from[random() % from.size()];
    if (id == end_id) continue;
    EXPECT_TRUE(m.accept(id)) << text << " + " << w.text[id];
    text += w.text[id];
  }
  return "";  // did not come to an end
}

}  // namespace

TEST(Grammar, Types) {
  expect_matches(R"({"type":"null"})", {"null"}, {"nul", "nulll", "true", ""});
  expect_matches(R"({"type":"boolean"})", {"true", "false"}, {"True", "0"});
  expect_matches(R"({"type":"integer"})", {"0", "-1", "12", "1234567890123456"}, {"01", "+1", "1.0", "-", "12345678901234567", "1e3"});
  expect_matches(R"({"type":"number"})", {"0", "-1.5", "12e3", "1E-10", "0.001"}, {"01", ".5", "1.", "1e", "1e100", "NaN"});
  expect_matches(R"({"type":["string","null"]})", {"null", "\"x\""}, {"1"});
  expect_matches("true", {"null", "1", "\"a\"", "[1, {\"a\":[]}]", "{}"}, {"", "{", "[1,]", "{\"a\"}"});
}

TEST(Grammar, Strings) {
  expect_matches(R"({"type":"string"})",
                 {"\"\"", "\"abc\"", "\"\\n\\u00e9\\\"\"", "\"é😀\"", "\"\\ud83d\\ude00\""},
                 {"\"", "\"a", "\"\n\"", "\"\\x\"", "\"\\ud83d\"", "\"\\ude00\"", "\"\xff\"", "\"\xc3\"", "abc", "\"\xed\xa0\x80\""});
  expect_matches(R"({"type":"string","minLength":2,"maxLength":3})", {"\"ab\"", "\"éé\"", "\"😀\\n\\u0041\""}, {"\"a\"", "\"abcd\"", "\"\""});
  expect_matches(R"({"type":"string","maxLength":0})", {"\"\""}, {"\"a\""});
  expect_matches(R"({"type":"string","minLength":300,"maxLength":2000})", {("\"" + std::string(300, 'a') + "\"").c_str(), ("\"" + std::string(2000, 'b') + "\"").c_str()},
                 {("\"" + std::string(299, 'a') + "\"").c_str(), ("\"" + std::string(2001, 'b') + "\"").c_str()});
}

TEST(Grammar, PatternsAndFormats) {
  expect_matches(R"({"type":"string","pattern":"^[A-Z]{2}-\\d+$"})", {"\"AB-1\"", "\"XY-123\""}, {"\"A-1\"", "\"AB-\"", "\"xAB-1\"", "\"ab-1\""});
  expect_matches(R"({"type":"string","pattern":"b+"})", {"\"b\"", "\"abba\"", "\"\\nb\\\"\""}, {"\"a\"", "\"\""});
  expect_matches(R"({"type":"string","pattern":"^a|z$"})", {"\"a\"", "\"abc\"", "\"xz\""}, {"\"ba\"", "\"zx\""});
  expect_matches(R"({"type":"string","pattern":"^.[^\"\\\\]$"})", {"\"\\\"x\"", "\"éé\""}, {"\"x\\\"\"", "\"x\\\\\"", "\"x\""});
  expect_matches(R"({"type":"string","pattern":"^[ab]*$","minLength":2,"maxLength":4})", {"\"ab\"", "\"aaaa\""}, {"\"a\"", "\"aaaaa\"", "\"ac\""});
  expect_matches(R"({"type":"string","format":"date"})", {"\"2024-12-31\""}, {"\"2024-13-01\"", "\"2024-02-30\"", "\"2024-04-31\"", "\"24-01-01\""});
  expect_matches(R"({"type":"string","format":"date-time"})", {"\"2024-01-02T03:04:05Z\"", "\"2024-01-02T03:04:05.123+01:00\""}, {"\"2024-01-02 03:04:05Z\"", "\"2024-01-02T24:00:00Z\""});
  expect_matches(R"({"type":"string","format":"uuid"})", {"\"123e4567-e89b-12d3-a456-426614174000\""}, {"\"123e4567e89b12d3a456426614174000\""});
  expect_matches(R"({"type":"string","format":"email"})", {"\"a.b@example.org\""}, {"\"a@b\"", "\"@b.c\""});
  expect_matches(R"({"type":"string","format":"ipv4"})", {"\"127.0.0.1\"", "\"255.255.255.255\""}, {"\"256.1.1.1\"", "\"1.2.3\""});
  expect_matches(R"({"type":"string","format":"uri"})", {"\"https://example.org/a?b=c#d\""}, {"\"example\""});
}

// What zod writes for z.email(), z.iso.date() and their like, and the SDKs send: both at once.
TEST(Grammar, PatternsBesideFormatsHoldTogether) {
  auto both = [](const char* format, const char* pattern) { return Spec({{"type", "string"}, {"format", format}, {"pattern", pattern}}); };
  expect_matches(both("email", R"(^(?:[A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+-]@(?:[A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$)").dump().c_str(),
                 {"\"a.b@example.org\""}, {"\"a@b\"", "\"a.b@example.o\"", "\"a.b@example.org1\"", "\".a@example.org\""});
  expect_matches(both("uuid", R"(^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}|00000000-0000-0000-0000-000000000000)$)").dump().c_str(),
                 {"\"123e4567-e89b-12d3-a456-426614174000\"", "\"00000000-0000-0000-0000-000000000000\""}, {"\"123e4567-e89b-02d3-a456-426614174000\""});
  expect_matches(both("date", "^20\\d\\d-").dump().c_str(), {"\"2024-12-31\""}, {"\"1999-12-31\"", "\"2024-13-01\"", "\"2024-\""});
  expect_matches(R"({"type":"string","format":"hostname","pattern":"^[^a]*$","minLength":3,"maxLength":4})", {"\"b.cd\"", "\"bcd\""}, {"\"b\"", "\"a.cd\"", "\"b.cde\""});
  expect_matches(R"({"type":"string","format":"starts_with","pattern":"^a.*"})", {"\"ab\""}, {"\"b\""});
  expect_matches(R"({"anyOf":[{"type":"string","format":"date","pattern":"x"},{"type":"null"}]})", {"null"}, {"\"2024-12-31\"", "\"x\""});
  auto none = Grammar::compile({{"type", "json_schema"}, {"spec", {{"type", "object"}, {"properties", {{"d", both("date", "x")}}}, {"required", {"d"}}}}}, words().trie);
  ASSERT_FALSE(none.is_ok());
  EXPECT_NE(none.status().message().find("#/properties/d"), std::string::npos) << none.status().message();
}

TEST(Grammar, NumbersBetweenBounds) {
  expect_matches(R"({"type":"integer","minimum":3,"maximum":120})", {"3", "9", "10", "99", "100", "120"}, {"2", "121", "03", "-5", "3.0"});
  expect_matches(R"({"type":"integer","exclusiveMinimum":-11,"exclusiveMaximum":2})", {"-10", "-9", "-1", "0", "1"}, {"-11", "2", "-0", "-12"});
  expect_matches(R"({"type":"number","minimum":0.25,"exclusiveMaximum":10})", {"0.25", "0.3", "1", "9.999", "5.0"}, {"0.2", "0.249", "10", "10.0", "0", "1e0"});
  expect_matches(R"({"type":"number","minimum":-1.5,"maximum":-0.5})", {"-1.5", "-1", "-0.5", "-1.50", "-0.75"}, {"-1.6", "-0.4", "0", "1", "-0.49"});
  expect_matches(R"({"type":"number","exclusiveMinimum":0})", {"0.1", "1", "0.0001"}, {"0", "0.0", "-1"});
}

// Every bound against arithmetic, on a grid fine enough to meet each border.
TEST(Grammar, NumberBoundsAgreeWithArithmetic) {
  std::mt19937 random(3);
  for (int round = 0; round < 60; ++round) {
    int a = static_cast<int>(random() % 400) - 200, b = a + static_cast<int>(random() % 150);
    bool low_open = random() % 2, high_open = random() % 2, integer = random() % 3 == 0;
    double scale = integer ? 1 : random() % 2 ? 10 : 100, low = a / scale, high = b / scale;
    Spec s = {{"type", integer ? "integer" : "number"}, {low_open ? "exclusiveMinimum" : "minimum", low}, {high_open ? "exclusiveMaximum" : "maximum", high}};
    auto grammar = Grammar::compile(Spec{{"type", "json_schema"}, {"spec", s}}, words().trie);
    for (int k = -420; k <= 420; ++k) {
      double value = k / scale;
      std::string text = Spec(integer ? Spec(k) : Spec(value)).dump();
      if (text == "-0.0") continue;
      double exact = integer ? k : value;
      bool inside = (low_open ? exact > low : exact >= low) && (high_open ? exact < high : exact <= high);
      bool taken = grammar && matches(*grammar, text);
      ASSERT_EQ(taken, inside) << s.dump() << " " << text;
    }
  }
}

TEST(Grammar, ObjectsAndTheirMembers) {
  const char* closed = R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"},"c":{"type":"null"}},"required":["b"],"additionalProperties":false})";
  expect_matches(closed, {R"({"b":"x"})", R"({"a":1,"b":"x"})", R"({"a":1, "b":"x", "c":null})", "{\n  \"b\": \"x\"\n}", R"({ "b": "x" })"},
                 {"{}", R"({"a":1})", R"({"b":"x","a":1})", R"({"b":1})", R"({"b":"x","d":1})", R"({"b":"x",})", R"({"b":"x")"});
  expect_matches(R"({"type":"object","properties":{"a":{"type":"integer"},"ab":{"type":"null"}},"additionalProperties":{"type":"boolean"}})",
                 {"{}", R"({"a":1})", R"({"a":1,"ab":null,"abc":true,"":false})", R"({"b":true})", R"({"é":true})"},
                 {R"({"a":true})", R"({"b":1})", R"({"ab":true})", R"({"\u0061":true})"});
  expect_matches(R"({"type":"object"})", {"{}", R"({"a":{"b":[1,2]}})"}, {"[]", R"({a:1})"});
  expect_matches(R"({"type":"object","required":["k"],"additionalProperties":{"type":"integer"}})", {R"({"k":1})", R"({"k":1,"m":2})"}, {"{}", R"({"k":"x"})"});
}

TEST(Grammar, Arrays) {
  expect_matches(R"({"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":3})", {"[1]", "[1,2]", "[1, 2, 3]", "[ 1]"}, {"[]", "[1,2,3,4]", "[1,]", "[\"a\"]"});
  expect_matches(R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":false})", {"[]", "[1]", "[1,\"a\"]"}, {"[\"a\"]", "[1,\"a\",2]"});
  expect_matches(R"({"type":"array","prefixItems":[{"type":"integer"}],"items":{"type":"null"},"minItems":2})", {"[1,null]", "[1,null,null]"}, {"[1]", "[null,null]"});
  expect_matches(R"({"type":"array","items":{"type":"array","items":{"type":"boolean"}}})", {"[[],[true]]"}, {"[true]"});
}

TEST(Grammar, ChoicesCombinationsAndReferences) {
  expect_matches(R"({"enum":["a","b",1,null,{"x":[1]}]})", {"\"a\"", "1", "null", R"({"x":[1]})"}, {"\"c\"", "2"});
  expect_matches(R"({"const":"yes"})", {"\"yes\""}, {"\"no\""});
  expect_matches(R"({"type":"string","enum":["a",1]})", {"\"a\""}, {"1"});
  expect_matches(R"({"anyOf":[{"type":"integer"},{"type":"string","maxLength":1}]})", {"1", "\"a\""}, {"\"ab\"", "null"});
  expect_matches(R"({"oneOf":[{"type":"object","properties":{"kind":{"const":"a"},"x":{"type":"integer"}},"required":["kind","x"],"additionalProperties":false},
                              {"type":"object","properties":{"kind":{"const":"b"}},"required":["kind"],"additionalProperties":false}]})",
                 {R"({"kind":"a","x":1})", R"({"kind":"b"})"}, {R"({"kind":"a"})", R"({"kind":"b","x":1})"});
  expect_matches(R"({"allOf":[{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]},{"properties":{"b":{"type":"null"},"a":{"minimum":5}},"required":["b"]}],"additionalProperties":true})",
                 {R"({"a":5,"b":null})"}, {R"({"a":4,"b":null})", R"({"a":5})"});
  expect_matches(R"({"$defs":{"tree":{"type":"object","properties":{"value":{"type":"integer"},"children":{"type":"array","items":{"$ref":"#/$defs/tree"}}},"required":["value"],"additionalProperties":false}},"$ref":"#/$defs/tree"})",
                 {R"({"value":1})", R"({"value":1,"children":[{"value":2,"children":[]},{"value":3}]})"}, {R"({"children":[]})", R"({"value":1,"children":[1]})"});
  expect_matches(R"({"anyOf":[{"type":"null"},{"type":"object","properties":{"next":{"$ref":"#"}},"required":["next"],"additionalProperties":false}]})",
                 {"null", R"({"next":null})", R"({"next":{"next":null}})"}, {R"({})"});
  expect_matches(R"({"type":"object","properties":{"p":{"$ref":"#/definitions/pos"}},"required":["p"],"additionalProperties":false,"definitions":{"pos":{"type":"integer","minimum":1}}})",
                 {R"({"p":7})"}, {R"({"p":0})"});
}

TEST(Grammar, ErrorsNameTheirPath) {
  auto names = [](const std::string& schema_text, const std::string& path) {
    std::string message = error_of(schema_text);
    EXPECT_NE(message.find(path), std::string::npos) << schema_text << " gave: " << message;
  };
  names(R"({"type":"object","properties":{"a":{"type":"integer","multipleOf":3}}})", "#/properties/a/multipleOf");
  names(R"({"type":"array","items":{"uniqueItems":true}})", "#/items/uniqueItems");
  names(R"({"not":{}})", "#/not");
  names(R"({"type":"strnig"})", "#/type");
  names(R"({"type":"string","format":"binary"})", "#/format");
  names(R"x({"type":"string","pattern":"(?=a)"})x", "#/pattern");
  names(R"({"type":"string","pattern":"a\\b"})", "#/pattern");
  names(R"({"type":"string","pattern":"("})", "#/pattern");
  names(R"({"$ref":"#/$defs/none"})", "#/$ref");
  names(R"({"$ref":"other.json"})", "#/$ref");
  names(R"({"anyOf":[]})", "#/anyOf");
  names(R"({"oneOf":[{"type":"integer"},{"type":"number"}]})", "#/oneOf/1");
  names(R"({"type":"string","minLength":5,"maxLength":2})", "minLength");
  names(R"({"type":"string","maxLength":1000000})", "#/maxLength");
  names(R"({"type":"integer","minimum":5,"maximum":4})", "#");
  names(R"({"properties":{"a/b":{"if":{}}}})", "#/properties/a~1b/if");
  names(R"({"type":"object","properties":{"a":false},"required":["a"]})", "#/properties/a");
  names(R"({"$ref":"#"})", "nothing fulfils");
  names(R"({"anyOf":[{"$ref":"#"},{"type":"null"}]})", "refers to itself");
  names(R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"],"additionalProperties":false})", "nothing fulfils");
  names(R"({"enum":[]})", "#/enum");
  names(R"({"type":"string","const":1})", "#");
}

// What allOf joins comes from a request and may be anything.
TEST(Grammar, MalformedPartsOfCombinationsAreErrors) {
  for (const auto& [schema_text, path] : std::initializer_list<std::pair<const char*, const char*>>{
           {R"({"allOf":[5,{"type":"object"}]})", "#/allOf/0"},
           {R"({"allOf":[{"required":"a"},{"required":"b"}]})", "#/allOf/0/required"},
           {R"({"allOf":[{"required":["a"]},{"required":[7]}]})", "#/allOf/1/required"},
           {R"({"allOf":[{"properties":[1]},{"properties":{"a":{}}}]})", "#/allOf/0/properties"},
           {R"({"allOf":[{"type":{"a":1}},{"type":"object"}]})", "#/allOf/0/type"},
           {R"({"anyOf":[{"enum":7}],"type":"string"})", "#/anyOf/0/enum"},
           {R"({"type":"string","minLength":1e300})", "#/minLength"}})
    EXPECT_NE(error_of(schema_text).find(path), std::string::npos) << schema_text << " gave: " << error_of(schema_text);
}

TEST(Grammar, CombinationsAreBounded) {
  auto list = [](int count, const Spec& one) { return Spec(std::vector<Spec>(count, one)); };
  // Each level is chosen from two hundred times the next, and none of it can be fulfilled.
  Spec nested = {{"$defs", {{"l0", {{"type", "integer"}}}}}, {"type", "string"}, {"anyOf", list(200, {{"$ref", "#/$defs/l9"}})}};
  for (int level = 1; level < 10; ++level)
    nested["$defs"]["l" + std::to_string(level)] = {{"type", "string"}, {"anyOf", list(200, {{"$ref", "#/$defs/l" + std::to_string(level - 1)}})}};
  Spec exclusive = Spec::array();
  for (int i = 0; i < 15000; ++i) exclusive.push_back({{"const", i}});
  Spec crossed = {{"allOf", Spec::array({{{"anyOf", list(250, {{"title", "a"}})}}})}, {"anyOf", list(15000, {{"title", "b"}})}};
  for (const Spec& hostile : {nested, Spec{{"oneOf", exclusive}}, crossed}) {
    const double begin = processor_seconds();
    auto grammar = Grammar::compile({{"type", "json_schema"}, {"spec", hostile}}, words().trie);
    ASSERT_FALSE(grammar);
    EXPECT_NE(grammar.status().message().find("too many combinations"), std::string::npos) << grammar.status().message();
    EXPECT_LT(processor_seconds() - begin, 20) << hostile.begin().key();
  }
}

TEST(Grammar, OtherSpecsAndTheirErrors) {
  auto regex = compile({{"type", "regex"}, {"spec", "[0-9]{3}-(ab|cd)+"}});
  EXPECT_TRUE(matches(regex, "123-abcd"));
  EXPECT_FALSE(matches(regex, "x123-ab"));
  auto choice = compile({{"type", "choice"}, {"spec", {"yes", "no", "yesterday"}}});
  EXPECT_TRUE(matches(choice, "yes"));
  EXPECT_TRUE(matches(choice, "yesterday"));
  EXPECT_FALSE(matches(choice, "yest"));
  auto object = compile({{"type", "json_object"}});
  EXPECT_TRUE(matches(object, R"({"a":[1,{"b":null}]})"));
  EXPECT_FALSE(matches(object, "[]"));
  auto after = compile({{"type", "choice"}, {"spec", {"A"}}, {"after", "</think>"}});
  EXPECT_TRUE(matches(after, "let me see <</think>\n\nA"));
  EXPECT_FALSE(matches(after, "A"));
  auto open = compile({{"type", "choice"}, {"spec", {"A"}}, {"open", "<think>"}, {"after", "</think>"}});
  EXPECT_TRUE(matches(open, "<think>let me see <</think>\n\nA"));
  EXPECT_TRUE(matches(open, "<think></think>A"));
  EXPECT_TRUE(matches(open, "A"));
  EXPECT_FALSE(matches(open, "let me see </think>A"));
  EXPECT_FALSE(matches(open, "<think>A"));
  EXPECT_FALSE(Grammar::compile({{"type", "json_object"}, {"open", "<think>"}}, words().trie));
  for (const Spec& bad : std::vector<Spec>{{{"type", "poem"}}, {{"spec", 1}}, {{"type", "regex"}}, {{"type", "choice"}, {"spec", Spec::array()}},
                                           {{"type", "choice"}, {"spec", {1}}}, {{"type", "json_object"}, {"extra", 1}}, Spec::array(),
                                           {{"type", "regex"}, {"spec", "((a{1000}){1000}){1000}"}}, {{"type", "tools"}, {"spec", Spec::object()}}})
    EXPECT_FALSE(Grammar::compile(bad, words().trie)) << bad;
}

TEST(Grammar, WhatEndsFreeTextIsOfBoundedLength) {
  const std::string longest(1001, 'a');
  auto after = Grammar::compile({{"type", "json_object"}, {"after", longest}}, words().trie);
  ASSERT_FALSE(after.is_ok());
  EXPECT_NE(after.status().message().find("grammar/after"), std::string::npos) << after.status().message();
}

TEST(Grammar, Tools) {
  Spec call_a = {{"begin", "<tool_call>\n{\"name\": \"a\", \"arguments\": "}, {"schema", {{"type", "object"}, {"properties", {{"x", {{"type", "integer"}}}}}, {"required", {"x"}}, {"additionalProperties", false}}}, {"end", "}\n</tool_call>"}};
  Spec call_b = {{"begin", "<tool_call>\n{\"name\": \"b\", \"arguments\": "}, {"schema", {{"type", "object"}, {"additionalProperties", false}}}, {"end", "}\n</tool_call>"}};
  Spec spec = {{"calls", {call_a, call_b}}, {"trigger", "<tool_call>"}, {"separator", "\n"}};
  auto automatic = compile({{"type", "tools"}, {"spec", spec}});
  std::string a = "<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n</tool_call>", b = "<tool_call>\n{\"name\": \"b\", \"arguments\": {}}\n</tool_call>";
  EXPECT_TRUE(matches(automatic, "no call, <tool is fine"));
  EXPECT_TRUE(matches(automatic, ""));
  EXPECT_TRUE(matches(automatic, "I will call: " + a));
  EXPECT_TRUE(matches(automatic, a + "\n" + b));
  EXPECT_FALSE(matches(automatic, "<tool_call>free"));
  EXPECT_FALSE(matches(automatic, a + " and text"));
  spec["required"] = true;
  spec["parallel"] = false;
  auto required = compile({{"type", "tools"}, {"spec", spec}});
  EXPECT_TRUE(matches(required, b));
  EXPECT_FALSE(matches(required, ""));
  EXPECT_FALSE(matches(required, "text " + b));
  EXPECT_FALSE(matches(required, a + "\n" + b));
  spec["answer"] = {{"type", "array"}, {"maxItems", 0}};
  auto either = compile({{"type", "tools"}, {"spec", spec}});
  EXPECT_TRUE(matches(either, b));
  EXPECT_TRUE(matches(either, "[]"));
  for (const char* text : {"", "text", "[1]", "{}"}) EXPECT_FALSE(matches(either, text)) << text;
  EXPECT_FALSE(matches(either, "[]" + b));
  // The begin of a call as the one special token that it is.
  int32_t special = *words().special.begin();
  Matcher m(automatic);
  EXPECT_TRUE((m.mask()[special >> 5] >> (special & 31)) & 1);
  EXPECT_TRUE(m.accept(special));
  EXPECT_TRUE(m.accept_bytes("\n{\"name\": \"b\", \"arguments\": {}}\n</tool_call>"));
  EXPECT_TRUE(m.complete());
  Matcher plain(compile({{"type", "json_object"}}));
  EXPECT_FALSE(plain.accept(special));
}

// The mask is exactly the set of tokens whose bytes the automaton takes: all ids, many states, several grammars.
TEST(Grammar, MasksAgreeWithTryingEveryToken) {
  std::vector<Spec> specs = {
      {{"type", "json_object"}},
      {{"type", "regex"}, {"spec", "(ab|a[b-d]{2,40}|\\s\\d+)*x?"}},
      {{"type", "json_schema"}, {"spec", Spec::parse(R"({"type":"object","properties":{"name":{"type":"string","maxLength":90},"n":{"type":"number","minimum":-3.5,"maximum":12},"list":{"type":"array","items":{"anyOf":[{"type":"string"},{"type":"null"}]},"maxItems":3},"d":{"type":"string","format":"date"}},"required":["name","list"]})")}},
      {{"type", "choice"}, {"spec", {"abc", "ab", "null", "true\"}"}}}};
  std::mt19937 random(5);
  for (const Spec& spec : specs) {
    auto grammar = compile(spec);
    for (int run = 0; run < 6; ++run) {
      Matcher m(grammar);
      for (int i = 0; i < 60; ++i) {
        auto mask = m.mask();
        std::vector<uint32_t> copy(mask.begin(), mask.end());
        std::vector<int32_t> allowed;
        for (int32_t id = 1; id < static_cast<int32_t>(words().text.size()); ++id) {
          bool bit = (copy[id >> 5] >> (id & 31)) & 1;
          Matcher probe = m;
          ASSERT_EQ(bit, probe.accept(id)) << spec.dump() << " id " << id << " " << words().text[id];
          if (bit) allowed.push_back(id);
        }
        ASSERT_EQ(copy[0] & 1, m.complete() ? 1u : 0u);
        if (allowed.empty()) break;
        ASSERT_TRUE(m.accept(allowed[random() % allowed.size()]));
      }
    }
  }
}

// ---- Random schemas: what the mask lets through parses and validates, by a checker that shares no code ------------------

namespace {

Spec random_schema(std::mt19937& random, int depth) {
  switch (random() % (depth > 2 ? 6 : 10)) {
    case 0: return {{"type", "integer"}, {"minimum", static_cast<int>(random() % 50) - 25}, {"maximum", 30 + static_cast<int>(random() % 500)}};
    case 1: return {{"type", "string"}, {"minLength", random() % 3}, {"maxLength", 3 + random() % 6}};
    case 2: return {{"type", "boolean"}};
    case 3: return {{"enum", {"red", "green", random() % 9, nullptr}}};
    case 4: return {{"type", "number"}, {"exclusiveMinimum", 0.5}, {"maximum", 99.25}};
    case 5: return {{"type", {"null", "string"}}, {"maxLength", 4}};
    case 6: return {{"type", "array"}, {"items", random_schema(random, depth + 1)}, {"minItems", random() % 2}, {"maxItems", 2 + random() % 3}};
    case 7: return {{"anyOf", {random_schema(random, depth + 1), random_schema(random, depth + 1)}}};
    default: {
      Spec properties = Spec::object(), required = Spec::array();
      for (int i = 1 + random() % 4; i > 0; --i) {
        std::string name(1, static_cast<char>('a' + i));
        properties[name] = random_schema(random, depth + 1);
        if (random() % 2) required.push_back(name);
      }
      return {{"type", "object"}, {"properties", properties}, {"required", required}, {"additionalProperties", false}};
    }
  }
}

int characters(const std::string& text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

bool valid(const Spec& v, const Spec& s) {
  if (s.contains("anyOf")) return valid(v, s["anyOf"][0]) || valid(v, s["anyOf"][1]);
  if (s.contains("enum")) return std::find(s["enum"].begin(), s["enum"].end(), v) != s["enum"].end();
  if (s["type"].is_array()) return v.is_null() || (v.is_string() && characters(v) <= 4);
  std::string type = s["type"];
  if (type == "boolean") return v.is_boolean();
  if (type == "integer") return v.is_number_integer() && v >= s["minimum"] && v <= s["maximum"];
  if (type == "number") return v.is_number() && v > s["exclusiveMinimum"] && v <= s["maximum"];
  if (type == "string") return v.is_string() && characters(v) >= s["minLength"] && characters(v) <= s["maxLength"];
  if (type == "array") {
    if (!v.is_array() || v.size() < s["minItems"] || v.size() > s["maxItems"]) return false;
    return std::all_of(v.begin(), v.end(), [&](const Spec& item) { return valid(item, s["items"]); });
  }
  if (!v.is_object()) return false;
  for (const Spec& name : s["required"])
    if (!v.contains(name.get<std::string>())) return false;
  for (auto& [name, item] : v.items())
    if (!s["properties"].contains(name) || !valid(item, s["properties"][name])) return false;
  return true;
}

// A document of the schema, in its order.
Spec random_document(const Spec& s, std::mt19937& random) {
  if (s.contains("anyOf")) return random_document(s["anyOf"][random() % 2], random);
  if (s.contains("enum")) return s["enum"][random() % s["enum"].size()];
  auto text = [&](int n) {
    std::string out;
    for (; n > 0; --n) out += random() % 5 == 0 ? std::string("é") : std::string(1, "ab\"\\\n{"[random() % 6]);
    return out;
  };
  if (s["type"].is_array()) return random() % 2 ? Spec(nullptr) : Spec(text(random() % 5));
  std::string type = s["type"];
  if (type == "boolean") return random() % 2 == 0;
  if (type == "integer") return s["minimum"].get<int>() + static_cast<int>(random() % (s["maximum"].get<int>() - s["minimum"].get<int>() + 1));
  if (type == "number") return 0.75 + random() % 98;
  if (type == "string") return text(s["minLength"].get<int>() + random() % (s["maxLength"].get<int>() - s["minLength"].get<int>() + 1));
  if (type == "array") {
    Spec out = Spec::array();
    int least = s["minItems"], most = s["maxItems"];
    for (int n = least + random() % (most - least + 1); n > 0; --n) out.push_back(random_document(s["items"], random));
    return out;
  }
  Spec out = Spec::object();
  for (auto& [name, inner] : s["properties"].items()) {
    bool must = std::find(s["required"].begin(), s["required"].end(), Spec(name)) != s["required"].end();
    if (must || random() % 2) out[name] = random_document(inner, random);
  }
  return out;
}

}  // namespace

TEST(Grammar, RandomSchemasMakeOnlyValidDocumentsAndAllOfThem) {
  std::mt19937 random(11);
  int ended = 0;
  for (int round = 0; round < 150; ++round) {
    Spec s = random_schema(random, 0);
    auto grammar = compile({{"type", "json_schema"}, {"spec", s}});
    ASSERT_TRUE(grammar);
    std::string text = draw(grammar, random, words());
    if (!text.empty()) {
      ++ended;
      Spec value = Spec::parse(text, nullptr, false);
      ASSERT_FALSE(value.is_discarded()) << s.dump() << "\n" << text;
      ASSERT_TRUE(valid(value, s)) << s.dump() << "\n" << text;
    }
    for (int i = 0; i < 4; ++i) {
      Spec document = random_document(s, random);
      ASSERT_TRUE(valid(document, s)) << s.dump() << "\n" << document.dump();
      ASSERT_TRUE(matches(grammar, document.dump())) << s.dump() << "\n" << document.dump();
    }
  }
  EXPECT_GT(ended, 100);
}

TEST(Grammar, HostilePatternsAreBounded) {
  const double begin = processor_seconds();
  for (const char* pattern : {"^(a+)+$", "^(a|a)*b$", "^(.*)*x$", "(a{0,100}){0,100}", "^((a?){50}){50}$", "^(([a-z])+.)+[A-Z]([a-z])+$"}) {
    auto grammar = Grammar::compile({{"type", "regex"}, {"spec", pattern}}, words().trie);
    if (!grammar) continue;
    Matcher m(*grammar);
    m.accept_bytes(std::string(200, 'a'));
    m.mask();
  }
  EXPECT_LT(processor_seconds() - begin, 20);
}

TEST(Grammar, ControlEscapesNeedALetter) {
  for (const char* pattern : {"\\c", "a\\c", "[\\c", "\\c1"}) EXPECT_FALSE(Grammar::compile({{"type", "regex"}, {"spec", pattern}}, words().trie).is_ok()) << pattern;
}

// ECMA-262 repeats nothing twice; a tower of quantifiers would be a tree too deep for the stack.
TEST(Grammar, QuantifiersDoNotStack) {
  for (const std::string& pattern : {std::string("a**"), std::string("a{2}{3}"), std::string("a+?+"), "a" + std::string(200000, '*')}) {
    auto grammar = Grammar::compile({{"type", "regex"}, {"spec", pattern}}, words().trie);
    ASSERT_FALSE(grammar.is_ok());
    EXPECT_NE(grammar.status().message().find("nothing to repeat"), std::string::npos) << grammar.status().message();
  }
  expect_matches(R"({"type":"string","pattern":"^(a+?)*(?:b{2}){2}$"})", {"\"aabbbb\"", "\"bbbb\""}, {"\"aabb\""});
}

// Parts that may be left out, times a bound on the length: edges by the square of the parts.
TEST(Grammar, PatternsWithLengthBoundsAreBounded) {
  const double begin = processor_seconds();
  auto compile = [](const char* pattern, int max_length) {
    Spec schema = {{"type", "string"}, {"pattern", pattern}, {"maxLength", max_length}};
    return Grammar::compile({{"type", "json_schema"}, {"spec", schema}}, words().trie);
  };
  for (auto [pattern, length] : {std::pair("^(a?){3000}$", 10), std::pair("^(a?){1500}$", 40)}) {
    auto grammar = compile(pattern, length);
    ASSERT_FALSE(grammar.is_ok());
    EXPECT_NE(grammar.status().message().find("too large"), std::string::npos) << grammar.status().message();
  }
  EXPECT_TRUE(compile("^[a-z0-9_]+(-[a-z0-9_]+)*$", 10000).is_ok());
  EXPECT_TRUE(compile("^(\\w+\\s?)*$", 300).is_ok());
  // Within what is allowed, but every place beside every other.
  Spec many = {{"type", "string"}, {"format", "email"}, {"pattern", "^(.?){2000}$"}};
  auto grammar = Grammar::compile({{"type", "json_schema"}, {"spec", many}}, words().trie);
  ASSERT_FALSE(grammar.is_ok());
  EXPECT_NE(grammar.status().message().find("too large"), std::string::npos) << grammar.status().message();
  EXPECT_LT(processor_seconds() - begin, 20);
}

// Each once took what doubles with every level, or a megabyte with every line: gigabytes for a schema of a kilobyte.
TEST(Grammar, ShortSchemasThatAskForMuchAreBoundedInMemoryAndTime) {
  auto nested = [](int depth, auto&& around) {
    Spec schema = {{"type", "string"}};
    for (int i = 0; i < depth; ++i) schema = around(schema);
    return schema;
  };
  const double begin = processor_seconds();
  auto rest = nested(12, [](const Spec& s) { return Spec{{"type", "object"}, {"required", {"a", "b"}}, {"additionalProperties", s}}; });
  auto types = nested(20, [](const Spec& s) { return Spec{{"type", {"object", "object"}}, {"properties", {{"a", s}}}, {"additionalProperties", false}}; });
  auto choices = nested(20, [](const Spec& s) { return Spec{{"anyOf", {{{"title", "1"}}, {{"title", "2"}}}}, {"properties", {{"a", s}}}}; });
  Spec arrays = Spec::array(), patterns = Spec::array(), members = Spec::object(), names = Spec::array();
  for (int i = 0; i < 1000; ++i) arrays.push_back({{"minItems", 9000 + i}});
  for (int i = 0; i < 60; ++i) patterns.push_back({{"pattern", "^(a?){150}$"}, {"maxLength", 60 + i}});
  for (int i = 0; i < 500; ++i) members["p" + std::to_string(i)] = Spec{{"type", "null"}};
  for (int i = 0; i < 2000; ++i) names.push_back("n" + std::to_string(i));
  const auto compiled = [](const Spec& s) { return Grammar::compile(Spec{{"type", "json_schema"}, {"spec", s}}, words().trie); };
  EXPECT_TRUE(compiled(rest).is_ok());
  EXPECT_TRUE(compiled(types).is_ok());
  for (const Spec& schema : {choices, Spec{{"prefixItems", arrays}}, Spec{{"prefixItems", patterns}},
                             Spec{{"required", names}, {"additionalProperties", {{"type", "object"}, {"properties", members}}}}}) {
    auto grammar = compiled(schema);
    ASSERT_FALSE(grammar.is_ok());
    EXPECT_NE(grammar.status().message().find("too large"), std::string::npos) << grammar.status().message();
  }
  // 22,100 different classes of characters: each was compared with all before it.
  std::string classes;
  for (int a = 'A'; a <= 'z'; ++a)
    for (int b = a + 1; b <= 'z'; ++b)
      for (int c = b + 1; c <= 'z'; ++c)
        if (std::isalnum(a) && std::isalnum(b) && std::isalnum(c)) classes += {'[', static_cast<char>(a), static_cast<char>(b), static_cast<char>(c), ']'};
  EXPECT_TRUE(Grammar::compile(Spec{{"type", "regex"}, {"spec", classes}}, words().trie).is_ok());
#ifndef __SANITIZE_ADDRESS__
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  EXPECT_LT(usage.ru_maxrss / 1024, 500) << "MiB at the most so far";
#endif
  EXPECT_LT(processor_seconds() - begin, 30);
}

// Strings of one pattern are one rule, however many members have it: each was joined with its format again.
TEST(Grammar, ManyMembersMayHaveTheSamePatternAndFormat) {
  Spec members = Spec::object();
  const Spec email = {{"type", "string"}, {"format", "email"}, {"pattern", R"(^(?:[a-z]+\.)*[a-z]+@(?:[a-z]+\.)+[a-z]{2,}$)"}, {"maxLength", 100}};
  for (int i = 0; i < 60; ++i) members["m" + std::to_string(i)] = email;
  auto grammar = Grammar::compile(Spec{{"type", "json_schema"}, {"spec", {{"type", "object"}, {"properties", members}}}}, words().trie);
  ASSERT_TRUE(grammar.is_ok()) << grammar.status().message();
  Matcher matcher(*grammar);
  EXPECT_TRUE(matcher.accept_bytes(R"({"m1":"a.b@c.de","m59":"x@y.zz"})"));
  EXPECT_TRUE(matcher.complete());
  EXPECT_FALSE(Matcher(*grammar).accept_bytes(R"({"m1":"a.b@c)" "\""));
}

TEST(Grammar, CacheGivesTheSameGrammarAndForgetsTheOldest) {
  GrammarCache cache(words().trie, 2);
  Spec a = {{"type", "choice"}, {"spec", {"a"}}}, b = {{"type", "choice"}, {"spec", {"b"}}}, c = {{"type", "choice"}, {"spec", {"c"}}};
  auto first = *cache.get(a);
  EXPECT_EQ(*cache.get(a), first);
  EXPECT_TRUE(cache.get(b));
  EXPECT_TRUE(cache.get(c));
  EXPECT_NE(*cache.get(a), first);
  EXPECT_FALSE(cache.get({{"type", "choice"}}));
}
