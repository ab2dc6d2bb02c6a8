#include "grammar/numbers.h"

#include <algorithm>

namespace hearth::grammar {
namespace {

constexpr int digits_max = 16;
// Numbers of 15 digits stay different when they are read as doubles: one just inside an exclusive bound must not round onto it.
constexpr int exact_digits = 15;

Expr digits(int min, int max) { return repeat(byte_range('0', '9'), min, max); }
Expr digit(int d) { return byte_range('0' + d, '0' + d); }

// A decimal that is not negative: whole part without leading zeros ("0" for none), fraction without trailing ones.
struct Decimal {
  bool negative = false;
  std::string whole = "0", fraction;
  bool zero() const { return whole == "0" && fraction.empty(); }
};

Result<Decimal> parse(const std::string& text) {
  Decimal out;
  size_t at = 0;
  if (at < text.size() && text[at] == '-') out.negative = true, ++at;
  std::string digits_text;
  int point = -1, exponent = 0;
  for (; at < text.size() && text[at] != 'e' && text[at] != 'E'; ++at) {
    if (text[at] == '.') point = static_cast<int>(digits_text.size());
    else digits_text += text[at];
  }
  if (point < 0) point = static_cast<int>(digits_text.size());
  if (at < text.size()) exponent = std::atoi(text.c_str() + at + 1);
  if (std::abs(exponent) > 400) return unsupported("a bound of that size");
  point += exponent;
  if (point < 0) digits_text.insert(0, -point, '0'), point = 0;
  if (point > static_cast<int>(digits_text.size())) digits_text.append(point - digits_text.size(), '0');
  out.whole = digits_text.substr(0, point);
  out.fraction = digits_text.substr(point);
  out.whole.erase(0, std::min(out.whole.find_first_not_of('0'), out.whole.size()));
  if (out.whole.empty()) out.whole = "0";
  while (!out.fraction.empty() && out.fraction.back() == '0') out.fraction.pop_back();
  if (out.whole.size() > digits_max || out.fraction.size() > digits_max) return unsupported("a bound of more than 16 digits");
  if (out.zero()) out.negative = false;
  return out;
}

// Digit strings of the length of low and high (which have one length) between them.
Expr between_digits(const std::string& low, const std::string& high) {
  if (low.empty()) return literal("");
  if (low == std::string(low.size(), '0') && high == std::string(high.size(), '9'))
    return digits(static_cast<int>(low.size()), static_cast<int>(low.size()));
  std::string low_rest = low.substr(1), high_rest = high.substr(1);
  int rest = static_cast<int>(low_rest.size()), first = low[0] - '0', last = high[0] - '0';
  if (first == last) return sequence({digit(first), between_digits(low_rest, high_rest)});
  std::vector<Expr> parts = {sequence({digit(first), between_digits(low_rest, std::string(rest, '9'))}),
                             sequence({digit(last), between_digits(std::string(rest, '0'), high_rest)})};
  if (first + 1 < last) parts.push_back(sequence({byte_range('0' + first + 1, '0' + last - 1), digits(rest, rest)}));
  return choice(std::move(parts));
}

bool less(const std::string& a, const std::string& b) { return a.size() != b.size() ? a.size() < b.size() : a < b; }

// Whole numbers from low to high, without leading zeros. No high: up to 16 digits.
Expr whole_between(const std::string& low, std::string high) {
  if (high.empty()) high = std::string(digits_max, '9');
  if (less(high, low)) return nothing();
  std::vector<Expr> parts;
  for (size_t length = low.size(); length <= high.size(); ++length) {
    std::string from = length == low.size() ? low : "1" + std::string(length - 1, '0');
    std::string to = length == high.size() ? high : std::string(length, '9');
    if (length == 1 && from == "0") {
      parts.push_back(digit(0));
      from = "1";
      if (to == "0") continue;
    }
    parts.push_back(between_digits(from, to));
  }
  return choice(std::move(parts));
}

std::string plus_one(std::string whole) {
  size_t i = whole.size();
  while (i > 0 && whole[i - 1] == '9') whole[--i] = '0';
  if (i == 0) return "1" + whole;
  ++whole[i - 1];
  return whole;
}
// "" for zero.
std::string minus_one(std::string whole) {
  if (whole == "0") return "";
  size_t i = whole.size();
  while (whole[i - 1] == '0') whole[--i] = '9';
  --whole[i - 1];
  whole.erase(0, std::min(whole.find_first_not_of('0'), whole.size() - 1));
  return whole;
}

// At most `room` digits that are not all zero.
Expr more_than_zero(int room) {
  std::vector<GraphEdge> edges;  // state i: i zeros; state room + i: i digits of which one is not zero
  std::vector<int> accepting;
  for (int i = 0; i < room; ++i) {
    if (i + 1 < room) edges.push_back({i, i + 1, digit(0)});
    edges.push_back({i, room + i + 1, byte_range('1', '9')});
    if (i > 0) edges.push_back({room + i, room + i + 1, byte_range('0', '9')});
    accepting.push_back(room + i + 1);
  }
  return graph(2 * room + 1, std::move(edges), std::move(accepting));
}

// Digits after the point (any number of them, perhaps none) whose value is at least / at most that of `f`.
Expr fraction_from(const std::string& f, bool exclusive, int room) {
  if (f.empty()) {
    if (!exclusive) return digits(0, room);
    return more_than_zero(room);
  }
  int d = f[0] - '0';
  std::vector<Expr> parts = {sequence({digit(d), fraction_from(f.substr(1), exclusive, room - 1)})};
  if (d < 9) parts.push_back(sequence({byte_range('0' + d + 1, '9'), digits(0, room - 1)}));
  return choice(std::move(parts));
}
Expr fraction_to(const std::string& f, bool exclusive, int room, bool may_be_empty) {
  if (f.empty()) {
    if (exclusive) return nothing();
    return repeat(digit(0), may_be_empty ? 0 : 1, room);
  }
  int d = f[0] - '0';
  std::vector<Expr> parts = {sequence({digit(d), fraction_to(f.substr(1), exclusive, room - 1, true)})};
  if (d > 0) parts.push_back(sequence({byte_range('0', '0' + d - 1), digits(0, room - 1)}));
  if (may_be_empty) parts.push_back(literal(""));
  return choice(std::move(parts));
}
// At least one digit, between the two values. `low` stands for itself with zeros behind it.
Expr fraction_between(const std::string& low, bool low_exclusive, const std::string& high, bool high_exclusive, int room, bool may_be_empty) {
  if (low.empty() && !low_exclusive) return fraction_to(high, high_exclusive, room, may_be_empty);
  if (high.empty()) return nothing();  // low is more than zero, or zero is excluded
  int a = low.empty() ? 0 : low[0] - '0', b = high[0] - '0';
  std::string low_rest = low.empty() ? "" : low.substr(1), high_rest = high.substr(1);
  if (a > b) return nothing();
  if (a == b) return sequence({digit(a), fraction_between(low_rest, low_exclusive, high_rest, high_exclusive, room - 1, true)});
  std::vector<Expr> parts = {sequence({digit(a), fraction_from(low_rest, low_exclusive, room - 1)}),
                             sequence({digit(b), fraction_to(high_rest, high_exclusive, room - 1, true)})};
  if (a + 1 < b) parts.push_back(sequence({byte_range('0' + a + 1, '0' + b - 1), digits(0, room - 1)}));
  return choice(std::move(parts));
}

// Digits behind the point of a number with this whole part; always some beyond those of the bounds.
int room_behind(const std::string& whole, const Decimal& low, const Decimal* high) {
  int bounds = static_cast<int>(std::max(low.fraction.size(), high ? high->fraction.size() : 0));
  return std::max(whole == "0" ? exact_digits : exact_digits - static_cast<int>(whole.size()), bounds + 1);
}

Expr with_fraction(Expr whole, Expr after_point, bool bare) {
  Expr point = sequence({literal("."), std::move(after_point)});
  if (point->kind == Expression::Kind::nothing) return bare ? whole : nothing();
  return sequence({std::move(whole), bare ? optional(std::move(point)) : std::move(point)});
}

// Decimals that are not negative from low to high; no high: up to 16 digits before the point.
Expr decimals_between(const Decimal& low, bool low_exclusive, const Decimal* high, bool high_exclusive) {
  std::vector<Expr> parts;
  int room = room_behind(high ? high->whole : low.whole, low, high);
  Expr any = digits(1, room);
  if (high && high->whole == low.whole) {
    bool bare = low.fraction.empty() && !low_exclusive && !(high->fraction.empty() && high_exclusive);
    return with_fraction(literal(low.whole),
                         fraction_between(low.fraction, low_exclusive, high->fraction, high_exclusive, room, false), bare);
  }
  if (high && less(high->whole, low.whole)) return nothing();
  // The whole part of the low bound; a fraction of at least one digit.
  Expr from = low.fraction.empty() && !low_exclusive ? any : fraction_from(low.fraction, low_exclusive, room);
  parts.push_back(with_fraction(literal(low.whole), from, low.fraction.empty() && !low_exclusive));
  std::string last = high ? minus_one(high->whole) : "";
  if (!high || !last.empty()) parts.push_back(with_fraction(whole_between(plus_one(low.whole), last), any, true));
  if (high) {
    bool bare = !(high->fraction.empty() && high_exclusive);
    parts.push_back(with_fraction(literal(high->whole), fraction_to(high->fraction, high_exclusive, room, false), bare));
  }
  return choice(std::move(parts));
}

// Whole numbers only: bounds moved inwards to whole numbers.
Expr integers_between(const Decimal& low, bool low_exclusive, const Decimal* high, bool high_exclusive) {
  bool next = !low.fraction.empty() || low_exclusive;
  std::string from = next ? plus_one(low.whole) : low.whole;
  if (!high) return whole_between(from, "");
  std::string to = high->fraction.empty() && high_exclusive ? minus_one(high->whole) : high->whole;
  return to.empty() ? nothing() : whole_between(from, to);
}

}  // namespace

Expr any_integer() {
  return sequence({optional(literal("-")), choice({literal("0"), sequence({byte_range('1', '9'), digits(0, digits_max - 1)})})});
}

Expr any_number() {
  ByteSet e;
  e.add('e', 'e'), e.add('E', 'E');
  ByteSet sign;
  sign.add('+', '+'), sign.add('-', '-');
  return sequence({any_integer(), optional(sequence({literal("."), digits(1, digits_max)})),
                   optional(sequence({byte_set(e), optional(byte_set(sign)), digits(1, 2)}))});
}

Result<Expr> bounded_number(const std::optional<NumberBound>& low, const std::optional<NumberBound>& high, bool integer) {
  std::optional<Decimal> from, to;
  if (low) {
    HEARTH_ASSIGN(from, parse(low->text));
  }
  if (high) {
    HEARTH_ASSIGN(to, parse(high->text));
  }
  bool from_excluded = low && low->exclusive, to_excluded = high && high->exclusive;
  auto between = [&](const Decimal& a, bool a_excluded, const Decimal* b, bool b_excluded) {
    return integer ? integers_between(a, a_excluded, b, b_excluded) : decimals_between(a, a_excluded, b, b_excluded);
  };
  const Decimal zero;
  std::vector<Expr> parts;
  // Zero and above.
  if (!to || !to->negative) {
    bool from_zero = !from || from->negative;
    parts.push_back(between(from_zero ? zero : *from, from_zero ? false : from_excluded, to ? &*to : nullptr, to_excluded));
  }
  // Below zero: the same with the signs turned, zero left out.
  if (!from || from->negative) {
    bool to_below = to && to->negative;
    Decimal nearest = to_below ? *to : zero;
    parts.push_back(sequence({literal("-"), between(nearest, to_below ? to_excluded : true, from ? &*from : nullptr, from_excluded)}));
  }
  Expr all = choice(std::move(parts));
  if (all->kind == Expression::Kind::nothing) return invalid("no number lies between the bounds");
  return all;
}

}  // namespace hearth::grammar
