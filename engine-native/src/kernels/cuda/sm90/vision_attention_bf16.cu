#include "kernels/cuda/sm90/attention_wgmma.cuh"
using namespace hearth::kernels::cuda;
// Towers' attention of many images, for heads of up to 80: three multiplying warpgroups, tiles of 64 keys, fewer registers.
extern "C" __global__ void __launch_bounds__(512, 1) vision_tight_bf16(const __grid_constant__ HopperVisionArgs p) { attention_vision_wgmma<__nv_bfloat16, 3, 80, 64, true>(p); }
