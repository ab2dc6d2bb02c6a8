#define HEARTH_AVX_VNNI 1
#include "kernels/cpu/avx2/int8.h"

#define HEARTH_INT8_NAME "cpu/avx-vnni"
namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {
const char* w8_missing(const ops::LinearSpec&) { return nullptr; }
bool w8_many(const ops::LinearSpec&, const ops::LinearParams&, ops::Stream&) { return false; }
}  // namespace
}  // namespace hearth::kernels::cpu::HEARTH_ISA
#include "kernels/cpu/simd/int8_linears.inl"
