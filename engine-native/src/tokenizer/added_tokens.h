// Tokens that are found in the text before the model sees it: special tokens, and words added to a vocabulary.
// After Hugging Face tokenizers' AddedVocabulary: leftmost, longest; first those written in raw text, then, in what is
// left and normalized, those that are compared in normalized form.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/flat_map.h"
#include "tokenizer/normalizer.h"

namespace hearth::tokenizer {

struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool special = false;
  bool normalized = false;   // compared in normalized form, in normalized text
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false, rstrip = false;  // takes the white space before / after it
  bool joins_text = false;   // SentencePiece "user defined": the text after it goes on, with no blank put before it
  bool verbatim = false;     // with normalized: the content is in normalized form already
  bool white_space = false;  // nothing but white space: also matches in literal text
};

// A stretch of the text: an added token, or (token == nullptr) text between.
struct Section {
  size_t begin, end;
  const AddedToken* token;
};

class AddedTokens {
 public:
  static constexpr size_t max_content_bytes = 1024;

  // A second token with the same content is ignored; false then.
  bool add(AddedToken token);
  // To be called once, after the last add.
  Status prepare(const Normalizer& normalizer);

  const std::vector<AddedToken>& all() const { return tokens_; }
  const AddedToken* find(std::string_view content) const;
  bool any_raw() const { return !raw_.empty(); }
  bool any_normalized() const { return !normalized_.empty(); }

  // Cuts text into sections. is_literal(begin, end): does the stretch touch text typed by a user?
  template <class IsLiteral>
  std::vector<Section> split_raw(std::string_view text, IsLiteral is_literal) const { return split(raw_, text, is_literal); }
  template <class IsLiteral>
  std::vector<Section> split_normalized(std::string_view text, IsLiteral is_literal) const { return split(normalized_, text, is_literal); }

 private:
  static bool stands_alone(std::string_view text, size_t begin, size_t end);
  static size_t space_before(std::string_view text, size_t begin, size_t limit);
  static size_t space_after(std::string_view text, size_t end);

  template <class IsLiteral>
  std::vector<Section> split(const ByteTrie& trie, std::string_view text, IsLiteral is_literal) const;

  std::vector<AddedToken> tokens_;
  StringMap by_content_;            // content -> index into tokens_
  ByteTrie raw_, normalized_;       // to indices into tokens_
};

template <class IsLiteral>
std::vector<Section> AddedTokens::split(const ByteTrie& trie, std::string_view text, IsLiteral is_literal) const {
  std::vector<Section> sections;
  size_t done = 0, at = 0;
  while (at < text.size()) {
    if (!trie.can_start(text[at])) {
      ++at;
      continue;
    }
    size_t length = 0;
    const AddedToken* token = nullptr;
    trie.prefixes(text, at, [&](size_t size, int32_t index) {
      const AddedToken& candidate = tokens_[static_cast<size_t>(index)];
      if (!candidate.white_space && is_literal(at, at + size)) return;
      length = size;
      token = &candidate;
    });
    if (!token) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + length;
    at = end;
    if (token->single_word && !stands_alone(text, begin, end)) continue;
    if (token->lstrip) begin = space_before(text, begin, done);
    if (token->rstrip) end = space_after(text, end);
    if (done < begin) sections.push_back({done, begin, nullptr});
    sections.push_back({begin, end, token});
    done = end;
  }
  if (done < text.size()) sections.push_back({done, text.size(), nullptr});
  return sections;
}

}  // namespace hearth::tokenizer
