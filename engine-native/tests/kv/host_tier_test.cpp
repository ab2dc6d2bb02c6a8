// The host tier as policy: what is saved, found again, brought back and given up.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "kv/block_pool.h"

using namespace hearth::kv;

namespace {

std::vector<ContentKey> keys_of(int blocks, int salt) {
  std::vector<ContentKey> keys;
  for (int i = 0; i < blocks * block_tokens; ++i) keys.push_back(key_of_token(salt * 10000 + i));
  return keys;
}

// A pool and a tier whose transfers are made at once or when told to, over memory that remembers what was written.
struct Pools {
  explicit Pools(int blocks, int slots) : tier(slots), pool(blocks, true), device(blocks, -1), host(slots, -1) {
    tier.set_ready(slots);
    pool.attach(tier);
  }
  void save(int in_flight = 1000) { pool.save_full(in_flight); }
  void copy_all() {
    take();
    while (!under_way.empty()) finish(0);
  }
  void take() {
    under_way.insert(under_way.end(), pool.transfers().begin(), pool.transfers().end());
    pool.transfers().clear();
  }
  // Takes `count` blocks; as the pool fills up, the oldest content is saved first.
  std::vector<int32_t> crowd_out(int count) {
    std::vector<int32_t> blocks;
    for (int i = 0; i < count; ++i) {
      save();
      copy_all();
      blocks.push_back(pool.allocate());
    }
    return blocks;
  }
  // In the order of the list, as the copier does.
  void finish(size_t) {
    Transfer t = under_way.front();
    under_way.erase(under_way.begin());
    if (t.to_host) host[t.slot] = device[t.block];
    else device[t.block] = host[t.slot];
    pool.transfer_done(t);
  }
  // Takes what is cached, computes the rest: a block's memory holds its content's number.
  std::vector<int32_t> fill(const std::vector<ContentKey>& keys, int* hits = nullptr) {
    std::vector<int32_t> blocks;
    Chain chain = 0;
    int full = static_cast<int>(keys.size()) / block_tokens;
    int taken = pool.take_prefix(keys, full, blocks, chain);
    copy_all();
    for (int i = taken; i < full; ++i) {
      int32_t block = pool.allocate();
      if (block < 0) break;
      blocks.push_back(block);
      device[block] = static_cast<int64_t>(keys[i * block_tokens]);
      pool.publish(block, std::span(keys).subspan(i * block_tokens).first<block_tokens>(), chain);
    }
    if (hits) *hits = taken;
    return blocks;
  }

  HostTier tier;
  BlockPool pool;
  std::vector<int64_t> device, host;  // what stands in each block and slot
  std::vector<Transfer> under_way;
};

}  // namespace

// Memory of the tier comes in chunks, later than it is asked for: what is there must not be given up for what can wait.
TEST(HostTier, NothingGivesWayWhileMemoryIsOnItsWay) {
  HostTier tier(4);
  auto put = [&](Chain serial) {
    const int32_t slot = tier.put({serial, 0, serial}, keys_of(1, static_cast<int>(serial)));
    if (slot >= 0) tier.unpin(slot);
    return slot;
  };
  tier.set_ready(2, true);
  EXPECT_EQ(put(1), 0);
  EXPECT_EQ(put(2), 1);
  EXPECT_EQ(put(3), -1);
  tier.set_ready(3, true);
  EXPECT_EQ(put(3), 2);
  tier.set_ready(3, false);
  EXPECT_EQ(put(4), 0);  // no more to come: the oldest gives way
}

TEST(HostTier, AForgottenPrefixIsBroughtBack) {
  Pools p(4, 16);
  auto a = keys_of(4, 1), b = keys_of(4, 2);
  auto blocks = p.fill(a);
  p.pool.release_all(blocks);
  blocks = p.crowd_out(4);
  EXPECT_EQ(p.tier.used(), 4);
  p.pool.release_all(blocks);
  Prefix prefix = p.pool.count_prefix(a, 4);
  EXPECT_EQ(prefix.blocks, 4);
  EXPECT_EQ(prefix.host, 4);
  int hits = 0;
  blocks = p.fill(a, &hits);
  EXPECT_EQ(hits, 4);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(p.device[blocks[i]], static_cast<int64_t>(a[i * block_tokens]));
  p.pool.release_all(blocks);
  EXPECT_EQ(p.pool.available(), 4);
  EXPECT_EQ(p.pool.count_prefix(b, 4).blocks, 0);
}

TEST(HostTier, ABlockIsNotGivenAwayWhileItIsSaved) {
  Pools p(2, 4);
  auto a = keys_of(2, 1);
  auto blocks = p.fill(a);
  p.pool.release_all(blocks);
  p.save(1);
  p.take();
  ASSERT_EQ(p.under_way.size(), 1u);
  EXPECT_EQ(p.pool.available(), 1);
  int32_t got = p.pool.allocate();
  EXPECT_NE(got, p.under_way[0].block);
  EXPECT_EQ(p.pool.allocate(), -1);
  p.finish(0);
  EXPECT_EQ(p.pool.available(), 1);
  int32_t second = p.pool.allocate();
  EXPECT_GE(second, 0);
  p.pool.release(got);
  p.pool.release(second);
}

