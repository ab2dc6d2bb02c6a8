#include "runtime/image_cache.h"

#include <cstring>

namespace hearth::runtime {

// Two independent multiply-xorshift lanes over 16 bytes at a time: several GB/s, which is what a 4K photo needs.
uint64_t hash_image(int width, int height, std::span<const uint8_t> rgb) {
  uint64_t a = 0x9e3779b97f4a7c15ull ^ static_cast<uint64_t>(width), b = 0xc2b2ae3d27d4eb4full ^ static_cast<uint64_t>(height);
  auto round = [](uint64_t state, uint64_t word) {
    state = (state ^ word) * 0xbf58476d1ce4e5b9ull;
    return state ^ (state >> 29);
  };
  size_t at = 0;
  for (; at + 16 <= rgb.size(); at += 16) {
    uint64_t words[2];
    std::memcpy(words, rgb.data() + at, 16);
    a = round(a, words[0]);
    b = round(b, words[1]);
  }
  uint64_t tail[2] = {};
  if (at < rgb.size()) std::memcpy(tail, rgb.data() + at, rgb.size() - at);
  a = round(a, tail[0] ^ rgb.size());
  b = round(b, tail[1]);
  return round(a, b * 0x94d049bb133111ebull);
}

ImageCache::~ImageCache() {
  for (auto& [hash, entry] : entries_) model_.release_image(entry.rows);
}

ImageCache::Entry* ImageCache::find(uint64_t hash) {
  ++queries_;
  auto at = entries_.find(hash);
  if (at == entries_.end()) return nullptr;
  ++hits_;
  ++at->second.references;
  at->second.used = ++clock_;
  return &at->second;
}

bool ImageCache::drop_one() {
  auto oldest = entries_.end();
  for (auto at = entries_.begin(); at != entries_.end(); ++at)
    if (at->second.references == 0 && (oldest == entries_.end() || at->second.used < oldest->second.used)) oldest = at;
  if (oldest == entries_.end()) return false;
  model_.release_image(oldest->second.rows);
  entries_.erase(oldest);
  return true;
}

Result<ImageCache::Entry*> ImageCache::encode(uint64_t hash, const model::Model::PreparedImage& image) {
  for (;;) {
    auto rows = model_.encode_image(image);
    if (rows) {
      Entry& entry = entries_[hash];
      entry = {hash, std::move(rows).value(), 1, ++clock_};
      return &entry;
    }
    if (rows.status().code() != Code::busy) return rows.status();  // busy: the arena has no run of rows that long
    if (drop_one()) continue;
    // Somebody's rows will be given back; with nobody's there, the image is larger than the arena.
    if (entries_.empty()) return out_of_memory(rows.status().message());
    return static_cast<Entry*>(nullptr);
  }
}

}  // namespace hearth::runtime
