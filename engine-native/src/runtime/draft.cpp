#include "runtime/draft.h"

#include <algorithm>
#include <cmath>

namespace hearth::runtime {
namespace {

constexpr int lookback_tokens = 8192;
constexpr int matched_min = 2;            // fewer agree everywhere
constexpr size_t substituted_max = 8;     // tokens of a change that may have replaced as many
constexpr int matched_at_start = 8;       // how much a prediction is trusted before a token is drawn
constexpr double forgetting_steps = 1024; // after which a measurement is believed half
constexpr double unmeasured_rows = 8;     // rows that are taken to cost a token's time until they are measured
constexpr double worthwhile = 1.02;       // less is noise, and steps with proposals do not overlap with what follows them

// How many tokens before `end` in `text` agree with the end of `tail`, up to draft_matched_max.
int agreeing(std::span<const int32_t> text, size_t end, std::span<const int32_t> tail) {
  const size_t most = std::min({end, tail.size(), static_cast<size_t>(draft_matched_max)});
  size_t matched = 0;
  while (matched < most && text[end - 1 - matched] == tail[tail.size() - 1 - matched]) ++matched;
  return static_cast<int>(matched);
}

bool is_image_row(int32_t token) { return token < 0; }

}  // namespace

Proposal look_up(std::span<const int32_t> tokens) {
  const size_t size = tokens.size();
  if (size <= matched_min || is_image_row(tokens.back())) return {};
  const std::span<const int32_t> text = tokens.subspan(size > lookback_tokens ? size - lookback_tokens : 0);
  size_t best = 0;
  int matched = matched_min - 1;
  for (size_t end = text.size() - 1; end >= matched_min && matched < draft_matched_max; --end) {
    if (text[end - 1] != text.back()) continue;
    if (const int agree = agreeing(text, end, text); agree > matched) matched = agree, best = end;
  }
  if (best == 0) return {};
  const auto next = text.begin() + static_cast<std::ptrdiff_t>(best), end = std::find_if(next, text.end(), is_image_row);
  return {{next, end}, matched, end == text.end()};
}

void take_draft(const Proposal& proposal, int count, std::vector<int32_t>& draft) {
  draft.clear();
  const size_t size = proposal.tokens.size(), most = proposal.repeats ? count : std::min<size_t>(count, size);
  for (size_t i = 0; i < most; ++i) draft.push_back(proposal.tokens[i % size]);
}

void Prediction::set(std::vector<int32_t> tokens) {
  tokens_ = std::move(tokens);
  matched_ = matched_at_start;
}

void Prediction::follow(std::span<const int32_t> generated) {
  for (; followed_ < generated.size() && !tokens_.empty(); ++followed_) {
    if (strayed_ == 0 && place_ < tokens_.size() && tokens_[place_] == generated[followed_]) {
      ++place_;
      matched_ = std::min(matched_ + 1, draft_matched_max);
    } else {
      find(generated.first(followed_ + 1));
    }
  }
}

// The answer left the prediction: it goes on where the last tokens stand, first behind the place it left, then before.
// Until that is found a word is taken to have been replaced by one as long.
void Prediction::find(std::span<const int32_t> generated) {
  if (strayed_++ == 0) left_ = place_;
  for (int wanted : {3, 2}) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const size_t end = 1 + (left_ + i) % tokens_.size();
      if (tokens_[end - 1] != generated.back() || agreeing(tokens_, end, generated) < wanted) continue;
      place_ = end;
      matched_ = agreeing(tokens_, end, generated);
      strayed_ = 0;
      return;
    }
  }
  matched_ = 0;
  place_ = std::min(tokens_.size(), left_ + std::min<size_t>(strayed_, substituted_max));
}

Proposal Prediction::next() const { return {std::span(tokens_).subspan(place_), matched_}; }

void Acceptance::saw(int matched, bool accepted) {
  double& probability = probability_[class_of(matched)];
  probability += ((accepted ? 1 : 0) - probability) / 8;
}

void Acceptance::skipped(int matched) {
  const int i = class_of(matched);
  probability_[i] += (initial[i] - probability_[i]) / 128;
}

size_t DraftPolicy::class_of(int drafts) {
  return std::min<size_t>(std::lower_bound(rows.begin(), rows.end(), drafts) - rows.begin(), rows.size() - 1);
}

void DraftPolicy::observe(int sequences, int drafts, double seconds) {
  ++steps_;
  double& plain = plain_seconds_[size_of(sequences)];
  if (drafts == 0) {
    plain = plain == 0 ? seconds : plain + (seconds - plain) / 8;
  } else if (plain > 0) {
    Measured& measured = added_[class_of(drafts)];
    const double added = std::max(0.0, seconds - plain), age = static_cast<double>(steps_ - measured.at);
    const double weight = measured.seconds < 0 ? 1 : std::min(1.0, 1.0 / 8 + age / forgetting_steps);
    measured = {measured.seconds + (added - measured.seconds) * weight, steps_};
  }
}

// A measurement that kept proposals away would never be made again: it is believed less and less.
double DraftPolicy::believed(const Measured& measured, double optimistic) const {
  const double age = static_cast<double>(steps_ - measured.at);
  return std::max(measured.seconds * std::exp2(-age / forgetting_steps), std::min(measured.seconds, optimistic));
}

// Between numbers of rows that were measured by a straight line; beyond them as if rows were cheap, which one step shows.
double DraftPolicy::added_seconds(int drafts, double token) const {
  const double row = token / unmeasured_rows;
  double before = 0, before_rows = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (added_[i].seconds < 0) continue;
    const double seconds = believed(added_[i], rows[i] * row);
    if (drafts <= rows[i]) return before + (seconds - before) * (drafts - before_rows) / (rows[i] - before_rows);
    before = seconds;
    before_rows = rows[i];
  }
  const double slope = before_rows > 0 ? std::min(row, before / before_rows) : row;
  return before + (drafts - before_rows) * slope;
}

int DraftPolicy::length(double acceptance, int sequences) const {
  const double plain = plain_seconds_[size_of(sequences)];
  if (plain == 0) return 0;  // the first step is one to compare with
  const double token = plain / sequences;
  double reached = acceptance, tokens = sequences, best = worthwhile / token;
  int length = 0;
  for (int drafts = 1; drafts <= draft_tokens_max && reached > 0.01; ++drafts, reached *= acceptance) {
    tokens += reached;
    const double rate = tokens / (plain + added_seconds(drafts, token));
    if (rate > best) best = rate, length = drafts;
  }
  return length;
}

}  // namespace hearth::runtime
