// Makes the transfers between the KV pool and the host tier behind it, on a thread of its own, so that no step waits for
// a copy: the step thread submits and looks in later for what is done. Takes the tier's memory too, a chunk at a time and
// only when it is about to be needed.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/status.h"
#include "kv/block_pool.h"
#include "model/model.h"

namespace hearth::runtime {

class HostCopier {
 public:
  // `wake` is called, on the copier's thread, when transfers are done.
  static Result<std::unique_ptr<HostCopier>> create(model::Model& model, int slots, std::function<void()> wake);
  ~HostCopier();

  // So many slots will be used soon. Those beyond the tier's are not taken.
  void want_slots(int slots);
  // Whether more will be ready than are.
  bool grows() const { return !memory_ends_ && ready_slots() < wanted_; }
  // Slots whose memory was taken so far. Fewer than wanted in the end when the machine has no more.
  int ready_slots() const { return ready_slots_.load(std::memory_order_acquire); }
  // In the order given; what runs on the stream until `marker` comes first.
  void submit(const std::vector<kv::Transfer>& transfers, uint32_t marker);
  // Appends the transfers that were made since. An error means the device is lost.
  Status take_done(std::vector<kv::Transfer>& done);
  // What a block costs to bring back, measured; 0 while nothing was.
  double seconds_per_block() const { return seconds_per_block_.load(std::memory_order_relaxed); }

 private:
  HostCopier(model::Model& model, int slots, std::function<void()> wake);
  void loop();
  void take_chunk();
  Status copy(const std::vector<kv::Transfer>& batch, uint32_t marker);

  model::Model& model_;
  std::function<void()> wake_;
  size_t block_bytes_ = 0;
  int slots_ = 0, chunk_slots_ = 0;
  std::unique_ptr<device::Device::CopyQueue> queue_;
  std::vector<uint8_t*> chunks_;  // the copier's thread only
  std::atomic<bool> memory_ends_{false};
  std::atomic<int> wanted_{0};    // slots
  std::atomic<int> ready_slots_{0};
  std::atomic<double> seconds_per_block_{0};

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<kv::Transfer> waiting_, done_;
  uint32_t marker_ = 0;
  bool end_ = false;
  Status status_;
  std::thread thread_;
};

}  // namespace hearth::runtime
