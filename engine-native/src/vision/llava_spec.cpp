// Reading LLaVA's and VILA's configurations.
#include "vision/llava.h"

namespace hearth::vision {

using model::Config;
using model::VisionFamily;
using model::VisionSource;
using nlohmann::json;

namespace {

constexpr float clip_mean[3] = {0.48145466f, 0.4578275f, 0.40821073f}, clip_std[3] = {0.26862954f, 0.26130258f, 0.27577711f};
constexpr float half[3] = {0.5f, 0.5f, 0.5f};

Status read_tower(const Config& tower, LlavaSpec& spec) {
  BlockSpec& blocks = spec.blocks;
  HEARTH_ASSIGN(const std::string type, tower.text("model_type", ""));
  if (type != "clip_vision_model" && type != "siglip_vision_model") {
    return unsupported(tower.where() + ": vision tower '" + type.substr(0, 60) + "' is not supported; supported are clip_vision_model, siglip_vision_model");
  }
  spec.clip = type == "clip_vision_model";
  HEARTH_TRY(model::refuse(tower, "num_channels", 3));
  HEARTH_ASSIGN(blocks.width, tower.integer("hidden_size", 1, 1 << 16));
  HEARTH_ASSIGN(blocks.ffn, tower.integer("intermediate_size", 1, 1 << 20));
  HEARTH_ASSIGN(blocks.heads, tower.integer("num_attention_heads", 1, 1024));
  HEARTH_ASSIGN(blocks.layers, tower.integer("num_hidden_layers", 1, 512));
  HEARTH_ASSIGN(blocks.epsilon, tower.number("layer_norm_eps", spec.clip ? 1e-5f : 1e-6f));
  HEARTH_ASSIGN(blocks.activation, model::read_activation(tower, "hidden_act", spec.clip ? "quick_gelu" : "gelu_pytorch_tanh"));
  HEARTH_ASSIGN(spec.image, tower.integer("image_size", 1, 1 << 14));
  HEARTH_ASSIGN(spec.patch, tower.integer("patch_size", 1, spec.image));
  if (blocks.width % blocks.heads != 0) return tower.bad("num_attention_heads", "must divide hidden_size");
  blocks.norm = ops::NormKind::layer;
  blocks.qkv = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
  blocks.out = "self_attn.out_proj";
  blocks.norm1 = "layer_norm1";
  blocks.norm2 = "layer_norm2";
  blocks.up = {"mlp.fc1"};
  blocks.down = "mlp.fc2";
  return Status::ok();
}

// Layer -1 is the last block's output, -2 the one before; 0 would be the embeddings.
Status read_layer(const Config& config, const char* key, LlavaSpec& spec) {
  const int layers = spec.blocks.layers;
  if (config.has(key) && config.data()[key].is_array()) {
    return unsupported(config.where() + ": " + key + " names several layers, which is not supported");
  }
  HEARTH_ASSIGN(const int layer, config.integer(key, -layers - 1, layers, -2));
  spec.layers_run = layer < 0 ? layers + 1 + layer : layer;
  return Status::ok();
}

Status read_projector(const VisionSource& source, const Config& config, LlavaSpec& spec) {
  if (source.family == VisionFamily::llava) {
    HEARTH_ASSIGN(spec.projector_activation, model::read_activation(config, "projector_hidden_act", "gelu"));
    HEARTH_ASSIGN(spec.projector_bias, config.boolean("multimodal_projector_bias", true));
    spec.projector_modules[0] = "multi_modal_projector.linear_1";
    spec.projector_modules[1] = "multi_modal_projector.linear_2";
    return Status::ok();
  }
  HEARTH_ASSIGN(const Config projector, config.object("mm_projector_cfg"));
  HEARTH_ASSIGN(const std::string type, projector.text("mm_projector_type", "linear"));
  if (type == "mlp_downsample") {
    spec.projector = LlavaSpec::Projector::mlp_downsample;
    spec.projector_norm = "mm_projector.layers.1";
    spec.projector_modules[0] = "mm_projector.layers.2";
    spec.projector_modules[1] = "mm_projector.layers.4";
  } else if (type == "mlp2x_gelu") {
    spec.projector_modules[0] = "mm_projector.0";
    spec.projector_modules[1] = "mm_projector.2";
  } else if (type == "linear") {
    spec.projector = LlavaSpec::Projector::linear;
    spec.projector_modules[0] = "mm_projector";
  } else {
    return unsupported(projector.where() + ": mm_projector_type '" + type.substr(0, 60) + "' is not supported; supported are linear, mlp2x_gelu, mlp_downsample");
  }
  // VILA's own folder wraps plain projectors in `layers`.
  if (config.has("llm_cfg") && type != "mlp_downsample") {
    for (std::string& module : spec.projector_modules) {
      if (!module.empty()) module = module == "mm_projector" ? "mm_projector.layers" : "mm_projector.layers" + module.substr(12);
    }
  }
  return Status::ok();
}

Status read_selection(const VisionSource& source, const Config& config, LlavaSpec& spec) {
  const bool llava = source.family == VisionFamily::llava;
  HEARTH_TRY(read_layer(config, llava ? "vision_feature_layer" : "mm_vision_select_layer", spec));
  const char* key = llava ? "vision_feature_select_strategy" : "mm_vision_select_feature";
  HEARTH_ASSIGN(const std::string strategy, config.text(key, llava ? "default" : "patch"));
  if (strategy == "default" || strategy == "patch") {
    spec.drop_first = true;
  } else if (strategy != "full" && strategy != "cls_patch") {
    return unsupported(config.where() + ": " + key + " '" + strategy.substr(0, 60) + "' is not supported");
  }
  return Status::ok();
}

// {"height","width"}, {"shortest_edge"} or a number.
Status read_size(const Config& config, LlavaSpec& spec) {
  ProcessorSpec& processor = spec.processor;
  processor.width = processor.height = processor.shortest_edge = spec.image;
  processor.resize = spec.clip ? ProcessorSpec::Resize::shortest_edge : ProcessorSpec::Resize::exact;
  if (!config.has("size")) return Status::ok();
  const json& size = config.data()["size"];
  const Config object(size.is_object() ? size : config.data(), config.where() + ": size");
  if (size.is_object() && object.has("shortest_edge")) {
    processor.resize = ProcessorSpec::Resize::shortest_edge;
    HEARTH_ASSIGN(processor.shortest_edge, object.integer("shortest_edge", 1, 1 << 14));
  } else if (size.is_object()) {
    processor.resize = ProcessorSpec::Resize::exact;
    HEARTH_ASSIGN(const int height, object.integer("height", 1, 1 << 14));
    HEARTH_ASSIGN(const int width, object.integer("width", 1, 1 << 14));
    if (height != spec.image || width != spec.image)
      return object.bad("height", "and width are not the tower's image_size of " + std::to_string(spec.image));
  } else {
    HEARTH_ASSIGN(processor.shortest_edge, config.integer("size", 1, 1 << 14));
  }
  return Status::ok();
}

Status read_crop(const Config& config, LlavaSpec& spec) {
  if (spec.processor.resize != ProcessorSpec::Resize::shortest_edge) return Status::ok();
  HEARTH_TRY(model::refuse(config, "do_center_crop", true));
  if (!config.has("crop_size")) return Status::ok();
  const json& crop = config.data()["crop_size"];
  const Config object(crop.is_object() ? crop : config.data(), config.where() + ": crop_size");
  HEARTH_ASSIGN(const int height, object.integer(crop.is_object() ? "height" : "crop_size", 1, 1 << 14));
  HEARTH_ASSIGN(const int width, object.integer(crop.is_object() ? "width" : "crop_size", 1, 1 << 14));
  if (height != spec.image || width != spec.image)
    return object.bad("height", "and width are not the tower's image_size of " + std::to_string(spec.image));
  return Status::ok();
}

Status read_processor(const VisionSource& source, const Config& config, LlavaSpec& spec) {
  const Config processor(source.preprocessor, "preprocessor_config.json");
  HEARTH_TRY(read_normalisation(processor, spec.clip ? clip_mean : half, spec.clip ? clip_std : half, spec.processor));
  HEARTH_TRY(read_size(processor, spec));
  HEARTH_TRY(read_crop(processor, spec));
  HEARTH_ASSIGN(spec.processor.pad_square, processor.boolean("do_pad", false));
  if (source.family == VisionFamily::llava) return Status::ok();
  HEARTH_ASSIGN(const std::string aspect, config.text("image_aspect_ratio", "square"));
  if (aspect == "resize") {
    spec.processor.resize = ProcessorSpec::Resize::exact;
  } else if (aspect == "pad") {
    spec.processor.pad_square = true;
  } else if (aspect != "square") {
    return unsupported(config.where() + ": image_aspect_ratio '" + aspect.substr(0, 60) + "' is not supported; supported are resize, pad, square");
  }
  HEARTH_TRY(model::refuse(config, "s2", false));
  HEARTH_TRY(model::refuse(config, "mm_use_im_start_end", false));
  return model::refuse(config, "mm_use_im_patch_token", false);
}

}  // namespace

Result<LlavaSpec> read_llava_spec(const VisionSource& source, int width_out) {
  LlavaSpec spec;
  spec.width_out = width_out;
  const Config config(source.config, "config.json");
  HEARTH_TRY(read_tower(Config(source.tower, "config.json: vision tower"), spec));
  HEARTH_TRY(read_selection(source, config, spec));
  HEARTH_TRY(read_projector(source, config, spec));
  HEARTH_TRY(read_processor(source, config, spec));
  return spec;
}

}  // namespace hearth::vision
