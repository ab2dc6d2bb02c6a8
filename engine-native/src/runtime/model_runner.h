// One model's share of the step loop: plan rows, launch forward, sample, publish. Everything here happens on the step
// thread; only `Stats` is read by others, through the engine's snapshot.
//
// On a device that computes while the host goes on (overlap), the order is: plan and launch the forward pass of step N+1,
// then wait for the tokens of step N and publish them, then launch the sampling of step N+1, whose masks and penalties may
// depend on them. The ids that forward N+1 reads are still on the device (TokenSource::sampled). On the CPU a step is
// simply forward, sample, publish.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "device/device.h"
#include "kv/block_pool.h"
#include "model/model.h"
#include "runtime/burst_hold.h"
#include "runtime/host_copier.h"
#include "runtime/image_cache.h"
#include "runtime/live_request.h"
#include "runtime/outbox.h"
#include "sampling/sampler.h"
#include "scheduler/scheduler.h"

namespace hearth::runtime {

struct RunnerOptions {
  bool prefix_cache = true;
  bool overlap = false;
  bool speculate = true;
  int queue_requests = 512;
  int64_t host_kv_bytes = 0;      // of the host tier behind the KV pool; 0 = none
  std::function<int()> preparing; // requests for this model that are being made ready; empty = none
  std::function<void()> wake;     // something a resting step thread should look at has happened; any thread
};

// Bytes of the host tier: what was asked for in MiB, or (-1) a default: none where the KV pool is host memory already,
// since a larger pool does the same without copies; else a quarter of what is free, at most 4 GiB.
int64_t host_tier_bytes(int64_t megabytes, const device::DeviceInfo& device);

struct RunnerStats {
  int running = 0, waiting = 0;
  kv::PoolCounts blocks;
  uint64_t prefix_hit_tokens = 0, prefix_query_tokens = 0, preemptions = 0;
  uint64_t prompt_tokens = 0, generation_tokens = 0, steps = 0;
  int host_blocks = 0, host_blocks_used = 0;  // of the host tier
  uint64_t host_hit_tokens = 0, host_saved_bytes = 0, host_fetched_bytes = 0;
  uint64_t image_hits = 0, image_queries = 0, draft_tokens = 0, draft_accepted = 0;
};

class ModelRunner {
 public:
  // `on_finished` is told of every request whose FINISHED record was written or queued.
  using OnFinished = std::function<void(LiveRequest&)>;
  static Result<std::unique_ptr<ModelRunner>> create(model::Model& model, std::shared_ptr<const Vocabulary> vocabulary,
                                                     Outbox& outbox, const RunnerOptions& options, OnFinished on_finished);
  ~ModelRunner();

  // A prepared request enters the queue. On an error it was not taken.
  Status add(LiveRequest& request);
  // Ends a request wherever it is; sends FINISHED, with the error if there is one.
  void end(LiveRequest& request, Reason reason, const Status& status = {});
  void end_all(Reason reason, const Status& status = {});
  // One turn. `worked` says whether anything was done. An error of code `device` is the engine's end.
  Status step(bool& worked);
  bool idle() const { return live_.empty() && !in_flight_; }
  RunnerStats stats() const;
  std::span<LiveRequest* const> live() const { return live_; }
  scheduler::Scheduler& scheduler() { return scheduler_; }
  // Most a single row's records may take, for a request: what makes a request too large for the ring is refused.
  int64_t worst_row_bytes(const LiveRequest& request) const;
  int64_t worst_share_bytes(const LiveRequest& request) const;
  // Tokens a sequence may hold: the model's context or the pool, whichever is smaller.
  int context() const { return context_; }
  int sampled_vocabulary() const { return vocabulary_size_; }

 private:
  struct Row {
    int share = 0;       // index of the step's share
    int position = 0;    // of the row in its sequence
    bool draw = false;   // else a prompt token's log-probability (or a hidden state)
  };
  struct Step {
    std::vector<scheduler::Share> shares;
    std::vector<Row> rows;  // in the order of the logits
    bool hidden = false;
    size_t reserved = 0;
    int token_rows = 0;  // in all, with or without logits
    int drafts = 0;      // of them, proposals
    Clock::time_point begin;
  };

  ModelRunner(model::Model& model, std::shared_ptr<const Vocabulary> vocabulary, Outbox& outbox,
              const RunnerOptions& options, OnFinished on_finished);
  void reserve_capacities();
  Status open_host_tier();
  static LiveRequest& request_of(scheduler::Sequence& sequence) { return static_cast<LiveRequest&>(sequence); }

