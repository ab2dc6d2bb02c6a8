#include "kernels/cuda/sm80/attention_prefill.cuh"
using namespace hearth::kernels::cuda;
// D: head size rounded up; W: warps, 16 rows each; K: tokens of a tile.
#define PREFILL(D, W, K) \
  extern "C" __global__ void __launch_bounds__(W * 32, 1) attention_prefill_d##D##_f16(const AttentionArgs p) { attention_prefill<__half, false, D, W, K>(p); } \
  extern "C" __global__ void __launch_bounds__(W * 32, 1) attention_prefill_d##D##_i8_f16(const AttentionArgs p) { attention_prefill<__half, true, D, W, K>(p); } \
  extern "C" __global__ void __launch_bounds__(W * 32, 1) attention_vision_d##D##_f16(const VisionArgs p) { attention_vision<__half, D, W, K>(p); }
PREFILL(64, 8, 64) PREFILL(96, 8, 64) PREFILL(128, 8, 64) PREFILL(256, 4, 32)
