#include "kernels/cuda/sm90/linear_stream.cuh"
using namespace hearth::kernels::cuda;
// N: outputs of a tile; S: stages.
#define STREAM(N, S) extern "C" __global__ void __launch_bounds__(384, 1) linear_stream_n##N##_f16(const __grid_constant__ HopperArgs p) { linear_stream<__half, N, S>(p); }
STREAM(64, 6) STREAM(128, 5) STREAM(192, 4) STREAM(256, 4)
