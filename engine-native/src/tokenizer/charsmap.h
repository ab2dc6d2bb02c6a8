// SentencePiece's precompiled character map (normalization rules such as nmt_nfkc): a double-array trie from character
// sequences to replacements. Read as untrusted input: every index is checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"

namespace hearth::tokenizer {

class Charsmap {
 public:
  static Result<Charsmap> parse(std::string_view blob);

  struct Found {
    uint32_t length;        // bytes of the text the rule covers
    std::string_view text;  // what they become
  };
  // The longest rule that text[at..] begins with.
  std::optional<Found> longest(std::string_view text, size_t at) const;

 private:
  std::vector<uint32_t> units_;
  std::string replacements_;  // each ends in NUL
};

}  // namespace hearth::tokenizer
