// Launches of the calibration kernels (ops/calibration.h); products are the dense linear's own.
#include <algorithm>

#include "kernels/cuda/calibration_params.h"
#include "kernels/cuda/host/convert.h"
#include "kernels/cuda/host/implementations.h"

namespace hearth::kernels::cuda {

using namespace ops;
using device::CudaKernel;
using device::CudaStream;
using device::DeviceInfo;
using device::Stream;

extern const device::CudaModule module_calibration, module_calibration_round;

namespace {

const CudaKernel largest_kernel{&module_calibration, "calibration_largest_kernel"}, halves_kernel{&module_calibration, "calibration_halves_kernel"},
    turn_kernel{&module_calibration, "calibration_turn_kernel"}, unscale_kernel{&module_calibration, "calibration_unscale_kernel"},
    map_kernel{&module_calibration, "calibration_map_kernel"}, norm_kernel{&module_calibration, "calibration_norm_kernel"},
    rotate_kernel{&module_calibration, "calibration_rotate_kernel"}, attend_kernel{&module_calibration, "calibration_attend_kernel"},
    pick_kernel{&module_calibration, "calibration_pick_kernel"}, sum_kernel{&module_calibration, "calibration_sum_kernel"},
    columns_kernel{&module_calibration, "calibration_columns_kernel"}, int8_kernel{&module_calibration, "calibration_int8_kernel"},
    push_kernel{&module_calibration_round, "calibration_push_kernel"};
// By group: 32, 64, 128.
const CudaKernel groups_kernels[] = {{&module_calibration_round, "calibration_groups_32_kernel"}, {&module_calibration_round, "calibration_groups_64_kernel"}, {&module_calibration_round, "calibration_groups_128_kernel"}};
const CudaKernel clip_kernels[] = {{&module_calibration_round, "calibration_clip_32_kernel"}, {&module_calibration_round, "calibration_clip_64_kernel"}, {&module_calibration_round, "calibration_clip_128_kernel"}};
const CudaKernel round_kernels[] = {{&module_calibration_round, "calibration_round_32_kernel"}, {&module_calibration_round, "calibration_round_64_kernel"}, {&module_calibration_round, "calibration_round_128_kernel"}};
int by_group(int group) { return group == 32 ? 0 : group == 64 ? 1 : 2; }

constexpr int64_t round_rows = 16;  // a warp each

// Blocks of a kernel whose threads go on to further elements.
int blocks_for(int64_t count, const CudaStream& stream) {
  return static_cast<int>(std::clamp<int64_t>(divide_up<int64_t>(count, 256), 1, int64_t{stream.multiprocessors()} * 16));
}
int grid(int64_t count) { return static_cast<int>(count); }

LinearSpec product_spec(int64_t out, int64_t in_padded) {
  LinearSpec spec;
  spec.in = static_cast<int>(in_padded);
  spec.out = static_cast<int>(out);
  spec.weight = WeightFormat::f16;
  spec.x_type = DType::f16;
  spec.y_type = DType::f32;
  return spec;
}

size_t half_bytes(int64_t rows, int64_t columns) { return aligned(static_cast<size_t>(rows * columns) * 2); }

void largest_of(CudaStream& stream, const float* x, int64_t count, uint32_t* largest) {
  stream.zero(largest, sizeof *largest);
  stream.launch(largest_kernel, {blocks_for(count, stream), 1, 1, 256}, LargestArgs{x, largest, count});
}

void multiply_halves(CudaStream& stream, const void* x, const void* w, float* y, int64_t rows, int64_t out, int64_t in_padded, void* workspace) {
  LinearParams params;
  params.rows = static_cast<int>(rows);
  params.x = x;
  params.x_stride = in_padded;
  params.weight = w;
  params.y = y;
  params.y_stride = out;
  params.workspace = workspace;
  linear_dense.run(product_spec(out, in_padded), params, stream);
}

size_t linear_bytes(int64_t rows, int64_t out, int64_t in_padded, const DeviceInfo& info) {
  return linear_dense.workspace_bytes(product_spec(out, in_padded), static_cast<int>(rows), info);
}

// The copy engine and the tile kernels read whole rows of 16 bytes and whole tiles of 16 outputs.
constexpr int64_t in_step = 64, out_step = 16;

// Kernels of the engine may read weights before what came earlier in the stream has ended; here weights are made by what
// came just before.
void begin(Stream& stream) { device::cuda(stream).overlap_allowed = false; }

size_t product_bytes(int64_t rows, int64_t out, int64_t in, const DeviceInfo& info) {
  const int64_t in_padded = round_up(in, in_step);
  return 256 + half_bytes(rows, in_padded) + half_bytes(round_up(out, out_step), in_padded) + linear_bytes(rows, out, in_padded, info);
}

void run_product(const CalibrationProduct& p, Stream& base) {
  CudaStream& stream = device::cuda(base);
  const int64_t in_padded = round_up(p.in, in_step), out_padded = round_up(p.out, out_step);
  Scratch scratch(p.workspace);
  auto* largest = scratch.take<uint32_t>(8);
  void* x = scratch.take<char>(half_bytes(p.rows, in_padded));
  void* w = scratch.take<char>(half_bytes(out_padded, in_padded));
  largest_of(stream, p.x, p.rows * p.in, largest);
  largest_of(stream, p.w, p.out * p.in, largest + 1);
  stream.launch(halves_kernel, {blocks_for(p.rows * in_padded / 4, stream), 1, 1, 256}, HalvesArgs{p.x, x, largest, p.rows, p.in, p.rows, in_padded, 0, 0});
  stream.launch(halves_kernel, {blocks_for(out_padded * in_padded / 4, stream), 1, 1, 256}, HalvesArgs{p.w, w, largest + 1, p.out, p.in, out_padded, in_padded, 0, 0});
  multiply_halves(stream, x, w, p.y, p.rows, p.out, in_padded, scratch.at);
  stream.launch(unscale_kernel, {blocks_for(p.rows * p.out, stream), 1, 1, 256}, UnscaleArgs{p.y, largest, largest + 1, p.rows * p.out});
}

size_t gram_bytes(int64_t rows, int64_t size, const DeviceInfo& info) {
  const int64_t rows_padded = round_up(rows, in_step);
  return 256 + half_bytes(round_up(size, out_step), rows_padded) + linear_bytes(size, size, rows_padded, info);
}

void run_gram(const CalibrationGram& p, Stream& base) {
  CudaStream& stream = device::cuda(base);
  const int64_t rows_padded = round_up(p.rows, in_step), size_padded = round_up(p.size, out_step);
  Scratch scratch(p.workspace);
  auto* largest = scratch.take<uint32_t>(8);
  void* x = scratch.take<char>(half_bytes(size_padded, rows_padded));
  largest_of(stream, p.x, p.rows * p.columns, largest);
  stream.launch(turn_kernel, {grid(rows_padded / 32), grid(divide_up<int64_t>(size_padded, 32)), 1, 256},
                HalvesArgs{p.x, x, largest, p.rows, p.columns, size_padded, rows_padded, p.first, p.size});
  multiply_halves(stream, x, x, p.y, p.size, p.size, rows_padded, scratch.at);
  stream.launch(unscale_kernel, {blocks_for(p.size * p.size, stream), 1, 1, 256}, UnscaleArgs{p.y, largest, largest, p.size * p.size});
}

void run_map(const CalibrationMap& p, Stream& base) {
  CudaStream& stream = device::cuda(base);
  stream.launch(map_kernel, {blocks_for(p.rows * p.columns, stream), 1, 1, 256}, p);
}
void run_norm(const CalibrationNorm& p, Stream& stream) { device::cuda(stream).launch(norm_kernel, {grid(p.rows), 1, 1, 256}, p); }
void run_rotate(const CalibrationRotate& p, Stream& stream) {
  device::cuda(stream).launch(rotate_kernel, {grid(divide_up<int64_t>(p.rows * p.heads, 8)), 1, 1, 256}, p);
}
void run_attend(const CalibrationAttend& p, Stream& base) {
  CudaStream& stream = device::cuda(base);
  if (p.head_dim % 8 != 0 || p.head_dim > 256) return stream.fail(unsupported("calibrating heads of " + std::to_string(p.head_dim) + " on a GPU; --device cpu does"));
  const int shared = (2 * 32 * (p.head_dim + 1) + 32 * p.head_dim + 32 * 33) * static_cast<int>(sizeof(float));
  stream.launch(attend_kernel, {grid(p.sequences * p.heads * divide_up<int64_t>(p.length, 32)), 1, 1, 256, shared}, p);
}
void run_pick(const CalibrationPick& p, Stream& base) {
  CudaStream& stream = device::cuda(base);
  stream.launch(pick_kernel, {blocks_for(p.rows * p.columns, stream), 1, 1, 256}, p);
}
void run_sum(const CalibrationSum& p, Stream& stream) { device::cuda(stream).launch(sum_kernel, {calibration_partials, 1, 1, 256}, p); }
void run_columns(const CalibrationColumns& p, Stream& stream) {
  device::cuda(stream).launch(columns_kernel, {grid(divide_up<int64_t>(p.columns, 32)), 1, 1, 256}, p);
}
void run_int8(const CalibrationInt8& p, Stream& stream) { device::cuda(stream).launch(int8_kernel, {grid(p.rows), 1, 1, 256}, p); }
void run_groups(const CalibrationGroups& p, Stream& stream) {
  device::cuda(stream).launch(groups_kernels[by_group(p.group)], {grid(divide_up<int64_t>(p.rows * (p.columns / p.group), 8)), 1, 1, 256}, p);
}
void run_clip(const CalibrationClip& p, Stream& stream) {
  const int shared = p.group * p.group * static_cast<int>(sizeof(float));
  device::cuda(stream).launch(clip_kernels[by_group(p.group)], {grid(divide_up(p.rows, round_rows)), 1, 1, 32 * static_cast<int>(round_rows), shared}, p);
}
void run_round(const CalibrationRound& p, Stream& stream) {
  const int shared = (p.group * p.group + p.group) * static_cast<int>(sizeof(float));
  device::cuda(stream).launch(round_kernels[by_group(p.group)], {grid(divide_up(p.rows, round_rows)), 1, 1, 32 * static_cast<int>(round_rows), shared}, p);
}
void run_push(const CalibrationPush& p, Stream& stream) {
  device::cuda(stream).launch(push_kernel, {grid(divide_up<int64_t>(p.rows, 64)), grid(divide_up<int64_t>(p.columns, 64)), 1, 256}, p);
}

}  // namespace

const CalibrationOps* calibration_ops() {
  static const CalibrationOps ops{begin,      product_bytes, run_product, gram_bytes,  run_gram,   run_map,  run_norm,  run_rotate, run_attend,
                                  run_pick,   run_sum,       run_columns, run_int8,    run_groups, run_clip, run_round, run_push};
  return &ops;
}

}  // namespace hearth::kernels::cuda
