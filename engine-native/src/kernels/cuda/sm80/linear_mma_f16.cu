#include "kernels/cuda/sm80/linear_mma.cuh"
using namespace hearth::kernels::cuda;
// NG: groups in 64 k; N: rows of a tile; S: stages (128 rows fit the 99 KB of sm_86 and sm_89).
#define W4(NG, N, S) extern "C" __global__ void __launch_bounds__(mma_threads, N == 128 ? 2 : 1) linear_mma_w4_ng##NG##_n##N##_s##S##_f16(const LinearArgs p) { linear_mma<__half, kind_w4, NG, N, S>(p); }
#define DENSE(N, S) extern "C" __global__ void __launch_bounds__(mma_threads, N == 128 ? 2 : 1) linear_mma_dense_n##N##_s##S##_f16(const LinearArgs p) { linear_mma<__half, kind_dense16, 1, N, S>(p); }
// A block a multiprocessor: more do not fit the shared memory of the cards that these are for.
#define W4_HALF(NG, N, S) extern "C" __global__ void __launch_bounds__(mma_threads, 1) linear_mma_w4_ng##NG##_n##N##_s##S##_half(const LinearArgs p) { linear_mma<__half, kind_w4, NG, N, S, true>(p); }
W4_HALF(1, 128, 4) W4_HALF(2, 128, 4)
W4(1, 128, 4) W4(1, 256, 4) W4(2, 128, 4) W4(2, 256, 4)
DENSE(128, 3) DENSE(256, 3)
