#include "kernels/cuda/sm90/linear_w4_chain.cuh"
using namespace hearth::kernels::cuda;
// NAME; N: rows of the kernel; MT, STEP, WEIGHTS, BESIDE: see there.
#define SIZE(NAME, N, MT, STEP, WEIGHTS, BESIDE) \
  extern "C" __global__ void __launch_bounds__(chain_bound(BESIDE), 1) linear_w4_chain_n##NAME##_f16(const __grid_constant__ W4ChainArgs p) { linear_w4_chain<__half, N, MT, STEP, WEIGHTS<__half>, BESIDE>(p); }
SIZE(8, 8, 4, 0, W4Exact, true) SIZE(16, 16, 4, 0, W4Scaled, false) SIZE(24, 24, 3, 2, W4Scaled, false) SIZE(32, 32, 3, 2, W4Scaled, false) SIZE(40, 40, 3, 2, W4Scaled, false) SIZE(48, 48, 2, 2, W4Scaled, false) SIZE(56, 56, 2, 2, W4Scaled, false) SIZE(64, 64, 2, 2, W4Scaled, false)
