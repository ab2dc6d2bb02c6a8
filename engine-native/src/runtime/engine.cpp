#include "runtime/engine.h"

#include <algorithm>
#include <cmath>

#include "core/guard.h"
#include "core/log.h"
#include "runtime/json_reader.h"
#include "runtime/prepare.h"

namespace hearth::runtime {
namespace {

constexpr int prepare_thread_count = 2;
constexpr size_t step_times_kept = 1024;
constexpr size_t finished_in_step_max = 4096;
constexpr size_t ring_bytes_min = 65536;
constexpr auto snapshot_period = std::chrono::milliseconds(20);

}  // namespace

Result<EngineOptions> parse_engine_options(std::string_view json) {
  HEARTH_ASSIGN(JsonReader reader, JsonReader::parse(json, "options_json"));
  EngineOptions out;
  HEARTH_TRY(reader.read("device", out.device));
  if (out.device != "auto" && out.device != "cpu" && out.device != "cuda")
    return JsonReader::wrong("device", "auto, cpu or cuda");
  HEARTH_TRY(reader.read_integer("threads", 0, 1024, out.threads));
  HEARTH_TRY(reader.read_integer("prompt_threads", 0, 1024, out.prompt_threads));
  HEARTH_TRY(reader.read_integer("ring_bytes", ring_bytes_min, 1 << 30, out.ring_bytes));
  HEARTH_TRY(reader.read_integer("queue_requests", 1, 1 << 20, out.queue_requests));
  HEARTH_TRY(reader.read_integer("queue_tokens", 1, INT64_MAX, out.queue_tokens));
  HEARTH_TRY(reader.read("profile", out.profile));
  HEARTH_TRY(reader.read("memory", out.memory));
  if (out.memory != "auto" && out.memory != "unified" && out.memory != "discrete")
    return JsonReader::wrong("memory", "auto, unified or discrete");
  HEARTH_TRY(reader.read("log_level", out.log_level));
  if (out.log_level != "error" && out.log_level != "warn" && out.log_level != "info" && out.log_level != "debug")
    return JsonReader::wrong("log_level", "error, warn, info or debug");
  HEARTH_TRY(reader.finish());
  return out;
}

Result<std::unique_ptr<device::Device>> open_device(const EngineOptions& options) {
  if (options.device == "cpu") return device::open_cpu_device(options.threads, options.prompt_threads);
  auto count = device::count_cuda_devices();
  bool usable = count && *count > 0;
  if (usable) return device::open_cuda_device(0, options.profile, options.memory == "unified");
  if (options.device == "auto") return device::open_cpu_device(options.threads, options.prompt_threads);
  std::string why = count ? "no CUDA device was found" : count.status().message();
  return Status(Code::device, why + "; install the NVIDIA driver or start with --device cpu");
}

Engine::Engine(const EngineOptions& options) : options_(options), ring_(options.ring_bytes), outbox_(ring_) {
  step_ms_.reserve(step_times_kept);
  finished_.reserve(options.queue_requests + finished_in_step_max);  // steps append to it
}

Result<std::shared_ptr<Engine>> Engine::open(const EngineOptions& options) {
  log::set_level(options.log_level);
  std::shared_ptr<Engine> engine(new Engine(options));
  HEARTH_ASSIGN(engine->device_, open_device(options));
  engine->resident_at_open_ = resident_bytes();
  if (!engine->doorbell_.open()) return io_error("cannot make a socketpair for the doorbell");
  Engine* self = engine.get();
  engine->step_thread_ = std::thread([self] { self->step_loop(); });
  for (int i = 0; i < prepare_thread_count; ++i)
    engine->prepare_threads_.emplace_back([self] { self->prepare_loop(); });
  return engine;
}

Engine::~Engine() { close(); }

Status Engine::refuse_when_stopped() {
  if (!failure_) return failure_;
  return stopping_ ? Status(Code::closed, "the engine is stopping") : Status::ok();
}

uint32_t Engine::new_id() {
  for (;;) {
    uint32_t id = next_id_++;
    if (id != 0 && !requests_.contains(id) && !jobs_.contains(id)) return id;
  }
}

// ---- Mailbox --------------------------------------------------------------------------------------------------------

void Engine::post(std::function<void()> message) {
  std::lock_guard lock(mutex_);
  mailbox_.push_back(std::move(message));
  awake_ = true;
  changed_.notify_all();
}

void Engine::wake() {
  std::lock_guard lock(mutex_);
  awake_ = true;
  changed_.notify_all();
}

void Engine::take_mailbox() {
  {
    std::lock_guard lock(mutex_);
    messages_.swap(mailbox_);
    awake_ = false;
  }
  for (auto& message : messages_) message();
  messages_.clear();
}

bool Engine::drain(std::span<uint8_t> out, uint32_t& written) {
  bool fits = ring_.drain(out, written);
  if (fits && written > 0 && hungry_.exchange(false)) wake();
  return fits;
}

// ---- Step thread ----------------------------------------------------------------------------------------------------

void Engine::step_loop() {
  while (turn()) {}
  std::lock_guard lock(mutex_);
  doorbell_.hang_up();
  done_ = true;
  changed_.notify_all();
}

bool Engine::turn() {
  take_mailbox();
  bool worked = false, flowing = outbox_.flush();
  if (flowing) step_models(worked);
  forget_finished();
  if (ring_.publish()) doorbell_.ring();
  snapshot();
  if (all_done()) return false;
  if (!worked) {
    last_snapshot_ = {};
    snapshot();  // what stands while nothing moves
    rest();
  }
  return true;
}

bool Engine::step_models(bool& worked) {
  for (size_t i = 0; i < stepping_.size(); ++i) {
    ModelRunner& runner = *stepping_[i]->runner;
    if (hooks().before_step) hooks().before_step(runner);
    bool busy = false;
    auto begin = Clock::now();
    uint64_t allocations = hooks().allocations ? hooks().allocations() : 0;
    Status status = guarded([&] { return runner.step(busy); });
    if (busy) {
      if (hooks().allocations) step_allocations_ += hooks().allocations() - allocations;
      float ms = std::chrono::duration<float, std::milli>(Clock::now() - begin).count();
      if (step_ms_.size() < step_times_kept) step_ms_.push_back(ms);
      else step_ms_[step_count_ % step_times_kept] = ms;
      ++step_count_;
    }
    worked |= busy;
    if (ring_.publish()) doorbell_.ring();  // one model's tokens do not wait for another's step
    if (!status) {
      die(status);
      return false;
    }
  }
  return true;
}

// Nothing could be done: sleeps until there is mail, or room in the ring when that is what is missing.
void Engine::rest() {
  bool blocked = !outbox_.empty();
  for (const auto& loaded : stepping_) blocked |= !loaded->runner->idle();
  if (blocked) {
    hungry_.store(true);
    // Room may have come between the attempt and the flag; the timeout covers that narrow gap at no cost.
  }
  std::unique_lock lock(mutex_);
  auto ready = [&] { return awake_ || !mailbox_.empty(); };
  if (blocked) changed_.wait_for(lock, std::chrono::milliseconds(2), ready);
  else changed_.wait(lock, ready);
}

bool Engine::all_done() {
  std::lock_guard lock(mutex_);
  if (closing_) outbox_.drop();
  if (!stopping_ || !requests_.empty() || !jobs_.empty() || !mailbox_.empty() || !outbox_.empty()) return false;
  for (const auto& loaded : stepping_)
    if (!loaded->runner->idle()) return false;
  return true;
}

// The device failed: every live request ends with the error, and nothing new is taken.
void Engine::die(const Status& status) {
  log::write(log::Level::error, "the device failed, nothing more is served: " + status.message());
  {
    std::lock_guard lock(mutex_);
    failure_ = Status(Code::device, "the engine is dead: " + status.message());
  }
  for (auto& loaded : stepping_) loaded->runner->end_all(Reason::error, failure_);
  stepping_.clear();
}

// A prepared request arrives.
void Engine::enter(const std::shared_ptr<LiveRequest>& request) {
  LiveRequest& r = *request;
  LoadedModel& loaded = *r.model;
  Status failure;
  bool stopped = false;
  {
    std::lock_guard lock(mutex_);
    failure = failure_;
    stopped = stopping_;
  }
  if (!failure) return send_finished(r, Reason::error, failure);
  if (stopped || r.cancelled || loaded.state != ModelState::ready) return send_finished(r, Reason::cancelled);
  if (!r.error) return send_finished(r, Reason::error, r.error);
  Record accepted;
  accepted.type = RecordType::accepted;
  accepted.request = r.id;
  accepted.index = static_cast<uint32_t>(r.prompt);
  accepted.logprob = NAN;
  outbox_.send(accepted);
  r.in_runner = true;
  Status status = guarded([&] { return loaded.runner->add(r); });
  if (!status) {
    r.in_runner = false;
    send_finished(r, Reason::error, status);
  }
}

// The end of a request no runner has.
void Engine::send_finished(LiveRequest& r, Reason reason, const Status& status) {
  if (r.finished) return;
  Json json = {{"prompt_tokens", r.prompt}, {"cached_tokens", 0}, {"image_tokens", r.image_tokens}, {"completion_tokens", 0},
               {"queue_ms", std::chrono::duration<double, std::milli>(Clock::now() - r.submitted).count()},
               {"prefill_ms", 0}, {"decode_ms", 0}, {"draft_tokens", 0}, {"draft_accepted", 0},
               {"predicted_tokens", 0}, {"predicted_accepted", 0}, {"stop", nullptr}};
  if (!status) json["error"] = error_json(status);
  std::string text = dump(json);
  Record record;
  record.type = RecordType::finished;
  record.request = r.id;
  record.reason = reason;
  record.logprob = NAN;
  record.bytes = text;
  outbox_.send(record);
  r.finished = true;
  finished_.push_back(r.id);
}

void Engine::forget_finished() {
  if (finished_.empty()) return;
  std::vector<std::shared_ptr<LiveRequest>> gone;  // destroyed outside the lock
  std::lock_guard lock(mutex_);
  for (uint32_t id : finished_) {
    auto at = requests_.find(id);
    if (at == requests_.end()) continue;
    at->second->leave_queue();
    gone.push_back(std::move(at->second));
    requests_.erase(at);
  }
  finished_.clear();
  changed_.notify_all();
}

// ---- Preparing threads ----------------------------------------------------------------------------------------------

void Engine::prepare_loop() {
  for (;;) {
    std::shared_ptr<LiveRequest> request;
    {
      std::unique_lock lock(prepare_mutex_);
      prepare_changed_.wait(lock, [&] { return prepare_end_ || !to_prepare_.empty(); });
      if (to_prepare_.empty()) return;
      request = std::move(to_prepare_.front());
      to_prepare_.pop_front();
    }
    std::shared_ptr<LoadedModel> loaded = request->model;
    if (!request->cancelled && loaded->state == ModelState::ready) prepare_request(*request, *loaded);
    post([this, request] { enter(request); });
    request.reset();
    loaded->preparing.fetch_sub(1);
  }
}

// ---- Requests -------------------------------------------------------------------------------------------------------

Result<std::shared_ptr<LoadedModel>> Engine::ready_model(uint32_t handle) {
  std::lock_guard lock(mutex_);
  HEARTH_TRY(refuse_when_stopped());
  auto at = models_.find(handle);
  if (at == models_.end()) return Status(Code::closed, "no open model has handle " + std::to_string(handle));
  ModelState state = at->second->state;
  if (state == ModelState::loading) return Status(Code::busy, "model " + at->second->name + " is still loading");
  if (state != ModelState::ready) return Status(Code::closed, "model " + at->second->name + " is closing");
  return at->second;
}

Status Engine::submit(uint32_t model, const Submission& submission, uint32_t& id) {
  HEARTH_ASSIGN(std::shared_ptr<LoadedModel> loaded, ready_model(model));
  auto request = std::make_shared<LiveRequest>();
  LiveRequest& r = *request;
  HEARTH_ASSIGN(r.options, parse_request(submission.json));
  r.text = submission.text;
  for (size_t i = 0; i + 1 < submission.literal.size(); i += 2)
    r.literal.push_back({submission.literal[i], submission.literal[i + 1]});
  r.given_ids.assign(submission.ids.begin(), submission.ids.end());
  r.pixels.assign(submission.pixels.begin(), submission.pixels.end());
  HEARTH_TRY(check_submission(r, *loaded));
  r.model = loaded;
  r.priority = r.options.priority;
  r.submitted = Clock::now();
  r.queued_tokens = static_cast<int64_t>(r.text.size() / 4 + r.given_ids.size());
  {
    std::lock_guard lock(mutex_);
    HEARTH_TRY(refuse_when_stopped());
    if (loaded->state != ModelState::ready) return Status(Code::closed, "model " + loaded->name + " is closing");
    if (queue_.requests >= options_.queue_requests || queue_.tokens + r.queued_tokens > options_.queue_tokens)
      return Status(Code::busy, "the queue is full (" + std::to_string(queue_.requests) + " requests, " +
                                    std::to_string(queue_.tokens) + " tokens wait)");
    r.id = id = new_id();
    r.arrival = next_arrival_++;
    r.queue = &queue_;
    queue_.requests.fetch_add(1);
    queue_.tokens.fetch_add(r.queued_tokens);
    requests_[id] = request;
    loaded->preparing.fetch_add(1);
  }
  std::lock_guard lock(prepare_mutex_);
  to_prepare_.push_back(std::move(request));
  prepare_changed_.notify_one();
  return Status::ok();
}

Status Engine::cancel(uint32_t id) {
  std::shared_ptr<LiveRequest> request;
  {
    std::lock_guard lock(mutex_);
    if (auto job = jobs_.find(id); job != jobs_.end()) return job->second->cancel(), Status::ok();
    auto at = requests_.find(id);
    if (at == requests_.end()) return not_found("no live request has id " + std::to_string(id));
    request = at->second;
  }
  request->cancelled = true;
  post([this, request] {
    if (request->in_runner && !request->finished) request->model->runner->end(*request, Reason::cancelled);
  });
  return Status::ok();
}

// ---- Stats ----------------------------------------------------------------------------------------------------------

void Engine::snapshot() {
  auto now = Clock::now();
  if (now - last_snapshot_ < snapshot_period) return;
  last_snapshot_ = now;
  std::lock_guard lock(mutex_);
  snapshot_.models.clear();
  for (const auto& loaded : stepping_) snapshot_.models.emplace_back(loaded, loaded->runner->stats());
  snapshot_.step_ms = step_ms_;
  snapshot_.allocations = step_allocations_;
}

Json Engine::stats() {
  Snapshot s;
  {
    std::lock_guard lock(mutex_);
    s = snapshot_;
  }
  Json models = Json::array(), memory = Json::array();
  for (const auto& [weak, r] : s.models) {
    auto loaded = weak.lock();
    if (!loaded) continue;
    models.push_back({{"model", loaded->name}, {"running", r.running}, {"waiting", r.waiting + loaded->preparing},
                      {"kv_blocks_total", r.blocks.total}, {"kv_blocks_used", r.blocks.used}, {"kv_blocks_cached", r.blocks.cached},
                      {"prefix_hit_tokens", r.prefix_hit_tokens}, {"prefix_query_tokens", r.prefix_query_tokens},
                      {"preemptions", r.preemptions}, {"prompt_tokens", r.prompt_tokens},
                      {"generation_tokens", r.generation_tokens}, {"steps", r.steps}, {"image_hits", r.image_hits},
                      {"image_queries", r.image_queries}, {"draft_tokens", r.draft_tokens}, {"draft_accepted", r.draft_accepted},
                      {"host_kv_blocks_total", r.host_blocks}, {"host_kv_blocks_used", r.host_blocks_used},
                      {"host_kv_hit_tokens", r.host_hit_tokens}, {"host_kv_saved_bytes", r.host_saved_bytes},
                      {"host_kv_fetched_bytes", r.host_fetched_bytes}});
    for (const Json& line : loaded->info["memory"])
      memory.push_back({{"what", loaded->name + ": " + line["what"].get<std::string>()}, {"bytes", line["bytes"]}});
  }
  std::sort(s.step_ms.begin(), s.step_ms.end());
  auto percentile = [&](double p) { return s.step_ms.empty() ? 0.f : s.step_ms[static_cast<size_t>(p * (s.step_ms.size() - 1))]; };
  return {{"models", models}, {"memory", memory}, {"step_ms_p50", percentile(0.5)}, {"step_ms_p99", percentile(0.99)},
          {"allocations_on_step", s.allocations}};
}

// ---- End ------------------------------------------------------------------------------------------------------------

void Engine::stop() {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    for (auto& [id, job] : jobs_) job->cancel();
  }
  post([this] {
    for (auto& loaded : stepping_) loaded->runner->end_all(Reason::cancelled);
  });
}

void Engine::close() {
  stop();
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    awake_ = true;
    changed_.notify_all();
  }
  if (step_thread_.joinable()) step_thread_.join();
  {
    std::lock_guard lock(prepare_mutex_);
    prepare_end_ = true;
    prepare_changed_.notify_all();
  }
  for (std::thread& thread : prepare_threads_)
    if (thread.joinable()) thread.join();
  prepare_threads_.clear();
  stepping_.clear();
  std::map<uint32_t, std::shared_ptr<LoadedModel>> models;  // others may still be looking handles up
  {
    std::lock_guard lock(mutex_);
    models.swap(models_);
  }
  for (auto& [handle, loaded] : models) loaded->runner.reset();
}

}  // namespace hearth::runtime
