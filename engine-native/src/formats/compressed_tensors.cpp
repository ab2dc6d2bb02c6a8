#include "formats/compressed_tensors.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "formats/gptq.h"
#include "formats/json_text.h"
#include "formats/packing.h"

namespace hearth::formats {

using nlohmann::json;

namespace {

struct Packed { int64_t in = 0, out = 0, group = 0; bool symmetric = true; };

// Sizes come from the tensors, so that several config groups may stand in one file.
class CompressedTensorsReader final : public LinearReader {
 public:
  std::string_view format() const override { return "compressed-tensors"; }

  bool has(const TensorStore& store, const std::string& module) const override {
    if (store.find(module + ".weight_packed")) return true;
    const TensorView* weight = store.find(module + ".weight");
    return weight && weight->type == DType::i8;
  }

  Result<LinearHeader> header(const TensorStore& store, const std::string& module) const override {
    if (!store.find(module + ".weight_packed")) return int8_header(store, module);
    HEARTH_ASSIGN(const Packed packed, check_packed(store, module));
    HEARTH_ASSIGN(const std::vector<int32_t> order, order_of(store, module, packed));
    LinearHeader header = w4_header(packed.in, packed.out, packed.group, packed.symmetric, store.find(module + ".bias") != nullptr);
    header.act_order = !order.empty() && header.group;
    return header;
  }

  Result<LinearData> read(const TensorStore& store, const std::string& module) const override {
    return store.find(module + ".weight_packed") ? read_packed(store, module) : read_int8(store, module);
  }

 private:
  // weight_packed int32 [out, in/8], low nibble first, offset 8: the canonical rows as they are.
  Result<LinearData> read_packed(const TensorStore& store, const std::string& module) const {
    HEARTH_ASSIGN(const Packed packed, check_packed(store, module));
    HEARTH_ASSIGN(std::vector<int32_t> order, order_of(store, module, packed));
    const auto bytes = store.find(module + ".weight_packed")->data;
    W4Parts parts{.in = packed.in, .out = packed.out, .group = packed.group, .symmetric = packed.symmetric,
                  .packed = {bytes.begin(), bytes.end()}, .scales = {}, .zeros = {}};
    if (!order.empty()) permute_columns(reinterpret_cast<uint8_t*>(parts.packed.data()), packed.in, packed.out, order);
    HEARTH_ASSIGN(parts.scales, to_floats(*store.find(module + ".weight_scale")));
    if (!packed.symmetric) parts.zeros = zeros_of(*store.find(module + ".weight_zero_point"), packed);
    HEARTH_ASSIGN(std::vector<float> bias, read_bias(store, module, packed.out));
    return w4_data(std::move(parts), std::move(bias), std::move(order));
  }

  // weight_zero_point int32 [out/8, groups], packed along out, offset 8 like the weights.
  static std::vector<uint8_t> zeros_of(const TensorView& view, const Packed& packed) {
    const int64_t groups = packed.in / packed.group;
    std::vector<uint8_t> zeros(static_cast<size_t>(packed.out * groups));
    for (int64_t n = 0; n < packed.out; n++) {
      for (int64_t g = 0; g < groups; g++) {
        const uint32_t word = load_at<uint32_t>(view.data.data(), n / 8 * groups + g);
        zeros[static_cast<size_t>(n * groups + g)] = static_cast<uint8_t>(word >> (n % 8 * 4) & 15);
      }
    }
    return zeros;
  }

  static Result<Packed> check_packed(const TensorStore& store, const std::string& module) {
    HEARTH_ASSIGN(const TensorView* weight, part(store, module, "weight_packed"));
    HEARTH_ASSIGN(const TensorView* scale, part(store, module, "weight_scale"));
    HEARTH_TRY(expect(*weight, DType::i32, {{-1, -1}}));
    Packed packed{.in = weight->shape[1] * 8, .out = weight->shape[0], .group = 0, .symmetric = true};
    if (const TensorView* shape = store.find(module + ".weight_shape")) HEARTH_TRY(check_shape(*shape, packed));
    HEARTH_TRY(expect(*scale, scale->type, {{packed.out, -1}}));
    const int64_t groups = scale->shape[1];
    if (groups < 1 || packed.in % groups != 0) {
      return corrupt(label(*scale) + ": " + std::to_string(groups) + " groups do not divide " + std::to_string(packed.in) + " inputs");
    }
    packed.group = packed.in / groups;
    HEARTH_TRY(check_w4_sizes(label(*weight), packed.in, packed.out, packed.group));
    if (const TensorView* zero = store.find(module + ".weight_zero_point")) {
      if (packed.out % 8 != 0) return unsupported(label(*zero) + ": zero points of " + std::to_string(packed.out) + " outputs, not a multiple of 8");
      HEARTH_TRY(expect(*zero, DType::i32, {{packed.out / 8, groups}}));
      packed.symmetric = false;
    }
    return packed;
  }

  static Status check_shape(const TensorView& view, const Packed& packed) {
    const bool wide = view.type == DType::i64;
    HEARTH_TRY(expect(view, wide ? DType::i64 : DType::i32, {{2}}));
    for (const int i : {0, 1}) {
      const int64_t size = wide ? load_at<int64_t>(view.data.data(), i) : load_at<int32_t>(view.data.data(), i);
      const int64_t expected = i == 0 ? packed.out : packed.in;
      if (size != expected)
        return corrupt(label(view) + " says " + std::to_string(size) + " where the packed weight has " + std::to_string(expected));
    }
    return Status::ok();
  }

