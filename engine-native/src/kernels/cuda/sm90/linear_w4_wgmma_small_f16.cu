#include "kernels/cuda/sm90/linear_w4_wgmma.cuh"
using namespace hearth::kernels::cuda;
// N: rows of a tile; S: ring stages; B: blocks on a multiprocessor; L, M: registers. "g" takes any group, the others 128.
#define SIZE(N, S, B, L, M) extern "C" __global__ void __launch_bounds__(w4_wgmma_threads, B) linear_w4_wgmma_n##N##_f16(const __grid_constant__ HopperArgs p) { linear_w4_wgmma<__half, true, N, S, L, M>(p); }
#define SIZE_G(N, S, B, L, M) extern "C" __global__ void __launch_bounds__(w4_wgmma_threads, B) linear_w4_wgmma_n##N##_g_f16(const __grid_constant__ HopperArgs p) { linear_w4_wgmma<__half, false, N, S, L, M>(p); }
SIZE(8, 6, 2, 24, 104) SIZE(16, 6, 2, 24, 104) SIZE(32, 5, 2, 24, 104) SIZE(64, 4, 2, 24, 104)
SIZE_G(8, 6, 2, 24, 104) SIZE_G(16, 6, 2, 24, 104) SIZE_G(32, 5, 2, 24, 104) SIZE_G(64, 4, 2, 24, 104)
