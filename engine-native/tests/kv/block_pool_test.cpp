#include "kv/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>

using namespace hearth::kv;

namespace {

std::vector<ContentKey> keys_of(int count, uint64_t salt = 0) {
  std::vector<ContentKey> keys(count);
  for (int i = 0; i < count; ++i) keys[i] = key_of_token(static_cast<int32_t>((salt * 1000 + i) & 0xffff));
  return keys;
}

// Takes what is cached, allocates the rest, publishes all full blocks.
std::vector<int32_t> fill(BlockPool& pool, const std::vector<ContentKey>& keys, int* hits = nullptr) {
  std::vector<int32_t> blocks;
  Chain chain = 0;
  int full = static_cast<int>(keys.size()) / block_tokens;
  int taken = pool.take_prefix(keys, full, blocks, chain);
  for (int i = taken; i < full; ++i) {
    blocks.push_back(pool.allocate());
    pool.publish(blocks.back(), std::span(keys).subspan(i * block_tokens).first<block_tokens>(), chain);
  }
  if (hits) *hits = taken;
  return blocks;
}

}  // namespace

TEST(BlockPool, GivesEveryBlockOnceThenNone) {
  BlockPool pool(3, true);
  std::vector<int32_t> got = {pool.allocate(), pool.allocate(), pool.allocate()};
  std::sort(got.begin(), got.end());
  EXPECT_EQ(got, (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(pool.allocate(), -1);
  EXPECT_EQ(pool.counts().used, 3);
  pool.release_all(got);
  EXPECT_EQ(pool.available(), 3);
}

TEST(BlockPool, FindsPublishedPrefixAndSharesIt) {
  BlockPool pool(8, true);
  auto keys = keys_of(40);
  auto first = fill(pool, keys);
  int hits = 0;
  auto second = fill(pool, keys, &hits);
  EXPECT_EQ(hits, 2);
  EXPECT_EQ(first, second);
  EXPECT_EQ(pool.counts().used, 2);
  pool.release_all(first);
  EXPECT_EQ(pool.counts().used, 2);
  pool.release_all(second);
  EXPECT_EQ(pool.counts().used, 0);
  EXPECT_EQ(pool.counts().cached, 2);
  EXPECT_EQ(pool.count_prefix(keys, 10).blocks, 2);
  EXPECT_EQ(pool.count_prefix(keys, 10).idle, 2);
  EXPECT_EQ(pool.count_prefix(keys, 1).blocks, 1);
}

TEST(BlockPool, SameTokensAfterAnotherPrefixAreAnotherBlock) {
  BlockPool pool(8, true);
  auto a = keys_of(32, 1);
  auto b = keys_of(32, 2);
  std::copy(a.begin() + 16, a.end(), b.begin() + 16);
  auto first = fill(pool, a);
  int hits = -1;
  auto second = fill(pool, b, &hits);
  EXPECT_EQ(hits, 0);
  EXPECT_NE(first[1], second[1]);
}

TEST(BlockPool, ImagesOfOtherContentDoNotMatch) {
  EXPECT_NE(key_of_image_row(7, 0), key_of_image_row(7, 1));
  EXPECT_NE(key_of_image_row(7, 0), key_of_image_row(8, 0));
  EXPECT_NE(key_of_image_row(7, 0) >> 63, 0u);
  EXPECT_EQ(key_of_token(-1) >> 63, 0u);
}

TEST(BlockPool, ReclaimsLeastRecentlyUsedAndChildrenBeforeParents) {
  BlockPool pool(4, true);
  auto a = keys_of(32, 1), b = keys_of(32, 2);
  auto ra = fill(pool, a);
  auto rb = fill(pool, b);
  pool.release_all(ra);
  pool.release_all(rb);
  EXPECT_EQ(pool.counts().cached, 4);
  int32_t taken = pool.allocate();  // must be the second block of a
  EXPECT_EQ(pool.count_prefix(a, 2).blocks, 1);
  EXPECT_EQ(pool.count_prefix(b, 2).blocks, 2);
  pool.release(taken);
}

TEST(BlockPool, WithoutPrefixCacheNothingIsKept) {
  BlockPool pool(4, false);
  auto keys = keys_of(32);
  auto blocks = fill(pool, keys);
  pool.release_all(blocks);
  EXPECT_EQ(pool.counts().cached, 0);
  EXPECT_EQ(pool.count_prefix(keys, 2).blocks, 0);
}

TEST(BlockPool, DuplicateContentStaysPrivateAndJoinsTheChain) {
  BlockPool pool(8, true);
  auto keys = keys_of(32);
  std::vector<int32_t> one = {pool.allocate(), pool.allocate()}, two = {pool.allocate(), pool.allocate()};
  Chain c1 = 0, c2 = 0;
  for (int i = 0; i < 2; ++i) {
    auto part = std::span(keys).subspan(i * block_tokens).first<block_tokens>();
    pool.publish(one[i], part, c1);
    pool.publish(two[i], part, c2);
    EXPECT_EQ(c1, c2);
  }
  pool.release_all(two);
  EXPECT_EQ(pool.counts().cached, 0);
  pool.release_all(one);
  EXPECT_EQ(pool.counts().cached, 2);
}

// Random takes and releases against a map from content to block: what is found is always what was stored.
TEST(BlockPool, RandomHistoryNeverMixesContentAndLosesNothing) {
  for (unsigned seed = 1; seed <= 30; ++seed) {
    std::mt19937 random(seed);
    BlockPool pool(24, true);
    struct Live { std::vector<int32_t> blocks; std::vector<ContentKey> keys; };
    std::vector<Live> live;
    std::map<int32_t, std::vector<ContentKey>> content;  // whole prefix behind each block
    for (int step = 0; step < 400; ++step) {
      if (live.size() < 5 && random() % 2) {
        int full = 1 + random() % 4;
        std::vector<ContentKey> keys;
        for (int i = 0; i < full; ++i)
          for (int k = 0, salt = random() % 3; k < block_tokens; ++k) keys.push_back(salt);
        Live one{{}, keys};
        Chain chain = 0;
        int hit = pool.take_prefix(keys, full, one.blocks, chain);
        for (int i = 0; i < hit; ++i) {
          std::vector<ContentKey> prefix(keys.begin(), keys.begin() + (i + 1) * block_tokens);
          ASSERT_EQ(content[one.blocks[i]], prefix) << "seed " << seed;
        }
        for (int i = hit; i < full; ++i) {
          int32_t block = pool.allocate();
          if (block < 0) break;
          content[block] = {keys.begin(), keys.begin() + (i + 1) * block_tokens};
          one.blocks.push_back(block);
          pool.publish(block, std::span(keys).subspan(i * block_tokens).first<block_tokens>(), chain);
        }
        live.push_back(std::move(one));
      } else if (!live.empty()) {
        size_t at = random() % live.size();
        pool.release_all(live[at].blocks);
        live.erase(live.begin() + at);
      }
      PoolCounts counts = pool.counts();
      ASSERT_EQ(counts.total - counts.used, pool.available());
    }
    for (Live& one : live) pool.release_all(one.blocks);
    ASSERT_EQ(pool.available(), 24) << "seed " << seed;
    for (int i = 0; i < 24; ++i) ASSERT_GE(pool.allocate(), 0);
  }
}
