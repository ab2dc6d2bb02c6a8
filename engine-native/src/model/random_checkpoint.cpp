#include "model/random_checkpoint.h"

#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "model/model_spec.h"

namespace hearth::model {

using formats::LinearData;
using formats::LinearHeader;
using formats::TensorView;
using nlohmann::json;
using ops::WeightFormat;

namespace {

// xorshift64*: fast, and good enough for numbers that only have to look like weights.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 0x632be59bd9b4e019ull) { next(); }
  uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1dull;
  }
  void fill(void* to, size_t bytes) {
    auto* at = static_cast<uint8_t*>(to);
    for (; bytes >= 8; bytes -= 8, at += 8) {
      const uint64_t value = next();
      std::memcpy(at, &value, 8);
    }
    const uint64_t value = next();
    std::memcpy(at, &value, bytes);
  }
  // From -1 to 1.
  float uniform() { return static_cast<float>(static_cast<int64_t>(next()) >> 11) * 0x1p-52f; }

 private:
  uint64_t state_;
};

uint64_t hash_of(std::string_view text, uint32_t seed) {
  uint64_t hash = 14695981039346656037ull ^ seed;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211ull;
  return hash;
}

// Random sign and mantissa under one exponent: magnitudes from `low` to twice that, `low` a power of two near `spread`/1.5.
void fill_f16(Random& random, float spread, std::vector<std::byte>& to) {
  random.fill(to.data(), to.size());
  const auto exponent = static_cast<uint16_t>(std::max(1, 15 + static_cast<int>(std::floor(std::log2(spread / 1.5f) + 0.5f))) << 10);
  auto* values = reinterpret_cast<uint16_t*>(to.data());
  for (size_t i = 0; i < to.size() / 2; i++) values[i] = static_cast<uint16_t>((values[i] & 0x83ff) | exponent);
}

struct Module { int in, out; bool bias; const Precision* precision; };

class RandomCheckpoint final : public formats::Checkpoint {
 public:
  RandomCheckpoint(json config, const Precision& body, const Precision& head, uint32_t seed)
      : config_(std::move(config)), body_(body), head_(head), seed_(seed) {
    plain_.kind = Precision::Kind::dense;
    plain_.dense = WeightFormat::f16;
  }
  Status make();

  const json& config() const override { return config_; }
  const json& generation_config() const override { return generation_config_; }
  const std::string& path() const override { return path_; }
  std::string_view format() const override { return "random"; }
  const TensorView* find(std::string_view name) const override {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
  }
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, view] : tensors_) all.push_back(name);
    return all;
  }
  bool has_linear(std::string_view module) const override { return modules_.contains(module); }
  Result<LinearHeader> linear_header(std::string_view module) const override;
  Result<LinearData> linear(std::string_view module) const override;

 private:
  void linear_module(const std::string& name, int in, int out, bool bias, const Precision& precision);
  void tensor(const std::string& name, std::vector<int64_t> shape, float center, float spread);
  void table(const std::string& name, std::vector<int64_t> shape, float spread);
  void norm(const std::string& name, int width, bool bias);
  void decoder(const DecoderSpec& spec);
  Status tower(const json& tower);
  void projector(const VisionSource& vision, int width);
  void fill_w4(const Module& module, Random& random, LinearData& linear) const;
  void fill_w8(const Module& module, Random& random, LinearData& linear) const;

  json config_, generation_config_ = json::object();
  Precision body_, head_, plain_;
  uint32_t seed_;
  std::string path_;
  std::map<std::string, Module, std::less<>> modules_;
  std::map<std::string, TensorView, std::less<>> tensors_;
  std::vector<std::vector<std::byte>> storage_;
};

void RandomCheckpoint::linear_module(const std::string& name, int in, int out, bool bias, const Precision& precision) {
  modules_[name] = {in, out, bias, &precision};
  if (bias) tensor(name + ".bias", {out}, 0, 0.1f);
}

void RandomCheckpoint::tensor(const std::string& name, std::vector<int64_t> shape, float center, float spread) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  std::vector<std::byte> bytes(static_cast<size_t>(count) * 4);
  Random random(hash_of(name, seed_));
  auto* values = reinterpret_cast<float*>(bytes.data());
  for (int64_t i = 0; i < count; i++) values[i] = center + spread * random.uniform();
  storage_.push_back(std::move(bytes));
  tensors_[name] = {name, DType::f32, std::move(shape), storage_.back(), "random"};
}

void RandomCheckpoint::table(const std::string& name, std::vector<int64_t> shape, float spread) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  std::vector<std::byte> bytes(static_cast<size_t>(count) * 2);
  Random random(hash_of(name, seed_));
  fill_f16(random, spread, bytes);
  storage_.push_back(std::move(bytes));
  tensors_[name] = {name, DType::f16, std::move(shape), storage_.back(), "random"};
}

