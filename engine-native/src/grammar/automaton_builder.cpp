// Rules of expressions to the flat NFA: Thompson's construction, with repeated bodies copied.
#include <algorithm>
#include <array>
#include <map>
#include <string>

#include "grammar/automaton.h"

namespace hearth::grammar {

class AutomatonBuilder {
 public:
  explicit AutomatonBuilder(const Rules& rules) : rules_(rules) {}

  Status run(Automaton& out) {
    for (const Expr& body : rules_.bodies()) {
      int start = state();
      starts_.push_back(start);
      int end = emit(*body, start);
      if (overflow_) return invalid("the grammar is too large");
      accepts_.push_back(end);
    }
    HEARTH_TRY(check_productive());
    HEARTH_TRY(check_left_recursion());
    flatten(out);
    return Status::ok();
  }

 private:
  struct Edge { int set, rule, target; };
  struct Twin { int state, differs_from; };

  int state() {
    if (edges_.size() >= states_max) return overflow_ = true, 0;
    edges_.emplace_back();
    alias_.push_back({static_cast<int>(edges_.size()) - 1, INT32_MAX});
    return static_cast<int>(edges_.size()) - 1;
  }
  void empty(int from, int to) { edges_[from].push_back({-1, -1, to}); }
  int set_index(const ByteSet& set) {
    const auto [at, fresh] = set_index_.try_emplace(set.words, static_cast<int>(sets_.size()));
    if (fresh) sets_.push_back(set);
    return at->second;
  }
  int byte_edge(int from, const ByteSet& set) {
    int to = state();
    edges_[from].push_back({set_index(set), -1, to});
    return to;
  }

  // Adds the expression behind `from`; returns the state behind it.
  int emit(const Expression& e, int from) {
    if (overflow_) return from;
    switch (e.kind) {
      case Expression::Kind::nothing: return state();
      case Expression::Kind::literal: return emit_literal(e.text, from);
      case Expression::Kind::bytes: return byte_edge(from, e.set);
      case Expression::Kind::sequence:
        for (const Expr& part : e.parts) from = emit(*part, from);
        return from;
      case Expression::Kind::choice: return emit_choice(e, from);
      case Expression::Kind::repeat: return emit_repeat(e, from);
      case Expression::Kind::graph: return emit_graph(e, from);
      case Expression::Kind::call: {
        int to = state();
        edges_[from].push_back({-1, e.rule, to});
        return to;
      }
    }
    return from;
  }

  int emit_literal(const std::string& text, int from) {
    for (char c : text) {
      ByteSet set;
      set.add(static_cast<uint8_t>(c), static_cast<uint8_t>(c));
      from = byte_edge(from, set);
    }
    return from;
  }

  int emit_choice(const Expression& e, int from) {
    int end = state();
    for (const Expr& part : e.parts) {
      int begin = state();
      empty(from, begin);
      empty(emit(*part, begin), end);
    }
    return end;
  }

  // Copies share the work on masks: tokens too short to reach from one to where the number of repetitions matters, to the
  // least or to the most, cannot tell it from the first of its kind.
  int emit_repeat(const Expression& e, int from) {
    const Expression& body = *e.parts[0];
    int end = state();
    int copies = e.max < 0 ? e.min : e.max, first_before = -1, first_inside = -1;
    for (int i = 0; i < copies; ++i) {
      int begin = state();
      empty(from, begin);
      if (i >= e.min) empty(begin, end);
      from = emit(body, begin);
      if (overflow_) return end;
      int* twin = i < e.min ? &first_before : i > e.min ? &first_inside : nullptr;
      if (!twin) continue;
      if (*twin < 0) *twin = begin;
      else make_twins(begin, *twin, (i < e.min ? e.min : e.max) - i - 1);
    }
    if (e.max >= 0) {
      empty(from, end);
      return end;
    }
    int loop = state();
    empty(from, loop);
    empty(loop, end);
    empty(emit(body, loop), loop);
    return end;
  }

  // The states from `begin` on do what those from `twin` on do, but for tokens of `differs_from` bytes and more.
  void make_twins(int begin, int twin, int differs_from) {
    if (differs_from < 2) return;
    for (int k = 0; begin + k < static_cast<int>(edges_.size()); ++k)
      alias_[begin + k] = {alias_[twin + k].state, std::min(alias_[twin + k].differs_from, differs_from)};
  }

  int emit_graph(const Expression& e, int from) {
    int base = static_cast<int>(edges_.size());
    for (int i = 0; i < e.max; ++i) state();
    int end = state();
    if (overflow_) return end;
    empty(from, base);
    for (const GraphEdge& edge : e.edges) {
      if (edge.label->kind == Expression::Kind::bytes) {
        edges_[base + edge.from].push_back({set_index(edge.label->set), -1, base + edge.to});
        continue;
      }
      int begin = state();
      if (overflow_) return end;
      empty(base + edge.from, begin);
      empty(emit(*edge.label, begin), base + edge.to);
    }
    for (int accepting : e.accepting) empty(base + accepting, end);
    return end;
  }

