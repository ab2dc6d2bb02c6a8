#include "kernels/cpu/layouts.h"

#include <cmath>
#include <cstring>

namespace hearth::kernels::cpu {
namespace {

using ops::HostLinear;
using ops::LinearSpec;

size_t to_line(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Where source row `row` goes, and whether it is the last of its half.
struct Place { int block, lane; bool last; };
Place place(const LinearSpec& spec, int row) {
  if (!spec.gated) return {row / block_rows, row % block_rows, row == spec.out - 1};
  const int half = spec.out / 2, up = row >= half, at = row - up * half;
  return {2 * (at / block_rows) + up, at % block_rows, at == half - 1};
}

// The power of two that brings the largest scale of a row to [2^(bits - 1), 2^bits); NaN when a scale is not finite.
float row_factor(const float* scales, int groups, int bits) {
  float best = 0;
  for (int g = 0; g < groups; ++g) {
    if (!std::isfinite(scales[g])) return NAN;
    best = std::fmax(best, std::fabs(scales[g]));
  }
  if (best == 0) return 1.0f;
  int exponent = 0;
  std::frexp(best, &exponent);
  exponent -= bits;
  return std::ldexp(1.0f, exponent < -126 ? -126 : exponent > 126 ? 126 : exponent);
}

// A scale over its row's factor. NaN becomes 0 as a whole number: the factor is NaN then.
void pack_scale(bool whole, float scale, uint8_t* to) {
  if (!whole) {
    *reinterpret_cast<Half*>(to) = to_half(scale);
    return;
  }
  const float rounded = std::nearbyint(scale);
  *reinterpret_cast<int16_t*>(to) = std::isnan(rounded) ? int16_t{0} : static_cast<int16_t>(rounded);
}

void pack_w4_row(const LinearSpec& spec, const HostLinear& from, int row, uint8_t* block, int lane) {
  const W4Layout layout = w4_layout(spec.in, spec.group, spec.symmetric);
  const int groups = spec.in / spec.group;
  const float* scales = from.scales + static_cast<size_t>(row) * groups;
  const float factor = row_factor(scales, groups, whole_scales(spec) ? whole_scale_bits : 14), inverse = 1.0f / factor;
  reinterpret_cast<float*>(block)[lane] = factor;
  for (int g = 0; g < groups; ++g) {
    pack_scale(whole_scales(spec), scales[g] * inverse, block + layout.scales + 2 * (g * block_rows + lane));
    if (!spec.symmetric) {
      block[layout.zeros + g * block_rows + lane] = from.zeros == nullptr ? 8 : from.zeros[static_cast<size_t>(row) * groups + g];
    }
  }
  const uint8_t* source = static_cast<const uint8_t*>(from.data) + static_cast<size_t>(row) * spec.in / 2;
  for (int chunk = 0; chunk < spec.in / 8; ++chunk) {
    uint8_t* to = block + layout.quants + chunk * 64 + lane * 4;
    const uint8_t* s = source + chunk * 4;  // inputs 0..7, low nibble first
    to[0] = static_cast<uint8_t>((s[0] & 15) | (s[2] & 15) << 4);
    to[1] = static_cast<uint8_t>((s[0] >> 4) | (s[2] & 0xf0));
    to[2] = static_cast<uint8_t>((s[1] & 15) | (s[3] & 15) << 4);
    to[3] = static_cast<uint8_t>((s[1] >> 4) | (s[3] & 0xf0));
  }
}

// Lanes nobody fills: weight 0, but finite.
void pad_w4_lane(const LinearSpec& spec, uint8_t* block, int lane) {
  const W4Layout layout = w4_layout(spec.in, spec.group, spec.symmetric);
  reinterpret_cast<float*>(block)[lane] = 0;
  for (int g = 0; g < spec.in / spec.group; ++g) {
    pack_scale(whole_scales(spec), 0, block + layout.scales + 2 * (g * block_rows + lane));
    if (!spec.symmetric) block[layout.zeros + g * block_rows + lane] = 0;
  }
  for (int chunk = 0; chunk < spec.in / 8; ++chunk) std::memset(block + layout.quants + chunk * 64 + lane * 4, 0, 4);
}

void pack_w8_row(const LinearSpec& spec, const HostLinear& from, int row, uint8_t* block, int lane) {
  const W8Layout layout = w8_layout(spec.in);
  reinterpret_cast<float*>(block)[lane] = from.scales[row];
  const int8_t* source = static_cast<const int8_t*>(from.data) + static_cast<size_t>(row) * spec.in;
  for (int i = 0; i < (spec.in + 3) / 4 * 4; ++i) {
    const int8_t q = i < spec.in ? source[i] : int8_t{0};
    block[layout.quants + static_cast<size_t>(i / 4) * 64 + lane * 4 + i % 4] = static_cast<uint8_t>(q);
  }
}

void pad_w8_lane(const LinearSpec& spec, uint8_t* block, int lane) {
  const W8Layout layout = w8_layout(spec.in);
  reinterpret_cast<float*>(block)[lane] = 0;
  for (int chunk = 0; chunk < (spec.in + 3) / 4; ++chunk) std::memset(block + layout.quants + chunk * 64 + lane * 4, 0, 4);
}

size_t element_bytes(const LinearSpec& spec) { return spec.weight == ops::WeightFormat::f32 ? 4 : 2; }

}  // namespace

W4Layout w4_layout(int in, int group, bool symmetric) {
  const size_t groups = static_cast<size_t>(in) / group;
  W4Layout layout{};
  layout.scales = 64;
  layout.zeros = layout.scales + to_line(groups * block_rows * 2);
  layout.quants = layout.zeros + (symmetric ? 0 : to_line(groups * block_rows));
  layout.bytes = layout.quants + static_cast<size_t>(in) / 8 * 64;
  return layout;
}

W8Layout w8_layout(int in) {
  W8Layout layout{};
  layout.quants = 64;
  layout.bytes = layout.quants + static_cast<size_t>((in + 3) / 4) * 64;
  return layout;
}

BlockCount block_count(const LinearSpec& spec) {
  const int rows = spec.gated ? spec.out / 2 : spec.out;
  return {(rows + block_rows - 1) / block_rows, spec.gated ? 2 : 1};
}

size_t w4_packed_bytes(const LinearSpec& spec) {
  const BlockCount count = block_count(spec);
  return w4_layout(spec.in, spec.group, spec.symmetric).bytes * count.units * count.blocks_per_unit;
}

void w4_pack(const LinearSpec& spec, const HostLinear& from, int begin, int end, void* to) {
  const size_t block_bytes = w4_layout(spec.in, spec.group, spec.symmetric).bytes;
  for (int row = begin; row < end; ++row) {
    const Place at = place(spec, row);
    uint8_t* block = static_cast<uint8_t*>(to) + block_bytes * at.block;
    pack_w4_row(spec, from, row, block, at.lane);
    for (int lane = at.lane + 1; at.last && lane < block_rows; ++lane) pad_w4_lane(spec, block, lane);
  }
}

size_t w8_packed_bytes(const LinearSpec& spec) {
  const BlockCount count = block_count(spec);
  return w8_layout(spec.in).bytes * count.units * count.blocks_per_unit;
}

void w8_pack(const LinearSpec& spec, const HostLinear& from, int begin, int end, void* to) {
  const size_t block_bytes = w8_layout(spec.in).bytes;
  for (int row = begin; row < end; ++row) {
    const Place at = place(spec, row);
    uint8_t* block = static_cast<uint8_t*>(to) + block_bytes * at.block;
    pack_w8_row(spec, from, row, block, at.lane);
    for (int lane = at.lane + 1; at.last && lane < block_rows; ++lane) pad_w8_lane(spec, block, lane);
  }
}

size_t dense_packed_bytes(const LinearSpec& spec) { return element_bytes(spec) * spec.in * spec.out; }

void dense_pack(const LinearSpec& spec, const HostLinear& from, int begin, int end, void* to) {
  const size_t row_bytes = element_bytes(spec) * spec.in;
  std::memcpy(static_cast<uint8_t*>(to) + row_bytes * begin, static_cast<const uint8_t*>(from.data) + row_bytes * begin,
              row_bytes * (end - begin));
}

}  // namespace hearth::kernels::cpu
