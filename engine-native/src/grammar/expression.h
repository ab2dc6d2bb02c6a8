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
  int64_t states = 0;           // of the automaton that it takes, without the rules it calls; at most states_counted_max
};
inline constexpr int64_t states_counted_max = int64_t{1} << 40;

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

inline constexpr int states_max = 120000;  // of one grammar's automaton
// JSON values copied and compared while schemas are spread out, places of a pattern's product looked at: about a second's
// work, in one grammar. Choices within choices multiply, and a short schema may name any number of them.
inline constexpr int64_t work_max = 8'000'000;

// A grammar under construction: rule 0 is where it begins. Rules may be called before they are defined.
class Rules {
 public:
  int add() { return bodies_.emplace_back(), static_cast<int>(bodies_.size()) - 1; }
  void define(int rule, Expr body) { bodies_[rule] = std::move(body); }
  const std::vector<Expr>& bodies() const { return bodies_; }
  // A short spec can ask for the same again and again, and for ever more within it. So who makes expressions out of one
  // counts their states as they are made, and work on the way there; false once it is too much for one grammar.
  bool take_states(int64_t states) { return (states_ += states) <= states_max; }
  bool spend(int64_t work) { return (work_left_ -= work) >= 0; }

 private:
  std::vector<Expr> bodies_;
  int64_t states_ = 0, work_left_ = work_max;
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
