#include "kv/block_pool.h"

#include <algorithm>
#include <bit>

namespace hearth::kv {
namespace {

// Finaliser of SplitMix64 (Steele, Lea, Flood 2014).
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

}  // namespace

ContentKey key_of_image_row(uint64_t image, int row) {
  return mix(image + 0x9e3779b97f4a7c15ull * static_cast<uint64_t>(row + 1)) | (1ull << 63);
}

BlockPool::BlockPool(int blocks, bool prefix_cache)
    : total_(blocks), prefix_cache_(prefix_cache), block_(blocks), keys_(static_cast<size_t>(blocks) * block_tokens) {
  size_t slots = std::bit_ceil(static_cast<size_t>(std::max(blocks, 1)) * 2);
  table_.assign(slots, -1);
  table_mask_ = slots - 1;
  for (int i = blocks - 1; i >= 0; --i) {
    block_[i].next_free = first_free_;
    first_free_ = i;
  }
  free_count_ = blocks;
}

uint64_t BlockPool::hash_of(Chain parent, std::span<const ContentKey> keys) const {
  uint64_t hash = mix(parent + 0x2545f4914f6cdd1dull);
  for (ContentKey key : keys) hash = mix(hash ^ key) + 0x9e3779b97f4a7c15ull;
  return hash;
}

int32_t BlockPool::find(Chain parent, std::span<const ContentKey> keys) const {
  uint64_t hash = hash_of(parent, keys);
  for (size_t at = hash & table_mask_; table_[at] >= 0; at = (at + 1) & table_mask_) {
    const Block& block = block_[table_[at]];
    if (block.hash != hash || block.parent != parent) continue;
    const ContentKey* own = keys_.data() + static_cast<size_t>(table_[at]) * block_tokens;
    if (std::equal(keys.begin(), keys.end(), own)) return table_[at];
  }
  return -1;
}

void BlockPool::insert(int32_t block) {
  size_t at = block_[block].hash & table_mask_;
  while (table_[at] >= 0) at = (at + 1) & table_mask_;
  table_[at] = block;
}

// Backward-shift deletion (Knuth, TAOCP 6.4, algorithm R) keeps probe runs whole without tombstones.
void BlockPool::erase(int32_t block) {
  size_t hole = block_[block].hash & table_mask_;
  while (table_[hole] != block) hole = (hole + 1) & table_mask_;
  for (size_t at = (hole + 1) & table_mask_; table_[at] >= 0; at = (at + 1) & table_mask_) {
    size_t home = block_[table_[at]].hash & table_mask_;
    if (((at - home) & table_mask_) >= ((at - hole) & table_mask_)) {
      table_[hole] = table_[at];
      hole = at;
    }
  }
  table_[hole] = -1;
}

void BlockPool::link_newest(int32_t block) {
  block_[block].older = newest_;
  block_[block].newer = -1;
  (newest_ >= 0 ? block_[newest_].newer : oldest_) = block;
  newest_ = block;
  ++cached_count_;
}

void BlockPool::unlink(int32_t block) {
  Block& b = block_[block];
  (b.older >= 0 ? block_[b.older].newer : oldest_) = b.newer;
  (b.newer >= 0 ? block_[b.newer].older : newest_) = b.older;
  b.older = b.newer = -1;
  --cached_count_;
}

int BlockPool::count_prefix(std::span<const ContentKey> keys, int max_blocks, int* idle) const {
  int found = 0, unused = 0;
  Chain chain = 0;
  if (prefix_cache_) {
    for (; found < max_blocks && (found + 1) * block_tokens <= static_cast<int>(keys.size()); ++found) {
      int32_t block = find(chain, keys.subspan(static_cast<size_t>(found) * block_tokens, block_tokens));
      if (block < 0) break;
      chain = block_[block].serial;
      unused += block_[block].references == 0;
    }
  }
  if (idle) *idle = unused;
  return found;
}

int BlockPool::take_prefix(std::span<const ContentKey> keys, int max_blocks, std::vector<int32_t>& blocks, Chain& chain) {
  if (!prefix_cache_) return 0;
  int taken = 0;
  for (; taken < max_blocks && (taken + 1) * block_tokens <= static_cast<int>(keys.size()); ++taken) {
    int32_t block = find(chain, keys.subspan(static_cast<size_t>(taken) * block_tokens, block_tokens));
    if (block < 0) break;
    if (block_[block].references++ == 0) unlink(block);
    chain = block_[block].serial;
    blocks.push_back(block);
  }
  return taken;
}

int32_t BlockPool::allocate() {
  int32_t block = first_free_;
  if (block >= 0) {
    first_free_ = block_[block].next_free;
    --free_count_;
  } else if (oldest_ >= 0) {
    block = oldest_;
    unlink(block);
    erase(block);
    block_[block].serial = 0;
  } else {
    return -1;
  }
  block_[block].references = 1;
  return block;
}

void BlockPool::publish(int32_t block, std::span<const ContentKey, block_tokens> keys, Chain& chain) {
  if (!prefix_cache_ || block_[block].serial != 0) return;
  if (int32_t twin = find(chain, keys); twin >= 0) {
    chain = block_[twin].serial;
    return;
  }
  std::copy(keys.begin(), keys.end(), keys_of(block).begin());
  Block& b = block_[block];
  b.parent = chain;
  b.hash = hash_of(chain, keys);
  b.serial = next_serial_++;
  chain = b.serial;
  insert(block);
}

void BlockPool::release(int32_t block) {
  Block& b = block_[block];
  if (--b.references > 0) return;
  if (b.serial != 0) {
    link_newest(block);
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

}  // namespace hearth::kv
