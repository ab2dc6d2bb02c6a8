#include "kernels/cuda/sm90/linear_w4_prefill.cuh"
using namespace hearth::kernels::cuda;
// N: rows of a tile; X, W: stages of activations (64 k) and of weights (128 k). _g: groups of 32 or 64.
#define PREFILL(N, X, W) \
  extern "C" __global__ void __launch_bounds__(384, 1) linear_w4_prefill_n##N##_f16(const __grid_constant__ HopperArgs p) { linear_w4_prefill<__half, true, N, X, W>(p); } \
  extern "C" __global__ void __launch_bounds__(384, 1) linear_w4_prefill_n##N##_g_f16(const __grid_constant__ HopperArgs p) { linear_w4_prefill<__half, false, N, X, W>(p); }
PREFILL(128, 8, 4) PREFILL(256, 5, 4)
