// Host data on its way to the device: pinned staging memory in pairs, so that one image is copied while the next is made.
#pragma once

#include <cstring>

#include "core/status.h"
#include "device/device.h"

namespace hearth::vision {

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
    return slot.busy ? device_.wait(slot.marker) : Status::ok();
  }
  // Copies host data into the slot and enqueues its way to `to`.
  Status add(void* to, const void* from, size_t bytes) {
    if (used_ + bytes > bytes_) return Status(Code::internal, "an image's data is larger than planned");
    auto* at = static_cast<uint8_t*>(slots_[next_].memory) + used_;
    std::memcpy(at, from, bytes);
    used_ += (bytes + 15) / 16 * 16;
    return device_.upload(to, at, bytes);
  }
  Status end() {
    HEARTH_ASSIGN(slots_[next_].marker, device_.mark());
    slots_[next_].busy = true;
    return Status::ok();
  }

 private:
  struct Slot { void* memory = nullptr; uint32_t marker = 0; bool busy = false; };
  device::Device& device_;
  Slot slots_[2];
  int next_ = 0;
  size_t bytes_ = 0, used_ = 0;
};

}  // namespace hearth::vision
