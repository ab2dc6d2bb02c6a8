// Regular expressions as JSON Schema's "pattern" and the grammar type "regex" take them: the regular part of ECMA-262.
//
//   . | * + ? {m} {m,} {m,n} and their lazy forms (the language is the same), ( ) (?: ) (?<name> ),
//   [...] [^...] with ranges, \d \D \w \W \s \S, \t \n \r \f \v \0, \xHH, \uHHHH, \u{H...}, \cX, escaped punctuation,
//   ^ and $ at the two ends of the pattern or of one of its top-level alternatives.
// Refused with the place: a quantifier after a quantifier, look-around, back-references, \b \B, \p{...}, anchors
// elsewhere. "." is any character but line ends.
#pragma once

#include <string>
#include <vector>

#include "core/status.h"
#include "grammar/expression.h"

namespace hearth::grammar {

enum class TextForm : uint8_t { plain, json_string };

struct Pattern {
  std::string text;
  bool whole;  // it must match all of the text, as if anchored
};

// What one pattern, or two at once, match. min_length, max_length (-1 = none) count characters. The expression `nothing`
// where no text fulfils it all. `rules` counts the work of joining two patterns, or a pattern and bounds.
Result<Expr> compile_regex(const std::vector<Pattern>& patterns, TextForm form, Rules& rules, int min_length = 0, int max_length = -1);

}  // namespace hearth::grammar
