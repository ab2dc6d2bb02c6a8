// libFuzzer target for grammars: a spec as it stands in a request is compiled and an output walked along it. The mask and
// accept() must agree on every token, looking ahead must leave no trace, and all of it end in bounded time and memory.
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>

#include "core/nesting.h"
#include "grammar/grammar.h"

namespace {

using hearth::grammar::Grammar;
using hearth::grammar::Matcher;
using hearth::grammar::TokenTrie;

constexpr int steps_max = 24;
constexpr int request_nesting_max = 512;  // JsonReader's: nothing deeper reaches the compiler

// All bytes, some longer tokens that cross the borders of JSON's own, one special token, and the end.
std::shared_ptr<const TokenTrie> make_trie() {
  static const std::vector<std::string> longer = {
      "{\"", "\":", "\",\"", "\"}", "},{", "[{\"", ", \"", "true", "false", "null", "name", "12", "0.5", "e-", "\\u00", "\\\"",
      "\n  ", "\xc3\xa9", "\xe2\x82", "a\xf0\x9f", "aaaa", "</tool", "<call>", "\"]}\n"};
  static const int count = 256 + static_cast<int>(longer.size());
  return TokenTrie::build(count + 2, [](int32_t id) -> TokenTrie::Token {
    static std::string bytes = [] {
      std::string all;
      for (int b = 0; b < 256; ++b) all += static_cast<char>(b);
      return all;
    }();
    if (id < 256) return {std::string_view(bytes).substr(static_cast<size_t>(id), 1)};
    if (id < count) return {longer[static_cast<size_t>(id - 256)]};
    return {id == count ? std::string_view("<tool_call>") : std::string_view("<end>"), true};
  }, {count + 1});
}

bool allowed(std::span<const uint32_t> mask, int32_t id) { return (mask[static_cast<size_t>(id) / 32] >> (id % 32)) & 1; }

// Every token's bit against what accept() says of it; gives those that are allowed.
std::vector<int32_t> check_mask(Matcher& matcher, const TokenTrie& trie) {
  const auto span = matcher.mask();
  const std::vector<uint32_t> mask(span.begin(), span.end());
  std::vector<int32_t> out;
  const int32_t end = trie.end_tokens()[0];
  for (int32_t id = 0; id < trie.size(); ++id) {
    if (id == end) continue;
    const Matcher::Place here = matcher.here();
    const bool accepted = matcher.accept(id);
    if (accepted) matcher.rewind(here);
    if (accepted != allowed(mask, id)) std::abort();
    if (accepted) out.push_back(id);
  }
  if (allowed(mask, end) != matcher.complete()) std::abort();
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto trie = make_trie();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (hearth::nesting_depth(text) > request_nesting_max) return 0;
  const auto spec = nlohmann::ordered_json::parse(text, nullptr, false);
  if (!spec.is_object()) return 0;
  const auto grammar = Grammar::compile(spec, trie);
  if (!grammar) return 0;
  Matcher matcher(*grammar);
  std::minstd_rand random(static_cast<unsigned>(std::hash<std::string_view>{}(text)));
  for (int step = 0; step < steps_max; ++step) {
    const std::vector<int32_t> next = check_mask(matcher, *trie);
    if (next.empty()) break;
    if (!matcher.accept(next[random() % next.size()])) std::abort();
  }
  return 0;
}
