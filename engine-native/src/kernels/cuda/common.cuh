// Pieces every kernel uses: element types, asynchronous copies, tensor-core instructions, reductions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "kernels/cuda/params.h"

namespace hearth::kernels::cuda {

// ---- Overlap of consecutive kernels (programmatic dependent launch, sm_90) -------------------------------------------
// launch_dependents: the next kernel may start its prologue. wait_predecessors: everything earlier kernels wrote is
// visible from here; before it only constants (weights) may be read and nothing global may be written.

__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_predecessors() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// ---- Types -----------------------------------------------------------------------------------------------------------

template <class T> struct Pair;
template <> struct Pair<__half> { using type = __half2; };
template <> struct Pair<__nv_bfloat16> { using type = __nv_bfloat162; };

template <class T> __device__ __forceinline__ float to_float(T v);
template <> __device__ __forceinline__ float to_float(float v) { return v; }
template <> __device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
template <> __device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
template <class T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ float from_float(float v) { return v; }
template <> __device__ __forceinline__ __half from_float(float v) { return __float2half_rn(v); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float(float v) { return __float2bfloat16_rn(v); }

template <class T> __device__ __forceinline__ uint32_t pack2(float low, float high);
template <> __device__ __forceinline__ uint32_t pack2<__half>(float low, float high) {
  __half2 v = __floats2half2_rn(low, high);
  return *reinterpret_cast<uint32_t*>(&v);
}
template <> __device__ __forceinline__ uint32_t pack2<__nv_bfloat16>(float low, float high) {
  __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<uint32_t*>(&v);
}
template <class T> __device__ __forceinline__ uint4 pack8(const float4& a, const float4& b) {
  return make_uint4(pack2<T>(a.x, a.y), pack2<T>(a.z, a.w), pack2<T>(b.x, b.y), pack2<T>(b.z, b.w));
}
template <class T> __device__ __forceinline__ float2 unpack2(uint32_t v);
template <> __device__ __forceinline__ float2 unpack2<__half>(uint32_t v) { return __half22float2(*reinterpret_cast<__half2*>(&v)); }
template <> __device__ __forceinline__ float2 unpack2<__nv_bfloat16>(uint32_t v) {
  return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u));
}

// Element i of an array whose type is known at run time. Past the L1: another kernel, still resident when this one
// started, may have left an old line there.
__device__ __forceinline__ float load(const void* p, int type, int64_t i) {
  if (type == type_f32) return __ldcg(static_cast<const float*>(p) + i);
  unsigned short bits = __ldcg(static_cast<const unsigned short*>(p) + i);
  return type == type_f16 ? __half2float(__ushort_as_half(bits)) : __uint_as_float(static_cast<uint32_t>(bits) << 16);
}
__device__ __forceinline__ void store(void* p, int type, int64_t i, float v) {
  if (type == type_f32) static_cast<float*>(p)[i] = v;
  else if (type == type_f16) static_cast<__half*>(p)[i] = __float2half_rn(v);
  else static_cast<__nv_bfloat16*>(p)[i] = __float2bfloat16_rn(v);
}

// ---- Activations -------------------------------------------------------------------------------------------------------

// The rare ones are a call: inlined in an unrolled epilogue they made kernels of 300 KB that ran from the L2.
__device__ __noinline__ float activate_rare(float v, int activation) {
  switch (activation) {
    case activation_gelu_tanh: return 0.5f * v * (1.f + tanhf(0.7978845608028654f * (v + 0.044715f * v * v * v)));
    case activation_gelu_erf: return 0.5f * v * (1.f + erff(v * 0.7071067811865476f));
    case activation_quick_gelu: return v / (1.f + __expf(-1.702f * v));
    default: return fmaxf(v, 0.f);
  }
}
__device__ __forceinline__ float activate(float v, int activation) {
  if (activation == activation_none) return v;
  if (activation == activation_silu) return __fdividef(v, 1.f + __expf(fminf(-v, 80.f)));
  return activate_rare(v, activation);
}

// ---- Asynchronous copies -------------------------------------------------------------------------------------------------

__device__ __forceinline__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// 16 bytes to shared memory, past the L1; zeros when !valid (then nothing is read).
__device__ __forceinline__ void copy16(uint32_t to, const void* from, bool valid = true) {
  int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
// Weights are read once: they leave the L2 first.
__device__ __forceinline__ uint64_t evict_first_policy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ void copy16_once(uint32_t to, const void* from, uint64_t policy, bool valid = true) {
  int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(to), "l"(from), "r"(bytes), "l"(policy) : "memory");
}
__device__ __forceinline__ void copy8(uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

__device__ __forceinline__ uint4 shared_load16(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address) : "memory");
  return v;
}
__device__ __forceinline__ uint32_t shared_load4(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}
__device__ __forceinline__ uint32_t shared_load1(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u8 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}
__device__ __forceinline__ void shared_store16(uint32_t address, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

__device__ __forceinline__ uint4 load_matrix(uint32_t address) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address) : "memory");
  return v;
}

