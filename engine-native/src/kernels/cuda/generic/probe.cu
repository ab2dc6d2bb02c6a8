// Measures the device's own limits: bytes read a second, and tensor-core multiplications a second.
#include "kernels/cuda/common.cuh"

using namespace hearth::kernels::cuda;

struct ProbeArgs { const uint4* data; uint64_t count; uint32_t* sink; int rounds; };

extern "C" __global__ void __launch_bounds__(512) probe_read_kernel(const ProbeArgs p) {
  uint32_t seen = 0;
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + 3 * step < p.count; i += 4 * step) {
    const uint4 a = __ldcs(p.data + i), b = __ldcs(p.data + i + step), c = __ldcs(p.data + i + 2 * step), d = __ldcs(p.data + i + 3 * step);
    seen |= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
  }
  if (seen == 0x12345678u) *p.sink = seen;  // never, but the compiler cannot know
}

// mma.sync from registers alone: the limit of the Ampere code path.
extern "C" __global__ void __launch_bounds__(256) probe_mma_kernel(const ProbeArgs p) {
  float c[8][4] = {};
  uint32_t a[4] = {threadIdx.x, threadIdx.x * 3, 0x3c003c00u, 0x3c003c00u};
  for (int r = 0; r < p.rounds; ++r)
#pragma unroll
    for (int i = 0; i < 8; ++i) mma<__half>(c[i], a, 0x3c003c00u + i, 0x38003800u);
  float sum = 0;
  for (int i = 0; i < 8; ++i) sum += c[i][0] + c[i][1] + c[i][2] + c[i][3];
  if (sum == 1.2345f) *p.sink = 1;
}
