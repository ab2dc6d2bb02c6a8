// Attention of prompts in fixed point with VNNI; all else is left to AVX2.
#include "device/cpu_stream.h"
#include "kernels/cpu/simd/fixed.h"
#include "kernels/cpu/simd/isa.h"
#include "kernels/cpu/simd/rows.h"

#define HEARTH_ATTENTION attention
#define HEARTH_ATTENTION_NAME "cpu/avx-vnni"
namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {
const char* attention_missing(const ops::AttentionSpec& s, const ops::DeviceInfo& info) {
  if (!info.cpu.avx_vnni) return "needs AVX-VNNI";
  return s.fixed_point ? nullptr : "gains nothing without products in fixed point";
}
using FixedProducts = PairProducts;
}  // namespace
}  // namespace hearth::kernels::cpu::HEARTH_ISA
#include "kernels/cpu/simd/pool_attention.inl"
