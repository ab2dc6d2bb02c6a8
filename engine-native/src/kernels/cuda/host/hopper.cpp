// Launches of the wgmma kernels of few rows (hopper_dense.cpp has those of many).
#include "kernels/cuda/host/resources.h"
#include "kernels/cuda/host/hopper.h"

#include <algorithm>

#include "kernels/cuda/host/tuning.h"
#include "kernels/cuda/hopper_params.h"

namespace hearth::kernels::cuda {

using device::CudaKernel;
using device::CudaStream;

extern const device::CudaModule module_linear_w4_cluster_small_f16, module_linear_w4_cluster_small_bf16, module_linear_w4_cluster_large_f16, module_linear_w4_cluster_large_bf16;

namespace {

constexpr int bk = 64;
constexpr int type_uint64 = 4, type_float16 = 6, type_bfloat16 = 9, swizzle_128 = 3, promotion_128 = 2, promotion_256 = 3;  // CUtensorMap enums

// A matrix of 16-bit rows, read in boxes of `box_rows` rows by 64 elements.
Status encode(const device::cu::Api& api, TensorMapBytes& map, DType type, const void* data, int k, int rows, int64_t stride, int box_rows) {
  const uint64_t dims[2] = {static_cast<uint64_t>(k), static_cast<uint64_t>(rows)}, strides[1] = {static_cast<uint64_t>(stride) * 2};
  const uint32_t box[2] = {bk, static_cast<uint32_t>(box_rows)}, steps[2] = {1, 1};
  const int code = api.cuTensorMapEncodeTiled(reinterpret_cast<device::cu::TensorMap*>(&map), type == DType::bf16 ? type_bfloat16 : type_float16, 2,
                                              const_cast<void*>(data), dims, strides, box, steps, 0, swizzle_128, promotion_256, 0);
  return code == 0 ? Status::ok() : device::cu::error(code, "describing a matrix to the copy engine");
}

// ---- Linears of w4 by clusters ----

// One compiled size of linear_w4_cluster: rows and tiles of a pass; up to `split_tiles` of them its warps share k by halves;
// columns: tiles side by side (mma.sync); ranks_most: blocks that may share K (64 rows: two were faster).
struct ClusterSize { int rows, tiles, split_tiles, columns, ranks_most, threads; CudaKernel kernels[2][2]; };  // [any group][type]
#define HEARTH_CLUSTER(n, part) {{{&module_linear_w4_cluster_##part##_f16, "linear_w4_cluster_n" #n "_f16"}, {&module_linear_w4_cluster_##part##_bf16, "linear_w4_cluster_n" #n "_bf16"}}, \
                                 {{&module_linear_w4_cluster_##part##_f16, "linear_w4_cluster_n" #n "_g_f16"}, {&module_linear_w4_cluster_##part##_bf16, "linear_w4_cluster_n" #n "_g_bf16"}}}
const ClusterSize cluster_sizes[] = {{16, 18, 18, 6, 4, 416, HEARTH_CLUSTER(16, small)},   {32, 12, 12, 6, 4, 416, HEARTH_CLUSTER(32m, small)},
                                     {32, 32, 16, 0, 4, 640, HEARTH_CLUSTER(32, small)},   {64, 32, 16, 0, 2, 640, HEARTH_CLUSTER(64, large)},
                                     {128, 16, 8, 0, 4, 640, HEARTH_CLUSTER(128, large)},  {128, 16, 0, 0, 4, 384, HEARTH_CLUSTER(128w, large)},
                                     {256, 8, 0, 0, 4, 384, HEARTH_CLUSTER(256, large)}};
constexpr int cluster_mma_32 = 1;  // for as many tiles as one pass of it takes
constexpr int cluster_stages_max = 12;
// Dynamic shared memory of a block, one a multiprocessor. (Two kernels' blocks of half this stood beside each other up to 16
// rows once: now and then a run of them ended in a launch failure; docs/notes/cuda.md.)
constexpr int cluster_budget = 221 * 1024;

const ClusterSize& cluster_size(int rows, int tiles_of_block) {
  const int wide = tuning().w4_wide;
  const bool one_pass = tiles_of_block <= cluster_sizes[cluster_mma_32].tiles;
  return cluster_sizes[rows <= 16 ? 0 : rows <= 32 ? (wide & 2 && one_pass ? cluster_mma_32 : 2) : rows <= 64 ? 3 : rows <= 128 ? (wide & 1 ? 5 : 4) : 6];
}

// How a linear is dealt to clusters of `ranks` blocks, and the nanoseconds it should take.
struct ClusterPlan { int ranks = 0, clusters = 0, tiles_few = 0, tiles_most = 0, passes = 0, stages = 0, stage_bytes = 0, sums = 0, shared_bytes = 0; double cost = 0; };

ClusterPlan plan_cluster(const LinearArgs& a, const ClusterSize& size, int ranks, int clusters_max) {
  const int n = size.rows, units = a.k_padded / 128, n_blocks = divide_up(a.rows, n);
  ClusterPlan plan;
  plan.ranks = ranks;
  plan.clusters = std::min(a.tiles, clusters_max);
  const int least = a.tiles / plan.clusters, most = divide_up(a.tiles, plan.clusters), steps = divide_up(units, ranks);
  plan.passes = divide_up(most, size.tiles);
  plan.tiles_few = least / plan.passes;
  plan.tiles_most = divide_up(most, plan.passes);
  plan.stage_bytes = round_up(plan.tiles_most * a.unit_bytes, 1024) + n * 256;
  // Sums go over the drained ring; a block that finishes alone goes on loading, so they have a place of their own.
  auto sums_of = [&](int tiles) { const bool split = tiles <= size.split_tiles; return ranks > 1 || split ? tiles * n * 64 * (split ? 2 : 1) : 0; };
  const int sums = std::max(sums_of(plan.tiles_most), sums_of(plan.tiles_few));
  const bool apart = ranks == 1 && sums && plan.passes * n_blocks > 1;
  const int budget = cluster_budget - (apart ? sums : 0);
  plan.stages = std::clamp(budget / plan.stage_bytes, 1, std::min(cluster_stages_max, steps * plan.passes * n_blocks));
  plan.sums = apart ? plan.stages * plan.stage_bytes : 0;
  plan.shared_bytes = apart ? plan.sums + sums : std::max(plan.stages * plan.stage_bytes, sums);
  // A multiprocessor's share of the memory (33 bytes a ns) and of the L2 (45); sums meet in shared memory.
  const double weights = 1.0 * most * steps * a.unit_bytes * n_blocks, x = 256.0 * n * steps * plan.passes * n_blocks;
  plan.cost = std::max(weights / 33, (weights + x) / 45);
  // mma.sync: half of the warps take every other stage, a column of tiles each; measured, one tile's 128 k and each further one.
  if (size.columns) plan.cost = std::max(plan.cost, plan.passes * n_blocks * divide_up(steps, 2) * (200 + 20.0 * n) * (0.4 + 0.6 * divide_up(plan.tiles_most, size.columns)));
  plan.cost += ranks == 1 ? 0 : (ranks == 2 || !size.columns ? 800 : 1500) * plan.passes + most * std::min(n, a.rows) * 64.0 / 60;
  return plan;
}

}  // namespace

// As 64-bit words: [tiles][k / 128][unit_bytes / 8]. The L2 fetches no more than lines of 128 bytes: units (1,072 bytes) end where
// they like, and what is brought beyond an end is gone before it is wanted.
Status describe_units(const device::cu::Api& api, TensorMapBytes& map, const LinearArgs& a, int box_tiles, int box_units) {
  const uint64_t units = a.k_padded / 128, unit_bytes = a.unit_bytes;
  const uint64_t dims[3] = {unit_bytes / 8, units, static_cast<uint64_t>(a.tiles)}, strides[2] = {unit_bytes, units * unit_bytes};
  const uint32_t box[3] = {static_cast<uint32_t>(unit_bytes / 8), static_cast<uint32_t>(box_units), static_cast<uint32_t>(box_tiles)}, steps[3] = {1, 1, 1};
  const int code = api.cuTensorMapEncodeTiled(reinterpret_cast<device::cu::TensorMap*>(&map), type_uint64, 3, const_cast<void*>(a.weight), dims, strides, box, steps, 0, 0, promotion_128, 0);
  return code == 0 ? Status::ok() : device::cu::error(code, "describing weights to the copy engine");
}

std::vector<std::pair<int, int>> hopper_w4_candidates(int rows, int units) {
  std::vector<std::pair<int, int>> list;
  for (int i = 0; i < static_cast<int>(std::size(cluster_sizes)); ++i) {
    const int n = cluster_sizes[i].rows;
    if (i == cluster_mma_32 && !(tuning().w4_wide & 2)) continue;
    if (n < rows || (n > 16 && n >= 4 * rows)) continue;  // too narrow, or much too wide
    for (int split : {1, 2, 4}) if (split <= std::min(units, cluster_sizes[i].ranks_most)) list.emplace_back(i, split);
  }
  return list;
}

void hopper_w4_cluster(CudaStream& stream, DType type, const LinearArgs& linear, int variant, int split) {
  const Tuning& t = tuning();
  const ClusterSize& size = variant >= 0 ? cluster_sizes[variant] : cluster_size(linear.rows, divide_up(linear.tiles, stream.multiprocessors()));
  if (split == 0) split = t.w4_ranks;
  const CudaKernel& kernel = size.kernels[linear.group != 128][type == DType::bf16];
  const int units = linear.k_padded / 128, ranks_most = std::min(size.ranks_most, units >= 4 ? 4 : units >= 2 ? 2 : 1), shared_most = cluster_budget + 1024;
  ClusterPlan plan;
  for (int ranks : {1, 2, 4}) {
    if (ranks > ranks_most || (split && ranks != std::min(split, ranks_most))) continue;
    const int most = ranks == 1 ? stream.multiprocessors() : std::min(stream.clusters(kernel, size.threads, shared_most, ranks), stream.multiprocessors() / ranks);
    if (most <= 0) continue;
    const ClusterPlan candidate = plan_cluster(linear, size, ranks, most);
    if (!plan.ranks || candidate.cost < plan.cost) plan = candidate;
  }
  W4ClusterArgs args{};
  args.linear = linear;
  args.tiles_few = plan.tiles_few; args.passes = plan.passes; args.stages = plan.stages; args.stage_bytes = plan.stage_bytes; args.sums = plan.sums;
  args.prefetch = t.w4_prefetch_kb * 1024 / std::max(1, plan.tiles_most * linear.unit_bytes);
  if (Status s = encode(stream.api(), args.x, type, linear.x, linear.in, linear.rows, linear.x_stride, size.rows); !s) return stream.fail(s);
  if (Status s = describe_units(stream.api(), args.weight_few, linear, plan.tiles_few); !s) return stream.fail(s);
  if (Status s = describe_units(stream.api(), args.weight_more, linear, std::min(plan.tiles_few + 1, linear.tiles)); !s) return stream.fail(s);
  stream.launch(kernel, {plan.clusters * plan.ranks, 1, 1, size.threads, plan.shared_bytes + 1024, plan.ranks}, args);
}

void append_hopper_shared(int sm, std::vector<SharedUse>& uses) {
  if (sm != 90) return;
  for (const ClusterSize& size : cluster_sizes) uses.push_back({size.kernels[0][0].name, cluster_budget + 1024});
  append_hopper_dense_shared(uses);
}

}  // namespace hearth::kernels::cuda
