#include "kernels/cuda/sm80/linear_tile.cuh"
using namespace hearth::kernels::cuda;
// NG: groups in one 64-element step of k; BM x BN: outputs x rows of a block; WM x WN: its warps; S: stages.
#define TILE(NG, BM, BN, WM, WN, S) extern "C" __global__ void __launch_bounds__(tile_threads, BN > 64 ? 1 : 2) linear_tile_w4_ng##NG##_n##BN##_f16(const LinearArgs p) { linear_tile<__half, kind_w4, NG, BM, BN, WM, WN, S>(p); }
// Up to 32 rows the products are not what takes the time, and 128 have linear_mma. Three stages, so that two blocks fit the
// shared memory of the cards that these are for.
#define TILE_HALF(NG, BM, BN, WM, WN, S) extern "C" __global__ void __launch_bounds__(tile_threads, 2) linear_tile_w4_ng##NG##_n##BN##_half(const LinearArgs p) { linear_tile<__half, kind_w4, NG, BM, BN, WM, WN, S, true>(p); }
TILE_HALF(1, 128, 64, 4, 2, 3) TILE_HALF(2, 128, 64, 4, 2, 3)
TILE(1, 128, 16, 8, 1, 6) TILE(1, 128, 32, 4, 2, 5) TILE(1, 128, 64, 4, 2, 4) TILE(1, 256, 128, 4, 2, 3)
TILE(2, 128, 16, 8, 1, 6) TILE(2, 128, 32, 4, 2, 5) TILE(2, 128, 64, 4, 2, 4) TILE(2, 256, 128, 4, 2, 3)
