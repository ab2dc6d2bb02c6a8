// Parameters of the sampling kernel. SampleRowArgs is ops::SampleRow, field for field (checked in host/convert.h).
#pragma once

#include "kernels/cuda/params.h"

namespace hearth::kernels::cuda {

constexpr int max_top = 20;
constexpr int sample_threads = 256;
constexpr int sample_chunks_max = 64;  // blocks of one row
constexpr int sample_bins = 1024;      // of the histogram over (best - logit) / temperature
constexpr int sample_list_max = 2048;  // candidates that are sorted outright

constexpr int sample_held = 4;         // tokens that a thread of sample_token holds
constexpr int sample_meeting_words = 20;  // of the counters, of a row of sample_token

struct SampleRowArgs {
  float temperature, top_p, min_p;
  int32_t top_k;
  float repetition_penalty, frequency_penalty, presence_penalty;
  uint32_t seed, position;
  int32_t slot, bias_begin, bias_count, mask, forced, top_logprobs, record;
};
// Whether a row (of either struct) draws from fewer tokens than all.
template <class Row> HEARTH_HOST_DEVICE constexpr bool truncated(const Row& r) { return r.temperature > 0 && (r.top_k > 0 || r.min_p > 0 || r.top_p < 1); }
template <class Row> HEARTH_HOST_DEVICE constexpr bool penalised(const Row& r) { return r.repetition_penalty != 1 || r.frequency_penalty != 0 || r.presence_penalty != 0; }
// Whether its logits are others than the model's.
template <class Row> HEARTH_HOST_DEVICE constexpr bool adjusted(const Row& r) { return penalised(r) || r.bias_count > 0 || r.mask >= 0; }
// What one block found in its part of the vocabulary.
struct SamplePartial { float value; int32_t id; float top, sum; };
struct SampleMass { double total, above; };
// A row's scratch, shared by its blocks.
struct SampleRowState {
  uint32_t count[sample_bins], part[sample_bins];  // tokens of a bin, and 256ths of the bin they are above its end
  uint64_t list[sample_list_max];                  // order key << 32 | ~id: larger is better
  SampleMass mass[sample_chunks_max];
  SamplePartial partial[sample_chunks_max], draw[sample_chunks_max];
  float least[sample_chunks_max];                  // the smallest logit that is not forbidden
  uint32_t listed, unused[3];
};
struct SampleArgs {
  float* logits; int64_t logits_stride;
  const SampleRowArgs* row;
  const int32_t* bias_ids; const float* bias_values; const uint32_t* masks;
  const uint16_t* prompt_seen; uint16_t* output_count;
  int32_t *sampled, *token; float* logprob; int32_t* top_ids; float* top_logprobs;
  SampleRowState* state;                           // [rows]
  int32_t* counters;                               // [rows][2] (sample_plain: 4, sample_token: sample_meeting_words), zero; set back by the last block of a row
  int rows, vocabulary, chunks;
};

}  // namespace hearth::kernels::cuda
