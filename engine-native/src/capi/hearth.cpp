// The C ABI: argument checks and the exception guard, nothing else. What is promised is in include/hearth.h.
#include "hearth.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "core/guard.h"
#include "runtime/doctor.h"
#include "runtime/engine.h"
#include "runtime/json_reader.h"

namespace {

using namespace hearth;
using runtime::Engine;

static_assert(static_cast<int>(Code::invalid_argument) == HEARTH_INVALID && static_cast<int>(Code::not_found) == HEARTH_NOT_FOUND &&
              static_cast<int>(Code::unsupported) == HEARTH_UNSUPPORTED && static_cast<int>(Code::out_of_memory) == HEARTH_OUT_OF_MEMORY &&
              static_cast<int>(Code::corrupt) == HEARTH_CORRUPT && static_cast<int>(Code::io) == HEARTH_IO &&
              static_cast<int>(Code::device) == HEARTH_DEVICE && static_cast<int>(Code::cancelled) == HEARTH_CANCELLED &&
              static_cast<int>(Code::busy) == HEARTH_BUSY && static_cast<int>(Code::closed) == HEARTH_CLOSED &&
              static_cast<int>(Code::internal) == HEARTH_INTERNAL && static_cast<int>(runtime::code_too_long) == HEARTH_TOO_LONG);

constexpr bool is(runtime::RecordType type, int number) { return static_cast<int>(type) == number; }
constexpr bool is(runtime::Reason reason, int number) { return static_cast<int>(reason) == number; }
static_assert(is(runtime::RecordType::token, HEARTH_RECORD_TOKEN) && is(runtime::RecordType::prompt, HEARTH_RECORD_PROMPT) &&
              is(runtime::RecordType::embedding, HEARTH_RECORD_EMBEDDING) && is(runtime::RecordType::finished, HEARTH_RECORD_FINISHED) &&
              is(runtime::RecordType::notice, HEARTH_RECORD_NOTICE) && is(runtime::RecordType::accepted, HEARTH_RECORD_ACCEPTED));
static_assert(is(runtime::Reason::none, HEARTH_FINISH_NONE) && is(runtime::Reason::stop, HEARTH_FINISH_STOP) &&
              is(runtime::Reason::length, HEARTH_FINISH_LENGTH) && is(runtime::Reason::cancelled, HEARTH_FINISH_CANCELLED) &&
              is(runtime::Reason::error, HEARTH_FINISH_ERROR) && is(runtime::Reason::done, HEARTH_FINISH_DONE));

// A handle is a number that was never a pointer: a closed or invented one is found missing, not followed.
struct Registry {
  std::mutex mutex;
  std::unordered_map<uintptr_t, std::shared_ptr<Engine>> engines;
  uintptr_t next = 1;
};
// Never destroyed: calls may still come while the process exits.
Registry& registry() {
  static Registry* instance = new Registry;
  return *instance;
}

std::shared_ptr<Engine> find(hearth_engine* handle) {
  Registry& r = registry();
  std::lock_guard lock(r.mutex);
  auto at = r.engines.find(reinterpret_cast<uintptr_t>(handle));
  return at == r.engines.end() ? nullptr : at->second;
}

struct ErrorText {
  char* text;
  uint32_t size;
  int32_t operator()(const Status& status) const {
    if (text && size > 0) {
      size_t count = std::min<size_t>(status.message().size(), size - 1);
      std::memcpy(text, status.message().data(), count);
      text[count] = 0;
    }
    return static_cast<int32_t>(status.code());
  }
};

// Every entry goes through here: nothing thrown inside crosses the wall.
template <class Body>
int32_t answered(const ErrorText& error, Body&& body) noexcept {
  return error(guarded(body));
}

template <class Body>
int32_t with_engine(hearth_engine* handle, const ErrorText& error, Body&& body) noexcept {
  return answered(error, [&]() -> Status {
    std::shared_ptr<Engine> engine = find(handle);
    if (!engine) return {Code::closed, "the engine handle is unknown or closed"};
    return body(*engine);
  });
}

constexpr Code too_small = static_cast<Code>(HEARTH_TOO_SMALL);

// Writes all of it or nothing, and always what was needed.
template <class T>
Status answer(const T* data, size_t count, T* out, uint32_t capacity, uint32_t* needed) {
  if (count > UINT32_MAX) return {Code::internal, "the answer is too long"};
  *needed = static_cast<uint32_t>(count);
  if (count > capacity || (!out && count > 0)) return {too_small, "the buffer is too small"};
  if (count > 0) std::memcpy(out, data, count * sizeof(T));
  return Status::ok();
}

// JSON answers are NUL-terminated; `needed` counts the NUL.
Status answer_json(const runtime::Json& json, char* out, uint32_t capacity, uint32_t* needed) {
  std::string text = runtime::dump(json);
  return answer(text.c_str(), text.size() + 1, out, capacity, needed);
}

Status require(bool present, const char* name) {
  return present ? Status::ok() : invalid(std::string(name) + " is NULL");
}

Result<std::vector<runtime::ByteRange>> literal_ranges(const uint32_t* literal, uint32_t count, uint32_t text_size) {
  std::vector<runtime::ByteRange> ranges(count);
  for (uint32_t i = 0; i < count; ++i) {
    ranges[i] = {literal[2 * i], literal[2 * i + 1]};
    if (ranges[i].begin > ranges[i].end || ranges[i].end > text_size) return invalid("a literal range lies outside the text");
  }
  return ranges;
}

}  // namespace

