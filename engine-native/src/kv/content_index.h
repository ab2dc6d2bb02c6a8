// Blocks by their content: which entry of a pool holds these tokens after that beginning. Used for the blocks of the
// device and for those of the host tier behind it. A hash finds an entry, the keys themselves are compared, so a hit is
// never a collision. Nothing here allocates after construction.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hearth::kv {

inline constexpr int block_tokens = 16;  // equals ops::kv_block_tokens; checked where both are seen

// What stands at one position of a sequence: a token id, or one row of an image (key_of_image_row).
using ContentKey = uint64_t;
inline ContentKey key_of_token(int32_t id) { return static_cast<uint32_t>(id); }
// `image` is the hash of the pixels, width and height; the top bit keeps rows of images apart from tokens.
ContentKey key_of_image_row(uint64_t image, int row);

// Names the content of a sequence up to the end of a block; 0 is the empty sequence.
using Chain = uint64_t;

// What a full block holds. The serial names it and what stands before it, in whatever tier it is, and is never reused.
struct Content {
  Chain serial = 0;  // 0: nothing
  Chain parent = 0;
  uint64_t hash = 0;
};
uint64_t hash_of(Chain parent, std::span<const ContentKey> keys);

class ContentIndex {
 public:
  explicit ContentIndex(int entries);

  // The entry with these keys after `parent`, or -1. `hash` is hash_of(parent, keys).
  int32_t find(Chain parent, uint64_t hash, std::span<const ContentKey> keys) const;
  void insert(int32_t entry, const Content& content, std::span<const ContentKey> keys);
  void erase(int32_t entry);
  const Content& content(int32_t entry) const { return content_[entry]; }
  std::span<const ContentKey> keys(int32_t entry) const {
    return {keys_.data() + static_cast<size_t>(entry) * block_tokens, block_tokens};
  }

 private:
  std::vector<Content> content_;
  std::vector<ContentKey> keys_;  // [entries * block_tokens]
  std::vector<int32_t> table_;    // open addressing, -1 = empty; a power of two, at most half full
  size_t table_mask_ = 0;
};

// Entries by age, oldest first.
class AgeList {
 public:
  explicit AgeList(int entries) : link_(entries) {}
  int32_t oldest() const { return oldest_; }
  int32_t newer(int32_t entry) const { return link_[entry].newer; }
  int size() const { return size_; }
  void push_newest(int32_t entry);
  void remove(int32_t entry);

 private:
  struct Link { int32_t older = -1, newer = -1; };
  std::vector<Link> link_;
  int32_t oldest_ = -1, newest_ = -1;
  int size_ = 0;
};

}  // namespace hearth::kv
