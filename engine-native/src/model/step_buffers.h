// A step's rows on their way to the device: checked, laid out in one piece of staging memory, and uploaded in one copy.
#pragma once

#include <vector>

#include "device/device.h"
#include "model/decoder.h"
#include "model/model.h"

namespace hearth::model {

class StepBuffers {
 public:
  StepBuffers(device::Device& device, int position_axes) : device_(device), axes_(position_axes) {}
  ~StepBuffers();
  StepBuffers(const StepBuffers&) = delete;
  StepBuffers& operator=(const StepBuffers&) = delete;

  struct Limits {
    int rows = 0, sequences = 0, logit_rows = 0, context = 0, blocks = 0, vocabulary = 0, image_rows = 0;
  };
  Status allocate(const Limits& limits);
  int64_t bytes(const Limits& limits) const;

  // Checks the input against the limits; errors are the caller's.
  Status check(const StepInput& input) const;
  // Uploads it as `rows` rows and `sequences` sequences, padding what is missing with empty slots, and returns the step.
  // Copies the input; waits only for a step that was enqueued several calls ago.
  Result<Step> upload(const StepInput& input, int rows, int sequences);
  // The step that a graph for `count` decoding sequences is captured with: same pointers as upload(…, count, count).
  Step decode_step(int count, int max_context) const;

 private:
  // Offsets, in int32s, of a step's arrays in the region; a function of its capacity only, so that graphs see the same.
  struct Layout {
    size_t ids, source, kv_slot, row_sequence, image_row, positions, row_begin, context, logit_rows, end;
  };
  Layout layout(int rows, int sequences, int logit_rows) const;
  void fill(const StepInput& input, const Layout& at, int rows, int sequences, int32_t* to) const;
  void fill_rows(const SequenceRows& from, const Layout& at, int rows, int first, int index, int32_t* to) const;
  Status upload_blocks(const StepInput& input);
  Step step_at(const Layout& at, int rows, int sequences) const;

  device::Device& device_;
  int axes_;
  Limits limits_;
  int stride_ = 0;                 // block ids of one sequence
  int32_t* region_ = nullptr;      // device
  int32_t* block_table_ = nullptr; // device [sequences, stride]
  std::vector<int32_t> blocks_;    // what block_table_ holds
  std::vector<int32_t> prompts_;   // of the last step's sequences
  // Staging memory is reused only when the copy out of it is done.
  struct Staging { int32_t* memory = nullptr; uint32_t marker = 0; bool used = false; };
  Staging staging_[3];
  int next_ = 0;
};

}  // namespace hearth::model
