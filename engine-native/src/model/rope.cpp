// Rope frequencies and their scalings. Formulas: RoFormer (Su et al. 2021); "linear" position interpolation (Chen et al.
// 2023); "llama3" as in the Llama 3.1 release: long waves are slowed down, short ones kept, those between are blended.
#include <cmath>
#include <numbers>

#include "model/config.h"

namespace hearth::model {

using nlohmann::json;

namespace {

Status scale_llama3(const Config& rope, std::vector<float>& frequencies) {
  HEARTH_ASSIGN(const float factor, rope.number("factor"));
  HEARTH_ASSIGN(const float low, rope.number("low_freq_factor"));
  HEARTH_ASSIGN(const float high, rope.number("high_freq_factor"));
  HEARTH_ASSIGN(const float context, rope.number("original_max_position_embeddings"));
  if (!(factor >= 1) || !(low > 0) || !(high > low) || !(context >= 1)) return rope.bad("factor", "and its bounds make no scaling");
  for (float& frequency : frequencies) {
    const float wavelength = 2 * std::numbers::pi_v<float> / frequency;
    if (wavelength < context / high) continue;
    const float blend = wavelength > context / low ? 0 : (context / wavelength - low) / (high - low);
    frequency = (1 - blend) * frequency / factor + blend * frequency;
  }
  return Status::ok();
}

}  // namespace

const json& rope_object(const Config& config) {
  static const json empty = json::object();
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (config.has(key) && config.data()[key].is_object()) return config.data()[key];
  }
  return empty;
}

Result<RopeTable> read_rope(const Config& config, int rope_dims, float theta_default) {
  const Config rope(rope_object(config), config.where() + ": rope");
  HEARTH_ASSIGN(float theta, config.number("rope_theta", theta_default));
  HEARTH_ASSIGN(theta, rope.number("rope_theta", theta));
  if (!(theta >= 1)) return rope.bad("rope_theta", "must be at least 1");
  HEARTH_TRY(refuse(rope, "partial_rotary_factor", 1.0));
  RopeTable table;
  table.inverse_frequency.resize(static_cast<size_t>(rope_dims / 2));
  for (int i = 0; i < rope_dims / 2; i++) {
    table.inverse_frequency[static_cast<size_t>(i)] =
        1.0f / std::pow(theta, static_cast<float>(2 * i) / static_cast<float>(rope_dims));
  }
  HEARTH_ASSIGN(const std::string older, rope.text("type", "default"));
  HEARTH_ASSIGN(const std::string type, rope.text("rope_type", older));
  if (type == "linear") {
    HEARTH_ASSIGN(const float factor, rope.number("factor"));
    if (!(factor > 0)) return rope.bad("factor", "must be positive");
    for (float& frequency : table.inverse_frequency) frequency /= factor;
  } else if (type == "llama3") {
    HEARTH_TRY(scale_llama3(rope, table.inverse_frequency));
  } else if (type != "default" && type != "mrope") {  // mrope: default frequencies over three axes
    return unsupported(rope.where() + "_type '" + type.substr(0, 40) + "' is not supported; supported are default, linear, llama3");
  }
  return table;
}

Status read_axes(const Config& config, DecoderSpec& spec, bool interleaved) {
  const json& rope = rope_object(config);
  const auto sections = rope.find("mrope_section");
  if (sections == rope.end() || !sections->is_array() || sections->size() != 3) {
    return config.bad("rope_parameters", "must hold mrope_section, three numbers");
  }
  int total = 0;
  for (size_t axis = 0; axis < 3; axis++) {
    const json& pairs = (*sections)[axis];
    if (!pairs.is_number_integer() || pairs.get<int64_t>() < 0 || pairs.get<int64_t>() > spec.head_dim / 2) {
      return config.bad("mrope_section", "holds " + pairs.dump().substr(0, 40) + ", which is no number of rope pairs");
    }
    spec.axis_sections[axis] = pairs.get<int>();
    total += spec.axis_sections[axis];
  }
  if (total != spec.head_dim / 2) return config.bad("mrope_section", "must add up to half of head_dim");
  spec.position_axes = 3;
  spec.axis_interleaved = interleaved;
  return Status::ok();
}

}  // namespace hearth::model
