#include "kernels/cuda/sm80/attention_short.cuh"
using namespace hearth::kernels::cuda;
#define SHORT(D) \
  extern "C" __global__ void __launch_bounds__(short_warps * 32, short_resident) attention_short_d##D##_bf16(const __grid_constant__ AttentionArgs p) { attention_short<__nv_bfloat16, false, D>(p); } \
  extern "C" __global__ void __launch_bounds__(short_warps * 32, short_resident) attention_short_d##D##_i8_bf16(const __grid_constant__ AttentionArgs p) { attention_short<__nv_bfloat16, true, D>(p); }
SHORT(64) SHORT(128)
extern "C" __global__ void __launch_bounds__(short_warps * 32, short_resident) attention_short_single_bf16(const __grid_constant__ AttentionArgs p) { attention_short<__nv_bfloat16, true, 128, SingleProducts<128>, true>(p); }
