// Round-to-nearest as the search tries it: weights replaced by what they would be read back as.
#pragma once

#include <cstdint>
#include <span>

namespace hearth::quantize {

// One group of `size` weights, asymmetric 4-bit, as formats::quantize_w4 codes them (scale at FP16 precision).
// from and to may be the same.
void round_group(const float* from, int size, float* to);

// Q(w diag(s)) / diag(s) of one row in groups; `scales` may be empty (s = 1). `to` must not be `row`.
void round_row(const float* row, int64_t columns, int group, std::span<const float> scales, float* to);

// One row as int8 with one scale, or one token's activations: the values after rounding.
void round_int8(const float* from, int64_t count, float* to);

}  // namespace hearth::quantize
