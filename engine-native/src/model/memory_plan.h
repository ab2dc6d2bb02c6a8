// The memory plan: what a model will take, line by line, made before anything is taken; and what would fit instead.
#pragma once

#include <string>
#include <vector>

#include "core/status.h"
#include "model/model.h"

namespace hearth::model {

// What the plan is made from. Bytes; zero where a model has no such part.
struct MemoryNeeds {
  int64_t weights = 0, embedding = 0, vision_weights = 0, activations = 0, workspace = 0, logits = 0, inputs = 0, vision = 0, image_rows = 0;
  int64_t block_bytes = 0;  // of one KV block over all layers
  int context = 0;          // tokens one sequence may have
  int max_sequences = 0;
  bool dense_weights = false, int8_kv = false, cpu = false;
};

struct MemoryPlan {
  std::vector<MemoryLine> lines;
  int kv_blocks = 0;
};

// Divides `available` bytes. kv_tokens: 0 = what fits. At least one sequence of full context must fit; otherwise the
// error holds the table and what would fit.
Result<MemoryPlan> plan_memory(const MemoryNeeds& needs, int64_t available, int64_t kv_tokens);
// The plan's lines with the smallest KV pool that will do.
std::vector<MemoryLine> least_lines(const MemoryNeeds& needs, int64_t kv_tokens);
// "what  1,234.5 MiB" lines, for people.
std::string table_text(const std::vector<MemoryLine>& lines);

}  // namespace hearth::model
