// Records out: a byte ring with one writer (the step thread) and one reader (whoever drains), and the doorbell that
// tells the reader. Records are as include/hearth.h lays them out, whole, aligned to 8, never split over the end of a
// drain.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace hearth::runtime {

// hearth_record_type and hearth_finish_reason of include/hearth.h, which cannot be seen from here: capi checks that the
// numbers agree.
enum class RecordType : uint16_t { none = 0, token = 1, prompt = 2, embedding = 3, finished = 4, notice = 5, accepted = 6 };
enum class Reason : uint32_t { none = 0, stop = 1, length = 2, cancelled = 3, error = 4, done = 5 };
inline constexpr uint16_t special_flag = 1;  // the token is special: its text is not part of the answer

// What goes into a record; the ring writes header and padding.
struct Record {
  RecordType type = RecordType::none;
  uint16_t flags = 0;
  uint32_t request = 0;
  int32_t token = -1;
  Reason reason = Reason::none;
  float logprob = 0;
  uint32_t index = 0;
  std::string_view bytes{}, text{};
  uint32_t top_count = 0;
  std::string_view top{};           // packed entries
  std::span<const float> values{};
};
// Bytes the record takes in the ring.
size_t record_size(const Record& record);
// Upper bound for a record with payloads of these sizes.
inline size_t record_bound(size_t bytes, size_t text, size_t top, size_t values) {
  return (48 + bytes + text + top + 3 + values * 4 + 7) / 8 * 8;
}

class Ring {
 public:
  explicit Ring(size_t capacity);  // rounded up to a multiple of 8

  size_t capacity() const { return capacity_; }

  // Writer. `free_bytes` counts neither what is written nor what is reserved.
  size_t free_bytes() const;
  // Sets room aside; what is written against it with `write` is bounded by the caller. Released as a whole.
  bool reserve(size_t bytes);
  void unreserve(size_t bytes) { reserved_ -= bytes; }
  // Writes; the caller has made sure of the room (by reservation or free_bytes).
  void write(const Record& record);
  // Makes what was written visible. True when the doorbell should ring.
  bool publish();

  // Reader: copies whole records. A first record that is larger than `out` gives its size and false.
  bool drain(std::span<uint8_t> out, uint32_t& written);

 private:
  void put(const void* data, size_t size);
  void copy_out(uint64_t at, uint8_t* to, size_t size) const;

  size_t capacity_;
  std::unique_ptr<uint8_t[]> data_;
  uint64_t next_ = 0;      // writer's position, published or not
  size_t reserved_ = 0;
  alignas(64) std::atomic<uint64_t> written_{0};
  alignas(64) std::atomic<uint64_t> read_{0};
  std::atomic<bool> rung_{false};  // a byte is on its way that the reader has not answered with a drain
};

// A socketpair: one byte says "records wait", end-of-file says "no more will come".
class Doorbell {
 public:
  ~Doorbell();
  bool open();
  void ring();
  void hang_up();       // end-of-file for the reader
  int take_reader();    // once; -1 afterwards. The caller closes it.

 private:
  std::atomic<int> reader_{-1};
  int writer_ = -1;
};

}  // namespace hearth::runtime
