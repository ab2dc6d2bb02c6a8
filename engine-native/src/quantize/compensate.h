// Rounding to 4 bits where every column's error is made up for by the columns after it (Frantar et al., "GPTQ", ICLR 2023),
// with the clipping of each group chosen by what it leaves after that. AWQ's scales decide what the groups look like; this
// decides how they are rounded. The result is an ordinary group-wise asymmetric int4 tensor.
#pragma once

#include <vector>

#include "core/status.h"
#include "core/thread_pool.h"
#include "quantize/block.h"

namespace hearth::quantize {

inline constexpr int64_t compensation_window = 512;  // columns that make up for one another

// For each window of columns: U [size, size], upper triangular, H⁻¹ = UᵀU, H = XᵀX of the inputs, damped.
struct Inverse {
  int64_t columns = 0;
  struct Window { int64_t first = 0, size = 0; Array upper; };
  std::vector<Window> windows;
};

// Of inputs [rows, columns]; a dead channel (never anything but 0) is given a unit of its own.
Inverse invert_inputs(Math& math, const Array& inputs, int group);

struct RoundingResult {
  double loss = 0;     // squared output error over the inputs that `inverse` saw, summed (damping included)
  double clipped = 0;  // groups whose range was narrowed
};

// On the CPU: rounds `weight` in place and fills weight.grid. clip: tries ranges of 1.00, 0.95 … 0.55 of each group's own, else 1.00.
RoundingResult round_compensated(ThreadPool& pool, Weight& weight, const Inverse& inverse, int group, bool clip);

}  // namespace hearth::quantize
