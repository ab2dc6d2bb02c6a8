// The wgmma paths of sm_90, and what the copy engine wants to know of a matrix.
#pragma once

#include <utility>
#include <vector>

#include "kernels/cuda/hopper_params.h"
#include "kernels/cuda/host/convert.h"
#include "kernels/cuda/host/resources.h"

namespace hearth::kernels::cuda {

bool hopper_linear_takes(int compute_capability);

// y = epilogue(weight * x), many rows: args.x contiguous rows of `type` (f16, bf16 or i8), args.weight rows
// [tiles * 16, k_padded] of the same. `weights_constant`: no kernel writes them (a model's own, not a scratch).
// args.partial: hopper_linear_workspace() bytes for sums of parts of tiles, or null (then no kernel that needs them).
void hopper_linear(device::CudaStream& stream, DType type, const LinearArgs& args, bool weights_constant);
size_t hopper_linear_workspace(int max_rows, int multiprocessors);
// The same with w4-mma weights, decoded in registers; args.x contiguous rows of f16 or bf16. Needs no workspace.
void hopper_w4_prefill(device::CudaStream& stream, DType type, const LinearArgs& args);
// Output columns of a tile for this shape: the width that takes least time by waves and bytes.
int hopper_tile_columns(int rows, int out, int k_bytes, int multiprocessors);
// For measurements and tests: the form in which linear_stream takes every dense linear of 16 bits that it can take. Outputs of
// its tiles, 1,256 for even shares, 1,128 for two blocks a tile; -1: never, 0: by shape.
int& hopper_forced_stream();
// For measurements: every dense tile this wide (64, 128, 192, 256), 0 to choose.
int& hopper_forced_columns();

// y = epilogue(weight * x) with w4-mma weights decoded in registers by clusters of blocks that share K
// (sm90/linear_w4_cluster.cuh); args.x contiguous 16-bit rows. Needs no workspace.
// `variant`: its size, -1: by rows. `split`: blocks that share K, 0: by a model.
void hopper_w4_cluster(device::CudaStream& stream, DType type, const LinearArgs& args, int variant = -1, int split = 0);
// w4 units as [tiles][k / 128][bytes], read in boxes of `box_units` units of `box_tiles` tiles.
Status describe_units(const device::cu::Api& api, TensorMapBytes& map, const LinearArgs& a, int box_tiles, int box_units = 1);
// Pairs of variant and split worth timing for these rows.
std::vector<std::pair<int, int>> hopper_w4_candidates(int rows, int units);

// A matrix of `rows` rows of k elements, read in swizzled boxes of `box_rows` rows by 128 bytes.
Status describe_matrix(const device::cu::Api& api, TensorMapBytes& map, DType type, const void* data, int k, int rows, int64_t stride, int box_rows);
void append_hopper_dense_shared(std::vector<SharedUse>& uses);

}  // namespace hearth::kernels::cuda
