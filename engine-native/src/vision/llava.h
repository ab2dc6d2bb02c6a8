// LLaVA and VILA: a CLIP or SigLIP tower of one image size, and a projector to the language model's width.
#pragma once

#include <memory>

#include "vision/processor.h"
#include "vision/tower.h"

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

// Passes' pictures that may be prepared in pinned memory; others are copied on their way.
inline constexpr int pinned_passes = 2;

class LlavaEncoder final : public Tower {
 public:
  LlavaEncoder(LlavaSpec spec, device::Device& device);

  Status declare(model::WeightPlan& plan, const model::Precision& body) override;
  void bound_batch(int64_t bytes) override;
  int64_t activation_bytes() const override;
  Status allocate() override;
  int max_rows() const override { return rows_out(); }
  std::optional<int> fixed_rows() const override { return rows_out(); }
  Result<Layout> layout(int width, int height) const override;
  double flops(int width, int height) const override;
  Result<Prepared> prepare(const Pixels& pixels) const override;
  int batch(std::span<const Prepared* const> images) const override;
  Status begin(std::span<const Job> jobs) override;

 private:
  int grid() const { return spec_.image / spec_.patch; }
  int patches() const { return grid() * grid(); }
  int tokens() const { return patches() + first_patch(); }
  int first_patch() const { return spec_.clip ? 1 : 0; }  // CLIP's class token comes first
  int cells() const { return (grid() + 1) / 2 * ((grid() + 1) / 2); }
  bool merges() const { return spec_.projector == LlavaSpec::Projector::mlp_downsample; }
  int rows_out() const;
  int projected_rows(int images) const;
  int columns() const { return padded_columns(3 * spec_.patch * spec_.patch); }
  Status declare_embeddings(model::WeightPlan& plan, const model::Precision& precision);
  Status declare_projector(model::WeightPlan& plan, const model::Precision& precision);
  void want_workspace();
  Result<std::vector<float>> position_table(const formats::Checkpoint& checkpoint) const;
  std::vector<int32_t> cell_index() const;
  int skipped() const { return spec_.drop_first ? 1 : 0; }
  size_t image_bytes() const { return static_cast<size_t>(patches()) * static_cast<size_t>(columns()) * size_of(patch_type_); }
  int pinned_images() const { return device_.info().kind == device::DeviceKind::cpu ? 0 : pinned_passes * images_max_; }
  Status embed() override;
  void run_block(int index) override;
  Status project() override;
  Status hand_on(int block) override;
  void run_projector(const void* from, int64_t stride, int rows);

  LlavaSpec spec_;
  int images_max_ = 1;  // of a pass
  model::Linear patch_, projector_[2];
  ops::BoundNorm pre_norm_;
  ops::BoundGather cell_gather_, position_gather_;
  DType patch_type_ = DType::f32;  // of pixels
  PinnedPool pinned_{device_};     // pictures prepared and not yet uploaded, where there is room
  const float* positions_ = nullptr;  // [tokens, width]: position embeddings, the patches' bias and the class token
  const float* pre_norm_weight_ = nullptr;
  const float* pre_norm_bias_ = nullptr;

  // Rows of a pass: [images_max_ * tokens], image after image.
  void* pixels_ = nullptr;     // [rows, columns]; zeros for class tokens, so that one product embeds every image
  float* x_ = nullptr;         // [rows, width]
  float* embedded_ = nullptr;  // [rows, width]: before CLIP's first norm
  float* merged_ = nullptr;    // [images_max_ * cells, 4 * width]
  float* hidden_ = nullptr;    // [projected rows, width_out]: between the projector's layers
  float* projected_ = nullptr; // [projected rows, width_out]
  int32_t* position_rows_ = nullptr;  // [rows] each row's place in its image
  int32_t* cell_rows_ = nullptr;  // [images_max_ * 4 * cells]
  int32_t* segment_ = nullptr;    // [images_max_ + 1]
  std::vector<int32_t> host_segment_;
};

}  // namespace hearth::vision
