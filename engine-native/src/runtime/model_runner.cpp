#include "runtime/model_runner.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/draft.h"

namespace hearth::runtime {

static_assert(kv::block_tokens == ops::kv_block_tokens);

namespace {

// FINISHED's JSON without its stop string: 194 letters, eight counts and three times of at most 20 digits each. Every share of
// a step in flight has that much of the ring set aside, so it is worth being near.
constexpr size_t finish_json_bytes = 448;
constexpr int images_per_pass_max = 16;  // offered to the model, which takes as many as it likes

scheduler::Limits limits_of(const model::Model& model) {
  const model::ModelInfo& info = model.info();
  return {info.max_sequences, info.step_tokens, model.max_logit_rows()};
}

}  // namespace

ModelRunner::ModelRunner(model::Model& model, std::shared_ptr<const Vocabulary> vocabulary, Outbox& outbox,
                         const RunnerOptions& options, OnFinished on_finished)
    : model_(model), vocabulary_(std::move(vocabulary)), outbox_(outbox), options_(options),
      on_finished_(std::move(on_finished)), pool_(model.info().kv_blocks, options.prefix_cache),
      scheduler_(limits_of(model), pool_, options.queue_requests), images_(model) {
  const model::ModelInfo& info = model.info();
  vocabulary_size_ = std::min(vocabulary_->size(), info.vocabulary);
  context_ = std::min(info.context, scheduler_.capacity_tokens());
  token_bytes_max_ = vocabulary_->token_bytes_max();
  axes_ = info.position_axes;
}

Result<std::unique_ptr<ModelRunner>> ModelRunner::create(model::Model& model, std::shared_ptr<const Vocabulary> vocabulary,
                                                         Outbox& outbox, const RunnerOptions& options,
                                                         OnFinished on_finished) {
  std::unique_ptr<ModelRunner> runner(
      new ModelRunner(model, std::move(vocabulary), outbox, options, std::move(on_finished)));
  HEARTH_ASSIGN(runner->sampler_, sampling::Sampler::create(model.device(), runner->vocabulary_size_, model.info().vocabulary,
                                                            model.info().max_sequences, model.max_logit_rows(),
                                                            model.sampled()));
  size_t hidden = static_cast<size_t>(model.max_logit_rows()) * model.info().hidden_width * sizeof(float);
  HEARTH_ASSIGN(void* staging, model.device().allocate(std::max<size_t>(hidden, 1), device::MemoryKind::staging, "hidden states"));
  runner->host_hidden_ = static_cast<float*>(staging);
  runner->reserve_capacities();
  HEARTH_TRY(runner->open_host_tier());
  return runner;
}

ModelRunner::~ModelRunner() {
  copier_.reset();  // its copies read and write the pool
  if (in_flight_) (void)!!model_.device().stream().synchronize();
  if (host_hidden_) model_.device().release(host_hidden_);
}

// Everything a step touches gets its final size here, so that steps allocate nothing.
void ModelRunner::reserve_capacities() {
  const scheduler::Limits& limits = scheduler_.limits();
  for (Step& step : steps_) {
    step.shares.reserve(limits.max_sequences);
    step.rows.reserve(limits.max_logit_rows);
  }
  sequences_.reserve(limits.max_sequences);
  ids_.reserve(limits.step_tokens);
  sources_.reserve(limits.step_tokens);
  positions_.reserve(static_cast<size_t>(limits.step_tokens) * axes_);
  logit_rows_.reserve(limits.max_logit_rows);
  live_.reserve(options_.queue_requests + limits.max_sequences);
  wanted_.reserve(images_per_pass_max);
  piece_.reserve(4 * token_bytes_max_ + 256);
  text_.reserve(stop_string_bytes_max + 4 * token_bytes_max_ + 256);
  top_.reserve(ops::max_top_logprobs * (12 + token_bytes_max_));
  json_.resize(finish_json_bytes + 2 + 6 * stop_string_bytes_max);  // a byte may become \u0000; two quotes
  values_.reserve(model_.info().hidden_width);
  drawn_keys_.reserve(draft_tokens_max + 1);
}

int64_t ModelRunner::worst_row_bytes(const LiveRequest& r) const {
  size_t top = static_cast<size_t>(r.options.top_logprobs) * (12 + token_bytes_max_);
  // A broken byte becomes U+FFFD: three bytes for one.
  size_t text = 3 * static_cast<size_t>(token_bytes_max_) + 16 + r.stop.held_max();
  return static_cast<int64_t>(record_bound(token_bytes_max_, text, top, 0));
}

int64_t ModelRunner::worst_share_bytes(const LiveRequest& r) const {
  size_t stop = 0;
  for (const std::string& json : r.stop_json) stop = std::max(stop, json.size());
  size_t finish = record_bound(finish_json_bytes + stop, 16 + r.stop.held_max(), 0, 0);
  size_t embedding = r.hidden ? record_bound(0, 0, 0, model_.info().hidden_width) : 0;
  size_t first = r.options.prompt_logprobs || r.options.kind == Kind::score ? record_bound(token_bytes_max_, 0, 0, 0) : 0;
  return static_cast<int64_t>(finish + embedding + first);
}

Status ModelRunner::add(LiveRequest& r) {
  r.row_bytes = r.hidden ? 0 : worst_row_bytes(r);
  r.share_bytes = worst_share_bytes(r);
  if (static_cast<size_t>(r.row_bytes + r.share_bytes) > outbox_.ring().capacity())
    return invalid("ring_bytes is too small for this request's stop strings and log-probabilities");
  if (r.sampling.penalised()) HEARTH_TRY(sampler_->prepare_history());
  if (r.grammar) r.matcher = std::make_unique<grammar::Matcher>(r.grammar);
  // A grammar may forbid every token, which looks the same.
  r.proves = !computes_numbers_ && !r.grammar;
  if (r.proves) r.sampling.top_logprobs = std::max(r.sampling.top_logprobs, 0);
  prompt_tokens_ += r.prompt;
  live_.push_back(&r);
  burst_.arrived(Clock::now(), live_.size() == 1);
  update_ready(r);
  scheduler_.add(r);
  return Status::ok();
}

void ModelRunner::detach(LiveRequest& r) {
  scheduler_.remove(r);
  for (LiveImage& image : r.images)
    if (image.resident) images_.release(std::exchange(image.resident, nullptr));
  for (Step& step : steps_)
    for (scheduler::Share& share : step.shares)
      if (share.sequence == &r) share.sequence = nullptr;
  auto at = std::find(live_.begin(), live_.end(), &r);
  if (at != live_.end()) live_.erase(at);
}

// ---- Before a step --------------------------------------------------------------------------------------------------

// Rows behind the first image whose embedding is not there must wait; rows of images already computed are given back.
// One that was preempted gives back all: others may need the room before it runs again.
void ModelRunner::update_ready(LiveRequest& r) {
  r.ready = INT_MAX;
  bool running = r.place == scheduler::Place::running;
  for (LiveImage& image : r.images) {
    bool behind = running && image.begin + image.rows <= r.computed;
    if ((behind || !running) && image.resident) images_.release(std::exchange(image.resident, nullptr));
    if (!behind && !(image.resident && image.resident->ready)) {
      r.ready = image.begin;
      return;
    }
  }
}

// Images that a request has come to, and those after them, in order: what it holds rows of it can always use up and give
// back, so that requests never wait for each other's rows in a circle.
void ModelRunner::want_images(const LiveRequest& r) {
  if (r.place != scheduler::Place::running || r.computed < r.ready) return;
  for (const LiveImage& image : r.images) {
    if (wanted_.size() == wanted_.capacity()) return;
    bool known = image.begin < r.ready || image.resident || images_.contains(image.hash);
    for (const ImageCache::Wanted& other : wanted_) known |= other.hash == image.hash;
    if (!known) wanted_.push_back({image.hash, image.prepared.get()});
  }
}

void ModelRunner::acquire_images(LiveRequest& r) {
  if (r.place != scheduler::Place::running || r.computed < r.ready) return;
  for (LiveImage& image : r.images) {
    if (image.begin < r.ready || image.resident) continue;
    image.resident = images_.acquire(image.hash);
    if (!image.resident) break;
  }
  update_ready(r);
}

// One pass of the vision tower over the images that running requests wait for, theirs together.
Status ModelRunner::begin_images() {
  wanted_.clear();
  for (LiveRequest* r : live_)
    if (!r->images.empty()) want_images(*r);
  if (wanted_.empty()) return Status::ok();
  Status status = images_.begin(wanted_);
  if (!status && status.code() != Code::device && wanted_.size() > 1) status = images_.begin(std::span(wanted_).first(1));
  if (status || status.code() == Code::device) return status;
  const uint64_t hash = wanted_[0].hash;
  for (size_t i = live_.size(); i-- > 0;) {
    LiveRequest& r = *live_[i];
    bool hit = false;
    for (const LiveImage& image : r.images) hit |= image.hash == hash && image.begin == r.ready;
    if (hit) end(r, Reason::error, status);
  }
  return Status::ok();
}

// A slice of the tower's work a turn, so that decodes of others go on beside it: on a CPU a pass may take seconds.
Status ModelRunner::encode_images(bool& worked) {
  constexpr auto slice = std::chrono::milliseconds(50);
  for (LiveRequest* r : live_)
    if (!r->images.empty()) update_ready(*r);
  if (!images_.encoding()) HEARTH_TRY(begin_images());
  for (LiveRequest* r : live_)
    if (!r->images.empty()) acquire_images(*r);
  if (!images_.encoding()) return Status::ok();
  worked = true;
  Status status = images_.advance(Clock::now() + slice);
  for (size_t i = live_.size(); i-- > 0;) {
    LiveRequest& r = *live_[i];
    bool failed = false;
    for (const LiveImage& image : r.images) failed |= !status && image.resident && !image.resident->ready;
    if (failed) end(r, Reason::error, status);
    else if (!r.images.empty()) update_ready(r);
  }
  if (!status) images_.drop_failed();
  return status.code() == Code::device ? status : Status::ok();
}

Status ModelRunner::plan(Step& step, bool& any) {
  step.shares.clear();
  step.rows.clear();
  propose_drafts();
  size_t room = outbox_.ring().free_bytes();
  const bool hold = burst_.hold(now_, options_.preparing ? options_.preparing() : 0);
  auto shares = scheduler_.plan(static_cast<int64_t>(room), hold);
  any = !shares.empty();
  if (!any) return Status::ok();
  step.shares.assign(shares.begin(), shares.end());
  step.hidden = scheduler_.plan_is_hidden();
  step.begin = now_;
  build_rows(step);
  step.token_rows = static_cast<int>(ids_.size());
  step.drafts = 0;
  for (const scheduler::Share& share : step.shares) step.drafts += share.drafts;
  int64_t bytes = 0;
  for (const scheduler::Share& share : step.shares) bytes += share.sequence->share_bytes;
  for (const Row& row : step.rows) bytes += step.shares[row.share].sequence->row_bytes;
  step.reserved = static_cast<size_t>(bytes);
  return outbox_.ring().reserve(step.reserved) ? Status::ok()
                                               : Status(Code::internal, "a step was planned over the ring's room");
}

// ---- Building the input ---------------------------------------------------------------------------------------------

void ModelRunner::build_rows(Step& step) {
  sequences_.clear();
  ids_.clear();
  sources_.clear();
  positions_.clear();
  logit_rows_.clear();
  for (size_t i = 0; i < step.shares.size(); ++i) append_share(static_cast<int>(i), step.shares[i], step);
}

void ModelRunner::append_share(int index, const scheduler::Share& share, Step& step) {
  LiveRequest& r = request_of(*share.sequence);
  if (!r.has_started) {
    r.has_started = true;
    r.started = now_;
    r.leave_queue();
  }
  int first_row = static_cast<int>(ids_.size()), end = share.start + share.count;
  int first_draw = share.draws ? end - 1 - share.drafts : end;
  for (int position = share.start; position < end; ++position) {
    bool draw = position >= first_draw, wanted = position >= r.logits_begin && position < r.logits_end;
    if (!draw && !wanted) continue;
    step.rows.push_back({index, position, draw});
    logit_rows_.push_back(first_row + position - share.start);
  }
  model::SequenceRows rows;
  rows.slot = r.slot;
  rows.start = share.start;
  rows.count = share.count;
  rows.prompt = r.prompt;
  rows.blocks = std::span<const int32_t>(r.blocks).first((end + kv::block_tokens - 1) / kv::block_tokens);
  append_ids(r, share);
  rows.ids = std::span<const int32_t>(ids_).subspan(first_row);
  rows.source = std::span<const int32_t>(sources_).subspan(first_row);
  size_t before = positions_.size();
  append_positions(r, share);
  rows.positions = std::span<const int32_t>(positions_).subspan(before);
  sequences_.push_back(rows);
}

void ModelRunner::append_ids(const LiveRequest& r, const scheduler::Share& share) {
  int known = static_cast<int>(r.tokens.size());
  for (int position = share.start; position < share.start + share.count; ++position) {
    bool proposed = share.drafts > 0 && position >= known, late = !proposed && position >= known;
    int32_t id = proposed ? r.draft[position - known] : late ? r.slot : r.tokens[position];
    auto source = late ? ops::TokenSource::sampled : ops::TokenSource::literal;
    if (!proposed && !late && id < 0) {
      source = ops::TokenSource::image;
      for (const LiveImage& image : r.images)
        if (position >= image.begin && position < image.begin + image.rows)
          id = image.resident->rows.first_row + position - image.begin;
    }
    ids_.push_back(id);
    sources_.push_back(static_cast<int32_t>(source));
  }
}

void ModelRunner::append_positions(const LiveRequest& r, const scheduler::Share& share) {
  if (r.positions.empty()) return;  // sequential
  for (int axis = 0; axis < axes_; ++axis)
    for (int position = share.start; position < share.start + share.count; ++position)
      positions_.push_back(position < r.prompt ? r.positions[static_cast<size_t>(axis) * r.prompt + position]
                                               : r.next_position + position - r.prompt);
}

Status ModelRunner::launch_forward(Step& step) {
  model::StepInput input{sequences_, logit_rows_};
  return step.hidden ? model_.forward_hidden(input) : model_.forward(input);
}

// ---- Sampling -------------------------------------------------------------------------------------------------------

Status ModelRunner::prepare_penalties(Step& step) {
  for (const scheduler::Share& share : step.shares) {
    if (!share.sequence || !share.draws) continue;
    LiveRequest& r = request_of(*share.sequence);
    if (!r.sampling.penalised() || r.history_admission == r.admissions) continue;
    std::span<const int32_t> all(r.tokens);
    HEARTH_TRY(sampler_->start_slot(r.slot, all.first(r.prompt), all.subspan(r.prompt)));
    r.history_admission = r.admissions;
  }
  return Status::ok();
}

sampling::RowRequest ModelRunner::sample_row(Step& step, const Row& row) {
  sampling::RowRequest request;
  const scheduler::Share& share = step.shares[row.share];
  if (!share.sequence) return request;
  LiveRequest& r = request_of(*share.sequence);
  if (!row.draw) {
    request.forced = r.tokens[row.position + 1];
    request.top_logprobs = r.options.top_logprobs;
    return request;
  }
  request.parameters = &r.sampling;
  request.slot = std::max(r.slot, 0);
  if (r.matcher) request.mask = r.matcher->mask();
  request.generated = r.generated;
  return request;
}

Status ModelRunner::launch_sample(Step& step) {
  if (step.hidden || step.rows.empty()) return Status::ok();
  HEARTH_TRY(prepare_penalties(step));
  sampler_->begin();
  draft_histories_ = 0;
  for (size_t row = 0; row < step.rows.size();) {
    if (step.rows[row].draw && step.shares[step.rows[row].share].drafts > 0) HEARTH_TRY(add_draws(step, row));
    else sampler_->add(sample_row(step, step.rows[row++]));
  }
  return sampler_->launch(model_.logits());
}

// ---- Taking results -------------------------------------------------------------------------------------------------

Status ModelRunner::collect(Step& step) {
  if (step.hidden) {
    HEARTH_TRY(collect_hidden(step));
  } else if (step.rows.empty()) {
    // Nothing to wait for; an error shows with the next step that has results.
    if (!options_.overlap) HEARTH_TRY(model_.device().stream().synchronize());
  } else {
    HEARTH_TRY(sampler_->wait());
    HEARTH_TRY(options_.overlap ? Status::ok() : model_.device().stream().synchronize());
    now_ = Clock::now();
    HEARTH_TRY(collect_logits(step));
  }
  measure_decode(step);
  measure_prefill(step);
  finish_prompts(step);
  outbox_.ring().unreserve(step.reserved);
  step.reserved = 0;
  ++step_count_;
  return Status::ok();
}

Status ModelRunner::collect_logits(Step& step) {
  for (size_t row = 0; row < step.rows.size();) {
    scheduler::Share& share = step.shares[step.rows[row].share];
    if (step.rows[row].draw) {
      HEARTH_TRY(collect_draws(step, row, share));
      continue;
    }
    if (share.sequence) {
      LiveRequest& r = request_of(*share.sequence);
      sampling::Drawn drawn = sampler_->result(static_cast<int>(row));
      int index = step.rows[row].position + 1;
      if (r.prompt_reported == 0) publish_prompt_token(r, 0, nullptr);
      if (index == r.prompt_reported) publish_prompt_token(r, index, &drawn);
      r.logits_begin = index;
    }
    ++row;
  }
  return Status::ok();
}

// Damaged weights, or values that overflow the type they are held in, make every logit NaN, and what is drawn then means
// nothing. One number that was drawn shows that it is neither, and costs a log-probability.
Status ModelRunner::prove(LiveRequest& r, const sampling::Drawn& drawn) {
  if (!r.proves) return Status::ok();
  if (std::isnan(drawn.logprob)) return not_numbers();
  computes_numbers_ = true;
  r.proves = false;
  r.sampling.top_logprobs = r.options.logprobs ? r.options.top_logprobs : -1;
  return Status::ok();
}

// The rows of one share that draw: accepted drafts, then one more token; the rest was computed for nothing.
Status ModelRunner::collect_draws(Step& step, size_t& row, scheduler::Share& share) {
  int drafts = share.drafts;
  size_t begin = row;
  row += drafts + 1;
  if (!share.sequence) return Status::ok();
  LiveRequest& r = request_of(*share.sequence);
  drawn_keys_.clear();
  r.draft_tokens += drafts;
  if (r.draft_predicted) r.predicted_tokens += drafts;
  draft_tokens_ += drafts;
  if (r.options.prompt_logprobs && r.prompt_reported == 0) publish_prompt_token(r, 0, nullptr);
  for (int i = 0; i <= drafts; ++i) {
    sampling::Drawn drawn = sampler_->result(static_cast<int>(begin) + i);
    bool agrees = i < drafts && drawn.token == r.draft[i];
    if (i < drafts) r.acceptance.saw(r.draft_matched, agrees);
    r.draft_accepted += agrees;
    r.predicted_accepted += agrees && r.draft_predicted;
    draft_accepted_ += agrees;
    drawn_keys_.push_back(kv::key_of_token(drawn.token));
    bool last = !agrees;
    // resolve() before the request may end: ending gives the blocks back, and full ones should be found again.
    if (last) scheduler_.resolve(r, drawn_keys_);
    if (Status proven = prove(r, drawn); !proven) return end(r, Reason::error, proven), Status::ok();
    if (publish_token(r, drawn)) return Status::ok();
    // The launch recorded none of a chain that may be cut short; what counts is known now.
    const bool counted = drafts > 0 && r.sampling.penalised() && r.slot >= 0 && r.history_admission == r.admissions;
    if (counted) HEARTH_TRY(sampler_->set_count(r.slot, drawn.token, drawn_before(r, drawn.token, 0)));
    if (last) break;
  }
  return Status::ok();
}

Status ModelRunner::collect_hidden(Step& step) {
  size_t width = model_.info().hidden_width, rows = step.rows.size();
  if (rows > 0) HEARTH_TRY(model_.device().download(host_hidden_, model_.hidden(), rows * width * sizeof(float)));
  HEARTH_TRY(model_.device().stream().synchronize());
  now_ = Clock::now();
  for (size_t row = 0; row < rows; ++row) {
    scheduler::Sequence* sequence = step.shares[step.rows[row].share].sequence;
    if (!sequence) continue;
    LiveRequest& r = request_of(*sequence);
    for (size_t i = 0; i < width; ++i) r.pooled[i] += host_hidden_[row * width + i];
    ++r.pooled_rows;
    r.logits_begin = step.rows[row].position + 1;
  }
  return Status::ok();
}

// Full blocks become findable; requests that only wanted their prompt computed are done when all of it is.
void ModelRunner::finish_prompts(Step& step) {
  for (scheduler::Share& share : step.shares) {
    if (!share.sequence) continue;
    LiveRequest& r = request_of(*share.sequence);
    if (share.draws) continue;
    scheduler_.publish(r);
    if (r.draws || share.start + share.count < r.prompt) continue;
    if (r.hidden) {
      if (Status status = publish_embedding(r); !status) {
        end(r, Reason::error, status);
        continue;
      }
    }
    if (r.options.kind == Kind::score && r.prompt_reported == 0) publish_prompt_token(r, 0, nullptr);
    finish(r, Reason::done, "null", {});
  }
}

void ModelRunner::fail_step(Step& step, const Status& status) {
  outbox_.ring().unreserve(step.reserved);
  step.reserved = 0;
  for (size_t i = 0; i < step.shares.size(); ++i)
    if (scheduler::Sequence* s = step.shares[i].sequence) end(request_of(*s), Reason::error, status);
  step.shares.clear();
}

Status ModelRunner::step(bool& worked) {
  now_ = Clock::now();
  HEARTH_TRY(take_transfers(worked));
  HEARTH_TRY(encode_images(worked));
  Step &next = steps_[turn_], &previous = steps_[1 - turn_];
  bool any = false;
  // How many tokens a verified proposal gave must be known before the next step is planned, and so must the text that a
  // proposal continues: such steps are not overlapped.
  if (in_flight_ && (previous.drafts > 0 || wants_drafts())) {
    in_flight_ = false;
    worked = true;
    if (Status status = collect(previous); !status) {
      fail_step(previous, status);
      return status.code() == Code::device ? status : Status::ok();
    }
  }
  HEARTH_TRY(plan(next, any));
  HEARTH_TRY(start_transfers());
  if (!any && !in_flight_) return Status::ok();
  worked = true;
  Status status = any ? launch_forward(next) : Status::ok();
  if (status && in_flight_) {
    in_flight_ = false;
    status = collect(previous);
    if (!status) fail_step(previous, status);
  }
  if (status && any) status = launch_sample(next);
  if (status && any && !options_.overlap) status = collect(next);
  if (!status) {
    fail_step(next, status);
    return status.code() == Code::device ? status : Status::ok();
  }
  if (any && options_.overlap) {
    in_flight_ = true;
    turn_ = 1 - turn_;
  }
  return Status::ok();
}

RunnerStats ModelRunner::stats() const {
  RunnerStats s;
  s.running = static_cast<int>(scheduler_.running().size());
  s.waiting = scheduler_.waiting();
  s.blocks = pool_.counts();
  s.prefix_hit_tokens = scheduler_.prefix_hit_tokens();
  s.prefix_query_tokens = scheduler_.prefix_query_tokens();
  s.preemptions = scheduler_.preemptions();
  s.prompt_tokens = prompt_tokens_;
  s.generation_tokens = generation_tokens_;
  s.steps = step_count_;
  if (tier_) {
    s.host_blocks = tier_->slots();
    s.host_blocks_used = tier_->used();
    s.host_hit_tokens = scheduler_.host_hit_tokens();
    s.host_saved_bytes = saved_blocks_ * model_.kv_block_bytes();
    s.host_fetched_bytes = fetched_blocks_ * model_.kv_block_bytes();
  }
  s.image_hits = images_.hits();
  s.image_queries = images_.queries();
  s.draft_tokens = draft_tokens_;
  s.draft_accepted = draft_accepted_;
  return s;
}

}  // namespace hearth::runtime
