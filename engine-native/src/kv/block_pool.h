// The logical KV pool: which fixed-size blocks are free, in use, or kept because their content may be asked for again.
// Knows no device and no tensor; a block is a number. Nothing here allocates after construction.
//
// Prefix cache. A full block is published under its content: the content of the block before it in the sequence (named
// by a serial number that is never reused) and the keys of its own tokens. A hash finds it, the keys themselves are
// compared, so a hit is never a collision. A block nobody refers to stays findable until its place is needed; the
// least recently released goes first. Sequences release their last block first, so a parent outlives its children.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace hearth::kv {

inline constexpr int block_tokens = 16;  // equals ops::kv_block_tokens; checked where both are seen

// What stands at one position of a sequence: a token id, or one row of an image (content_of_image_row).
using ContentKey = uint64_t;
inline ContentKey key_of_token(int32_t id) { return static_cast<uint32_t>(id); }
// `image` is the hash of the pixels, width and height; the top bit keeps rows of images apart from tokens.
ContentKey key_of_image_row(uint64_t image, int row);

// Names the content of a sequence up to the end of a block; 0 is the empty sequence.
using Chain = uint64_t;

struct PoolCounts {
  int total = 0;
  int used = 0;    // referred to by a sequence
  int cached = 0;  // not referred to, content kept
};

class BlockPool {
 public:
  BlockPool(int blocks, bool prefix_cache);

  PoolCounts counts() const { return {total_, total_ - free_count_ - cached_count_, cached_count_}; }
  // Blocks that allocate() can still give: free ones and cached ones that nobody refers to.
  int available() const { return free_count_ + cached_count_; }

  // Blocks at the start of `keys` whose content is in the pool, at most `max_blocks`. `idle` (may be null) is how many
  // of them nobody refers to: taking those makes available() smaller.
  int count_prefix(std::span<const ContentKey> keys, int max_blocks, int* idle = nullptr) const;
  // Takes a reference to each block of that prefix, appends them to `blocks` and moves `chain` past them.
  int take_prefix(std::span<const ContentKey> keys, int max_blocks, std::vector<int32_t>& blocks, Chain& chain);
  // A block of its own with one reference, or -1. Forgets the least recently used cached block when none is free.
  int32_t allocate();
  // Publishes a full block: `chain` is the content before it and becomes the content including it. When the same
  // content is there already, the block stays private and the chain joins the one that is there.
  void publish(int32_t block, std::span<const ContentKey, block_tokens> keys, Chain& chain);
  // Gives back one reference.
  void release(int32_t block);
  // Gives back all of a sequence, last block first.
  void release_all(std::vector<int32_t>& blocks);

 private:
  struct Block {
    int references = 0;
    Chain serial = 0;  // 0: content not published
    Chain parent = 0;
    uint64_t hash = 0;
    int32_t older = -1, newer = -1;  // list of cached blocks
    int32_t next_free = -1;
  };
  uint64_t hash_of(Chain parent, std::span<const ContentKey> keys) const;
  int32_t find(Chain parent, std::span<const ContentKey> keys) const;
  void insert(int32_t block);
  void erase(int32_t block);
  void link_newest(int32_t block);
  void unlink(int32_t block);
  std::span<ContentKey> keys_of(int32_t block) {
    return {keys_.data() + static_cast<size_t>(block) * block_tokens, block_tokens};
  }

  int total_;
  bool prefix_cache_;
  int free_count_ = 0, cached_count_ = 0;
  int32_t first_free_ = -1, oldest_ = -1, newest_ = -1;
  Chain next_serial_ = 1;
  std::vector<Block> block_;
  std::vector<ContentKey> keys_;   // [blocks * block_tokens]
  std::vector<int32_t> table_;     // open addressing, -1 = empty; a power of two, at most half full
  size_t table_mask_ = 0;
};

}  // namespace hearth::kv