// ---- Tensor cores ------------------------------------------------------------------------------------------------------------
// Lane (g = lane / 4, t = lane % 4) of m16n8k16: a[0], a[1] = rows g, g + 8 at k = 2t, 2t + 1; a[2], a[3] = the same rows
// at k + 8; b[0], b[1] = column g at those k; c[0..1] = row g at columns 2t, 2t + 1; c[2..3] = row g + 8.
// Any permutation of k may be used as long as a and b agree: here lane t owns 16 consecutive bytes of a 64-byte block of
// k, so that every fragment is loaded 16 bytes at a time.

template <class T> __device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <> __device__ __forceinline__ void mma<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <> __device__ __forceinline__ void mma<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// int8 m16n8k32, 32-bit sums kept in the bits of the float array.
template <> __device__ __forceinline__ void mma<int8_t>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  int d0 = __float_as_int(c[0]), d1 = __float_as_int(c[1]), d2 = __float_as_int(c[2]), d3 = __float_as_int(c[3]);
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d0), "+r"(d1), "+r"(d2), "+r"(d3) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  c[0] = __int_as_float(d0); c[1] = __int_as_float(d1); c[2] = __int_as_float(d2); c[3] = __int_as_float(d3);
}

__device__ __forceinline__ uint32_t transpose8x8(uint32_t v) {
  uint32_t d;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(v));
  return d;
}

// ---- Decoding 4-bit weights ------------------------------------------------------------------------------------------------------
// A word holds lane (g, t)'s share of a 16 x 16 fragment: nibbles 0 and 4 are row g at k = 2t, 2t + 1; 1 and 5 row g + 8
// there; 2 and 6 row g at k + 8; 3 and 7 row g + 8 there. Placing a nibble under the exponent of 1024 (128 in bfloat16) makes
// it a number with one instruction; subtracting the same with the zero point leaves q - zero exactly.

