// Image processors as data: what preprocessor_config.json asks for, done as the model's own processor does it.
#pragma once

#include <cstdint>
#include <vector>

#include "core/status.h"
#include "model/config.h"
#include "vision/encoder.h"
#include "vision/resample.h"

namespace hearth::vision {

struct ProcessorSpec {
  enum class Resize {
    exact,          // to width x height, whatever the shape (SigLIP, VILA's "resize")
    shortest_edge,  // the short side to `size`, then a centred crop (CLIP)
    smart,          // near the image's own size, in multiples of `factor`, between two areas (Qwen)
  } resize = Resize::exact;
  Filter filter = Filter::bicubic;
  int width = 0, height = 0;         // of the result (exact, shortest_edge)
  int shortest_edge = 0;
  bool pad_square = false;           // first pad to a square with the mean colour (original LLaVA)
  int factor = 0;                    // smart: patch * merge
  int64_t pixels_min = 0, pixels_max = 0;
  float table[3][256] = {};          // normalised value of each byte, by channel
  uint8_t mean_colour[3] = {};
};

// Mean, std, rescale factor and filter of a preprocessor's JSON (keys absent = the defaults given).
Status read_normalisation(const model::Config& config, const float (&mean)[3], const float (&std)[3], ProcessorSpec& spec);

// Size an image has after the processor. Errors are the image's: sizes the model cannot take.
struct Size { int width = 0, height = 0; };
Result<Size> processed_size(const ProcessorSpec& spec, int width, int height);
// Sizes as Qwen's processor chooses them. (height, width) → multiples of `factor` with an area within bounds.
Result<Size> smart_resize(int width, int height, int factor, int64_t pixels_min, int64_t pixels_max);

// Resized, cropped or padded RGB8 of processed_size.
Result<Image> process(const ProcessorSpec& spec, const Pixels& pixels);

// Cuts a processed image into normalised patches: [grid_h * grid_w, row], each patch (channel, frame, y, x) with the
// image repeated over `frames`, padded with zeros to `row` values. With merge 2, patches come in 2x2 cells.
std::vector<float> to_patches(const ProcessorSpec& spec, const Image& image, int patch, int frames, int merge, int row);

}  // namespace hearth::vision
