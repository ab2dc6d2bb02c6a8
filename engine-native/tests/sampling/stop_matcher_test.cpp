#include "sampling/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

using hearth::sampling::StopMatcher;

namespace {

struct Outcome {
  std::string text;
  int stop = -1;
  bool operator==(const Outcome&) const = default;
};

Outcome feed(const std::vector<std::string>& stops, const std::vector<std::string>& pieces, bool include = false) {
  StopMatcher matcher(stops, include);
  Outcome outcome;
  for (const std::string& piece : pieces)
    if ((outcome.stop = matcher.push(piece, outcome.text)) >= 0) return outcome;
  matcher.flush(outcome.text);
  return outcome;
}

// What a matcher that sees the whole text would say: the first end, then the longest.
Outcome oracle(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    int best = -1;
    for (size_t i = 0; i < stops.size(); ++i)
      if (end >= stops[i].size() && text.compare(end - stops[i].size(), stops[i].size(), stops[i]) == 0 &&
          (best < 0 || stops[i].size() > stops[best].size()))
        best = static_cast<int>(i);
    if (best >= 0) return {text.substr(0, end - stops[best].size()), best};
  }
  return {text, -1};
}

}  // namespace

TEST(StopMatcher, CutsBeforeTheStopString) {
  EXPECT_EQ(feed({"END"}, {"hello E", "N", "D more"}), (Outcome{"hello ", 0}));
  EXPECT_EQ(feed({"END"}, {"hello E", "N", "D more"}, true), (Outcome{"hello END", 0}));
}

TEST(StopMatcher, ReleasesWhatDidNotBecomeAStop) {
  StopMatcher matcher({"\n\nUser:"}, false);
  std::string out;
  EXPECT_EQ(matcher.push("a\n\nUs", out), -1);
  EXPECT_EQ(out, "a");
  EXPECT_EQ(matcher.push("age", out), -1);
  EXPECT_EQ(out, "a\n\nUsage");
  EXPECT_EQ(matcher.push("\n", out), -1);
  EXPECT_EQ(out, "a\n\nUsage");
  matcher.flush(out);
  EXPECT_EQ(out, "a\n\nUsage\n");
}

TEST(StopMatcher, WithoutStopsTextPassesThrough) {
  EXPECT_EQ(feed({}, {"a", "b"}), (Outcome{"ab", -1}));
}

TEST(StopMatcher, NeverShowsPartOfAStopAndDoesNotDependOnTheCut) {
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops(1 + random() % 3);
    for (std::string& stop : stops)
      for (int i = 1 + random() % 4; i > 0; --i) stop += static_cast<char>('a' + random() % 2);
    std::string text;
    for (int i = random() % 14; i > 0; --i) text += static_cast<char>('a' + random() % 3);
    Outcome want = oracle(stops, text);
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      size_t size = std::min<size_t>(1 + random() % 4, text.size() - at);
      pieces.push_back(text.substr(at, size));
      at += size;
    }
    StopMatcher matcher(stops, false);
    std::string shown;
    int stop = -1;
    for (const std::string& piece : pieces) {
      stop = matcher.push(piece, shown);
      ASSERT_TRUE(want.text.starts_with(shown)) << text;
      if (stop >= 0) break;
    }
    if (stop < 0) matcher.flush(shown);
    ASSERT_EQ(shown, want.text) << text;
    ASSERT_EQ(stop < 0, want.stop < 0);
    if (stop >= 0) {
      ASSERT_EQ(stops[stop].size(), stops[want.stop].size());
    }
  }
}
