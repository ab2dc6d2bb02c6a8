// Dense linears, and what all readers of linears share.
#include <cstring>
#include <limits>

#include "formats/linear_reader.h"
#include "formats/packing.h"

namespace hearth::formats {

namespace {

std::optional<ops::WeightFormat> dense_format(DType type) {
  switch (type) {
    case DType::f32: return ops::WeightFormat::f32;
    case DType::f16: return ops::WeightFormat::f16;
    case DType::bf16: return ops::WeightFormat::bf16;
    default: return std::nullopt;
  }
}

}  // namespace

Result<std::vector<float>> to_floats(const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.elements()));
  const std::byte* data = view.data.data();
  switch (view.type) {
    case DType::f32:
      if (!values.empty()) std::memcpy(values.data(), data, values.size() * sizeof(float));
      break;
    case DType::f16:
      for (size_t i = 0; i < values.size(); i++) values[i] = to_float(load_at<Half>(data, static_cast<int64_t>(i)));
      break;
    case DType::bf16:
      for (size_t i = 0; i < values.size(); i++) values[i] = to_float(load_at<BFloat16>(data, static_cast<int64_t>(i)));
      break;
    case DType::f64:
      for (size_t i = 0; i < values.size(); i++) values[i] = static_cast<float>(load_at<double>(data, static_cast<int64_t>(i)));
      break;
    default: return corrupt(label(view) + " has type " + name_of(view.type) + ", expected a float type");
  }
  return values;
}

Result<const TensorView*> part(const TensorStore& store, const std::string& module, std::string_view suffix) {
  const std::string name = module + "." + std::string(suffix);
  if (const TensorView* view = store.find(name)) return view;
  return corrupt("tensor '" + name + "' is missing");
}

Result<std::vector<float>> read_bias(const TensorStore& store, const std::string& module, int64_t out) {
  const TensorView* view = store.find(module + ".bias");
  if (!view) return std::vector<float>();
  if (view->shape.size() != 1 || view->shape[0] != out) {
    return corrupt(label(*view) + " has shape " + shape_text(view->shape) + ", expected [" + std::to_string(out) + "]");
  }
  return to_floats(*view);
}

bool has_dense(const TensorStore& store, const std::string& module) {
  const TensorView* view = store.find(module + ".weight");
  return view && view->shape.size() == 2 && dense_format(view->type);
}

Result<LinearHeader> dense_header(const TensorStore& store, const std::string& module) {
  HEARTH_ASSIGN(const TensorView* view, part(store, module, "weight"));
  const auto format = dense_format(view->type);
  if (!format) return unsupported(label(*view) + " has type " + name_of(view->type) + ": a dense weight must be f32, f16 or bf16");
  constexpr int64_t most = std::numeric_limits<int>::max();
  if (view->shape.size() != 2 || view->shape[0] < 1 || view->shape[1] < 1 || view->shape[0] > most || view->shape[1] > most) {
    return corrupt(label(*view) + " has shape " + shape_text(view->shape) + ", expected [out, in]");
  }
  LinearHeader header;
  header.out = static_cast<int>(view->shape[0]);
  header.in = static_cast<int>(view->shape[1]);
  header.format = *format;
  header.bias = store.find(module + ".bias") != nullptr;
  return header;
}

Result<LinearData> read_dense(const TensorStore& store, const std::string& module) {
  HEARTH_ASSIGN(const LinearHeader header, dense_header(store, module));
  const TensorView& view = *store.find(module + ".weight");
  LinearData linear;
  HEARTH_ASSIGN(linear.bias, read_bias(store, module, header.out));
  linear.host.in = header.in;
  linear.host.out = header.out;
  linear.host.format = header.format;
  linear.host.data = view.data.data();
  if (reinterpret_cast<uintptr_t>(view.data.data()) % size_of(view.type) != 0) {  // files need not align tensors
    linear.owned.assign(view.data.begin(), view.data.end());
    linear.host.data = linear.owned.data();
  }
  return linear;
}

