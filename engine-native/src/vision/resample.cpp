// The algorithm of Pillow's Resample.c: separable convolution, each pass rounded to 8 bits, coefficients in 22-bit fixed
// point. When an image shrinks the filter widens with it, so every source pixel counts.
#include "vision/resample.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#ifdef __x86_64__
#include <immintrin.h>
#endif

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

constexpr int32_t half_unit = 1 << (precision_bits - 1);

void horizontal_row(const uint8_t* row, const Weights& weights, uint8_t* to) {
  for (size_t x = 0; x < weights.runs.size(); x++, to += 3) {
    const Weights::Run run = weights.runs[x];
    const int32_t* value = weights.values.data() + x * static_cast<size_t>(weights.stride);
    int32_t r = half_unit, g = r, b = r;
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

// sums[x] += from[x] * value
void add_row(const uint8_t* from, int32_t value, int32_t* sums, size_t count) {
  for (size_t x = 0; x < count; x++) sums[x] += from[x] * value;
}

#ifdef __x86_64__

// Weights as pairs of 16-bit halves, weight = high * 2^12 + low, for instructions that multiply 16-bit pairs: the sums are
// the same 32-bit numbers. Four taps are {low 0, low 1}, {high 0, high 1}, {low 2, low 3}, {high 2, high 3}.
struct PairedWeights {
  std::vector<int32_t> words;  // [to, stride]
  int stride = 0;
};

constexpr int low_bits = 12, taps_at_once = 4;

PairedWeights pair_weights(const Weights& weights) {
  PairedWeights paired;
  paired.stride = (weights.stride + taps_at_once - 1) / taps_at_once * taps_at_once;
  paired.words.assign(weights.runs.size() * static_cast<size_t>(paired.stride), 0);
  auto pair = [](int32_t first, int32_t second) { return static_cast<int32_t>((static_cast<uint32_t>(second) << 16) | (static_cast<uint32_t>(first) & 0xffff)); };
  for (size_t x = 0; x < weights.runs.size(); x++) {
    const int32_t* from = weights.values.data() + x * static_cast<size_t>(weights.stride);
    int32_t* to = paired.words.data() + x * static_cast<size_t>(paired.stride);
    for (int i = 0; i < weights.stride; i += 2) {
      const int32_t a = from[i], b = i + 1 < weights.stride ? from[i + 1] : 0;
      constexpr int32_t mask = (1 << low_bits) - 1;
      to[i] = pair(a & mask, b & mask);
      to[i + 1] = pair(a >> low_bits, b >> low_bits);
    }
  }
  return paired;
}

// Two rows at a time, one in each half of a register. Reads up to 16 bytes from any tap on.
__attribute__((target("avx2"))) void horizontal_rows_avx2(const uint8_t* row0, const uint8_t* row1, const Weights& weights,
                                                           const PairedWeights& paired, uint8_t* to0, uint8_t* to1) {
  // Pixels 0 and 1 (2 and 3) as 16-bit pairs of each channel.
  const __m256i first = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
  const __m256i second = _mm256_broadcastsi128_si256(_mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
  const __m256i rounding = _mm256_set1_epi32(half_unit);
  for (size_t x = 0; x < weights.runs.size(); x++) {
    const Weights::Run run = weights.runs[x];
    const size_t offset = static_cast<size_t>(run.first) * 3;
    const int32_t* value = paired.words.data() + x * static_cast<size_t>(paired.stride);
    __m256i low = rounding, high = _mm256_setzero_si256();
    for (int i = 0; i < run.count; i += taps_at_once) {
      const size_t at = offset + static_cast<size_t>(i) * 3;
      const __m256i pixels = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row0 + at))),
                                                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(row1 + at)), 1);
      const __m256i a = _mm256_shuffle_epi8(pixels, first), b = _mm256_shuffle_epi8(pixels, second);
      low = _mm256_add_epi32(low, _mm256_madd_epi16(a, _mm256_set1_epi32(value[i])));
      high = _mm256_add_epi32(high, _mm256_madd_epi16(a, _mm256_set1_epi32(value[i + 1])));
      low = _mm256_add_epi32(low, _mm256_madd_epi16(b, _mm256_set1_epi32(value[i + 2])));
      high = _mm256_add_epi32(high, _mm256_madd_epi16(b, _mm256_set1_epi32(value[i + 3])));
    }
    alignas(32) int32_t sums[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums), _mm256_add_epi32(low, _mm256_slli_epi32(high, low_bits)));
    for (size_t c = 0; c < 3; c++) {
      to0[x * 3 + c] = to_byte(sums[c]);
      to1[x * 3 + c] = to_byte(sums[4 + c]);
    }
  }
}

