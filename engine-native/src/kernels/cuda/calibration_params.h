// Parameters of the calibration kernels that ops/calibration.h does not name.
#pragma once

#include "ops/calibration.h"

namespace hearth::kernels::cuda {

struct LargestArgs { const float* x; uint32_t* largest; int64_t count; };  // largest: bits of a float, at least 0
struct HalvesArgs {
  const float* x; void* y; const uint32_t* largest;
  int64_t rows, columns, rows_padded, columns_padded, first, size;
};
struct UnscaleArgs { float* y; const uint32_t* largest_x; const uint32_t* largest_w; int64_t count; };

}  // namespace hearth::kernels::cuda
