#include "kernels/cpu/neon_dotprod/int8.h"

#define HEARTH_INT8_NAME "cpu/neon-dotprod"
namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {
const char* w8_missing(const ops::LinearSpec&) { return nullptr; }
template <int subgroups, bool symmetric>
using W4Int8 = W4Dot<subgroups, symmetric>;
using W8Int8 = W8Dot;
bool w8_many(const ops::LinearSpec&, const ops::LinearParams&, ops::Stream&) { return false; }
}  // namespace
}  // namespace hearth::kernels::cpu::HEARTH_ISA
#include "kernels/cpu/simd/int8_linears.inl"
