#include "kernels/cpu/amx/int8.h"

#define HEARTH_INT8_NAME "cpu/amx"
namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {
const char* w8_missing(const ops::LinearSpec& s) { return s.in % 64 == 0 ? nullptr : "the width is not a multiple of 64"; }
template <int subgroups, bool symmetric>
using W4Int8 = std::conditional_t<subgroups == 1 && symmetric, W4AmxWhole, W4Amx<subgroups, symmetric>>;
using W8Int8 = W8Amx;
bool w8_many(const ops::LinearSpec&, const ops::LinearParams&, ops::Stream&) { return false; }
}  // namespace
}  // namespace hearth::kernels::cpu::HEARTH_ISA
#include "kernels/cpu/simd/int8_linears.inl"
