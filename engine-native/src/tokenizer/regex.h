// Patterns of tokenizer.json, which are written for Oniguruma, run by PCRE2 (UTF and UCP, just-in-time compiled).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"
#include "tokenizer/split.h"

namespace hearth::tokenizer {

// The same pattern in PCRE2's dialect. What differs and cannot be said there is refused: nested and intersected
// character classes, \W inside a class, possessive intervals.
Result<std::string> translate_oniguruma(std::string_view pattern);

class Regex {
 public:
  static Result<Regex> compile(std::string_view oniguruma_pattern);

  // Appends the matches in text, left to right, none overlapping. An empty match next to the one before it is skipped.
  Status find_all(std::string_view text, std::vector<Match>& matches) const;

 private:
  std::shared_ptr<void> code_;
};

}  // namespace hearth::tokenizer
