// JSON numbers between bounds, as expressions over their digits.
#pragma once

#include <optional>
#include <string>

#include "core/status.h"
#include "grammar/expression.h"

namespace hearth::grammar {

struct NumberBound {
  std::string text;  // as JSON writes it: "-1.5", "1e3"
  bool exclusive = false;
};

// Numbers without bounds: at most 16 digits before and after the point, exponents of at most two digits.
Expr any_integer();
Expr any_number();
// With bounds numbers are written without an exponent, and zero without a sign.
Result<Expr> bounded_number(const std::optional<NumberBound>& low, const std::optional<NumberBound>& high, bool integer);

}  // namespace hearth::grammar
