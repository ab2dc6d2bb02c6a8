// What happens to one head before attention: q/k norm, rope, Hadamard rotation, the write to the KV pool. One warp a
// head; the head's values sit in shared memory as f32.
#pragma once

#include "kernels/cuda/common.cuh"

namespace hearth::kernels::cuda {

enum : int { kv_f32 = 0, kv_f16 = 1, kv_bf16 = 2, kv_int8 = 3 };
constexpr int kv_tokens = 16;

__device__ __forceinline__ int rope_axis(const AttentionArgs& p, int pair) {
  if (p.position_axes <= 1) return 0;
  if (p.axis_interleaved) {
    const int axis = pair % 3;
    return axis > 0 && pair < 3 * p.axis_sections[axis] ? axis : 0;
  }
  if (pair < p.axis_sections[0]) return 0;
  return pair < p.axis_sections[0] + p.axis_sections[1] ? 1 : 2;
}

__device__ __forceinline__ void head_load(const AttentionArgs& p, int row, int head, float* x) {
  const int64_t at = row * p.qkv_stride + static_cast<int64_t>(head) * p.head_dim;
  const int lane = threadIdx.x % 32;
  if (p.type != type_f32 && p.head_dim <= 256 && p.head_dim % 2 == 0 && p.qkv_stride % 2 == 0) {  // all loads at once
    const uint32_t* from = reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(p.qkv) + at);
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = 2 * (lane + 32 * i) < p.head_dim ? __ldcg(from + lane + 32 * i) : 0;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (2 * (lane + 32 * i) < p.head_dim) *reinterpret_cast<float2*>(x + 2 * (lane + 32 * i)) = p.type == type_f16 ? unpack2<__half>(v[i]) : unpack2<__nv_bfloat16>(v[i]);
  } else {
    for (int i = lane; i < p.head_dim; i += 32) x[i] = load(p.qkv, p.type, at + i);
  }
  __syncwarp();
}

__device__ __forceinline__ int rope_position(const AttentionArgs& p, int row, int pair) { return __ldcg(p.positions + static_cast<int64_t>(rope_axis(p, pair)) * p.rows + row); }
// Cosine and sine of a rotary pair, with the amplitude.
__device__ __forceinline__ float2 rope_turn_at(const AttentionArgs& p, int position, float inverse_frequency) {
  float s, c;
  sincosf(static_cast<float>(position) * inverse_frequency, &s, &c);
  return make_float2(c * p.rope_amplitude, s * p.rope_amplitude);
}
__device__ __forceinline__ float2 rope_turn(const AttentionArgs& p, int row, int i) { return rope_turn_at(p, rope_position(p, row, i), p.inverse_frequency[i]); }

// Norm, rope and rotation of the q or k head in x. `turns`: rope_turn of every pair, or nullptr.
__device__ __forceinline__ void head_prepare(const AttentionArgs& p, int row, const float* norm_weight, float* x, const float2* turns) {
  const int lane = threadIdx.x % 32;
  if (p.qk_norm) {
    float sum = 0;
    for (int i = lane; i < p.head_dim; i += 32) sum += x[i] * x[i];
    const float factor = rsqrtf(warp_sum(sum) / p.head_dim + p.qk_norm_epsilon);
    for (int i = lane; i < p.head_dim; i += 32) x[i] = x[i] * factor * norm_weight[i];
    __syncwarp();
  }
  const int pairs = p.rope_dims / 2;
  for (int i = lane; i < pairs; i += 32) {
    const float2 turn = turns ? turns[i] : rope_turn(p, row, i);
    const float c = turn.x, s = turn.y;
    const int first = p.rope_interleaved ? 2 * i : i, second = p.rope_interleaved ? 2 * i + 1 : i + pairs;
    const float a = x[first], b = x[second];
    x[first] = a * c - b * s;
    x[second] = b * c + a * s;
  }
  __syncwarp();
  if (p.kv_type != kv_int8) return;
  const int n = p.head_dim & -p.head_dim;
  for (int half = 1; half < n; half *= 2) {
    for (int i = lane; i < p.head_dim / 2; i += 32) {
      const int first = 2 * i - (i & (half - 1));
      const float a = x[first], b = x[first + half];
      x[first] = a + b;
      x[first + half] = a - b;
    }
    __syncwarp();
  }
  const float factor = 1.f / sqrtf(static_cast<float>(n));
  for (int i = lane; i < p.head_dim; i += 32) x[i] *= factor;
  __syncwarp();
}

// x to the pool at `slot` (a token's place) of KV head `head`.
__device__ __forceinline__ void head_write(const AttentionArgs& p, int slot, int head, void* pool, float* scales, const float* x) {
  const int lane = threadIdx.x % 32;
  const int64_t at = (static_cast<int64_t>(slot / kv_tokens) * p.kv_heads + head) * kv_tokens + slot % kv_tokens;
  if (p.kv_type != kv_int8) {
    for (int i = lane; i < p.head_dim; i += 32) store(pool, p.kv_type, at * p.head_dim + i, x[i]);
    return;
  }
  float largest = 0;
  for (int i = lane; i < p.head_dim; i += 32) largest = fmaxf(largest, fabsf(x[i]));
  largest = warp_max(largest);
  const float inverse = largest > 1e-36f ? __fdiv_rn(127.f, largest) : 0.f;
  if (lane == 0) scales[at] = largest > 1e-36f ? __fdiv_rn(largest, 127.f) : 0.f;
  for (int i = lane; i < p.head_dim; i += 32)
    static_cast<int8_t*>(pool)[at * p.head_dim + i] = static_cast<int8_t>(fminf(fmaxf(rintf(x[i] * inverse), -127.f), 127.f));
}

}  // namespace hearth::kernels::cuda
