// Embedding rows of images by content (hash of pixels, width and height), in the model's image arena. An image is
// encoded once as long as its rows stay; rows nobody refers to give way when the arena is full, least recently used first.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

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
    bool ready = false;  // its pass is over: steps may read the rows
    bool fresh = true;   // nobody took a reference yet
  };
  struct Wanted {
    uint64_t hash = 0;
    const model::Model::PreparedImage* image = nullptr;
  };
  explicit ImageCache(model::Model& model) : model_(model) {}
  ~ImageCache();

  bool contains(uint64_t hash) const { return entries_.contains(hash); }
  // Takes a reference; nullptr when it is not there.
  Entry* acquire(uint64_t hash);
  void release(Entry* entry) { --entry->references; }

  // Starts a pass of the vision tower over the first of `wanted` (none of which is contained), making room for them.
  // Without any room until a reference is given back, no pass begins; that is not an error.
  Status begin(std::span<const Wanted> wanted);
  bool encoding() const { return !pass_.empty(); }
  // Goes on with the pass until the clock says so; when it is over its entries are ready. After an error the pass is given
  // up: whoever refers to an entry that is not ready must give it back, and then call drop_failed().
  Status advance(std::chrono::steady_clock::time_point until);
  void drop_failed();
  uint64_t hits() const { return hits_; }
  uint64_t queries() const { return queries_; }
  uint64_t passes() const { return passes_; }

 private:
  bool drop_one();
  model::Model& model_;
  std::unordered_map<uint64_t, Entry> entries_;  // nodes keep their address
  std::vector<Entry*> pass_;
  std::vector<const model::Model::PreparedImage*> offered_;
  uint64_t clock_ = 0, hits_ = 0, queries_ = 0, passes_ = 0;
};

}  // namespace hearth::runtime
