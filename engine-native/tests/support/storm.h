// Many threads on one engine at once, each doing what comes to its mind: submit, cancel, tokenize, ask, load, unload, and in
// the end stop or close under everybody's feet, while a reader drains slowly. The promises of hearth.h are the oracle.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <thread>

#include "support/client.h"

namespace hearth::testing {

// A request, and what it is answered when nothing else runs; no answer where rounding may differ with what runs beside it.
struct StormCase {
  Json request;
  Prompt prompt;
  std::optional<std::vector<int32_t>> tokens{};
};

enum class StormEnd { quiet, stop, close };

struct StormPlan {
  std::vector<Json> models;  // what may be loaded
  std::vector<StormCase> cases;
  std::function<void(std::mt19937&)> meddle = [](std::mt19937&) {};  // a test's own controls, turned while the storm goes
  Json engine = Json::object();
  int threads = 4, actions = 120;
  StormEnd end = StormEnd::quiet;
  unsigned seed = 1;
};

class Storm {
 public:
  explicit Storm(const StormPlan& plan) : plan_(plan), client_(plan.engine, 1 << 16) {}

  void run() {
    ASSERT_EQ(client_.status, HEARTH_OK) << client_.error;
    std::thread reader([this] { read(); });
    std::vector<std::thread> workers;
    for (int i = 0; i < plan_.threads; ++i) workers.emplace_back([this, i] { work(plan_.seed * 1000 + static_cast<unsigned>(i)); });
    if (plan_.end != StormEnd::quiet) end_early();
    for (std::thread& worker : workers) worker.join();
    if (plan_.end == StormEnd::quiet) end_quietly();
    if (plan_.end == StormEnd::close) reading_ = false;
    reader.join();
    check();
  }

 private:
  using Clock = std::chrono::steady_clock;

  // ---- the reader: the one thread that drains ------------------------------------------------------------------------
  void read() {
    std::mt19937 random(plan_.seed);
    while (reading_) {
      if (!client_.poll_once(5)) break;  // end-of-file: all is finished
      if (random() % 8 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(random() % 10));
      finished_ = static_cast<int>(std::count_if(client_.answers.begin(), client_.answers.end(), [](const auto& a) { return a.second.finished; }));
      // A load that is done is a model that may be used.
      std::lock_guard lock(mutex_);
      for (auto at = loading_.begin(); at != loading_.end();) {
        const auto answer = client_.answers.find(at->first);
        if (answer == client_.answers.end() || !answer->second.finished) { ++at; continue; }
        if (answer->second.end().reason == HEARTH_FINISH_DONE) ready_.push_back(at->second);
        at = loading_.erase(at);
      }
    }
  }

  // ---- the workers ---------------------------------------------------------------------------------------------------
  void work(unsigned seed) {
    std::mt19937 random(seed);
    open_model(random);
    for (int i = 0; i < plan_.actions && !closed_; ++i) {
      act(random);
      if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    }
  }

  void act(std::mt19937& random) {
    const unsigned draw = random() % 100;
    if (draw < 55) submit(random);
    else if (draw < 68) cancel(random);
    else if (draw < 80) translate(random);
    else if (draw < 88) ask(random);
    else if (draw < 92) open_model(random);
    else if (draw < 95) close_model(random);
    else plan_.meddle(random);
  }

  uint32_t any_model(std::mt19937& random) {
    std::lock_guard lock(mutex_);
    return ready_.empty() ? 1 + random() % 3 : ready_[random() % ready_.size()];
  }

  void submit(std::mt19937& random) {
    const size_t which = random() % plan_.cases.size();
    const StormCase& c = plan_.cases[which];
    uint32_t id = 0;
    char error[256];
    const std::string request = c.request.dump();
    const int32_t status = hearth_submit(
        client_.engine, any_model(random), request.c_str(), reinterpret_cast<const uint8_t*>(c.prompt.text.data()), static_cast<uint32_t>(c.prompt.text.size()),
        nullptr, 0, c.prompt.ids.data(), static_cast<uint32_t>(c.prompt.ids.size()), c.prompt.pixels.data(), static_cast<uint32_t>(c.prompt.pixels.size()), &id, error, sizeof error);
    std::lock_guard lock(mutex_);
    if (status == HEARTH_OK) accepted_[id] = which;
    else EXPECT_TRUE(status == HEARTH_CLOSED || status == HEARTH_BUSY || status == HEARTH_INVALID) << status << " " << error;
  }

  void cancel(std::mt19937& random) {
    std::vector<uint32_t> ids = {static_cast<uint32_t>(random() % 1000)};
    {
      std::lock_guard lock(mutex_);
      for (const auto& [id, which] : accepted_) ids.push_back(id);
      for (const auto& [job, model] : loading_)
        if (random() % 4 == 0) ids.push_back(job);
    }
    const int32_t status = hearth_cancel(client_.engine, ids[random() % ids.size()]);
    EXPECT_TRUE(status == HEARTH_OK || status == HEARTH_NOT_FOUND || status == HEARTH_CLOSED) << status;
  }

  void translate(std::mt19937& random) {
    const uint32_t model = any_model(random);
    const std::string text = "some text " + std::to_string(random());
    std::vector<int32_t> ids(64);
    uint32_t needed = 0;
    if (hearth_tokenize(client_.engine, model, reinterpret_cast<const uint8_t*>(text.data()), static_cast<uint32_t>(text.size()), nullptr, 0, 0, ids.data(), 64, &needed, nullptr, 0) != HEARTH_OK)
      return;
    std::string back(256, 0);
    const uint32_t count = needed;
    if (hearth_detokenize(client_.engine, model, ids.data(), count, 1, reinterpret_cast<uint8_t*>(back.data()), 256, &needed, nullptr, 0) != HEARTH_OK) return;
    EXPECT_EQ(back.substr(0, needed), text);
  }

