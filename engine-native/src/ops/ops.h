// Ops: plain parameter structs, and for each op an ordered list of implementations, most specific first, ending in one
// that takes any shape. An implementation is bound once, when a model is loaded (bind.h); a step only calls `run`.
//
// Conventions
//   - All pointers are device memory of the op's device unless a comment says host. Rows are contiguous in their last
//     dimension; `*_stride` counts elements between rows.
//   - T rows of a step: every live sequence brings one row (decode) or many (prefill chunk, drafts), ragged.
//   - The residual stream is f32. Activations between ops are `activation_type` (f32 on CPUs; f16 or bf16 on CUDA).
//   - A Spec holds what is known when a model is loaded, Params what changes from step to step. Kernels of a captured
//     graph see the same Params again: everything that varies within a bucket is read through device pointers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "device/device.h"

namespace hearth::ops {

using device::DeviceInfo;
using device::Stream;

// One implementation of an op. `declines` returns nullptr when it can do the spec on this device, else the reason.
template <class Spec, class Params>
struct Implementation {
  const char* name;  // "cpu/avx2", "cuda/sm90/wgmma"
  const char* (*declines)(const Spec&, const DeviceInfo&);
  void (*run)(const Spec&, const Params&, Stream&);
  // Bytes of scratch the op wants for at most `max_rows` rows; nullptr means none.
  size_t (*workspace_bytes)(const Spec&, int max_rows, const DeviceInfo&);
};

enum class Activation : uint8_t { none, silu, gelu_tanh, gelu_erf, quick_gelu, relu };
enum class NormKind : uint8_t { none, rms, layer };

// ---- Rows of a step ----------------------------------------------------------------------------------------------

inline constexpr int kv_block_tokens = 16;  // tokens in one KV block

// Where a row's token comes from.
enum class TokenSource : int32_t { literal = 0, sampled = 1, image = 2 };

// The rows of a step as kernels see them. Device pointers; `host` mirrors are valid on the host for planning launches
// (on CUDA inside a graph only the capacities count: rows, sequences and max_* are the bucket's).
struct Batch {
  int rows = 0;            // T
  int sequences = 0;       // S
  int max_rows = 0;        // longest run of rows of one sequence (1 in pure decode)
  int max_context = 0;     // longest context after this step, in tokens
  int block_table_stride = 0;
  const int32_t* row_begin = nullptr;    // [S + 1] first row of each sequence; row_begin[S] = T
  const int32_t* context = nullptr;      // [S] tokens in the KV pool after this step (0: an empty slot of a bucket)
  const int32_t* block_table = nullptr;  // [S, block_table_stride] block ids
  const int32_t* positions = nullptr;    // [position_axes, T]: rope positions; axes 1, or 3 for multimodal rope
  const int32_t* kv_slot = nullptr;      // [T] block * kv_block_tokens + offset that the row's K and V go to; -1: none
  const int32_t* row_sequence = nullptr; // [T] index of the row's sequence
  struct Host {
    const int32_t* row_begin = nullptr;
    const int32_t* context = nullptr;
    const int32_t* block_table = nullptr;
    const int32_t* positions = nullptr;
    const int32_t* kv_slot = nullptr;
    const int32_t* row_sequence = nullptr;
    const int32_t* prompt = nullptr;  // [S] how many of the sequence's first tokens are its prompt; null: none
  } host;
};

// ---- Embedding ---------------------------------------------------------------------------------------------------

struct EmbedSpec {
  int width = 0;          // D
  int vocabulary = 0;
  DType table_type = DType::f16;  // f32, f16, bf16
  float scale = 1;        // Gemma multiplies by sqrt(D)
};
struct EmbedParams {
  int rows = 0;
  const int32_t* ids = nullptr;      // [T] token id, slot of `sampled`, or row of `image_rows`, by source
  const int32_t* source = nullptr;   // [T] TokenSource
  const int32_t* sampled = nullptr;  // [slots] last sampled token of each slot
  const void* table = nullptr;       // [vocabulary, D]
  const float* image_rows = nullptr; // [*, D] f32
  float* x = nullptr;                // [T, D] residual stream
};

// ---- Norm --------------------------------------------------------------------------------------------------------

struct NormSpec {
  NormKind kind = NormKind::rms;
  int width = 0;
  float epsilon = 1e-6f;
  bool accumulate = false;  // y (f32) += norm(x): the sandwich norms of Gemma
  DType x_type = DType::f32, y_type = DType::f32;
};
struct NormParams {
  int rows = 0;
  const void* x = nullptr; int64_t x_stride = 0;
  const float* weight = nullptr;  // [width]; Gemma's "1 + w" is folded in at load
  const float* bias = nullptr;    // layer norm only, may be nullptr
  void* y = nullptr; int64_t y_stride = 0;
};

// ---- Linear ------------------------------------------------------------------------------------------------------

enum class WeightFormat : uint8_t {
  f32, f16, bf16,  // dense [out, in]
  w4,              // unsigned 4-bit, scale and zero point per group along `in`: w = (q - zero) * scale
  w8,              // signed 8-bit, one scale per output row, symmetric
};
enum class ActivationFormat : uint8_t {
  exact,       // W4A16 on GPUs, W4A32 on CPUs
  int8_group,  // W4A8: quantised at run time per row and group (symmetric groups of 32: per row and 128 inputs), symmetric
  int8_row,    // W8A8: per row at run time (or static when static_scale > 0)
};

// y = epilogue(W * norm(x) + bias). With `gated` W holds gate rows [0, out/2) then up rows [out/2, out) in source
// order, and y has out/2 columns: activation(gate) * up. With `residual` y is f32 and receives +=.
struct LinearSpec {
  int in = 0, out = 0;
  WeightFormat weight = WeightFormat::f16;
  ActivationFormat activations = ActivationFormat::exact;
  int group = 0;             // w4: 32, 64 or 128; divides in
  bool symmetric = false;    // w4: every zero point is 8
  bool gated = false;
  Activation activation = Activation::none;
  bool bias = false;
  bool residual = false;
  NormKind norm = NormKind::none;
  float norm_epsilon = 0;
  float static_scale = 0;    // int8_row: calibrated activation scale, 0 = at run time
  DType x_type = DType::f32, y_type = DType::f32;
};
struct LinearParams {
  int rows = 0;
  const void* x = nullptr; int64_t x_stride = 0;
  const float* norm_weight = nullptr;
  const float* norm_bias = nullptr;
  const void* weight = nullptr;  // packed in the implementation's layout
  const float* bias = nullptr;   // [out]
  void* y = nullptr; int64_t y_stride = 0;
  void* workspace = nullptr;
};

// One linear's weights on the host in the canonical form that every reader produces and every packer takes.
struct HostLinear {
  int in = 0, out = 0;
  WeightFormat format = WeightFormat::f32;
  int group = 0;
  bool symmetric = false;
  const void* data = nullptr;       // dense: [out, in]; w4: [out, in/2] low nibble first; w8: [out, in] int8
  const float* scales = nullptr;    // w4: [out, in/group]; w8: [out]
  const uint8_t* zeros = nullptr;   // w4: [out, in/group] 0..15; nullptr when symmetric
};

// A linear implementation also owns a weight layout. All implementations of one device that share `layout` read the
// same packed bytes, so that one resident copy serves every batch size.
struct LinearImplementation : Implementation<LinearSpec, LinearParams> {
  const char* layout;  // "dense", "w4-vnni", "w4-mma", ...: written into converted files
  size_t (*packed_bytes)(const LinearSpec&);
  // Packs output rows [begin, end) of `from` to `to` (whole packed tensor). Rows are multiples of `pack_rows` except
  // the last, so that several threads can pack one tensor. Host memory; no allocation over a few KB.
  void (*pack)(const LinearSpec&, const HostLinear& from, int begin, int end, void* to);
  int pack_rows;
};

// A linear that the one-time tuning pass may time: its weights of several layers, so that they come from memory.
struct TuneRequest {
  LinearSpec spec;
  std::vector<const void*> weights;
};

// ---- Elementwise pieces of unfused chains --------------------------------------------------------------------------

struct GateSpec { int width = 0; Activation activation = Activation::silu; DType type = DType::f32; };
struct GateParams {  // y[T, width] = activation(x[:, :width]) * x[:, width:]
  int rows = 0; const void* x = nullptr; int64_t x_stride = 0; void* y = nullptr; int64_t y_stride = 0;
};
struct AddSpec { int width = 0; DType x_type = DType::f32; };
struct AddParams {  // y (f32) += x
  int rows = 0; const void* x = nullptr; int64_t x_stride = 0; float* y = nullptr; int64_t y_stride = 0;
};
// Copies rows: y[i] = x[index[i]], with a change of type. index[i] < 0 writes zeros.
struct GatherSpec { int width = 0; DType x_type = DType::f32, y_type = DType::f32; };
struct GatherParams {
  int rows = 0; const void* x = nullptr; int64_t x_stride = 0; const int32_t* index = nullptr;
  void* y = nullptr; int64_t y_stride = 0;
};

// ---- Attention over the paged KV pool --------------------------------------------------------------------------------

inline constexpr int int8_chunk_tokens = 64;

enum class KvFormat : uint8_t { f32, f16, bf16, int8 };  // int8: K rotated by a Hadamard matrix, one f32 scale a token and head

// One layer's K and V: [blocks, kv_heads, kv_block_tokens, head_dim] each; int8 scales [blocks, kv_heads, kv_block_tokens].
struct KvLayer {
  void* k = nullptr;
  void* v = nullptr;
  float* k_scale = nullptr;
  float* v_scale = nullptr;
};

struct AttentionSpec {
  int heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 0;            // 1/sqrt(head_dim) unless the model says otherwise
  int window = 0;             // sliding window in tokens, 0 = none
  KvFormat kv = KvFormat::f16;
  // W8A8: both products in int8, with kv int8 only. Queries (scaled, turned, rotated) are rounded a row and head; weights
  // times V's scales are rounded a query and chunk of int8_chunk_tokens tokens, chunks counted from token 0.
  bool int8_products = false;
  // The products of a prompt's rows (Batch::host.prompt) may be of queries, keys, values and weights rounded to 12 bits or more (rotated, with a
  // scale a row and head; weights a query and chunk of 64 tokens). Implementations that gain nothing from it multiply exactly.
  bool fixed_point = false;
  DType type = DType::f32;    // of qkv and out
  // Rope and q/k norm, applied before the write.
  int rope_dims = 0;          // leading dims of a head that turn; 0 = none
  bool rope_interleaved = false;  // pairs (2i, 2i+1) instead of (i, i + rope_dims/2)
  int position_axes = 1;      // 3: multimodal rope
  int axis_sections[3] = {0, 0, 0};  // pairs per axis (Qwen2.5-VL), in order
  bool axis_interleaved = false;     // Qwen3-VL's interleaved sections: pair i belongs to axis i % 3 while i < 3*section
  bool qk_norm = false;       // RMS norm of each q and k head, weights [head_dim]
  float qk_norm_epsilon = 1e-6f;
};
// q/k norm, rope, KV write, then causal attention of every row over its sequence's context.
struct AttentionParams {
  Batch batch;
  void* qkv = nullptr;             // [T, (heads + 2*kv_heads) * head_dim]; q may be overwritten
  int64_t qkv_stride = 0;
  const float* q_norm = nullptr;   // [head_dim]
  const float* k_norm = nullptr;
  const float* inverse_frequency = nullptr;  // [rope_dims/2], scaling already applied
  float rope_amplitude = 1;        // cos/sin are multiplied by it (yarn, longrope)
  KvLayer kv;
  void* out = nullptr;             // [T, heads * head_dim]
  int64_t out_stride = 0;
  void* workspace = nullptr;
};

// Bidirectional attention of vision towers: segments [segment[i], segment[i+1]) attend within themselves only.
struct VisionAttentionSpec {
  int heads = 0, head_dim = 0;
  float scale = 0;
  DType type = DType::f32;
  bool rope = false;  // tables given, halves rotated (i, i + head_dim/2)
  // q, k and v may be rounded to int8 with a scale a row and head, the softmax's weights to 14 bits. Implementations that gain
  // nothing from it multiply exactly.
  bool int8_products = false;
};
struct VisionAttentionParams {
  int rows = 0, segments = 0, max_segment = 0;
  const int32_t* segment = nullptr;       // [segments + 1]
  const int32_t* host_segment = nullptr;  // the same on the host
  const float* rope_cos = nullptr;        // [rows, head_dim]
  const float* rope_sin = nullptr;
  void* qkv = nullptr;                    // [rows, 3 * heads * head_dim]
  int64_t qkv_stride = 0;
  void* out = nullptr; int64_t out_stride = 0;
  void* workspace = nullptr;
};

// ---- Sampling ------------------------------------------------------------------------------------------------------

inline constexpr int max_top_logprobs = 20;

// How one row is sampled. Plain data, uploaded with each step. Neutral values switch a stage off.
struct SampleRow {
  float temperature = 0;         // 0 = argmax (lowest id wins a tie)
  float top_p = 1, min_p = 0;
  int32_t top_k = 0;
  float repetition_penalty = 1;  // on prompt and output tokens, as in transformers
  float frequency_penalty = 0, presence_penalty = 0;  // on output tokens, as in OpenAI's
  uint32_t seed = 0;
  uint32_t position = 0;         // of the token being drawn: noise is keyed by (seed, position)
  int32_t slot = 0;              // sequence slot: history counts and the `sampled` table
  int32_t bias_begin = 0, bias_count = 0;  // entries of bias_ids / bias_values; -inf forbids
  int32_t mask = -1;             // row of `masks`, or -1
  int32_t forced = -1;           // >= 0: report this token's log-probability and draw nothing
  int32_t top_logprobs = -1;     // -1: none wanted; 0: the drawn token's only; n: and the n best
  int32_t record = 1;            // 1: write token to sampled[slot] and count it in the history
};
struct SampleSpec {
  int vocabulary = 0;
  int max_rows = 0;
  int slots = 0;
};
// Order: bias, repetition, frequency/presence, mask; log-probabilities are taken there, at temperature 1; then
// temperature, top_k, min_p, top_p, draw by Gumbel noise (Philox 4x32 keyed by seed, counter = position, token id).
struct SampleParams {
  int rows = 0;
  const float* logits = nullptr;      // [rows, vocabulary]; may be overwritten
  int64_t logits_stride = 0;
  const SampleRow* row = nullptr;     // [rows] device
  const SampleRow* host_row = nullptr;
  const int32_t* bias_ids = nullptr;
  const float* bias_values = nullptr;
  const uint32_t* masks = nullptr;    // [*, (vocabulary + 31) / 32] bit set = allowed
  uint16_t* prompt_seen = nullptr;    // [slots, vocabulary] 1 if in the prompt   (nullptr: no row has penalties)
  uint16_t* output_count = nullptr;   // [slots, vocabulary]
  int32_t* sampled = nullptr;         // [slots]
  int32_t* token = nullptr;           // [rows] out
  float* logprob = nullptr;           // [rows] out
  int32_t* top_ids = nullptr;         // [rows, max_top_logprobs] out
  float* top_logprobs = nullptr;      // [rows, max_top_logprobs] out
  void* workspace = nullptr;
};

}  // namespace hearth::ops
