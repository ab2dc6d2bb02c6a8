#include "kernels/cuda/sm80/linear_tile.cuh"
using namespace hearth::kernels::cuda;
#define TILE(BM, BN, WM, WN, S) extern "C" __global__ void __launch_bounds__(tile_threads, 1) linear_tile_dense_n##BN##_s##S##_f16(const LinearArgs p) { linear_tile<__half, kind_dense16, 1, BM, BN, WM, WN, S>(p); }
TILE(128, 16, 8, 1, 4) TILE(128, 32, 4, 2, 4) TILE(128, 64, 4, 2, 4)
TILE(128, 16, 8, 1, 10) TILE(128, 32, 4, 2, 10)
