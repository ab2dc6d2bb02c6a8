#include "vision/processor.h"

#include <algorithm>
#include <cmath>

namespace hearth::vision {

using model::Config;

namespace {

Result<std::vector<float>> read_triple(const Config& config, const char* key, const float (&fallback)[3]) {
  if (!config.has(key)) return std::vector<float>(std::begin(fallback), std::end(fallback));
  const nlohmann::json& list = config.data()[key];
  if (!list.is_array() || list.size() != 3) return config.bad(key, "must hold three numbers");
  std::vector<float> values;
  for (const nlohmann::json& value : list) {
    if (!value.is_number() || !(std::fabs(value.get<double>()) < 1e6)) return config.bad(key, "must hold three numbers of a colour's size");
    values.push_back(value.get<float>());
  }
  return values;
}

// Python's round(): halves to even.
int64_t round_half_even(double x) {
  const double down = std::floor(x), fraction = x - down;
  if (fraction != 0.5) return static_cast<int64_t>(std::floor(x + 0.5));
  return static_cast<int64_t>(std::fmod(down, 2) == 0 ? down : down + 1);
}

Image pad_square(const Pixels& pixels, const uint8_t (&colour)[3]) {
  const int side = std::max(pixels.width, pixels.height);
  Image out{side, side, {}};
  out.rgb.resize(static_cast<size_t>(side) * static_cast<size_t>(side) * 3);
  for (size_t i = 0; i < out.rgb.size(); i++) out.rgb[i] = colour[i % 3];
  const int left = (side - pixels.width) / 2, top = (side - pixels.height) / 2;
  const size_t row = static_cast<size_t>(pixels.width) * 3;
  for (int y = 0; y < pixels.height; y++) {
    const auto from = pixels.rgb.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(y) * row);
    std::copy(from, from + static_cast<std::ptrdiff_t>(row),
              out.rgb.begin() + ((static_cast<std::ptrdiff_t>(top) + y) * side + left) * 3);
  }
  return out;
}

// The centre, padded with black where the image is smaller.
Image centre_crop(const Image& image, int width, int height) {
  if (image.width == width && image.height == height) return image;
  Image out{width, height, {}};
  out.rgb.assign(static_cast<size_t>(width) * static_cast<size_t>(height) * 3, 0);
  // Floor division also where the image is smaller, as the reference has it.
  const auto offset = [](int from, int to) { return static_cast<int>(std::floor((from - to) / 2.0)); };
  const int left = offset(image.width, width), top = offset(image.height, height);
  for (int y = 0; y < height; y++) {
    for (int x = 0; x < width; x++) {
      if (y + top < 0 || y + top >= image.height || x + left < 0 || x + left >= image.width) continue;
      const size_t from = (static_cast<size_t>(y + top) * static_cast<size_t>(image.width) + static_cast<size_t>(x + left)) * 3;
      const size_t to = (static_cast<size_t>(y) * static_cast<size_t>(width) + static_cast<size_t>(x)) * 3;
      for (size_t c = 0; c < 3; c++) out.rgb[to + c] = image.rgb[from + c];
    }
  }
  return out;
}

// The short side becomes `edge`, the long one follows, rounded down.
Size edge_size(int width, int height, int edge) {
  const int64_t shorter = std::min(width, height), longer = std::max(width, height);
  const int other = static_cast<int>(static_cast<double>(edge) * static_cast<double>(longer) / static_cast<double>(shorter));
  return width <= height ? Size{edge, other} : Size{other, edge};
}

}  // namespace

Status read_normalisation(const Config& config, const float (&mean)[3], const float (&std)[3], ProcessorSpec& spec) {
  HEARTH_ASSIGN(const int resample, config.integer("resample", 0, 5, 3));
  HEARTH_ASSIGN(spec.filter, filter_of(resample));
  HEARTH_ASSIGN(const float factor, config.number("rescale_factor", 1.0f / 255));
  (void)factor;  // read for its check; the exact double is taken below
  const double scale = config.has("rescale_factor") ? config.data()["rescale_factor"].get<double>() : 1.0 / 255;
  HEARTH_ASSIGN(const std::vector<float> means, read_triple(config, "image_mean", mean));
  HEARTH_ASSIGN(const std::vector<float> deviations, read_triple(config, "image_std", std));
  for (size_t c = 0; c < 3; c++) {
    if (!(deviations[c] > 0)) return config.bad("image_std", "must be positive");
    // f32 rounding at the same places as the reference: after the rescale, the difference and the quotient.
    for (int b = 0; b < 256; b++) spec.table[c][b] = (static_cast<float>(b * scale) - means[c]) / deviations[c];
    spec.mean_colour[c] = static_cast<uint8_t>(std::clamp(static_cast<double>(means[c]) * 255 + 1e-6, 0.0, 255.0));
  }
  for (const char* key : {"do_resize", "do_rescale", "do_normalize"}) HEARTH_TRY(model::refuse(config, key, true));
  return Status::ok();
}

