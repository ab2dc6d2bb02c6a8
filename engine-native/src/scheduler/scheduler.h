// Which rows each step computes: continuous batching with chunked prefill over a pool of KV blocks.
//
// A step's input is a list of shares (sequence, start, count): one row for a decode, many for a prefill chunk or for
// drafts. Policy, in this order:
//   1. Decodes of all running sequences, oldest first. When no block is left for one, the youngest running sequence
//      gives its blocks back and waits to be recomputed (its full blocks stay in the prefix cache while there is room).
//   2. Admission from the queue by priority, then arrival, as long as a slot is free and the blocks of the whole known
//      text fit with some to spare. The head of the queue is never overtaken, so nothing starves.
//   3. What is left of the token budget goes to prefill chunks, by priority, then max-min fair: short prompts get all
//      they need, long ones share the rest.
//   4. Rows for drafts, when no prefill wanted them.
// A sequence whose prefix is being brought back from the host tier holds its slot and blocks and waits for the copies;
// the others go on.
// Steps of hidden states (embeddings) and steps of logits alternate when both are wanted.
//
// Pure policy: no device, no thread, no clock, nothing allocated once capacities are reached.
#pragma once

#include <climits>
#include <cstdint>
#include <span>
#include <vector>

#include "kv/block_pool.h"

namespace hearth::scheduler {

struct Limits {
  int max_sequences = 1;   // slots
  int step_tokens = 1;     // rows of one step
  int max_logit_rows = 1;  // logits (or hidden states) of one step
};

enum class Place : uint8_t { nowhere, waiting, running };

// A request as the scheduler sees it. The upper part belongs to the caller, the lower to the scheduler.
struct Sequence {
  uint32_t id = 0;
  int priority = 0;              // higher first
  uint64_t arrival = 0;          // lower is older; unique
  bool hidden = false;           // wants hidden states, not logits
  bool draws = true;             // a token is drawn whenever all known tokens are computed
  int ready = INT_MAX;           // tokens whose input is there (an image may still have to be encoded)
  int goal = INT_MAX;            // length at which it needs no further row
  int64_t share_bytes = 0;       // what publishing a share of it takes at most, and each row with logits on top
  int64_t row_bytes = 0;
  int drafts = 0;                // proposed tokens after the known ones; the plan says how many it took
  int logits_begin = 0, logits_end = 0;  // rows whose logits are wanted besides those that draw
  std::vector<kv::ContentKey> keys;      // of the known tokens: prompt, then generated

  Place place = Place::nowhere;
  int slot = -1;
  int computed = 0;              // tokens in the KV pool, those of steps in flight included
  int pending = 0;               // tokens drawn by steps in flight, whose ids are not known yet
  int cached = 0;                // tokens found in the prefix cache when first admitted
  int admissions = 0;            // times it left the queue: more than one after a preemption
  std::vector<int32_t> blocks;
  kv::Chain chain = 0;           // content of the published blocks
  int published = 0;
  int arrived = 0, taken = 0;    // of the blocks taken from the prefix cache, those whose content is there (host tier)
  uint64_t step = 0;             // last step with a share of it

  int length() const { return static_cast<int>(keys.size()) + pending; }
};

struct Share {
  Sequence* sequence = nullptr;  // set to null by whoever destroys the sequence while the step is in flight
  int start = 0, count = 0;
  int drafts = 0;                // the last `drafts` of the rows are proposals
  bool draws = false;            // the last row (with drafts: the last drafts + 1 rows) draw
};

class Scheduler {
 public:
  // `queue_capacity` is how many sequences may wait at once (preempted ones come on top).
  Scheduler(const Limits& limits, kv::BlockPool& pool, int queue_capacity);

  const Limits& limits() const { return limits_; }
  // Tokens a sequence can ever hold: more is refused before add().
  int capacity_tokens() const { return pool_.counts().total * kv::block_tokens; }

  void add(Sequence& sequence);
  // Takes the sequence out, wherever it is; its blocks and slot are free again.
  void remove(Sequence& sequence);

  // Plans a step and commits to it: blocks are taken, `computed` moves past the rows, `pending` counts the draws.
  // `output_bytes` is what the step may publish; sequences that do not fit wait. `hold_decodes`: only prompts go on.
  // Valid until the next call.
  std::span<Share> plan(int64_t output_bytes = INT64_MAX, bool hold_decodes = false);
  bool plan_is_hidden() const { return hidden_turn_; }

  // The tokens a share drew: accepted drafts, then one more. Publishes the blocks that are full now.
  void resolve(Sequence& sequence, std::span<const kv::ContentKey> tokens);
  // Publishes full blocks of a sequence that draws nothing (yet).
  void publish(Sequence& sequence);
  // Sends the youngest running sequence back to the queue. False when none runs.
  bool preempt_youngest();

  std::span<Sequence* const> running() const { return running_; }
  int waiting() const { return static_cast<int>(waiting_.size()); }
  bool idle() const { return running_.empty() && waiting_.empty(); }
  uint64_t preemptions() const { return preemptions_; }
  uint64_t prefix_hit_tokens() const { return hit_tokens_; }
  uint64_t prefix_query_tokens() const { return query_tokens_; }
  uint64_t host_hit_tokens() const { return host_hit_tokens_; }

 private:
  static bool older(const Sequence* a, const Sequence* b);
  static void insert_sorted(std::vector<Sequence*>& list, Sequence* sequence);
  static void erase(std::vector<Sequence*>& list, Sequence* sequence);
  static int logit_rows(const Sequence& sequence, int start, int count, bool draws);

  static bool is_decode(const Sequence& sequence) { return sequence.step > 0 && sequence.length() - sequence.computed == 1; }
  static bool has_work(const Sequence& sequence);
  void look_for_arrivals(Sequence& sequence) const;
  bool can_run(const Sequence& sequence) const;
  int logit_room(const Sequence& sequence) const;
  void choose_turn();
  void plan_decodes();
  void admit();
  bool admit_one(Sequence& sequence);
  void plan_prefills(bool hold_decodes);
  void plan_drafts();
  bool grow(Sequence& sequence, int tokens, bool may_preempt);
  void give_back(Sequence& sequence);
  void preempt(Sequence& sequence);
  void push_share(Sequence& sequence, int count);

  Limits limits_;
  kv::BlockPool& pool_;
  std::vector<Sequence*> waiting_, running_;  // both oldest first
  std::vector<int> free_slots_;
  std::vector<Share> shares_;
  std::vector<Sequence*> prefill_;            // scratch of plan_prefills
  int rows_left_ = 0, logits_left_ = 0;
  int64_t output_left_ = 0;
  bool preempted_ = false, hidden_turn_ = false;
  uint64_t step_ = 0;
  uint64_t preemptions_ = 0, hit_tokens_ = 0, query_tokens_ = 0, host_hit_tokens_ = 0;
};

}  // namespace hearth::scheduler
