#include "tokenizer/split.h"

#include <algorithm>

namespace hearth::tokenizer {
namespace {

struct Span {
  uint32_t begin, end;
  bool matched;
};

// The whole of [0, size) as alternating gaps and matches.
std::vector<Span> cover(const std::vector<Match>& matches, uint32_t size, bool inverted) {
  std::vector<Span> spans;
  spans.reserve(matches.size() * 2 + 1);
  uint32_t at = 0;
  for (const Match& m : matches) {
    if (at < m.begin) spans.push_back({at, m.begin, inverted});
    if (m.begin < m.end) spans.push_back({m.begin, m.end, !inverted});
    at = m.end;
  }
  if (at < size) spans.push_back({at, size, inverted});
  return spans;
}

void merge_with_previous(const std::vector<Span>& spans, std::vector<Piece>& out) {
  size_t first = out.size();
  bool previous_matched = false;
  for (const Span& s : spans) {
    if (s.matched && !previous_matched && out.size() > first) out.back().end = s.end;
    else out.push_back({s.begin, s.end});
    previous_matched = s.matched;
  }
}

void merge_with_next(const std::vector<Span>& spans, std::vector<Piece>& out) {
  size_t first = out.size();
  bool previous_matched = false;
  for (auto s = spans.rbegin(); s != spans.rend(); ++s) {
    if (s->matched && !previous_matched && out.size() > first) out.back().begin = s->begin;
    else out.push_back({s->begin, s->end});
    previous_matched = s->matched;
  }
  std::reverse(out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
}

void merge_equal(const std::vector<Span>& spans, std::vector<Piece>& out) {
  for (size_t i = 0; i < spans.size(); ++i) {
    if (i > 0 && spans[i].matched == spans[i - 1].matched) out.back().end = spans[i].end;
    else out.push_back({spans[i].begin, spans[i].end});
  }
}

}  // namespace

void split_at(const std::vector<Match>& matches, uint32_t size, SplitBehaviour behaviour, bool inverted, uint32_t offset,
              std::vector<Piece>& pieces) {
  std::vector<Span> spans = cover(matches, size, inverted);
  size_t first = pieces.size();
  switch (behaviour) {
    case SplitBehaviour::merged_with_previous: merge_with_previous(spans, pieces); break;
    case SplitBehaviour::merged_with_next: merge_with_next(spans, pieces); break;
    case SplitBehaviour::contiguous: merge_equal(spans, pieces); break;
    case SplitBehaviour::removed:
    case SplitBehaviour::isolated:
      for (const Span& s : spans) {
        if (behaviour == SplitBehaviour::isolated || !s.matched) pieces.push_back({s.begin, s.end});
      }
  }
  for (size_t i = first; i < pieces.size(); ++i) pieces[i] = {pieces[i].begin + offset, pieces[i].end + offset};
}

}  // namespace hearth::tokenizer
