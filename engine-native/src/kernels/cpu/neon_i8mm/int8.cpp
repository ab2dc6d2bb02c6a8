#include "kernels/cpu/neon_i8mm/int8.h"

#define HEARTH_INT8_NAME "cpu/neon-i8mm"
namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {
const char* w8_missing(const ops::LinearSpec&) { return nullptr; }
template <int subgroups, bool symmetric>
using W4Int8 = W4Mmla<subgroups, symmetric>;
using W8Int8 = W8Mmla;
bool w8_many(const ops::LinearSpec&, const ops::LinearParams&, ops::Stream&) { return false; }
}  // namespace
}  // namespace hearth::kernels::cpu::HEARTH_ISA
#include "kernels/cpu/simd/int8_linears.inl"
