#include "formats/nearest.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/clones.h"
#include "formats/checkpoint.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed between functions that are always inlined

namespace hearth::formats {

namespace {

using ops::HostLinear;
using ops::WeightFormat;

constexpr int lanes = 8;  // groups are multiples of it; rows may end in less
using Floats = float __attribute__((vector_size(lanes * 4)));
using Words = uint32_t __attribute__((vector_size(lanes * 4)));
using Integers = int32_t __attribute__((vector_size(lanes * 4)));
using Halves = uint16_t __attribute__((vector_size(lanes * 2)));
using Bytes = int8_t __attribute__((vector_size(lanes)));

template <class To, class From>
[[gnu::always_inline]] inline To load(const From* from) {
  To to;
  std::memcpy(&to, from, sizeof(to));
  return to;
}

// to_float() of core/dtype.h, eight at a time.
[[gnu::always_inline]] inline Floats widen(const Half* from) {
  const Words bits = __builtin_convertvector(load<Halves>(from), Words), sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
  const Words finite = std::bit_cast<Words>(std::bit_cast<Floats>(magnitude << 13) * std::bit_cast<float>(0x77800000u));
  return std::bit_cast<Floats>((magnitude >= 0x7c00u ? (magnitude & 0x3ffu) << 13 | 0x7f800000u : finite) | sign);
}
[[gnu::always_inline]] inline Floats widen(const BFloat16* from) { return std::bit_cast<Floats>(__builtin_convertvector(load<Halves>(from), Words) << 16); }

template <class T>
[[gnu::always_inline]] inline void widen_row(const T* from, int64_t count, float* to) {
  int64_t k = 0;
  for (; k + lanes <= count; k += lanes) {
    const Floats values = widen(from + k);
    std::memcpy(to + k, &values, sizeof(values));
  }
  for (; k < count; k++) to[k] = to_float(from[k]);
}
HEARTH_CLONES void widen_halves(const Half* from, int64_t count, float* to) { widen_row(from, count, to); }
HEARTH_CLONES void widen_bfloats(const BFloat16* from, int64_t count, float* to) { widen_row(from, count, to); }

// Rounds half to even, for |x| < 2^22; unlike nearbyint it needs no call.
template <class T> [[gnu::always_inline]] inline T round_even(T x) { return (x + 12582912.0f) - 12582912.0f; }
[[gnu::always_inline]] inline Floats clamp(Floats x, float low, float high) {
  const Floats least = Floats{} + low, most = Floats{} + high;
  x = x < least ? least : x;
  return x > most ? most : x;
}

// Scale and zero of one group. Scales are kept at FP16 precision, as every file format and GPU layout stores them; q is
// computed from the rounded scale.
struct GroupCode { float scale; int zero; };

[[gnu::always_inline]] inline GroupCode group_code(const float* w, int group, bool symmetric) {
  Floats low = load<Floats>(w), high = low;
  for (int k = lanes; k < group; k += lanes) {
    const Floats v = load<Floats>(w + k);
    low = v < low ? v : low;
    high = v > high ? v : high;
  }
  float least = low[0], most = high[0];
  for (int i = 1; i < lanes; i++) {
    least = std::min(least, low[i]);
    most = std::max(most, high[i]);
  }
  if (symmetric) return {to_float(to_half(std::max(std::max(-least, most), 1e-5f) / 7.0f)), 8};
  const float scale = to_float(to_half(std::max(most - least, 1e-5f) / 15.0f));
  return {scale, static_cast<int>(std::clamp(-round_even(least / scale), 0.0f, 15.0f))};
}

// The low nibbles of eight bytes, side by side.
inline uint32_t join_nibbles(uint64_t bytes) {
  bytes = (bytes | bytes >> 4) & 0x00ff00ff00ff00ffu;
  bytes = (bytes | bytes >> 8) & 0x0000ffff0000ffffu;
  return static_cast<uint32_t>(bytes | bytes >> 16);
}

// A row's codes, two to a byte, the lower first; zeros may be null.
HEARTH_CLONES void code_row(const float* w, int64_t groups, int group, uint8_t* packed, float* scales, uint8_t* zeros) {
  for (int64_t g = 0; g < groups; g++, w += group) {
    const GroupCode code = group_code(w, group, zeros == nullptr);
    const float zero = static_cast<float>(code.zero);
    for (int k = 0; k < group; k += lanes, packed += lanes / 2) {
      const Floats q = clamp(round_even(load<Floats>(w + k) / code.scale) + zero, 0, 15);
      const Bytes bytes = __builtin_convertvector(__builtin_convertvector(q, Integers), Bytes);
      const uint32_t nibbles = join_nibbles(std::bit_cast<uint64_t>(bytes));
      std::memcpy(packed, &nibbles, sizeof(nibbles));
    }
    scales[g] = code.scale;
    if (zeros) zeros[g] = static_cast<uint8_t>(code.zero);
  }
}

HEARTH_CLONES float code_row_int8(const float* w, int64_t count, int8_t* to) {
  float largest = 1e-5f;
  for (int64_t k = 0; k < count; k++) largest = std::max(largest, std::fabs(w[k]));
  const float scale = largest / 127.0f;
  int64_t k = 0;
  for (; k + lanes <= count; k += lanes) {
    const Floats q = clamp(round_even(load<Floats>(w + k) / scale), -127, 127);
    const Bytes bytes = __builtin_convertvector(__builtin_convertvector(q, Integers), Bytes);
    std::memcpy(to + k, &bytes, sizeof(bytes));
  }
  for (; k < count; k++) to[k] = static_cast<int8_t>(std::clamp(round_even(w[k] / scale), -127.0f, 127.0f));
  return scale;
}

Status check_dense(const HostLinear& dense) { return is_dense(dense.format) ? Status::ok() : invalid("only dense weights are rounded to nearest"); }

}  // namespace

void dense_row(const HostLinear& linear, int64_t row, float* to) {
  const int64_t begin = row * linear.in;
  if (linear.format == WeightFormat::f32) std::memcpy(to, static_cast<const float*>(linear.data) + begin, static_cast<size_t>(linear.in) * sizeof(float));
  else if (linear.format == WeightFormat::f16) widen_halves(static_cast<const Half*>(linear.data) + begin, linear.in, to);
  else widen_bfloats(static_cast<const BFloat16*>(linear.data) + begin, linear.in, to);
}

Result<LinearData> quantize_w4(const HostLinear& dense, int group, bool symmetric) {
  HEARTH_TRY(check_dense(dense));
  if ((group != 32 && group != 64 && group != 128) || dense.in % group != 0) {
    return invalid("group size " + std::to_string(group) + " must be 32, 64 or 128 and divide " + std::to_string(dense.in));
  }
  LinearData linear;
  const int64_t groups = dense.in / group, row_bytes = dense.in / 2;
  linear.owned.resize(static_cast<size_t>(dense.out * row_bytes));
  linear.scales.resize(static_cast<size_t>(dense.out * groups));
  if (!symmetric) linear.zeros.resize(linear.scales.size());
  std::vector<float> row(static_cast<size_t>(dense.in));
  auto* packed = reinterpret_cast<uint8_t*>(linear.owned.data());
  for (int64_t r = 0; r < dense.out; r++) {
    dense_row(dense, r, row.data());
    code_row(row.data(), groups, group, packed + r * row_bytes, linear.scales.data() + r * groups, symmetric ? nullptr : linear.zeros.data() + r * groups);
  }
  linear.host = {.in = dense.in, .out = dense.out, .format = WeightFormat::w4, .group = group, .symmetric = symmetric,
                 .data = linear.owned.data(), .scales = linear.scales.data(),
                 .zeros = symmetric ? nullptr : linear.zeros.data()};
  return linear;
}

Result<LinearData> quantize_w8(const HostLinear& dense) {
  HEARTH_TRY(check_dense(dense));
  LinearData linear;
  linear.owned.resize(static_cast<size_t>(dense.out) * static_cast<size_t>(dense.in));
  linear.scales.resize(static_cast<size_t>(dense.out));
  std::vector<float> row(static_cast<size_t>(dense.in));
  auto* to = reinterpret_cast<int8_t*>(linear.owned.data());
  for (int64_t r = 0; r < dense.out; r++) {
    dense_row(dense, r, row.data());
    linear.scales[static_cast<size_t>(r)] = code_row_int8(row.data(), dense.in, to + int64_t{dense.in} * r);
  }
  linear.host = {.in = dense.in, .out = dense.out, .format = WeightFormat::w8, .group = 0, .symmetric = true,
                 .data = linear.owned.data(), .scales = linear.scales.data(), .zeros = nullptr};
  return linear;
}

}  // namespace hearth::formats
