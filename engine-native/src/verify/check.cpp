#include "verify/check.h"

#include <cstdio>

namespace hearth::verify {

namespace { constexpr size_t failures_kept = 5; }

float Array::value(const void* data, DType type, size_t i) {
  switch (type) {
    case DType::f16: return to_float(static_cast<const Half*>(data)[i]);
    case DType::bf16: return to_float(static_cast<const BFloat16*>(data)[i]);
    case DType::i8: return static_cast<const int8_t*>(data)[i];
    case DType::f32: return static_cast<const float*>(data)[i];
    default: return 0;
  }
}

void Array::set(size_t i, float v) {
  switch (type_) {
    case DType::f16: host_as<Half>()[i] = to_half(v); break;
    case DType::bf16: host_as<BFloat16>()[i] = to_bfloat16(v); break;
    case DType::f32: host_as<float>()[i] = v; break;
    default: bytes_[i] = static_cast<uint8_t>(static_cast<int8_t>(v));
  }
}

double unit_of(DType type) { return type == DType::f32 ? 0x1p-23 : type == DType::f16 ? 0x1p-10 : 0x1p-7; }

void fail(Check& check, const std::string& what) {
  if (check.failures.size() < failures_kept) check.failures.push_back(what);
}

void record(Check& check, const Error& error, double allowed, const std::string& what) {
  check.cases++;
  const double relative = error.relative();
  if (check.allowed == 0 || relative / allowed > check.error / check.allowed) check.error = relative, check.allowed = allowed;
  char text[80];
  if (error.not_finite > 0) {
    std::snprintf(text, sizeof text, "%lld values are not numbers", static_cast<long long>(error.not_finite));
    fail(check, what + ": " + text);
  } else if (relative > allowed) {
    std::snprintf(text, sizeof text, "error %.2e, allowed %.2e", relative, allowed);
    fail(check, what + ": " + text);
  }
}

}  // namespace hearth::verify
