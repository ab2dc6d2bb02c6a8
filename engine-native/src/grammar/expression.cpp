#include "grammar/expression.h"

#include <algorithm>
#include <cstdio>

namespace hearth::grammar {
namespace {

constexpr uint32_t last_code = 0x10ffff;

std::shared_ptr<Expression> make(Expression::Kind kind) {
  auto e = std::make_shared<Expression>();
  e->kind = kind;
  return e;
}

int64_t counted(int64_t states) { return std::min(states, states_counted_max); }

// UTF-8 of a range of code points whose encodings have one length, as sequences of byte ranges: the usual splitting at
// the borders where a continuation byte wraps (as in RE2 and Rust's utf8-ranges).
void append_utf8(uint32_t low, uint32_t high, std::vector<Expr>& out) {
  auto length = [](uint32_t c) { return c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4; };
  static constexpr uint32_t ends[] = {0x7f, 0x7ff, 0xffff, last_code};
  for (uint32_t end : ends)
    if (low <= end && high > end) {
      append_utf8(low, end, out);
      append_utf8(end + 1, high, out);
      return;
    }
  int n = length(low);
  for (int i = 1; i < n; ++i) {
    uint32_t mask = (1u << (6 * i)) - 1;
    if ((low & ~mask) == (high & ~mask)) continue;
    if (low & mask) {
      append_utf8(low, low | mask, out);
      append_utf8((low | mask) + 1, high, out);
      return;
    }
    if ((high & mask) != mask) {
      append_utf8(low, (high & ~mask) - 1, out);
      append_utf8(high & ~mask, high, out);
      return;
    }
  }
  static constexpr int lead[] = {0, 0x00, 0xc0, 0xe0, 0xf0};
  std::vector<Expr> bytes;
  for (int i = n - 1; i >= 0; --i) {
    int base = i == n - 1 ? lead[n] : 0x80, mask = i == n - 1 && n == 1 ? 0x7f : 0x3f;
    bytes.push_back(byte_range(base | ((low >> (6 * i)) & mask), base | ((high >> (6 * i)) & mask)));
  }
  out.push_back(sequence(std::move(bytes)));
}

}  // namespace

Expr nothing() {
  static const Expr instance = make(Expression::Kind::nothing);
  return instance;
}

Expr literal(std::string_view text) {
  auto e = make(Expression::Kind::literal);
  e->text = text;
  e->states = static_cast<int64_t>(text.size());
  return e;
}

Expr byte_set(const ByteSet& set) {
  auto e = make(Expression::Kind::bytes);
  e->set = set;
  e->states = 1;
  return e;
}

Expr byte_range(int low, int high) {
  ByteSet set;
  set.add(low, high);
  return byte_set(set);
}

Expr sequence(std::vector<Expr> parts) {
  for (const Expr& part : parts)
    if (part->kind == Expression::Kind::nothing) return nothing();
  if (parts.size() == 1) return parts[0];
  auto e = make(Expression::Kind::sequence);
  for (const Expr& part : parts) e->states = counted(e->states + part->states);
  e->parts = std::move(parts);
  return e;
}

Expr choice(std::vector<Expr> parts) {
  std::erase_if(parts, [](const Expr& part) { return part->kind == Expression::Kind::nothing; });
  if (parts.empty()) return nothing();
  if (parts.size() == 1) return parts[0];
  auto e = make(Expression::Kind::choice);
  e->states = 1;
  for (const Expr& part : parts) e->states = counted(e->states + 1 + part->states);
  e->parts = std::move(parts);
  return e;
}

Expr repeat(Expr part, int min, int max) {
  if (max == 0) return literal("");
  if (part->kind == Expression::Kind::nothing) return min == 0 ? literal("") : nothing();
  auto e = make(Expression::Kind::repeat);
  const int64_t copies = max < 0 ? min + 1 : max;
  e->states = part->states < states_counted_max / (copies + 1) ? counted(1 + copies * (1 + part->states)) : states_counted_max;
  e->parts = {std::move(part)};
  e->min = min;
  e->max = max;
  return e;
}

Expr optional(Expr part) { return repeat(std::move(part), 0, 1); }

Expr call(int rule) {
  auto e = make(Expression::Kind::call);
  e->rule = rule;
  e->states = 1;
  return e;
}

Expr graph(int states, std::vector<GraphEdge> edges, std::vector<int> accepting) {
  auto e = make(Expression::Kind::graph);
  e->max = states;
  e->states = states + 1;
  for (const GraphEdge& edge : edges)
    if (edge.label->kind != Expression::Kind::bytes) e->states = counted(e->states + 1 + edge.label->states);
  e->edges = std::move(edges);
  e->accepting = std::move(accepting);
  return e;
}

CodeRanges normalized(CodeRanges ranges) {
  std::sort(ranges.begin(), ranges.end());
  CodeRanges merged;
  for (auto [low, high] : ranges) {
    if (!merged.empty() && low <= merged.back().second + 1) merged.back().second = std::max(merged.back().second, high);
    else merged.emplace_back(low, high);
  }
  CodeRanges out;
  for (auto [low, high] : merged) {
    high = std::min(high, last_code);
    if (low < 0xd800 && high >= 0xd800) {
      out.emplace_back(low, 0xd7ff);
      if (high > 0xdfff) out.emplace_back(0xe000, high);
    } else if (low >= 0xd800 && low <= 0xdfff) {
      if (high > 0xdfff) out.emplace_back(0xe000, high);
    } else {
      out.emplace_back(low, high);
    }
  }
  return out;
}

CodeRanges complement(const CodeRanges& ranges) {
  CodeRanges out;
  uint32_t next = 0;
  for (auto [low, high] : ranges) {
    if (low > next) out.emplace_back(next, low - 1);
    next = high + 1;
  }
  if (next <= last_code) out.emplace_back(next, last_code);
  return normalized(out);
}

Expr utf8_characters(const CodeRanges& ranges) {
  ByteSet ascii;
  bool any = false;
  std::vector<Expr> parts;
  for (auto [low, high] : ranges) {
    if (low < 0x80) {
      ascii.add(static_cast<int>(low), static_cast<int>(std::min<uint32_t>(high, 0x7f)));
      any = true;
      low = 0x80;
    }
    if (low <= high && high >= 0x80) append_utf8(low, high, parts);
  }
  if (any) parts.push_back(byte_set(ascii));
  return choice(std::move(parts));
}

Expr json_characters(const CodeRanges& ranges) {
  CodeRanges plain;
  std::vector<Expr> parts;
  auto has = [&](uint32_t code) {
    for (auto [low, high] : ranges)
      if (code >= low && code <= high) return true;
    return false;
  };
  for (auto [low, high] : ranges) {
    uint32_t at = std::max<uint32_t>(low, 0x20);
    for (uint32_t cut : {uint32_t{'"'}, uint32_t{'\\'}}) {
      if (at <= cut && cut <= high) {
        if (cut > at) plain.emplace_back(at, cut - 1);
        at = cut + 1;
      }
    }
    if (at <= high) plain.emplace_back(at, high);
  }
  if (!plain.empty()) parts.push_back(utf8_characters(plain));
  if (has('"')) parts.push_back(literal("\\\""));
  if (has('\\')) parts.push_back(literal("\\\\"));
  for (uint32_t code = 0; code < 0x20; ++code) {
    if (!has(code)) continue;
    const char* names = "\b\f\n\r\t";
    const char* letters = "bfnrt";
    const char* at = code ? std::char_traits<char>::find(names, 5, static_cast<char>(code)) : nullptr;
    char text[8];
    if (at) std::snprintf(text, sizeof text, "\\%c", letters[at - names]);
    else std::snprintf(text, sizeof text, "\\u%04x", code);
    parts.push_back(literal(text));
  }
  return choice(std::move(parts));
}

}  // namespace hearth::grammar
