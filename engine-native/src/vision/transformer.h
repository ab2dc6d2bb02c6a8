// The blocks of a vision transformer over ops: norm, qkv, attention within segments, projection, norm, MLP. What CLIP,
// SigLIP, Qwen2.5-VL and Qwen3-VL differ in is data.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "device/device.h"
#include "model/weights.h"
#include "ops/bind.h"

namespace hearth::vision {

struct BlockSpec {
  int width = 0, ffn = 0, heads = 0, layers = 0;
  ops::NormKind norm = ops::NormKind::layer;
  float epsilon = 1e-5f;
  ops::Activation activation = ops::Activation::gelu_tanh;
  bool gated = false;  // gate_proj and up_proj
  bool rope = false;
  // Module names within a block.
  std::string prefix;                 // of block i: prefix + i + "."
  std::vector<std::string> qkv;       // one fused module of 3 * width rows, or q, k and v
  std::string out, norm1, norm2;
  std::vector<std::string> up;        // one module, or gate and up
  std::string down;
};

// Rows that attend to each other, and their rope; device pointers, with the segments on the host too.
struct BlockRows {
  int rows = 0, segments = 0, max_segment = 0;
  const int32_t* segment = nullptr;       // [segments + 1]
  const int32_t* host_segment = nullptr;
  const float* rope_cos = nullptr;        // [rows, head_dim]
  const float* rope_sin = nullptr;
};

class Transformer {
 public:
  Transformer(BlockSpec spec, device::Device& device) : spec_(std::move(spec)), device_(device) {}
  ~Transformer();
  Transformer(const Transformer&) = delete;
  Transformer& operator=(const Transformer&) = delete;

  // Before declare(): where the blocks' tensors are, and how many blocks are run.
  void set_prefix(std::string prefix) { spec_.prefix = std::move(prefix); }
  void set_layers(int layers) { spec_.layers = layers; }
  int layers() const { return spec_.layers; }
  Status declare(model::WeightPlan& plan, const model::Precision& precision);
  int64_t bytes(int rows) const;
  Status allocate(int rows);
  // Products of one block over `rows` rows that attend to `segment` rows each, two operations a multiplication.
  double flops(double rows, double segment) const {
    const double width = spec_.width, mlp = (spec_.gated ? 3.0 : 2.0) * spec_.ffn;
    return rows * (2 * width * (4 * width + mlp) + 4 * segment * width);
  }
  // Block `index` over the residual stream x [rows, width], in place.
  void run(int index, float* x, const BlockRows& rows);
  DType type() const { return type_; }  // of activations between ops, known after declare()
  // Scratch of ops that run between blocks: at least `workspace` bytes as given to allocate().
  void* workspace() const { return workspace_; }
  void want_workspace(size_t bytes) { workspace_bytes_ = std::max(workspace_bytes_, bytes); }

 private:
  struct Block { model::Linear qkv, out, up, down; };
  Status declare_block(model::WeightPlan& plan, const model::Precision& precision, int index);
  size_t needed_workspace(int rows) const;

  BlockSpec spec_;
  device::Device& device_;
  DType type_ = DType::f32;
  std::vector<Block> blocks_;
  ops::BoundVisionAttention attention_op_;
  size_t workspace_bytes_ = 0;
  std::vector<void*> memory_;
  void* qkv_ = nullptr;        // [rows, 3 * width]
  void* attention_ = nullptr;  // [rows, width]
  void* ffn_ = nullptr;        // [rows, ffn]
  void* workspace_ = nullptr;
};

// A tower is held as its file has it (4-bit bodies leave it alone), in one dense type, or in W8A8 where that was asked for.
model::Precision tower_precision(const model::Precision& body);
// A convolution over whole patches as a linear: [width, ...] flattened, columns padded with zeros to `in`.
model::LinearRequest patch_request(const formats::Checkpoint& checkpoint, const std::string& module, int width, int columns, int in,
                                   const model::Precision& precision);
// The type patches are uploaded in: the one a GPU's kernels would round them to before the product, so nothing is lost.
DType patch_type(const model::LinearRequest& request, const device::DeviceInfo& device);
std::vector<std::byte> narrow_patches(const std::vector<float>& patches, DType type);
void narrow_patches(const std::vector<float>& patches, DType type, std::byte* to);
// Columns of a patch padded so that kernels may load whole vectors.
int padded_columns(int columns);

}  // namespace hearth::vision
