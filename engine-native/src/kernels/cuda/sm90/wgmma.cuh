// wgmma of sm_90a with A in registers, B K-major in shared memory with 128-byte swizzle (wgmma_tiles.cuh has the others).
// One line a shape.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/sm90/wgmma_operands.cuh"

namespace hearth::kernels::cuda {

// ---- mbarriers and the copy engine ----

__device__ __forceinline__ void barrier_init(uint32_t barrier, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory"); }
__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory"); }
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }
__device__ __forceinline__ void barrier_wait(uint32_t barrier, int parity) {
  asm volatile("{\n.reg .pred done;\nwait:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra wait;\n}" ::"r"(barrier), "r"(parity) : "memory");
}
__device__ __forceinline__ void tensor_copy(uint32_t to, const void* map, int k, int row, uint32_t barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(map), "r"(k), "r"(row), "r"(barrier) : "memory");
}
__device__ __forceinline__ void bulk_copy(uint32_t to, const void* from, int bytes, uint32_t barrier, uint64_t policy) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(from), "r"(bytes), "r"(barrier), "l"(policy) : "memory");
}
// K-major, 128-byte swizzle: eight rows of 128 bytes are one 1024-byte atom.
__device__ __forceinline__ uint64_t descriptor(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | (uint64_t{1} << 16) | (uint64_t{64} << 32) | (uint64_t{1} << 62);
}
// The same for a step of `bytes` (a constant) beyond descriptor_low's address: one addition.
__device__ __forceinline__ uint32_t descriptor_low(uint32_t address) { return (address & 0x3ffff) >> 4 | 1u << 16; }
__device__ __forceinline__ uint64_t descriptor_step(uint32_t low, int bytes) { return static_cast<uint64_t>(1u << 30 | 64) << 32 | (low + (bytes >> 4)); }
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

// D[64, N] += A[64, 16] B[N, 16]^T: A the fragments of mma.m16n8k16, a warp's 16 rows each.
template <class T, int N> struct WgmmaRegisters;

// A and B: the numbers of the operands after the accumulators, as the instruction wants them.
#define HEARTH_WGMMA_REGISTERS(T, TYPE, N, SUMS, A, B)                                                                                       \
  template <> struct WgmmaRegisters<T, N> {                                                                                                  \
    static __device__ __forceinline__ void run(float (&d)[SUMS], const uint32_t (&a)[4], uint64_t b) {                                       \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" HEARTH_NAMES_##SUMS "}, {" A "}, " B ", 1, 1, 1, 0;" \
                   : HEARTH_SUMS_##SUMS("+f", 0)                                                                                             \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                                    \
    }                                                                                                                                        \
  };
HEARTH_WGMMA_REGISTERS(__half, "f16", 8, 4, "%4, %5, %6, %7", "%8")
HEARTH_WGMMA_REGISTERS(__half, "f16", 16, 8, "%8, %9, %10, %11", "%12")
HEARTH_WGMMA_REGISTERS(__half, "f16", 24, 12, "%12, %13, %14, %15", "%16")
HEARTH_WGMMA_REGISTERS(__half, "f16", 32, 16, "%16, %17, %18, %19", "%20")
HEARTH_WGMMA_REGISTERS(__half, "f16", 40, 20, "%20, %21, %22, %23", "%24")
HEARTH_WGMMA_REGISTERS(__half, "f16", 48, 24, "%24, %25, %26, %27", "%28")
HEARTH_WGMMA_REGISTERS(__half, "f16", 56, 28, "%28, %29, %30, %31", "%32")
HEARTH_WGMMA_REGISTERS(__half, "f16", 64, 32, "%32, %33, %34, %35", "%36")
HEARTH_WGMMA_REGISTERS(__half, "f16", 128, 64, "%64, %65, %66, %67", "%68")
HEARTH_WGMMA_REGISTERS(__half, "f16", 256, 128, "%128, %129, %130, %131", "%132")
HEARTH_WGMMA_REGISTERS(__nv_bfloat16, "bf16", 8, 4, "%4, %5, %6, %7", "%8")
HEARTH_WGMMA_REGISTERS(__nv_bfloat16, "bf16", 16, 8, "%8, %9, %10, %11", "%12")
HEARTH_WGMMA_REGISTERS(__nv_bfloat16, "bf16", 24, 12, "%12, %13, %14, %15", "%16")
HEARTH_WGMMA_REGISTERS(__nv_bfloat16, "bf16", 32, 16, "%16, %17, %18, %19", "%20")
HEARTH_WGMMA_REGISTERS(__nv_bfloat16, "bf16", 40, 20, "%20, %21, %22, %23", "%24")
HEARTH_WGMMA_REGISTERS(__nv_bfloat16, "bf16", 48, 24, "%24, %25, %26, %27", "%28")
HEARTH_WGMMA_REGISTERS(__nv_bfloat16, "bf16", 56, 28, "%28, %29, %30, %31", "%32")
HEARTH_WGMMA_REGISTERS(__nv_bfloat16, "bf16", 64, 32, "%32, %33, %34, %35", "%36")
HEARTH_WGMMA_REGISTERS(__nv_bfloat16, "bf16", 128, 64, "%64, %65, %66, %67", "%68")
HEARTH_WGMMA_REGISTERS(__nv_bfloat16, "bf16", 256, 128, "%128, %129, %130, %131", "%132")

#undef HEARTH_WGMMA_REGISTERS

}  // namespace hearth::kernels::cuda
