// Entry points of an instruction set's int8 linears, from its W4Int8 and W8Int8 kernels. Included by one file a set,
// which defines HEARTH_INT8_NAME, w8_missing(spec) and w8_many(spec, params, stream): true where it has
// done a linear of many rows its own way.
#include "kernels/cpu/simd/isa.h"

namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {

const char* w4_int8_declines(const ops::LinearSpec& s, const ops::DeviceInfo& info) {
  if (const char* missing = isa_missing(info)) return missing;
  return w4_declines(s, ops::ActivationFormat::int8_group);
}

void w4_int8_run(const ops::LinearSpec& s, const ops::LinearParams& p, ops::Stream& stream) {
  switch (s.group / 32 * 2 + s.symmetric) {
    case 2: return run_blocked<W4Int8<1, false>>(s, p, stream);
    case 3: return run_blocked<W4Int8<1, true>>(s, p, stream);
    case 4: return run_blocked<W4Int8<2, false>>(s, p, stream);
    case 5: return run_blocked<W4Int8<2, true>>(s, p, stream);
    case 8: return run_blocked<W4Int8<4, false>>(s, p, stream);
    default: return run_blocked<W4Int8<4, true>>(s, p, stream);
  }
}

const char* w8_int8_declines(const ops::LinearSpec& s, const ops::DeviceInfo& info) {
  if (const char* missing = isa_missing(info)) return missing;
  if (const char* reason = w8_declines(s, ops::ActivationFormat::int8_row)) return reason;
  return w8_missing(s);
}

void w8_int8_run(const ops::LinearSpec& s, const ops::LinearParams& p, ops::Stream& stream) {
  if (!w8_many(s, p, stream)) run_blocked<W8Int8>(s, p, stream);
}

}  // namespace

extern const ops::LinearImplementation linear_w4_int8;
extern const ops::LinearImplementation linear_w8_int8;
const ops::LinearImplementation linear_w4_int8{
    {HEARTH_INT8_NAME, w4_int8_declines, w4_int8_run, linear_workspace}, w4_layout_name, w4_packed_bytes, w4_pack, block_rows};
const ops::LinearImplementation linear_w8_int8{
    {HEARTH_INT8_NAME, w8_int8_declines, w8_int8_run, linear_workspace}, "w8-x16", w8_packed_bytes, w8_pack, block_rows};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
