#include "runtime/image_cache.h"

#include <cstring>
#include <utility>

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

ImageCache::Entry* ImageCache::acquire(uint64_t hash) {
  auto at = entries_.find(hash);
  if (at == entries_.end()) return nullptr;
  Entry& entry = at->second;
  ++queries_;
  if (!std::exchange(entry.fresh, false)) ++hits_;
  ++entry.references;
  entry.used = ++clock_;
  return &entry;
}

bool ImageCache::drop_one() {
  auto oldest = entries_.end();
  for (auto at = entries_.begin(); at != entries_.end(); ++at)
    if (at->second.references == 0 && at->second.ready && (oldest == entries_.end() || at->second.used < oldest->second.used)) oldest = at;
  if (oldest == entries_.end()) return false;
  model_.release_image(oldest->second.rows);
  entries_.erase(oldest);
  return true;
}

Status ImageCache::begin(std::span<const Wanted> wanted) {
  offered_.clear();
  for (const Wanted& one : wanted) offered_.push_back(one.image);
  for (;;) {
    auto rows = model_.begin_images(offered_);
    if (rows) {
      for (size_t i = 0; i < rows->size(); ++i) {
        Entry& entry = entries_[wanted[i].hash];
        entry = {wanted[i].hash, std::move((*rows)[i]), 0, ++clock_};
        pass_.push_back(&entry);
      }
      ++passes_;
      return Status::ok();
    }
    if (rows.status().code() != Code::busy) return rows.status();  // busy: the arena has no run of rows that long
    if (drop_one()) continue;
    // Somebody's rows will be given back; with nobody's there, the image is larger than the arena.
    return entries_.empty() ? out_of_memory(rows.status().message()) : Status::ok();
  }
}

Status ImageCache::advance(std::chrono::steady_clock::time_point until) {
  auto over = model_.advance_images(until);
  if (over && !*over) return Status::ok();
  for (Entry* entry : pass_) entry->ready = static_cast<bool>(over);
  pass_.clear();
  return over ? Status::ok() : over.status();
}

void ImageCache::drop_failed() {
  std::erase_if(entries_, [this](const auto& item) {
    if (item.second.ready) return false;
    model_.release_image(item.second.rows);
    return true;
  });
}

}  // namespace hearth::runtime
