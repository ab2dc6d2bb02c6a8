// Speculation without a second model: proposes tokens that a step verifies beside the one it draws. Two sources: what
// followed the last words where they stood before (prompt lookup), and a text that the client expects (`prediction`).
// Both cost a scan of some thousand tokens and are exact, since a proposal only counts when it equals the sample.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace hearth::runtime {

inline constexpr int draft_tokens_max = 48;
inline constexpr int draft_matched_max = 32;  // tokens before a proposal that are compared with the text's end

// What a source says comes next.
struct Proposal {
  std::span<const int32_t> tokens;  // of the source, as many as there are; no images' rows
  int matched = 0;                  // tokens before them that agree with the text's end, up to draft_matched_max
  bool repeats = false;             // they end where the text does, so what follows them is they again
};

// Fills `draft` with the first `count` tokens of the proposal, fewer where it has no more.
void take_draft(const Proposal& proposal, int count, std::vector<int32_t>& draft);

// Prompt lookup: what followed the occurrence of the last tokens, of at least two, that agrees with the text furthest back;
// of equals the latest. Looks 8,192 tokens back.
Proposal look_up(std::span<const int32_t> tokens);

// A text that is expected as the answer, or as a part of it, with changes: where in it the answer has come to.
class Prediction {
 public:
  void set(std::vector<int32_t> tokens);
  bool empty() const { return tokens_.empty(); }
  // Follows what was generated since the last call; `generated` is all of it.
  void follow(std::span<const int32_t> generated);
  Proposal next() const;

 private:
  void find(std::span<const int32_t> generated);

  std::vector<int32_t> tokens_;
  size_t place_ = 0;     // of the token that is expected next
  size_t left_ = 0;      // where the answer left the prediction last
  size_t followed_ = 0;  // tokens of the answer
  int matched_ = 0;      // tokens before place_ that the answer ends with
  size_t strayed_ = 0;   // tokens since then; 0 = the answer follows the prediction
};

// How likely the next proposed token is to be accepted, for one request, by how far back the proposal agrees with the text:
// its own past, forgotten slowly.
class Acceptance {
 public:
  double probability(int matched) const { return probability_[class_of(matched)]; }
  void saw(int matched, bool accepted);
  // Nothing was proposed because it would not have paid: a text may change its ways.
  void skipped(int matched);

 private:
  // Matched tokens: none, 1, 2, 3, 4-7, 8-15, 16 and more.
  static constexpr int classes = 7;
  static constexpr std::array<double, classes> initial = {0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95};
  static int class_of(int matched) { return matched < 4 ? matched : matched < 8 ? 4 : matched < 16 ? 5 : 6; }
  std::array<double, classes> probability_ = initial;
};

// Whether and how far a proposal pays, from what steps were measured to take. Rows more in a step cost little while reading
// the weights is what a step takes, nearly a step of its own each where computing is, and on a GPU the first may cost more
// than all others, as such a step is none of the captured ones: so it is measured by the number of rows, not assumed.
// docs/performance.md (Text that is known beforehand) has what it gains.
class DraftPolicy {
 public:
  // A step that only decoded: `sequences` of them, with `drafts` rows of proposals in all.
  void observe(int sequences, int drafts, double seconds);
  // The length of a proposal with which the most tokens come in a second when each is accepted with probability
  // `acceptance`; 0 where none is better.
  int length(double acceptance, int sequences) const;

 private:
  struct Measured {
    double seconds = -1;  // that these rows add to a step; -1 = not measured
    uint64_t at = 0;      // the step
  };
  static constexpr int sizes = 33;
  // Rows of proposals that are told apart: the last of each class.
  static constexpr std::array<int, 12> rows = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};
  static int size_of(int sequences) { return sequences < sizes ? sequences : sizes - 1; }
  static size_t class_of(int drafts);
  double believed(const Measured& measured, double optimistic) const;
  double added_seconds(int drafts, double token) const;

  uint64_t steps_ = 0;
  double plain_seconds_[sizes] = {};  // of a step without proposals, by sequences; 0 = not measured
  std::array<Measured, rows.size()> added_;
};

}  // namespace hearth::runtime
