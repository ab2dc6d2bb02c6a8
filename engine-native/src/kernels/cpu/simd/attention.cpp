// Attention over the paged KV pool for every set of vectors.
#include <algorithm>

#include "device/cpu_stream.h"
#include "kernels/cpu/simd/fixed.h"
#include "kernels/cpu/simd/isa.h"
#include "kernels/cpu/simd/rows.h"

#define HEARTH_ATTENTION attention
#define HEARTH_ATTENTION_NAME HEARTH_ISA_NAME
namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {
const char* attention_missing(const ops::AttentionSpec&, const ops::DeviceInfo& info) { return isa_missing(info); }
using FixedProducts = PairProducts;
}  // namespace
}  // namespace hearth::kernels::cpu::HEARTH_ISA
#include "kernels/cpu/simd/pool_attention.inl"
