// Embedding, norms, gate, add, gather in vectors.
#include "device/cpu_stream.h"
#include "kernels/cpu/simd/isa.h"
#include "kernels/cpu/simd/rows.h"

namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {

using device::DeviceInfo;
using device::Stream;
using namespace ops;

template <class Body>
void for_rows(Stream& stream, int rows, Body&& body) {
  // Waking the pool costs more than one short row.
  if (rows == 1) return body(0);
  device::pool_of(stream).parallel([&](int worker, int size) {
    const Range range = share(rows, worker, size);
    for (int row = range.begin; row < range.end; ++row) body(row);
  });
}

// y[0, n) = f(i) for each vector of lanes, the last one in part.
template <class T, class Value>
HEARTH_INLINE void write_row(T* y, int n, Value&& value) {
  int i = 0;
  for (; i + lanes <= n; i += lanes) store(y + i, value(i, lanes));
  if (i < n) store_some(y + i, value(i, n - i), n - i);
}
template <class T>
HEARTH_INLINE F read(const T* x, int i, int count) { return count == lanes ? load(x + i) : load_some(x + i, count); }

const char* embed_declines(const EmbedSpec& spec, const DeviceInfo& info) {
  if (const char* missing = isa_missing(info)) return missing;
  return is_float(spec.table_type) ? nullptr : "tables are f32, f16 or bf16";
}

void embed_run(const EmbedSpec& spec, const EmbedParams& p, Stream& stream) {
  with_type(spec.table_type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for_rows(stream, p.rows, [&](int row) {
      float* x = p.x + static_cast<int64_t>(row) * spec.width;
      const auto source = p.source == nullptr ? TokenSource::literal : static_cast<TokenSource>(p.source[row]);
      if (source == TokenSource::image) {
        std::memcpy(x, p.image_rows + static_cast<int64_t>(p.ids[row]) * spec.width, sizeof(float) * spec.width);
        return;
      }
      const int32_t id = source == TokenSource::sampled ? p.sampled[p.ids[row]] : p.ids[row];
      const T* from = static_cast<const T*>(p.table) + static_cast<int64_t>(id) * spec.width;
      write_row(x, spec.width, [&](int i, int count) { return read(from, i, count) * spec.scale; });
    });
  });
}

const char* norm_declines(const NormSpec& spec, const DeviceInfo& info) {
  if (const char* missing = isa_missing(info)) return missing;
  if (spec.kind == NormKind::none) return "no norm asked for";
  if (spec.x_type != DType::f32) return "rows are f32";
  if (spec.accumulate && spec.y_type != DType::f32) return "accumulating needs f32 output";
  return is_float(spec.y_type) ? nullptr : "outputs are f32, f16 or bf16";
}

void norm_run(const NormSpec& spec, const NormParams& p, Stream& stream) {
  with_type(spec.y_type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for_rows(stream, p.rows, [&](int row) {
      const float* x = static_cast<const float*>(p.x) + row * p.x_stride;
      T* y = static_cast<T*>(p.y) + row * p.y_stride;
      const float n = static_cast<float>(spec.width);
      const float mean = spec.kind == NormKind::layer ? sum_row(x, spec.width) / n : 0.0f;
      const float factor = 1.0f / std::sqrt(sum_squares(x, spec.width, mean) / n + spec.epsilon);
      write_row(y, spec.width, [&](int i, int count) {
        F v = (read(x, i, count) - mean) * factor * read(p.weight, i, count);
        if (p.bias != nullptr) v += read(p.bias, i, count);
        return spec.accumulate ? v + read(y, i, count) : v;
      });
    });
  });
}

const char* gate_declines(const GateSpec& spec, const DeviceInfo& info) {
  if (const char* missing = isa_missing(info)) return missing;
  return is_float(spec.type) ? nullptr : "types are f32, f16 or bf16";
}

void gate_run(const GateSpec& spec, const GateParams& p, Stream& stream) {
  with_type(spec.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for_rows(stream, p.rows, [&](int row) {
      const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
      write_row(static_cast<T*>(p.y) + row * p.y_stride, spec.width, [&](int i, int count) {
        return activate(spec.activation, read(x, i, count)) * read(x, spec.width + i, count);
      });
    });
  });
}

const char* add_declines(const AddSpec& spec, const DeviceInfo& info) {
  if (const char* missing = isa_missing(info)) return missing;
  return is_float(spec.x_type) ? nullptr : "types are f32, f16 or bf16";
}

void add_run(const AddSpec& spec, const AddParams& p, Stream& stream) {
  with_type(spec.x_type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for_rows(stream, p.rows, [&](int row) {
      const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
      float* y = p.y + row * p.y_stride;
      write_row(y, spec.width, [&](int i, int count) { return read(y, i, count) + read(x, i, count); });
    });
  });
}

const char* gather_declines(const GatherSpec& spec, const DeviceInfo& info) {
  if (const char* missing = isa_missing(info)) return missing;
  return is_float(spec.x_type) && is_float(spec.y_type) ? nullptr : "types are f32, f16 or bf16";
}

void gather_run(const GatherSpec& spec, const GatherParams& p, Stream& stream) {
  with_type(spec.x_type, [&](auto* x_type) {
    with_type(spec.y_type, [&](auto* y_type) {
      using X = std::remove_pointer_t<decltype(x_type)>;
      using Y = std::remove_pointer_t<decltype(y_type)>;
      for_rows(stream, p.rows, [&](int row) {
        const int32_t from = p.index[row];
        const X* x = static_cast<const X*>(p.x) + (from < 0 ? 0 : from) * p.x_stride;
        write_row(static_cast<Y*>(p.y) + row * p.y_stride, spec.width,
                  [&](int i, int count) { return from < 0 ? F{} : read(x, i, count); });
      });
    });
  });
}

}  // namespace

extern const Kernel<EmbedSpec, EmbedParams> embed;
extern const Kernel<NormSpec, NormParams> norm;
extern const Kernel<GateSpec, GateParams> gate;
extern const Kernel<AddSpec, AddParams> add;
extern const Kernel<GatherSpec, GatherParams> gather;
const Kernel<EmbedSpec, EmbedParams> embed{HEARTH_ISA_NAME, embed_declines, embed_run, nullptr};
const Kernel<NormSpec, NormParams> norm{HEARTH_ISA_NAME, norm_declines, norm_run, nullptr};
const Kernel<GateSpec, GateParams> gate{HEARTH_ISA_NAME, gate_declines, gate_run, nullptr};
const Kernel<AddSpec, AddParams> add{HEARTH_ISA_NAME, add_declines, add_run, nullptr};
const Kernel<GatherSpec, GatherParams> gather{HEARTH_ISA_NAME, gather_declines, gather_run, nullptr};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
