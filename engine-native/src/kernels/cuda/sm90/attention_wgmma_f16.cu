#include "kernels/cuda/sm90/attention_wgmma.cuh"
using namespace hearth::kernels::cuda;
// D: head size rounded up; G: warpgroups that multiply; K: tokens of a tile.
#define ATTENTION(D, G, K) \
  extern "C" __global__ void __launch_bounds__(128 * (G + 1), 3 - G) attention_wgmma_d##D##_g##G##_f16(const __grid_constant__ HopperAttentionArgs p) { attention_prefill_wgmma<__half, false, G, D, K>(p); } \
  extern "C" __global__ void __launch_bounds__(128 * (G + 1), 3 - G) attention_wgmma_d##D##_g##G##_i8_f16(const __grid_constant__ HopperAttentionArgs p) { attention_prefill_wgmma<__half, true, G, D, K>(p); } \
  extern "C" __global__ void __launch_bounds__(128 * (G + 1), 3 - G) vision_wgmma_d##D##_g##G##_f16(const __grid_constant__ HopperVisionArgs p) { attention_vision_wgmma<__half, G, D, K>(p); }
ATTENTION(64, 2, 128) ATTENTION(80, 2, 128) ATTENTION(96, 2, 128) ATTENTION(128, 2, 128) ATTENTION(256, 2, 64)
ATTENTION(64, 1, 128)
