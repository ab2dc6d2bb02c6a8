// What tests of models share: a CPU device, goldens, and a driver that plays one or several sequences step by step.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "device/device.h"
#include "formats/safetensors.h"
#include "model/model.h"

namespace hearth::model {

inline std::string checkpoint_path(const std::string& name) { return std::string(HEARTH_SOURCE_DIR) + "/test/fixtures/checkpoints/" + name; }
inline std::string golden_path(const std::string& name) { return std::string(HEARTH_SOURCE_DIR) + "/test/fixtures/goldens/" + name + ".safetensors"; }

// The device under test. hearth-gpu-model-test builds the same goldens for the first GPU, in its 16-bit arithmetic.
#ifdef HEARTH_TEST_CUDA
inline constexpr bool on_gpu = true;
inline constexpr double tolerance = 1e-2;
inline constexpr float draw_gap = 0.1f;  // where the two best are closer, either may be drawn
#else
inline constexpr bool on_gpu = false;
inline constexpr double tolerance = 1e-4;
inline constexpr float draw_gap = 0;
#endif
inline device::Device& test_device() {
  static Result<std::unique_ptr<device::Device>> device = on_gpu ? device::open_cuda_device(0, "", false) : device::open_cpu_device(2);
  if (!device) {
    std::fprintf(stderr, "%s\n", device.status().message().c_str());
    std::exit(1);
  }
  return **device;
}

// A file of captured tensors.
class Golden {
 public:
  explicit Golden(const std::string& name) {
    auto header = formats::add_safetensors(store_, golden_path(name));
    EXPECT_TRUE(header.is_ok()) << header.status().message();
    if (header) metadata_ = header->metadata;
  }
  bool has(const std::string& name) const { return store_.find(name) != nullptr; }
  std::vector<int64_t> shape(const std::string& name) const { return view(name).shape; }
  template <class T>
  std::vector<T> values(const std::string& name) const {
    const formats::TensorView& tensor = view(name);
    EXPECT_EQ(size_of(tensor.type), sizeof(T)) << name;
    std::vector<T> out(tensor.data.size() / sizeof(T));
    std::memcpy(out.data(), tensor.data.data(), out.size() * sizeof(T));
    return out;
  }
  bool has_number(const std::string& key) const { return metadata_.contains(key); }
  int number(const std::string& key) const { return std::stoi(metadata_.at(key)); }

 private:
  const formats::TensorView& view(const std::string& name) const {
    static const formats::TensorView none;
    const formats::TensorView* found = store_.find(name);
    EXPECT_NE(found, nullptr) << name;
    return found ? *found : none;
  }
  formats::TensorStore store_;
  std::map<std::string, std::string> metadata_;
};

// ‖a - b‖ / ‖b‖.
inline double distance(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); i++) {
    difference += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(difference / norm);
}

inline LoadOptions exact_options(const std::string& path) {
  LoadOptions options;
  options.path = path;
  options.precision = "none";
  options.kv = on_gpu ? "auto" : "f32";
  options.max_sequences = 4;
  options.step_tokens = 96;
  return options;
}

