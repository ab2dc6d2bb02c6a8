// Expressions over bytes, the common form between the front ends (JSON Schema, regular expressions, markup) and the
// automaton: plain immutable trees, shared freely.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hearth::grammar {

struct ByteSet {
  std::array<uint64_t, 4> words{};
  void add(int low, int high) {
    for (int b = low; b <= high; ++b) words[b >> 6] |= 1ull << (b & 63);
  }
  bool has(uint8_t b) const { return (words[b >> 6] >> (b & 63)) & 1; }
  bool operator==(const ByteSet&) const = default;
};

struct Expression;
using Expr = std::shared_ptr<const Expression>;

struct GraphEdge {
  int from, to;
  Expr label;
};

struct Expression {
  enum class Kind : uint8_t { nothing, literal, bytes, sequence, choice, repeat, call, graph } kind = Kind::literal;
  std::string text;             // literal
  ByteSet set;                  // bytes
  std::vector<Expr> parts;      // sequence, choice; repeat: one
  int min = 0, max = 0;         // repeat; max -1 = no end. graph: number of states in `max`, start 0
  int rule = -1;                // call
  std::vector<GraphEdge> edges; // graph
  std::vector<int> accepting;   // graph
};

Expr nothing();  // matches no text at all
Expr literal(std::string_view text);
Expr byte_set(const ByteSet& set);
Expr byte_range(int low, int high);
Expr sequence(std::vector<Expr> parts);
Expr choice(std::vector<Expr> parts);
Expr repeat(Expr part, int min, int max);
Expr optional(Expr part);
Expr call(int rule);
Expr graph(int states, std::vector<GraphEdge> edges, std::vector<int> accepting);

// A grammar under construction: rule 0 is where it begins. Rules may be called before they are defined.
class Rules {
 public:
  int add() { return bodies_.emplace_back(), static_cast<int>(bodies_.size()) - 1; }
  void define(int rule, Expr body) { bodies_[rule] = std::move(body); }
  const std::vector<Expr>& bodies() const { return bodies_; }

 private:
  std::vector<Expr> bodies_;
};

// ---- Characters -----------------------------------------------------------------------------------------------------

// Inclusive ranges of code points, sorted, not touching, without surrogates.
using CodeRanges = std::vector<std::pair<uint32_t, uint32_t>>;
CodeRanges normalized(CodeRanges ranges);
CodeRanges complement(const CodeRanges& ranges);
Expr utf8_characters(const CodeRanges& ranges);
// The same characters as they stand inside a JSON string: quotes, backslashes and control characters escaped the short way.
Expr json_characters(const CodeRanges& ranges);

}  // namespace hearth::grammar
