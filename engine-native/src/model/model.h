// A loaded model: the one interface between the runtime (who schedules) and the graphs (what is computed).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/status.h"
#include "device/device.h"
#include "ops/ops.h"

namespace hearth::model {

struct LoadOptions {
  std::string path;               // Hugging Face folder or .gguf; empty with `shape`
  std::string shape;              // random weights of a named shape ("llama-2-7b"); empty with `path`
  std::string precision = "auto"; // auto keeps what the file has; f32 f16 bf16 w4a16 w4a8 w4a32 w8a8 none
  int group = 0;                  // quantising while loading: 32, 64, 128; 0 = 128
  bool symmetric = false;         // quantising while loading: no zero points, as Q4_0
  std::string kv = "auto";        // f32 f16 bf16 int8
  std::string vision = "auto";    // precision of the vision tower: auto (as the body, 4-bit bodies: as the file) f32 f16 bf16 w8a8
  int head_bits = 0;              // 0 = default for the precision, 4, 8, 16
  int context = 0;                // 0 = the model's own
  int max_sequences = 0;          // 0 = by device
  int64_t kv_tokens = 0;          // 0 = what fits
  int64_t memory_limit_bytes = 0; // 0 = none
  int64_t reserved_bytes = 0;     // promised to other models and not taken yet: free in the system's eyes only
  int step_tokens = 0;            // rows of one step at most; 0 = by profile
  uint32_t seed = 0;              // of random weights
};

// Sampling defaults of generation_config.json; absent = OpenAI's neutral defaults.
struct SamplingDefaults {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k;
};

struct VisionInfo {
  std::string family;              // "llava", "vila", "qwen2.5-vl", "qwen3-vl"
  std::string placeholder;         // text of the image token in rendered prompts
  int placeholder_id = -1;
  std::optional<int> tokens_per_image;  // nullopt: depends on the image's size
};

struct ModelInfo {
  std::string name, architecture, precision, kv;
  int64_t parameters = 0;
  int vocabulary = 0;              // rows of the head; ids above the tokenizer's are never sampled
  int context = 0;
  int max_sequences = 0;
  int step_tokens = 0;             // rows of one step at most
  int kv_blocks = 0;
  int position_axes = 1;
  int hidden_width = 0;
  std::vector<int32_t> end_tokens; // generation_config.json's list, else config.json's
  std::optional<int32_t> bos_token;
  SamplingDefaults sampling;
  std::optional<VisionInfo> vision;
  std::string fingerprint;         // of build, configuration and weights
  std::vector<std::string> notes;  // for whoever runs it: what was rounded while loading, what stays in a wider form
};

struct MemoryLine { std::string what; int64_t bytes; };

// What a load would take at the least, and what the device has free now. For deciding what must leave first.
struct MemoryDemand {
  std::vector<MemoryLine> lines;
  int64_t bytes = 0;      // of the lines together
  int64_t available = 0;  // free now, less what must stay free
};

// One sequence's share of a step. Rows are [start, start + count) of the sequence.
struct SequenceRows {
  int slot = 0;                          // 0 .. max_sequences-1, stable while the sequence lives
  int start = 0;                         // tokens already in the KV pool
  int count = 0;
  int prompt = 0;                        // tokens of the sequence that are its prompt: their attention may round (AttentionSpec::fixed_point)
  std::span<const int32_t> blocks;       // block ids covering start + count tokens
  std::span<const int32_t> ids;          // [count], by source
  std::span<const int32_t> source;       // [count] ops::TokenSource; empty = all literal
  std::span<const int32_t> positions;    // [position_axes * count]; empty = start, start+1, ...
};

struct StepInput {
  std::span<const SequenceRows> sequences;
  std::span<const int32_t> logit_rows;   // rows (of the whole step) whose logits are wanted, ascending
};

// An image's embedding rows for the language model, kept in the model's image arena until released.
struct ImageRows {
  int first_row = 0;   // ids of TokenSource::image rows are first_row, first_row + 1, ...
  int count = 0;
  std::vector<int32_t> positions;  // [3 * count] offsets of multimodal rope (axis-major); empty = sequential
  int position_span = 0;           // how far the position advances over the image; 0 = count
};

struct ImagePixels { int width = 0, height = 0; std::span<const uint8_t> rgb; };

// How many tokens an image takes and what surrounds it, known before any pixel is processed.
struct ImageLayout {
  int rows = 0;                       // embedding rows
  std::vector<int32_t> before, after; // literal ids around the rows; the placeholder itself is replaced
  std::vector<int32_t> positions;     // as ImageRows::positions: known early, since a cached image is never encoded
  int position_span = 0;              // as ImageRows::position_span
};

// A progress report answered that the load should end.
inline Status load_cancelled() { return {Code::cancelled, "the load was cancelled"}; }

class Model {
 public:
  // Reads, plans, allocates, packs. `progress(stage, done, total)` may be called from any thread; false ends the load with
  // Code::cancelled.
  using Progress = bool (*)(void* context, const char* stage, double done, double total);
  static Result<std::unique_ptr<Model>> load(const LoadOptions&, device::Device&, Progress progress = nullptr,
                                             void* context = nullptr);
  // Plans without taking anything: reads headers only. `reclaimable` bytes count as free. Code::out_of_memory, with the
  // table and what would fit, when the model would not fit even then.
  static Result<MemoryDemand> plan(const LoadOptions&, device::Device&, int64_t reclaimable);
  virtual ~Model() = default;

