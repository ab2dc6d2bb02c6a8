// What the encoders of all families are made of: a transformer over the rows of one or several images, device memory, and
// a pass that is enqueued block by block, or, on a device that has graphs, as one.
#pragma once

#include <list>
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
  // Everything a pass enqueues, apart from uploads, in four parts. The first three know the images only by shape() and
  // touch memory of the tower alone, so that they may be recorded; hand_on() knows where results go.
  virtual Status embed() = 0;               // uploaded patches to the blocks' input
  virtual void run_block(int index) = 0;    // 0 ... layers - 1
  virtual Status project() = 0;             // what follows the last block
  virtual bool hands_on(int block) const { return block == transformer_.layers(); }
  virtual Status hand_on(int block) = 0;    // after `block`, where hands_on(); `layers` is the projector
  // The pass that begin() uploaded starts. Passes of one shape enqueue the same work.
  using Shape = std::vector<int32_t>;
  void start(std::span<const Job> jobs, Shape shape);
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
  // The pieces of a pass between two places where results are handed on. Empty: this shape was seen once.
  struct Recording { Shape shape; std::vector<std::unique_ptr<device::Device::Graph>> pieces; };
  Recording& recording_of(const Shape& shape, bool* seen);
  Status run_part(int part);
  Status run_pieces(Recording& recording);
  Status record(int first, int last, Recording& recording);

  std::vector<void*> memory_;
  std::vector<Job> jobs_;
  Shape shape_;
  int next_part_ = 0;
  bool graphs_ = true;                 // until the device says no
  std::list<Recording> recordings_;    // latest use first
};

inline size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace hearth::vision
