#include "model/memory_plan.h"

#include <algorithm>
#include <cstdio>

#include "ops/ops.h"

namespace hearth::model {

namespace {

int64_t blocks_for(int64_t tokens) { return (tokens + ops::kv_block_tokens - 1) / ops::kv_block_tokens; }

std::string mebibytes(int64_t bytes) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

// Everything but the KV pool.
std::vector<MemoryLine> fixed_lines(const MemoryNeeds& needs) {
  std::vector<MemoryLine> lines;
  auto add = [&](const char* what, int64_t bytes) {
    if (bytes > 0) lines.push_back({what, bytes});
  };
  add("weights", needs.weights);
  add("token embedding", needs.embedding);
  add("vision weights", needs.vision_weights);
  add("activations", needs.activations);
  add("workspace", needs.workspace);
  add("logits", needs.logits);
  add("step inputs", needs.inputs);
  add("vision activations", needs.vision);
  add("image rows", needs.image_rows);
  return lines;
}

int64_t sum(const std::vector<MemoryLine>& lines) {
  int64_t total = 0;
  for (const MemoryLine& line : lines) total += line.bytes;
  return total;
}

std::string what_would_fit(const MemoryNeeds& needs, int64_t left) {
  std::string text;
  const int64_t tokens = left / needs.block_bytes * ops::kv_block_tokens;
  constexpr int64_t useful_context = 256;
  if (tokens >= useful_context) text += "\n  --context " + std::to_string(tokens) + " fits";
  if (!needs.int8_kv && tokens * 2 >= needs.context) text += "\n  --kv int8 with the full context may fit";
  if (needs.dense_weights) text += "\n  --quantize w4a16 (w4a8 on a CPU) takes weights to about " + mebibytes(needs.weights / 4 + needs.weights / 32);
  if (needs.max_sequences > 8) text += "\n  --max-sequences " + std::to_string(std::max(1, needs.max_sequences / 4)) + " takes logits and inputs to a quarter";
  return text + "\n  or a smaller model (hearth list lists them with their sizes)";
}

// What was asked for, else one sequence of full context.
int64_t least_blocks(const MemoryNeeds& needs, int64_t kv_tokens) {
  return blocks_for(kv_tokens > 0 ? kv_tokens : needs.context);
}

// Blocks when nothing was asked for: every sequence at full context, or what the device has to spare.
int64_t default_blocks(const MemoryNeeds& needs, int64_t left) {
  const int64_t wanted = blocks_for(int64_t{needs.context}) * needs.max_sequences;
  int64_t budget = left;
  if (needs.cpu) {  // other programs live on this memory too
    constexpr int64_t cpu_pool_bytes = int64_t{4} << 30;
    budget = std::max(blocks_for(needs.context) * needs.block_bytes, std::min(left / 4, cpu_pool_bytes));
  }
  return std::min(wanted, budget / needs.block_bytes);
}

}  // namespace

std::string table_text(const std::vector<MemoryLine>& lines) {
  std::string text;
  for (const MemoryLine& line : lines) {
    char row[160];
    std::snprintf(row, sizeof(row), "  %-34s %12s\n", line.what.c_str(), mebibytes(line.bytes).c_str());
    text += row;
  }
  return text;
}

std::vector<MemoryLine> least_lines(const MemoryNeeds& needs, int64_t kv_tokens) {
  std::vector<MemoryLine> lines = fixed_lines(needs);
  const int64_t blocks = least_blocks(needs, kv_tokens);
  lines.push_back({"KV pool of " + std::to_string(blocks * ops::kv_block_tokens) + " tokens", blocks * needs.block_bytes});
  return lines;
}

Result<MemoryPlan> plan_memory(const MemoryNeeds& needs, int64_t available, int64_t kv_tokens) {
  MemoryPlan plan;
  plan.lines = fixed_lines(needs);
  const int64_t fixed = sum(plan.lines);
  const int64_t left = available - fixed;
  const int64_t asked = least_blocks(needs, kv_tokens);
  if (left < asked * needs.block_bytes) {
    plan.lines.push_back({"KV pool of " + std::to_string(asked * ops::kv_block_tokens) + " tokens", asked * needs.block_bytes});
    return out_of_memory("the model does not fit in " + mebibytes(available) + ":\n" + table_text(plan.lines) + "  together " +
                         mebibytes(fixed + asked * needs.block_bytes) + ". What would fit:" + what_would_fit(needs, std::max<int64_t>(left, 0)));
  }
  constexpr int64_t blocks_max = int64_t{1} << 26;  // slots must stay in 31 bits
  const int64_t blocks = std::min(blocks_max, kv_tokens > 0 ? asked : std::max(asked, default_blocks(needs, left)));
  plan.kv_blocks = static_cast<int>(blocks);
  plan.lines.push_back({"KV pool of " + std::to_string(blocks * ops::kv_block_tokens) + " tokens", blocks * needs.block_bytes});
  return plan;
}

}  // namespace hearth::model
