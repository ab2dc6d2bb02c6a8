// Prompt lookup: proposes that what followed the last words where they stood before follows again. Costs a scan of a few
// thousand tokens, needs no second model, and is exact, since a proposal only counts when it equals the sample.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hearth::runtime {

inline constexpr int draft_tokens_max = 8;

// Fills `draft` with at most `count` tokens that followed the latest earlier occurrence of the last three tokens (two when
// three are nowhere). Leaves it empty when there is none.
void propose_draft(std::span<const int32_t> tokens, int count, std::vector<int32_t>& draft);

// Whether a proposal pays, from what steps were measured to take. A row more in a step costs little while reading the
// weights is what a step takes, and nearly a step of its own where computing is: so it is measured, not assumed.
class DraftPolicy {
 public:
  // A step that only decoded: `sequences` of them, with `drafts` rows of proposals in all.
  void observe(int sequences, int drafts, double seconds);
  // The longest proposal whose last token still pays when each is accepted with probability `acceptance`.
  int length(double acceptance, int sequences) const;

 private:
  static constexpr int sizes = 33;
  static int size_of(int sequences) { return sequences < sizes ? sequences : sizes - 1; }
  double plain_seconds_[sizes] = {};  // of a step without proposals, by sequences; 0 = not measured
  double row_seconds_ = -1;           // what a proposed row adds; -1 = not measured
};

// How likely the next proposed token is to be accepted, for one request: its own past, forgotten slowly.
class Acceptance {
 public:
  double probability() const { return probability_; }
  void saw(bool accepted) { probability_ += ((accepted ? 1 : 0) - probability_) / 8; }
  // None was looked for because none would have paid: a text may change its ways.
  void skipped() { probability_ += (initial - probability_) / 128; }

 private:
  static constexpr double initial = 0.7;
  double probability_ = initial;
};

}  // namespace hearth::runtime
