// The algorithm of Pillow's Resample.c: separable convolution, each pass rounded to 8 bits, coefficients in 22-bit fixed
// point. When an image shrinks the filter widens with it, so every source pixel counts.
#include "vision/resample.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace hearth::vision {

namespace {

constexpr int precision_bits = 32 - 8 - 2;

double box_filter(double x) { return x > -0.5 && x <= 0.5 ? 1 : 0; }
double bilinear_filter(double x) { return std::max(0.0, 1 - std::fabs(x)); }
double bicubic_filter(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}
double sinc(double x) {
  if (x == 0) return 1;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}
double lanczos_filter(double x) { return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

struct Kernel { double (*function)(double); double support; };

Kernel kernel_of(Filter filter) {
  switch (filter) {
    case Filter::bilinear: return {bilinear_filter, 1};
    case Filter::bicubic: return {bicubic_filter, 2};
    case Filter::lanczos: return {lanczos_filter, 3};
    case Filter::box: break;
  }
  return {box_filter, 0.5};
}

// For each output position the source run it reads and its weights.
struct Weights {
  struct Run { int first, count; };
  std::vector<Run> runs;
  std::vector<int32_t> values;  // [to, stride]
  int stride = 0;
};

Weights make_weights(int from, int to, Filter filter) {
  const Kernel kernel = kernel_of(filter);
  const double scale = static_cast<double>(from) / to, filter_scale = std::max(scale, 1.0);
  const double support = kernel.support * filter_scale;
  Weights weights;
  weights.stride = static_cast<int>(std::ceil(support)) * 2 + 1;
  weights.runs.resize(static_cast<size_t>(to));
  weights.values.assign(static_cast<size_t>(to) * static_cast<size_t>(weights.stride), 0);
  std::vector<double> exact(static_cast<size_t>(weights.stride));
  for (int at = 0; at < to; at++) {
    const double center = (at + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(center - support + 0.5));
    const int count = std::min(from, static_cast<int>(center + support + 0.5)) - first;
    double sum = 0;
    for (int i = 0; i < count; i++) {
      exact[static_cast<size_t>(i)] = kernel.function((i + first - center + 0.5) * (1.0 / filter_scale));
      sum += exact[static_cast<size_t>(i)];
    }
    int32_t* fixed = weights.values.data() + static_cast<size_t>(at) * static_cast<size_t>(weights.stride);
    for (int i = 0; i < count; i++) {
      const double value = sum != 0 ? exact[static_cast<size_t>(i)] / sum : exact[static_cast<size_t>(i)];
      fixed[i] = static_cast<int32_t>((value < 0 ? -0.5 : 0.5) + value * (1 << precision_bits));
    }
    weights.runs[static_cast<size_t>(at)] = {first, count};
  }
  return weights;
}

uint8_t to_byte(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> precision_bits, 0, 255)); }

Image horizontal(std::span<const uint8_t> rgb, int width, int height, int to_width, Filter filter) {
  const Weights weights = make_weights(width, to_width, filter);
  Image out{to_width, height, {}};
  out.rgb.resize(static_cast<size_t>(to_width) * static_cast<size_t>(height) * 3);
  for (int y = 0; y < height; y++) {
    const uint8_t* row = rgb.data() + static_cast<size_t>(y) * static_cast<size_t>(width) * 3;
    uint8_t* to = out.rgb.data() + static_cast<size_t>(y) * static_cast<size_t>(to_width) * 3;
    for (int x = 0; x < to_width; x++, to += 3) {
      const Weights::Run run = weights.runs[static_cast<size_t>(x)];
      const int32_t* value = weights.values.data() + static_cast<size_t>(x) * static_cast<size_t>(weights.stride);
      int32_t r = 1 << (precision_bits - 1), g = r, b = r;
      const uint8_t* from = row + static_cast<size_t>(run.first) * 3;
      for (int i = 0; i < run.count; i++, from += 3) {
        r += from[0] * value[i];
        g += from[1] * value[i];
        b += from[2] * value[i];
      }
      to[0] = to_byte(r);
      to[1] = to_byte(g);
      to[2] = to_byte(b);
    }
  }
  return out;
}

Image vertical(std::span<const uint8_t> rgb, int width, int height, int to_height, Filter filter) {
  const Weights weights = make_weights(height, to_height, filter);
  const size_t row = static_cast<size_t>(width) * 3;
  Image out{width, to_height, {}};
  out.rgb.resize(row * static_cast<size_t>(to_height));
  std::vector<int32_t> sums(row);
  for (int y = 0; y < to_height; y++) {
    const Weights::Run run = weights.runs[static_cast<size_t>(y)];
    const int32_t* value = weights.values.data() + static_cast<size_t>(y) * static_cast<size_t>(weights.stride);
    std::fill(sums.begin(), sums.end(), 1 << (precision_bits - 1));
    for (int i = 0; i < run.count; i++) {  // whole rows at a time: the inner loop is contiguous
      const uint8_t* from = rgb.data() + static_cast<size_t>(run.first + i) * row;
      for (size_t x = 0; x < row; x++) sums[x] += from[x] * value[i];
    }
    uint8_t* to = out.rgb.data() + static_cast<size_t>(y) * row;
    for (size_t x = 0; x < row; x++) to[x] = to_byte(sums[x]);
  }
  return out;
}

}  // namespace

Result<Filter> filter_of(int pillow_number) {
  switch (pillow_number) {
    case 1: return Filter::lanczos;
    case 2: return Filter::bilinear;
    case 3: return Filter::bicubic;
    case 4: return Filter::box;
    default: return unsupported("preprocessor: resample " + std::to_string(pillow_number) + " is not supported");
  }
}

Image resize(std::span<const uint8_t> rgb, int width, int height, int to_width, int to_height, Filter filter) {
  Image out{width, height, {}};
  if (to_width == width) {
    out.rgb.assign(rgb.begin(), rgb.end());
  } else {
    out = horizontal(rgb, width, height, to_width, filter);
  }
  if (to_height == height) return out;
  return vertical(out.rgb, to_width, height, to_height, filter);
}

}  // namespace hearth::vision
