// JSON's own text as expressions: blanks, characters of strings, arrays and objects around what stands in them.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "grammar/expression.h"

namespace hearth::grammar {

// Blanks between tokens: at most one space, or one line break and an indentation of bounded length.
Expr ws();
// One character inside a JSON string, in every way JSON can write it; surrogates only in pairs.
Expr string_character();
// An array: `first` in order, then any number of `more` (kind nothing: none), `least` to `most` items (-1: no bound).
Expr array_of(const std::vector<Expr>& first, const Expr& more, int least, int most);
// An object: members in order, each with whether it must come, then any number of `other` (kind nothing: none).
Expr object_of(const std::vector<std::pair<Expr, bool>>& members, const Expr& other);
// A quoted name, without escapes, that is none of `names`; null when they are more than any grammar has states for.
Expr other_name(const std::vector<std::string>& names);

}  // namespace hearth::grammar
