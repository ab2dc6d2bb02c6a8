// The rotation of keys and queries that are rounded.
#pragma once

#include "kernels/cpu/simd/vec.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

// One stage of a vector whose elements meet `half` apart: u + v, and behind it u - v.
template <int half>
HEARTH_INLINE F meet_within(F x) {
  I other;
  F sign;
  for (int i = 0; i < lanes; ++i) other[i] = i ^ half, sign[i] = (i & half) != 0 ? -1.0f : 1.0f;
  return fused(x, sign, __builtin_shuffle(x, other));  // exact but for the sum
}

// The rotation of scalar.h: same order of additions. head_dim is a multiple of the vector.
HEARTH_INLINE void hadamard(float* x, int head_dim) {
  const int n = head_dim & -head_dim;
  const float norm = 1.0f / std::sqrt(static_cast<float>(n));
  for (int block = 0; block < head_dim; block += n) {
    float* b = x + block;
    for (int i = 0; i < n; i += lanes) {
      F v = load(b + i);
      v = meet_within<1>(v);
      v = meet_within<2>(v);
      if constexpr (lanes > 4) v = meet_within<4>(v);
      if constexpr (lanes > 8) v = meet_within<8>(v);
      store(b + i, v);
    }
    for (int half = lanes; half < n; half *= 2) {
      for (int i = 0; i < n; i += 2 * half) {
        for (int j = i; j < i + half; j += lanes) {
          const F u = load(b + j), v = load(b + j + half);
          store(b + j, u + v);
          store(b + j + half, u - v);
        }
      }
    }
    for (int i = 0; i < n; i += lanes) store(b + i, load(b + i) * norm);
  }
}

}  // namespace hearth::kernels::cpu::HEARTH_ISA
