#define HEARTH_PROGRAM_BULK
#include "kernels/cuda/sm80/decode_program.cuh"
using namespace hearth::kernels::cuda;
extern "C" __global__ void __launch_bounds__(program_threads, 1) decode_program_bulk_f16(const __grid_constant__ Program p) { decode_program<__half, true>(p); }
