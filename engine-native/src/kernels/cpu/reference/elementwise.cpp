// Embedding, norms, gate, add, gather: the reference.
#include "device/cpu_stream.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/scalar.h"

namespace hearth::kernels::cpu::reference {
namespace {

using device::DeviceInfo;
using device::Stream;
using namespace ops;

template <class Body>
void for_rows(Stream& stream, int rows, Body&& body) {
  device::pool_of(stream).parallel([&](int worker, int size) {
    const Range range = share(rows, worker, size);
    for (int row = range.begin; row < range.end; ++row) body(row);
  });
}

const char* embed_declines(const EmbedSpec& spec, const DeviceInfo&) {
  return is_float(spec.table_type) ? nullptr : "tables are f32, f16 or bf16";
}

void embed_run(const EmbedSpec& spec, const EmbedParams& p, Stream& stream) {
  for_rows(stream, p.rows, [&](int row) {
    float* out = p.x + static_cast<int64_t>(row) * spec.width;
    const auto source = p.source == nullptr ? TokenSource::literal : static_cast<TokenSource>(p.source[row]);
    if (source == TokenSource::image) {
      const float* from = p.image_rows + static_cast<int64_t>(p.ids[row]) * spec.width;
      for (int i = 0; i < spec.width; ++i) out[i] = from[i];
      return;
    }
    const int32_t id = source == TokenSource::sampled ? p.sampled[p.ids[row]] : p.ids[row];
    const void* from = row_of(p.table, spec.table_type, spec.width, id);
    for (int i = 0; i < spec.width; ++i) out[i] = load(from, spec.table_type, i) * spec.scale;
  });
}

const char* norm_declines(const NormSpec& spec, const DeviceInfo&) {
  if (spec.kind == NormKind::none) return "no norm asked for";
  if (spec.accumulate && spec.y_type != DType::f32) return "accumulating needs f32 output";
  return is_float(spec.x_type) && is_float(spec.y_type) ? nullptr : "types are f32, f16 or bf16";
}

void norm_run(const NormSpec& spec, const NormParams& p, Stream& stream) {
  for_rows(stream, p.rows, [&](int row) {
    const void* x = row_of(p.x, spec.x_type, p.x_stride, row);
    void* y = row_of(p.y, spec.y_type, p.y_stride, row);
    double mean = 0, square = 0;
    if (spec.kind == NormKind::layer) {
      for (int i = 0; i < spec.width; ++i) mean += load(x, spec.x_type, i);
      mean /= spec.width;
    }
    for (int i = 0; i < spec.width; ++i) {
      const double d = load(x, spec.x_type, i) - mean;
      square += d * d;
    }
    const double factor = 1.0 / std::sqrt(square / spec.width + spec.epsilon);
    for (int i = 0; i < spec.width; ++i) {
      float v = static_cast<float>((load(x, spec.x_type, i) - mean) * factor) * p.weight[i];
      if (p.bias != nullptr) v += p.bias[i];
      if (spec.accumulate) v += load(y, spec.y_type, i);
      store(y, spec.y_type, i, v);
    }
  });
}

const char* gate_declines(const GateSpec& spec, const DeviceInfo&) {
  return is_float(spec.type) ? nullptr : "types are f32, f16 or bf16";
}

void gate_run(const GateSpec& spec, const GateParams& p, Stream& stream) {
  for_rows(stream, p.rows, [&](int row) {
    const void* x = row_of(p.x, spec.type, p.x_stride, row);
    void* y = row_of(p.y, spec.type, p.y_stride, row);
    for (int i = 0; i < spec.width; ++i) {
      const float up = load(x, spec.type, spec.width + i);
      store(y, spec.type, i, activate(spec.activation, load(x, spec.type, i)) * up);
    }
  });
}

const char* add_declines(const AddSpec& spec, const DeviceInfo&) {
  return is_float(spec.x_type) ? nullptr : "types are f32, f16 or bf16";
}

void add_run(const AddSpec& spec, const AddParams& p, Stream& stream) {
  for_rows(stream, p.rows, [&](int row) {
    const void* x = row_of(p.x, spec.x_type, p.x_stride, row);
    float* y = p.y + row * p.y_stride;
    for (int i = 0; i < spec.width; ++i) y[i] += load(x, spec.x_type, i);
  });
}

const char* gather_declines(const GatherSpec& spec, const DeviceInfo&) {
  return is_float(spec.x_type) && is_float(spec.y_type) ? nullptr : "types are f32, f16 or bf16";
}

void gather_run(const GatherSpec& spec, const GatherParams& p, Stream& stream) {
  for_rows(stream, p.rows, [&](int row) {
    void* y = row_of(p.y, spec.y_type, p.y_stride, row);
    const int32_t from = p.index[row];
    const void* x = from < 0 ? nullptr : row_of(p.x, spec.x_type, p.x_stride, from);
    for (int i = 0; i < spec.width; ++i) store(y, spec.y_type, i, x == nullptr ? 0.0f : load(x, spec.x_type, i));
  });
}

}  // namespace

const Kernel<EmbedSpec, EmbedParams> embed{"cpu/reference", embed_declines, embed_run, nullptr};
const Kernel<NormSpec, NormParams> norm{"cpu/reference", norm_declines, norm_run, nullptr};
const Kernel<GateSpec, GateParams> gate{"cpu/reference", gate_declines, gate_run, nullptr};
const Kernel<AddSpec, AddParams> add{"cpu/reference", add_declines, add_run, nullptr};
const Kernel<GatherSpec, GatherParams> gather{"cpu/reference", gather_declines, gather_run, nullptr};

}  // namespace hearth::kernels::cpu::reference
