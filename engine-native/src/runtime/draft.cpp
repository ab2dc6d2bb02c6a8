#include "runtime/draft.h"

#include <algorithm>

namespace hearth::runtime {
namespace {

constexpr int lookback_tokens = 8192;

// Index just behind the latest earlier occurrence of the last n tokens, or -1.
int find_ngram(std::span<const int32_t> tokens, int n) {
  int size = static_cast<int>(tokens.size()), oldest = std::max(0, size - lookback_tokens);
  const int32_t* tail = tokens.data() + size - n;
  for (int at = size - n - 1; at >= oldest; --at)
    if (tokens[at] == tail[0] && std::equal(tail, tail + n, tokens.data() + at)) return at + n;
  return -1;
}

}  // namespace

void propose_draft(std::span<const int32_t> tokens, int count, std::vector<int32_t>& draft) {
  draft.clear();
  for (int n : {3, 2}) {
    if (static_cast<int>(tokens.size()) <= n) continue;
    int at = find_ngram(tokens, n);
    if (at < 0) continue;
    for (; at < static_cast<int>(tokens.size()) && count > 0 && tokens[at] >= 0; ++at, --count) draft.push_back(tokens[at]);
    return;
  }
}

void DraftPolicy::observe(int sequences, int drafts, double seconds) {
  double& plain = plain_seconds_[size_of(sequences)];
  if (drafts == 0) {
    plain = plain == 0 ? seconds : plain + (seconds - plain) / 8;
  } else if (plain > 0) {
    const double row = std::max(0.0, seconds - plain) / drafts;
    row_seconds_ = row_seconds_ < 0 ? row : row_seconds_ + (row - row_seconds_) / 8;
  }
}

int DraftPolicy::length(double acceptance, int sequences) const {
  const double plain = plain_seconds_[size_of(sequences)];
  if (plain == 0) return 0;  // the first step is one to compare with
  const double token = plain / sequences, row = row_seconds_ < 0 ? token / 8 : row_seconds_;
  double reached = acceptance;
  int length = 0;
  for (; length < draft_tokens_max && reached * token > row; reached *= acceptance) ++length;
  return length;
}

}  // namespace hearth::runtime
