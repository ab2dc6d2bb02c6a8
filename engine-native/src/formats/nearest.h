#pragma once

#include <cstdint>

#include "ops/ops.h"

namespace hearth::formats {

inline bool is_dense(ops::WeightFormat format) { return format == ops::WeightFormat::f32 || format == ops::WeightFormat::f16 || format == ops::WeightFormat::bf16; }

// Row `row` of dense weights (f32, f16 or bf16) as [in] floats.
void dense_row(const ops::HostLinear& linear, int64_t row, float* to);

}  // namespace hearth::formats
