// The logical KV pool: which fixed-size blocks are free, in use, or kept because their content may be asked for again.
// Knows no device and no tensor; a block is a number. Nothing here allocates after construction.
//
// Prefix cache. A full block is published under its content: the content of the block before it in the sequence (named
// by a serial number that is never reused) and the keys of its own tokens. A block nobody refers to stays findable until
// its place is needed; the least recently released goes first. Sequences release their last block first, so a parent
// outlives its children.
//
// Host tier. With one attached, full blocks are copied to host memory ahead of time (save_full), so that giving their place
// away costs nothing; and a prefix that is only there is brought back: take_prefix gives blocks whose content is still
// `arriving`. The pool lists the transfers; the owner takes them, makes them and says when each is done. A block keeps its
// serial across the tiers, so chains stay whole.
#pragma once

#include <climits>
#include <cstdint>
#include <span>
#include <vector>

#include "kv/content_index.h"
#include "kv/host_tier.h"

namespace hearth::kv {

struct PoolCounts {
  int total = 0;
  int used = 0;    // referred to by a sequence
  int cached = 0;  // not referred to, content kept
};

// What of a prefix is there.
struct Prefix {
  int blocks = 0;  // in all
  int idle = 0;    // on the device and referred to by nobody: taking those makes available() smaller
  int host = 0;    // to be brought back: each wants a block of its own
};

struct Transfer {
  int32_t block = -1, slot = -1;
  bool to_host = false;
};

class BlockPool {
 public:
  BlockPool(int blocks, bool prefix_cache);
  // Before first use. The tier must outlive the pool.
  void attach(HostTier& tier);

  PoolCounts counts() const { return {total_, total_ - free_count_ - idle_.size(), idle_.size()}; }
  // Blocks that allocate() can still give: free ones and cached ones that nobody refers to and nobody is copying.
  int available() const { return free_count_ + idle_.size() - saving_idle_; }

  // The start of `keys`, at most `max_blocks`, whose content is there, after the content `chain`.
  Prefix count_prefix(std::span<const ContentKey> keys, int max_blocks, Chain chain = 0) const;
  // Takes a reference to each block of that prefix, appends them to `blocks` and moves `chain` past them. Gives their
  // number: fewer than counted when no block was left to bring one back into.
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

  // A prefix is brought back when at least this many blocks of it are on the host: fewer are faster to recompute.
  void set_fetch_min(int blocks) { fetch_min_ = blocks; }
  // Whether it is time to copy full blocks to the host: half the pool is taken.
  bool wants_saving() const { return tier_ && free_count_ <= total_ / 2; }
  // Lists copies to the host of full blocks that have none, in the order they were filled, when it is time; at most
  // `in_flight_max` transfers to the host are under way at once.
  void save_full(int in_flight_max);
  bool arriving(int32_t block) const { return block_[block].arriving; }
  // Transfers listed since they were last cleared. All must be made in the order of the list.
  std::vector<Transfer>& transfers() { return transfers_; }
  void transfer_done(const Transfer& transfer);

 private:
  struct Block {
    int references = 0;
    int32_t host = -1;      // slot with the same content, as long as the tier holds it
    bool arriving = false;  // being copied from the host; the copy has a reference of its own
    bool saving = false;    // being copied to the host: its place is not given away
    bool queued = false;    // in unsaved_
    int32_t next_free = -1;
  };
  struct Found { int32_t block = -1, slot = -1; };
  Found find(Chain chain, std::span<const ContentKey> keys) const;
  Chain serial(int32_t block) const { return index_.content(block).serial; }
  bool on_host(int32_t block) const { return tier_ && tier_->holds(block_[block].host, serial(block)); }
  void link(int32_t block);
  void unlink(int32_t block);
  int32_t begin_fetch(int32_t slot);
  void want_saved(int32_t block);
  bool save(int32_t block);

  int total_;
  bool prefix_cache_;
  int free_count_ = 0, saving_idle_ = 0, saving_ = 0, fetch_min_ = 1;
  int32_t first_free_ = -1;
  Chain next_serial_ = 1;
  std::vector<Block> block_;
  ContentIndex index_;  // published blocks
  AgeList idle_;        // cached blocks that nobody refers to
  HostTier* tier_ = nullptr;
  std::vector<Transfer> transfers_;
  std::vector<int32_t> unsaved_;  // a ring: full blocks without a copy, oldest first
  int first_unsaved_ = 0, unsaved_count_ = 0;
  std::vector<Found> found_;      // scratch of take_prefix
};

}  // namespace hearth::kv
