// Block tables on the device follow those of the sequences, whatever changes are uploaded together.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "model/step_buffers.h"

namespace hearth::model {
namespace {

struct Sequences {
  std::vector<std::vector<int32_t>> blocks;
  std::vector<int> lengths;
  int next = 0;
  void add(int tokens) {
    blocks.emplace_back();
    lengths.push_back(0);
    grow(blocks.size() - 1, tokens);
  }
  void grow(size_t i, int tokens) {
    lengths[i] += tokens;
    while (static_cast<int>(blocks[i].size()) * ops::kv_block_tokens < lengths[i]) blocks[i].push_back(next++);
  }
};

void check_step(StepBuffers& buffers, device::Device& device, const Sequences& all) {
  const int32_t id = 1;
  std::vector<SequenceRows> rows;
  for (size_t i = 0; i < all.blocks.size(); ++i) {
    SequenceRows one;
    one.slot = static_cast<int>(i);
    one.start = all.lengths[i] - 1;
    one.count = 1;
    one.blocks = all.blocks[i];
    one.ids = {&id, 1};
    rows.push_back(one);
  }
  const StepInput input{rows, {}};
  ASSERT_TRUE(buffers.check(input));
  auto step = buffers.upload(input, static_cast<int>(rows.size()), static_cast<int>(rows.size()));
  ASSERT_TRUE(step);
  ASSERT_TRUE(device.stream().synchronize());
  for (size_t i = 0; i < rows.size(); ++i)
    EXPECT_EQ(std::memcmp(step->batch.block_table + i * static_cast<size_t>(step->batch.block_table_stride), all.blocks[i].data(), all.blocks[i].size() * 4), 0) << "sequence " << i;
}

TEST(StepBuffers, BlockTablesFollowTheSequences) {
  auto device = device::open_cpu_device(1);
  ASSERT_TRUE(device);
  std::mt19937 random(5);
  for (int context : {200, 20000}) {  // tables that go up as one, and others
    StepBuffers buffers(**device, 1);
    ASSERT_TRUE(buffers.allocate({64, 64, 64, context, 1 << 20, 100, 0}));
    Sequences all;
    for (int i = 0; i < 40; ++i) all.add(static_cast<int>(random() % 90) + 1);
    for (int turn = 0; turn < 60; ++turn) {
      for (size_t i = 0; i < all.blocks.size(); ++i) all.grow(i, turn % 3 || random() % 2 ? 1 : 0);
      if (turn % 20 == 10) all.blocks.erase(all.blocks.begin() + 7), all.lengths.erase(all.lengths.begin() + 7);
      if (turn % 20 == 15) all.add(35);
      check_step(buffers, **device, all);
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace hearth::model
