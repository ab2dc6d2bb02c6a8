// A client of the C ABI as the server is one: doorbell, drain, records. Knows include/hearth.h and nothing else.
#pragma once

#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hearth.h"

namespace hearth::testing {

using Json = nlohmann::json;

struct TopEntry {
  int32_t token;
  float logprob;
  std::string bytes;
};

struct ClientRecord {
  uint32_t size, request, reason, index;
  uint16_t type, flags;
  int32_t token;
  float logprob;
  std::string bytes, text;
  std::vector<TopEntry> top;
  std::vector<float> values;
};

inline ClientRecord parse_record(const uint8_t* at) {
  ClientRecord r;
  auto u32 = [&](int offset) { uint32_t v; std::memcpy(&v, at + offset, 4); return v; };
  r.size = u32(0);
  std::memcpy(&r.type, at + 4, 2);
  std::memcpy(&r.flags, at + 6, 2);
  r.request = u32(8);
  r.token = static_cast<int32_t>(u32(12));
  r.reason = u32(16);
  std::memcpy(&r.logprob, at + 20, 4);
  r.index = u32(24);
  const char* p = reinterpret_cast<const char*>(at) + HEARTH_RECORD_HEADER_SIZE;
  r.bytes.assign(p, u32(28));
  p += u32(28);
  r.text.assign(p, u32(32));
  p += u32(32);
  const char* top = p;
  for (uint32_t i = 0; i < u32(36); ++i) {
    TopEntry entry;
    uint32_t size;
    std::memcpy(&entry.token, top, 4);
    std::memcpy(&entry.logprob, top + 4, 4);
    std::memcpy(&size, top + 8, 4);
    entry.bytes.assign(top + 12, size);
    top += 12 + size;
    r.top.push_back(entry);
  }
  p += u32(40);
  size_t before = p - (reinterpret_cast<const char*>(at) + HEARTH_RECORD_HEADER_SIZE);
  p += (4 - before % 4) % 4;
  r.values.resize(u32(44));
  if (!r.values.empty()) std::memcpy(r.values.data(), p, r.values.size() * 4);
  return r;
}

// Everything one request has published.
struct Answer {
  std::vector<ClientRecord> records;
  bool finished = false;
  const ClientRecord& end() const { return records.back(); }
  Json usage() const { return Json::parse(end().bytes); }
  std::string text() const {
    std::string out;
    for (const ClientRecord& r : records) out += r.text;
    return out;
  }
  std::vector<int32_t> tokens() const {
    std::vector<int32_t> out;
    for (const ClientRecord& r : records)
      if (r.type == HEARTH_RECORD_TOKEN) out.push_back(r.token);
    return out;
  }
  int count(int type) const {
    int n = 0;
    for (const ClientRecord& r : records) n += r.type == type;
    return n;
  }
};

struct Prompt {
  std::string text;
  std::vector<uint32_t> literal;
  std::vector<int32_t> ids;
  std::vector<uint8_t> pixels;
};

class Client {
 public:
  explicit Client(const Json& options = Json::object(), uint32_t buffer = 1 << 20) : buffer_(buffer) {
    Json all = {{"device", "cpu"}, {"threads", 1}};
    all.update(options);
    status = hearth_open(all.dump().c_str(), &engine, error, sizeof error);
    if (status == HEARTH_OK) hearth_doorbell(engine, &fd, nullptr, 0);
  }
  ~Client() {
    hearth_close(engine);
    if (fd >= 0) ::close(fd);
  }

  // Loads and waits. 0 when it failed; the FINISHED record is in answers[job].
  uint32_t load(const Json& model_json) {
    uint32_t model = 0;
    status = hearth_model_open(engine, model_json.dump().c_str(), &model, &job, error, sizeof error);
    if (status != HEARTH_OK) return 0;
    wait(job, 600);
    return answers[job].end().reason == HEARTH_FINISH_DONE ? model : 0;
  }

