#pragma once

#include <cstdint>

#include "ops/ops.h"

namespace hearth::formats {

// Row `row` of dense weights (f32, f16 or bf16) as [in] floats.
void dense_row(const ops::HostLinear& linear, int64_t row, float* to);

}  // namespace hearth::formats
