// W4A16 linears of 5 rows and more on Hopper. Weights are decoded in registers and are wgmma's A operand (64 rows a
// warpgroup), activations come by TMA and are B. A block is a loading warpgroup (one thread of it works) and two multiplying ones: 128 outputs by
// BN rows, fed a unit of 128 k at a time. (tile, unit) positions are dealt to the blocks in equal contiguous stripes; a
// tile shared by several blocks is summed by whichever finishes last, in the order of k.
#pragma once

#include "kernels/cuda/hopper_params.h"
#include "kernels/cuda/sm80/linear_rows_w4.cuh"
#include "kernels/cuda/sm90/wgmma.cuh"

namespace hearth::kernels::cuda {

constexpr int w4_wgmma_threads = 384;  // two multiplying warpgroups, then the loading one

__device__ __forceinline__ void consumers_sync() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

// LOAD_REGISTERS, MULTIPLY_REGISTERS: what a thread of each kind keeps.
template <class T, bool G128, int BN, int STAGES, int LOAD_REGISTERS, int MULTIPLY_REGISTERS>
__device__ __forceinline__ void linear_w4_wgmma(const HopperArgs& args) {
  const LinearArgs& p = args.linear;
  constexpr int x_bytes = BN * 256, tiles_m = 8;
  const int unit_bytes = G128 ? Unit<128>::bytes : p.unit_bytes, stage_bytes = x_bytes + (G128 ? 9216 : 10240);
  extern __shared__ __align__(1024) char shared[];
  __shared__ __align__(8) uint64_t full[STAGES], empty[STAGES];
  __shared__ int shared_flag;
  const uint32_t ring = (shared_address(shared) + 1023) & ~1023u, full0 = shared_address(full), empty0 = shared_address(empty);
  const int thread = threadIdx.x;
  if (thread == 0) {
    for (int i = 0; i < STAGES; ++i) { barrier_init(full0 + i * 8, 1); barrier_init(empty0 + i * 8, 2); }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  launch_dependents();

  const int units = p.k_padded / 128, n_blocks = args.n_tiles;
  const int64_t total = static_cast<int64_t>(args.m_tiles) * n_blocks * units;
  int64_t begin = total * blockIdx.x / gridDim.x, end = total * (blockIdx.x + 1) / gridDim.x;
  if (p.whole_tiles) { begin = static_cast<int64_t>(blockIdx.x) * units; end = begin + units; }

  if (thread >= 256) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(LOAD_REGISTERS));
    if (thread == 256) {
      const uint64_t policy = evict_first_policy();
      const int64_t tile_bytes = static_cast<int64_t>(units) * unit_bytes;
      auto load_weights = [&](int64_t position, int stage) {
        const int tile = static_cast<int>(position / units), unit = static_cast<int>(position - static_cast<int64_t>(tile) * units);
        const int first = tile / n_blocks * tiles_m, count = min(tiles_m, p.tiles - first);
        const uint32_t to = ring + stage * stage_bytes + x_bytes, barrier = full0 + stage * 8;
        barrier_expect(barrier, x_bytes + count * unit_bytes);
        const char* from = static_cast<const char*>(p.weight) + first * tile_bytes + static_cast<int64_t>(unit) * unit_bytes;
        for (int m = 0; m < count; ++m) bulk_copy(to + m * unit_bytes, from + m * tile_bytes, unit_bytes, barrier, policy);
      };
      auto load_x = [&](int64_t position, int stage) {
        const int tile = static_cast<int>(position / units), unit = static_cast<int>(position - static_cast<int64_t>(tile) * units);
        const uint32_t to = ring + stage * stage_bytes, barrier = full0 + stage * 8;
        tensor_copy(to, &args.x, unit * 128, tile % n_blocks * BN, barrier);
        tensor_copy(to + BN * 128, &args.x, unit * 128 + 64, tile % n_blocks * BN, barrier);
      };
      for (int i = 0; i < STAGES && begin + i < end; ++i) load_weights(begin + i, i);
      wait_predecessors();
      for (int i = 0; i < STAGES && begin + i < end; ++i) load_x(begin + i, i);
      int stage = 0, parity = 0;
      for (int64_t position = begin + STAGES; position < end; ++position) {
        barrier_wait(empty0 + stage * 8, parity);
        load_weights(position, stage);
        load_x(position, stage);
        if (++stage == STAGES) { stage = 0; parity ^= 1; }
      }
    } else {
      wait_predecessors();
    }
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(MULTIPLY_REGISTERS));
  wait_predecessors();
  const int warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  int stage = 0, parity = 0;
  bool first_segment = true;
  int64_t position = begin;
  while (position < end) {
    const int tile = static_cast<int>(position / units);
    const int64_t tile_begin = static_cast<int64_t>(tile) * units, tile_end = tile_begin + units, stop = end < tile_end ? end : tile_end;
    const bool whole = position == tile_begin && stop == tile_end;
    float d[BN / 2];
#pragma unroll
    for (int i = 0; i < BN / 2; ++i) d[i] = 0;
    int previous = -1;
    for (; position < stop; ++position) {
      barrier_wait(full0 + stage * 8, parity);
      const uint32_t x = ring + stage * stage_bytes, unit = x + x_bytes + warp * unit_bytes;
      const uint4 first = shared_load16(unit + lane * 16), second = shared_load16(unit + 512 + lane * 16);
      const uint32_t words[8] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
      uint32_t a[8][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          const int group = G128 ? 0 : (half * 64 + b * 32) / p.group, groups = G128 ? 1 : 128 / p.group;
          uint32_t zero_low, zero_high, scale_low, scale_high;
          scale_constants<T>(shared_load4(unit + 1024 + group * 32 + g * 4), scale_low, scale_high);
          zero_constants<T>(shared_load1(unit + 1024 + groups * 32 + group * 8 + g), zero_low, zero_high);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            decode4<T>(words[half * 4 + b * 2 + i], zero_low, zero_high, a[half * 4 + b * 2 + i]);
            scale4<T>(a[half * 4 + b * 2 + i], scale_low, scale_high);
          }
        }
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i) WgmmaRegisters<T, BN>::run(d, a[half * 4 + i], descriptor(x + half * BN * 128 + i * 32));
        wgmma_commit();
        wgmma_wait<1>();  // the half before this one is done: its registers, and in the first half its stage, are free
        if (half == 0 && previous >= 0 && thread % 128 == 0) barrier_arrive(empty0 + previous * 8);
      }
      previous = stage;
      if (++stage == STAGES) { stage = 0; parity ^= 1; }
    }
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < BN / 2; ++i) asm volatile("" : "+f"(d[i])::"memory");
    if (thread % 128 == 0) barrier_arrive(empty0 + previous * 8);

    bool mine = true;
    if (!whole) {
      constexpr int tile_float4s = 128 * BN / 4;
      float4* to = reinterpret_cast<float4*>(p.partial) + (static_cast<int64_t>(blockIdx.x) * 2 + (first_segment ? 0 : 1)) * tile_float4s;
#pragma unroll
      for (int j = 0; j < BN / 8; ++j) to[j * 256 + thread] = make_float4(d[4 * j], d[4 * j + 1], d[4 * j + 2], d[4 * j + 3]);
      __threadfence();
      consumers_sync();
      const int first = static_cast<int>(((tile_begin + 1) * gridDim.x - 1) / total), last = static_cast<int>((tile_end * gridDim.x - 1) / total);
      if (thread == 0) {
        shared_flag = atomicAdd(p.counters + tile, 1) == last - first;
        if (shared_flag) p.counters[tile] = 0;
      }
      consumers_sync();
      mine = shared_flag != 0;
      consumers_sync();  // the flag is read before the next tile sets it
      if (mine) {
        __threadfence();
#pragma unroll
        for (int i = 0; i < BN / 2; ++i) d[i] = 0;
        for (int b = first; b <= last; ++b) {
          const int piece = total * b / gridDim.x >= tile_begin ? 0 : 1;
          const float4* part = reinterpret_cast<const float4*>(p.partial) + (static_cast<int64_t>(b) * 2 + piece) * tile_float4s;
#pragma unroll
          for (int j = 0; j < BN / 8; ++j) {
            const float4 v = __ldcg(part + j * 256 + thread);
            d[4 * j] += v.x; d[4 * j + 1] += v.y; d[4 * j + 2] += v.z; d[4 * j + 3] += v.w;
          }
        }
      }
    }
    first_segment = false;
    const int my_tile = tile / n_blocks * tiles_m + warp;
    if (mine && my_tile < p.tiles) {
      const float low = __ldg(p.weight_scale + my_tile * 16 + g), high = __ldg(p.weight_scale + my_tile * 16 + g + 8);
#pragma unroll
      for (int j = 0; j < BN / 8; ++j) {
        const int row = tile % n_blocks * BN + j * 8 + 2 * t;
        linear_store_pair(p, row, my_tile, g, d[4 * j] * low, d[4 * j + 2] * high);
        linear_store_pair(p, row + 1, my_tile, g, d[4 * j + 1] * low, d[4 * j + 3] * high);
      }
    }
  }
}

}  // namespace hearth::kernels::cuda