void RandomCheckpoint::norm(const std::string& name, int width, bool bias) {
  tensor(name + ".weight", {width}, 1, 0.1f);
  if (bias) tensor(name + ".bias", {width}, 0, 0.1f);
}

void RandomCheckpoint::decoder(const DecoderSpec& spec) {
  table("model.embed_tokens.weight", {spec.vocabulary, spec.width}, 1);
  linear_module(spec.tied ? "model.embed_tokens" : "lm_head", spec.width, spec.vocabulary, false, head_);
  norm("model.norm", spec.width, false);
  const int q = spec.heads * spec.head_dim, k = spec.kv_heads * spec.head_dim;
  for (size_t i = 0; i < spec.layers.size(); i++) {
    const std::string name = "model.layers." + std::to_string(i) + ".";
    norm(name + "input_layernorm", spec.width, false);
    norm(name + "post_attention_layernorm", spec.width, false);
    if (spec.qk_norm) {
      norm(name + "self_attn.q_norm", spec.head_dim, false);
      norm(name + "self_attn.k_norm", spec.head_dim, false);
    }
    linear_module(name + "self_attn.q_proj", spec.width, q, spec.qkv_bias, body_);
    linear_module(name + "self_attn.k_proj", spec.width, k, spec.qkv_bias, body_);
    linear_module(name + "self_attn.v_proj", spec.width, k, spec.qkv_bias, body_);
    linear_module(name + "self_attn.o_proj", q, spec.width, spec.o_bias, body_);
    linear_module(name + "mlp.gate_proj", spec.width, spec.ffn, spec.mlp_bias, body_);
    linear_module(name + "mlp.up_proj", spec.width, spec.ffn, spec.mlp_bias, body_);
    linear_module(name + "mlp.down_proj", spec.ffn, spec.width, spec.mlp_bias, body_);
  }
}

Status RandomCheckpoint::tower(const json& tower) {
  const Config config(tower, "shape: vision tower");
  HEARTH_ASSIGN(const int width, config.integer("hidden_size", 1, 1 << 16));
  HEARTH_ASSIGN(const int ffn, config.integer("intermediate_size", 1, 1 << 20));
  HEARTH_ASSIGN(const int layers, config.integer("num_hidden_layers", 1, 256));
  HEARTH_ASSIGN(const int size, config.integer("image_size", 1, 1 << 14));
  HEARTH_ASSIGN(const int patch, config.integer("patch_size", 1, 1 << 10));
  HEARTH_ASSIGN(const std::string type, config.text("model_type", ""));
  const bool clip = type == "clip_vision_model";
  const std::string root = "vision_tower.vision_model.";
  const int patches = (size / patch) * (size / patch);
  tensor(root + "embeddings.patch_embedding.weight", {width, 3, patch, patch}, 0, 1.0f / static_cast<float>(patch));
  if (!clip) tensor(root + "embeddings.patch_embedding.bias", {width}, 0, 0.1f);
  if (clip) tensor(root + "embeddings.class_embedding", {width}, 0, 0.1f);
  tensor(root + "embeddings.position_embedding.weight", {patches + (clip ? 1 : 0), width}, 0, 0.1f);
  if (clip) norm(root + "pre_layrnorm", width, true);
  norm(root + "post_layernorm", width, true);
  for (int i = 0; i < layers; i++) {
    const std::string name = root + "encoder.layers." + std::to_string(i) + ".";
    norm(name + "layer_norm1", width, true);
    norm(name + "layer_norm2", width, true);
    for (const char* part : {"q_proj", "k_proj", "v_proj", "out_proj"}) linear_module(name + "self_attn." + part, width, width, true, plain_);
    linear_module(name + "mlp.fc1", width, ffn, true, plain_);
    linear_module(name + "mlp.fc2", ffn, width, true, plain_);
  }
  return Status::ok();
}

void RandomCheckpoint::projector(const VisionSource& vision, int width) {
  const int from = vision.tower.at("hidden_size").get<int>();
  if (vision.family == VisionFamily::llava) {
    linear_module("multi_modal_projector.linear_1", from, width, true, plain_);
    linear_module("multi_modal_projector.linear_2", width, width, true, plain_);
    return;
  }
  norm("mm_projector.layers.1", 4 * from, true);
  linear_module("mm_projector.layers.2", 4 * from, width, true, plain_);
  linear_module("mm_projector.layers.4", width, width, true, plain_);
}

