#include "kernels/cuda/sm90/linear_stream.cuh"
using namespace hearth::kernels::cuda;
// N: outputs of a tile; S: stages.
#define STREAM(NAME, N, S, DEAL) extern "C" __global__ void __launch_bounds__(384, 1) linear_stream_##NAME##_bf16(const __grid_constant__ HopperArgs p) { linear_stream<__nv_bfloat16, N, S, StreamDeal::DEAL>(p); }
STREAM(n64, 64, 6, whole) STREAM(n128, 128, 5, whole) STREAM(n192, 192, 4, whole) STREAM(n256, 256, 4, whole)
STREAM(even, 256, 4, even) STREAM(split, 128, 5, split)