  // The host tier of the KV pool.
  Status take_transfers(bool& worked);
  Status start_transfers();
  void measure_prefill(const Step& step);
  // Before a step.
  Status encode_images(bool& worked);
  Status begin_images();
  void want_images(const LiveRequest& request);
  void acquire_images(LiveRequest& request);
  void update_ready(LiveRequest& request);
  bool may_draft(const LiveRequest& request) const;
  static Proposal proposal_of(LiveRequest& request);
  int draft_length(const LiveRequest& request, const Proposal& proposal) const;
  void propose(LiveRequest& request);
  void propose_drafts();
  bool wants_drafts();
  Status plan(Step& step, bool& any);
  // Building the input.
  void build_rows(Step& step);
  void append_share(int index, const scheduler::Share& share, Step& step);
  void append_ids(const LiveRequest& request, const scheduler::Share& share);
  void append_positions(const LiveRequest& request, const scheduler::Share& share);
  Status launch_forward(Step& step);
  Status launch_sample(Step& step);
  Status prepare_penalties(Step& step);
  sampling::RowRequest sample_row(Step& step, const Row& row);
  Status add_draws(Step& step, size_t& row);
  int drawn_before(const LiveRequest& request, int32_t token, int drafts) const;
  // Taking results.
  Status collect(Step& step);
  Status collect_logits(Step& step);
  static Status not_numbers();
  Status prove(LiveRequest& r, const sampling::Drawn& drawn);
  Status collect_draws(Step& step, size_t& row, scheduler::Share& share);
  void measure_decode(const Step& step);
  Status collect_hidden(Step& step);
  void finish_prompts(Step& step);
  void fail_step(Step& step, const Status& status);
  // Publishing.
  void publish_prompt_token(LiveRequest& request, int index, const sampling::Drawn* drawn);
  void note_token(LiveRequest& request, int32_t token);
  // Adds the text that became certain with the token to text_. Index of the stop string that ended it, or -1.
  int release_text(LiveRequest& request, int32_t token);
  void flush_text(LiveRequest& request);  // what is still held back, into text_
  void write_token(const LiveRequest& request, const sampling::Drawn& drawn, bool shown);
  bool publish_token(LiveRequest& request, const sampling::Drawn& drawn);  // true: the request ended with it
  Status publish_embedding(LiveRequest& request);
  uint32_t pack_top(const sampling::Drawn& drawn);
  void finish(LiveRequest& request, Reason reason, const char* stop_json, std::string_view text);
  std::string_view finish_json(const LiveRequest& request, const char* stop_json);
  void detach(LiveRequest& request);

  model::Model& model_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  Outbox& outbox_;
  RunnerOptions options_;
  OnFinished on_finished_;
  int vocabulary_size_ = 0, context_ = 0, token_bytes_max_ = 0, axes_ = 1;
  std::unique_ptr<kv::HostTier> tier_;
  kv::BlockPool pool_;
  scheduler::Scheduler scheduler_;
  std::unique_ptr<sampling::Sampler> sampler_;
  ImageCache images_;
  std::vector<ImageCache::Wanted> wanted_;  // of the next pass of the vision tower
  std::vector<LiveRequest*> live_;
  Step steps_[2];
  int turn_ = 0;
  bool in_flight_ = false;     // steps_[1 - turn_] was launched and not collected
  float* host_hidden_ = nullptr;
  std::unique_ptr<HostCopier> copier_;
  std::vector<kv::Transfer> done_transfers_;
  BurstHold burst_;
  DraftPolicy drafts_;
  int draft_histories_ = 0;     // that proposals of the next step want
  double prefill_seconds_ = 0;  // a token, measured on steps that are mostly prefill
  Clock::time_point collected_; // when the last step's results were there
  uint64_t saved_blocks_ = 0, fetched_blocks_ = 0;
  Clock::time_point now_;
  // Input of one step.
  std::vector<model::SequenceRows> sequences_;
  std::vector<int32_t> ids_, sources_, positions_, logit_rows_;
  int literal_positions_ = 0;
  // Scratch of publishing.
  std::string piece_, text_, top_;
  std::string json_;
  std::vector<float> values_;
  std::vector<kv::ContentKey> drawn_keys_;
  bool computes_numbers_ = false;  // a draw has shown it
  uint64_t prompt_tokens_ = 0, generation_tokens_ = 0, step_count_ = 0, draft_tokens_ = 0, draft_accepted_ = 0;
};

}  // namespace hearth::runtime
