#include "kernels/cpu/avx2/int8.h"

#define HEARTH_INT8_NAME "cpu/avx2"
namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {
const char* int8_missing(const ops::DeviceInfo& info) { return info.cpu.avx2 ? nullptr : "needs AVX2, FMA and F16C"; }
const char* w8_missing(const ops::LinearSpec&) { return nullptr; }
}  // namespace
}  // namespace hearth::kernels::cpu::HEARTH_ISA
#include "kernels/cpu/simd/int8_linears.inl"
