// Dense linears of many rows on Hopper: y[rows, out] = x[rows, k] W[out, k]^T by TMA and wgmma. One warpgroup's thread
// feeds a ring of shared-memory stages, two warpgroups multiply 64 rows each; blocks are persistent, so the ring fills
// with the next tile while this one's results are stored.
#include "kernels/cuda/hopper_params.h"
#include "kernels/cuda/sm90/wgmma.cuh"

using namespace hearth::kernels::cuda;

namespace {

constexpr int bm = 128, bk = 64;

template <class T> __device__ __forceinline__ void store2(const LinearArgs& p, int row, int column, int columns, float a, float b) {
  if (row >= p.rows || column >= columns) return;
  const int64_t at = row * p.y_stride + column;
  const bool both = column + 1 < columns;
  if (p.residual) {
    float* y = static_cast<float*>(p.y) + at;
    if (both && (at & 1) == 0 && (reinterpret_cast<uint64_t>(p.y) & 7) == 0) {
      float2 old = __ldcg(reinterpret_cast<float2*>(y));
      *reinterpret_cast<float2*>(y) = make_float2(old.x + a, old.y + b);
      return;
    }
    y[0] = __ldcg(y) + a;
    if (both) y[1] = __ldcg(y + 1) + b;
    return;
  }
  if (both && (at & 1) == 0 && p.y_type != type_f32 && (reinterpret_cast<uint64_t>(p.y) & 3) == 0) {
    reinterpret_cast<uint32_t*>(p.y)[at / 2] = p.y_type == type_f16 ? pack2<__half>(a, b) : pack2<__nv_bfloat16>(a, b);
    return;
  }
  store(p.y, p.y_type, at, a);
  if (both) store(p.y, p.y_type, at + 1, b);
}

template <class T, int BN> __device__ __forceinline__ void epilogue(const LinearArgs& p, const float (&d)[BN / 2], int row, int n0) {
  const int t = threadIdx.x % 4;
  if (p.gated) {
    const int columns = p.out / 2;
#pragma unroll
    for (int j = 0; j < BN / 16; ++j) {
      const int packed = n0 + j * 16 + 2 * t, column = (n0 / 16 + j) * 8 + 2 * t;
      float2 gate_scale = make_float2(1, 1), up_scale = gate_scale, gate_bias = make_float2(0, 0), up_bias = gate_bias;
      if (column >= columns) continue;
      if (p.weight_scale) {
        gate_scale = *reinterpret_cast<const float2*>(p.weight_scale + packed);
        up_scale = *reinterpret_cast<const float2*>(p.weight_scale + packed + 8);
      }
      if (p.bias) {
        gate_bias.x = p.bias[column]; up_bias.x = p.bias[columns + column];
        if (column + 1 < columns) { gate_bias.y = p.bias[column + 1]; up_bias.y = p.bias[columns + column + 1]; }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float a = activate(d[j * 8 + half * 2] * gate_scale.x + gate_bias.x, p.activation) * (d[j * 8 + 4 + half * 2] * up_scale.x + up_bias.x);
        const float b = activate(d[j * 8 + half * 2 + 1] * gate_scale.y + gate_bias.y, p.activation) * (d[j * 8 + 4 + half * 2 + 1] * up_scale.y + up_bias.y);
        store2<T>(p, row + half * 8, column, columns, a, b);
      }
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < BN / 8; ++j) {
    const int column = n0 + j * 8 + 2 * t;
    if (column >= p.out) continue;
    float2 scale = make_float2(1, 1), bias = make_float2(0, 0);
    if (p.weight_scale) scale = *reinterpret_cast<const float2*>(p.weight_scale + column);
    if (p.bias) { bias.x = p.bias[column]; if (column + 1 < p.out) bias.y = p.bias[column + 1]; }
#pragma unroll
    for (int half = 0; half < 2; ++half)
      store2<T>(p, row + half * 8, column, p.out, activate(d[j * 4 + half * 2] * scale.x + bias.x, p.activation), activate(d[j * 4 + half * 2 + 1] * scale.y + bias.y, p.activation));
  }
}

template <class T, int BN, int STAGES> __device__ __forceinline__ void linear_wgmma(const HopperArgs& args) {
  constexpr int x_bytes = bm * bk * 2, w_bytes = BN * bk * 2, stage_bytes = x_bytes + w_bytes;
  extern __shared__ __align__(1024) char shared[];
  __shared__ __align__(8) uint64_t full[STAGES], empty[STAGES];
  const LinearArgs& p = args.linear;
  const uint32_t ring = (shared_address(shared) + 1023) & ~1023u, full0 = shared_address(full), empty0 = shared_address(empty);
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; ++i) { barrier_init(full0 + i * 8, 1); barrier_init(empty0 + i * 8, 2); }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  launch_dependents();
  wait_predecessors();
  const int tiles = args.m_tiles * args.n_tiles, blocks_k = (p.k_padded + bk - 1) / bk;
  const int group = threadIdx.x / 128;
  int stage = 0, parity = 0;
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) {
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int m = tile % args.m_tiles * bm, n = tile / args.m_tiles * BN;
        for (int k = 0; k < blocks_k; ++k) {
          barrier_wait(empty0 + stage * 8, parity ^ 1);
          const uint32_t to = ring + stage * stage_bytes, barrier = full0 + stage * 8;
          barrier_expect(barrier, stage_bytes);
          tensor_copy(to, &args.x, k * bk, m, barrier);
          tensor_copy(to + x_bytes, &args.weight, k * bk, n, barrier);
          if (++stage == STAGES) { stage = 0; parity ^= 1; }
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int warp = threadIdx.x / 32 % 4, g = threadIdx.x % 32 / 4;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      float d[BN / 2];
#pragma unroll
      for (int i = 0; i < BN / 2; ++i) d[i] = 0;
      int previous = -1;
      for (int k = 0; k < blocks_k; ++k) {
        barrier_wait(full0 + stage * 8, parity);
        const uint32_t x = ring + stage * stage_bytes + (group - 1) * (x_bytes / 2), w = ring + stage * stage_bytes + x_bytes;
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int i = 0; i < bk / 16; ++i) Wgmma<T, BN>::run(d, descriptor(x + i * 32), descriptor(w + i * 32));
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (previous >= 0 && threadIdx.x % 128 == 0) barrier_arrive(empty0 + previous * 8);
        previous = stage;
        if (++stage == STAGES) { stage = 0; parity ^= 1; }
      }
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
      for (int i = 0; i < BN / 2; ++i) asm volatile("" : "+f"(d[i])::"memory");
      if (threadIdx.x % 128 == 0) barrier_arrive(empty0 + previous * 8);
      const int m = tile % args.m_tiles * bm + (group - 1) * 64 + warp * 16 + g, n = tile / args.m_tiles * BN;
      epilogue<T, BN>(p, d, m, n);
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(384, 1) linear_wgmma_n256_f16(const __grid_constant__ HopperArgs p) { linear_wgmma<__half, 256, 4>(p); }
extern "C" __global__ void __launch_bounds__(384, 1) linear_wgmma_n256_bf16(const __grid_constant__ HopperArgs p) { linear_wgmma<__nv_bfloat16, 256, 4>(p); }
extern "C" __global__ void __launch_bounds__(384, 1) linear_wgmma_n128_f16(const __grid_constant__ HopperArgs p) { linear_wgmma<__half, 128, 6>(p); }
extern "C" __global__ void __launch_bounds__(384, 1) linear_wgmma_n128_bf16(const __grid_constant__ HopperArgs p) { linear_wgmma<__nv_bfloat16, 128, 6>(p); }
