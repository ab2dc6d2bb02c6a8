// The decoder's graph: embedding, layers over the paged KV pool, final norm and head, all through ops.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device/device.h"
#include "model/decoder_spec.h"
#include "model/kv_pool.h"
#include "model/weights.h"
#include "ops/bind.h"

namespace hearth::model {

// Embedding rows of images and, for Qwen3-VL, the features its first layers add. Device memory, f32.
struct ImageArena {
  float* rows = nullptr;                 // [capacity, width]
  std::vector<float*> deepstack;         // each [capacity, width]
  int capacity = 0;
};

// Limits that the buffers are made for.
struct DecoderLimits {
  int rows = 0;        // of one step
  int logit_rows = 0;
  int sequences = 0;
};

// One step as the graph sees it: device pointers, filled by StepBuffers.
struct Step {
  ops::Batch batch;
  const int32_t* ids = nullptr;          // [T]
  const int32_t* source = nullptr;       // [T]
  const int32_t* image_row = nullptr;    // [T] row of the image arena, or -1
  const int32_t* logit_rows = nullptr;   // [logits]
  int logits = 0;
  bool all_rows = false;                 // logit_rows is 0, 1, ..., T-1
  bool images = false;                   // some row comes from an image
};

class Decoder {
 public:
  Decoder(DecoderSpec spec, device::Device& device) : spec_(std::move(spec)), device_(device) {}
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  const DecoderSpec& spec() const { return spec_; }
  // Binds every op and declares every weight.
  // int8_attention: both products of attention in int8 (W8A8 on CPUs; needs int8 KV).
  Status declare(WeightPlan& plan, const Precision& body, const Precision& head, ops::KvFormat kv, bool int8_attention);
  // Bytes of the token embedding, which a step gathers rows from; the head has a packed copy of its own.
  int64_t table_bytes() const { return int64_t{spec_.vocabulary} * spec_.width * static_cast<int64_t>(size_of(table_type_)); }
  // Bytes that allocate() will take for these limits: activations, workspace, logits.
  int64_t activation_bytes(const DecoderLimits& limits) const;
  int64_t workspace_bytes(const DecoderLimits& limits) const;
  int64_t logit_bytes(const DecoderLimits& limits) const;
  Status allocate(const DecoderLimits& limits);

  // Enqueues a step: logits, or with `hidden` the normed hidden states, of its logit rows.
  void run(const Step& step, const KvPool& kv, const ImageArena& images, bool hidden);
  float* logits() { return logits_; }
  float* hidden() { return hidden_; }
  int32_t* sampled() { return sampled_; }

 private:
  struct Layer {
    Linear qkv, o, gate_up, down;
    ops::BoundAttention attention;
    const float* q_norm = nullptr;
    const float* k_norm = nullptr;
    const float* after_attention = nullptr;  // sandwich norms
    const float* after_mlp = nullptr;
  };
  Status declare_layer(WeightPlan& plan, const Precision& precision, ops::KvFormat kv, int index);
  Status declare_attention(WeightPlan& plan, ops::KvFormat kv, int index);
  bool int8_attention_ = false;
  Status declare_ends(WeightPlan& plan, const Precision& head);
  void run_layer(const Step& step, const Layer& layer, const LayerSpec& spec, const ops::KvLayer& kv);
  // y = linear(x), then x += y or, with sandwich norms, x += norm(y).
  void run_into_residual(const Linear& linear, const float* norm, const void* x, int64_t stride, int rows);
  void add_deepstack(const Step& step, const float* features);
  void run_head(const Step& step, bool hidden);
  Result<void*> take(int64_t bytes, const char* what);

  DecoderSpec spec_;
  device::Device& device_;
  DType type_ = DType::f32;  // of activations between ops
  std::vector<Layer> layers_;
  std::vector<const float*> rope_;  // a table of inverse frequencies for each of spec.ropes
  ops::BoundEmbed embed_;
  ops::BoundNorm final_norm_, sandwich_norm_;
  ops::BoundGather gather_;
  ops::BoundAdd add_;
  Linear head_;
  const void* table_ = nullptr;
  DType table_type_ = DType::f32;

  std::vector<void*> memory_;
  float* x_ = nullptr;        // [rows, width]: the residual stream
  void* qkv_ = nullptr;       // [rows, (heads + 2 kv_heads) * head_dim]
  void* attention_ = nullptr; // [rows, heads * head_dim]
  void* gate_ = nullptr;      // [rows, ffn]
  float* extra_ = nullptr;    // [rows, width]: before a sandwich norm, deepstack features
  float* picked_ = nullptr;   // [logit_rows, width]
  float* logits_ = nullptr;   // [logit_rows, vocabulary]
  float* hidden_ = nullptr;   // [logit_rows, width]
  int32_t* sampled_ = nullptr;  // [sequences]
  void* workspace_ = nullptr;
};

}  // namespace hearth::model
