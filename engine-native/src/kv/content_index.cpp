#include "kv/content_index.h"

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

uint64_t hash_of(Chain parent, std::span<const ContentKey> keys) {
  uint64_t hash = mix(parent + 0x2545f4914f6cdd1dull);
  for (ContentKey key : keys) hash = mix(hash ^ key) + 0x9e3779b97f4a7c15ull;
  return hash;
}

ContentIndex::ContentIndex(int entries)
    : content_(entries), keys_(static_cast<size_t>(entries) * block_tokens) {
  size_t places = std::bit_ceil(static_cast<size_t>(std::max(entries, 1)) * 2);
  table_.assign(places, -1);
  table_mask_ = places - 1;
}

int32_t ContentIndex::find(Chain parent, uint64_t hash, std::span<const ContentKey> wanted) const {
  for (size_t at = hash & table_mask_; table_[at] >= 0; at = (at + 1) & table_mask_) {
    const Content& content = content_[table_[at]];
    if (content.hash != hash || content.parent != parent) continue;
    if (std::equal(wanted.begin(), wanted.end(), keys(table_[at]).begin())) return table_[at];
  }
  return -1;
}

void ContentIndex::insert(int32_t entry, const Content& content, std::span<const ContentKey> keys) {
  content_[entry] = content;
  std::copy_n(keys.begin(), block_tokens, keys_.begin() + static_cast<size_t>(entry) * block_tokens);
  size_t at = content.hash & table_mask_;
  while (table_[at] >= 0) at = (at + 1) & table_mask_;
  table_[at] = entry;
}

// Backward-shift deletion (Knuth, TAOCP 6.4, algorithm R) keeps probe runs whole without tombstones.
void ContentIndex::erase(int32_t entry) {
  size_t hole = content_[entry].hash & table_mask_;
  while (table_[hole] != entry) hole = (hole + 1) & table_mask_;
  for (size_t at = (hole + 1) & table_mask_; table_[at] >= 0; at = (at + 1) & table_mask_) {
    size_t home = content_[table_[at]].hash & table_mask_;
    if (((at - home) & table_mask_) >= ((at - hole) & table_mask_)) {
      table_[hole] = table_[at];
      hole = at;
    }
  }
  table_[hole] = -1;
  content_[entry] = {};
}

void AgeList::push_newest(int32_t entry) {
  link_[entry] = {newest_, -1};
  (newest_ >= 0 ? link_[newest_].newer : oldest_) = entry;
  newest_ = entry;
  ++size_;
}

void AgeList::remove(int32_t entry) {
  Link link = link_[entry];
  (link.older >= 0 ? link_[link.older].newer : oldest_) = link.newer;
  (link.newer >= 0 ? link_[link.newer].older : newest_) = link.older;
  link_[entry] = {};
  --size_;
}

}  // namespace hearth::kv