int canonical_group(int64_t stored_group) {
  for (const int group : {128, 64, 32}) {
    if (stored_group % group == 0) return group;
  }
  return 0;
}

Status check_w4_sizes(const std::string& what, int64_t in, int64_t out, int64_t group) {
  constexpr int64_t most = std::numeric_limits<int>::max();
  if (in < 1 || out < 1 || in > most || out > most || in % 2 != 0) {
    return corrupt(what + ": a 4-bit linear of " + std::to_string(in) + " inputs and " + std::to_string(out) + " outputs");
  }
  if (group < 1 || in % group != 0) {
    return corrupt(what + ": group size " + std::to_string(group) + " does not divide its " + std::to_string(in) + " inputs");
  }
  return Status::ok();
}

LinearHeader w4_header(int64_t in, int64_t out, int64_t group, bool symmetric, bool bias) {
  LinearHeader header;
  header.in = static_cast<int>(in);
  header.out = static_cast<int>(out);
  header.bias = bias;
  header.group = canonical_group(group);
  header.format = header.group ? ops::WeightFormat::w4 : ops::WeightFormat::f16;
  header.symmetric = header.group && symmetric;
  return header;
}

namespace {

// Groups that no kernel takes (16, 48, ...): the weights as f16, in natural order.
void hold_dense(const W4Parts& parts, const std::vector<int32_t>& order, LinearData& linear) {
  linear.owned.resize(static_cast<size_t>(parts.in * parts.out) * sizeof(Half));
  Half* to = reinterpret_cast<Half*>(linear.owned.data());
  const auto* from = reinterpret_cast<const uint8_t*>(parts.packed.data());
  const int64_t groups = parts.in / parts.group;
  for (int64_t row = 0; row < parts.out; row++) {
    for (int64_t k = 0; k < parts.in; k++) {
      const int64_t at = row * parts.in + k, group = row * groups + k / parts.group;
      const int q = (from[at / 2] >> (at % 2 * 4)) & 15;
      const int zero = parts.symmetric ? 8 : parts.zeros[static_cast<size_t>(group)];
      const int64_t column = order.empty() ? k : order[static_cast<size_t>(k)];
      to[row * parts.in + column] = to_half(static_cast<float>(q - zero) * parts.scales[static_cast<size_t>(group)]);
    }
  }
  linear.host.format = ops::WeightFormat::f16;
}

template <class T>
std::vector<T> repeat_each(const std::vector<T>& values, int64_t times) {
  std::vector<T> repeated;
  repeated.reserve(values.size() * static_cast<size_t>(times));
  for (const T value : values) repeated.insert(repeated.end(), static_cast<size_t>(times), value);
  return repeated;
}

}  // namespace

LinearData w4_data(W4Parts parts, std::vector<float> bias, std::vector<int32_t> order) {
  LinearData linear;
  linear.bias = std::move(bias);
  linear.host.in = static_cast<int>(parts.in);
  linear.host.out = static_cast<int>(parts.out);
  const int group = canonical_group(parts.group);
  if (!group) {
    hold_dense(parts, order, linear);
  } else {
    linear.input_order = std::move(order);
    const int64_t times = parts.group / group;
    linear.owned = std::move(parts.packed);
    linear.scales = times == 1 ? std::move(parts.scales) : repeat_each(parts.scales, times);
    linear.zeros = times == 1 ? std::move(parts.zeros) : repeat_each(parts.zeros, times);
    linear.host.format = ops::WeightFormat::w4;
    linear.host.group = group;
    linear.host.symmetric = parts.symmetric;
    linear.host.scales = linear.scales.data();
    linear.host.zeros = parts.symmetric ? nullptr : linear.zeros.data();
  }
  linear.host.data = linear.owned.data();
  return linear;
}

}  // namespace hearth::formats
