// Work on linears in the canonical form: joining, rounding to nearest, and back to floats.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/checkpoint.h"

namespace hearth::formats {

namespace {

using ops::HostLinear;
using ops::WeightFormat;

bool is_dense(WeightFormat format) { return format == WeightFormat::f32 || format == WeightFormat::f16 || format == WeightFormat::bf16; }

// Rounds half to even, for |x| < 2^22; unlike nearbyint it vectorises on every target.
inline float round_even(float x) { return (x + 12582912.0f) - 12582912.0f; }

void dense_row(const HostLinear& linear, int64_t row, float* to) {
  const int64_t begin = row * linear.in;
  if (linear.format == WeightFormat::f32) {
    std::memcpy(to, static_cast<const float*>(linear.data) + begin, static_cast<size_t>(linear.in) * sizeof(float));
  } else if (linear.format == WeightFormat::f16) {
    const Half* from = static_cast<const Half*>(linear.data) + begin;
    for (int k = 0; k < linear.in; k++) to[k] = to_float(from[k]);
  } else {
    const BFloat16* from = static_cast<const BFloat16*>(linear.data) + begin;
    for (int k = 0; k < linear.in; k++) to[k] = to_float(from[k]);
  }
}

void w4_row(const HostLinear& linear, int64_t row, float* to) {
  const auto* packed = static_cast<const uint8_t*>(linear.data) + row * (linear.in / 2);
  const int64_t groups = linear.in / linear.group;
  for (int k = 0; k < linear.in; k++) {
    const int64_t group = row * groups + k / linear.group;
    const int zero = linear.zeros ? linear.zeros[group] : 8;
    to[k] = static_cast<float>(((packed[k / 2] >> (k % 2 * 4)) & 15) - zero) * linear.scales[group];
  }
}

// Scale and zero of one group. Scales are kept at FP16 precision, as every file format and GPU layout stores them; q is
// computed from the rounded scale.
struct GroupCode { float scale; int zero; };

GroupCode asymmetric_code(const float* w, int group) {
  const auto [low, high] = std::minmax_element(w, w + group);
  const float scale = to_float(to_half(std::max(*high - *low, 1e-5f) / 15.0f));
  return {scale, static_cast<int>(std::clamp(-round_even(*low / scale), 0.0f, 15.0f))};
}

GroupCode symmetric_code(const float* w, int group) {
  float largest = 0;
  for (int k = 0; k < group; k++) largest = std::max(largest, std::fabs(w[k]));
  return {to_float(to_half(std::max(largest, 1e-5f) / 7.0f)), 8};
}

Status check_dense(const HostLinear& dense) {
  if (!is_dense(dense.format)) return invalid("only dense weights are rounded to nearest");
  return Status::ok();
}

// The formats agree as they are, or after zeros of 8 are written out.
Status check_parts(std::span<LinearData> parts, const std::string& name) {
  if (parts.empty()) return invalid(name + ": nothing to join");
  const LinearData& first = parts[0];
  for (const LinearData& part : parts) {
    if (part.host.in != first.host.in) return corrupt(name + ": its parts differ in width");
    if (part.host.format != first.host.format || part.host.group != first.host.group) {
      return unsupported(name + ": its parts are stored in different formats");
    }
    if (part.input_order != first.input_order) return unsupported(name + ": its parts are stored in different input orders");
    if ((part.static_scale > 0) != (first.static_scale > 0)) return unsupported(name + ": only some parts have an input scale");
  }
  return Status::ok();
}

size_t row_bytes(const HostLinear& linear) {
  const size_t in = static_cast<size_t>(linear.in);
  switch (linear.format) {
    case WeightFormat::f32: return in * 4;
    case WeightFormat::f16: case WeightFormat::bf16: return in * 2;
    case WeightFormat::w8: return in;
    case WeightFormat::w4: return in / 2;
  }
  return 0;
}

size_t scale_count(const HostLinear& linear) {
  if (linear.format == WeightFormat::w8) return static_cast<size_t>(linear.out);
  if (linear.format == WeightFormat::w4) return static_cast<size_t>(linear.out) * static_cast<size_t>(linear.in / linear.group);
  return 0;
}

void append(LinearData& to, const LinearData& part, bool with_bias) {
  const auto* bytes = static_cast<const std::byte*>(part.host.data);
  to.owned.insert(to.owned.end(), bytes, bytes + row_bytes(part.host) * static_cast<size_t>(part.host.out));
  const size_t scales = scale_count(part.host);
  if (scales) to.scales.insert(to.scales.end(), part.host.scales, part.host.scales + scales);
  if (part.host.format == WeightFormat::w4 && !to.host.symmetric) {
    if (part.host.zeros) to.zeros.insert(to.zeros.end(), part.host.zeros, part.host.zeros + scales);
    else to.zeros.insert(to.zeros.end(), scales, uint8_t{8});
  }
  if (with_bias) {
    if (part.bias.empty()) to.bias.insert(to.bias.end(), static_cast<size_t>(part.host.out), 0.0f);
    else to.bias.insert(to.bias.end(), part.bias.begin(), part.bias.end());
  }
}

}  // namespace

Result<LinearData> concatenate(std::span<LinearData> parts, const std::string& name) {
  HEARTH_TRY(check_parts(parts, name));
  if (parts.size() == 1) return std::move(parts[0]);
  LinearData joined;
  joined.host = parts[0].host;
  joined.host.symmetric = std::all_of(parts.begin(), parts.end(), [](const LinearData& p) { return p.host.symmetric; });
  joined.host.out = 0;
  joined.input_order = parts[0].input_order;
  const bool with_bias = std::any_of(parts.begin(), parts.end(), [](const LinearData& p) { return !p.bias.empty(); });
  size_t bytes = 0;
  for (const LinearData& part : parts) bytes += row_bytes(part.host) * static_cast<size_t>(part.host.out);
  joined.owned.reserve(bytes);
  for (LinearData& part : parts) {
    append(joined, part, with_bias);
    joined.host.out += part.host.out;
    joined.static_scale = std::max(joined.static_scale, part.static_scale);  // the parts see the same input: the widest range holds for all
    part = LinearData();  // memory stays near one copy
  }
  joined.host.data = joined.owned.data();
  joined.host.scales = joined.scales.empty() ? nullptr : joined.scales.data();
  joined.host.zeros = joined.zeros.empty() ? nullptr : joined.zeros.data();
  return joined;
}

Result<LinearData> quantize_w4(const HostLinear& dense, int group, bool symmetric) {
  HEARTH_TRY(check_dense(dense));
  if ((group != 32 && group != 64 && group != 128) || dense.in % group != 0) {
    return invalid("group size " + std::to_string(group) + " must be 32, 64 or 128 and divide " + std::to_string(dense.in));
  }
  LinearData linear;
  const int64_t groups = dense.in / group;
  linear.owned.resize(static_cast<size_t>(dense.out) * static_cast<size_t>(dense.in / 2));
  linear.scales.resize(static_cast<size_t>(dense.out * groups));
  if (!symmetric) linear.zeros.resize(linear.scales.size());
  std::vector<float> row(static_cast<size_t>(dense.in));
  auto* packed = reinterpret_cast<uint8_t*>(linear.owned.data());
  for (int64_t r = 0; r < dense.out; r++) {
    dense_row(dense, r, row.data());
    for (int64_t g = 0; g < groups; g++) {
      const float* w = row.data() + g * group;
      const GroupCode code = symmetric ? symmetric_code(w, group) : asymmetric_code(w, group);
      const float zero = static_cast<float>(code.zero);
      for (int k = 0; k < group; k += 2) {
        const float low = std::clamp(round_even(w[k] / code.scale) + zero, 0.0f, 15.0f);
        const float high = std::clamp(round_even(w[k + 1] / code.scale) + zero, 0.0f, 15.0f);
        *packed++ = static_cast<uint8_t>(static_cast<int>(low) | static_cast<int>(high) << 4);
      }
      linear.scales[static_cast<size_t>(r * groups + g)] = code.scale;
      if (!symmetric) linear.zeros[static_cast<size_t>(r * groups + g)] = static_cast<uint8_t>(code.zero);
    }
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
    float largest = 1e-5f;
    for (const float w : row) largest = std::max(largest, std::fabs(w));
    const float scale = largest / 127.0f;
    for (const float w : row) *to++ = static_cast<int8_t>(std::clamp(round_even(w / scale), -127.0f, 127.0f));
    linear.scales[static_cast<size_t>(r)] = scale;
  }
  linear.host = {.in = dense.in, .out = dense.out, .format = WeightFormat::w8, .group = 0, .symmetric = true,
                 .data = linear.owned.data(), .scales = linear.scales.data(), .zeros = nullptr};
  return linear;
}

std::vector<float> dequantize(const HostLinear& linear) {
  std::vector<float> values(static_cast<size_t>(linear.in) * static_cast<size_t>(linear.out));
  for (int64_t row = 0; row < linear.out; row++) {
    float* to = values.data() + row * linear.in;
    if (is_dense(linear.format)) {
      dense_row(linear, row, to);
    } else if (linear.format == WeightFormat::w4) {
      w4_row(linear, row, to);
    } else {
      const auto* from = static_cast<const int8_t*>(linear.data) + row * linear.in;
      for (int k = 0; k < linear.in; k++) to[k] = static_cast<float>(from[k]) * linear.scales[row];
    }
  }
  return values;
}

LinearData to_dense(const LinearData& linear, WeightFormat format) {
  const std::vector<float> values = dequantize(linear.host);
  const int64_t in = linear.host.in;
  LinearData dense;
  dense.bias = linear.bias;
  dense.owned.resize(values.size() * 2);
  auto* to = reinterpret_cast<uint16_t*>(dense.owned.data());
  for (int64_t at = 0; at < static_cast<int64_t>(values.size()); at++) {
    const int64_t column = linear.input_order.empty() ? at % in : linear.input_order[static_cast<size_t>(at % in)];
    const float value = values[static_cast<size_t>(at)];
    to[at / in * in + column] = format == WeightFormat::bf16 ? to_bfloat16(value).bits : to_half(value).bits;
  }
  dense.host = {.in = linear.host.in, .out = linear.host.out, .format = format == WeightFormat::bf16 ? format : WeightFormat::f16,
                .group = 0, .symmetric = false, .data = dense.owned.data(), .scales = nullptr, .zeros = nullptr};
  return dense;
}

}  // namespace hearth::formats
