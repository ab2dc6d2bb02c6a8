// LLaVA and VILA: a CLIP or SigLIP tower of one image size, and a projector to the language model's width.
#pragma once

#include <memory>

#include "vision/encoder.h"
#include "vision/processor.h"
#include "vision/transformer.h"
#include "vision/uploads.h"

namespace hearth::vision {

struct LlavaSpec {
  BlockSpec blocks;
  std::string root;        // of the tower's tensors
  bool clip = false;       // class token and a norm before the blocks; no bias on the patches
  int image = 0, patch = 0;
  int layers_run = 0;      // blocks until the selected features
  bool drop_first = false; // features without the class token
  enum class Projector { linear, mlp, mlp_downsample } projector = Projector::mlp;
  std::string projector_modules[2];
  std::string projector_norm;
  bool projector_bias = true;  // the file must have one
  ops::Activation projector_activation = ops::Activation::gelu_erf;
  int width_out = 0;
  ProcessorSpec processor;
};

Result<LlavaSpec> read_llava_spec(const model::VisionSource& source, int width_out);

class LlavaEncoder final : public Encoder {
 public:
  LlavaEncoder(LlavaSpec spec, device::Device& device)
      : spec_(std::move(spec)), device_(device), transformer_(spec_.blocks, device), uploads_(device) {}
  ~LlavaEncoder() override;

  Status declare(model::WeightPlan& plan, const model::Precision& body) override;
  int64_t activation_bytes() const override;
  Status allocate() override;
  int max_rows() const override { return rows_out(); }
  std::optional<int> fixed_rows() const override { return rows_out(); }
  Result<Layout> layout(int width, int height) const override;
  Result<Prepared> prepare(const Pixels& pixels) const override;
  Status encode(const Prepared& image, float* rows, std::span<float* const> deepstack) override;

 private:
  int grid() const { return spec_.image / spec_.patch; }
  int patches() const { return grid() * grid(); }
  int tokens() const { return patches() + (spec_.clip ? 1 : 0); }
  int cells() const { return (grid() + 1) / 2 * ((grid() + 1) / 2); }
  int rows_out() const;
  int columns() const { return padded_columns(3 * spec_.patch * spec_.patch); }
  Status declare_embeddings(model::WeightPlan& plan, const model::Precision& precision);
  Status declare_projector(model::WeightPlan& plan, const model::Precision& precision);
  Result<std::vector<float>> position_table(const formats::Checkpoint& checkpoint) const;
  std::vector<int32_t> cell_index() const;
  void project(float* rows);

  LlavaSpec spec_;
  device::Device& device_;
  Transformer transformer_;
  Uploader uploads_;
  model::Linear patch_, projector_[2];
  ops::BoundNorm pre_norm_;
  ops::BoundGather cell_gather_;
  const float* positions_ = nullptr;  // [tokens, width]: position embeddings, the patches' bias and the class token
  const float* pre_norm_weight_ = nullptr;
  const float* pre_norm_bias_ = nullptr;

  std::vector<void*> memory_;
  float* pixels_ = nullptr;    // [patches, columns]
  float* x_ = nullptr;         // [tokens, width]
  float* embedded_ = nullptr;  // [tokens, width]: before CLIP's first norm
  void* merged_ = nullptr;     // [cells, 4 * width]
  void* hidden_ = nullptr;     // [rows_out, width_out]: between the projector's layers
  int32_t* cell_rows_ = nullptr;  // [4 * cells]
  int32_t* segment_ = nullptr;    // [2]
  int32_t host_segment_[2] = {0, 0};
};

}  // namespace hearth::vision
