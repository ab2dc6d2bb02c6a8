// What the linear implementations share: argument structs, the tile kernels' launch, choices by rows.
#pragma once

#include <algorithm>
#include <span>

#include "kernels/cuda/host/convert.h"
#include "kernels/cuda/host/implementations.h"
#include "kernels/cuda/host/tuning_table.h"

namespace hearth::kernels::cuda {

// Rows of weights come in tiles of 16; of a gated linear a tile holds 8 gates and their 8 ups.
inline int tile_count(const ops::LinearSpec& s) { return divide_up(s.out, 16); }
// The source row of packed row `r` of tile `tile`, or -1 for padding.
inline int source_row(const ops::LinearSpec& s, int tile, int r) {
  if (!s.gated) return tile * 16 + r < s.out ? tile * 16 + r : -1;
  const int half = s.out / 2, column = tile * 8 + r % 8;
  return column < half ? (r < 8 ? column : half + column) : -1;
}

// One compiled size of a tile kernel.
struct TileSize { int bm, bn, stages, stage_bytes, blocks_per_multiprocessor; };

// Mirrors TileStage of sm80/linear_tile.cuh.
constexpr int tile_stage_bytes(int kind, int groups_per_step, int bm, int bn) {
  const int weights = kind == kind_w4 ? bm / 16 * 512 : bm * 128;
  const int meta = kind == kind_w4 ? bm / 16 * groups_per_step * 40 : 0;
  return (weights + meta + 127) / 128 * 128 + bn * 128;
}

// Fills what does not depend on the implementation.
LinearArgs linear_arguments(const ops::LinearSpec& s, const ops::LinearParams& p, device::CudaStream& stream);

// Activations as rows of T that the tile kernels can copy 16 bytes at a time: the given ones, or converted (and normed)
// ones in `to`. Clears args.norm.
void make_contiguous(LinearArgs& args, DType narrow, void* to, device::CudaStream& stream);

// Launches a tile kernel over all rows; `partial` holds tile_partial_bytes.
void launch_tiles(device::CudaStream& stream, const device::CudaKernel& kernel, const TileSize& size, int chunk_k, LinearArgs args, void* partial);
size_t tile_partial_bytes(const TileSize& size, int multiprocessors);

// The narrow type a linear computes in.
inline DType compute_type(const ops::LinearSpec& s) {
  if (s.weight == ops::WeightFormat::f16) return DType::f16;
  if (s.weight == ops::WeightFormat::bf16) return DType::bf16;
  if (is_narrow(s.x_type)) return s.x_type;
  return is_narrow(s.y_type) ? s.y_type : DType::f16;
}
// Reasons every tensor-core linear has to decline.
const char* linear_shape_declines(const ops::LinearSpec& s, const device::DeviceInfo& info);

// The ways to run a w4 linear with these rows (linear_w4.cpp), for the tuning pass.
std::vector<LinearChoice> w4_candidates(const ops::LinearSpec& s, int rows, device::CudaStream& stream);

// The decode path (sm80/linear_rows.cuh): of the ring depths it is compiled for, shallow first, the deepest that leaves room for
// these rows of `element` bytes a value; and its launch.
struct RowsForm { int depth = -1, shared_bytes = 0; };  // depth: an index, -1: none fits
RowsForm rows_form(std::span<const int> stages, int rows, int k_padded, int element, const device::CudaStream& stream);
void launch_rows_kernel(device::CudaStream& stream, const device::CudaKernel& kernel, const RowsForm& form, const LinearArgs& args);

}  // namespace hearth::kernels::cuda
