#include "kv/block_pool.h"

#include <algorithm>

namespace hearth::kv {
BlockPool::BlockPool(int blocks, bool prefix_cache)
    : total_(blocks), prefix_cache_(prefix_cache), block_(blocks), index_(blocks), idle_(blocks) {
  for (int i = blocks - 1; i >= 0; --i) {
    block_[i].next_free = first_free_;
    first_free_ = i;
  }
  free_count_ = blocks;
}

void BlockPool::attach(HostTier& tier) {
  tier_ = &tier;
  transfers_.reserve(static_cast<size_t>(total_) * 2);
  found_.reserve(total_ + tier.slots());
  unsaved_.resize(std::max(total_, 1));
}

void BlockPool::link(int32_t block) {
  idle_.push_newest(block);
  want_saved(block);
  saving_idle_ += block_[block].saving;
}

void BlockPool::unlink(int32_t block) {
  idle_.remove(block);
  saving_idle_ -= block_[block].saving;
}

BlockPool::Found BlockPool::find(Chain chain, std::span<const ContentKey> keys) const {
  uint64_t hash = hash_of(chain, keys);
  int32_t block = index_.find(chain, hash, keys);
  if (block >= 0 || !tier_) return {block, -1};
  return {-1, tier_->find(chain, hash, keys)};
}

Prefix BlockPool::count_prefix(std::span<const ContentKey> keys, int max_blocks, Chain chain) const {
  Prefix prefix, fetched;  // up to the first block that is only on the host; and all of it
  if (!prefix_cache_) return prefix;
  for (int i = 0; i < max_blocks && (i + 1) * block_tokens <= static_cast<int>(keys.size()); ++i) {
    Found found = find(chain, keys.subspan(static_cast<size_t>(i) * block_tokens, block_tokens));
    if (found.block < 0 && found.slot < 0) break;
    ++fetched.blocks;
    if (found.block >= 0) fetched.idle += block_[found.block].references == 0;
    else ++fetched.host;
    chain = found.block >= 0 ? serial(found.block) : tier_->content(found.slot).serial;
    if (fetched.host == 0) prefix = fetched;
  }
  return fetched.host >= fetch_min_ ? fetched : prefix;
}

// Blocks on the device are referred to before any place is given away, so that none of them is.
int BlockPool::take_prefix(std::span<const ContentKey> keys, int max_blocks, std::vector<int32_t>& blocks, Chain& chain) {
  int count = count_prefix(keys, max_blocks, chain).blocks, taken = 0;
  size_t base = blocks.size();
  Chain at = chain;
  found_.clear();
  for (int i = 0; i < count; ++i) {
    Found found = find(at, keys.subspan(static_cast<size_t>(i) * block_tokens, block_tokens));
    if (found.block >= 0 && block_[found.block].references++ == 0) unlink(found.block);
    if (found.slot >= 0) tier_->pin(found.slot);
    at = found.block >= 0 ? serial(found.block) : tier_->content(found.slot).serial;
    found_.push_back(found);
  }
  for (; taken < count; ++taken) {
    Found& found = found_[taken];
    if (found.block < 0) found.block = begin_fetch(found.slot);
    if (found.block < 0) break;
    blocks.push_back(found.block);
    chain = serial(found.block);
  }
  for (int i = count - 1; i >= taken; --i) {  // no place for the rest
    if (found_[i].block >= 0) release(found_[i].block);
    else tier_->unpin(found_[i].slot);
  }
  return static_cast<int>(blocks.size() - base);
}

// The slot is pinned by the caller; the transfer's end unpins it.
int32_t BlockPool::begin_fetch(int32_t slot) {
  int32_t block = allocate();
  if (block < 0) return -1;
  Block& b = block_[block];
  b.references = 2;
  b.arriving = true;
  b.host = slot;
  index_.insert(block, tier_->content(slot), tier_->keys(slot));
  transfers_.push_back({block, slot, false});
  return block;
}

int32_t BlockPool::allocate() {
  int32_t block = first_free_;
  if (block >= 0) {
    first_free_ = block_[block].next_free;
    --free_count_;
  } else {
    for (block = idle_.oldest(); block >= 0 && block_[block].saving;) block = idle_.newer(block);
    if (block < 0) return -1;
    unlink(block);
    index_.erase(block);
  }
  block_[block].references = 1;
  block_[block].host = -1;
  return block;
}

void BlockPool::publish(int32_t block, std::span<const ContentKey, block_tokens> keys, Chain& chain) {
  if (!prefix_cache_ || serial(block) != 0) return;
  Found twin = find(chain, keys);
  if (twin.block >= 0) {
    chain = serial(twin.block);
    return;
  }
  // The same content on the host: computed again, and known by the name it has.
  Content content = twin.slot >= 0 ? tier_->content(twin.slot) : Content{next_serial_++, chain, hash_of(chain, keys)};
  block_[block].host = twin.slot;
  index_.insert(block, content, keys);
  chain = content.serial;
  want_saved(block);
}

void BlockPool::release(int32_t block) {
  Block& b = block_[block];
  if (--b.references > 0) return;
  if (serial(block) != 0) {
    link(block);
    return;
  }
  b.next_free = first_free_;
  first_free_ = block;
  ++free_count_;
}

void BlockPool::release_all(std::vector<int32_t>& blocks) {
  for (size_t i = blocks.size(); i-- > 0;) release(blocks[i]);
  blocks.clear();
}

// ---- Host tier ------------------------------------------------------------------------------------------------------

// In the order in which they were filled or given back: a prompt's blocks are there by the time it has been answered.
void BlockPool::want_saved(int32_t block) {
  Block& b = block_[block];
  if (!tier_ || b.queued || b.saving || on_host(block)) return;
  b.queued = true;
  unsaved_[(first_unsaved_ + unsaved_count_++) % unsaved_.size()] = block;
}

void BlockPool::save_full(int in_flight_max) {
  if (!wants_saving()) return;
  while (unsaved_count_ > 0 && saving_ < in_flight_max) {
    const int32_t block = unsaved_[first_unsaved_];
    const bool wanted = serial(block) != 0 && !block_[block].arriving && !on_host(block);
    if (wanted && !save(block)) return;
    block_[block].queued = false;
    first_unsaved_ = (first_unsaved_ + 1) % static_cast<int>(unsaved_.size());
    --unsaved_count_;
  }
}

bool BlockPool::save(int32_t block) {
  Block& b = block_[block];
  int32_t slot = tier_->put(index_.content(block), index_.keys(block));
  if (slot < 0) return false;
  b.host = slot;
  b.saving = true;
  ++saving_;
  saving_idle_ += b.references == 0;
  transfers_.push_back({block, slot, true});
  return true;
}

void BlockPool::transfer_done(const Transfer& transfer) {
  Block& b = block_[transfer.block];
  tier_->unpin(transfer.slot);
  if (transfer.to_host) {
    b.saving = false;
    --saving_;
    saving_idle_ -= b.references == 0;
  } else {
    b.arriving = false;
    release(transfer.block);
  }
}

}  // namespace hearth::kv
