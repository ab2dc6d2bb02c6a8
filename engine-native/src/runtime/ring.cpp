#include "runtime/ring.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

namespace hearth::runtime {
namespace {

constexpr size_t header_size = 48;

struct Header {
  uint32_t size;
  RecordType type;
  uint16_t flags;
  uint32_t request;
  int32_t token;
  Reason reason;
  float logprob;
  uint32_t index, bytes_size, text_size, top_count, top_size, values_count;
};
static_assert(sizeof(Header) == header_size);

size_t padding_before_values(const Record& r) {
  return (4 - (r.bytes.size() + r.text.size() + r.top.size()) % 4) % 4;
}

}  // namespace

size_t record_size(const Record& r) {
  size_t payload = r.bytes.size() + r.text.size() + r.top.size() + padding_before_values(r) + r.values.size() * 4;
  return (header_size + payload + 7) / 8 * 8;
}

Ring::Ring(size_t capacity) : capacity_((capacity + 7) / 8 * 8), data_(new uint8_t[capacity_]) {}

size_t Ring::free_bytes() const {
  size_t used = static_cast<size_t>(next_ - read_.load(std::memory_order_acquire)) + reserved_;
  return used < capacity_ ? capacity_ - used : 0;
}

bool Ring::reserve(size_t bytes) {
  if (free_bytes() < bytes) return false;
  reserved_ += bytes;
  return true;
}

void Ring::put(const void* data, size_t size) {
  size_t at = next_ % capacity_, first = std::min(size, capacity_ - at);
  if (first > 0) std::memcpy(data_.get() + at, data, first);
  if (size > first) std::memcpy(data_.get(), static_cast<const uint8_t*>(data) + first, size - first);
  next_ += size;
}

void Ring::write(const Record& r) {
  Header header{static_cast<uint32_t>(record_size(r)), r.type, r.flags, r.request, r.token, r.reason, r.logprob, r.index,
                static_cast<uint32_t>(r.bytes.size()), static_cast<uint32_t>(r.text.size()), r.top_count,
                static_cast<uint32_t>(r.top.size()), static_cast<uint32_t>(r.values.size())};
  uint64_t end = next_ + header.size;
  static constexpr char zeros[8] = {};
  put(&header, sizeof header);
  put(r.bytes.data(), r.bytes.size());
  put(r.text.data(), r.text.size());
  put(r.top.data(), r.top.size());
  put(zeros, padding_before_values(r));
  put(r.values.data(), r.values.size_bytes());
  put(zeros, end - next_);
}

bool Ring::publish() {
  if (written_.load(std::memory_order_relaxed) == next_) return false;
  written_.store(next_, std::memory_order_seq_cst);
  return !rung_.exchange(true, std::memory_order_seq_cst);
}

void Ring::copy_out(uint64_t at, uint8_t* to, size_t size) const {
  size_t from = at % capacity_, first = std::min(size, capacity_ - from);
  // An empty drain may bring a null buffer, which memcpy may not be given even for no bytes.
  if (first > 0) std::memcpy(to, data_.get() + from, first);
  if (size > first) std::memcpy(to + first, data_.get(), size - first);
}

bool Ring::drain(std::span<uint8_t> out, uint32_t& written) {
  written = 0;
  // Cleared before looking: whatever is published later rings again.
  rung_.store(false, std::memory_order_seq_cst);
  uint64_t begin = read_.load(std::memory_order_relaxed), end = written_.load(std::memory_order_seq_cst), at = begin;
  while (at < end) {
    uint32_t size;
    std::memcpy(&size, data_.get() + at % capacity_, sizeof size);  // records are aligned: never split
    if (at - begin + size > out.size()) {
      // More is left than fits: the reader comes back by itself, as `written` is not 0.
      if (at == begin) return written = size, false;
      break;
    }
    at += size;
  }
  copy_out(begin, out.data(), at - begin);
  read_.store(at, std::memory_order_release);
  written = static_cast<uint32_t>(at - begin);
  return true;
}

Doorbell::~Doorbell() {
  if (reader_ >= 0) close(reader_);
  if (writer_ >= 0) close(writer_);
}

bool Doorbell::open() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) return false;
  reader_ = ends[0];
  writer_ = ends[1];
  return true;
}

void Doorbell::ring() {
  // A full socket buffer is fine: the reader has bytes to wake for. A reader that went away is its own business.
  char byte = 1;
  if (writer_ >= 0) (void)!send(writer_, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void Doorbell::hang_up() {
  if (writer_ >= 0) close(writer_);
  writer_ = -1;
}

int Doorbell::take_reader() { return reader_.exchange(-1); }

}  // namespace hearth::runtime