  // Every rule can be completed: masks count on it that what may begin may also end.
  Status check_productive() {
    std::vector<bool> productive(starts_.size(), false);
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t r = 0; r < starts_.size(); ++r)
        if (!productive[r] && reaches(starts_[r], accepts_[r], productive)) productive[r] = changed = true;
    }
    if (!productive[0]) return invalid("nothing fulfils the grammar");
    prune(productive);
    return Status::ok();
  }

  bool reaches(int from, int to, const std::vector<bool>& productive) {
    std::vector<bool> seen(edges_.size(), false);
    std::vector<int> stack = {from};
    seen[from] = true;
    while (!stack.empty()) {
      int at = stack.back();
      stack.pop_back();
      if (at == to) return true;
      for (const Edge& edge : edges_[at])
        if ((edge.rule < 0 || productive[edge.rule]) && !seen[edge.target]) seen[edge.target] = true, stack.push_back(edge.target);
    }
    return false;
  }

  // Takes out edges that lead nowhere: into rules or states from which the rule's end cannot be reached.
  void prune(const std::vector<bool>& productive) {
    std::vector<std::vector<int>> back(edges_.size());
    for (size_t s = 0; s < edges_.size(); ++s)
      for (const Edge& edge : edges_[s])
        if (edge.rule < 0 || productive[edge.rule]) back[edge.target].push_back(static_cast<int>(s));
    std::vector<bool> live(edges_.size(), false);
    std::vector<int> stack(accepts_.begin(), accepts_.end());
    for (int s : stack) live[s] = true;
    while (!stack.empty()) {
      int at = stack.back();
      stack.pop_back();
      for (int s : back[at])
        if (!live[s]) live[s] = true, stack.push_back(s);
    }
    for (auto& list : edges_)
      std::erase_if(list, [&](const Edge& edge) { return !live[edge.target] || (edge.rule >= 0 && !productive[edge.rule]); });
  }

  std::vector<bool> nullable_rules() {
    std::vector<bool> nullable(starts_.size(), false);
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t r = 0; r < starts_.size(); ++r) {
        if (nullable[r]) continue;
        std::vector<bool> seen(edges_.size(), false);
        std::vector<int> stack = {starts_[r]};
        seen[starts_[r]] = true;
        while (!stack.empty()) {
          int at = stack.back();
          stack.pop_back();
          if (at == accepts_[r]) nullable[r] = true;
          for (const Edge& edge : edges_[at])
            if (edge.set < 0 && (edge.rule < 0 || nullable[edge.rule]) && !seen[edge.target]) seen[edge.target] = true, stack.push_back(edge.target);
        }
        changed |= nullable[r];
      }
    }
    return nullable;
  }

  // A rule that can call itself before a byte was read would be entered for ever.
  Status check_left_recursion() {
    std::vector<bool> nullable = nullable_rules();
    std::vector<std::vector<int>> first(starts_.size());
    for (size_t r = 0; r < starts_.size(); ++r) {
      std::vector<bool> seen(edges_.size(), false);
      std::vector<int> stack = {starts_[r]};
      seen[starts_[r]] = true;
      while (!stack.empty()) {
        int at = stack.back();
        stack.pop_back();
        for (const Edge& edge : edges_[at]) {
          if (edge.set >= 0) continue;
          if (edge.rule >= 0) first[r].push_back(edge.rule);
          if ((edge.rule < 0 || nullable[edge.rule]) && !seen[edge.target]) seen[edge.target] = true, stack.push_back(edge.target);
        }
      }
    }
    std::vector<int> color(starts_.size(), 0);
    for (size_t r = 0; r < starts_.size(); ++r)
      if (has_cycle(static_cast<int>(r), first, color)) return invalid("the grammar refers to itself without any text between");
    return Status::ok();
  }

  static bool has_cycle(int root, const std::vector<std::vector<int>>& next, std::vector<int>& color) {
    if (color[root] != 0) return false;
    std::vector<std::pair<int, size_t>> stack = {{root, 0}};
    color[root] = 1;
    while (!stack.empty()) {
      auto& [at, i] = stack.back();
      if (i == next[at].size()) {
        color[at] = 2;
        stack.pop_back();
        continue;
      }
      int to = next[at][i++];
      if (color[to] == 1) return true;
      if (color[to] == 0) color[to] = 1, stack.push_back({to, 0});
    }
    return false;
  }

  void flatten(Automaton& out) {
    out.state_.resize(edges_.size());
    for (size_t s = 0; s < edges_.size(); ++s) {
      Automaton::State& flat = out.state_[s];
      flat.first_edge = static_cast<int32_t>(out.edge_.size());
      flat.edge_count = static_cast<int32_t>(edges_[s].size());
      flat.alias = alias_[s].state;
      flat.differs_from = alias_[s].differs_from;
      for (const Edge& edge : edges_[s]) {
        flat.has_bytes |= edge.set >= 0;
        out.edge_.push_back({edge.set, edge.rule, edge.target});
      }
    }
    for (int s : accepts_) out.state_[s].accepts = true;
    out.sets_ = std::move(sets_);
    out.rule_start_.assign(starts_.begin(), starts_.end());
    out.local_.resize(edges_.size());
  }

  const Rules& rules_;
  bool overflow_ = false;
  std::vector<std::vector<Edge>> edges_;
  std::vector<Twin> alias_;
  std::vector<int> starts_, accepts_;
  std::vector<ByteSet> sets_;
  std::map<std::array<uint64_t, 4>, int> set_index_;
};

Result<std::unique_ptr<Automaton>> Automaton::build(const Rules& rules, std::shared_ptr<const TokenTrie> trie) {
  auto automaton = std::make_unique<Automaton>();
  AutomatonBuilder builder(rules);
  automaton->trie_ = std::move(trie);
  HEARTH_TRY(builder.run(*automaton));
  automaton->clear();
  return automaton;
}

}  // namespace hearth::grammar
