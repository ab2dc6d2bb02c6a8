#include "kernels/cuda/sm80/linear_mma.cuh"
using namespace hearth::kernels::cuda;
#define INT8(N, S) extern "C" __global__ void __launch_bounds__(mma_threads, N == 128 ? 2 : 1) linear_mma_int8_n##N##_s##S(const LinearArgs p) { linear_mma<int8_t, kind_int8, 1, N, S>(p); }
INT8(128, 3) INT8(256, 3)
