// Speculation inside a step: what is proposed, the rows that verify it, and what they were worth.
//
// A proposed token is accepted exactly when it equals the sample of its row, and each row is sampled as it would be had
// the proposals before it been drawn: with their grammar states, their counts under penalties, their positions' noise.
#include <algorithm>
#include <optional>

#include "runtime/loaded_model.h"
#include "runtime/model_runner.h"

namespace hearth::runtime {
namespace {

constexpr size_t drafting_sequences_max = 16;

}  // namespace

bool ModelRunner::may_draft(const LiveRequest& r) const {
  return options_.speculate && r.options.speculate && r.draws;
}

int ModelRunner::draft_length(const LiveRequest& r, const Proposal& proposal) const {
  if (proposal.tokens.empty()) return 0;
  if (hooks().draft_length) return *hooks().draft_length;
  return drafts_.length(r.acceptance.probability(proposal.matched), static_cast<int>(scheduler_.running().size()));
}

// Of what the text's own past and the client's prediction say, the likelier.
Proposal ModelRunner::proposal_of(LiveRequest& r) {
  const Proposal found = look_up(r.tokens);
  r.draft_predicted = false;
  if (r.prediction.empty()) return found;
  r.prediction.follow(std::span<const int32_t>(r.tokens).subspan(r.prompt));
  const Proposal predicted = r.prediction.next();
  if (predicted.tokens.empty()) return found;
  r.draft_predicted = found.tokens.empty() || r.acceptance.probability(predicted.matched) >= r.acceptance.probability(found.matched);
  return r.draft_predicted ? predicted : found;
}

// Fills r.draft, no longer than pays and than the grammar allows.
void ModelRunner::propose(LiveRequest& r) {
  const Proposal proposal = proposal_of(r);
  const int length = draft_length(r, proposal);
  r.draft.clear();
  if (length == 0) return proposal.tokens.empty() ? void() : r.acceptance.skipped(proposal.matched);
  r.draft_matched = proposal.matched;
  take_draft(proposal, length, r.draft);
  if (!r.matcher) return;
  const grammar::Matcher::Place here = r.matcher->here();
  size_t fits = 0;
  while (fits < r.draft.size() && r.matcher->accept(r.draft[fits])) ++fits;
  r.matcher->rewind(here);
  r.draft.resize(fits);
}

void ModelRunner::propose_drafts() {
  const bool few = scheduler_.running().size() <= drafting_sequences_max;
  int rows = sampling::draft_rows_max, histories = sampling::draft_histories;
  for (scheduler::Sequence* s : scheduler_.running()) {
    LiveRequest& r = request_of(*s);
    r.drafts = 0;
    if (!few || !may_draft(r) || s->pending > 0 || s->length() - s->computed != 1) continue;
    propose(r);
    r.drafts = std::min<int>(static_cast<int>(r.draft.size()), r.sampling.penalised() ? std::min(histories, rows) : rows);
    rows -= r.drafts;
    if (r.sampling.penalised()) histories -= r.drafts;
  }
}

// Asked while a step is in flight whose tokens are not known: has the text as it stands something to continue?
bool ModelRunner::wants_drafts() {
  if (scheduler_.running().size() > drafting_sequences_max) return false;
  for (scheduler::Sequence* s : scheduler_.running()) {
    LiveRequest& r = request_of(*s);
    if (may_draft(r) && r.generated > 0 && draft_length(r, proposal_of(r)) > 0) return true;
  }
  return false;
}

// How often `token` was drawn, the first `drafts` proposals taken for drawn.
int ModelRunner::drawn_before(const LiveRequest& r, int32_t token, int drafts) const {
  return static_cast<int>(std::count(r.tokens.begin() + r.prompt, r.tokens.end(), token) +
                          std::count(r.draft.begin(), r.draft.begin() + drafts, token));
}

// The rows of one share with proposals: row i is drawn as if the first i proposals had been.
Status ModelRunner::add_draws(Step& step, size_t& row) {
  const scheduler::Share& share = step.shares[step.rows[row].share];
  const size_t begin = row;
  const int rows = share.drafts + 1;
  row += rows;
  if (!share.sequence) {
    for (int i = 0; i < rows; ++i) sampler_->add({});
    return Status::ok();
  }
  LiveRequest& r = request_of(*share.sequence);
  std::optional<grammar::Matcher::Place> here;
  if (r.matcher) here = r.matcher->here();
  int slot = r.slot;
  for (int i = 0; i < rows; ++i) {
    if (i > 0 && r.matcher) r.matcher->accept(r.draft[i - 1]);
    if (i > 0 && r.sampling.penalised()) {
      const int32_t before = r.draft[i - 1];
      HEARTH_TRY(sampler_->draft_slot(draft_histories_++, slot, before, drawn_before(r, before, i), slot));
    }
    sampling::RowRequest request = sample_row(step, step.rows[begin + i]);
    request.slot = slot;
    request.generated = r.generated + i;
    request.record = false;
    sampler_->add(request);
  }
  if (here) r.matcher->rewind(*here);
  return Status::ok();
}

void ModelRunner::measure_decode(const Step& step) {
  const int sequences = static_cast<int>(step.shares.size());
  if (step.hidden || sequences == 0 || step.token_rows != sequences + step.drafts) return;
  const Clock::time_point begin = std::max(step.begin, collected_);
  drafts_.observe(sequences, step.drafts, std::chrono::duration<double>(Clock::now() - begin).count());
}

}  // namespace hearth::runtime
