#include "kernels/cuda/sm90/attention_wgmma.cuh"
using namespace hearth::kernels::cuda;
// Towers' attention with more warps a multiprocessor: smaller tiles of keys, fewer registers. D, G, K as in
// attention_wgmma_f16.cu; B: blocks of a multiprocessor.
#define VISION(D, G, K, B) extern "C" __global__ void __launch_bounds__(128 * (G + 1), B) vision_tight_d##D##_g##G##_k##K##_f16(const __grid_constant__ HopperVisionArgs p) { attention_vision_wgmma<__half, G, D, K, true>(p); }
VISION(64, 3, 128, 1) VISION(64, 3, 64, 1) VISION(64, 1, 64, 3) VISION(80, 3, 64, 1)
