// The memory plan: what fits, and what a refusal says would.
#include "model/memory_plan.h"
#include "model/support.h"

namespace hearth::model {
namespace {

MemoryNeeds needs() {
  MemoryNeeds needs;
  needs.weights = 1 << 20;
  needs.activations = 1 << 18;
  needs.block_bytes = 1024;
  needs.context = 4096;
  needs.max_sequences = 4;
  return needs;
}

MemoryBudget bytes(int64_t count) { return {count, 0, 0, {}}; }

std::string refusal(const MemoryNeeds& needs, int64_t available, int64_t kv_tokens = 0) {
  const auto plan = plan_memory(needs, bytes(available), kv_tokens);
  EXPECT_FALSE(plan.is_ok());
  EXPECT_EQ(plan.status().code(), Code::out_of_memory);
  return plan ? "" : plan.status().message();
}

TEST(MemoryPlan, TakesWhatFits) {
  const int64_t fixed = (1 << 20) + (1 << 18);
  const auto plan = plan_memory(needs(), bytes(fixed + 600 * 1024), 0);
  ASSERT_TRUE(plan.is_ok()) << plan.status().message();
  EXPECT_EQ(plan->kv_blocks, 600);
  EXPECT_EQ(plan_memory(needs(), bytes(int64_t{1} << 40), 0)->kv_blocks, 4 * 256);  // every sequence at full context, no more
  EXPECT_EQ(plan_memory(needs(), bytes(int64_t{1} << 40), 5000)->kv_blocks, 313);
  int64_t total = 0;
  for (const MemoryLine& line : plan->lines) total += line.bytes;
  EXPECT_EQ(total, fixed + 600 * 1024);
}

TEST(MemoryPlan, RefusalIsATableWithItsSum) {
  MemoryNeeds all = needs();
  all.embedding = 2 << 20, all.vision_weights = 3 << 20, all.workspace = 4 << 20, all.logits = 5 << 20, all.inputs = 6 << 20;
  all.vision = 7 << 20, all.image_rows = 8 << 20;
  all.kv = "f16";
  EXPECT_EQ(refusal(all, 1 << 20),
            "the model does not fit in 1.0 MiB (1.0 MiB free):\n" +
                table_text({{"weights", 1 << 20}, {"token embedding", 2 << 20}, {"vision weights", 3 << 20}, {"activations", 1 << 18}, {"workspace", 4 << 20},
                            {"logits", 5 << 20}, {"step inputs", 6 << 20}, {"vision activations", 7 << 20}, {"image rows", 8 << 20},
                            {"KV pool of 4096 tokens (f16)", 256 << 10}}) +
                "  together 36.5 MiB, 35.5 MiB too much. What would fit:\n  a smaller model (hearth list --fits shows which)");
}

TEST(MemoryPlan, SaysWhatWouldFit) {
  const int64_t room = (1 << 20) + (1 << 18) + 100 * 1024;
  EXPECT_HAS(refusal(needs(), room), "\n  --context 1600\n");
  EXPECT_HAS(refusal(needs(), room, 8000), "\n  --context 1600\n");
  EXPECT_HAS(refusal(needs(), room + 200 * 1024, 8000), "\n  --kv-tokens 4096 with the full context of 4096\n");
  EXPECT_EQ(refusal(needs(), (1 << 20) + (1 << 18) + 10 * 1024).find("--context"), std::string::npos);  // 160 tokens are no use

  MemoryNeeds wide = needs();
  wide.int8_block_bytes = 520;
  EXPECT_HAS(refusal(wide, room), "\n  --kv int8 --context 3136\n");
  EXPECT_HAS(refusal(wide, room + 50 * 1024), "\n  --kv int8 with the full context of 4096\n");

  MemoryNeeds many = needs();
  many.few_sequences = 16, many.few_sequences_save = 160 << 10;
  EXPECT_HAS(refusal(many, room), "\n  --max-sequences 16 with the full context of 4096 (saves 0.2 MiB)\n");

  MemoryNeeds dense = needs();
  dense.w4_weights = 1 << 18;
  EXPECT_HAS(refusal(dense, 1 << 20), "\n  --precision w4a16 with the full context of 4096 (takes weights to about 0.2 MiB)\n");
  dense.cpu = true;
  EXPECT_HAS(refusal(dense, 1 << 20), "--precision w4a8");
}

TEST(MemoryPlan, BudgetSaysWhatStaysFree) {
  constexpr int64_t mib = 1 << 20;
  device::DeviceInfo info;
  info.kind = device::DeviceKind::cuda;
  info.profile.memory_bytes = int64_t{24} << 30;
  EXPECT_EQ(memory_budget(info, 8000 * mib, 0, 0).text(), "7600.0 MiB (8000.0 MiB free, less 400.0 MiB kept for driver, kernels and graphs)");
  info.profile.memory_bytes = int64_t{8} << 30;  // a card that people plug a display into
  EXPECT_EQ(memory_budget(info, 7000 * mib, 100 * mib, 0).text(),
            "6260.0 MiB (7000.0 MiB free, less 100.0 MiB promised to other models, less 384.0 MiB kept for driver, kernels and graphs, less 256.0 MiB kept for a display)");
  EXPECT_EQ(memory_budget(info, 7000 * mib, 0, 40 * mib).text(), "40.0 MiB (the limit that was set)");
  EXPECT_EQ(memory_budget(info, 100 * mib, 0, 0).available(), 0);
  info.profile.unified_memory = true;
  EXPECT_EQ(memory_budget(info, 6000 * mib, 0, 0).available(), 5488 * mib);
  info.kind = device::DeviceKind::cpu;
  EXPECT_EQ(memory_budget(info, 6000 * mib, 0, 0).available(), 5700 * mib);
}

// A pool too small for the usual format is INT8, and says so; what was asked for stays.
TEST(MemoryPlan, KvTurnsInt8WhereItMust) {
  LoadOptions options = exact_options(checkpoint_path("llama-mha"));
  options.kv = "f16";
  auto wide = load(options);
  ASSERT_TRUE(wide);
  options.memory_limit_bytes = Model::plan(options, test_device(), 0)->bytes - 1;
  auto refused = Model::load(options, test_device());
  ASSERT_FALSE(refused.is_ok());
  EXPECT_HAS(refused.status().message(), "--kv int8");
  options.kv = "auto";
  options.precision = "f16";
  options.memory_limit_bytes = 0;
  options.memory_limit_bytes = Model::plan(options, test_device(), 0)->bytes - 1;
  auto narrow = load(options);
  ASSERT_TRUE(narrow);
  EXPECT_EQ(narrow->info().kv, "int8");
  EXPECT_HAS(narrow->memory().back().what, "(int8, as f16 would not fit)");
  Sequence sequence(*narrow, 0);
  sequence.ids = Golden("llama-mha").values<int32_t>("ids");
  EXPECT_LE(distance(prefill(*narrow, sequence, 64), Golden("llama-mha").values<float>("logits")), 5e-2);
}

TEST(MemoryPlan, RefusedBeforeAnythingIsTaken) {
  const std::string error = load_error(checkpoint_path("llama-mha"), [](LoadOptions& o) { o.memory_limit_bytes = 600 << 10; });
  EXPECT_HAS(error, "does not fit");
}

}  // namespace
}  // namespace hearth::model
