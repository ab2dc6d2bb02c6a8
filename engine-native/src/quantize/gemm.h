// Dense f32 matrix products for the calibration passes: y = x wᵀ, both row-major, blocked and packed for the caches.
// (The engine's own linears take weights packed once for many calls; here every call brings new weights.)
#pragma once

#include <cstdint>

#include "core/thread_pool.h"

namespace hearth::quantize {

struct Matrix {
  const float* data = nullptr;
  int64_t rows = 0, columns = 0;
  int64_t stride = 0;  // elements between rows
};

// y [x.rows, w.rows] (stride y_stride) = x wᵀ, or += with `accumulate`. x.columns == w.columns. On the calling thread.
void multiply(const Matrix& x, const Matrix& w, float* y, int64_t y_stride, bool accumulate);
// The same over all threads of the pool, split by rows of w.
void multiply(ThreadPool& pool, const Matrix& x, const Matrix& w, float* y, int64_t y_stride, bool accumulate);

}  // namespace hearth::quantize
