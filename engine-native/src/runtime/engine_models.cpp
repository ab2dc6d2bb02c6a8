// Models and long jobs: what comes and goes while the step loop runs.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "core/guard.h"
#include "core/log.h"
#include "runtime/engine.h"
#include "runtime/json_reader.h"

namespace hearth::runtime {

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

// Memory that loaded models were promised and have not touched, on devices whose memory is the system's: a KV pool costs
// nothing until it is written, so the system still calls it free. What the process itself has grown by since the start
// is taken for theirs.
int64_t Engine::reserved_bytes() {
  if (device_->info().kind != device::DeviceKind::cpu) return 0;
  int64_t planned = 0;
  std::lock_guard lock(mutex_);
  for (const auto& [handle, loaded] : models_) planned += loaded->planned_bytes;
  return std::max<int64_t>(0, planned - std::max<int64_t>(0, resident_bytes() - resident_at_open_));
}

Result<Json> Engine::run_plan(const ModelRequest& request) {
  HEARTH_ASSIGN(auto device, open_device(options_));
  constexpr int64_t mebibyte = int64_t{1} << 20;
  HEARTH_ASSIGN(model::MemoryDemand demand, model::Model::plan(request.load, *device, request.reclaimable_mb * mebibyte));
  Json lines = Json::array();
  for (const model::MemoryLine& line : demand.lines) lines.push_back({{"what", line.what}, {"bytes", line.bytes}});
  return Json{{"memory", lines}, {"bytes", demand.bytes}, {"available_bytes", demand.available}};
}

Status Engine::model_open(std::string_view json, uint32_t& model, uint32_t& job_id) {
  HEARTH_ASSIGN(ModelRequest request, parse_model_request(json));
  request.load.reserved_bytes = reserved_bytes();
  if (request.plan_only) {
    model = 0;
    return launch_new_job([this, request](Job&) { return run_plan(request); }, job_id);
  }
  auto loaded = std::make_shared<LoadedModel>();
  loaded->name = request.name;
  std::shared_ptr<Job> job;
  {
    std::lock_guard lock(mutex_);
    HEARTH_TRY(refuse_when_stopped());
    loaded->handle = model = next_model_++;
    job = std::make_shared<Job>(job_id = new_id());
    models_[model] = loaded;
    jobs_[job_id] = job;
  }
  launch_job(job, [this, loaded, request](Job& self) { return run_load(loaded, request, self); });
  return Status::ok();
}

Result<Json> Engine::run_load(const std::shared_ptr<LoadedModel>& loaded, const ModelRequest& request, Job& job) {
  if (Status status = guarded([&] { return load_into(*loaded, request, job); }); !status) {
    std::lock_guard lock(mutex_);
    loaded->state = ModelState::closed;
    models_.erase(loaded->handle);
    log::write(log::Level::debug, "model " + loaded->name + " was not loaded: " + status.message());
    return status;
  }
  log::write(log::Level::debug, "model " + loaded->name + " is ready on " + loaded->device->info().name);
  job.report("ready", 1, 1, loaded->info["memory"]);
  post([this, loaded] {
    std::lock_guard lock(mutex_);
    if (stopping_ || !failure_) {  // nobody will step it: the handle is closed, not for ever loading
      loaded->state = ModelState::closed;
      models_.erase(loaded->handle);
      return;
    }
    loaded->device->adopt_step_thread();  // the step thread is worker 0 of the model's pool
    stepping_.push_back(loaded);
    loaded->state = ModelState::ready;
  });
  return Json{{"model", loaded->handle}};
}

Status Engine::load_into(LoadedModel& loaded, const ModelRequest& request, Job& job) {
  HEARTH_ASSIGN(loaded.device, open_device(options_));
  auto progress = [](void* context, const char* stage, double done, double total) {
    auto* reporting = static_cast<Job*>(context);
    reporting->report(stage, done, total);
    return !reporting->cancelled();
  };
  HEARTH_ASSIGN(LoadResult result, load_model(request.load, *loaded.device, progress, &job));
  loaded.model = std::move(result.model);
  for (const model::MemoryLine& line : loaded.model->memory()) loaded.planned_bytes += line.bytes;
  loaded.vocabulary = std::move(result.vocabulary);
  RunnerOptions options;
  options.prefix_cache = request.prefix_cache;
  options.overlap = hooks().overlap.value_or(loaded.device->info().kind == device::DeviceKind::cuda);
  options.queue_requests = options_.queue_requests;
  options.host_kv_bytes = host_tier_bytes(request.host_kv_mb, loaded.device->info());
  options.wake = [this] { wake(); };
  options.preparing = [model = &loaded] { return model->preparing.load(); };
  HEARTH_ASSIGN(loaded.runner, ModelRunner::create(*loaded.model, loaded.vocabulary, outbox_, options,
                                                   [this](LiveRequest& r) { finished_.push_back(r.id); }));
  loaded.grammars = std::make_unique<grammar::GrammarCache>(make_token_trie(loaded));
  loaded.info = describe_model(loaded, result.chat_template);
  if (const RunnerStats stats = loaded.runner->stats(); stats.host_blocks > 0) {
    const int64_t bytes = stats.host_blocks * static_cast<int64_t>(loaded.model->kv_block_bytes());
    loaded.info["memory"].push_back({{"what", "host memory behind the KV pool"}, {"bytes", bytes}});
    if (loaded.device->info().kind == device::DeviceKind::cpu) loaded.planned_bytes += bytes;
  }
  return job.cancelled() ? model::load_cancelled() : Status::ok();
}

Status Engine::model_close(uint32_t model) {
  std::shared_ptr<LoadedModel> loaded;
  {
    std::lock_guard lock(mutex_);
    auto at = models_.find(model);
    if (at == models_.end()) return Status(Code::closed, "no open model has handle " + std::to_string(model));
    if (at->second->state == ModelState::loading) return Status(Code::busy, "the model is still loading");
    loaded = at->second;
    loaded->state = ModelState::closing;
    models_.erase(at);
  }
  bool out = false;
  post([this, loaded, &out] {
    loaded->runner->end_all(Reason::cancelled);
    std::erase(stepping_, loaded);
    std::lock_guard lock(mutex_);
    out = true;
    changed_.notify_all();
  });
  // Requests hold the model while they are prepared and until they are forgotten; memory is free when this returns.
  std::unique_lock lock(mutex_);
  while (!done_ && !(out && loaded->preparing == 0 && loaded.use_count() == 1))
    changed_.wait_for(lock, std::chrono::milliseconds(1));
  return Status::ok();
}

Result<Json> Engine::model_info(uint32_t model) {
  HEARTH_ASSIGN(std::shared_ptr<LoadedModel> loaded, ready_model(model));
  return loaded->info;
}

Status Engine::start_job(std::string_view json, uint32_t& id) {
  HEARTH_ASSIGN(JobFunction function, make_job(json));
  return launch_new_job(std::move(function), id);
}

Status Engine::launch_new_job(JobFunction function, uint32_t& id) {
  std::shared_ptr<Job> job;
  {
    std::lock_guard lock(mutex_);
    HEARTH_TRY(refuse_when_stopped());
    job = std::make_shared<Job>(id = new_id());
    jobs_[id] = job;
  }
  launch_job(job, std::move(function));
  return Status::ok();
}

void Engine::launch_job(std::shared_ptr<Job> job, JobFunction function) {
  std::weak_ptr<Job> weak = job;
  job->on_notice = [this, weak] {
    post([this, weak] {
      auto job = weak.lock();
      if (!job || !outbox_.empty()) return;  // a reader that is behind gets the next progress instead
      std::string text = job->take_notice();
      if (text.empty()) return;
      Record record;
      record.type = RecordType::notice;
      record.request = job->id();
      record.logprob = NAN;
      record.text = text;
      outbox_.send(record);
    });
  };
  std::lock_guard lock(mutex_);  // finish_job finds the thread set, however short the job is
  job->thread = std::thread([this, job, function = std::move(function)] {
    Result<Json> result = guarded([&] { return function(*job); });
    post([this, job, result = std::move(result)] { finish_job(job, result); });
  });
}

void Engine::finish_job(const std::shared_ptr<Job>& job, const Result<Json>& result) {
  std::thread thread;
  {
    std::lock_guard lock(mutex_);
    thread = std::move(job->thread);
  }
  thread.join();  // its last act was to post this
  Json json = Json::object();
  Record record;
  record.type = RecordType::finished;
  record.request = job->id();
  record.logprob = NAN;
  record.reason = Reason::done;
  if (result) {
    json["result"] = *result;
  } else {
    record.reason = result.status().code() == Code::cancelled ? Reason::cancelled : Reason::error;
    json["error"] = error_json(result.status());
  }
  std::string text = dump(json);
  record.bytes = text;
  outbox_.send(record);
  std::lock_guard lock(mutex_);
  jobs_.erase(job->id());
}

}  // namespace hearth::runtime
