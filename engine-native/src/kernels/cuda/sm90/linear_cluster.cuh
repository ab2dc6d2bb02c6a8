// Dense linears of many rows on Hopper: y[rows, out] = x[rows, k] W[out, k]^T by TMA and wgmma, 16-bit or int8. A block takes
// 128 rows by BN outputs; one warp feeds a ring of shared-memory stages, two warpgroups multiply 64 rows each. Blocks of a
// cluster share what they load: `cn` of them the same rows, `cm` of them the same weights, each loading its part for all
// (the L2 delivers some 5,100 bytes a cycle, less than 132 blocks that load alone want). `ck` blocks split K; their sums
// meet in shared memory and are added in the order of k, so results are the same bits every run.
// With BN up to 128 two blocks stand on a multiprocessor: one multiplies while the other stores, and the next kernel's blocks
// load their weights while this one ends.
#pragma once

#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/hopper_params.h"
#include "kernels/cuda/sm90/dense_tile.cuh"
#include "kernels/cuda/sm90/wgmma_tiles.cuh"

namespace hearth::kernels::cuda {

constexpr int dense_stages_max = 8, dense_threads = 288;

// All of a warp's sums, staged: 64-column chunk c at stage + c * stage_bytes_per_warp.
template <int BN, class S> __device__ __forceinline__ void stage_sums(uint32_t stage, const S (&d)[BN / 2]) {
#pragma unroll
  for (int c = 0; c < BN / 64; ++c)
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const S* v = d + c * 32 + j * 4;
      stage_fragment(stage + c * stage_bytes_per_warp, j, as_float(v[0]), as_float(v[1]), as_float(v[2]), as_float(v[3]));
    }
}

// ---- Clusters ----

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void cluster_sync() { asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory"); }
// The same place in another block's shared memory.
__device__ __forceinline__ uint32_t peer_address(uint32_t address, uint32_t rank) {
  uint32_t peer;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"(address), "r"(rank));
  return peer;
}
__device__ __forceinline__ void peer_arrive(uint32_t barrier, uint32_t rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(peer_address(barrier, rank)) : "memory");
}
__device__ __forceinline__ void peer_load_floats(uint32_t address, float (&v)[4]) {
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3]) : "r"(address) : "memory");
}
// A box to the same place of every block in `mask`.
__device__ __forceinline__ void tensor_copy_shared(uint32_t to, const void* map, int k, int row, uint32_t barrier, uint16_t mask) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;"
               ::"r"(to), "l"(map), "r"(k), "r"(row), "r"(barrier), "h"(mask) : "memory");
}

// Who a block is: rank = kp + ck * (np + cn * mp). Blocks with its mp and kp have its rows, those with its np and kp its weights.
struct ClusterPlace {
  int cm, cn, ck, rank, mp, np, kp;
  __device__ __forceinline__ ClusterPlace(const HopperArgs& p) : cm(p.cm), cn(p.cn), ck(p.ck) {
    rank = cm * cn * ck > 1 ? static_cast<int>(cluster_rank()) : 0;
    kp = rank % ck;
    np = rank / ck % cn;
    mp = rank / (ck * cn);
  }
  __device__ __forceinline__ int size() const { return cm * cn * ck; }
  __device__ __forceinline__ int at(int m, int n) const { return kp + ck * (n + cn * m); }
  __device__ __forceinline__ uint16_t row_mask() const {
    int mask = 0;
    for (int n = 0; n < cn; ++n) mask |= 1 << at(mp, n);
    return static_cast<uint16_t>(mask);
  }
  __device__ __forceinline__ uint16_t weight_mask() const {
    int mask = 0;
    for (int m = 0; m < cm; ++m) mask |= 1 << at(m, np);
    return static_cast<uint16_t>(mask);
  }
  // The i-th of the cn + cm - 1 blocks that load something this one multiplies.
  __device__ __forceinline__ int source(int i) const { return i < cn ? at(mp, i) : at(i - cn + (i - cn >= mp), np); }
};

// One box of the ring's stage: alone, or for all blocks of the mask.
__device__ __forceinline__ void copy_part(uint32_t to, const void* map, int k, int row, uint32_t barrier, uint16_t mask, bool shared) {
  if (shared) tensor_copy_shared(to, map, k, row, barrier, mask);
  else tensor_copy(to, map, k, row, barrier);
}

// Where the tile's sums leave: the cluster's K parts each finish some of the tile's pieces of 16 rows by 64 outputs.
template <class T, int BN> __device__ __forceinline__ void finish_tile(const HopperArgs& args, const ClusterPlace& place, uint32_t ring, int m, int n) {
  constexpr int chunks = BN / 64, pieces = 8 * chunks;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int i = warp; i * place.ck + place.kp < pieces; i += 8) {
    // Alone, a warp's pieces are the ones it staged itself.
    const int piece = place.ck == 1 ? warp * chunks + i / 8 : i * place.ck + place.kp;
    const uint32_t at = ring + piece * stage_bytes_per_warp;
    if (place.ck > 1) {
#pragma unroll 2
      for (int part = lane * 16; part < stage_bytes_per_warp; part += 512) {
        float sum[4], more[4];
        peer_load_floats(peer_address(at + part, place.rank - place.kp), sum);
        for (int k = 1; k < place.ck; ++k) {
          peer_load_floats(peer_address(at + part, place.rank - place.kp + k), more);
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[j] += more[j];
        }
        asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(at + part), "f"(sum[0]), "f"(sum[1]), "f"(sum[2]), "f"(sum[3]) : "memory");
      }
      __syncwarp();
    }
    finish_stage<sizeof(T) == 1>(args.linear, at, m * dense_bm + piece / chunks * 16, n * BN + piece % chunks * 64);
  }
}

