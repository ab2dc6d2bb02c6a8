// A model without weights, whose logits depend on exactly the tokens before them: its "KV pool" holds, per position, a
// hash chained over the sequence, read and written through the block table like real keys and values. A wrong block, a
// stale prefix, a row computed twice or left out: each changes what is drawn.
#pragma once

#include <atomic>
#include <cmath>
#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>
#include <stdexcept>
#include <thread>

#include "model/model.h"
#include "runtime/loaded_model.h"

namespace hearth::testing {

struct FakeShape {
  int vocabulary = 300, context = 512, max_sequences = 8, step_tokens = 48, kv_blocks = 64, hidden_width = 8;
  int logit_rows = 32, image_rows = 64;
  bool vision = false;
  int axes = 1;
  std::vector<int32_t> end_tokens = {0};
};

inline uint64_t scramble(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// Set by tests: the next forward fails as a lost device would; a pause makes steps long enough to act in between.
struct FakeControls {
  std::atomic<bool> fail_device{false};
  std::atomic<int> pause_us{0}, copy_pause_us{0}, prepare_pause_us{0};
  std::atomic<int> forwards{0}, encoded{0};
};
inline FakeControls& controls() {
  static FakeControls instance;
  return instance;
}

class FakeModel final : public model::Model {
 public:
  FakeModel(const FakeShape& shape, device::Device& device) : shape_(shape), device_(device) {
    info_.name = "fake";
    info_.architecture = "FakeForCausalLM";
    info_.precision = "f32";
    info_.kv = "f32";
    info_.vocabulary = shape.vocabulary;
    info_.context = shape.context;
    info_.max_sequences = shape.max_sequences;
    info_.step_tokens = shape.step_tokens;
    info_.kv_blocks = shape.kv_blocks;
    info_.hidden_width = shape.hidden_width;
    info_.position_axes = shape.axes;
    info_.end_tokens = shape.end_tokens;
    info_.sampling.temperature = 0.f;
    info_.fingerprint = "fp_fake";
    if (shape.vision) info_.vision = model::VisionInfo{"fake", "@", '@', std::nullopt};
    memory_ = {{"weights", 0}, {"kv pool", shape.kv_blocks * 16 * 8}};
    cache_.assign(static_cast<size_t>(shape.kv_blocks) * 16, 0xdead);
    logits_.resize(static_cast<size_t>(shape.logit_rows) * shape.vocabulary);
    hidden_.resize(static_cast<size_t>(shape.logit_rows) * shape.hidden_width);
    sampled_.resize(shape.max_sequences);
    arena_.assign(shape.image_rows, 0);
    taken_.assign(shape.image_rows, false);
  }

  const model::ModelInfo& info() const override { return info_; }
  const std::vector<model::MemoryLine>& memory() const override { return memory_; }
  device::Device& device() override { return device_; }
  int max_logit_rows() const override { return shape_.logit_rows; }
  float* logits() override { return logits_.data(); }
  float* hidden() override { return hidden_.data(); }
  int32_t* sampled() override { return sampled_.data(); }

  Status forward(const model::StepInput& input) override {
    return run(input, [&](int row, uint64_t state) { fill_logits(row, state); });
  }
  Status forward_hidden(const model::StepInput& input) override {
    return run(input, [&](int row, uint64_t state) {
      for (int i = 0; i < shape_.hidden_width; ++i)
        hidden_[static_cast<size_t>(row) * shape_.hidden_width + i] = static_cast<float>(scramble(state + i) % 1000) / 500 - 1;
    });
  }

  size_t kv_block_bytes() const override { return 16 * sizeof(uint64_t); }
  Status read_kv_block(int block, void* host) override {
    return std::memcpy(host, cache_.data() + block * 16, kv_block_bytes()), Status::ok();
  }
  Status write_kv_block(int block, const void* host) override {
    return std::memcpy(cache_.data() + block * 16, host, kv_block_bytes()), Status::ok();
  }
  Status transfer_kv_block(int block, void* host, bool to_host, device::Device::CopyQueue& queue) override {
    if (int pause = controls().copy_pause_us) usleep_(pause);
    uint64_t* at = cache_.data() + block * 16;
    return to_host ? queue.download(host, at, kv_block_bytes()) : queue.upload(at, host, kv_block_bytes());
  }

  struct Prepared : PreparedImage {
    uint64_t hash = 0;
    int rows = 0;
  };
  Result<model::ImageLayout> image_layout(int width, int height) const override {
    if (width > 64) return invalid("the image is too wide");
    model::ImageLayout layout;
    layout.rows = height;
    layout.before = {'<'};
    layout.after = {'>'};
    if (shape_.axes > 1) {
      layout.positions.assign(static_cast<size_t>(shape_.axes) * height, 0);
      layout.position_span = 2;
    }
    return layout;
  }
  static constexpr int throwing_width = 63;  // of an image that memory runs out for
  Result<std::unique_ptr<PreparedImage>> prepare_image(const model::ImagePixels& pixels) const override {
    if (pixels.width == throwing_width) throw std::bad_alloc();
    if (int pause = controls().prepare_pause_us) usleep_(pause);
    auto prepared = std::make_unique<Prepared>();
    prepared->rows = pixels.height;
    for (uint8_t byte : pixels.rgb) prepared->hash = scramble(prepared->hash + byte + 1);
    return std::unique_ptr<PreparedImage>(std::move(prepared));
  }
  Result<std::vector<model::ImageRows>> begin_images(std::span<const PreparedImage* const> images) override {
    std::vector<model::ImageRows> out;
    for (const PreparedImage* image : images.first(std::min<size_t>(images.size(), 3))) {
      auto rows = place_image(*image);
      if (!rows && out.empty()) return rows.status();
      if (!rows) break;
      out.push_back(*rows);
    }
    pass_turns_ = 2;
    return out;
  }
  // A pass takes two turns, as a slow tower's does.
  Result<bool> advance_images(std::chrono::steady_clock::time_point) override { return --pass_turns_ == 0; }
  Result<model::ImageRows> place_image(const PreparedImage& image) {
    const auto& prepared = static_cast<const Prepared&>(image);
    ++controls().encoded;
    for (int first = 0; first + prepared.rows <= shape_.image_rows; ++first) {
      bool free = true;
      for (int i = 0; i < prepared.rows; ++i) free &= !taken_[first + i];
      if (!free) continue;
      for (int i = 0; i < prepared.rows; ++i) {
        taken_[first + i] = true;
        arena_[first + i] = scramble(prepared.hash + i);
      }
      return model::ImageRows{first, prepared.rows, {}, 0};
    }
    return Status(Code::busy, "the image arena is full");
  }
  void release_image(const model::ImageRows& rows) override {
    for (int i = 0; i < rows.count; ++i) taken_[rows.first_row + i] = false;
  }
  int taken_rows() const { return static_cast<int>(std::count(taken_.begin(), taken_.end(), true)); }

 private:
  template <class Want>
  Status run(const model::StepInput& input, Want want) {
    ++controls().forwards;
    if (int pause = controls().pause_us) usleep_(pause);
    if (controls().fail_device.exchange(false)) return Status(Code::device, "the fake device was unplugged");
    size_t next = 0;
    int row = 0;
    for (const model::SequenceRows& s : input.sequences) {
      for (int i = 0; i < s.count; ++i, ++row) {
        int position = s.start + i;
        uint64_t state = position == 0 ? 1 : cache_[slot(s, position - 1)];
        int32_t source = s.source.empty() ? 0 : s.source[i];
        uint64_t input_value = source == 0 ? static_cast<uint64_t>(s.ids[i])
                               : source == 1 ? static_cast<uint64_t>(sampled_[s.ids[i]])
                                             : arena_[s.ids[i]];
        for (int axis = 0; axis < shape_.axes && !s.positions.empty(); ++axis)
          input_value += static_cast<uint64_t>(s.positions[static_cast<size_t>(axis) * s.count + i]) << (20 + 10 * axis);
        state = scramble(state * 31 + input_value + 7);
        cache_[slot(s, position)] = state;
        if (next < input.logit_rows.size() && input.logit_rows[next] == row) want(static_cast<int>(next++), state);
      }
    }
    return next == input.logit_rows.size() ? Status::ok() : Status(Code::internal, "a wanted row is not in the step");
  }
  static void usleep_(int us) { std::this_thread::sleep_for(std::chrono::microseconds(us)); }
  size_t slot(const model::SequenceRows& s, int position) const {
    return static_cast<size_t>(s.blocks[position / 16]) * 16 + position % 16;
  }
  void fill_logits(int row, uint64_t state) {
    float* logits = logits_.data() + static_cast<size_t>(row) * shape_.vocabulary;
    for (int i = 0; i < shape_.vocabulary; ++i) logits[i] = static_cast<float>(scramble(state + i) % 100000) / 10000;
    logits[0] -= 2;  // the end token: not too often
  }

  FakeShape shape_;
  device::Device& device_;
  model::ModelInfo info_;
  std::vector<model::MemoryLine> memory_;
  std::vector<uint64_t> cache_, arena_;
  std::vector<bool> taken_;
  int pass_turns_ = 0;
  std::vector<float> logits_, hidden_;
  std::vector<int32_t> sampled_;
};

// Shapes by name: "fake", "fake-small-pool", "fake-vision", "fake-broken" (fails to load), "fake-throwing" (throws instead),
// "fake-narrow" (its tokenizer has more tokens than the model).
inline Result<runtime::LoadResult> load_fake(const model::LoadOptions& options, device::Device& device,
                                             model::Model::Progress progress, void* context) {
  FakeShape shape;
  if (options.shape == "fake-broken") return corrupt("weights.safetensors: tensor lm_head.weight is cut off");
  if (options.shape == "fake-throwing") throw std::runtime_error("a library was surprised");
  if (options.shape == "fake-small-pool") shape.kv_blocks = 12;
  const int tokens = shape.vocabulary;
  if (options.shape == "fake-narrow") shape.vocabulary = 200;
  if (options.shape == "fake-vision") shape.vision = true;
  if (options.shape == "fake-vision-3d") shape.vision = true, shape.axes = 3;
  if (options.shape == "fake-endless") shape.end_tokens.clear(), shape.context = 1 << 20, shape.kv_blocks = 1024;
  if (options.shape == "fake-endless") shape.context = 16000;
  if (options.kv_tokens > 0) shape.kv_blocks = static_cast<int>(options.kv_tokens / 16);
  if (options.step_tokens > 0) shape.step_tokens = options.step_tokens;
  if (options.context > 0) shape.context = options.context;
  if (options.max_sequences > 0) shape.max_sequences = options.max_sequences;
  if (progress) progress(context, "weights", 1, 1);
  runtime::LoadResult result;
  result.model = std::make_unique<FakeModel>(shape, device);
  result.vocabulary = runtime::make_byte_vocabulary(tokens);
  result.chat_template = "{{ messages[0].content }}";
  return result;
}

}  // namespace hearth::testing
