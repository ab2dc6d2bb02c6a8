#include "kernels/cuda/sm90/linear_cluster.cuh"
using namespace hearth::kernels::cuda;
// H: stages held behind the one that is multiplied; 0 leaves a short ring to the copies, for two blocks of a multiprocessor.
#define CLUSTER(H) extern "C" __global__ void __launch_bounds__(dense_threads, 2) linear_cluster_h##H##_f16(const __grid_constant__ HopperArgs p) { linear_cluster<__half, 128, H>(p); }
CLUSTER(0) CLUSTER(1)
