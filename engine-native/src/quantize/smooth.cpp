#include "quantize/smooth.h"

#include <algorithm>
#include <cmath>

#include "core/dtype.h"

namespace hearth::quantize {

namespace {

using Weights = std::initializer_list<Weight*>;

std::vector<float> smoothing_scales(Math& math, const std::vector<float>& range, Weights weights, float alpha) {
  std::vector<float> scales(range.size()), weight_range(range.size(), 1e-5f);
  for (const Weight* weight : weights) {
    const std::vector<float> largest = math.largest_magnitude(weight->values);
    for (size_t j = 0; j < range.size(); j++) weight_range[j] = std::max(weight_range[j], largest[j]);
  }
  for (size_t j = 0; j < range.size(); j++) {
    scales[j] = std::clamp(std::pow(std::max(range[j], 1e-5f), alpha) / std::pow(weight_range[j], 1 - alpha), 1e-5f, 1e5f);
  }
  return scales;
}

// As in AWQ: the norm is stored in FP16, and the linears take the scales its rounded weights stand for.
void move_scales(Math& math, std::vector<float>& norm, Weights weights, std::vector<float> scales) {
  for (size_t j = 0; j < norm.size(); j++) {
    const float divided = to_float(to_half(norm[j] / scales[j]));
    const float exact = norm[j] / divided;
    if (std::isfinite(exact) && exact > 0) scales[j] = exact;
    norm[j] = divided;
  }
  for (Weight* weight : weights) math.multiply_columns(weight->values, scales);
}

}  // namespace

void smooth_block(Math& math, Block& block, const ChannelRange& range, float alpha) {
  if (alpha < 0) return;
  const Weights attention = {&block.q, &block.k, &block.v}, mlp = {&block.gate, &block.up};
  move_scales(math, block.input_norm, attention, smoothing_scales(math, range.attention, attention, alpha));
  move_scales(math, block.post_norm, mlp, smoothing_scales(math, range.mlp, mlp, alpha));
}

void round_block_int8(Math& math, Block& block) {
  for (Weight* weight : block.weights()) math.round_int8(weight->values);
}

}  // namespace hearth::quantize