// Why a model is not loaded, in words.
inline std::string load_error(const std::string& path, const std::function<void(LoadOptions&)>& change = {}) {
  LoadOptions options = exact_options(path);
  if (change) change(options);
  auto model = Model::load(options, test_device());
  EXPECT_FALSE(model.is_ok()) << "it loaded";
  return model ? "" : model.status().message();
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

inline std::unique_ptr<Model> load(const LoadOptions& options) {
  auto model = Model::load(options, test_device());
  EXPECT_TRUE(model.is_ok()) << model.status().message();
  return model ? std::move(*model) : nullptr;
}

// One sequence of a model: its tokens, sources, positions and KV blocks (taken in an order that is not ascending).
class Sequence {
 public:
  Sequence(Model& model, int slot) : model_(model), slot_(slot) {
    const int each = model.info().kv_blocks / model.info().max_sequences;
    for (int i = each - 1; i >= 0; i--) blocks_.push_back(slot * each + i);
  }
  std::vector<int32_t> ids, source, positions;  // positions [axes][tokens], empty = sequential
  int done = 0, prompt = 0;

  SequenceRows rows(int count) {
    const auto begin = static_cast<size_t>(done), size = static_cast<size_t>(count);
    SequenceRows out;
    out.slot = slot_;
    out.start = done;
    out.count = count;
    out.prompt = prompt;
    out.blocks = blocks_;
    out.ids = std::span(ids).subspan(begin, size);
    if (!source.empty()) out.source = std::span(source).subspan(begin, size);
    if (!positions.empty()) {
      const size_t axes = static_cast<size_t>(model_.info().position_axes), total = ids.size();
      part_.clear();
      for (size_t axis = 0; axis < axes; axis++) {
        const auto from = positions.begin() + static_cast<std::ptrdiff_t>(axis * total + begin);
        part_.insert(part_.end(), from, from + count);
      }
      out.positions = part_;
    }
    return out;
  }

 private:
  Model& model_;
  int slot_;
  std::vector<int32_t> blocks_, part_;
};

// Runs `count` rows of one sequence and returns the logits of all of them.
inline std::vector<float> step(Model& model, Sequence& sequence, int count) {
  std::vector<int32_t> wanted(static_cast<size_t>(count));
  std::iota(wanted.begin(), wanted.end(), 0);
  const SequenceRows rows = sequence.rows(count);
  const StepInput input{std::span(&rows, 1), wanted};
  const Status status = model.forward(input);
  EXPECT_TRUE(status.is_ok()) << status.message();
  EXPECT_TRUE(model.device().stream().synchronize().is_ok());
  sequence.done += count;
  const auto vocabulary = static_cast<size_t>(model.info().vocabulary);
  std::vector<float> logits(static_cast<size_t>(count) * vocabulary);
  EXPECT_TRUE(model.device().download(logits.data(), model.logits(), logits.size() * 4).is_ok());
  return logits;
}

// Logits of a whole prompt, given in chunks of at most `chunk` rows.
inline std::vector<float> prefill(Model& model, Sequence& sequence, int chunk) {
  std::vector<float> all;
  while (sequence.done < static_cast<int>(sequence.ids.size())) {
    const int count = std::min(chunk, static_cast<int>(sequence.ids.size()) - sequence.done);
    const std::vector<float> part = step(model, sequence, count);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

inline int32_t best_of(std::span<const float> row) { return static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin()); }

// How many of `expected` follow the prompt greedily, up to the first that is not drawn. `draw_gap` apart counts as drawn.
// Positions of multimodal rope continue from the highest.
inline size_t greedy_matches(Model& model, Sequence& sequence, const std::vector<int32_t>& expected, int limit = 0) {
  const auto vocabulary = static_cast<size_t>(model.info().vocabulary), axes = static_cast<size_t>(model.info().position_axes);
  std::vector<float> logits = prefill(model, sequence, 64);
  int32_t position = sequence.positions.empty() ? 0 : *std::max_element(sequence.positions.begin(), sequence.positions.end());
  for (size_t i = 0; i < expected.size(); i++) {
    const auto row = std::span(logits).last(vocabulary).first(limit > 0 ? static_cast<size_t>(limit) : vocabulary);
    if (row[static_cast<size_t>(best_of(row))] - row[static_cast<size_t>(expected[i])] > draw_gap) return i;
    sequence.ids.push_back(expected[i]);
    if (!sequence.source.empty()) sequence.source.push_back(0);
    if (!sequence.positions.empty()) {  // [axes][tokens]: every axis grows by one
      position++;
      const size_t total = sequence.ids.size();
      for (size_t axis = 0; axis < axes; axis++) sequence.positions.insert(sequence.positions.begin() + static_cast<std::ptrdiff_t>(axis * total + total - 1), position);
    }
    logits = step(model, sequence, 1);
  }
  return expected.size();
}

}  // namespace hearth::model