Result<Size> smart_resize(int width, int height, int factor, int64_t pixels_min, int64_t pixels_max) {
  const double h = height, w = width, f = factor;
  if (std::max(h, w) / std::min(h, w) > 200) {
    return invalid("an image of " + std::to_string(width) + "x" + std::to_string(height) + ": one side is over 200 times the other");
  }
  auto near = [&](double side) { return round_half_even(side / f) * factor; };
  int64_t to_h = near(h), to_w = near(w);
  if (to_h * to_w > pixels_max) {
    const double beta = std::sqrt(h * w / static_cast<double>(pixels_max));
    to_h = std::max<int64_t>(factor, static_cast<int64_t>(std::floor(h / beta / f)) * factor);
    to_w = std::max<int64_t>(factor, static_cast<int64_t>(std::floor(w / beta / f)) * factor);
  } else if (to_h * to_w < pixels_min) {
    const double beta = std::sqrt(static_cast<double>(pixels_min) / (h * w));
    to_h = static_cast<int64_t>(std::ceil(h * beta / f)) * factor;
    to_w = static_cast<int64_t>(std::ceil(w * beta / f)) * factor;
  }
  return Size{static_cast<int>(to_w), static_cast<int>(to_h)};
}

Result<Size> processed_size(const ProcessorSpec& spec, int width, int height) {
  if (width < 1 || height < 1) return invalid("an image without pixels");
  if (spec.resize == ProcessorSpec::Resize::smart) return smart_resize(width, height, spec.factor, spec.pixels_min, spec.pixels_max);
  return Size{spec.width, spec.height};
}

Result<Image> process(const ProcessorSpec& spec, const Pixels& pixels) {
  HEARTH_ASSIGN(const Size size, processed_size(spec, pixels.width, pixels.height));
  Pixels from = pixels;
  Image square;
  constexpr int side_max = 10000;
  if (spec.pad_square && std::max(pixels.width, pixels.height) > side_max) {
    return invalid("an image of " + std::to_string(pixels.width) + "x" + std::to_string(pixels.height) + ": a side is over " + std::to_string(side_max));
  }
  if (spec.pad_square && pixels.width != pixels.height) {
    square = pad_square(pixels, spec.mean_colour);
    from = {square.width, square.height, square.rgb};
  }
  if (spec.resize != ProcessorSpec::Resize::shortest_edge) {
    return resize(from.rgb, from.width, from.height, size.width, size.height, spec.filter);
  }
  // A needle would grow into gigapixels before it is cropped: only the part that the crop keeps is wanted.
  constexpr int64_t ratio_max = 200;
  if (std::max(from.width, from.height) > ratio_max * std::min(from.width, from.height)) {
    return invalid("an image of " + std::to_string(from.width) + "x" + std::to_string(from.height) + ": one side is over 200 times the other");
  }
  const Size scaled = edge_size(from.width, from.height, spec.shortest_edge);
  return centre_crop(resize(from.rgb, from.width, from.height, scaled.width, scaled.height, spec.filter), size.width, size.height);
}

namespace {

// One patch: channels, frames, rows, columns.
void write_patch(const ProcessorSpec& spec, const Image& image, int x0, int y0, int patch, int frames, float* to) {
  for (int c = 0; c < 3; c++) {
    const float* frame = to;
    for (int y = 0; y < patch; y++) {
      const uint8_t* from = image.rgb.data() + (static_cast<size_t>(y0 + y) * static_cast<size_t>(image.width) + static_cast<size_t>(x0)) * 3;
      for (int x = 0; x < patch; x++) *to++ = spec.table[c][from[static_cast<size_t>(x) * 3 + static_cast<size_t>(c)]];
    }
    for (int i = 1; i < frames; i++) to = std::copy(frame, frame + patch * patch, to);
  }
}

}  // namespace

std::vector<float> to_patches(const ProcessorSpec& spec, const Image& image, int patch, int frames, int merge, int row) {
  const int grid_h = image.height / patch, grid_w = image.width / patch;
  std::vector<float> patches(static_cast<size_t>(grid_h) * static_cast<size_t>(grid_w) * static_cast<size_t>(row));
  float* to = patches.data();
  for (int y = 0; y < grid_h; y += merge) {
    for (int x = 0; x < grid_w; x += merge) {
      for (int dy = 0; dy < merge; dy++) {
        for (int dx = 0; dx < merge; dx++, to += row) write_patch(spec, image, (x + dx) * patch, (y + dy) * patch, patch, frames, to);
      }
    }
  }
  return patches;
}

}  // namespace hearth::vision