  void ask(std::mt19937& random) {
    std::string text(1 << 16, 0);
    uint32_t needed = 0;
    const bool stats = random() % 2;
    const int32_t status = stats ? hearth_stats(client_.engine, text.data(), 1 << 16, &needed)
                                 : hearth_model_info(client_.engine, any_model(random), text.data(), 1 << 16, &needed, nullptr, 0);
    if (status == HEARTH_OK) EXPECT_TRUE(Json::accept(text.substr(0, needed - 1)));
    else EXPECT_TRUE(status == HEARTH_CLOSED || status == HEARTH_BUSY) << status;
  }

  void open_model(std::mt19937& random) {
    {
      std::lock_guard lock(mutex_);
      if (ready_.size() + loading_.size() >= 4) return;
    }
    uint32_t model = 0, job = 0;
    char error[512];
    const int32_t status = hearth_model_open(client_.engine, plan_.models[random() % plan_.models.size()].dump().c_str(), &model, &job, error, sizeof error);
    EXPECT_TRUE(status == HEARTH_OK || status == HEARTH_CLOSED || status == HEARTH_BUSY) << status << " " << error;
    std::lock_guard lock(mutex_);
    if (status == HEARTH_OK) loading_[job] = model, jobs_.insert(job);
  }

  void close_model(std::mt19937& random) {
    uint32_t model = 0;
    {
      std::lock_guard lock(mutex_);
      if (ready_.size() < 2) return;
      const size_t which = random() % ready_.size();
      model = ready_[which];
      ready_.erase(ready_.begin() + static_cast<std::ptrdiff_t>(which));
    }
    const int32_t status = hearth_model_close(client_.engine, model, nullptr, 0);
    EXPECT_TRUE(status == HEARTH_OK || status == HEARTH_CLOSED) << status;
  }

  // ---- the end -------------------------------------------------------------------------------------------------------
  void end_early() {
    std::this_thread::sleep_for(std::chrono::milliseconds(20 + plan_.seed * 37 % 400));
    if (plan_.end == StormEnd::close) hearth_close(client_.engine), closed_ = true;
    else EXPECT_EQ(hearth_stop(client_.engine), HEARTH_OK);
  }

  size_t owed() {
    std::lock_guard lock(mutex_);
    return accepted_.size() + jobs_.size();
  }

  // Everything is answered without being told to; then no block of any pool is in use.
  void end_quietly() {
    const auto end = Clock::now() + std::chrono::seconds(300);
    while (finished_ < static_cast<int>(owed()) && Clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    Json models;
    for (int i = 0; i < 200; ++i) {  // the snapshot behind stats() may be a step old
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      models = client_.stats()["models"];
      if (std::all_of(models.begin(), models.end(), [](const Json& m) { return m["kv_blocks_used"] == 0; })) break;
    }
    for (const Json& m : models) {
      EXPECT_EQ(m["kv_blocks_used"], 0) << m;
      EXPECT_EQ(m["running"], 0) << m;
      EXPECT_EQ(m["waiting"], 0) << m;
    }
    EXPECT_EQ(hearth_stop(client_.engine), HEARTH_OK);
  }

  void check() {
    EXPECT_EQ(client_.after_finish, 0);
    for (const auto& [id, answer] : client_.answers) {
      EXPECT_TRUE(accepted_.contains(id) || jobs_.contains(id)) << "records of request " << id << ", which nobody was given";
      check_order(answer);
    }
    if (plan_.end == StormEnd::close) return;  // the ring went before its reader
    for (uint32_t job : jobs_) EXPECT_TRUE(client_.answers[job].finished) << "job " << job;
    for (const auto& [id, which] : accepted_) {
      ASSERT_TRUE(client_.answers[id].finished) << "request " << id << " " << plan_.cases[which].request;
      check_answer(client_.answers[id], plan_.cases[which]);
    }
  }

  static void check_order(const Answer& answer) {
    uint32_t next = 0;
    int finished = 0;
    for (const ClientRecord& r : answer.records) {
      if (r.type == HEARTH_RECORD_TOKEN) EXPECT_EQ(r.index, next++);
      if (r.type == HEARTH_RECORD_FINISHED) ++finished;
    }
    EXPECT_LE(finished, 1);
  }

  static void check_answer(const Answer& answer, const StormCase& c) {
    const uint32_t reason = answer.end().reason;
    if (reason == HEARTH_FINISH_ERROR) {
      const int status = answer.usage()["error"]["status"];
      EXPECT_TRUE(status == HEARTH_INVALID || status == HEARTH_TOO_LONG || status == HEARTH_OUT_OF_MEMORY || status == HEARTH_UNSUPPORTED) << answer.end().bytes;
      return;
    }
    if (!c.tokens) return;
    const std::vector<int32_t> got = answer.tokens();
    if (reason != HEARTH_FINISH_CANCELLED) EXPECT_EQ(got, *c.tokens) << c.request;
    else EXPECT_TRUE(got.size() <= c.tokens->size() && std::equal(got.begin(), got.end(), c.tokens->begin())) << c.request;
  }

  const StormPlan& plan_;
  Client client_;
  std::atomic<bool> reading_{true}, closed_{false};
  std::atomic<int> finished_{0};
  std::mutex mutex_;  // guards what follows
  std::map<uint32_t, size_t> accepted_;    // request: its case
  std::map<uint32_t, uint32_t> loading_;   // job: its model
  std::set<uint32_t> jobs_;
  std::vector<uint32_t> ready_;
};

}  // namespace hearth::testing