__device__ __forceinline__ uint32_t and_or(uint32_t v, uint32_t mask, uint32_t magic) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(v), "r"(mask), "r"(magic));
  return d;
}
__device__ __forceinline__ uint32_t half2_add(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ __forceinline__ uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
__device__ __forceinline__ uint32_t bfloat2_fma(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// Minus (base + zero) for rows g and g + 8, from the zero points' byte.
template <class T> __device__ __forceinline__ void zero_constants(uint32_t byte, uint32_t& low, uint32_t& high);
template <> __device__ __forceinline__ void zero_constants<__half>(uint32_t byte, uint32_t& low, uint32_t& high) {
  low = 0xE400E400u + (byte & 15u) * 0x00010001u;   // -(1024 + z)
  high = 0xD400D400u + (byte >> 4) * 0x00100010u;   // -(64 + z): rows g + 8 come in as 1024 + 16 q and are divided by 16
}
template <> __device__ __forceinline__ void zero_constants<__nv_bfloat16>(uint32_t byte, uint32_t& low, uint32_t& high) {
  low = 0xC300C300u + (byte & 15u) * 0x00010001u;   // -(128 + z)
  high = 0xC300C300u + (byte >> 4) * 0x00010001u;
}

template <class T> __device__ __forceinline__ void decode4(uint32_t w, uint32_t zero_low, uint32_t zero_high, uint32_t (&a)[4]);
template <> __device__ __forceinline__ void decode4<__half>(uint32_t w, uint32_t zero_low, uint32_t zero_high, uint32_t (&a)[4]) {
  const uint32_t low = 0x000f000fu, high = 0x00f000f0u, magic = 0x64006400u, sixteenth = 0x2C002C00u;
  uint32_t w8 = w >> 8;
  a[0] = half2_add(and_or(w, low, magic), zero_low);
  a[1] = half2_fma(and_or(w, high, magic), sixteenth, zero_high);
  a[2] = half2_add(and_or(w8, low, magic), zero_low);
  a[3] = half2_fma(and_or(w8, high, magic), sixteenth, zero_high);
}
template <> __device__ __forceinline__ void decode4<__nv_bfloat16>(uint32_t w, uint32_t zero_low, uint32_t zero_high, uint32_t (&a)[4]) {
  const uint32_t low = 0x000f000fu, magic = 0x43004300u, one = 0x3F803F80u;
  a[0] = bfloat2_fma(and_or(w, low, magic), one, zero_low);
  a[1] = bfloat2_fma(and_or(w >> 4, low, magic), one, zero_high);
  a[2] = bfloat2_fma(and_or(w >> 8, low, magic), one, zero_low);
  a[3] = bfloat2_fma(and_or(w >> 12, low, magic), one, zero_high);
}

// a *= scale of its row, in T. `scale2` is the f16 pair (row g, row g + 8).
template <class T> __device__ __forceinline__ void scale4(uint32_t (&a)[4], uint32_t scale_low, uint32_t scale_high);
template <> __device__ __forceinline__ void scale4<__half>(uint32_t (&a)[4], uint32_t scale_low, uint32_t scale_high) {
  const uint32_t zero = 0x80008000u;
  a[0] = half2_fma(a[0], scale_low, zero); a[1] = half2_fma(a[1], scale_high, zero);
  a[2] = half2_fma(a[2], scale_low, zero); a[3] = half2_fma(a[3], scale_high, zero);
}
template <> __device__ __forceinline__ void scale4<__nv_bfloat16>(uint32_t (&a)[4], uint32_t scale_low, uint32_t scale_high) {
  const uint32_t zero = 0x80008000u;
  a[0] = bfloat2_fma(a[0], scale_low, zero); a[1] = bfloat2_fma(a[1], scale_high, zero);
  a[2] = bfloat2_fma(a[2], scale_low, zero); a[3] = bfloat2_fma(a[3], scale_high, zero);
}
template <class T> __device__ __forceinline__ void scale_constants(uint32_t pair, uint32_t& low, uint32_t& high);
template <> __device__ __forceinline__ void scale_constants<__half>(uint32_t pair, uint32_t& low, uint32_t& high) {
  low = __byte_perm(pair, 0, 0x1010);
  high = __byte_perm(pair, 0, 0x3232);
}
template <> __device__ __forceinline__ void scale_constants<__nv_bfloat16>(uint32_t pair, uint32_t& low, uint32_t& high) {
  float2 s = unpack2<__half>(pair);
  low = pack2<__nv_bfloat16>(s.x, s.x);
  high = pack2<__nv_bfloat16>(s.y, s.y);
}

// ---- Reductions ---------------------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
  return v;
}
// Sum over the block, in the same order every time, to every thread. `scratch`: 33 floats of shared memory.
__device__ __forceinline__ float block_sum(float v, float* scratch) {
  const int warps = (blockDim.x + 31) / 32;
  v = warp_sum(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  float total = 0;
  for (int w = 0; w < warps; ++w) total += scratch[w];
  return total;
}
__device__ __forceinline__ float block_max(float v, float* scratch) {
  const int warps = (blockDim.x + 31) / 32;
  v = warp_max(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  float best = scratch[0];
  for (int w = 1; w < warps; ++w) best = fmaxf(best, scratch[w]);
  return best;
}

// ---- Epilogue of the linears -----------------------------------------------------------------------------------------------------------

// One output of a linear: bias, activation, residual.
__device__ __forceinline__ void linear_store(const LinearArgs& p, int row, int column, float v) {
  if (p.bias) v += p.bias[column];
  v = activate(v, p.activation);
  const int64_t at = row * p.y_stride + column;
  if (p.residual) static_cast<float*>(p.y)[at] = __ldcg(static_cast<float*>(p.y) + at) + v;
  else store(p.y, p.y_type, at, v);
}
// A gate and its up: rows r and r + 8 of a packed tile.
__device__ __forceinline__ void linear_store_gated(const LinearArgs& p, int row, int column, float gate, float up) {
  if (p.bias) { gate += p.bias[column]; up += p.bias[p.out / 2 + column]; }
  const float v = activate(gate, p.activation) * up;
  const int64_t at = row * p.y_stride + column;
  if (p.residual) static_cast<float*>(p.y)[at] = __ldcg(static_cast<float*>(p.y) + at) + v;
  else store(p.y, p.y_type, at, v);
}
// Rows r and r + 8 of tile `tile` for one activation row.
__device__ __forceinline__ void linear_store_pair(const LinearArgs& p, int row, int tile, int r, float low, float high) {
  if (row >= p.rows) return;
  if (p.gated) {
    const int column = tile * 8 + r;
    if (column < p.out / 2) linear_store_gated(p, row, column, low, high);
    return;
  }
  const int column = tile * 16 + r;
  if (column < p.out) linear_store(p, row, column, low);
  if (column + 8 < p.out) linear_store(p, row, column + 8, high);
}

}  // namespace hearth::kernels::cuda
