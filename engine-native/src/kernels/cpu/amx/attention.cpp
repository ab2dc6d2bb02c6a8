// Attention of prompts in fixed point on AMX; all else is left to the other sets.
#include "device/cpu_stream.h"
#include "kernels/cpu/amx/fixed.h"
#include "kernels/cpu/simd/isa.h"
#include "kernels/cpu/simd/rows.h"

#define HEARTH_ATTENTION attention
#define HEARTH_ATTENTION_NAME "cpu/amx"
namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {
const char* attention_missing(const ops::AttentionSpec& s, const ops::DeviceInfo& info) {
  if (!info.cpu.amx_int8 || !info.cpu.avx512_vnni) return "needs AMX int8 tiles, allowed by the system";
  return s.fixed_point ? nullptr : "gains nothing without products in fixed point";
}
using FixedProducts = AmxProducts;
}  // namespace
}  // namespace hearth::kernels::cpu::HEARTH_ISA
#include "kernels/cpu/simd/pool_attention.inl"
