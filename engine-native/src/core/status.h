// Errors as values. Every call that can fail returns Status or Result<T>; nothing throws across a folder.
// A message says what is wrong and what to do, and names the file, tensor or field it is about.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace hearth {

enum class Code : int {
  ok = 0,
  invalid_argument = 1,  // the caller's value is wrong; the message names it
  not_found = 2,         // a file, tensor, model or handle that is not there
  unsupported = 3,       // understood, but not implemented: never ignored
  out_of_memory = 4,     // does not fit; the message says what would
  corrupt = 5,           // a file that contradicts itself
  io = 6,                // the operating system refused
  device = 7,            // the accelerator failed; fatal for its engine
  cancelled = 8,
  busy = 9,    // a bounded queue is full: try again later
  closed = 10, // the engine is stopping or stopped
  internal = 11,
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  static Status ok() { return {}; }

  bool is_ok() const { return code_ == Code::ok; }
  explicit operator bool() const { return is_ok(); }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  // The same error with "context: " put before its message.
  Status with(const std::string& context) const { return is_ok() ? *this : Status(code_, context + ": " + message_); }

 private:
  Code code_ = Code::ok;
  std::string message_;
};

inline Status invalid(std::string m) { return {Code::invalid_argument, std::move(m)}; }
inline Status not_found(std::string m) { return {Code::not_found, std::move(m)}; }
inline Status unsupported(std::string m) { return {Code::unsupported, std::move(m)}; }
inline Status corrupt(std::string m) { return {Code::corrupt, std::move(m)}; }
inline Status io_error(std::string m) { return {Code::io, std::move(m)}; }
inline Status out_of_memory(std::string m) { return {Code::out_of_memory, std::move(m)}; }

// A value or the Status that explains its absence. Reading the value of an error is a bug of the caller.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Status status) : state_(std::in_place_index<1>, std::move(status)) {}

  bool is_ok() const { return state_.index() == 0; }
  explicit operator bool() const { return is_ok(); }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  Status status() const { return is_ok() ? Status::ok() : std::get<1>(state_); }

 private:
  std::variant<T, Status> state_;
};

}  // namespace hearth

#define HEARTH_CONCAT_INNER(a, b) a##b
#define HEARTH_CONCAT(a, b) HEARTH_CONCAT_INNER(a, b)

// Leaves the function with the error, if there is one.
#define HEARTH_TRY(expression)                                   \
  do {                                                           \
    if (::hearth::Status hearth_status = (expression); !hearth_status) return hearth_status; \
  } while (0)

// HEARTH_ASSIGN(auto file, open(path)): the value, or leaves the function with the error.
#define HEARTH_ASSIGN(target, expression) HEARTH_ASSIGN_INNER(HEARTH_CONCAT(hearth_result_, __LINE__), target, expression)
#define HEARTH_ASSIGN_INNER(result, target, expression) \
  auto result = (expression);                           \
  if (!result) return result.status();                  \
  target = std::move(result).value()
