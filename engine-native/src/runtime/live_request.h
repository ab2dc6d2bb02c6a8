// A request from submit to FINISHED. Made on the caller's thread, filled by a preparing thread (tokens, images, grammar),
// then owned by the step thread. `cancelled` is the one field any thread may set.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "grammar/grammar.h"
#include "model/model.h"
#include "runtime/draft.h"
#include "runtime/image_cache.h"
#include "runtime/request.h"
#include "runtime/vocabulary.h"
#include "sampling/sampler.h"
#include "sampling/stop_matcher.h"
#include "scheduler/scheduler.h"

namespace hearth::runtime {

struct LoadedModel;
using Clock = std::chrono::steady_clock;

// HEARTH_TOO_LONG of include/hearth.h (capi checks the number): a code of requests alone.
inline constexpr Code code_too_long = static_cast<Code>(13);

// Requests that were accepted and have not started: what the bounded queue bounds.
struct QueueCount {
  std::atomic<int64_t> requests{0}, tokens{0};
};

struct LiveImage {
  uint64_t hash = 0;
  int begin = 0, rows = 0;  // rows [begin, begin + rows) of the prompt
  std::unique_ptr<model::Model::PreparedImage> prepared;
  ImageCache::Entry* resident = nullptr;
};

struct LiveRequest : scheduler::Sequence {
  // As submitted.
  RequestOptions options;
  std::string text;
  std::vector<ByteRange> literal;
  std::vector<int32_t> given_ids;
  std::vector<uint8_t> pixels;
  std::shared_ptr<LoadedModel> model;
  QueueCount* queue = nullptr;   // while it counts there
  int64_t queued_tokens = 0;     // what it counts for
  std::atomic<bool> cancelled{false};

  // As prepared.
  std::vector<int32_t> tokens;     // prompt, then generated; -1 for rows of images
  int prompt = 0, image_tokens = 0, max_new = 0;
  std::vector<LiveImage> images;
  std::vector<int32_t> positions;  // [axes][prompt] of multimodal rope; empty = sequential
  int next_position = 0;           // of the first generated token
  sampling::Parameters sampling;
  std::vector<int32_t> end_tokens; // that end the answer: the model's (unless ignore_eos) and stop_tokens
  std::unique_ptr<TextStream> stream;
  sampling::StopMatcher stop;
  std::vector<std::string> stop_json;  // the stop strings as JSON, for FINISHED
  std::shared_ptr<grammar::Grammar> grammar;
  std::unique_ptr<grammar::Matcher> matcher;  // made by the step thread, which alone uses the grammar
  Prediction prediction;               // what the client expects the answer to be
  Status error;                        // why it cannot run

  // While it runs.
  bool proves = false;             // its first draws say whether the model computes numbers
  int generated = 0;
  int prompt_reported = 0;         // PROMPT records sent
  int history_admission = 0;       // the admission that set its penalty counts
  std::vector<int32_t> draft;      // proposed tokens of the next step
  int draft_matched = 0;           // tokens before them that the text agrees with
  bool draft_predicted = false;    // they are of the prediction
  int draft_tokens = 0, draft_accepted = 0;
  int predicted_tokens = 0, predicted_accepted = 0;  // of them, of the prediction
  Acceptance acceptance;
  std::vector<double> pooled;      // sum of hidden states
  int pooled_rows = 0;
  Clock::time_point submitted, started, first_token;
  bool has_started = false, has_token = false, finished = false;
  bool in_runner = false;

  void leave_queue() {
    if (!queue) return;
    queue->requests.fetch_sub(1, std::memory_order_relaxed);
    queue->tokens.fetch_sub(queued_tokens, std::memory_order_relaxed);
    queue = nullptr;
  }
};

}  // namespace hearth::runtime