extern "C" {

uint32_t hearth_abi(void) { return HEARTH_ABI; }
const char* hearth_version(void) { return "0.1.0"; }

int32_t hearth_open(const char* options_json, hearth_engine** engine, char* error, uint32_t error_size) {
  return answered({error, error_size}, [&]() -> Status {
    HEARTH_TRY(require(engine, "engine"));
    *engine = nullptr;
    HEARTH_ASSIGN(auto options, runtime::parse_engine_options(options_json ? options_json : "{}"));
    HEARTH_ASSIGN(std::shared_ptr<Engine> opened, Engine::open(options));
    Registry& r = registry();
    std::lock_guard lock(r.mutex);
    uintptr_t handle = r.next++;
    r.engines[handle] = std::move(opened);
    *engine = reinterpret_cast<hearth_engine*>(handle);
    return Status::ok();
  });
}

int32_t hearth_stop(hearth_engine* engine) {
  return with_engine(engine, {nullptr, 0}, [&](Engine& e) { return e.stop(), Status::ok(); });
}

void hearth_close(hearth_engine* engine) {
  answered({nullptr, 0}, [&] {
    std::shared_ptr<Engine> closing;
    {
      Registry& r = registry();
      std::lock_guard lock(r.mutex);
      auto at = r.engines.find(reinterpret_cast<uintptr_t>(engine));
      if (at == r.engines.end()) return Status::ok();
      closing = std::move(at->second);
      r.engines.erase(at);
    }
    closing->close();
    return Status::ok();
  });
}

int32_t hearth_doorbell(hearth_engine* engine, int32_t* fd, char* error, uint32_t error_size) {
  return with_engine(engine, {error, error_size}, [&](Engine& e) -> Status {
    HEARTH_TRY(require(fd, "fd"));
    *fd = e.take_doorbell();
    return *fd >= 0 ? Status::ok() : invalid("the doorbell was taken before");
  });
}

int32_t hearth_drain(hearth_engine* engine, uint8_t* buffer, uint32_t capacity, uint32_t* written) {
  return with_engine(engine, {nullptr, 0}, [&](Engine& e) -> Status {
    HEARTH_TRY(require(written, "written"));
    *written = 0;
    HEARTH_TRY(require(buffer || capacity == 0, "buffer"));
    return e.drain({buffer, capacity}, *written) ? Status::ok() : Status(too_small, "");
  });
}

int32_t hearth_stats(hearth_engine* engine, char* json, uint32_t capacity, uint32_t* needed) {
  return with_engine(engine, {nullptr, 0}, [&](Engine& e) -> Status {
    HEARTH_TRY(require(needed, "needed"));
    return answer_json(e.stats(), json, capacity, needed);
  });
}

int32_t hearth_doctor(hearth_engine* engine, const char* options_json, char* json, uint32_t capacity, uint32_t* needed,
                      char* error, uint32_t error_size) {
  return answered({error, error_size}, [&]() -> Status {
    HEARTH_TRY(require(needed, "needed"));
    std::shared_ptr<Engine> found = find(engine);
    if (engine && !found) return {Code::closed, "the engine handle is unknown or closed"};
    HEARTH_ASSIGN(runtime::Json report, runtime::doctor(found.get(), options_json ? options_json : "{}"));
    return answer_json(report, json, capacity, needed);
  });
}

int32_t hearth_model_open(hearth_engine* engine, const char* model_json, uint32_t* model, uint32_t* job, char* error,
                          uint32_t error_size) {
  return with_engine(engine, {error, error_size}, [&](Engine& e) -> Status {
    HEARTH_TRY(require(model_json, "model_json"));
    HEARTH_TRY(require(model && job, "model or job"));
    return e.model_open(model_json, *model, *job);
  });
}

int32_t hearth_model_close(hearth_engine* engine, uint32_t model, char* error, uint32_t error_size) {
  return with_engine(engine, {error, error_size}, [&](Engine& e) { return e.model_close(model); });
}

int32_t hearth_model_info(hearth_engine* engine, uint32_t model, char* json, uint32_t capacity, uint32_t* needed,
                          char* error, uint32_t error_size) {
  return with_engine(engine, {error, error_size}, [&](Engine& e) -> Status {
    HEARTH_TRY(require(needed, "needed"));
    HEARTH_ASSIGN(runtime::Json info, e.model_info(model));
    return answer_json(info, json, capacity, needed);
  });
}

int32_t hearth_submit(hearth_engine* engine, uint32_t model, const char* request_json, const uint8_t* text,
                      uint32_t text_size, const uint32_t* literal, uint32_t literal_count, const int32_t* ids,
                      uint32_t ids_count, const uint8_t* pixels, uint32_t pixels_size, uint32_t* request, char* error,
                      uint32_t error_size) {
  return with_engine(engine, {error, error_size}, [&](Engine& e) -> Status {
    HEARTH_TRY(require(request_json, "request_json"));
    HEARTH_TRY(require(request, "request"));
    HEARTH_TRY(require(text || text_size == 0, "text"));
    HEARTH_TRY(require(literal || literal_count == 0, "literal"));
    HEARTH_TRY(require(ids || ids_count == 0, "ids"));
    HEARTH_TRY(require(pixels || pixels_size == 0, "pixels"));
    runtime::Submission s;
    s.json = request_json;
    s.text = {reinterpret_cast<const char*>(text), text_size};
    s.literal = {literal, static_cast<size_t>(literal_count) * 2};
    s.ids = {ids, ids_count};
    s.pixels = {pixels, pixels_size};
    return e.submit(model, s, *request);
  });
}

int32_t hearth_cancel(hearth_engine* engine, uint32_t request) {
  return with_engine(engine, {nullptr, 0}, [&](Engine& e) { return e.cancel(request); });
}

int32_t hearth_tokenize(hearth_engine* engine, uint32_t model, const uint8_t* text, uint32_t text_size,
                        const uint32_t* literal, uint32_t literal_count, uint32_t add_special, int32_t* ids,
                        uint32_t capacity, uint32_t* needed, char* error, uint32_t error_size) {
  return with_engine(engine, {error, error_size}, [&](Engine& e) -> Status {
    HEARTH_TRY(require(needed, "needed"));
    HEARTH_TRY(require(text || text_size == 0, "text"));
    HEARTH_TRY(require(literal || literal_count == 0, "literal"));
    HEARTH_ASSIGN(auto ranges, literal_ranges(literal, literal_count, text_size));
    HEARTH_ASSIGN(auto loaded, e.ready_model(model));
    std::vector<int32_t> out;
    HEARTH_TRY(loaded->vocabulary->encode({reinterpret_cast<const char*>(text), text_size}, add_special != 0, ranges, out));
    return answer(out.data(), out.size(), ids, capacity, needed);
  });
}

int32_t hearth_detokenize(hearth_engine* engine, uint32_t model, const int32_t* ids, uint32_t ids_count,
                          uint32_t skip_special, uint8_t* text, uint32_t capacity, uint32_t* needed, char* error,
                          uint32_t error_size) {
  return with_engine(engine, {error, error_size}, [&](Engine& e) -> Status {
    HEARTH_TRY(require(needed, "needed"));
    HEARTH_TRY(require(ids || ids_count == 0, "ids"));
    HEARTH_ASSIGN(auto loaded, e.ready_model(model));
    std::span<const int32_t> given(ids, ids_count);
    for (int32_t id : given)
      if (id < 0 || id >= loaded->vocabulary->size())
        return invalid("token id " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(loaded->vocabulary->size()));
    std::string out = loaded->vocabulary->decode(given, skip_special != 0);
    return answer(reinterpret_cast<const uint8_t*>(out.data()), out.size(), text, capacity, needed);
  });
}

int32_t hearth_job(hearth_engine* engine, const char* job_json, uint32_t* job, char* error, uint32_t error_size) {
  return with_engine(engine, {error, error_size}, [&](Engine& e) -> Status {
    HEARTH_TRY(require(job_json, "job_json"));
    HEARTH_TRY(require(job, "job"));
    return e.start_job(job_json, *job);
  });
}

}  // extern "C"
