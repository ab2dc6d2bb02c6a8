#include "kernels/cuda/sm80/linear_rows.cuh"
using namespace hearth::kernels::cuda;
#define ROWS(S) extern "C" __global__ void __launch_bounds__(rows_threads) linear_rows_dense_s##S##_bf16(const LinearArgs p) { linear_rows<__nv_bfloat16, kind_dense16, S>(p); }
ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) ROWS(10) ROWS(12)
