// The image arena's rows, handed out in contiguous runs.
#pragma once

#include <map>
#include <optional>

namespace hearth::model {

class RowAllocator {
 public:
  explicit RowAllocator(int capacity) : capacity_(capacity) {}
  // First row of a free run of `count`, the lowest there is.
  std::optional<int> take(int count) {
    int begin = 0;
    for (const auto& [first, length] : used_) {
      if (first - begin >= count) break;
      begin = first + length;
    }
    if (count < 1 || begin + count > capacity_) return std::nullopt;
    used_[begin] = count;
    return begin;
  }
  // Gives a run back; false when there is none at `first`.
  bool give_back(int first) { return used_.erase(first) == 1; }
  int used() const {
    int total = 0;
    for (const auto& [first, length] : used_) total += length;
    return total;
  }

 private:
  int capacity_;
  std::map<int, int> used_;  // first row → length
};

}  // namespace hearth::model
