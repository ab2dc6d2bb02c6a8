#include "kernels/cuda/sm80/attention_short.cuh"
using namespace hearth::kernels::cuda;
#define SHORT(D) \
  extern "C" __global__ void __launch_bounds__(short_warps * 32, short_resident) attention_short_d##D##_f16(const __grid_constant__ AttentionArgs p) { attention_short<__half, false, D>(p); } \
  extern "C" __global__ void __launch_bounds__(short_warps * 32, short_resident) attention_short_d##D##_i8_f16(const __grid_constant__ AttentionArgs p) { attention_short<__half, true, D>(p); }
SHORT(64) SHORT(128)
extern "C" __global__ void __launch_bounds__(short_warps * 32, short_resident) attention_short_single_f16(const __grid_constant__ AttentionArgs p) { attention_short<__half, true, 128, SingleProducts<128>, true>(p); }
