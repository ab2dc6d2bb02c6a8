// W8A8 linears: int8 tensor cores, exact 32-bit sums, activations quantised per row at run time or with a static scale.
// Layout "w8-dense": int8 rows [tiles * 16, in] (gated: interleaved by eight), then f32 scales [tiles * 16].
#include <cstring>

#include "kernels/cuda/host/hopper.h"
#include "kernels/cuda/host/linear_mma.h"
#include "kernels/cuda/host/linear_shared.h"
#include "kernels/cuda/host/tuning.h"

namespace hearth::kernels::cuda {

using namespace ops;
using device::CudaKernel;
using device::CudaStream;
using device::DeviceInfo;
using device::Stream;

extern const device::CudaModule module_linear_int8;

namespace {

constexpr int sizes = 3;
constexpr int rows_stages[] = {4, 8, 12};
const CudaKernel rows_kernels[] = {{&module_linear_int8, "linear_rows_int8_s4"}, {&module_linear_int8, "linear_rows_int8_s8"}, {&module_linear_int8, "linear_rows_int8_s12"}};
const CudaKernel tile_kernels[sizes] = {{&module_linear_int8, "linear_tile_int8_n16"}, {&module_linear_int8, "linear_tile_int8_n32"},
                                        {&module_linear_int8, "linear_tile_int8_n64"}};
constexpr TileSize tile_size(int i) {
  constexpr int bn[sizes] = {16, 32, 64}, stages[sizes] = {4, 4, 4};
  return {128, bn[i], stages[i], tile_stage_bytes(kind_int8, 1, 128, bn[i]), 1};
}
int size_for(int rows) { return rows <= 16 ? 0 : rows <= 32 ? 1 : 2; }

size_t weight_bytes(const LinearSpec& s) { return aligned(static_cast<size_t>(tile_count(s)) * 16 * s.in); }

const char* declines(const LinearSpec& s, const DeviceInfo& info) {
  if (s.weight != WeightFormat::w8 || s.activations != ActivationFormat::int8_row) return "not W8A8";
  if (!is_cuda(info)) return "not a CUDA device";
  if (!is_float(s.x_type) || !is_float(s.y_type)) return "types are f32, f16 or bf16";
  if (s.residual && s.y_type != DType::f32) return "residual needs f32 output";
  if (s.in % 16 != 0) return "the width must be a multiple of 16";
  return s.in <= norm_width_max(info) ? nullptr : "a row does not fit shared memory";
}

size_t packed_bytes(const LinearSpec& s) { return weight_bytes(s) + aligned(static_cast<size_t>(tile_count(s)) * 64); }

void pack(const LinearSpec& s, const HostLinear& from, int begin, int end, void* to) {
  auto* rows = static_cast<char*>(to);
  auto* scales = reinterpret_cast<float*>(rows + weight_bytes(s));
  for (int tile = begin / 16; tile < divide_up(end, 16); ++tile)
    for (int r = 0; r < 16; ++r) {
      const int source = source_row(s, tile, r);
      char* row = rows + (static_cast<size_t>(tile) * 16 + r) * s.in;
      if (source < 0) std::memset(row, 0, s.in);
      else std::memcpy(row, static_cast<const char*>(from.data) + static_cast<size_t>(source) * s.in, s.in);
      scales[tile * 16 + r] = source < 0 ? 0.0f : from.scales[source];
    }
}

constexpr int prefill_rows = 65;  // from here the kernels of many rows

size_t workspace_bytes(const LinearSpec& s, int max_rows, const DeviceInfo& info) {
  size_t most = 0;
  for (int i = 0; i <= size_for(max_rows); ++i) most = std::max(most, tile_partial_bytes(tile_size(i), info.threads));
  return aligned(static_cast<size_t>(max_rows) * round_up(s.in, 128)) + aligned(static_cast<size_t>(max_rows) * 4) + most;
}

void run(const LinearSpec& s, const LinearParams& p, Stream& base) {
  CudaStream& stream = device::cuda(base);
  if (p.rows <= 0) return;
  LinearArgs a = linear_arguments(s, p, stream);
  a.k_padded = round_up(s.in, 128);
  a.weight_scale = reinterpret_cast<const float*>(static_cast<const char*>(p.weight) + weight_bytes(s));
  Scratch scratch(p.workspace);
  auto* q = scratch.take<int8_t>(static_cast<size_t>(p.rows) * a.k_padded);
  auto* x_scale = scratch.take<float>(static_cast<size_t>(p.rows) * 4);
  launch_quantize(stream, {p.x, p.x_stride, q, x_scale, p.norm_weight, p.norm_bias, p.rows, s.in, a.k_padded, a.x_type, a.norm, s.norm_epsilon, s.static_scale});
  a.x = q; a.x_stride = a.k_padded; a.norm = norm_none;
  a.x_scale = s.static_scale > 0 ? nullptr : x_scale;
  if (const RowsForm form = rows_form(rows_stages, p.rows, a.k_padded, 1, stream); form.depth >= 0) return launch_rows_kernel(stream, rows_kernels[form.depth], form, a);
  const bool hopper = hopper_linear_takes(stream.info().compute_capability);
  if (hopper && p.rows >= prefill_rows) {
    a.k_padded = s.in;
    return hopper_linear(stream, DType::i8, a, true);
  }
  if (p.rows >= prefill_rows) return mma_linear(stream, kind_int8, DType::i8, a);
  const int size = size_for(p.rows);
  launch_tiles(stream, tile_kernels[size], tile_size(size), 128, a, scratch.at);
}

}  // namespace

const LinearImplementation linear_int8{{"cuda/sm80/w8a8", declines, run, workspace_bytes}, "w8-dense", packed_bytes, pack, 16};

}  // namespace hearth::kernels::cuda
