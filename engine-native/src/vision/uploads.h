// Host data on its way to the device: pinned staging memory in pairs, so that one image is copied while the next is made.
#pragma once

#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "core/status.h"
#include "device/device.h"

namespace hearth::vision {

// Pinned memory in which pictures are prepared, so that nothing is copied on their way to the device. Any thread takes
// blocks; one comes back when its last owner lets go.
class PinnedPool {
 public:
  explicit PinnedPool(device::Device& device) : device_(device) {}
  ~PinnedPool() {
    if (memory_) device_.release(memory_);
  }
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;

  Status allocate(int count, size_t bytes) {
    HEARTH_ASSIGN(memory_, device_.allocate(static_cast<size_t>(count) * bytes, device::MemoryKind::staging, "prepared images"));
    for (int i = 0; i < count; i++) state_->free.push_back(static_cast<std::byte*>(memory_) + static_cast<size_t>(i) * bytes);
    return Status::ok();
  }
  // Null when all are taken. Blocks may outlive the pool, unread.
  std::shared_ptr<std::byte> take() const {
    const std::lock_guard lock(state_->mutex);
    if (state_->free.empty()) return nullptr;
    std::byte* block = state_->free.back();
    state_->free.pop_back();
    return {block, [state = state_](std::byte* back) {
              const std::lock_guard again(state->mutex);
              state->free.push_back(back);
            }};
  }

 private:
  struct State { std::mutex mutex; std::vector<std::byte*> free; };
  device::Device& device_;
  void* memory_ = nullptr;
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

class Uploader {
 public:
  explicit Uploader(device::Device& device) : device_(device) {}
  ~Uploader() {
    for (Slot& slot : slots_) {
      if (slot.memory) device_.release(slot.memory);
    }
  }
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  Status allocate(size_t bytes) {
    bytes_ = bytes;
    for (Slot& slot : slots_) {
      HEARTH_ASSIGN(slot.memory, device_.allocate(bytes, device::MemoryKind::staging, "image uploads"));
    }
    return Status::ok();
  }
  // Bytes that allocate(bytes) takes.
  static int64_t cost(size_t bytes) { return static_cast<int64_t>(bytes) * 2; }

  // A slot to fill by add(), free of copies under way.
  Status begin() {
    next_ ^= 1;
    used_ = 0;
    Slot& slot = slots_[next_];
    if (slot.busy) HEARTH_TRY(device_.wait(slot.marker));
    slot.held.clear();
    return Status::ok();
  }
  // Copies host data into the slot and enqueues its way to `to`.
  Status add(void* to, const void* from, size_t bytes) {
    if (used_ + bytes > bytes_) return Status(Code::internal, "an image's data is larger than planned");
    auto* at = static_cast<uint8_t*>(slots_[next_].memory) + used_;
    std::memcpy(at, from, bytes);
    used_ += (bytes + 15) / 16 * 16;
    return device_.upload(to, at, bytes);
  }
  // Enqueues pinned memory as it is, and holds it until it has been read.
  Status add(void* to, std::shared_ptr<std::byte> from, size_t bytes) {
    HEARTH_TRY(device_.upload(to, from.get(), bytes));
    slots_[next_].held.push_back(std::move(from));
    return Status::ok();
  }
  Status end() {
    HEARTH_ASSIGN(slots_[next_].marker, device_.mark());
    slots_[next_].busy = true;
    return Status::ok();
  }

 private:
  struct Slot { void* memory = nullptr; uint32_t marker = 0; bool busy = false; std::vector<std::shared_ptr<std::byte>> held; };
  device::Device& device_;
  Slot slots_[2];
  int next_ = 0;
  size_t bytes_ = 0, used_ = 0;
};

}  // namespace hearth::vision
