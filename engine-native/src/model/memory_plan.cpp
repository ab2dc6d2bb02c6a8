#include "model/memory_plan.h"

#include <algorithm>
#include <cstdio>

#include "ops/ops.h"

namespace hearth::model {

namespace {

constexpr int64_t mib = int64_t{1} << 20;
constexpr int64_t useful_context = 256;  // shorter ones are not worth offering

int64_t blocks_for(int64_t tokens) { return (tokens + ops::kv_block_tokens - 1) / ops::kv_block_tokens; }

std::string mebibytes(int64_t bytes) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.1f MiB", static_cast<double>(bytes) / mib);
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

MemoryLine pool_line(const MemoryNeeds& needs, int64_t blocks) {
  return {"KV pool of " + std::to_string(blocks * ops::kv_block_tokens) + " tokens" + (needs.kv.empty() ? "" : " (" + needs.kv + ")"),
          blocks * needs.block_bytes};
}

int64_t sum(const std::vector<MemoryLine>& lines) {
  int64_t total = 0;
  for (const MemoryLine& line : lines) total += line.bytes;
  return total;
}

// What was asked for, else one sequence of full context.
int64_t least_blocks(const MemoryNeeds& needs, int64_t kv_tokens) {
  return blocks_for(kv_tokens > 0 ? kv_tokens : needs.context);
}

// Tokens of KV in `bytes`, at most the context; 0 when they are too few to be of use.
int64_t tokens_in(const MemoryNeeds& needs, int64_t bytes, int64_t block_bytes) {
  if (bytes <= 0 || block_bytes <= 0) return 0;
  const int64_t tokens = std::min<int64_t>(bytes / block_bytes * ops::kv_block_tokens, needs.context);
  return tokens >= std::min<int64_t>(useful_context, needs.context) ? tokens : 0;
}

// The ways out, each with what it would leave for the KV pool. `left` is negative when not even the weights fit.
std::string what_would_fit(const MemoryNeeds& needs, int64_t left) {
  std::string text;
  // A way out that leaves `bytes` for the pool; says nothing when that is too little.
  auto offer = [&](const std::string& options, int64_t bytes, int64_t block_bytes, const std::string& why) {
    const int64_t tokens = tokens_in(needs, bytes, block_bytes);
    if (tokens == 0) return;
    std::string line = options;
    if (tokens < needs.context) line += (line.empty() ? "" : " ") + std::string("--context ") + std::to_string(tokens);
    else line += (line.empty() ? "--kv-tokens " + std::to_string(tokens) : "") + " with the full context of " + std::to_string(needs.context);
    text += "\n  " + line + (why.empty() ? "" : " (" + why + ")");
  };
  const int64_t few = left + needs.few_sequences_save;
  offer("", left, needs.block_bytes, "");
  if (needs.int8_block_bytes > 0) offer("--kv int8", left, needs.int8_block_bytes, "");
  if (needs.few_sequences > 0 && needs.few_sequences_save >= needs.block_bytes) {
    offer("--max-sequences " + std::to_string(needs.few_sequences), few, needs.block_bytes, "saves " + mebibytes(needs.few_sequences_save));
  }
  if (needs.w4_weights > 0) {
    offer(needs.cpu ? "--precision w4a8" : "--precision w4a16", left + needs.weights - needs.w4_weights,
          needs.block_bytes, "takes weights to about " + mebibytes(needs.w4_weights));
  }
  return text + (text.empty() ? "\n  " : "\n  or ") + "a smaller model (hearth list --fits shows which)";
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

Status refusal(const MemoryNeeds& needs, const MemoryBudget& budget, std::vector<MemoryLine> lines, int64_t asked, int64_t left) {
  lines.push_back(pool_line(needs, asked));
  return out_of_memory("the model does not fit in " + budget.text() + ":\n" + table_text(lines) + "  together " + mebibytes(sum(lines)) +
                       ", " + mebibytes(sum(lines) - budget.available()) + " too much. What would fit:" + what_would_fit(needs, left));
}

}  // namespace

// A twentieth stays free everywhere, for rounding and for what grows. On top of that:
// - a GPU of its own memory holds the driver's copies of kernels that are loaded when they are first used, decode graphs
// XX the driver's context and the desktop hold already is not in `free`.
// - where the GPU shares the system's memory its pages cannot be swapped out, and the server, image decoding and the
//   system live beside it: 512 MiB at least.
MemoryBudget memory_budget(const device::DeviceInfo& info, int64_t free, int64_t promised, int64_t limit) {
  MemoryBudget budget{free, promised, limit, {}};
  const int64_t share = free / 20;
  if (info.kind == device::DeviceKind::cpu) {
    budget.kept.push_back({"the system", share});
  } else if (info.profile.unified_memory) {
    budget.kept.push_back({"the system and the server", std::max(share, 512 * mib)});
  } else {
    budget.kept.push_back({"driver, kernels and graphs", std::max(share, 384 * mib)});
    constexpr int64_t desktop_card_bytes = int64_t{17} << 30;
    if (info.profile.memory_bytes < desktop_card_bytes) budget.kept.push_back({"a display", 256 * mib});
  }
  return budget;
}

int64_t MemoryBudget::available() const {
  const int64_t rest = std::max<int64_t>(0, free - promised - sum(kept));
  return limit > 0 ? std::min(rest, limit) : rest;
}

std::string MemoryBudget::text() const {
  std::string text = mebibytes(available());
  if (limit > 0 && available() == limit) return text + " (the limit that was set)";
  text += " (" + mebibytes(free) + " free";
  if (promised > 0) text += ", less " + mebibytes(promised) + " promised to other models";
  for (const MemoryLine& line : kept) text += ", less " + mebibytes(line.bytes) + " kept for " + line.what;
  return text + ")";
}

std::string table_text(const std::vector<MemoryLine>& lines) {
  std::string text;
  for (const MemoryLine& line : lines) {
    char row[200];
    std::snprintf(row, sizeof(row), "  %-52s %12s\n", line.what.c_str(), mebibytes(line.bytes).c_str());
    text += row;
  }
  return text;
}

std::vector<MemoryLine> least_lines(const MemoryNeeds& needs, int64_t kv_tokens) {
  std::vector<MemoryLine> lines = fixed_lines(needs);
  lines.push_back(pool_line(needs, least_blocks(needs, kv_tokens)));
  return lines;
}

Result<MemoryPlan> plan_memory(const MemoryNeeds& needs, const MemoryBudget& budget, int64_t kv_tokens) {
  MemoryPlan plan;
  plan.lines = fixed_lines(needs);
  const int64_t left = budget.available() - sum(plan.lines);
  const int64_t asked = least_blocks(needs, kv_tokens);
  if (left < asked * needs.block_bytes) return refusal(needs, budget, std::move(plan.lines), asked, left);
  constexpr int64_t blocks_max = int64_t{1} << 26;  // slots must stay in 31 bits
  const int64_t blocks = std::min(blocks_max, kv_tokens > 0 ? asked : std::max(asked, default_blocks(needs, left)));
  plan.kv_blocks = static_cast<int>(blocks);
  plan.lines.push_back(pool_line(needs, blocks));
  return plan;
}

}  // namespace hearth::model
