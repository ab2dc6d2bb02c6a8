#include "sampling/sampler.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace hearth::sampling {

using device::MemoryKind;

Result<std::unique_ptr<Sampler>> Sampler::create(device::Device& device, int vocabulary, int64_t logits_stride,
                                                 int slots, int max_rows, int32_t* sampled) {
  std::unique_ptr<Sampler> sampler(new Sampler(device));
  sampler->vocabulary_ = vocabulary;
  sampler->slots_ = slots;
  sampler->max_rows_ = max_rows;
  sampler->logits_stride_ = logits_stride;
  sampler->sampled_ = sampled;
  HEARTH_ASSIGN(sampler->op_, ops::bind(ops::SampleSpec{vocabulary, max_rows, slots + draft_histories}, device.info()));
  HEARTH_TRY(sampler->allocate());
  return sampler;
}

Sampler::~Sampler() {
  for (void* pointer : owned_) device_.release(pointer);
}

template <class T>
Status Sampler::take(T*& pointer, size_t count, MemoryKind kind, const char* what) {
  HEARTH_ASSIGN(void* memory, device_.allocate(std::max<size_t>(count * sizeof(T), 1), kind, what));
  owned_.push_back(memory);
  pointer = static_cast<T*>(memory);
  return Status::ok();
}

Status Sampler::allocate() {
  const size_t rows = max_rows_, top = rows * ops::max_top_logprobs, drawing = slots_ + draft_rows_max;
  const size_t masks = drawing * mask_words(), bias = drawing * (bias_entries_max + banned_max);
  for (bool staging : {false, true}) {
    MemoryKind kind = staging ? MemoryKind::staging : MemoryKind::workspace;
    HEARTH_TRY(take(staging ? host_row_ : row_, rows, kind, "sampling rows"));
    HEARTH_TRY(take(staging ? host_bias_ids_ : bias_ids_, bias, kind, "logit bias"));
    HEARTH_TRY(take(staging ? host_bias_values_ : bias_values_, bias, kind, "logit bias"));
    HEARTH_TRY(take(staging ? host_mask_ : mask_, masks, kind, "token masks"));
  }
  HEARTH_TRY(take(host_token_, rows, MemoryKind::staging, "drawn tokens"));
  HEARTH_TRY(take(host_logprob_, rows, MemoryKind::staging, "log-probabilities"));
  HEARTH_TRY(take(host_top_ids_, top, MemoryKind::staging, "top log-probabilities"));
  HEARTH_TRY(take(host_top_logprobs_, top, MemoryKind::staging, "top log-probabilities"));
  char* workspace = nullptr;
  HEARTH_TRY(take(workspace, op_.workspace_bytes(max_rows_, device_.info()), MemoryKind::workspace, "sampling scratch"));
  workspace_ = workspace;
  return Status::ok();
}

Status Sampler::prepare_history() {
  if (output_count_) return Status::ok();
  size_t count = history_count();
  if (!prompt_seen_) HEARTH_TRY(take(prompt_seen_, count, MemoryKind::workspace, "token history"));
  counts_.resize(static_cast<size_t>(vocabulary_) * 2);
  HEARTH_TRY(take(output_count_, count, MemoryKind::workspace, "token history"));
  // Other slots' rows may be read (with neutral penalties) before they are ever set.
  HEARTH_TRY(device_.fill_zero(prompt_seen_, count * sizeof(uint16_t)));
  return device_.fill_zero(output_count_, count * sizeof(uint16_t));
}

Status Sampler::start_slot(int slot, std::span<const int32_t> prompt, std::span<const int32_t> output) {
  std::fill(counts_.begin(), counts_.end(), uint16_t{0});
  uint16_t *seen = counts_.data(), *count = counts_.data() + vocabulary_;
  for (int32_t id : prompt)
    if (id >= 0 && id < vocabulary_) seen[id] = 1;
  for (int32_t id : output)
    if (id >= 0 && id < vocabulary_ && count[id] < std::numeric_limits<uint16_t>::max()) ++count[id];
  size_t offset = static_cast<size_t>(slot) * vocabulary_, bytes = static_cast<size_t>(vocabulary_) * sizeof(uint16_t);
  HEARTH_TRY(device_.upload(prompt_seen_ + offset, seen, bytes));
  HEARTH_TRY(device_.upload(output_count_ + offset, count, bytes));
  return device_.stream().synchronize();  // counts_ is used again
}

