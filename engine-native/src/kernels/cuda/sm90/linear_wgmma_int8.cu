#include "kernels/cuda/sm90/linear_wgmma.cuh"
using namespace hearth::kernels::cuda;
// N: outputs of a tile; S: stages.
#define WGMMA(N, S) extern "C" __global__ void __launch_bounds__(dense_bound(N), 1) linear_wgmma_n##N##_int8(const __grid_constant__ HopperArgs p) { linear_wgmma<int8_t, N, S>(p); }
WGMMA(64, 6) WGMMA(128, 5) WGMMA(192, 4) WGMMA(256, 4)
