// How the blocks of a decode program hand activations to one another without meeting. Every output of a phase has words of
// its own in the exchange: two 16-bit values each, all bits inverted, so that zero says "not written yet" (two values that
// are both the NaN of all ones do not occur: conversions make the NaN 0x7FFF). Whoever needs a word reads it until it is
// there: one trip to the L2 where a counter takes a fence, an addition and two. A word is written and read once a launch;
// zero is put back when all readers are known to be done, what is left at the end by block 0. So a word guards nothing but
// itself, and nothing depends on the order in which writes to different places are seen.
#pragma once

#include "kernels/cuda/sm80/decode_program_ring.cuh"

namespace hearth::kernels::cuda {

__device__ __forceinline__ uint4 exchange_load16(const uint32_t* p) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ uint32_t exchange_load(const uint32_t* p) {
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void exchange_store(uint32_t* p, uint32_t word) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(~word) : "memory");
}
// Without a branch.
__device__ __forceinline__ void exchange_store_if(uint32_t wanted, uint32_t* p, uint32_t word) {
  asm volatile("{\n.reg .pred wanted;\nsetp.ne.u32 wanted, %0, 0;\n@wanted st.relaxed.gpu.global.u32 [%1], %2;\n}" ::"r"(wanted), "l"(p), "r"(~word) : "memory");
}
// Two words of 32 bits that are never all ones.
__device__ __forceinline__ uint2 exchange_load8(const uint32_t* p) {
  uint2 v;
  asm volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void exchange_store8(uint32_t* p, uint32_t first, uint32_t second) {
  asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1,%2};" ::"l"(p), "r"(~first), "r"(~second) : "memory");
}
__device__ __forceinline__ bool arrived(uint2 v) { return v.x != 0 && v.y != 0; }
__device__ __forceinline__ bool arrived(uint4 v) { return v.x != 0 && v.y != 0 && v.z != 0 && v.w != 0; }

// The same once more, where not all of it was there: what has arrived is not read again, since what all blocks poll for
// takes from what the memory gives. What is awaited begins as zero, anything else as `unwanted`.
constexpr uint32_t unwanted = 0xffffffffu;  // inverted: zeros
__device__ __forceinline__ void exchange_poll(uint4& v, const uint32_t* p) {
  asm volatile("{\n.reg .pred again;\nsetp.eq.u32 again, %5, 0;\n@again ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];\n}" : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w) : "l"(p), "r"(static_cast<uint32_t>(arrived(v))) : "memory");
}
__device__ __forceinline__ void exchange_poll(uint2& v, const uint32_t* p) {
  asm volatile("{\n.reg .pred again;\nsetp.eq.u32 again, %3, 0;\n@again ld.relaxed.gpu.global.v2.u32 {%0,%1}, [%2];\n}" : "+r"(v.x), "+r"(v.y) : "l"(p), "r"(static_cast<uint32_t>(arrived(v))) : "memory");
}

// Word of columns `column` (even) and column + 1 in the order in which the tensor cores' fragments want them, so that a
// lane finds what it multiplies in 32 k as 16 bytes.
__device__ __forceinline__ int fragment_word(int column) {
  return column / 128 * 64 + column % 128 / 32 * 16 + column % 8 / 2 * 4 + column / 16 % 2 * 2 + column / 8 % 2;
}

// Puts back to zero the block's share of what nobody reads any more.
__device__ __forceinline__ void exchange_reset(uint32_t* exchange, int begin, int end, int thread, int threads) {
  for (int i = begin + thread * 4; i < end; i += threads * 4) __stcg(reinterpret_cast<uint4*>(exchange + i), make_uint4(0, 0, 0, 0));
}

}  // namespace hearth::kernels::cuda