template <class T, int BN, int HOLD> __device__ __forceinline__ void linear_cluster(const HopperArgs& args) {
  constexpr int x_bytes = dense_bm * dense_row_bytes, w_bytes = BN * dense_row_bytes, stage_bytes = x_bytes + w_bytes;
  constexpr int k_step = dense_row_bytes / sizeof(T);
  extern __shared__ __align__(1024) char shared[];  // [stages][x, weights]; at the end the sums
  __shared__ __align__(8) uint64_t full[dense_stages_max], empty[dense_stages_max];
  const LinearArgs& p = args.linear;
  const ClusterPlace place(args);
  const uint32_t ring = (shared_address(shared) + 1023) & ~1023u, full0 = shared_address(full), empty0 = shared_address(empty);
  const int stages = args.stages, sources = place.cn + place.cm - 1;
  if (threadIdx.x == 256) {
    prefetch_map(&args.x);
    prefetch_map(&args.weight);
    for (int i = 0; i < stages; ++i) { barrier_init(full0 + i * 8, 1); barrier_init(empty0 + i * 8, 2 * sources); }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  if (place.size() > 1) cluster_sync();
  else __syncthreads();
  launch_dependents();
  int m, n;
  banded_tile(blockIdx.x / place.size(), args.n_tiles / place.cn, args.m_tiles / place.cm, n, m);
  m = m * place.cm + place.mp;
  n = n * place.cn + place.np;
  const int blocks_k = (p.k_padded + k_step - 1) / k_step, first = blocks_k * place.kp / place.ck, count = blocks_k * (place.kp + 1) / place.ck - first;
  if (threadIdx.x >= 256) {
    if (threadIdx.x == 256) {
      const int x_rows = dense_bm / place.cn, w_rows = BN / place.cm;
      const int x_offset = place.np * x_rows * dense_row_bytes, w_offset = x_bytes + place.mp * w_rows * dense_row_bytes;
      const uint16_t x_mask = place.row_mask(), w_mask = place.weight_mask();
      // Weights that no kernel writes need not wait for the kernels before this one.
      int early = 0;
      for (; args.weights_constant && early < stages && early < count; ++early) {
        barrier_expect(full0 + early * 8, stage_bytes);
        copy_part(ring + early * stage_bytes + w_offset, &args.weight, (first + early) * k_step, n * BN + place.mp * w_rows, full0 + early * 8, w_mask, place.cm > 1);
      }
      wait_predecessors();
      int stage = 0, parity = 0;
      for (int k = 0; k < count; ++k) {
        const uint32_t to = ring + stage * stage_bytes, barrier = full0 + stage * 8;
        if (k >= early) {
          barrier_wait(empty0 + stage * 8, parity ^ 1);
          barrier_expect(barrier, stage_bytes);
          copy_part(to + w_offset, &args.weight, (first + k) * k_step, n * BN + place.mp * w_rows, barrier, w_mask, place.cm > 1);
        }
        copy_part(to + x_offset, &args.x, (first + k) * k_step, m * dense_bm + place.np * x_rows, barrier, x_mask, place.cn > 1);
        if (++stage == stages) { stage = 0; parity ^= 1; }
      }
    }
    __syncwarp();
    if (place.ck > 1) cluster_sync();
  } else {
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32;
    typename Sum<T>::type d[BN / 2];
    int stage = 0, parity = 0, previous = -1;
    auto release = [&](int of) {
      const int i = threadIdx.x % 128;
      if (sources == 1) {
        if (i == 0) barrier_arrive(empty0 + of * 8);
      } else if (i < sources) {
        peer_arrive(empty0 + of * 8, place.source(i));
      }
    };
    for (int k = 0; k < count; ++k) {
      barrier_wait(full0 + stage * 8, parity);
      const uint32_t x = ring + stage * stage_bytes + group * (x_bytes / 2), w = ring + stage * stage_bytes + x_bytes;
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < 4; ++i) WgmmaShared<T, BN>::run(d, descriptor(x + i * 32), descriptor(w + i * 32), k > 0 || i > 0);
      wgmma_commit();
      wgmma_wait<HOLD>();
      if (HOLD == 0) release(stage);
      else if (previous >= 0) release(previous);
      previous = stage;
      if (++stage == stages) { stage = 0; parity ^= 1; }
    }
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < BN / 2; ++i) settle(d[i]);
    // The ring is this block's alone now: what others loaded for it has come.
    asm volatile("bar.sync 1, 256;" ::: "memory");
    stage_sums<BN>(ring + warp * (BN / 64) * stage_bytes_per_warp, d);
    wait_predecessors();
    if (place.ck > 1) cluster_sync();
    else __syncwarp();
    finish_tile<T, BN>(args, place, ring, m, n);
  }
  // No block leaves while another may signal it or read its sums.
  if (place.size() > 1) cluster_sync();
}

}  // namespace hearth::kernels::cuda
