// FP16 / BF16 linears, and 8-bit weights with exact activations (kept as 16-bit integers with a factor a row: right and
// simple; the bytes of FP16). Layout "dense": rows [tiles * 16, in] as they come, a gated linear's gate and up rows
// interleaved by eight; padding rows are zero. Layout of w8: the same, then f32 factors [tiles * 16].
#include <cstring>

#include "kernels/cuda/host/resources.h"
#include "kernels/cuda/host/hopper.h"
#include "kernels/cuda/host/linear_mma.h"
#include "kernels/cuda/host/linear_shared.h"
#include "kernels/cuda/host/program.h"
#include "kernels/cuda/host/tuning.h"

namespace hearth::kernels::cuda {

using namespace ops;
using device::CudaKernel;
using device::CudaModule;
using device::CudaStream;
using device::DeviceInfo;
using device::Stream;

extern const CudaModule module_linear_rows_dense_f16, module_linear_rows_dense_bf16, module_linear_tile_dense_f16, module_linear_tile_dense_bf16;

namespace {

constexpr int sizes = 3;
#define HEARTH_ROWS(s) {{&module_linear_rows_dense_f16, "linear_rows_dense_s" #s "_f16"}, {&module_linear_rows_dense_bf16, "linear_rows_dense_s" #s "_bf16"}}
constexpr int rows_stages[] = {3, 4, 5, 6, 7, 8, 10, 12};
const CudaKernel rows_kernels[][2] = {HEARTH_ROWS(3), HEARTH_ROWS(4), HEARTH_ROWS(5), HEARTH_ROWS(6), HEARTH_ROWS(7), HEARTH_ROWS(8), HEARTH_ROWS(10), HEARTH_ROWS(12)};
#define HEARTH_TILE(n, s) {{&module_linear_tile_dense_f16, "linear_tile_dense_n" #n "_s" #s "_f16"}, {&module_linear_tile_dense_bf16, "linear_tile_dense_n" #n "_s" #s "_bf16"}}
const CudaKernel tile_kernels[sizes][2] = {HEARTH_TILE(16, 4), HEARTH_TILE(32, 4), HEARTH_TILE(64, 4)};
const CudaKernel deep_kernels[sizes - 1][2] = {HEARTH_TILE(16, 10), HEARTH_TILE(32, 10)};

// `deep`: a ring that Hopper's shared memory holds. 64 rows are not faster for it.
constexpr TileSize tile_size(int i, bool deep) {
  constexpr int bn[sizes] = {16, 32, 64};
  return {128, bn[i], deep ? 10 : 4, tile_stage_bytes(kind_dense16, 1, 128, bn[i]), 1};
}
int size_for(int rows) { return rows <= 16 ? 0 : rows <= 32 ? 1 : 2; }

size_t row_bytes(const LinearSpec& s) { return static_cast<size_t>(s.in) * 2; }
size_t weight_bytes(const LinearSpec& s) { return aligned(static_cast<size_t>(tile_count(s)) * 16 * row_bytes(s)); }
bool eight_bits(const LinearSpec& s) { return s.weight == WeightFormat::w8; }

const char* declines(const LinearSpec& s, const DeviceInfo& info) {
  const bool dense = s.weight == WeightFormat::f16 || s.weight == WeightFormat::bf16;
  if (!dense && !(eight_bits(s) && s.activations == ActivationFormat::exact)) return "weights are not f16, bf16 or w8";
  if (s.activations != ActivationFormat::exact) return "dense weights take exact activations";
  return linear_shape_declines(s, info);
}

size_t packed_bytes(const LinearSpec& s) { return weight_bytes(s) + (eight_bits(s) ? aligned(static_cast<size_t>(tile_count(s)) * 64) : 0); }

void pack_row(const LinearSpec& s, const HostLinear& from, int source, uint16_t* to) {
  if (source < 0) {
    std::memset(to, 0, row_bytes(s));
  } else if (eight_bits(s)) {
    const auto* q = static_cast<const int8_t*>(from.data) + static_cast<size_t>(source) * s.in;
    const bool brain = compute_type(s) == DType::bf16;
    for (int i = 0; i < s.in; ++i) to[i] = brain ? to_bfloat16(q[i]).bits : to_half(q[i]).bits;  // exact
  } else {
    std::memcpy(to, static_cast<const char*>(from.data) + row_bytes(s) * source, row_bytes(s));
  }
}

void pack(const LinearSpec& s, const HostLinear& from, int begin, int end, void* to) {
  auto* rows = static_cast<char*>(to);
  auto* factors = reinterpret_cast<float*>(rows + weight_bytes(s));
  for (int tile = begin / 16; tile < divide_up(end, 16); ++tile)
    for (int r = 0; r < 16; ++r) {
      const int source = source_row(s, tile, r);
      pack_row(s, from, source, reinterpret_cast<uint16_t*>(rows + (static_cast<size_t>(tile) * 16 + r) * row_bytes(s)));
      if (eight_bits(s)) factors[tile * 16 + r] = source < 0 ? 0.0f : from.scales[source];
    }
}

constexpr int prefill_rows = 65;  // from here the kernels of many rows

size_t workspace_bytes(const LinearSpec& s, int max_rows, const DeviceInfo& info) {
  const size_t x = aligned(static_cast<size_t>(max_rows) * s.in * 2);  // also of rows that are not 16-byte aligned
  size_t most = 0;
  for (int i = 0; i <= size_for(max_rows); ++i) most = std::max(most, tile_partial_bytes(tile_size(i, false), info.threads));
  if (hopper_linear_takes(info.compute_capability)) most = std::max(most, hopper_linear_workspace(max_rows, info.threads));
  return x + most;
}

void run(const LinearSpec& s, const LinearParams& p, Stream& base) {
  CudaStream& stream = device::cuda(base);
  if (p.rows <= 0) return;
  const DType narrow = compute_type(s);
  const int type = narrow == DType::bf16;
  LinearArgs a = linear_arguments(s, p, stream);
  a.k_padded = round_up(s.in, 64);
  if (eight_bits(s)) a.weight_scale = reinterpret_cast<const float*>(static_cast<const char*>(p.weight) + weight_bytes(s));
  Scratch scratch(p.workspace);
  void* x = scratch.take<char>(static_cast<size_t>(p.rows) * s.in * 2);
  if (program_linear(stream, a, narrow, [s, p, &base] { run(s, p, base); })) return;
  if (const RowsForm form = rows_form(rows_stages, p.rows, a.k_padded, 2, stream); form.depth >= 0) {
    const bool fused = p.rows <= tuning().fused_norm_rows && s.in <= 8192;
    const bool readable = p.x_stride % 8 == 0 && aligned16(p.x);
    if ((s.norm != NormKind::none && !fused) || !readable) make_contiguous(a, narrow, x, stream);
    return launch_rows_kernel(stream, rows_kernels[form.depth][type], form, a);
  }
  make_contiguous(a, narrow, x, stream);
  const bool hopper = hopper_linear_takes(stream.info().compute_capability);
  if (hopper && p.rows >= prefill_rows) {
    a.k_padded = s.in;
    a.partial = hopper_linear_workspace(p.rows, stream.multiprocessors()) ? reinterpret_cast<float*>(scratch.at) : nullptr;
    return hopper_linear(stream, narrow, a, true);
  }
  if (p.rows >= prefill_rows) return mma_linear(stream, kind_dense16, narrow, a);
  const int size = size_for(p.rows);
  const bool deep = hopper && size < sizes - 1;
  launch_tiles(stream, deep ? deep_kernels[size][type] : tile_kernels[size][type], tile_size(size, deep), 64, a, scratch.at);
}

}  // namespace

const LinearImplementation linear_dense{{"cuda/sm80/dense", declines, run, workspace_bytes}, "dense", packed_bytes, pack, 16};

void append_dense_shared(int sm, std::vector<SharedUse>& uses) {
  for (int i = 0; i < sizes; ++i) uses.push_back({tile_kernels[i][0].name, tile_size(i, false).stages * tile_size(i, false).stage_bytes});
  for (int i = 0; sm == 90 && i < sizes - 1; ++i) uses.push_back({deep_kernels[i][0].name, tile_size(i, true).stages * tile_size(i, true).stage_bytes});
}

}  // namespace hearth::kernels::cuda
