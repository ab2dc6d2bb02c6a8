// The host side of sampling: what each row wants, gathered into one launch of the sample op, and what came back.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/status.h"
#include "device/device.h"
#include "ops/bind.h"

namespace hearth::sampling {

inline constexpr int bias_entries_max = 300;  // logit_bias entries of one request, as OpenAI's
inline constexpr int banned_max = 64;         // end and stop tokens banned while min_tokens is not reached
inline constexpr int draft_rows_max = 64;     // rows behind the first of their slots, in one launch
inline constexpr int draft_histories = 16;    // of them with penalties

// How a request's tokens are drawn; every default already resolved.
struct Parameters {
  float temperature = 1, top_p = 1, min_p = 0;
  int top_k = 0;
  float repetition_penalty = 1, frequency_penalty = 0, presence_penalty = 0;
  uint32_t seed = 0;
  std::vector<std::pair<int32_t, float>> bias;  // at most bias_entries_max
  int top_logprobs = -1;                        // -1: none; 0: the drawn token's; n: and the n best
  int min_tokens = 0;
  std::vector<int32_t> banned_before_min;       // at most banned_max

  bool penalised() const { return repetition_penalty != 1 || frequency_penalty != 0 || presence_penalty != 0; }
};

// One row to be sampled.
struct RowRequest {
  const Parameters* parameters = nullptr;  // nullptr: a row nobody wants any more; argmax, recorded nowhere
  int slot = 0;
  int generated = 0;                       // tokens drawn before this one: its index
  std::span<const uint32_t> mask{};        // empty, or (vocabulary + 31) / 32 words, bit set = allowed
  int32_t forced = -1;                     // report this token's log-probability, draw nothing
  int top_logprobs = -1;                   // for forced rows, which have no parameters of their own
  bool record = true;                      // the token counts as drawn at once; else set_count() tells later
};

struct Drawn {
  int32_t token;
  float logprob;                       // meaningless unless asked for
  std::span<const int32_t> top_ids;    // best first; as many as asked for
  std::span<const float> top_logprobs;
};

class Sampler {
 public:
  // vocabulary: ids that may be drawn; logits_stride: the head's rows. `sampled`: the model's [slots] on the device.
  static Result<std::unique_ptr<Sampler>> create(device::Device& device, int vocabulary, int64_t logits_stride,
                                                 int slots, int max_rows, int32_t* sampled);
  ~Sampler();

  int mask_words() const { return (vocabulary_ + 31) / 32; }
  // Bytes the first request with penalties will take on the device.
  size_t history_bytes() const { return history_count() * sizeof(uint16_t) * 2; }
  // Takes the memory of penalties, once. Not on the step path.
  Status prepare_history();
  // Sets the counts of a slot: a sequence with penalties starts there, or starts again.
  Status start_slot(int slot, std::span<const int32_t> prompt, std::span<const int32_t> output);

  // How often `token` was drawn in a slot, after a launch that recorded nothing for it.
  Status set_count(int slot, int32_t token, int count);
  // A row that is drawn as if `token` had been drawn after what `slot` has seen, `count` times in all: gives the slot to
  // ask for in its place, one of draft_histories, which lasts until the launch.
  Status draft_slot(int index, int slot, int32_t token, int count, int& out);

  // One launch: begin, add rows in the order of the logits' rows, launch, wait, result.
  void begin();
  void add(const RowRequest& row);
  Status launch(float* logits);
  Status wait();
  Drawn result(int row) const;

 private:
  explicit Sampler(device::Device& device) : device_(device) {}
  Status allocate();
  size_t history_count() const { return static_cast<size_t>(slots_ + draft_histories) * vocabulary_; }
  template <class T> Status take(T*& pointer, size_t count, device::MemoryKind kind, const char* what);
  Status upload_inputs();

  device::Device& device_;
  ops::BoundSample op_;
  int vocabulary_ = 0, slots_ = 0, max_rows_ = 0;
  int64_t logits_stride_ = 0;
  int32_t* sampled_ = nullptr;
  int rows_ = 0, bias_count_ = 0, masks_ = 0;
  bool penalties_ = false;
  uint32_t marker_ = 0;
  std::vector<void*> owned_;
  std::vector<uint16_t> counts_;  // scratch of start_slot: [2 * vocabulary]
  // On the device.
  ops::SampleRow* row_ = nullptr;
  int32_t* bias_ids_ = nullptr;
  float* bias_values_ = nullptr;
  uint32_t* mask_ = nullptr;
  uint16_t *prompt_seen_ = nullptr, *output_count_ = nullptr;
  void* workspace_ = nullptr;
  // In staging memory. Results are few words, which the op writes there itself: copies would take longer than it does.
  ops::SampleRow* host_row_ = nullptr;
  int32_t* host_bias_ids_ = nullptr;
  float* host_bias_values_ = nullptr;
  uint32_t* host_mask_ = nullptr;
  int32_t *host_token_ = nullptr, *host_top_ids_ = nullptr;
  float *host_logprob_ = nullptr, *host_top_logprobs_ = nullptr;
};

}  // namespace hearth::sampling
