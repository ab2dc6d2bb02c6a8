#include "sampling/stop_matcher.h"

#include <algorithm>

namespace hearth::sampling {

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include) : include_(include) {
  for (std::string& text : stops) {
    Stop stop;
    stop.border.assign(text.size() + 1, 0);
    for (size_t i = 1, k = 0; i < text.size(); ++i) {
      while (k > 0 && text[i] != text[k]) k = stop.border[k];
      if (text[i] == text[k]) ++k;
      stop.border[i + 1] = static_cast<int>(k);
    }
    longest_ = std::max(longest_, text.size());
    stop.text = std::move(text);
    stop_.push_back(std::move(stop));
  }
  held_.reserve(longest_ + 256);
}

int StopMatcher::push(std::string_view piece, std::string& out) {
  if (stop_.empty()) {
    out.append(piece);
    return -1;
  }
  for (char byte : piece) {
    held_.push_back(byte);
    int found = -1;
    size_t keep = 0;
    for (size_t i = 0; i < stop_.size(); ++i) {
      Stop& stop = stop_[i];
      while (stop.state > 0 && stop.text[stop.state] != byte) stop.state = stop.border[stop.state];
      if (stop.text[stop.state] == byte) ++stop.state;
      keep = std::max(keep, static_cast<size_t>(stop.state));
      if (stop.state == static_cast<int>(stop.text.size()) &&
          (found < 0 || stop.text.size() > stop_[found].text.size()))
        found = static_cast<int>(i);
    }
    if (found >= 0) {
      out.append(held_, 0, held_.size() - (include_ ? 0 : stop_[found].text.size()));
      held_.clear();
      return found;
    }
    if (held_.size() > keep) {
      out.append(held_, 0, held_.size() - keep);
      held_.erase(0, held_.size() - keep);
    }
  }
  return -1;
}

void StopMatcher::flush(std::string& out) {
  out.append(held_);
  held_.clear();
}

}  // namespace hearth::sampling
