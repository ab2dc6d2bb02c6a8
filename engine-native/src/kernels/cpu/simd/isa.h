// The name of this instruction set and what it needs, for the implementations compiled from simd/.
#pragma once

#include "kernels/cpu/simd/vec.h"

#define HEARTH_TEXT_INNER(x) #x
#define HEARTH_TEXT(x) HEARTH_TEXT_INNER(x)
#define HEARTH_ISA_NAME "cpu/" HEARTH_TEXT(HEARTH_ISA)

namespace hearth::kernels::cpu::HEARTH_ISA {

// nullptr when the machine has what this file was compiled for.
HEARTH_INLINE const char* isa_missing(const ops::DeviceInfo& info) {
#if defined(HEARTH_PORTABLE)
  return static_cast<void>(info), nullptr;
#elif defined(__AMX_INT8__)
  return info.cpu.amx_int8 && info.cpu.avx512_vnni ? nullptr : "needs AMX int8 tiles, allowed by the system";
#elif defined(__AVX512VNNI__)
  return info.cpu.avx512_vnni ? nullptr : "needs AVX-512 VNNI";
#elif HEARTH_LANES == 16
  return info.cpu.avx512 ? nullptr : "needs AVX-512 F, BW, DQ and VL";
#elif defined(__AVXVNNI__)
  return info.cpu.avx_vnni ? nullptr : "needs AVX-VNNI";
#elif HEARTH_LANES == 8
  return info.cpu.avx2 ? nullptr : "needs AVX2, FMA and F16C";
#elif defined(__ARM_FEATURE_MATMUL_INT8)
  return info.cpu.neon_i8mm && info.cpu.neon_dotprod ? nullptr : "needs NEON's int8 matrix products (i8mm)";
#elif defined(__ARM_FEATURE_DOTPROD)
  return info.cpu.neon_dotprod ? nullptr : "needs NEON's dot product";
#else
  return info.cpu.neon ? nullptr : "needs NEON";
#endif
}

template <class Spec, class Params>
using Kernel = ops::Implementation<Spec, Params>;

}  // namespace hearth::kernels::cpu::HEARTH_ISA
