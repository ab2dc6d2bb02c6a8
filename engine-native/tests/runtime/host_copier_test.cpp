#include "runtime/host_copier.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

using namespace hearth;
using namespace std::chrono_literals;

namespace {

// True once so many are there; what is not there after ten seconds does not come.
bool comes_to(const runtime::HostCopier& copier, int slots) {
  for (int i = 0; i < 1000 && copier.ready_slots() < slots; ++i) std::this_thread::sleep_for(10ms);
  return copier.ready_slots() >= slots;
}

}  // namespace

// A server that never runs out of KV blocks must not pin gigabytes for the day it does.
TEST(HostCopier, TakesMemoryWhenItIsWanted) {
  auto device = device::open_cpu_device(1);
  ASSERT_TRUE(device);
  model::LoadOptions options;
  options.shape = "tiny";
  options.kv_tokens = 64;
  auto model = model::Model::load(options, **device);
  ASSERT_TRUE(model) << model.status().message();
  const int tier_slots = static_cast<int>((size_t{160} << 20) / (*model)->kv_block_bytes());  // three chunks
  auto copier = runtime::HostCopier::create(**model, tier_slots, [] {});
  ASSERT_TRUE(copier);
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ((*copier)->ready_slots(), 0);
  (*copier)->want_slots(1);
  EXPECT_TRUE(comes_to(**copier, 1));
  std::this_thread::sleep_for(50ms);
  EXPECT_LT((*copier)->ready_slots(), tier_slots);
  (*copier)->want_slots(2 * tier_slots);
  EXPECT_TRUE(comes_to(**copier, tier_slots));
  EXPECT_EQ((*copier)->ready_slots(), tier_slots);
}
