// The engine: devices, threads, models as handles, and the step loop. This is what the C ABI (capi/) exposes; every
// promise of include/hearth.h is kept here.
//
// Threads
//   step thread        take the mailbox, step every model, publish. The only one that touches runners and the ring's
//                      writing end.
//   preparing threads  tokenize, lay out images, compile grammars.
//   job threads        one a load or long job.
// Callers' threads only check, copy and post.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/status.h"
#include "device/device.h"
#include "runtime/jobs.h"
#include "runtime/live_request.h"
#include "runtime/loaded_model.h"
#include "runtime/outbox.h"
#include "runtime/ring.h"

namespace hearth::runtime {

int64_t resident_bytes();  // of this process; engine_models.cpp

struct EngineOptions {
  std::string device = "auto";  // auto cpu cuda
  int threads = 0, prompt_threads = 0;
  size_t ring_bytes = 4194304;
  int queue_requests = 512;
  int64_t queue_tokens = 2097152;
  std::string profile, memory = "auto";
  std::string log_level = "warn";
};
Result<EngineOptions> parse_engine_options(std::string_view json);
Result<std::unique_ptr<device::Device>> open_device(const EngineOptions& options);

// One request as it crosses the wall; everything is copied.
struct Submission {
  std::string_view json, text;
  std::span<const uint32_t> literal;  // pairs
  std::span<const int32_t> ids;
  std::span<const uint8_t> pixels;
};

class Engine {
 public:
  static Result<std::shared_ptr<Engine>> open(const EngineOptions& options);
  ~Engine();

  void stop();
  void close();
  int take_doorbell() { return doorbell_.take_reader(); }
  bool drain(std::span<uint8_t> out, uint32_t& written);
  nlohmann::json stats();
  device::Device* device() { return device_.get(); }

  Status model_open(std::string_view json, uint32_t& model, uint32_t& job);
  Status model_close(uint32_t model);
  Result<nlohmann::json> model_info(uint32_t model);
  Status submit(uint32_t model, const Submission& submission, uint32_t& request);
  Status cancel(uint32_t request);
  Result<std::shared_ptr<LoadedModel>> ready_model(uint32_t handle);
  Status start_job(std::string_view json, uint32_t& job);

 private:
  struct Snapshot {
    std::vector<std::pair<std::weak_ptr<LoadedModel>, RunnerStats>> models;
    std::vector<float> step_ms;
    uint64_t allocations = 0;
  };

  explicit Engine(const EngineOptions& options);
  // Mailbox.
  void post(std::function<void()> message);
  void wake();
  // Step thread.
  void step_loop();
  bool turn();
  bool step_models(bool& worked);
  void take_mailbox();
  void rest();
  bool all_done();
  void die(const Status& status);
  void enter(const std::shared_ptr<LiveRequest>& request);
  void send_finished(LiveRequest& request, Reason reason, const Status& status = {});
  void forget_finished();
  void snapshot();
  // Preparing threads.
  void prepare_loop();
  // Jobs.
  uint32_t new_id();
  Status launch_new_job(JobFunction function, uint32_t& id);
  void launch_job(std::shared_ptr<Job> job, JobFunction function);
  void finish_job(const std::shared_ptr<Job>& job, const Result<nlohmann::json>& result);
  Result<nlohmann::json> run_plan(const ModelRequest& request);
  int64_t reserved_bytes();
  Result<nlohmann::json> run_load(const std::shared_ptr<LoadedModel>& loaded, const ModelRequest& request, Job& job);
  Status load_into(LoadedModel& loaded, const ModelRequest& request, Job& job);
  Status refuse_when_stopped();

  EngineOptions options_;
  int64_t resident_at_open_ = 0;
  std::unique_ptr<device::Device> device_;  // shows that there is one; models open their own
  Ring ring_;
  Outbox outbox_;
  Doorbell doorbell_;
  QueueCount queue_;

  std::mutex mutex_;  // guards what follows, up to the blank line
  std::condition_variable changed_;
  std::vector<std::function<void()>> mailbox_;
  bool awake_ = false, stopping_ = false, closing_ = false, done_ = false;
  Status failure_;
  uint32_t next_id_ = 1, next_model_ = 1;
  uint64_t next_arrival_ = 1;
  std::unordered_map<uint32_t, std::shared_ptr<LiveRequest>> requests_;
  std::map<uint32_t, std::shared_ptr<LoadedModel>> models_;
  std::map<uint32_t, std::shared_ptr<Job>> jobs_;
  Snapshot snapshot_;

  std::atomic<bool> hungry_{false};  // the step thread waits for room in the ring
  std::mutex prepare_mutex_;
  std::condition_variable prepare_changed_;
  std::deque<std::shared_ptr<LiveRequest>> to_prepare_;
  bool prepare_end_ = false;

  // Step thread only.
  std::vector<std::shared_ptr<LoadedModel>> stepping_;
  std::vector<uint32_t> finished_;
  std::vector<std::function<void()>> messages_;
  std::vector<float> step_ms_;  // the last ones, a ring
  size_t step_count_ = 0;
  uint64_t step_allocations_ = 0;
  Clock::time_point last_snapshot_;

  std::thread step_thread_;
  std::vector<std::thread> prepare_threads_;
};

}  // namespace hearth::runtime