  virtual const ModelInfo& info() const = 0;
  virtual const std::vector<MemoryLine>& memory() const = 0;  // the plan, line by line
  virtual device::Device& device() = 0;

  // Enqueues one step. Logits of logit_rows are in logits() when the stream gets there. Inputs are copied before it
  // returns. No allocation. On devices that run ahead of the host, the step after may be enqueued while this one still
  // waits in the stream: at most two are in flight, so staging buffers come in pairs.
  virtual Status forward(const StepInput&) = 0;
  virtual float* logits() = 0;            // device, [max_logit_rows, vocabulary]
  virtual int max_logit_rows() const = 0;
  virtual int32_t* sampled() = 0;         // device, [max_sequences]: what TokenSource::sampled reads
  // Final hidden states (after the last norm) of the last step's logit_rows, for embeddings; f32 [n, hidden_width] in
  // device memory. Only valid when the step was run with want_hidden.
  virtual Status forward_hidden(const StepInput&) = 0;
  virtual float* hidden() = 0;

  // Copies a KV block. Host side: bytes of one block over all layers.
  virtual size_t kv_block_bytes() const = 0;
  virtual Status read_kv_block(int block, void* host) = 0;
  virtual Status write_kv_block(int block, const void* host) = 0;
  // The same beside the steps, on the thread of the queue: to the host or back from it, done when the queue is.
  virtual Status transfer_kv_block(int block, void* host, bool to_host, device::Device::CopyQueue& queue) = 0;

  // Vision. Preparing runs on any thread; the rest on the step's thread, since the tower runs on the stream.
  virtual Result<ImageLayout> image_layout(int width, int height) const = 0;
  // Floating-point operations of the tower for an image of this size; 0 without vision.
  virtual double image_flops(int width, int height) const { (void)width; (void)height; return 0; }
  struct PreparedImage { virtual ~PreparedImage() = default; };
  virtual Result<std::unique_ptr<PreparedImage>> prepare_image(const ImagePixels&) const = 0;
  // Starts one pass of the tower over as many of `images`, from the first, as the tower takes at once and the image arena
  // has rows for; returns where they will lie. The images may go. Code::busy: no room for the first until rows are
  // released. One pass at a time: advance_images() must have said true before the next.
  virtual Result<std::vector<ImageRows>> begin_images(std::span<const PreparedImage* const> images) = 0;
  // Goes on with the pass for as long as the clock is before `until`, so that a slow tower does not hold up the steps of
  // other requests. True: it is over, in stream order. On an error the pass is over and its rows hold nothing of use.
  virtual Result<bool> advance_images(std::chrono::steady_clock::time_point until) = 0;
  // One image, start to end.
  Result<ImageRows> encode_image(const PreparedImage& image);
  virtual void release_image(const ImageRows&) = 0;
};

}  // namespace hearth::model
