// A vocabulary like real ones, for grammars: every byte, and pieces of words and punctuation.
#pragma once

#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "grammar/grammar.h"

namespace hearth::testing {

using grammar::TokenTrie;
inline constexpr int32_t end_id = 0;

// Bytes 1..255 as ids, then pieces as real vocabularies have them: merged punctuation, words, blanks. The order of ids is
// arbitrary on purpose.
struct Words {
  std::vector<std::string> text;
  std::set<int32_t> special;
  std::shared_ptr<const TokenTrie> trie;
};

inline Words make_words(int size, unsigned seed) {
  Words w;
  w.text.push_back("</s>");
  for (int b = 1; b < 256; ++b) w.text.push_back(std::string(1, static_cast<char>(b)));
  for (const char* piece : {"\":", "\",", "\"}", "\"]", "},", "}}", "[{", "{\"", "\": \"", "\", \"", " \"", "null", "true", "false", "ab",
                            "abc", "\n  ", "  ", "10", "0.5", "-1", "é", "😀", "\\u", "\\n", "]}", "00"})
    w.text.push_back(piece);
  w.special.insert(static_cast<int32_t>(w.text.size()));
  w.text.push_back("<tool_call>");
  for (int n : {16, 32, 64, 128})  // runs, as vocabularies have them for code
    for (char c : {' ', '-', '=', 'a'}) w.text.push_back(std::string(n, c));
  std::mt19937 random(seed);
  const std::string letters = "etaoinshrdlu   cmfwypvbgkjqxz0123456789.,-_\"{}[]:";
  while (static_cast<int>(w.text.size()) < size) {
    std::string piece;
    for (int n = 2 + random() % 7; n > 0; --n) piece += letters[random() % (random() % 4 ? 26 : letters.size())];
    if (random() % 3 == 0) piece = " " + piece;
    w.text.push_back(piece);
  }
  w.trie = TokenTrie::build(static_cast<int>(w.text.size()), [&](int32_t id) {
    return TokenTrie::Token{w.text[id], w.special.contains(id)};
  }, {end_id});
  return w;
}

}  // namespace hearth::testing
