#include "kernels/cuda/sm90/linear_w4_chain.cuh"
using namespace hearth::kernels::cuda;
// Rows of the kernel, tiles of a warp.
#define SIZE(N, MT) \
  extern "C" __global__ void __launch_bounds__(chain_threads, 1) linear_w4_chain_n##N##_bf16(const __grid_constant__ W4ChainArgs p) { linear_w4_chain<__nv_bfloat16, N, MT>(p); }
SIZE(8, 4) SIZE(16, 4)