  uint32_t submit(uint32_t model, const Json& request, const Prompt& prompt) {
    uint32_t id = 0;
    error[0] = 0;
    status = hearth_submit(engine, model, request.dump().c_str(), reinterpret_cast<const uint8_t*>(prompt.text.data()),
                           prompt.text.size(), prompt.literal.data(), prompt.literal.size() / 2, prompt.ids.data(),
                           prompt.ids.size(), prompt.pixels.data(), prompt.pixels.size(), &id, error, sizeof error);
    return status == HEARTH_OK ? id : 0;
  }
  uint32_t submit(uint32_t model, const Json& request, const std::string& text) {
    return submit(model, request, Prompt{text, {}, {}, {}});
  }

  // Takes what is there, waiting at most `timeout_ms` for something. False at end-of-file.
  bool poll_once(int timeout_ms) {
    pollfd p{fd, POLLIN, 0};
    if (::poll(&p, 1, timeout_ms) <= 0) return true;
    char bell[64];
    ssize_t got = ::read(fd, bell, sizeof bell);
    drain();
    return got != 0;
  }
  void drain() {
    for (;;) {
      uint32_t written = 0;
      drain_status = hearth_drain(engine, buffer_.data(), buffer_.size(), &written);
      if (drain_status == HEARTH_TOO_SMALL) {
        buffer_.resize(written);
        continue;
      }
      if (drain_status != HEARTH_OK || written == 0) return;
      for (uint32_t at = 0; at < written;) {
        ClientRecord r = parse_record(buffer_.data() + at);
        at += r.size;
        Answer& answer = answers[r.request];
        after_finish += answer.finished;
        if (r.type == HEARTH_RECORD_FINISHED) answer.finished = true;
        answer.records.push_back(std::move(r));
      }
    }
  }
  // Until the request is finished; false when that took too long.
  bool wait(uint32_t request, int seconds = 120) {
    auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    while (!answers[request].finished) {
      if (std::chrono::steady_clock::now() > end) return false;
      if (!poll_once(200)) return answers[request].finished;
    }
    return true;
  }
  Answer& run(uint32_t model, const Json& request, const Prompt& prompt) {
    uint32_t id = submit(model, request, prompt);
    if (id != 0) wait(id);
    return answers[id];
  }
  Answer& run(uint32_t model, const Json& request, const std::string& text) {
    return run(model, request, Prompt{text, {}, {}, {}});
  }
  Json stats() {
    std::string text(1 << 16, 0);
    uint32_t needed = 0;
    if (hearth_stats(engine, text.data(), text.size(), &needed) != HEARTH_OK) return nullptr;
    return Json::parse(text.substr(0, needed - 1));
  }

  // Statistics are snapshots, taken between steps: true once the first model's show it, within half a minute.
  template <class Shown>
  bool shows(const Shown& shown) {
    auto now = [&] {
      const Json models = stats()["models"];  // a snapshot: the first model may not be in it yet
      return !models.empty() && shown(models[0]);
    };
    for (int i = 0; i < 3000 && !now(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return now();
  }
  // Waits until a count, of all models, stands still; what comes later than in a tenth of a second does not come.
  int64_t at_rest(const char* count) {
    auto now = [&] {
      int64_t sum = 0;
      const Json all = stats();
      for (const Json& model : all["models"]) sum += model[count].get<int64_t>();
      return sum;
    };
    int64_t last = now();
    for (int still = 0; still < 10; std::this_thread::sleep_for(std::chrono::milliseconds(10))) {
      int64_t next = now();
      still = next == last ? still + 1 : 0;
      last = next;
    }
    return last;
  }

  hearth_engine* engine = nullptr;
  int32_t fd = -1;
  int32_t status = 0, drain_status = 0;
  uint32_t job = 0;
  char error[1024] = {};
  std::map<uint32_t, Answer> answers;
  int after_finish = 0;  // records that came after a request's FINISHED: must stay 0

 private:
  std::vector<uint8_t> buffer_;
};

}  // namespace hearth::testing
