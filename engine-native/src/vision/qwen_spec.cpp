// Reading Qwen2.5-VL's and Qwen3-VL's configurations.
#include <algorithm>
#include <cmath>

#include "vision/qwen_vl.h"

namespace hearth::vision {

using model::Config;
using nlohmann::json;

namespace {

// Larger images are resized down to this many patches (4,096 rows of the language model): it bounds the tower's memory.
constexpr int64_t patches_cap = 16384;
constexpr float clip_mean[3] = {0.48145466f, 0.4578275f, 0.40821073f}, clip_std[3] = {0.26862954f, 0.26130258f, 0.27577711f};
constexpr float half[3] = {0.5f, 0.5f, 0.5f};

Result<std::vector<int>> read_blocks(const Config& tower, const char* key, int layers) {
  std::vector<int> blocks;
  if (!tower.has(key)) return tower.bad(key, "is missing");
  const json& list = tower.data()[key];
  if (!list.is_array()) return tower.bad(key, "must be a list of blocks");
  for (const json& block : list) {
    if (!block.is_number_integer() || block.get<int64_t>() < 0 || block.get<int64_t>() >= layers) {
      return tower.bad(key, "holds " + block.dump().substr(0, 40) + ", which is no block of the tower");
    }
    blocks.push_back(block.get<int>());
  }
  return blocks;
}

Status read_sizes(const Config& tower, QwenSpec& spec) {
  BlockSpec& blocks = spec.blocks;
  HEARTH_ASSIGN(blocks.width, tower.integer("hidden_size", 1, 1 << 16));
  HEARTH_ASSIGN(blocks.ffn, tower.integer("intermediate_size", 1, 1 << 20));
  HEARTH_ASSIGN(blocks.heads, tower.integer("num_heads", 1, 1024));
  HEARTH_ASSIGN(blocks.layers, tower.integer("depth", 1, 512));
  HEARTH_ASSIGN(blocks.activation, model::read_activation(tower, "hidden_act", spec.third ? "gelu_pytorch_tanh" : "silu"));
  const char* channels = tower.has("in_channels") ? "in_channels" : "in_chans";
  HEARTH_TRY(model::refuse(tower, channels, 3));
  HEARTH_ASSIGN(spec.patch, tower.integer("patch_size", 1, 256, spec.third ? 16 : 14));
  HEARTH_ASSIGN(spec.frames, tower.integer("temporal_patch_size", 1, 8, 2));
  HEARTH_TRY(model::refuse(tower, "spatial_merge_size", 2));
  HEARTH_ASSIGN(const int out, tower.integer("out_hidden_size", 1, 1 << 20));
  if (out != spec.width_out) return tower.bad("out_hidden_size", "is not the language model's hidden_size of " + std::to_string(spec.width_out));
  if (blocks.width % blocks.heads != 0 || blocks.width / blocks.heads % 4 != 0)
    return tower.bad("num_heads", "must divide hidden_size into heads of a multiple of 4");
  return Status::ok();
}

void name_blocks(QwenSpec& spec) {
  BlockSpec& blocks = spec.blocks;
  blocks.prefix = "visual.blocks.";
  blocks.epsilon = 1e-6f;
  blocks.rope = true;
  blocks.qkv = {"attn.qkv"};
  blocks.out = "attn.proj";
  blocks.norm1 = "norm1";
  blocks.norm2 = "norm2";
  blocks.norm = spec.third ? ops::NormKind::layer : ops::NormKind::rms;
  blocks.gated = !spec.third;
  blocks.up = spec.third ? std::vector<std::string>{"mlp.linear_fc1"} : std::vector<std::string>{"mlp.gate_proj", "mlp.up_proj"};
  blocks.down = spec.third ? "mlp.linear_fc2" : "mlp.down_proj";
}

Status read_attention(const Config& tower, QwenSpec& spec) {
  const int layers = spec.blocks.layers;
  spec.full.assign(static_cast<size_t>(layers), spec.third);
  if (spec.third) {
    HEARTH_ASSIGN(spec.deepstack, read_blocks(tower, "deepstack_visual_indexes", layers));
    HEARTH_ASSIGN(const int positions, tower.integer("num_position_embeddings", 1, 1 << 20));
    spec.position_side = static_cast<int>(std::lround(std::sqrt(static_cast<double>(positions))));
    if (spec.position_side * spec.position_side != positions) return tower.bad("num_position_embeddings", "must be a square");
    return Status::ok();
  }
  HEARTH_ASSIGN(const std::vector<int> full, read_blocks(tower, "fullatt_block_indexes", layers));
  for (const int block : full) spec.full[static_cast<size_t>(block)] = true;
  HEARTH_ASSIGN(const int window, tower.integer("window_size", 1, 1 << 14, 112));
  spec.window_cells = window / spec.merge / spec.patch;
  if (spec.window_cells < 1) return tower.bad("window_size", "is smaller than a merged patch");
  return Status::ok();
}

Status read_processor(const model::VisionSource& source, QwenSpec& spec) {
  ProcessorSpec& processor = spec.processor;
  const Config config(source.preprocessor, "preprocessor_config.json");
  HEARTH_TRY(read_normalisation(config, spec.third ? half : clip_mean, spec.third ? half : clip_std, processor));
  HEARTH_TRY(model::refuse(config, "patch_size", spec.patch));
  HEARTH_TRY(model::refuse(config, "merge_size", spec.merge));
  HEARTH_TRY(model::refuse(config, "temporal_patch_size", spec.frames));
  processor.resize = ProcessorSpec::Resize::smart;
  processor.factor = spec.patch * spec.merge;
  const int area = processor.factor * processor.factor, most = 1 << 30;
  HEARTH_ASSIGN(int least, config.integer("min_pixels", 1, most, 4 * area));
  HEARTH_ASSIGN(int largest, config.integer("max_pixels", 1, most, 1280 * area));
  if (config.has("size") && !config.has("max_pixels")) {
    HEARTH_ASSIGN(const Config size, config.object("size"));
    HEARTH_ASSIGN(least, size.integer("shortest_edge", 1, most, least));
    HEARTH_ASSIGN(largest, size.integer("longest_edge", 1, most, largest));
  }
  const int64_t patch_area = int64_t{spec.patch} * spec.patch;
  processor.pixels_max = std::min<int64_t>(largest, patches_cap * patch_area);
  processor.pixels_min = std::min<int64_t>(least, processor.pixels_max);
  // Enlarging rounds up to whole cells, so a small image may pass the lower bound by a row and a column of them.
  const int64_t up = static_cast<int64_t>(std::sqrt(static_cast<double>(processor.pixels_min)) * 15) / spec.patch * 4 + 64;
  spec.patches_max = static_cast<int>(std::max(processor.pixels_max / patch_area, processor.pixels_min / patch_area + up) + 3) / 4 * 4;
  return Status::ok();
}

}  // namespace

Result<QwenSpec> read_qwen_spec(const model::VisionSource& source, int width_out) {
  QwenSpec spec;
  spec.third = source.family == model::VisionFamily::qwen3_vl;
  spec.width_out = width_out;
  const Config tower(source.tower, "config.json: vision_config");
  HEARTH_TRY(read_sizes(tower, spec));
  name_blocks(spec);
  HEARTH_TRY(read_attention(tower, spec));
  HEARTH_TRY(read_processor(source, spec));
  return spec;
}

}  // namespace hearth::vision
