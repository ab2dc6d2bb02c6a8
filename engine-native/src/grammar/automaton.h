// The automaton behind a grammar: an NFA over bytes whose edges may call rules, run with explicit stacks and
// determinised as it is used.
//
//   state   a position inside a rule.
//   frame   (state, frame below): a stack. Equal stacks are one number, so comparing them is comparing numbers.
//   config  the set of stacks that are possible after some bytes: one number too, with a table of its successors.
//
// Masks. What a token does from the top of a stack is known without what lies below as long as it does not leave the
// rule it began in. For each state that is worked out once (`Local`): tokens accepted whatever lies below, and tokens that
// leave the rule midway, for which the whole stack must be asked. A config's mask is the union over its stacks, plus the
// few of the second kind that go through. Copies of one repetition differ in long tokens only: the others come from a
// twin. So the body of all strings is walked over the vocabulary once, not once a property. The idea of splitting by context is that of XGrammar (Dong et al. 2024); the lazy configs are a subset
// construction over a graph-structured stack.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/status.h"
#include "grammar/expression.h"
#include "grammar/grammar.h"

namespace hearth::grammar {

inline constexpr int config_stacks_max = 512;   // possible at once: beyond that the grammar is too ambiguous
inline constexpr int closure_max = 20000;       // positions looked at to find them
inline constexpr int32_t dead = -1;

class Automaton {
 public:
  static Result<std::unique_ptr<Automaton>> build(const Rules& rules, std::shared_ptr<const TokenTrie> trie);

  const TokenTrie& trie() const { return *trie_; }
  int32_t start();
  // The config after one more byte, or `dead`.
  int32_t step(int32_t config, uint8_t byte);
  int32_t run(int32_t config, std::string_view bytes);
  bool can_finish(int32_t config) const { return config >= 0 && configs_[config].can_finish; }
  bool can_continue(int32_t config) const { return config >= 0 && !configs_[config].frames.empty(); }
  std::span<const uint32_t> mask(int32_t config);
  // Config numbers of another epoch mean nothing: the cache was emptied because it had grown too large.
  uint64_t epoch() const { return epoch_; }
  // Empties the caches when they are too large. Call between tokens, then look at epoch().
  void trim();
  // Works out the masks of states ahead of use, most expensive first, for at most this long.
  void warm_up(double milliseconds);
  size_t states() const { return state_.size(); }

 private:
  friend class AutomatonBuilder;
  struct Edge {
    int32_t set = -1;   // byte edge, or -1
    int32_t rule = -1;  // call, or -1; neither: empty
    int32_t target = 0;
  };
  struct State {
    int32_t first_edge = 0, edge_count = 0;
    int32_t alias = 0;        // a state that does the same with tokens of fewer than `differs_from` bytes
    int32_t differs_from = INT32_MAX;
    bool has_bytes = false, accepts = false;
  };
  struct Frame { int32_t state, below; };
  struct Config {
    std::vector<int32_t> frames;      // sorted
    bool can_finish = false;
    std::unique_ptr<int32_t[]> next;  // [256]; unknown = not worked out yet
    int32_t mask = -1;
  };
  struct Local {
    bool done = false;
    std::vector<uint32_t> accepted;       // mask, when there are many
    std::vector<int32_t> accepted_ids;    // when there are few
    std::vector<int32_t> leaving;         // tokens that leave the rule midway
  };

  int32_t frame(int32_t state, int32_t below);
  void close(int32_t state, int32_t below, std::vector<int32_t>& frames, bool& finish);
  int32_t intern(std::vector<int32_t>& frames, bool finish);
  int32_t work_out_step(int32_t config, uint8_t byte);
  // The state whose Local this one uses.
  int32_t local_of(int32_t state) const { return state_[state].differs_from > trie_->longest() ? state_[state].alias : state; }
  const Local& local(int32_t state);
  void walk(int32_t config, int shortest, Local& out);
  std::span<const uint32_t> keep_mask(int32_t config, std::vector<uint32_t> mask);
  void take_short_tokens(const Local& from, int below, Local& out) const;
  void clear();

  std::shared_ptr<const TokenTrie> trie_;
  std::vector<State> state_;
  std::vector<Edge> edge_;
  std::vector<ByteSet> sets_;
  std::vector<int32_t> rule_start_;
  std::vector<Local> local_;

  uint64_t epoch_ = 1;
  std::vector<Frame> frames_;  // 0 is the bottom
  std::unordered_map<uint64_t, int32_t> frame_index_;
  std::vector<Config> configs_;
  std::unordered_multimap<uint64_t, int32_t> config_index_;
  std::vector<std::vector<uint32_t>> masks_;  // a ring: the oldest gives way
  std::vector<int32_t> mask_of_;              // whose each is
  size_t next_mask_ = 0;
  std::unordered_set<uint64_t> visited_;              // of close(): the positions seen for one byte
  std::vector<std::pair<int32_t, int32_t>> pending_;
  std::vector<int32_t> scratch_, walk_config_;
  std::vector<uint32_t> scratch_mask_;
  int tables_ = 0;
};

}  // namespace hearth::grammar
