// Embedding rows of images by content (hash of pixels, width and height), in the model's image arena. An image is
// encoded once as long as its rows stay; rows nobody refers to give way when the arena is full, least recently used first.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>

#include "core/status.h"
#include "model/model.h"

namespace hearth::runtime {

uint64_t hash_image(int width, int height, std::span<const uint8_t> rgb);

class ImageCache {
 public:
  struct Entry {
    uint64_t hash = 0;
    model::ImageRows rows;
    int references = 0;
    uint64_t used = 0;
  };
  explicit ImageCache(model::Model& model) : model_(model) {}
  ~ImageCache();

  // Takes a reference; nullptr when it is not there.
  Entry* find(uint64_t hash);
  // Runs the vision tower, making room first. nullptr (not an error): no room until a reference is given back.
  Result<Entry*> encode(uint64_t hash, const model::Model::PreparedImage& image);
  void release(Entry* entry) { --entry->references; }
  uint64_t hits() const { return hits_; }
  uint64_t queries() const { return queries_; }

 private:
  bool drop_one();
  model::Model& model_;
  std::unordered_map<uint64_t, Entry> entries_;  // nodes keep their address
  uint64_t clock_ = 0, hits_ = 0, queries_ = 0;
};

}  // namespace hearth::runtime
