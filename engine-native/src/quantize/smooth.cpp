#include "quantize/smooth.h"

#include <algorithm>
#include <cmath>

#include "core/dtype.h"
#include "quantize/rounding.h"

namespace hearth::quantize {

namespace {

std::vector<float> smoothing_scales(const std::vector<float>& range, std::initializer_list<const Weight*> weights, float alpha) {
  std::vector<float> scales(range.size());
  std::vector<float> weight_range(range.size(), 1e-5f);
  for (const Weight* weight : weights) {
    for (size_t at = 0; at < weight->values.size(); at++) {
      float& most = weight_range[at % range.size()];
      most = std::max(most, std::fabs(weight->values[at]));
    }
  }
  for (size_t j = 0; j < range.size(); j++) {
    scales[j] = std::clamp(std::pow(std::max(range[j], 1e-5f), alpha) / std::pow(weight_range[j], 1 - alpha), 1e-5f, 1e5f);
  }
  return scales;
}

// As in AWQ: the norm is stored in FP16, and the linears take the scales its rounded weights stand for.
void move_scales(std::vector<float>& norm, std::initializer_list<Weight*> weights, std::vector<float> scales) {
  for (size_t j = 0; j < norm.size(); j++) {
    const float divided = to_float(to_half(norm[j] / scales[j]));
    const float exact = norm[j] / divided;
    if (std::isfinite(exact) && exact > 0) scales[j] = exact;
    norm[j] = divided;
  }
  for (Weight* weight : weights) {
    for (size_t at = 0; at < weight->values.size(); at++) weight->values[at] *= scales[at % scales.size()];
  }
}

}  // namespace

std::vector<float> channel_range(const std::vector<float>& x, int64_t width) {
  std::vector<float> range(static_cast<size_t>(width));
  for (size_t at = 0; at < x.size(); at++) {
    float& most = range[at % range.size()];
    most = std::max(most, std::fabs(x[at]));
  }
  return range;
}

void smooth_block(Block& block, const ChannelRange& range, float alpha) {
  if (alpha < 0) return;
  move_scales(block.input_norm, {&block.q, &block.k, &block.v}, smoothing_scales(range.attention, {&block.q, &block.k, &block.v}, alpha));
  move_scales(block.post_norm, {&block.gate, &block.up}, smoothing_scales(range.mlp, {&block.gate, &block.up}, alpha));
}

void round_block_int8(ThreadPool& pool, Block& block) {
  for (Weight* weight : block.weights()) {
    pool.parallel([&](int worker, int workers) {
      for (int64_t row = weight->out * worker / workers; row < weight->out * (worker + 1) / workers; row++) {
        float* at = weight->values.data() + row * weight->in;
        round_int8(at, weight->in, at);
      }
    });
  }
}

}  // namespace hearth::quantize
