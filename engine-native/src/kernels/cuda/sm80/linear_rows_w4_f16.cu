#include "kernels/cuda/sm80/linear_rows.cuh"
using namespace hearth::kernels::cuda;
#define ROWS(G, S) extern "C" __global__ void __launch_bounds__(rows_threads, 2) linear_rows_w4_g##G##_s##S##_f16(const LinearArgs p) { linear_rows<__half, kind_w4, G, S>(p); }
ROWS(128, 4) ROWS(128, 8) ROWS(64, 4) ROWS(64, 8) ROWS(32, 4) ROWS(32, 8)
