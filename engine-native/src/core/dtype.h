// Element types, and the two 16-bit floats as storage with exact conversions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace hearth {

enum class DType : uint8_t { f32, f16, bf16, i8, u8, i32, i64, f64, i16, boolean };

constexpr size_t size_of(DType type) {
  switch (type) {
    case DType::f64: case DType::i64: return 8;
    case DType::f32: case DType::i32: return 4;
    case DType::f16: case DType::bf16: case DType::i16: return 2;
    case DType::i8: case DType::u8: case DType::boolean: return 1;
  }
  return 0;
}

constexpr const char* name_of(DType type) {
  constexpr const char* names[] = {"f32", "f16", "bf16", "i8", "u8", "i32", "i64", "f64", "i16", "bool"};
  return names[static_cast<int>(type)];
}

// IEEE binary16, storage only.
struct Half { uint16_t bits; };
// bfloat16, storage only.
struct BFloat16 { uint16_t bits; };

inline float to_float(BFloat16 v) { return std::bit_cast<float>(static_cast<uint32_t>(v.bits) << 16); }

// Round to nearest even; NaN stays NaN.
inline BFloat16 to_bfloat16(float f) {
  uint32_t u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

inline float to_float(Half v) {
  uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000u) << 16;
  uint32_t magnitude = v.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  // Scaling by 2^112 rebias the exponent and makes subnormals come out right.
  float scaled = std::bit_cast<float>(magnitude << 13) * std::bit_cast<float>(0x77800000u);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | sign);
}

// Round to nearest even; overflow gives infinity.
inline Half to_half(float f) {
  uint32_t u = std::bit_cast<uint32_t>(f);
  uint32_t sign = (u >> 16) & 0x8000u;
  u &= 0x7fffffffu;
  if (u > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (u >= 0x47800000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
  if (u < 0x38800000u) {  // subnormal half: adding 0.5 lets the FPU do the rounding
    float shifted = std::bit_cast<float>(u) + 0.5f;
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u))};
  }
  u += 0xc8000fffu + ((u >> 13) & 1u);
  return {static_cast<uint16_t>(sign | (u >> 13))};
}

}  // namespace hearth
