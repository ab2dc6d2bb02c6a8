#include "kernels/cuda/sm80/linear_rows_w4.cuh"
using namespace hearth::kernels::cuda;
// G: group; TP: tiles of a pass; S: ring stages.
#define ROWS(G, TP, S) extern "C" __global__ void __launch_bounds__(w4_rows_threads, 3) linear_rows_w4_g##G##_t##TP##_s##S##_f16(const LinearArgs p) { linear_rows_w4<__half, G, TP, S>(p); }
ROWS(128, 1, 4) ROWS(128, 2, 4) ROWS(128, 3, 4) ROWS(128, 1, 8) ROWS(128, 2, 8) ROWS(128, 3, 8)
ROWS(64, 1, 4) ROWS(64, 2, 4) ROWS(64, 3, 4)
ROWS(32, 1, 4) ROWS(32, 2, 4) ROWS(32, 3, 4)
