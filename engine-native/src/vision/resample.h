// Pillow's antialiased resize of 8-bit images, to the bit: vision models were trained on its output.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/status.h"

namespace hearth::vision {

enum class Filter { bilinear, bicubic, lanczos, box };

// Pillow's number of a filter, as preprocessor_config.json's `resample` has it (1 lanczos, 2 bilinear, 3 bicubic, 4 box).
Result<Filter> filter_of(int pillow_number);

struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> rgb;  // [height, width, 3]
};

// Resizes RGB8. All sizes are at least 1 and were bounded by the caller.
Image resize(std::span<const uint8_t> rgb, int width, int height, int to_width, int to_height, Filter filter);

}  // namespace hearth::vision
