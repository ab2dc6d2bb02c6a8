// Blocks of a cluster (sm_90): meeting, and reaching into one another's shared memory. Compiled to nothing for devices that
// have no clusters, where a kernel that may have one runs with one block alone.
#pragma once

#include <cstdint>

namespace hearth::kernels::cuda {

// Between arriving and the others' having arrived a block may work on. What it wrote before is visible to those that waited.
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
// The same for meeting alone: nothing that was written before is made visible (but what a fence of its own has). The release above
// is a fence of the whole device, for which every warp waits.
__device__ __forceinline__ void cluster_arrive_relaxed() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}
// The same place in the shared memory of another block.
__device__ __forceinline__ uint32_t address_in(uint32_t address, uint32_t rank) {
#if __CUDA_ARCH__ >= 900
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
#else
  return address;
#endif
}

}  // namespace hearth::kernels::cuda
