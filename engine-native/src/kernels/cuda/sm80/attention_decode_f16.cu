#include "kernels/cuda/sm80/attention_decode.cuh"
using namespace hearth::kernels::cuda;
#define DECODE(D) \
  extern "C" __global__ void __launch_bounds__(decode_warps(false, D) * 32, 1) attention_decode_d##D##_f16(const __grid_constant__ AttentionArgs p) { attention_decode<__half, false, D>(p); } \
  extern "C" __global__ void __launch_bounds__(decode_warps(true, D) * 32, 1) attention_decode_d##D##_i8_f16(const __grid_constant__ AttentionArgs p) { attention_decode<__half, true, D>(p); }
DECODE(64) DECODE(128) DECODE(256)