Status RandomCheckpoint::make() {
  HEARTH_ASSIGN(const ModelSpec spec, read_model_spec(*this));
  decoder(spec.decoder);
  if (!spec.vision) return Status::ok();
  HEARTH_TRY(tower(spec.vision->tower));
  projector(*spec.vision, spec.decoder.width);
  return Status::ok();
}

Result<LinearHeader> RandomCheckpoint::linear_header(std::string_view name) const {
  const auto found = modules_.find(name);
  if (found == modules_.end()) return corrupt("shape: tensor '" + std::string(name) + ".weight' is missing");
  const Module& module = found->second;
  LinearHeader header;
  header.in = module.in;
  header.out = module.out;
  header.bias = module.bias;
  header.format = WeightFormat::f16;
  const HeldLinear held = module.precision->held(header);
  header.format = held.format;
  header.group = held.group;
  header.symmetric = held.symmetric;
  return header;
}

// Nibbles have a spread of 4.6 around their zero points of 7 and 8.
void RandomCheckpoint::fill_w4(const Module& module, Random& random, LinearData& linear) const {
  const size_t groups = static_cast<size_t>(module.in / linear.host.group) * static_cast<size_t>(module.out);
  linear.owned.resize(static_cast<size_t>(module.out) * static_cast<size_t>(module.in) / 2);
  random.fill(linear.owned.data(), linear.owned.size());
  linear.scales.resize(groups);
  linear.zeros.resize(groups);
  const float scale = 1.0f / (4.6f * std::sqrt(static_cast<float>(module.in)));
  for (size_t i = 0; i < groups; i++) {
    const uint64_t bits = random.next();
    linear.scales[i] = to_float(to_half(scale * (0.75f + 0.5f * static_cast<float>(bits & 255) / 255)));
    linear.zeros[i] = static_cast<uint8_t>(7 + (bits >> 8 & 1));
  }
  if (linear.host.symmetric) linear.zeros.clear();
  else linear.host.zeros = linear.zeros.data();
}

void RandomCheckpoint::fill_w8(const Module& module, Random& random, LinearData& linear) const {
  linear.owned.resize(static_cast<size_t>(module.out) * static_cast<size_t>(module.in));
  random.fill(linear.owned.data(), linear.owned.size());
  for (std::byte& value : linear.owned) {
    if (value == std::byte{0x80}) value = std::byte{0x81};  // int8 weights are symmetric: -127 to 127
  }
  linear.scales.assign(static_cast<size_t>(module.out), 1.0f / (74.0f * std::sqrt(static_cast<float>(module.in))));
}

Result<LinearData> RandomCheckpoint::linear(std::string_view name) const {
  HEARTH_ASSIGN(const LinearHeader header, linear_header(name));
  const Module& module = modules_.find(name)->second;
  Random random(hash_of(name, seed_));
  LinearData linear;
  linear.host.in = header.in;
  linear.host.out = header.out;
  linear.host.format = header.format;
  linear.host.group = header.group;
  linear.host.symmetric = header.symmetric;
  const float spread = 1.0f / std::sqrt(static_cast<float>(header.in));
  if (header.format == WeightFormat::w4) {
    fill_w4(module, random, linear);
  } else if (header.format == WeightFormat::w8) {
    fill_w8(module, random, linear);
  } else if (header.format == WeightFormat::f32) {
    linear.owned.resize(static_cast<size_t>(header.in) * static_cast<size_t>(header.out) * 4);
    auto* values = reinterpret_cast<float*>(linear.owned.data());
    for (size_t i = 0; i < linear.owned.size() / 4; i++) values[i] = 1.7f * spread * random.uniform();
  } else {
    linear.owned.resize(static_cast<size_t>(header.in) * static_cast<size_t>(header.out) * 2);
    fill_f16(random, spread, linear.owned);
    if (header.format == WeightFormat::bf16) {
      auto* values = reinterpret_cast<uint16_t*>(linear.owned.data());
      for (size_t i = 0; i < linear.owned.size() / 2; i++) values[i] = to_bfloat16(to_float(Half{values[i]})).bits;
    }
  }
  if (!linear.scales.empty()) linear.host.scales = linear.scales.data();
  linear.host.data = linear.owned.data();
  if (module.bias) {
    const int64_t shape[] = {module.out};
    HEARTH_ASSIGN(linear.bias, floats(std::string(name) + ".bias", shape));
  }
  return linear;
}

}  // namespace

Result<std::unique_ptr<formats::Checkpoint>> make_random_checkpoint(json config, const Precision& body, const Precision& head, uint32_t seed) {
  auto made = std::make_unique<RandomCheckpoint>(std::move(config), body, head, seed);
  HEARTH_TRY(made->make());
  return std::unique_ptr<formats::Checkpoint>(std::move(made));
}

}  // namespace hearth::model
