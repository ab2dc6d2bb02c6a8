#include "scheduler/scheduler.h"

#include <algorithm>

namespace hearth::scheduler {
namespace {

int blocks_for(int tokens) { return (tokens + kv::block_tokens - 1) / kv::block_tokens; }

}  // namespace

Scheduler::Scheduler(const Limits& limits, kv::BlockPool& pool, int queue_capacity) : limits_(limits), pool_(pool) {
  limits_.max_sequences = std::max(1, std::min({limits.max_sequences, limits.step_tokens, limits.max_logit_rows}));
  waiting_.reserve(queue_capacity + limits_.max_sequences);
  running_.reserve(limits_.max_sequences);
  shares_.reserve(limits_.max_sequences);
  prefill_.reserve(limits_.max_sequences);
  for (int slot = limits_.max_sequences - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

bool Scheduler::older(const Sequence* a, const Sequence* b) {
  return a->priority != b->priority ? a->priority > b->priority : a->arrival < b->arrival;
}

void Scheduler::insert_sorted(std::vector<Sequence*>& list, Sequence* sequence) {
  list.insert(std::upper_bound(list.begin(), list.end(), sequence, older), sequence);
}

void Scheduler::erase(std::vector<Sequence*>& list, Sequence* sequence) {
  auto at = std::find(list.begin(), list.end(), sequence);
  if (at != list.end()) list.erase(at);
}

void Scheduler::add(Sequence& sequence) {
  sequence.place = Place::waiting;
  insert_sorted(waiting_, &sequence);
}

void Scheduler::remove(Sequence& sequence) {
  if (sequence.place == Place::waiting) erase(waiting_, &sequence);
  if (sequence.place == Place::running) {
    erase(running_, &sequence);
    give_back(sequence);
  }
  sequence.place = Place::nowhere;
}

void Scheduler::give_back(Sequence& sequence) {
  pool_.release_all(sequence.blocks);
  free_slots_.push_back(sequence.slot);
  sequence.slot = -1;
  sequence.computed = sequence.published = sequence.arrived = sequence.taken = 0;
  sequence.chain = 0;
}

void Scheduler::preempt(Sequence& sequence) {
  erase(running_, &sequence);
  give_back(sequence);
  add(sequence);
  preempted_ = true;
  ++preemptions_;
}

bool Scheduler::preempt_youngest() {
  if (running_.empty()) return false;
  preempt(*running_.back());
  return true;
}

// Makes room for `tokens` tokens. Preempts the youngest for it, at the worst the sequence itself (then false).
bool Scheduler::grow(Sequence& sequence, int tokens, bool may_preempt) {
  while (static_cast<int>(sequence.blocks.size()) < blocks_for(tokens)) {
    int32_t block = pool_.allocate();
    if (block >= 0) {
      sequence.blocks.push_back(block);
      continue;
    }
    if (!may_preempt) return false;
    Sequence* victim = running_.back();
    preempt(*victim);
    if (victim == &sequence) return false;
  }
  return true;
}

bool Scheduler::has_work(const Sequence& s) {
  return s.arrived == s.taken && s.computed < std::min(s.length(), s.ready) && s.length() < s.goal;
}

void Scheduler::look_for_arrivals(Sequence& s) const {
  while (s.arrived < s.taken && !pool_.arriving(s.blocks[s.arrived])) ++s.arrived;
}

bool Scheduler::can_run(const Sequence& s) const {
  return s.hidden == hidden_turn_ && s.step != step_ && has_work(s) && logit_room(s) > 0;
}

// Rows with logits that a share of it may still have in this step.
int Scheduler::logit_room(const Sequence& s) const {
  if (s.row_bytes == 0) return s.share_bytes <= output_left_ ? logits_left_ : 0;
  int64_t rows = (output_left_ - s.share_bytes) / s.row_bytes;
  return static_cast<int>(std::clamp<int64_t>(rows, 0, logits_left_));
}

int Scheduler::logit_rows(const Sequence& s, int start, int count, bool draws) {
  int wanted = std::max(0, std::min(start + count, s.logits_end) - std::max(start, s.logits_begin));
  bool last_counted = start + count <= s.logits_end && start + count > s.logits_begin;
  return wanted + (draws && !last_counted ? 1 : 0);
}

void Scheduler::push_share(Sequence& s, int count) {
  bool draws = s.draws && s.computed + count == s.length();
  shares_.push_back({&s, s.computed, count, 0, draws});
  rows_left_ -= count;
  int logits = logit_rows(s, s.computed, count, draws);
  logits_left_ -= logits;
  output_left_ -= s.share_bytes + logits * s.row_bytes;
  s.computed += count;
  s.step = step_;
  s.pending += draws;
}

// The kind of step follows what can run; when both can, they take turns.
void Scheduler::choose_turn() {
  bool hidden = false, logits = false;
  for (const Sequence* s : running_) {
    (s->hidden ? hidden : logits) |= has_work(*s);
  }
  if (running_.empty() && !waiting_.empty()) hidden = waiting_.front()->hidden, logits = !hidden;
  hidden_turn_ = hidden && (!logits || !hidden_turn_);
}

std::span<Share> Scheduler::plan(int64_t output_bytes, bool hold_decodes) {
  shares_.clear();
  ++step_;
  rows_left_ = limits_.step_tokens;
  logits_left_ = limits_.max_logit_rows;
  output_left_ = output_bytes;
  preempted_ = false;
  for (Sequence* s : running_) look_for_arrivals(*s);
  choose_turn();
  if (!hold_decodes) plan_decodes();
  if (!preempted_) admit();
  plan_prefills(hold_decodes);
  plan_drafts();
  return shares_;
}

void Scheduler::plan_decodes() {
  // A victim is always the last of running_, so those before the present index stay where they are.
  for (size_t i = 0; i < running_.size() && rows_left_ > 0; ++i) {
    Sequence& s = *running_[i];
    if (!can_run(s) || s.length() - s.computed != 1) continue;
    if (!grow(s, s.length(), true)) break;
    push_share(s, 1);
  }
}

void Scheduler::admit() {
  while (!waiting_.empty() && !free_slots_.empty()) {
    Sequence& head = *waiting_.front();
    if (head.pending > 0 || !admit_one(head)) return;
  }
}

bool Scheduler::admit_one(Sequence& s) {
  // At least one token must be computed, and all whose logits are still wanted.
  int reusable = s.length() - 1;
  if (s.logits_end > s.logits_begin) reusable = std::min(reusable, s.logits_begin);
  int max_blocks = reusable / kv::block_tokens;
  kv::Prefix prefix = pool_.count_prefix(s.keys, max_blocks);
  int total = pool_.counts().total;
  int spare = running_.empty() ? 0 : std::max(1, std::min(static_cast<int>(running_.size()), total / 16));
  int wanted = blocks_for(s.length()) - prefix.blocks + prefix.host;
  if (wanted + prefix.idle + spare > pool_.available()) return false;
  erase(waiting_, &s);
  s.place = Place::running;
  s.slot = free_slots_.back();
  free_slots_.pop_back();
  s.published = pool_.take_prefix(s.keys, max_blocks, s.blocks, s.chain);
  s.computed = s.published * kv::block_tokens;
  s.taken = s.published;
  look_for_arrivals(s);
  host_hit_tokens_ += static_cast<uint64_t>(prefix.host) * kv::block_tokens;
  if (s.admissions++ == 0) {
    s.cached = s.computed;
    hit_tokens_ += s.computed;
    query_tokens_ += s.length();
  }
  grow(s, s.length(), false);
  insert_sorted(running_, &s);
  return true;
}

void Scheduler::plan_prefills(bool hold_decodes) {
  prefill_.clear();
  for (Sequence* s : running_)
    if (can_run(*s) && !(hold_decodes && is_decode(*s))) prefill_.push_back(s);
  auto remaining = [](const Sequence* s) { return std::min(s->length(), s->ready) - s->computed; };
  std::sort(prefill_.begin(), prefill_.end(), [&](const Sequence* a, const Sequence* b) {
    if (a->priority != b->priority) return a->priority > b->priority;
    if (remaining(a) != remaining(b)) return remaining(a) < remaining(b);
    return a->arrival < b->arrival;
  });
  size_t group_end = 0;
  for (size_t i = 0; i < prefill_.size() && rows_left_ > 0; ++i) {
    Sequence& s = *prefill_[i];
    if (i == group_end)
      while (group_end < prefill_.size() && prefill_[group_end]->priority == s.priority) ++group_end;
    int fair = std::max(1, rows_left_ / static_cast<int>(group_end - i));
    int count = std::min({remaining(&s), fair, rows_left_});
    bool finishes = s.draws && s.computed + count == s.length();
    int room = logit_room(s);
    if (room <= 0) continue;
    if (logit_rows(s, s.computed, count, finishes) > room) {
      // Only rows whose logits are wanted are scarce; cut the chunk so that those fit.
      count = std::min(count, std::max(0, s.logits_begin - s.computed) + room - (finishes ? 1 : 0));
      if (count <= 0) continue;
    }
    push_share(s, count);
  }
}

void Scheduler::plan_drafts() {
  for (Share& share : shares_) {
    Sequence& s = *share.sequence;
    int64_t affordable = s.row_bytes > 0 ? std::max<int64_t>(0, output_left_ / s.row_bytes) : INT_MAX;
    int drafts = std::min({s.drafts, rows_left_, logits_left_, s.goal - s.length(),
                           static_cast<int>(std::min<int64_t>(affordable, INT_MAX))});
    if (!share.draws || share.count != 1 || drafts <= 0) continue;
    int before = static_cast<int>(s.blocks.size());
    while (drafts > 0 && !grow(s, share.start + 1 + drafts, false)) --drafts;
    // What was taken for a longer proposal than fits goes back.
    while (static_cast<int>(s.blocks.size()) > std::max(before, blocks_for(share.start + 1 + drafts))) {
      pool_.release(s.blocks.back());
      s.blocks.pop_back();
    }
    share.drafts = drafts;
    share.count += drafts;
    rows_left_ -= drafts;
    logits_left_ -= drafts;
    output_left_ -= drafts * s.row_bytes;
  }
}

void Scheduler::resolve(Sequence& s, std::span<const kv::ContentKey> tokens) {
  --s.pending;
  s.keys.insert(s.keys.end(), tokens.begin(), tokens.end());
  if (s.place != Place::running) return;
  s.computed += static_cast<int>(tokens.size()) - 1;
  publish(s);
}

void Scheduler::publish(Sequence& s) {
  int known = std::min(s.computed, static_cast<int>(s.keys.size()));
  while ((s.published + 1) * kv::block_tokens <= known) {
    auto keys = std::span<const kv::ContentKey>(s.keys).subspan(static_cast<size_t>(s.published) * kv::block_tokens);
    pool_.publish(s.blocks[s.published], keys.first<kv::block_tokens>(), s.chain);
    ++s.published;
  }
}

}  // namespace hearth::scheduler
