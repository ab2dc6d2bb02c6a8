// A checkpoint as people have it: a folder or a file, read through one interface whatever its format. Model files are
// untrusted input: every count, offset and product is checked in 64 bits against the file's size before it is used.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"
#include "ops/ops.h"

namespace hearth::tokenizer {
struct GgufVocabulary;
}

namespace hearth::formats {

// A tensor where it lies in the mapped file. `data` stays valid while the checkpoint is open; it may be unaligned.
struct TensorView {
  std::string name;
  DType type = DType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
  std::string file;  // for messages
  int64_t elements() const;
};

// A linear read into the canonical host form (ops::HostLinear), with whatever storage that took.
struct LinearData {
  ops::HostLinear host;
  std::vector<std::byte> owned;   // data when it had to be converted; else it points into the mapping
  std::vector<float> scales;
  std::vector<uint8_t> zeros;
  std::vector<float> bias;        // [out], empty without
  std::vector<int32_t> input_order;  // act-order: column i of the canonical form reads input feature input_order[i]; empty = identity
  float static_scale = 0;         // W8A8 static activation scale
};

// What is known of a linear without reading its weights: enough to bind a kernel and plan memory.
struct LinearHeader {
  int in = 0, out = 0;
  ops::WeightFormat format = ops::WeightFormat::f16;
  int group = 0;
  bool symmetric = false;
  bool bias = false;
  bool act_order = false;
  float static_scale = 0;
  std::string layout;  // not empty: already packed in this layout by `hearth convert`
};

// A linear of a converted folder: rows of `modules` stacked and packed in one device layout. in, format, group, ... are
// those of the packed whole.
struct PackedHeader {
  std::vector<std::string> modules;
  std::vector<int> rows;        // of each module
  std::vector<bool> biases;     // whether each has one
  LinearHeader linear;          // out = sum of rows
  ops::ActivationFormat activations = ops::ActivationFormat::exact;
  int64_t bytes = 0;            // packed
  // The name it goes by: its modules joined by '+'.
  std::string key() const;
};

class Checkpoint {
 public:
  // A Hugging Face folder (safetensors, sharded or not; pytorch .pt of llm-awq), a VILA folder, a .gguf file.
  // Names have one spelling, whatever the file's: the language model is `model.*` and `lm_head` also inside LLaVA and
  // Qwen-VL folders, towers are `vision_tower.*` or `visual.*`, projectors `multi_modal_projector.*` or `mm_projector.*`
  // (VILA's sub-folders get these prefixes). Lookups by any of the other spellings find the same tensor.
  // A VILA folder's config() is the root's with `text_config`, `vision_config` and `mm_projector_config` from its parts.
  static Result<std::unique_ptr<Checkpoint>> open(const std::string& path);
  virtual ~Checkpoint() = default;

  // config.json in Hugging Face terms (GGUF metadata is translated into the same keys).
  virtual const nlohmann::json& config() const = 0;
  // generation_config.json, or an empty object.
  virtual const nlohmann::json& generation_config() const = 0;
  virtual const std::string& path() const = 0;
  // "float", "awq-gemm", "awq-gemv-fast", "llm-awq-v2", "gptq", "compressed-tensors", "gguf", "hearth" for messages.
  virtual std::string_view format() const = 0;

  // What a person should hear when the model is loaded: weights held in another form than they are stored in.
  virtual std::vector<std::string> notes() const { return {}; }

  // The vocabulary of a GGUF file; nullptr elsewhere (a folder's tokenizer has files of its own). A chat template in the
  // file's metadata is config()["chat_template"].
  virtual const tokenizer::GgufVocabulary* vocabulary() const { return nullptr; }

  // Plain tensors by their Hugging Face name (GGUF names are translated). find: nullptr when absent.
  virtual const TensorView* find(std::string_view name) const = 0;
  virtual std::vector<std::string> names() const = 0;
  // A tensor's bytes as the file has them, with nothing converted: `type` says little of a quantised one. nullopt when absent.
  virtual std::optional<TensorView> stored(std::string_view name) const {
    const TensorView* view = find(name);
    return view ? std::optional(*view) : std::nullopt;
  }
  // Name of the config file's and tensor's problem in every error.
  Result<const TensorView*> require(std::string_view name, std::span<const int64_t> shape) const;
  // Any float tensor as f32 values.
  Result<std::vector<float>> floats(std::string_view name, std::span<const int64_t> shape) const;

  // A linear by its module name ("model.layers.0.self_attn.q_proj"), in whichever quantised or dense form it is stored.
  virtual Result<LinearHeader> linear_header(std::string_view module) const = 0;
  virtual Result<LinearData> linear(std::string_view module) const = 0;
  virtual bool has_linear(std::string_view module) const = 0;

  // A converted folder's packed bytes for the modules joined by '+'; empty in every other checkpoint. The header of a
  // module in it has its `layout`.
  virtual const PackedHeader* packed_header(std::string_view key) const { (void)key; return nullptr; }
  virtual std::span<const std::byte> packed_bytes(std::string_view key) const { (void)key; return {}; }
  // The target a converted folder was made for ("cpu-avx2"), else empty.
  virtual std::string_view target() const { return {}; }

  // Copies a tensor's or packed linear's bytes elsewhere, past the mapping where there is a file to read from.
  virtual Status read(std::span<const std::byte> stored, void* to) const {
    std::copy(stored.begin(), stored.end(), static_cast<std::byte*>(to));
    return Status::ok();
  }
  // Pages behind a module, a tensor or a packed linear that has been copied elsewhere may be dropped from this process
  // and from the page cache (unified memory, CPUs). What is read again comes from the disk.
  virtual void forget(std::string_view name) const { (void)name; }
  virtual void forget_all() const {}

  // Brings a converted folder's file to memory whence ops may use it as it lies (MappedFile::settle), reporting bytes done;
  // a report that answers false ends it with Code::cancelled.
  virtual Status settle(const std::function<bool(double)>& progress) { (void)progress; return Status::ok(); }
  // Where a tensor's or packed linear's bytes lie after settle(), for as long as the checkpoint is open; else nullptr.
  virtual const std::byte* settled(std::span<const std::byte> stored) const { (void)stored; return nullptr; }
  // Bytes that lie settled in the page cache.
  virtual int64_t page_cache_bytes() const { return 0; }
};

// Rows of several linears with the same input, one after the other (q, k, v; gate, up). They must agree in format.
Result<LinearData> concatenate(std::span<LinearData> parts, const std::string& name);
// Dense weights rounded to nearest into groups: w4 asymmetric (scale = max(max-min, 1e-5)/15) or symmetric, and w8 per row.
Result<LinearData> quantize_w4(const ops::HostLinear& dense, int group, bool symmetric);
Result<LinearData> quantize_w8(const ops::HostLinear& dense);
// Any linear as dense f16 or bf16 in natural input order, for what no kernel takes (act-order that cannot be gathered).
LinearData to_dense(const LinearData& linear, ops::WeightFormat format);
// Canonical form back to f32 [out, in]: the reference for every check.
std::vector<float> dequantize(const ops::HostLinear& linear);

}  // namespace hearth::formats