TEST(HostTier, ArrivingBlocksAreSharedAndHeldUntilTheyAreThere) {
  Pools p(6, 8);
  auto a = keys_of(2, 1);
  auto blocks = p.fill(a);
  p.pool.release_all(blocks);
  auto filler = p.crowd_out(6);
  p.pool.release_all(filler);
  std::vector<int32_t> first, second;
  Chain c1 = 0, c2 = 0;
  ASSERT_EQ(p.pool.take_prefix(a, 2, first, c1), 2);
  EXPECT_TRUE(p.pool.arriving(first[0]));
  ASSERT_EQ(p.pool.take_prefix(a, 2, second, c2), 2);
  EXPECT_EQ(first, second);
  EXPECT_EQ(c1, c2);
  p.pool.release_all(first);  // both gone before the copies are made
  p.pool.release_all(second);
  EXPECT_EQ(p.pool.counts().used, 2);
  p.copy_all();
  EXPECT_EQ(p.pool.counts().used, 0);
  EXPECT_EQ(p.pool.count_prefix(a, 2).idle, 2);
}

TEST(HostTier, FewBlocksAreNotWorthTheDetour) {
  Pools p(4, 8);
  auto a = keys_of(2, 1);
  auto blocks = p.fill(a);
  p.pool.release_all(blocks);
  auto filler = p.crowd_out(4);
  p.pool.set_fetch_min(3);
  EXPECT_EQ(p.pool.count_prefix(a, 2).blocks, 0);
  p.pool.set_fetch_min(2);
  EXPECT_EQ(p.pool.count_prefix(a, 2).blocks, 2);
  p.pool.release_all(filler);
}

TEST(HostTier, RecomputedContentKeepsItsNameAndItsCopy) {
  Pools p(4, 8);
  auto a = keys_of(3, 1);
  auto blocks = p.fill(a);
  p.pool.release_all(blocks);
  auto filler = p.crowd_out(4);
  p.pool.release_all(filler);
  p.pool.set_fetch_min(100);  // computed again although it is there
  blocks = p.fill(std::vector<ContentKey>(a.begin(), a.begin() + block_tokens));
  p.pool.set_fetch_min(1);
  Prefix prefix = p.pool.count_prefix(a, 3);
  EXPECT_EQ(prefix.blocks, 3);  // the chain goes on from the device's block to the host's
  EXPECT_EQ(prefix.host, 2);
  EXPECT_EQ(p.tier.used(), 3);
  p.pool.release_all(blocks);
  p.save();
  EXPECT_EQ(p.tier.used(), 3);  // its copy is still there
  p.copy_all();
}

// Random histories with copies that finish late: content is never mixed up, and in the end every block is back.
TEST(HostTier, RandomHistoriesNeverMixContentAndLoseNothing) {
  int brought_back = 0;
  for (unsigned seed = 1; seed <= 60; ++seed) {
    std::mt19937 random(seed);
    Pools p(12, 1 + random() % 40);
    struct Live { std::vector<int32_t> blocks; std::vector<ContentKey> keys; int taken; bool checked; };
    std::vector<Live> live;
    std::map<std::vector<ContentKey>, int64_t> name;  // of each prefix
    auto name_of = [&](std::vector<ContentKey> prefix) { return name.try_emplace(prefix, name.size()).first->second; };
    for (int step = 0; step < 600; ++step) {
      p.pool.set_fetch_min(1 + random() % 2);
      if (live.size() < 4 && random() % 2) {
        int full = 1 + random() % 4;
        Live one{{}, {}, 0, false};
        for (int i = 0; i < full; ++i) {
          ContentKey key = random() % 3;
          for (int k = 0; k < block_tokens; ++k) one.keys.push_back(key);
        }
        Chain chain = 0;
        one.taken = p.pool.take_prefix(one.keys, full, one.blocks, chain);
        for (int32_t block : one.blocks) brought_back += p.pool.arriving(block);
        for (int i = one.taken; i < full; ++i) {
          int32_t block = p.pool.allocate();
          if (block < 0) break;
          p.device[block] = name_of({one.keys.begin(), one.keys.begin() + (i + 1) * block_tokens});
          one.blocks.push_back(block);
          p.pool.publish(block, std::span(one.keys).subspan(i * block_tokens).first<block_tokens>(), chain);
        }
        live.push_back(std::move(one));
      } else if (!live.empty() && random() % 3) {
        size_t at = random() % live.size();
        p.pool.release_all(live[at].blocks);
        live.erase(live.begin() + at);
      }
      p.save(1 + random() % 3);
      p.take();
      while (!p.under_way.empty() && random() % 3) p.finish(0);
      for (Live& one : live) {
        for (size_t i = 0; i < one.blocks.size(); ++i) {
          if (p.pool.arriving(one.blocks[i])) break;
          std::vector<ContentKey> prefix(one.keys.begin(), one.keys.begin() + (i + 1) * block_tokens);
          ASSERT_EQ(p.device[one.blocks[i]], name_of(prefix)) << "seed " << seed << " step " << step;
        }
      }
      ASSERT_LE(p.pool.available(), p.pool.counts().total - p.pool.counts().used);
    }
    for (Live& one : live) p.pool.release_all(one.blocks);
    p.copy_all();
    ASSERT_EQ(p.pool.available(), 12) << "seed " << seed;
    for (int i = 0; i < 12; ++i) ASSERT_GE(p.pool.allocate(), 0);
    ASSERT_EQ(p.pool.allocate(), -1);
  }
  EXPECT_GT(brought_back, 200);
}
