#include "kernels/cuda/sm80/linear_rows.cuh"
#include "kernels/cuda/sm80/linear_tile.cuh"
using namespace hearth::kernels::cuda;
#define ROWS(S) extern "C" __global__ void __launch_bounds__(rows_threads) linear_rows_int8_s##S(const LinearArgs p) { linear_rows<int8_t, kind_int8, S>(p); }
ROWS(4) ROWS(8) ROWS(12)
#define TILE(BM, BN, WM, WN, S) extern "C" __global__ void __launch_bounds__(tile_threads, 1) linear_tile_int8_n##BN(const LinearArgs p) { linear_tile<int8_t, kind_int8, 1, BM, BN, WM, WN, S>(p); }
TILE(128, 16, 8, 1, 4) TILE(128, 32, 4, 2, 4) TILE(128, 64, 4, 2, 4)
