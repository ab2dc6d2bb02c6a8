// The host memory behind the KV pool, as numbers: which slot holds the content of which block. Slots are filled with
// copies of blocks that the pool is about to forget and read when their content is asked for again; the least recently
// used one gives way. Knows no device and copies nothing: BlockPool lists the transfers, whoever owns it makes them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/content_index.h"

namespace hearth::kv {

class HostTier {
 public:
  explicit HostTier(int slots) : index_(slots), age_(slots), pins_(slots), slots_(slots) {}

  int slots() const { return slots_; }
  int used() const { return used_; }
  // Slots whose memory is there: the first `slots`. While there will be `more`, nothing gives way for want of room.
  void set_ready(int slots, bool more = false) { ready_ = slots, more_ = more; }

  int32_t find(Chain parent, uint64_t hash, std::span<const ContentKey> keys) const { return index_.find(parent, hash, keys); }
  bool holds(int32_t slot, Chain serial) const { return slot >= 0 && index_.content(slot).serial == serial; }
  const Content& content(int32_t slot) const { return index_.content(slot); }
  std::span<const ContentKey> keys(int32_t slot) const { return index_.keys(slot); }

  // A slot for this content, pinned; the least recently used one that is not pinned when none is empty. -1: none now.
  int32_t put(const Content& content, std::span<const ContentKey> keys);
  // While a copy from or to it is under way; the last unpin makes it the most recently used.
  void pin(int32_t slot);
  void unpin(int32_t slot);

 private:
  ContentIndex index_;
  AgeList age_;  // filled and not pinned
  std::vector<int> pins_;
  int slots_ = 0, ready_ = 0, used_ = 0;
  bool more_ = false;  // slots will be ready soon
};

}  // namespace hearth::kv
