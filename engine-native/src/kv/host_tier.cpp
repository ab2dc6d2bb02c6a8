#include "kv/host_tier.h"

namespace hearth::kv {

int32_t HostTier::put(const Content& content, std::span<const ContentKey> keys) {
  int32_t slot = -1;
  if (used_ < ready_) {
    slot = used_++;
  } else if (slot = more_ ? -1 : age_.oldest(); slot >= 0) {
    age_.remove(slot);
    index_.erase(slot);
  } else {
    return -1;
  }
  index_.insert(slot, content, keys);
  pins_[slot] = 1;
  return slot;
}

void HostTier::pin(int32_t slot) {
  if (pins_[slot]++ == 0) age_.remove(slot);
}

void HostTier::unpin(int32_t slot) {
  if (--pins_[slot] == 0) age_.push_newest(slot);
}

}  // namespace hearth::kv
