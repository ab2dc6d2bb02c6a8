// The name of this instruction set and what it needs, for the implementations compiled from simd/.
#pragma once

#include "kernels/cpu/simd/vec.h"

#define HEARTH_TEXT_INNER(x) #x
#define HEARTH_TEXT(x) HEARTH_TEXT_INNER(x)
#define HEARTH_ISA_NAME "cpu/" HEARTH_TEXT(HEARTH_ISA)

namespace hearth::kernels::cpu::HEARTH_ISA {

// nullptr when the machine has this set.
HEARTH_INLINE const char* isa_missing(const ops::DeviceInfo& info) {
#if HEARTH_LANES == 16
  return info.cpu.avx512 ? nullptr : "needs AVX-512 F, BW, DQ and VL";
#elif HEARTH_LANES == 8
  return info.cpu.avx2 ? nullptr : "needs AVX2, FMA and F16C";
#elif !defined(HEARTH_PORTABLE)
  return info.cpu.neon ? nullptr : "needs NEON";
#else
  return static_cast<void>(info), nullptr;
#endif
}

template <class Spec, class Params>
using Kernel = ops::Implementation<Spec, Params>;

}  // namespace hearth::kernels::cpu::HEARTH_ISA
