// The wgmma forms the prefill kernels use (wgmma.cuh has the ones with weights in registers). One line a shape.
// `keep` = 0 starts from zero.
#pragma once

#include "kernels/cuda/sm90/wgmma.cuh"

namespace hearth::kernels::cuda {

// The copy engine's description of a matrix, on its way before it is needed.
__device__ __forceinline__ void prefetch_map(const void* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

// D[64, N] (+)= A[64, k] B[N, k]^T, both in shared memory, k = 32 bytes.
template <class T, int N> struct WgmmaShared;
// D[64, N] (+)= A[64, 16] B[16, N]: A in registers, B in shared memory with N contiguous.
template <class T, int N> struct WgmmaTransposed;

// A, B and KEEP: the numbers of the operands after the accumulators.
#define HEARTH_WGMMA_SHARED(T, TYPE, N, SUMS, A, B, KEEP)                                                                                           \
  template <> struct WgmmaShared<T, N> {                                                                                                            \
    static __device__ __forceinline__ void run(float (&d)[SUMS], uint64_t a, uint64_t b, int keep) {                                                \
      asm volatile("{\n.reg .pred keep;\nsetp.ne.b32 keep, " KEEP ", 0;\n"                                                                          \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" HEARTH_NAMES_##SUMS "}, " A ", " B ", keep, 1, 1, 0, 0;\n}" \
                   : HEARTH_SUMS_##SUMS("+f", 0)                                                                                                    \
                   : "l"(a), "l"(b), "r"(keep));                                                                                                    \
    }                                                                                                                                               \
  };
HEARTH_WGMMA_SHARED(__half, "f16", 64, 32, "%32", "%33", "%34")
HEARTH_WGMMA_SHARED(__half, "f16", 128, 64, "%64", "%65", "%66")
HEARTH_WGMMA_SHARED(__half, "f16", 192, 96, "%96", "%97", "%98")
HEARTH_WGMMA_SHARED(__half, "f16", 256, 128, "%128", "%129", "%130")
HEARTH_WGMMA_SHARED(__nv_bfloat16, "bf16", 64, 32, "%32", "%33", "%34")
HEARTH_WGMMA_SHARED(__nv_bfloat16, "bf16", 128, 64, "%64", "%65", "%66")
HEARTH_WGMMA_SHARED(__nv_bfloat16, "bf16", 192, 96, "%96", "%97", "%98")
HEARTH_WGMMA_SHARED(__nv_bfloat16, "bf16", 256, 128, "%128", "%129", "%130")

#define HEARTH_WGMMA_SHARED_INT8(N, SUMS, A, B, KEEP)                                                                       \
  template <> struct WgmmaShared<int8_t, N> {                                                                               \
    static __device__ __forceinline__ void run(int (&d)[SUMS], uint64_t a, uint64_t b, int keep) {                          \
      asm volatile("{\n.reg .pred keep;\nsetp.ne.b32 keep, " KEEP ", 0;\n"                                                  \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k32.s32.s8.s8 {" HEARTH_NAMES_##SUMS "}, " A ", " B ", keep;\n}" \
                   : HEARTH_SUMS_##SUMS("+r", 0)                                                                            \
                   : "l"(a), "l"(b), "r"(keep));                                                                            \
    }                                                                                                                       \
  };
HEARTH_WGMMA_SHARED_INT8(64, 32, "%32", "%33", "%34")
HEARTH_WGMMA_SHARED_INT8(128, 64, "%64", "%65", "%66")
HEARTH_WGMMA_SHARED_INT8(192, 96, "%96", "%97", "%98")
HEARTH_WGMMA_SHARED_INT8(256, 128, "%128", "%129", "%130")

#define HEARTH_WGMMA_TRANSPOSED(T, TYPE, N, SUMS, A, B, KEEP)                                                                                      \
  template <> struct WgmmaTransposed<T, N> {                                                                                                       \
    static __device__ __forceinline__ void run(float (&d)[SUMS], const uint32_t (&a)[4], uint64_t b, int keep) {                                   \
      asm volatile("{\n.reg .pred keep;\nsetp.ne.b32 keep, " KEEP ", 0;\n"                                                                         \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" HEARTH_NAMES_##SUMS "}, {" A "}, " B ", keep, 1, 1, 1;\n}" \
                   : HEARTH_SUMS_##SUMS("+f", 0)                                                                                                   \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep));                                                               \
    }                                                                                                                                              \
  };
HEARTH_WGMMA_TRANSPOSED(__half, "f16", 64, 32, "%32, %33, %34, %35", "%36", "%37")
HEARTH_WGMMA_TRANSPOSED(__half, "f16", 80, 40, "%40, %41, %42, %43", "%44", "%45")
HEARTH_WGMMA_TRANSPOSED(__half, "f16", 96, 48, "%48, %49, %50, %51", "%52", "%53")
HEARTH_WGMMA_TRANSPOSED(__half, "f16", 128, 64, "%64, %65, %66, %67", "%68", "%69")
HEARTH_WGMMA_TRANSPOSED(__half, "f16", 256, 128, "%128, %129, %130, %131", "%132", "%133")
HEARTH_WGMMA_TRANSPOSED(__nv_bfloat16, "bf16", 64, 32, "%32, %33, %34, %35", "%36", "%37")
HEARTH_WGMMA_TRANSPOSED(__nv_bfloat16, "bf16", 80, 40, "%40, %41, %42, %43", "%44", "%45")
HEARTH_WGMMA_TRANSPOSED(__nv_bfloat16, "bf16", 96, 48, "%48, %49, %50, %51", "%52", "%53")
HEARTH_WGMMA_TRANSPOSED(__nv_bfloat16, "bf16", 128, 64, "%64, %65, %66, %67", "%68", "%69")
HEARTH_WGMMA_TRANSPOSED(__nv_bfloat16, "bf16", 256, 128, "%128, %129, %130, %131", "%132", "%133")

#undef HEARTH_WGMMA_SHARED
#undef HEARTH_WGMMA_SHARED_INT8
#undef HEARTH_WGMMA_TRANSPOSED

}  // namespace hearth::kernels::cuda
