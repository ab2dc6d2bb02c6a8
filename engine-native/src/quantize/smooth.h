// SmoothQuant (Xiao et al., ICML 2023): the linears fed by a norm share their input's outliers with their weights, so that
// both fit int8.
#pragma once

#include <vector>

#include "quantize/block.h"

namespace hearth::quantize {

// Largest magnitude of each channel of the two norm-fed inputs of a layer.
struct ChannelRange { std::vector<float> attention, mlp; };

// Moves s_j = max|X_j|^alpha / max|W_j|^(1-alpha) from the norms into q, k, v and gate, up. alpha < 0 leaves the layer.
void smooth_block(Math& math, Block& block, const ChannelRange& range, float alpha);

// Every weight replaced by its int8 rounding, one scale a row.
void round_block_int8(Math& math, Block& block);

}  // namespace hearth::quantize
