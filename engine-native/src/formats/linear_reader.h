// How one kind of checkpoint stores a linear. A folder's scheme comes from its quantization_config; a module that has a
// plain `.weight` of a float type is dense whatever the scheme.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "formats/tensor_store.h"

namespace hearth::formats {

class LinearReader {
 public:
  virtual ~LinearReader() = default;
  virtual std::string_view format() const = 0;  // as Checkpoint::format
  // Whether the module's quantised tensors are there at all.
  virtual bool has(const TensorStore& store, const std::string& module) const = 0;
  virtual Result<LinearHeader> header(const TensorStore& store, const std::string& module) const = 0;
  virtual Result<LinearData> read(const TensorStore& store, const std::string& module) const = 0;
};

// Chooses by `config.quantization_config` (or an old quant_config.json given as `config`). unsupported names what is not
// read: bits, versions, methods.
Result<std::unique_ptr<LinearReader>> make_linear_reader(const nlohmann::json& quantization, const std::string& file);

// Dense `.weight` [out, in] with an optional `.bias`.
bool has_dense(const TensorStore& store, const std::string& module);
Result<LinearHeader> dense_header(const TensorStore& store, const std::string& module);
Result<LinearData> read_dense(const TensorStore& store, const std::string& module);

// ---- Shared by the readers ----

// Any float tensor (f32, f16, bf16, f64) as f32.
Result<std::vector<float>> to_floats(const TensorView& view);
// The module's `.bias` as f32 [out], empty without one.
Result<std::vector<float>> read_bias(const TensorStore& store, const std::string& module, int64_t out);
// The module's tensor `suffix`, or an error naming it.
Result<const TensorView*> part(const TensorStore& store, const std::string& module, std::string_view suffix);
// Group of the canonical form for a stored group size: the largest of 128, 64, 32 that divides it; 0: none does, and
// the linear is held dense.
int canonical_group(int64_t stored_group);

// 4-bit weights as a reader gathers them, in the stored group size: w = (q - zero) * scale.
struct W4Parts {
  int64_t in = 0, out = 0, group = 0;
  bool symmetric = false;             // every zero is 8, and `zeros` empty
  std::vector<std::byte> packed;      // [out, in/2], low nibble first
  std::vector<float> scales;          // [out, in/group]
  std::vector<uint8_t> zeros;         // [out, in/group]
};
// Header and data of the canonical form for the parts: w4 where a group fits, else dense f16.
LinearHeader w4_header(int64_t in, int64_t out, int64_t group, bool symmetric, bool bias);
// `order` as LinearData::input_order; a dense result is put back into natural order.
LinearData w4_data(W4Parts parts, std::vector<float> bias, std::vector<int32_t> order = {});
// Checks sizes for the canonical form: even `in`, group divides in, both within int.
Status check_w4_sizes(const std::string& what, int64_t in, int64_t out, int64_t group);

}  // namespace hearth::formats
