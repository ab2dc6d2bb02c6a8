// What the encoders of all families are made of: a transformer over the rows of one or several images, device memory, and
// a pass that is enqueued block by block.
#pragma once

#include <vector>

#include "vision/encoder.h"
#include "vision/transformer.h"
#include "vision/uploads.h"

namespace hearth::vision {

class Tower : public Encoder {
 public:
  Tower(BlockSpec blocks, device::Device& device) : device_(device), transformer_(std::move(blocks), device), uploads_(device) {}
  ~Tower() override;
  Tower(const Tower&) = delete;
  Tower& operator=(const Tower&) = delete;

  Result<bool> advance(Clock::time_point until) final;

 protected:
  // Block `index` of the pass, and what follows the last.
  virtual void run_block(int index) = 0;
  virtual Status finish() = 0;
  // The pass that begin() prepared starts at its first block.
  void start(std::span<const Job> jobs);
  const std::vector<Job>& jobs() const { return jobs_; }

  // Device memory for `count` values, kept until the end.
  template <class T>
  Status take(T*& to, size_t count) {
    return take_bytes(reinterpret_cast<void*&>(to), count * sizeof(T));
  }
  Status take_bytes(void*& to, size_t bytes);

  device::Device& device_;
  Transformer transformer_;
  Uploader uploads_;

 private:
  std::vector<void*> memory_;
  std::vector<Job> jobs_;
  int next_block_ = 0;
};

inline size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace hearth::vision
