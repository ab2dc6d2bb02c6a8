// Qwen2.5-VL and Qwen3-VL: images at their own size, 2-D rope, patches merged 2x2 into rows of the language model.
// Qwen2.5-VL attends within windows in most blocks; Qwen3-VL adds learned positions and hands features of several depths
// to the language model's first layers.
#pragma once

#include <memory>

#include "vision/processor.h"
#include "vision/tower.h"

namespace hearth::vision {

struct QwenSpec {
  bool third = false;          // Qwen3-VL
  BlockSpec blocks;
  int patch = 0, frames = 0, merge = 2;
  int window_cells = 0;        // side of an attention window in merged cells (Qwen2.5-VL)
  std::vector<bool> full;      // block attends over the whole image
  int position_side = 0;       // Qwen3-VL: the learned positions are position_side^2
  std::vector<int> deepstack;  // Qwen3-VL: blocks whose output is handed on
  int width_out = 0;
  int patches_max = 0;
  ProcessorSpec processor;
};

Result<QwenSpec> read_qwen_spec(const model::VisionSource& source, int width_out);

class QwenEncoder final : public Tower {
 public:
  QwenEncoder(QwenSpec spec, device::Device& device) : Tower(spec.blocks, device), spec_(std::move(spec)) {}

  Status declare(model::WeightPlan& plan, const model::Precision& body) override;
  void bound_batch(int64_t) override {}  // one largest image must fit, and smaller ones share its room
  int64_t activation_bytes() const override;
  Status allocate() override;
  int max_rows() const override { return spec_.patches_max / 4; }
  std::optional<int> fixed_rows() const override { return std::nullopt; }
  Result<Layout> layout(int width, int height) const override;
  double flops(int width, int height) const override;
  Result<Prepared> prepare(const Pixels& pixels) const override;
  int batch(std::span<const Prepared* const> images) const override;
  Status begin(std::span<const Job> jobs) override;

 private:
  // A merger: 2x2 patches to one row. The norm runs over single patches, or over the merged four.
  struct Merger { model::Linear up, down; const float* norm_weight = nullptr; const float* norm_bias = nullptr; bool over_four = false; };
  int columns() const { return padded_columns(3 * spec_.frames * spec_.patch * spec_.patch); }
  size_t patch_bytes() const { return static_cast<size_t>(columns()) * size_of(patch_type_); }
  int head_dim() const { return spec_.blocks.width / spec_.blocks.heads; }
  Status declare_patches(model::WeightPlan& plan, const model::Precision& precision);
  Status declare_merger(model::WeightPlan& plan, const model::Precision& precision, const std::string& name, bool over_four, Merger* merger);
  Status check(const Prepared& image) const;
  Status place(std::span<const Job> jobs);
  Status upload(std::span<const Job> jobs);
  Status upload_tables(std::span<const Job> jobs);
  Status embed() override;
  void run_block(int index) override;
  Status project() override;
  bool hands_on(int block) const override { return block == transformer_.layers() || deepstack_after(block); }
  Status hand_on(int block) override;
  std::optional<size_t> deepstack_after(int block) const;
  void merge(const Merger& merger, float* rows);
  void give(size_t image, float* to);
  size_t table_bytes(int patches) const;

  // A pass: the images' patches one after the other. Patch rows [first_[i], first_[i + 1]) are image i's.
  int patches() const { return first_.back(); }

  QwenSpec spec_;
  model::Linear patch_;
  Merger merger_;
  std::vector<Merger> deepstack_;
  ops::BoundNorm norm_;
  ops::BoundGather reorder_;
  std::vector<float> position_table_;  // host [side^2, width], the patches' bias added

  DType patch_type_ = DType::f32;
  void* pixels_ = nullptr;
  float *x_ = nullptr, *cos_ = nullptr, *sin_ = nullptr;  // of all patches
  float* merged_ = nullptr;                                                   // [cells, width_out] in the tower's order
  void *normed_ = nullptr, *hidden_ = nullptr;
  int32_t *windows_ = nullptr, *whole_ = nullptr, *cell_rows_ = nullptr;
  std::vector<int32_t> first_, host_windows_, host_cells_;
  int longest_window_ = 0, longest_image_ = 0;
};

}  // namespace hearth::vision
