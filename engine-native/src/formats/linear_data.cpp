// Work on linears in the canonical form: joining, and back to floats.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/checkpoint.h"
#include "formats/nearest.h"

namespace hearth::formats {

namespace {

using ops::HostLinear;
using ops::WeightFormat;

void w4_row(const HostLinear& linear, int64_t row, float* to) {
  const auto* packed = static_cast<const uint8_t*>(linear.data) + row * (linear.in / 2);
  const int64_t groups = linear.in / linear.group;
  for (int k = 0; k < linear.in; k++) {
    const int64_t group = row * groups + k / linear.group;
    const int zero = linear.zeros ? linear.zeros[group] : 8;
    to[k] = static_cast<float>(((packed[k / 2] >> (k % 2 * 4)) & 15) - zero) * linear.scales[group];
  }
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
