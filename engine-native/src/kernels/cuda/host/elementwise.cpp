// Embedding, norms, gates, adds, gathers on CUDA.
#include <algorithm>

#include "kernels/cuda/host/convert.h"
#include "kernels/cuda/host/implementations.h"

namespace hearth::kernels::cuda {

using device::CudaKernel;
using device::CudaStream;
using device::DeviceInfo;
using device::Stream;
using namespace ops;

extern const device::CudaModule module_elementwise, module_norm_rows, module_quantize_wide;

namespace {


const CudaKernel quantize_wide_kernels[2] = {{&module_quantize_wide, "quantize_wide_4096"}, {&module_quantize_wide, "quantize_wide_12288"}};
const CudaKernel embed_kernel{&module_elementwise, "embed_kernel"}, norm_kernel{&module_elementwise, "norm_kernel"},
    norm_narrow4_kernel{&module_elementwise, "norm_narrow4_kernel"}, norm_narrow8_kernel{&module_elementwise, "norm_narrow8_kernel"},
    gate_kernel{&module_elementwise, "gate_kernel"}, add_kernel{&module_elementwise, "add_kernel"},
    gather_kernel{&module_elementwise, "gather_kernel"}, quantize_kernel{&module_elementwise, "quantize_rows_kernel"};

// Rows of at most 1,024 and 1,280 values; how many blocks stand on a multiprocessor.
const CudaKernel norm_rows_kernels[] = {{&module_norm_rows, "norm_rows_1024_kernel"}, {&module_norm_rows, "norm_rows_1280_kernel"}};
constexpr int norm_rows_blocks[] = {9, 7};
constexpr int norm_rows_from = 257;  // rows from which a warp a row is enough to fill a device

constexpr int block = 256;
constexpr int grid_y_max = 65535;

int type_of(DType t) { return static_cast<int>(t); }

const char* embed_declines(const EmbedSpec& s, const DeviceInfo& info) {
  if (!is_cuda(info)) return "not a CUDA device";
  return is_float(s.table_type) ? nullptr : "tables are f32, f16 or bf16";
}
void embed_run(const EmbedSpec& s, const EmbedParams& p, Stream& stream) {
  device::cuda(stream).launch(embed_kernel, {p.rows, 1, 1, block},
      EmbedArgs{p.ids, p.source, p.sampled, p.table, p.image_rows, p.x, p.rows, s.width, s.vocabulary, type_of(s.table_type), s.scale});
}

const char* norm_declines(const NormSpec& s, const DeviceInfo& info) {
  if (!is_cuda(info)) return "not a CUDA device";
  if (s.kind == NormKind::none) return "no norm asked for";
  if (s.accumulate && s.y_type != DType::f32) return "accumulating needs f32 output";
  if (s.width > norm_width_max(info)) return "a row does not fit shared memory";
  return is_float(s.x_type) && is_float(s.y_type) ? nullptr : "types are f32, f16 or bf16";
}
void norm_run(const NormSpec& s, const NormParams& p, Stream& stream) {
  launch_norm(device::cuda(stream), {p.x, p.x_stride, p.weight, p.bias, p.y, p.y_stride, p.rows, s.width, static_cast<int>(s.kind),
                                     type_of(s.x_type), type_of(s.y_type), s.accumulate, s.epsilon});
}

const char* gate_declines(const GateSpec& s, const DeviceInfo& info) {
  if (!is_cuda(info)) return "not a CUDA device";
  return is_float(s.type) ? nullptr : "types are f32, f16 or bf16";
}
int column_blocks(int width) { return std::clamp(divide_up(width, block * 4), 1, 64); }
// y in grid dimension y is limited: longer batches go in pieces.
template <class Args>
void launch_rows(CudaStream& stream, const CudaKernel& kernel, Args args, int width, size_t x_bytes, size_t y_bytes) {
  const int rows = args.rows;
  for (int row = 0; row < rows; row += grid_y_max) {
    Args piece = args;
    piece.x = reinterpret_cast<const char*>(args.x) + row * args.x_stride * x_bytes;
    piece.y = reinterpret_cast<decltype(args.y)>(reinterpret_cast<char*>(args.y) + row * args.y_stride * y_bytes);
    piece.rows = std::min(grid_y_max, rows - row);
    stream.launch(kernel, {column_blocks(width), piece.rows, 1, block}, piece);
  }
}
void gate_run(const GateSpec& s, const GateParams& p, Stream& stream) {
  launch_rows(device::cuda(stream), gate_kernel, GateArgs{p.x, p.x_stride, p.y, p.y_stride, p.rows, s.width, static_cast<int>(s.activation), type_of(s.type)},
              s.width, size_of(s.type), size_of(s.type));
}

const char* add_declines(const AddSpec& s, const DeviceInfo& info) {
  if (!is_cuda(info)) return "not a CUDA device";
  return is_float(s.x_type) ? nullptr : "types are f32, f16 or bf16";
}
void add_run(const AddSpec& s, const AddParams& p, Stream& stream) {
  launch_rows(device::cuda(stream), add_kernel, AddArgs{p.x, p.x_stride, p.y, p.y_stride, p.rows, s.width, type_of(s.x_type)}, s.width, size_of(s.x_type), 4);
}

const char* gather_declines(const GatherSpec& s, const DeviceInfo& info) {
  if (!is_cuda(info)) return "not a CUDA device";
  return is_float(s.x_type) && is_float(s.y_type) ? nullptr : "types are f32, f16 or bf16";
}
void gather_run(const GatherSpec& s, const GatherParams& p, Stream& stream) {
  for (int row = 0; row < p.rows; row += grid_y_max) {
    const int rows = std::min(grid_y_max, p.rows - row);
    device::cuda(stream).launch(gather_kernel, {column_blocks(s.width), rows, 1, block},
        GatherArgs{p.x, p.x_stride, p.index + row, static_cast<char*>(p.y) + row * p.y_stride * size_of(s.y_type), p.y_stride, rows, s.width, type_of(s.x_type), type_of(s.y_type)});
  }
}

}  // namespace

int norm_width_max(const DeviceInfo& info) { return (info.profile.shared_bytes_per_block - 1024) / 4; }

void launch_norm(CudaStream& stream, const NormArgs& args) {
  const bool aligned = args.width % 4 == 0 && args.x_stride % 4 == 0 && args.y_stride % 4 == 0 && aligned16(args.x) && aligned16(args.y) &&
                       (!args.weight || aligned16(args.weight)) && (!args.bias || aligned16(args.bias));
  const bool narrows = aligned && args.x_type == type_f32 && args.y_type != type_f32 && !args.accumulate;
  if (narrows && args.kind != norm_none && args.rows >= norm_rows_from && args.width <= 1280) {
    const bool wide = args.width > 1024;
    return stream.launch(norm_rows_kernels[wide], {std::min(divide_up(args.rows, 4), norm_rows_blocks[wide] * stream.multiprocessors()), 1, 1, 128}, args);
  }
  if (narrows && args.width <= 8192)
    return stream.launch(args.width <= 4096 ? norm_narrow4_kernel : norm_narrow8_kernel, {args.rows, 1, 1, 256}, args);
  stream.launch(norm_kernel, {args.rows, 1, 1, block, round_up(args.width, 4) * 4}, args);
}
bool quantizes_wide(const QuantizeArgs& a) {
  const int bytes = a.x_type == type_f32 ? 16 : 8;  // of four values
  return a.width % 4 == 0 && a.width_padded % 4 == 0 && a.width_padded <= 12288 && a.x_stride % 4 == 0 && reinterpret_cast<uintptr_t>(a.x) % bytes == 0 && aligned16(a.q);
}
void launch_quantize(CudaStream& stream, const QuantizeArgs& args) {
  if (quantizes_wide(args)) return stream.launch(quantize_wide_kernels[args.width_padded > 4096], {args.rows, 1, 1, 256}, args);
  stream.launch(quantize_kernel, {args.rows, 1, 1, block, round_up(args.width, 4) * 4}, args);
}

const Implementation<EmbedSpec, EmbedParams> embed{"cuda/generic", embed_declines, embed_run, nullptr};
const Implementation<NormSpec, NormParams> norm{"cuda/generic", norm_declines, norm_run, nullptr};
const Implementation<GateSpec, GateParams> gate{"cuda/generic", gate_declines, gate_run, nullptr};
const Implementation<AddSpec, AddParams> add{"cuda/generic", add_declines, add_run, nullptr};
const Implementation<GatherSpec, GatherParams> gather{"cuda/generic", gather_declines, gather_run, nullptr};

}  // namespace hearth::kernels::cuda
