#include "quantize/stored_layer.h"

#include <memory>

#include "formats/packing.h"

namespace hearth::quantize {

using nlohmann::json;

namespace {

// AutoAWQ's three tensors, packed on the writer's threads.
void add_grid(formats::SafetensorsWriter& writer, const std::string& name, int64_t out, int64_t in, std::shared_ptr<const Grid> grid) {
  using Bytes = Result<std::vector<std::byte>>;
  const int64_t groups = static_cast<int64_t>(grid->scales.size()) / out;
  writer.add(name + ".qweight", DType::i32, {in, out / 8}, [=]() -> Bytes {
    std::vector<int32_t> words(static_cast<size_t>(in * (out / 8)));
    formats::pack_awq_gemm(grid->codes.data(), in, out, words.data());
    return formats::to_bytes(words);
  });
  writer.add(name + ".qzeros", DType::i32, {groups, out / 8}, [=]() -> Bytes { return formats::to_bytes(formats::pack_awq_zeros(grid->zeros.data(), out, groups)); });
  writer.add(name + ".scales", DType::f16, {groups, out}, [=]() -> Bytes {
    std::vector<float> scales(grid->scales.size());
    for (int64_t n = 0; n < out; n++) {
      for (int64_t g = 0; g < groups; g++) scales[static_cast<size_t>(g * out + n)] = grid->scales[static_cast<size_t>(n * groups + g)];
    }
    return formats::to_half_bytes(scales);
  });
}

Status add_weight(formats::SafetensorsWriter& writer, const std::string& name, const Weight& weight, const StoredForm& form, Math& math) {
  const std::vector<float> values = form.four_bits && !weight.grid.empty() ? std::vector<float>() : math.download(weight.values);
  const ops::HostLinear dense{.in = static_cast<int>(weight.in), .out = static_cast<int>(weight.out), .format = ops::WeightFormat::f32,
                              .group = 0, .symmetric = false, .data = values.data(), .scales = nullptr, .zeros = nullptr};
  if (!weight.bias.empty()) writer.add(name + ".bias", DType::f16, {weight.out}, formats::to_half_bytes(weight.bias));
  if (!form.four_bits) {
    HEARTH_ASSIGN(const formats::LinearData linear, formats::quantize_w8(dense));
    writer.add(name + ".weight", DType::i8, {weight.out, weight.in}, linear.owned);
    writer.add(name + ".weight_scale", DType::f32, {weight.out, 1}, formats::to_bytes(linear.scales));
    return Status::ok();
  }
  if (!fits_grid(weight, form.group)) {
    writer.add(name + ".weight", DType::f16, {weight.out, weight.in}, formats::to_half_bytes(values));
    return Status::ok();
  }
  auto grid = std::make_shared<Grid>(weight.grid);
  if (grid->empty()) {
    HEARTH_ASSIGN(const formats::LinearData linear, formats::quantize_w4(dense, form.group, false));
    const auto* codes = reinterpret_cast<const uint8_t*>(linear.owned.data());
    *grid = {std::vector<uint8_t>(codes, codes + linear.owned.size()), linear.scales, linear.zeros};
  }
  add_grid(writer, name, weight.out, weight.in, std::move(grid));
  return Status::ok();
}

}  // namespace

Status add_layer(formats::SafetensorsWriter& writer, const OutputFolder& output, const Block& block, const model::DecoderSpec& spec, const StoredForm& form, Math& math) {
  for (const Weight* weight : block.weights()) HEARTH_TRY(add_weight(writer, output.file_module(weight->module), *weight, form, math));
  const std::string layer = "model.layers." + std::to_string(block.index) + ".";
  for (const auto& [name, values] : {std::pair{"input_layernorm", &block.input_norm}, std::pair{"post_attention_layernorm", &block.post_norm}}) {
    std::vector<float> stored = *values;
    for (float& value : stored) value -= spec.norm_offset;
    writer.add(output.file_module(layer + name) + ".weight", DType::f16, {spec.width}, formats::to_half_bytes(stored));
  }
  return Status::ok();
}

json stored_config(const formats::Checkpoint& checkpoint, const OutputFolder& output, const model::DecoderSpec& spec, const StoredForm& form) {
  if (!form.four_bits) {
    const json int8{{"num_bits", 8}, {"type", "int"}, {"symmetric", true}};
    json weights = int8, inputs = int8;
    weights.update({{"strategy", "channel"}, {"dynamic", false}});
    inputs.update({{"strategy", "token"}, {"dynamic", true}});
    json ignore = json::array({"lm_head"});
    for (const char* part : {"vision_tower", "multi_modal_projector", "visual", "mm_projector"}) ignore.push_back(std::string("re:.*") + part + ".*");
    return {{"quant_method", "compressed-tensors"}, {"format", "int-quantized"}, {"quantization_status", "compressed"}, {"ignore", ignore},
            {"config_groups", {{"group_0", {{"targets", json::array({"Linear"})}, {"weights", weights}, {"input_activations", inputs}, {"output_activations", nullptr}}}}}};
  }
  json skipped = json::array();
  for (const char* part : {"vision_tower", "multi_modal_projector", "visual"}) {
    for (const std::string& name : checkpoint.names()) {
      if (name.find(part) == std::string::npos) continue;
      skipped.push_back(part);
      break;
    }
  }
  for (size_t layer = 0; layer < spec.layers.size(); layer++) {
    for (const json& linear : (*output.finished(static_cast<int>(layer)))["linears"]) {
      if (!linear["quantized"].get<bool>()) skipped.push_back(output.file_module(linear["module"].get<std::string>()));
    }
  }
  return {{"quant_method", "awq"}, {"bits", 4}, {"group_size", form.group}, {"zero_point", true}, {"version", "gemm"},
          {"modules_to_not_convert", skipped.empty() ? json() : skipped}};
}

}  // namespace hearth::quantize