__attribute__((target("avx2"))) void add_row_avx2(const uint8_t* from, int32_t value, int32_t* sums, size_t count) {
  const __m256i weight = _mm256_set1_epi32(value);
  size_t x = 0;
  for (; x + 8 <= count; x += 8) {
    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + x)));
    auto* to = reinterpret_cast<__m256i*>(sums + x);
    _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), _mm256_mullo_epi32(bytes, weight)));
  }
  for (; x < count; x++) sums[x] += from[x] * value;
}

bool has_avx2() {
  static const bool has = __builtin_cpu_supports("avx2");
  return has;
}

void horizontal_avx2(std::span<const uint8_t> rgb, int width, int height, const Weights& weights, Image& out) {
  const PairedWeights paired = pair_weights(weights);
  const size_t row = static_cast<size_t>(width) * 3, to_row = static_cast<size_t>(out.width) * 3;
  constexpr size_t overrun = 16;
  std::vector<uint8_t> last[2] = {std::vector<uint8_t>(row + overrun), std::vector<uint8_t>(row + overrun)};
  for (int y = 0; y < height; y += 2) {
    const int rows[2] = {y, std::min(y + 1, height - 1)};
    const uint8_t* from[2];
    for (int i = 0; i < 2; i++) {
      from[i] = rgb.data() + static_cast<size_t>(rows[i]) * row;
      if ((static_cast<size_t>(rows[i]) + 1) * row + overrun <= rgb.size()) continue;  // what follows is the picture's own
      std::copy(from[i], from[i] + row, last[i].begin());
      from[i] = last[i].data();
    }
    horizontal_rows_avx2(from[0], from[1], weights, paired, out.rgb.data() + static_cast<size_t>(rows[0]) * to_row, out.rgb.data() + static_cast<size_t>(rows[1]) * to_row);
  }
}

#endif

Image horizontal(std::span<const uint8_t> rgb, int width, int height, int to_width, Filter filter) {
  const Weights weights = make_weights(width, to_width, filter);
  Image out{to_width, height, {}};
  out.rgb.resize(static_cast<size_t>(to_width) * static_cast<size_t>(height) * 3);
#ifdef __x86_64__
  if (has_avx2()) {
    horizontal_avx2(rgb, width, height, weights, out);
    return out;
  }
#endif
  for (int y = 0; y < height; y++) {
    horizontal_row(rgb.data() + static_cast<size_t>(y) * static_cast<size_t>(width) * 3, weights, out.rgb.data() + static_cast<size_t>(y) * static_cast<size_t>(to_width) * 3);
  }
  return out;
}

Image vertical(std::span<const uint8_t> rgb, int width, int height, int to_height, Filter filter) {
  const Weights weights = make_weights(height, to_height, filter);
  const size_t row = static_cast<size_t>(width) * 3;
  Image out{width, to_height, {}};
  out.rgb.resize(row * static_cast<size_t>(to_height));
  std::vector<int32_t> sums(row);
  auto* add = add_row;
#ifdef __x86_64__
  if (has_avx2()) add = add_row_avx2;
#endif
  for (int y = 0; y < to_height; y++) {
    const Weights::Run run = weights.runs[static_cast<size_t>(y)];
    const int32_t* value = weights.values.data() + static_cast<size_t>(y) * static_cast<size_t>(weights.stride);
    std::fill(sums.begin(), sums.end(), half_unit);
    for (int i = 0; i < run.count; i++) add(rgb.data() + static_cast<size_t>(run.first + i) * row, value[i], sums.data(), row);
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