  static Result<std::vector<int32_t>> order_of(const TensorStore& store, const std::string& module, const Packed& packed) {
    const TensorView* g_idx = store.find(module + ".weight_g_idx");
    if (!g_idx) return std::vector<int32_t>();
    return input_order_of(*g_idx, packed.in, packed.group);
  }

  // weight int8 [out, in], weight_scale [out, 1], [out] or [1]; input_scale [1] when activations are static.
  static Result<LinearHeader> int8_header(const TensorStore& store, const std::string& module) {
    HEARTH_ASSIGN(const TensorView* weight, part(store, module, "weight"));
    HEARTH_ASSIGN(const TensorView* scale, part(store, module, "weight_scale"));
    HEARTH_TRY(expect(*weight, DType::i8, {{-1, -1}}));
    constexpr int64_t most = std::numeric_limits<int>::max();
    const int64_t out = weight->shape[0], in = weight->shape[1];
    if (out < 1 || in < 1 || out > most || in > most) return corrupt(label(*weight) + " has shape " + shape_text(weight->shape));
    if (scale->elements() != out && scale->elements() != 1) {
      return corrupt(label(*scale) + " has shape " + shape_text(scale->shape) + ", expected one scale an output");
    }
    for (const char* name : {"weight_zero_point", "input_zero_point"}) HEARTH_TRY(expect_zero(store.find(module + "." + name)));
    LinearHeader header;
    header.in = static_cast<int>(in);
    header.out = static_cast<int>(out);
    header.format = ops::WeightFormat::w8;
    header.symmetric = true;
    header.bias = store.find(module + ".bias") != nullptr;
    HEARTH_ASSIGN(header.static_scale, static_scale(store.find(module + ".input_scale")));
    return header;
  }

  static Result<LinearData> read_int8(const TensorStore& store, const std::string& module) {
    HEARTH_ASSIGN(const LinearHeader header, int8_header(store, module));
    LinearData linear;
    HEARTH_ASSIGN(linear.scales, to_floats(*store.find(module + ".weight_scale")));
    linear.scales.resize(static_cast<size_t>(header.out), linear.scales[0]);  // one scale for all rows is repeated
    HEARTH_ASSIGN(linear.bias, read_bias(store, module, header.out));
    linear.static_scale = header.static_scale;
    linear.host = {.in = header.in, .out = header.out, .format = ops::WeightFormat::w8, .group = 0, .symmetric = true,
                   .data = store.find(module + ".weight")->data.data(), .scales = linear.scales.data(), .zeros = nullptr};
    return linear;
  }

  static Status expect_zero(const TensorView* view) {
    if (!view) return Status::ok();
    const bool zero = std::all_of(view->data.begin(), view->data.end(), [](std::byte b) { return b == std::byte{0}; });
    return zero ? Status::ok() : unsupported(label(*view) + ": asymmetric int8 is not read");
  }

  static Result<float> static_scale(const TensorView* view) {
    if (!view) return 0.0f;
    HEARTH_ASSIGN(const std::vector<float> values, to_floats(*view));
    if (values.size() != 1 || !(values[0] > 0) || values[0] > 1e30f) return corrupt(label(*view) + ": not one positive scale");
    return values[0];
  }
};

Status check_group(const json& group, const std::string& file, const std::string& name) {
  const std::string where = file + ": config_groups." + name;
  const json* weights = member(group, "weights");
  if (!weights) return unsupported(where + ": no 'weights'");
  const auto bits = integer_member(*weights, "num_bits");
  const std::string type = string_member(*weights, "type");
  if (type != "int" || (bits != 4 && bits != 8)) {
    return unsupported(where + ": weights of " + std::to_string(bits.value_or(0)) + "-bit '" + type + "'; 4-bit and 8-bit int are read");
  }
  if (bits == 8 && !bool_member(*weights, "symmetric").value_or(true)) return unsupported(where + ": asymmetric 8-bit weights");
  const std::string strategy = string_member(*weights, "strategy");
  const bool known = strategy == "group" || strategy == "channel" || (strategy == "tensor" && bits == 8);
  if (!known) return unsupported(where + ": strategy '" + strategy + "'");
  const json* inputs = member(group, "input_activations");
  if (!inputs) return bits == 4 ? Status::ok() : unsupported(where + ": 8-bit weights without 8-bit activations");
  const bool int8 = integer_member(*inputs, "num_bits") == 8 && string_member(*inputs, "type") == "int" && bool_member(*inputs, "symmetric").value_or(true);
  return int8 ? Status::ok() : unsupported(where + ": input_activations other than symmetric int8");
}

}  // namespace

Result<std::unique_ptr<LinearReader>> make_compressed_tensors_reader(const json& config, const std::string& file) {
  const std::string format = string_member(config, "format");
  const json* groups = member(config, "config_groups");
  if (!groups || !groups->is_object() || groups->empty()) return corrupt(file + ": compressed-tensors without config_groups");
  for (const auto& [name, group] : groups->items()) HEARTH_TRY(check_group(group, file, name));
  if (format != "pack-quantized" && format != "int-quantized" && format != "mixed-precision") {
    return unsupported(file + ": compressed-tensors format '" + format + "'; pack-quantized and int-quantized are read");
  }
  if (const json* kv = member(config, "kv_cache_scheme"); kv && !kv->empty()) return unsupported(file + ": kv_cache_scheme");
  return std::unique_ptr<LinearReader>(std::make_unique<CompressedTensorsReader>());
}

}  // namespace hearth::formats
