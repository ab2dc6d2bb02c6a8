// Pieces every CPU kernel shares: typed loads and stores, activation functions, and the exact rule of int8 quantisation.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "ops/ops.h"

namespace hearth::kernels::cpu {

inline float load(const void* p, DType type, int64_t i) {
  switch (type) {
    case DType::f16: return to_float(static_cast<const Half*>(p)[i]);
    case DType::bf16: return to_float(static_cast<const BFloat16*>(p)[i]);
    default: return static_cast<const float*>(p)[i];
  }
}

inline void store(void* p, DType type, int64_t i, float v) {
  switch (type) {
    case DType::f16: static_cast<Half*>(p)[i] = to_half(v); break;
    case DType::bf16: static_cast<BFloat16*>(p)[i] = to_bfloat16(v); break;
    default: static_cast<float*>(p)[i] = v;
  }
}

inline const void* row_of(const void* p, DType type, int64_t stride, int64_t row) {
  return static_cast<const uint8_t*>(p) + row * stride * static_cast<int64_t>(size_of(type));
}
inline void* row_of(void* p, DType type, int64_t stride, int64_t row) {
  return static_cast<uint8_t*>(p) + row * stride * static_cast<int64_t>(size_of(type));
}

inline bool is_float(DType type) { return type == DType::f32 || type == DType::f16 || type == DType::bf16; }

inline float activate(ops::Activation a, float x) {
  switch (a) {
    case ops::Activation::none: return x;
    case ops::Activation::silu: return x / (1.0f + std::exp(-x));
    case ops::Activation::gelu_tanh: {
      const float inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);
      return 0.5f * x * (1.0f + std::tanh(inner));
    }
    case ops::Activation::gelu_erf: return 0.5f * x * (1.0f + std::erf(x * 0.7071067811865476f));
    case ops::Activation::quick_gelu: return x / (1.0f + std::exp(-1.702f * x));
    case ops::Activation::relu: return x > 0 ? x : 0;
  }
  return x;
}

// Symmetric int8: scale = amax / 127, q = round to even of x * (127 / amax). Every implementation uses exactly this, so
// that their int8 operands, and with them their integer sums, are the same.
struct Int8Scale { float scale, inverse; };
inline Int8Scale int8_scale(float amax) {
  // Below this, 127 / amax overflows: such a group is zero for every purpose.
  if (!(amax > 1e-36f)) return {0.0f, 0.0f};
  return {amax / 127.0f, 127.0f / amax};
}
inline Int8Scale int8_static_scale(float scale) { return {scale, 1.0f / scale}; }
inline int8_t to_int8(float x, float inverse) {
  float q = std::nearbyint(x * inverse);
  q = q > 127.0f ? 127.0f : q;
  q = q < -127.0f ? -127.0f : q;  // NaN goes through both comparisons
  return q == q ? static_cast<int8_t>(q) : int8_t{0};
}

// Splits [0, count) into `size` near-equal ranges of multiples of `step`; the worker's is [begin, end).
struct Range { int begin, end; };
inline Range share(int count, int worker, int size, int step = 1) {
  const int64_t steps = (static_cast<int64_t>(count) + step - 1) / step;
  const int64_t begin = steps * worker / size * step, end = steps * (worker + 1) / size * step;
  return {static_cast<int>(begin), static_cast<int>(end < count ? end : count)};
}

inline size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Largest power of two that divides head_dim: the block of the Hadamard rotation of int8 keys.
inline int hadamard_block(int head_dim) { return head_dim & -head_dim; }

// x <- H x / sqrt(n) in blocks of n. The order of additions is fixed, so every implementation gives the same bits.
inline void hadamard(float* x, int head_dim) {
  const int n = hadamard_block(head_dim);
  const float norm = 1.0f / std::sqrt(static_cast<float>(n));
  for (int block = 0; block < head_dim; block += n) {
    for (int half = 1; half < n; half *= 2) {
      for (int i = 0; i < n; i += 2 * half) {
        for (int j = i; j < i + half; ++j) {
          const float a = x[block + j], b = x[block + j + half];
          x[block + j] = a + b;
          x[block + j + half] = a - b;
        }
      }
    }
    for (int i = 0; i < n; ++i) x[block + i] *= norm;
  }
}

// The multimodal rope axis of rotary pair i.
inline int rope_axis(const ops::AttentionSpec& spec, int i) {
  if (spec.position_axes <= 1) return 0;
  if (spec.axis_interleaved) {
    const int axis = i % 3;
    return axis > 0 && i < 3 * spec.axis_sections[axis] ? axis : 0;
  }
  if (i < spec.axis_sections[0]) return 0;
  return i < spec.axis_sections[0] + spec.axis_sections[1] ? 1 : 2;
}

}  // namespace hearth::kernels::cpu
