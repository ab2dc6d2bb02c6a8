// Finds stop strings in text that arrives in pieces, and holds back what might become one.
//
// The answer does not depend on how the text was cut: the stop string that is complete first wins, the longest of
// several that end at the same byte. Knuth-Morris-Pratt, one automaton a string, so a byte costs O(strings) amortised.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hearth::sampling {

class StopMatcher {
 public:
  StopMatcher() = default;
  // Empty strings are refused by the caller. `include`: the stop string itself belongs to the answer.
  StopMatcher(std::vector<std::string> stops, bool include);

  // Takes a piece; appends to `out` what can be shown now. Returns the index of the stop string that is complete (then
  // nothing after it was taken, and nothing is held), or -1.
  int push(std::string_view piece, std::string& out);
  // Appends what is still held back: the text ended without a stop string.
  void flush(std::string& out);

  bool active() const { return !stop_.empty(); }
  const std::string& stop(int index) const { return stop_[index].text; }
  // Longest text that can ever be held back, in bytes.
  size_t held_max() const { return longest_; }

 private:
  struct Stop {
    std::string text;
    std::vector<int> border;  // KMP failure function
    int state = 0;            // bytes matched
  };
  std::vector<Stop> stop_;
  bool include_ = false;
  size_t longest_ = 0;
  std::string held_;
};

}  // namespace hearth::sampling
