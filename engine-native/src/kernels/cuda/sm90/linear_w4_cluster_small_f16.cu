#include "kernels/cuda/sm90/linear_w4_cluster.cuh"
using namespace hearth::kernels::cuda;
// N: rows of a pass; WORKERS, MT, STEP, L, M: see there; B: blocks a multiprocessor holds. "g" takes any group.
#define SIZE(NAME, THREADS, N, WORKERS, MT, STEP, B, L, M) \
  extern "C" __global__ void __launch_bounds__(THREADS, B) linear_w4_cluster_n##NAME##_f16(const __grid_constant__ W4ClusterArgs p) { linear_w4_cluster<__half, true, N, WORKERS, MT, STEP, L, M>(p); } \
  extern "C" __global__ void __launch_bounds__(THREADS, B) linear_w4_cluster_n##NAME##_g_f16(const __grid_constant__ W4ClusterArgs p) { linear_w4_cluster<__half, false, N, WORKERS, MT, STEP, L, M>(p); }
SIZE(16, 416, 16, 12, 3, 0, 1, 0, 0) SIZE(32m, 416, 32, 12, 2, 0, 1, 0, 0) SIZE(32, 640, 32, 16, 2, 2, 1, 24, 112)
