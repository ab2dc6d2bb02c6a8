// Parameters of the sampling kernels. SampleRowArgs is ops::SampleRow, field for field (checked in host/convert.h).
#pragma once

#include <stdint.h>

namespace hearth::kernels::cuda {

constexpr int max_top = 20;

struct SampleRowArgs {
  float temperature, top_p, min_p;
  int32_t top_k;
  float repetition_penalty, frequency_penalty, presence_penalty;
  uint32_t seed, position;
  int32_t slot, bias_begin, bias_count, mask, forced, top_logprobs, record;
};
struct SamplePartial { float value; int32_t id; float top, sum; };
struct SampleArgs {
  float* logits; int64_t logits_stride;
  const SampleRowArgs* row;
  const int32_t* bias_ids; const float* bias_values; const uint32_t* masks;
  const uint16_t* prompt_seen; uint16_t* output_count;
  int32_t *sampled, *token; float* logprob; int32_t* top_ids; float* top_logprobs;
  SamplePartial* partial;
  int rows, vocabulary, chunks;
};

}  // namespace hearth::kernels::cuda
