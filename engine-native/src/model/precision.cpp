#include "model/precision.h"

#include <cstring>

#include "formats/nearest.h"

namespace hearth::model {

using formats::is_dense;
using formats::LinearData;
using ops::ActivationFormat;
using ops::WeightFormat;

namespace {

// The largest group that is not over the wanted one and divides the width; 0 when none does.
int fitting_group(int in, int wanted) {
  for (const int group : {128, 64, 32}) {
    if (group <= wanted && in % group == 0) return group;
  }
  return 0;
}

HeldLinear dense_form(const formats::LinearHeader& header, WeightFormat format) {
  return {format, ActivationFormat::exact, 0, false, 0, header.act_order || header.format != format};
}

HeldLinear w4_form(const formats::LinearHeader& header, const Precision& precision) {
  if (header.format == WeightFormat::w4 && !header.act_order) {
    return {WeightFormat::w4, precision.w4_activations, header.group, header.symmetric, 0, false};
  }
  const int group = fitting_group(header.in, precision.group);
  if (group == 0) return dense_form(header, is_dense(header.format) ? header.format : WeightFormat::f16);
  return {WeightFormat::w4, precision.w4_activations, group, precision.symmetric, 0, true};
}

HeldLinear w8_form(const formats::LinearHeader& header) {
  const bool kept = header.format == WeightFormat::w8 && !header.act_order;
  return {WeightFormat::w8, ActivationFormat::int8_row, 0, false, kept ? header.static_scale : 0, !kept};
}

}  // namespace

HeldLinear Precision::held(const formats::LinearHeader& header) const {
  switch (kind) {
    case Kind::dense: return dense_form(header, dense);
    case Kind::w4: return w4_form(header, *this);
    case Kind::w8: return w8_form(header);
    case Kind::as_file: break;
  }
  // Columns in an order of their own have no kernel: such weights are put back in order, as f16.
  if (header.act_order) return dense_form(header, WeightFormat::f16);
  if (header.format == WeightFormat::w4) return w4_form(header, *this);
  if (header.format == WeightFormat::w8) return w8_form(header);
  const bool narrowed = narrow_f32 && header.format == WeightFormat::f32;
  return dense_form(header, narrowed ? WeightFormat::f16 : header.format);
}

Result<Precision> read_precision(const std::string& name, int group, device::DeviceKind kind) {
  if (group != 0 && group != 32 && group != 64 && group != 128) {
    return invalid("group must be 32, 64 or 128, not " + std::to_string(group));
  }
  Precision precision;
  precision.group = group == 0 ? 128 : group;
  const bool cpu = kind == device::DeviceKind::cpu;
  precision.narrow_f32 = !cpu;
  if (name == "auto") {
    precision.w4_activations = cpu ? ActivationFormat::int8_group : ActivationFormat::exact;
  } else if (name == "f32" || name == "f16" || name == "bf16") {
    precision.kind = Precision::Kind::dense;
    precision.dense = name == "f32" ? WeightFormat::f32 : name == "f16" ? WeightFormat::f16 : WeightFormat::bf16;
  } else if (name == "w4a16" || name == "w4a32" || name == "w4a8") {
    precision.kind = Precision::Kind::w4;
    precision.w4_activations = name == "w4a8" ? ActivationFormat::int8_group : ActivationFormat::exact;
  } else if (name == "w8a8") {
    precision.kind = Precision::Kind::w8;
  } else if (name != "none") {
    return invalid("precision '" + name.substr(0, 40) + "' is none of auto, none, f32, f16, bf16, w4a16, w4a32, w4a8, w8a8");
  }
  return precision;
}

Result<Precision> read_head_precision(int bits, const Precision& body) {
  Precision head = body;
  const bool rounded = body.kind == Precision::Kind::w4 || body.kind == Precision::Kind::w8;
  if (bits == 0) bits = rounded ? 8 : -1;
  if (bits == 4) {
    head.kind = Precision::Kind::w4;
  } else if (bits == 8) {
    head.kind = Precision::Kind::w8;
  } else if (bits == 16) {
    head.kind = body.kind == Precision::Kind::dense ? Precision::Kind::dense : Precision::Kind::as_file;
  } else if (bits != -1) {
    return invalid("head_bits must be 0, 4, 8 or 16, not " + std::to_string(bits));
  }
  return head;
}

std::string name_of(const HeldLinear& held, device::DeviceKind kind) {
  switch (held.format) {
    case WeightFormat::f32: return "f32";
    case WeightFormat::f16: return "f16";
    case WeightFormat::bf16: return "bf16";
    case WeightFormat::w8: return "w8a8";
    case WeightFormat::w4: break;
  }
  if (held.activations == ActivationFormat::int8_group) return "w4a8";
  return kind == device::DeviceKind::cpu ? "w4a32" : "w4a16";
}

namespace {

// f32 values as a dense linear of another type.
LinearData dense_from(const std::vector<float>& values, const LinearData& like, WeightFormat format) {
  LinearData to;
  to.bias = like.bias;
  to.host.in = like.host.in;
  to.host.out = like.host.out;
  to.host.format = format;
  to.owned.resize(values.size() * (format == WeightFormat::f32 ? 4 : 2));
  auto* bytes = reinterpret_cast<uint8_t*>(to.owned.data());
  if (format == WeightFormat::f32) {
    std::memcpy(bytes, values.data(), to.owned.size());
  } else if (format == WeightFormat::f16) {
    for (size_t i = 0; i < values.size(); i++) reinterpret_cast<Half*>(bytes)[i] = to_half(values[i]);
  } else {
    for (size_t i = 0; i < values.size(); i++) reinterpret_cast<BFloat16*>(bytes)[i] = to_bfloat16(values[i]);
  }
  to.host.data = to.owned.data();
  return to;
}

// Dequantised, its columns back in the model's order.
std::vector<float> ordered_floats(const LinearData& linear) {
  std::vector<float> values = formats::dequantize(linear.host);
  if (linear.input_order.empty()) return values;
  const size_t in = static_cast<size_t>(linear.host.in);
  std::vector<float> row(in);
  for (size_t r = 0; r < static_cast<size_t>(linear.host.out); r++) {
    for (size_t i = 0; i < in; i++) row[static_cast<size_t>(linear.input_order[i])] = values[r * in + i];
    std::memcpy(values.data() + r * in, row.data(), in * sizeof(float));
  }
  return values;
}

Result<LinearData> rounded_to(const ops::HostLinear& dense, const HeldLinear& held) {
  return held.format == WeightFormat::w4 ? formats::quantize_w4(dense, held.group, held.symmetric) : formats::quantize_w8(dense);
}

Result<LinearData> convert(LinearData from, const HeldLinear& held) {
  if (is_dense(held.format)) return dense_from(ordered_floats(from), from, held.format);
  if (!is_dense(from.host.format) || !from.input_order.empty()) from = dense_from(ordered_floats(from), from, WeightFormat::f32);
  HEARTH_ASSIGN(LinearData rounded, rounded_to(from.host, held));
  rounded.bias = std::move(from.bias);
  return rounded;
}

}  // namespace

DType activation_type(const device::DeviceInfo& info, const formats::Checkpoint& checkpoint, const std::string& module,
                      const Precision& precision, DType trained) {
  if (info.kind == device::DeviceKind::cpu) return DType::f32;
  const auto header = checkpoint.linear_header(module);
  const WeightFormat format = header ? precision.held(*header).format : WeightFormat::f16;  // a missing tensor is named when it is declared
  if (format == WeightFormat::bf16) return DType::bf16;
  return !is_dense(format) && trained == DType::bf16 ? DType::bf16 : DType::f16;
}

LinearData narrow_dense(const ops::HostLinear& dense, WeightFormat format) {
  const auto* values = static_cast<const float*>(dense.data);
  LinearData like;
  like.host = dense;
  return dense_from({values, values + int64_t{dense.in} * dense.out}, like, format);
}

Result<LinearData> read_held(const formats::Checkpoint& checkpoint, std::span<const std::string> modules, const HeldLinear& held) {
  std::vector<LinearData> parts;
  for (const std::string& module : modules) {
    HEARTH_ASSIGN(LinearData part, checkpoint.linear(module));
    if (held.converted || part.host.format != held.format) {
      HEARTH_ASSIGN(part, convert(std::move(part), held));
    }
    parts.push_back(std::move(part));
  }
  if (parts.size() == 1) return std::move(parts.front());
  return formats::concatenate(parts, modules.front());
}

}  // namespace hearth::model
