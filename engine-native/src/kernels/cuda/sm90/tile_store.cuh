// How a dense tile of Hopper leaves the registers without waiting: bias and activation on the sums where they are, 16 rows
// by 128 bytes at a time to a stage of shared memory, and from there by the copy engine, which also adds to a residual and
// cuts off what lies outside y. Each warp stores its own 16 rows. For y whose rows start at 16 bytes, not gated, no scales; activations are logistic forms or none.
#pragma once

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/hopper_params.h"

namespace hearth::kernels::cuda {

// Stages of a warp for tiles of `columns` outputs, each 16 rows x 128 bytes, 1,024-byte aligned as the swizzle wants: as many
// as the ring leaves room for.
constexpr int store_stage_bytes = 2048;
template <int COLUMNS> constexpr int store_stages = COLUMNS == 256 ? 2 : 4;

__device__ __forceinline__ void store_matrix(uint32_t address, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
__device__ __forceinline__ void tensor_store(const void* map, int column, int row, uint32_t from, bool adds) {
  if (adds) asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(column), "r"(row), "r"(from) : "memory");
  else asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(column), "r"(row), "r"(from) : "memory");
}
template <int LEFT> __device__ __forceinline__ void stores_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(LEFT) : "memory"); }
__device__ __forceinline__ void stores_done() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// The bias of a warp's BN columns: lane l has columns 64 c + 2 l, + 1 of chunk c. Loaded ahead of the product.
template <int BN> struct TileBias {
  float2 of[BN / 64];
  __device__ __forceinline__ void load(const LinearArgs& p, int column0) {
#pragma unroll
    for (int c = 0; c < BN / 64; ++c) {
      const int at = column0 + c * 64 + threadIdx.x % 32 * 2;
      of[c] = make_float2(p.bias && at < p.out ? __ldg(p.bias + at) : 0.f, p.bias && at + 1 < p.out ? __ldg(p.bias + at + 1) : 0.f);
    }
  }
};

// The stage of COUNT whose turn it is, free again.
template <int COUNT> __device__ __forceinline__ uint32_t next_stage(uint32_t stages, int& turn) {
  if (threadIdx.x % 32 == 0) stores_read<COUNT - 1>();
  __syncwarp();
  return stages + (turn++ & (COUNT - 1)) * store_stage_bytes;
}
// Outside y nothing is stored, but a group is counted all the same: the turns go by groups.
__device__ __forceinline__ void stage_leaves(const HopperArgs& args, uint32_t stage, int column, int row) {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncwarp();
  if (threadIdx.x % 32 == 0) {
    if (column < args.linear.out) tensor_store(&args.y, column, row, stage, args.linear.residual);
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
  }
}

// One chunk of 64 columns, v as a wgmma leaves it: v[4 j ...] = row g, columns 8 j + 2 t, + 1, then row g + 8.
template <class T, int STAGES> __device__ __forceinline__ void store_chunk(const HopperArgs& args, uint32_t stages, const float (&v)[32], int column, int row, int& turn) {
  const int lane = threadIdx.x % 32;
  if (args.linear.y_type != type_f32) {
    const uint32_t stage = next_stage<STAGES>(stages, turn);
    const int r = lane % 16, half = lane / 16;
#pragma unroll
    for (int j = 0; j < 8; j += 2)
      store_matrix(stage + r * 128 + (((j + half) ^ (r & 7)) * 16), pack2<T>(v[4 * j], v[4 * j + 1]), pack2<T>(v[4 * j + 2], v[4 * j + 3]),
                   pack2<T>(v[4 * j + 4], v[4 * j + 5]), pack2<T>(v[4 * j + 6], v[4 * j + 7]));
    return stage_leaves(args, stage, column, row);
  }
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t stage = next_stage<STAGES>(stages, turn);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* from = v + (half * 4 + j) * 4;
      const uint32_t to = stage + g * 128 + (((2 * j + t / 2) ^ g) * 16) + t % 2 * 8;
      asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(from[0]), "f"(from[1]) : "memory");
      asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to + 1024), "f"(from[2]), "f"(from[3]) : "memory");
    }
    stage_leaves(args, stage, column + half * 32, row);
  }
}

// A warp's sums d of rows row ... row + 15 by columns column0 ... + BN - 1. `stages`: the warp's own STAGES; `turn`: zero at
// first, then left to this function. Lane 0 waits for stores_done() before it ends.
template <class T, int BN, int STAGES> __device__ __forceinline__ void store_tile(const HopperArgs& args, uint32_t stages, const float (&d)[BN / 2], const TileBias<BN>& bias, int row, int column0, int& turn) {
  const LinearArgs& p = args.linear;
  if (row >= p.rows) return;
  const int t = threadIdx.x % 4;
#pragma unroll 1
  for (int c = 0; c < BN / 64; ++c) {
    if (column0 + c * 64 >= p.out) return;
    float v[32];
    float2 add = make_float2(0, 0);
#pragma unroll
    for (int i = 0; i < BN / 64; ++i)  // registers have no index
      if (i == c) {
        add = bias.of[i];
#pragma unroll
        for (int j = 0; j < 32; ++j) v[j] = d[i * 32 + j];
      }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float x = __shfl_sync(0xffffffffu, add.x, 4 * j + t), y = __shfl_sync(0xffffffffu, add.y, 4 * j + t);
      v[4 * j] += x; v[4 * j + 1] += y; v[4 * j + 2] += x; v[4 * j + 3] += y;
    }
    if (p.activation != activation_none) activate_logistic(v, p.activation);
    store_chunk<T, STAGES>(args, stages, v, column0 + c * 64, row, turn);
  }
}

}  // namespace hearth::kernels::cuda
