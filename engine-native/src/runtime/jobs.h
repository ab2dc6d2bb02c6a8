// Long jobs: a thread each, progress as NOTICE records, one FINISHED with the result.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "core/status.h"

namespace hearth::runtime {

class Job {
 public:
  explicit Job(uint32_t id) : id_(id) {}
  uint32_t id() const { return id_; }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }

  // Any thread. Progress is what stands now, not a history: what was not sent yet is replaced.
  void report(const char* stage, double done, double total, nlohmann::json detail = nullptr);
  // The progress to send, or empty.
  std::string take_notice();
  std::function<void()> on_notice;  // tells the engine that there is one
  std::thread thread;

 private:
  uint32_t id_;
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;
  std::string notice_;
};

using JobFunction = std::function<Result<nlohmann::json>(Job&)>;

// job_json of hearth_job; an unknown job or option is an error now, not later.
Result<JobFunction> make_job(std::string_view json);

}  // namespace hearth::runtime
