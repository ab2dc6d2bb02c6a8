#include "vision_bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>

namespace hearth::bench {

namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;
using model::ImageRows;
using model::Model;

double milliseconds(Clock::time_point begin) { return std::chrono::duration<double, std::milli>(Clock::now() - begin).count(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class VisionBench {
 public:
  VisionBench(const VisionRun& run, device::Device& device) : run_(run), device_(device) {}

  Status all() {
    model::LoadOptions options = run_.load;
    options.max_sequences = 1;
    HEARTH_ASSIGN(model_, Model::load(options, device_));
    if (!model_->info().vision) return invalid("--images needs a model with vision");
    for (const int count : run_.images) HEARTH_TRY(measure(count));
    return Status::ok();
  }

 private:
  Status measure(int count) {
    HEARTH_TRY(prepare(count));
    std::vector<double> tower, fresh, cached, text;
    double decode = 0;
    for (int i = 0; i <= run_.repeat; i++) {
      HEARTH_ASSIGN(const double tower_ms, encode());
      HEARTH_ASSIGN(const double cached_ms, prefill(true));
      release();
      HEARTH_ASSIGN(const double text_ms, prefill(false));
      const auto begin = Clock::now();
      HEARTH_TRY(encode().status());
      HEARTH_TRY(prefill(true).status());
      const double fresh_ms = milliseconds(begin);
      if (i == run_.repeat) {
        HEARTH_ASSIGN(decode, decode_rate());
      }
      release();
      if (i == 0) continue;  // warm: pages, clocks, caches
      tower.push_back(tower_ms), fresh.push_back(fresh_ms), cached.push_back(cached_ms), text.push_back(text_ms);
    }
    const int rows = rows_of_images();
    const double flops = model_->image_flops(1024, 768) * count;
    print({{"phase", "vision"}, {"images", count}, {"rows", rows}, {"ms", median(tower)}, {"images_per_second", count / median(tower) * 1e3},
           {"tflops", flops / median(tower) / 1e9}, {"fraction_of_matrix", run_.matrix_flops > 0 ? flops / (median(tower) / 1e3) / run_.matrix_flops : 0}});
    print({{"phase", "ttft"}, {"images", count}, {"rows", rows}, {"text", run_.prompt}, {"ms", median(fresh)}, {"cached_ms", median(cached)},
           {"text_ms", median(text)}, {"prepare_ms", prepare_ms_}});
    print({{"phase", "decode"}, {"images", count}, {"context", rows + run_.prompt}, {"new", run_.count_new}, {"tokens_per_second", decode}});
    return Status::ok();
  }

  Status prepare(int count) {
    prepared_.clear();
    std::mt19937 random(7);
    for (int i = 0; i < count; i++) {
      const int width = 1024, height = 768;
      std::vector<uint8_t> rgb(static_cast<size_t>(width) * height * 3);
      for (uint8_t& byte : rgb) byte = static_cast<uint8_t>(random());
      const auto begin = Clock::now();
      HEARTH_ASSIGN(auto prepared, model_->prepare_image({width, height, rgb}));
      prepare_ms_ = milliseconds(begin);
      prepared_.push_back(std::move(prepared));
    }
    return Status::ok();
  }

  Result<double> encode() {
    std::vector<const Model::PreparedImage*> left;
    for (const auto& image : prepared_) left.push_back(image.get());
    HEARTH_TRY(device_.stream().synchronize());
    const auto begin = Clock::now();
    while (!left.empty()) {
      HEARTH_ASSIGN(const std::vector<ImageRows> rows, model_->begin_images(left));
      HEARTH_TRY(model_->advance_images(Clock::time_point::max()).status());
      images_.insert(images_.end(), rows.begin(), rows.end());
      left.erase(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(rows.size()));
    }
    HEARTH_TRY(device_.stream().synchronize());
    return milliseconds(begin);
  }

  void release() {
    for (const ImageRows& rows : images_) model_->release_image(rows);
    images_.clear();
  }

  int rows_of_images() {
    int rows = 0;
    for (const auto& image : prepared_) {
      auto layout = model_->image_layout(1024, 768);
      rows += image && layout ? layout->rows : 0;
    }
    return rows;
  }

  // A prompt of text, pictures (or as much text) and text; its last row's logits.
  Result<double> prefill(bool pictures) {
    ids_.assign(static_cast<size_t>(run_.prompt / 2), 5);
    sources_.assign(ids_.size(), 0);
    for (const ImageRows& rows : images_) {
      for (int i = 0; pictures && i < rows.count; i++) ids_.push_back(rows.first_row + i), sources_.push_back(2);
    }
    if (!pictures) ids_.resize(ids_.size() + static_cast<size_t>(rows_of_images()), 6);
    ids_.resize(ids_.size() + static_cast<size_t>(run_.prompt - run_.prompt / 2), 7);
    sources_.resize(ids_.size(), 0);
    blocks_.resize((ids_.size() + static_cast<size_t>(run_.count_new)) / ops::kv_block_tokens + 1);
    for (size_t i = 0; i < blocks_.size(); i++) blocks_[i] = static_cast<int32_t>(i);
    if (static_cast<int>(blocks_.size()) > model_->info().kv_blocks) return out_of_memory("the KV pool is too small for the prompt: give --context");
    const auto begin = Clock::now();
    const int total = static_cast<int>(ids_.size());
    for (int done = 0; done < total;) {
      const int count = std::min(model_->info().step_tokens, total - done);
      HEARTH_TRY(step(done, count));
      done += count;
    }
    HEARTH_TRY(device_.stream().synchronize());
    return milliseconds(begin);
  }

  Status step(int start, int count) {
    const auto from = static_cast<size_t>(start), size = static_cast<size_t>(count);
    model::SequenceRows rows;
    rows.start = start;
    rows.count = count;
    rows.blocks = blocks_;
    rows.ids = std::span<const int32_t>(ids_).subspan(from, size);
    rows.source = std::span<const int32_t>(sources_).subspan(from, size);
    const int32_t last = count - 1;
    return model_->forward({std::span(&rows, 1), std::span(&last, 1)});
  }

  Result<double> decode_rate() {
    const auto begin = Clock::now();
    for (int i = 0; i < run_.count_new; i++) {
      ids_.push_back(9);
      sources_.push_back(0);
      HEARTH_TRY(step(static_cast<int>(ids_.size()) - 1, 1));
    }
    HEARTH_TRY(device_.stream().synchronize());
    return run_.count_new / milliseconds(begin) * 1e3;
  }

  void print(json line) const {
    line["model"] = model_->info().name;
    line["precision"] = model_->info().precision;
    std::printf("%s\n", line.dump().c_str());
    std::fflush(stdout);
  }

  const VisionRun& run_;
  device::Device& device_;
  std::unique_ptr<Model> model_;
  std::vector<std::unique_ptr<Model::PreparedImage>> prepared_;
  std::vector<ImageRows> images_;
  std::vector<int32_t> ids_, sources_, blocks_;
  double prepare_ms_ = 0;
};

}  // namespace

Status run_vision(const VisionRun& run, device::Device& device) { return VisionBench(run, device).all(); }

}  // namespace hearth::bench
