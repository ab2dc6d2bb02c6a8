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

}  // namespace hearth::runtime