Status Sampler::set_count(int slot, int32_t token, int count) {
  if (token < 0 || token >= vocabulary_) return Status::ok();
  const uint16_t value = static_cast<uint16_t>(std::min<int>(count, std::numeric_limits<uint16_t>::max()));
  return device_.upload(output_count_ + static_cast<size_t>(slot) * vocabulary_ + token, &value, sizeof value);
}

Status Sampler::draft_slot(int index, int slot, int32_t token, int count, int& out) {
  out = slots_ + index;
  const size_t to = static_cast<size_t>(out) * vocabulary_, from = static_cast<size_t>(slot) * vocabulary_;
  const size_t bytes = static_cast<size_t>(vocabulary_) * sizeof(uint16_t);
  HEARTH_TRY(device_.copy(prompt_seen_ + to, prompt_seen_ + from, bytes));
  HEARTH_TRY(device_.copy(output_count_ + to, output_count_ + from, bytes));
  return set_count(out, token, count);
}

void Sampler::begin() {
  rows_ = bias_count_ = masks_ = 0;
  penalties_ = false;
}

void Sampler::add(const RowRequest& request) {
  ops::SampleRow row;
  row.slot = request.slot;
  row.forced = request.forced;
  row.top_logprobs = request.top_logprobs;
  row.record = 0;
  row.bias_begin = bias_count_;
  if (const Parameters* p = request.parameters; p && request.forced < 0) {
    row.temperature = p->temperature;
    row.top_p = p->top_p;
    row.min_p = p->min_p;
    row.top_k = p->top_k;
    row.repetition_penalty = p->repetition_penalty;
    row.frequency_penalty = p->frequency_penalty;
    row.presence_penalty = p->presence_penalty;
    row.seed = p->seed;
    row.position = static_cast<uint32_t>(request.generated);
    row.top_logprobs = p->top_logprobs;
    row.record = request.record;
    penalties_ |= p->penalised();
    auto push = [&](int32_t id, float value) {
      host_bias_ids_[bias_count_] = id;
      host_bias_values_[bias_count_++] = value;
    };
    for (auto [id, value] : p->bias) push(id, value);
    if (request.generated < p->min_tokens)
      for (int32_t id : p->banned_before_min) push(id, -std::numeric_limits<float>::infinity());
  }
  row.bias_count = bias_count_ - row.bias_begin;
  if (!request.mask.empty()) {
    row.mask = masks_;
    std::memcpy(host_mask_ + static_cast<size_t>(masks_++) * mask_words(), request.mask.data(), request.mask.size_bytes());
  }
  host_row_[rows_++] = row;
}

Status Sampler::upload_inputs() {
  HEARTH_TRY(device_.upload(row_, host_row_, rows_ * sizeof(ops::SampleRow)));
  if (bias_count_ > 0) {
    HEARTH_TRY(device_.upload(bias_ids_, host_bias_ids_, bias_count_ * sizeof(int32_t)));
    HEARTH_TRY(device_.upload(bias_values_, host_bias_values_, bias_count_ * sizeof(float)));
  }
  if (masks_ == 0) return Status::ok();
  return device_.upload(mask_, host_mask_, static_cast<size_t>(masks_) * mask_words() * sizeof(uint32_t));
}

Status Sampler::launch(float* logits) {
  HEARTH_TRY(upload_inputs());
  ops::SampleParams params;
  params.rows = rows_;
  params.logits = logits;
  params.logits_stride = logits_stride_;
  params.row = row_;
  params.host_row = host_row_;
  params.bias_ids = bias_ids_;
  params.bias_values = bias_values_;
  params.masks = mask_;
  // Once any request had penalties the counts of its slot must go on being kept, but only rows with penalties need them.
  params.prompt_seen = penalties_ ? prompt_seen_ : nullptr;
  params.output_count = penalties_ ? output_count_ : nullptr;
  params.sampled = sampled_;
  params.token = host_token_;
  params.logprob = host_logprob_;
  params.top_ids = host_top_ids_;
  params.top_logprobs = host_top_logprobs_;
  params.workspace = workspace_;
  op_.run(params, device_.stream());
  HEARTH_ASSIGN(marker_, device_.mark());
  return Status::ok();
}

Status Sampler::wait() { return device_.wait(marker_); }

Drawn Sampler::result(int row) const {
  size_t top = static_cast<size_t>(row) * ops::max_top_logprobs;
  size_t count = std::clamp(host_row_[row].top_logprobs, 0, ops::max_top_logprobs);
  return {host_token_[row], host_logprob_[row], {host_top_ids_ + top, count}, {host_top_logprobs_ + top, count}};
}

}  // namespace hearth::sampling
