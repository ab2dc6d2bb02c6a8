#include "kernels/cuda/sm80/attention_decode.cuh"
using namespace hearth::kernels::cuda;
#define DECODE(D, WARPS) \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, 1) attention_decode_d##D##_f16(const __grid_constant__ AttentionArgs p) { attention_decode<__half, false, D>(p); } \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, 1) attention_decode_d##D##_i8_f16(const __grid_constant__ AttentionArgs p) { attention_decode<__half, true, D>(p); }
DECODE(64, decode_warps_max) DECODE(128, decode_warps_max) DECODE(256, 8)
