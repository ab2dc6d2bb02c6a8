#include "grammar/json_text.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>

#include "core/utf8.h"

namespace hearth::grammar {
namespace {

// Bounded, since small models fall into writing blanks for ever where they are allowed to.
constexpr int indent_max = 16;

}  // namespace

Expr ws() {
  ByteSet blank;
  blank.add(' ', ' '), blank.add('\t', '\t');
  static const Expr instance = optional(choice({literal(" "), sequence({literal("\n"), repeat(byte_set(blank), 0, indent_max)})}));
  return instance;
}

// As a graph with shared states, since bounds on the length copy it hundreds of times.
Expr string_character() {
  static const Expr instance = [] {
    enum { start, done, one, two, three, e0, ed, f0, f4, escape, hex4, hex3, hex2, hex1, after_d, high2, high1, low, low_u, low_d, low3, count };
    std::vector<GraphEdge> edges;
    auto add = [&](int from, int to, std::initializer_list<std::pair<int, int>> ranges) {
      ByteSet set;
      for (auto [first, last] : ranges) set.add(first, last);
      edges.push_back({from, to, byte_set(set)});
    };
    add(start, done, {{0x20, 0x21}, {0x23, 0x5b}, {0x5d, 0x7f}});
    add(start, one, {{0xc2, 0xdf}});
    add(start, e0, {{0xe0, 0xe0}}), add(start, two, {{0xe1, 0xec}, {0xee, 0xef}}), add(start, ed, {{0xed, 0xed}});
    add(start, f0, {{0xf0, 0xf0}}), add(start, three, {{0xf1, 0xf3}}), add(start, f4, {{0xf4, 0xf4}});
    add(one, done, {{0x80, 0xbf}}), add(two, one, {{0x80, 0xbf}}), add(three, two, {{0x80, 0xbf}});
    add(e0, one, {{0xa0, 0xbf}}), add(ed, one, {{0x80, 0x9f}}), add(f0, two, {{0x90, 0xbf}}), add(f4, two, {{0x80, 0x8f}});
    add(start, escape, {{'\\', '\\'}});
    add(escape, done, {{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', 'b'}, {'f', 'f'}, {'n', 'n'}, {'r', 'r'}, {'t', 't'}});
    add(escape, hex4, {{'u', 'u'}});
    add(hex4, hex3, {{'0', '9'}, {'a', 'c'}, {'A', 'C'}, {'e', 'f'}, {'E', 'F'}}), add(hex4, after_d, {{'d', 'd'}, {'D', 'D'}});
    const std::initializer_list<std::pair<int, int>> any = {{'0', '9'}, {'a', 'f'}, {'A', 'F'}};
    add(hex3, hex2, any), add(hex2, hex1, any), add(hex1, done, any);
    add(after_d, hex2, {{'0', '7'}}), add(after_d, high2, {{'8', '9'}, {'a', 'b'}, {'A', 'B'}});
    add(high2, high1, any), add(high1, low, any), add(low, low_u, {{'\\', '\\'}}), add(low_u, low_d, {{'u', 'u'}});
    add(low_d, low3, {{'d', 'd'}, {'D', 'D'}}), add(low3, hex2, {{'c', 'f'}, {'C', 'F'}});
    return graph(count, std::move(edges), {done});
  }();
  return instance;
}

// State i: i items stand there; the last state loops when there is no most.
Expr array_of(const std::vector<Expr>& first, const Expr& more, int least, int most) {
  int fixed = static_cast<int>(first.size()), states = most >= 0 ? most + 1 : std::max(least, fixed) + 2;
  Expr comma = sequence({literal(","), ws()});
  std::vector<GraphEdge> edges;
  std::vector<int> accepting;
  for (int i = 0; i < states; ++i) {
    if (i >= least) accepting.push_back(i);
    int to = i + 1 < states ? i + 1 : most < 0 ? i : -1;
    const Expr& item = i < fixed ? first[i] : more;
    if (to >= 0 && item->kind != Expression::Kind::nothing) edges.push_back({i, to, i == 0 ? item : sequence({comma, item})});
  }
  return sequence({literal("["), ws(), graph(states, std::move(edges), std::move(accepting)), ws(), literal("]")});
}

// States 0..n: nothing written yet, before member i; n+1..2n+1: something was written.
Expr object_of(const std::vector<std::pair<Expr, bool>>& members, const Expr& other) {
  int n = static_cast<int>(members.size());
  Expr comma = sequence({literal(","), ws()});
  std::vector<GraphEdge> edges;
  for (int i = 0; i < n; ++i) {
    const auto& [pair, must] = members[i];
    edges.push_back({i, n + 2 + i, pair});
    edges.push_back({n + 1 + i, n + 2 + i, sequence({comma, pair})});
    if (!must) edges.push_back({i, i + 1, literal("")}), edges.push_back({n + 1 + i, n + 2 + i, literal("")});
  }
  if (other->kind != Expression::Kind::nothing) {
    edges.push_back({n, 2 * n + 1, other});
    edges.push_back({2 * n + 1, 2 * n + 1, sequence({comma, other})});
  }
  return sequence({literal("{"), ws(), graph(2 * n + 2, std::move(edges), {n, 2 * n + 1}), ws(), literal("}")});
}

// At least so many states come out of a node's own characters and all others.
constexpr int node_states_min = 8;

// A walk over the trie of `names` in which leaving it is always allowed, ending on a name is not.
Expr other_name(const std::vector<std::string>& names) {
  Expr any = utf8_characters(complement(normalized({{0, 0x1f}, {'"', '"'}, {'\\', '\\'}})));
  if (names.empty()) return sequence({literal("\""), repeat(any, 0, -1), literal("\"")});
  std::map<std::pair<int, uint32_t>, int> next;  // by node and character
  int nodes = 1;
  std::map<int, CodeRanges> used;
  std::set<int> ends;
  std::vector<GraphEdge> edges;
  for (const std::string& name : names) {
    int at = 0;
    bool plain = true;
    for (size_t i = 0; i < name.size();) {
      const utf8::Decoded character = utf8::decode(name, i);
      const uint32_t code = character.code;
      if (code < 0x20 || code == '"' || code == '\\') { plain = false; break; }  // never a plain name
      auto [found, fresh] = next.try_emplace({at, code}, nodes);
      if (fresh) {
        if (++nodes > states_max / node_states_min) return nullptr;
        edges.push_back({at, found->second, literal(name.substr(i, character.length))});
        used[at].push_back({code, code});
      }
      at = found->second;
      i += character.length;
    }
    if (plain) ends.insert(at);
  }
  int free_state = nodes;
  std::vector<int> accepting = {free_state};
  for (int node = 0; node < nodes; ++node) {
    CodeRanges out = used[node];
    out.insert(out.end(), {{0, 0x1f}, {'"', '"'}, {'\\', '\\'}});
    edges.push_back({node, free_state, utf8_characters(complement(normalized(out)))});
    if (!ends.contains(node)) accepting.push_back(node);
  }
  edges.push_back({free_state, free_state, any});
  return sequence({literal("\""), graph(free_state + 1, std::move(edges), std::move(accepting)), literal("\"")});
}

}  // namespace hearth::grammar
