// The memory plan: what a model will take, line by line, made before anything is taken; and what would fit instead.
#pragma once

#include <string>
#include <vector>

#include "core/status.h"
#include "model/model.h"

namespace hearth::model {

// What a load may take, and why it is not all that is free.
struct MemoryBudget {
  int64_t free = 0;              // as the device says
  int64_t promised = 0;          // to other models, and not taken yet
  int64_t limit = 0;             // of the operator; 0 = none
  std::vector<MemoryLine> kept;  // stays free, line by line

  int64_t available() const;
  // "6,443.0 MiB" and where it comes from, for people.
  std::string text() const;
};

// What a device keeps of `free` bytes: a pure function of its description, so that a GPU can be planned for anywhere.
MemoryBudget memory_budget(const device::DeviceInfo& info, int64_t free, int64_t promised, int64_t limit);

// What the plan is made from. Bytes; zero where a model has no such part.
struct MemoryNeeds {
  int64_t weights = 0, embedding = 0, vision_weights = 0, activations = 0, workspace = 0, logits = 0, inputs = 0, vision = 0, image_rows = 0;
  int64_t block_bytes = 0;        // of one KV block over all layers
  int64_t int8_block_bytes = 0;   // the same in INT8; 0 when it is INT8, or could not be
  int64_t w4_weights = 0;         // `weights` at 4 bits; 0 when they are packed already
  int few_sequences = 0;          // fewer sequences than max_sequences, and what they would save; 0 = no use
  int64_t few_sequences_save = 0;
  int context = 0;                // tokens one sequence may have
  int max_sequences = 0;
  bool cpu = false;
  std::string kv;                 // what the pool is in, for its line: "f16", "int8, as f16 would not fit"
};

struct MemoryPlan {
  std::vector<MemoryLine> lines;
  int kv_blocks = 0;
};

// Divides the budget. kv_tokens: 0 = what fits. At least one sequence of full context must fit; otherwise the error
// (out_of_memory) holds the table and what would fit.
Result<MemoryPlan> plan_memory(const MemoryNeeds& needs, const MemoryBudget& budget, int64_t kv_tokens);
// The plan's lines with the smallest KV pool that will do.
std::vector<MemoryLine> least_lines(const MemoryNeeds& needs, int64_t kv_tokens);
// "what  1,234.5 MiB" lines, for people.
std::string table_text(const std::vector<MemoryLine>& lines);

}  // namespace hearth::model
