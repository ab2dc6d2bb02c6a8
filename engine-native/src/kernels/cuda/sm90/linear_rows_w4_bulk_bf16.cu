#include "kernels/cuda/sm80/linear_rows_w4.cuh"
using namespace hearth::kernels::cuda;
#define ROWS(G, S) extern "C" __global__ void __launch_bounds__(w4_rows_threads, 2) linear_rows_w4_bulk_g##G##_s##S##_bf16(const LinearArgs p) { linear_rows_w4<__nv_bfloat16, G, S, true>(p); }
ROWS(128, 3) ROWS(128, 5) ROWS(64, 3) ROWS(64, 5) ROWS(32, 3) ROWS(32, 5)
