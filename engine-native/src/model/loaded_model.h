// A model in memory: everything its steps need, owned in the order it must be freed.
#pragma once

#include <memory>
#include <vector>

#include "model/decoder.h"
#include "model/image_rows.h"
#include "model/kv_pool.h"
#include "model/model.h"
#include "model/model_spec.h"
#include "model/step_buffers.h"
#include "model/weights.h"
#include "vision/encoder.h"

namespace hearth::model {

class LoadedModel final : public Model {
 public:
  LoadedModel(device::Device& device, ModelSpec spec)
      : device_(device), spec_(std::move(spec)), decoder_(spec_.decoder, device), kv_(device), steps_(device, spec_.decoder.position_axes) {}
  ~LoadedModel() override;

  const ModelInfo& info() const override { return info_; }
  const std::vector<MemoryLine>& memory() const override { return memory_; }
  device::Device& device() override { return device_; }

  Status forward(const StepInput& input) override;
  float* logits() override { return decoder_.logits(); }
  int max_logit_rows() const override { return limits_.logit_rows; }
  int32_t* sampled() override { return decoder_.sampled(); }
  Status forward_hidden(const StepInput& input) override;
  float* hidden() override { return decoder_.hidden(); }

  size_t kv_block_bytes() const override { return kv_.block_bytes(); }
  Status read_kv_block(int block, void* host) override { return kv_.read(block, host); }
  Status write_kv_block(int block, const void* host) override { return kv_.write(block, host); }
  Status transfer_kv_block(int block, void* host, bool to_host, device::Device::CopyQueue& queue) override {
    return kv_.transfer(block, host, to_host, queue);
  }

  double image_flops(int width, int height) const override { return encoder_ ? encoder_->flops(width, height) : 0; }
  Result<ImageLayout> image_layout(int width, int height) const override;
  Result<std::unique_ptr<PreparedImage>> prepare_image(const ImagePixels& pixels) const override;
  Result<std::vector<ImageRows>> begin_images(std::span<const PreparedImage* const> images) override;
  Result<bool> advance_images(std::chrono::steady_clock::time_point until) override;
  void release_image(const ImageRows& rows) override;

 private:
  friend class Loader;
  struct DecodeGraph { int count = 0, max_context = 0; std::unique_ptr<device::Device::Graph> graph; };
  // Records decode steps of every bucket where the device has graphs.
  Status capture_graphs();
  DecodeGraph* find_graph(const StepInput& input);
  Status run(const StepInput& input, bool hidden);
  vision::Job job_of(const PreparedImage& image, int first_row) const;

  device::Device& device_;
  ModelSpec spec_;
  ModelInfo info_;
  std::vector<MemoryLine> memory_;
  DecoderLimits limits_;
  std::unique_ptr<formats::Checkpoint> checkpoint_;  // where weights are used as its file has them; else not kept
  int64_t mapped_bytes_ = 0;                         // of it, counted by the device
  std::unique_ptr<WeightPlan> weights_, vision_weights_;
  Decoder decoder_;
  KvPool kv_;
  StepBuffers steps_;
  std::unique_ptr<vision::Encoder> encoder_;
  ImageArena arena_;
  std::vector<void*> arena_memory_;
  std::unique_ptr<RowAllocator> image_rows_;
  std::vector<DecodeGraph> graphs_;  // ascending by count, then by context
};

}  // namespace hearth::model
