// wgmma from shared memory alone, on noise: the limit of the Hopper prefill path.
#include "kernels/cuda/sm90/wgmma_tiles.cuh"

using namespace hearth::kernels::cuda;

struct ProbeArgs { const void* data; uint64_t count; uint32_t* sink; int rounds; };

extern "C" __global__ void __launch_bounds__(256, 1) probe_wgmma_kernel(const ProbeArgs p) {
  extern __shared__ __align__(1024) char shared[];  // x [128 rows], weights [256 rows], 128 bytes each
  const uint32_t base = (shared_address(shared) + 1023) & ~1023u;
  uint32_t noise = threadIdx.x * 747796405u + blockIdx.x * 2891336453u + 1;
  for (int i = threadIdx.x; i < 384 * 32; i += 256) {
    noise = noise * 1664525u + 1013904223u;  // halves in +-[1, 2): sign and mantissa random
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(base + i * 4), "r"((noise & 0x83ff83ffu) | 0x3c003c00u) : "memory");
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  const uint32_t x = base + threadIdx.x / 128 * 8192, w = base + 16384;
  float d[128];
  for (int r = 0; r < p.rounds; ++r) {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) WgmmaShared<__half, 256>::run(d, descriptor(x + i * 32), descriptor(w + i * 32), r > 0 || i > 0);
    wgmma_commit();
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 128; ++i) { asm volatile("" : "+f"(d[i])::"memory"); sum += d[i]; }
  if (sum == 1.2345f) *p.sink = 1;
}
