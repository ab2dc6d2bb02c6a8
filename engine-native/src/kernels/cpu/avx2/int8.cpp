#include "kernels/cpu/avx2/int8.h"
#include "kernels/cpu/avx2/int8_many.h"

#define HEARTH_INT8_NAME "cpu/avx2"
namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {
const char* w8_missing(const ops::LinearSpec&) { return nullptr; }
bool w8_many(const ops::LinearSpec& s, const ops::LinearParams& p, ops::Stream& stream) {
  if (!w8_many_takes(s, p.rows, device::pool_of(stream).size())) return false;
  w8_many_run(s, p, stream);
  return true;
}
}  // namespace
}  // namespace hearth::kernels::cpu::HEARTH_ISA
#include "kernels/cpu/simd/int8_linears.inl"
