// A token's noise, the order of tokens, a row's bias and where its blocks meet, as every sampling kernel has them.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/sample_params.h"

namespace hearth::kernels::cuda {

// Philox 4x32-10 as in ops/noise.h.
__device__ __forceinline__ uint32_t philox_word(uint32_t seed, uint32_t position, uint32_t token) {
  uint32_t c0 = position, c1 = token, c2 = 0, c3 = 0, k0 = seed, k1 = 0;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0, h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
    c0 = h1 ^ c1 ^ k0;
    c1 = l1;
    c2 = h0 ^ c3 ^ k1;
    c3 = l0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}
constexpr float gumbel_max = 23.0f;  // as ops/noise.h: tokens further below the best cannot win
// Larger floats have larger keys; NaN is the smallest of all, and the two zeros are one.
__device__ __forceinline__ uint32_t order_key(float v) {
  if (v != v) return 0;
  const uint32_t bits = __float_as_uint(__fadd_rn(v, 0.f));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float key_value(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }
// A token by its logit or noisy logit, in the order of Best; 0: none.
using TokenKey = unsigned long long;
__device__ __forceinline__ TokenKey token_key(float value, int id) { return static_cast<TokenKey>(order_key(value)) << 32 | ~static_cast<uint32_t>(id); }
__device__ __forceinline__ float key_logit(TokenKey key) { return key_value(static_cast<uint32_t>(key >> 32)); }
// The largest of the block, to every thread.
template <int WARPS> __device__ __forceinline__ TokenKey block_most(TokenKey v, TokenKey* of_warp) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v = max(v, __shfl_xor_sync(0xffffffffu, v, d));
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < WARPS; ++w) v = max(v, of_warp[w]);
  return v;
}
// Best value first, then the lowest id. Id -1: none.
struct Best { float value; int id; };
__device__ __forceinline__ Best better(Best a, Best b) {
  if (b.id < 0) return a;
  if (a.id < 0) return b;
  if (b.value > a.value || (b.value == a.value && b.id < a.id)) return b;
  return a;
}

// The noise's upper bound: -log(-log(u)) <= -log(1 - u), nearly equal where u is near 1, where the winners are.
__device__ __forceinline__ float gumbel_bound(uint32_t word) {
  return -__logf((static_cast<float>(~word) + 0.5f) * 0x1p-32f) + 2e-3f;
}
// Takes token t into the draw if its noisy logit can beat `best`.
__device__ __forceinline__ Best draw_token(Best best, const SampleRowArgs& r, float l, int t) {
  const uint32_t word = philox_word(r.seed, r.position, t);
  const float scaled = __fdiv_rn(l, r.temperature);
  if (best.id >= 0 && scaled + gumbel_bound(word) + 1e-6f * fabsf(scaled) < best.value) return best;
  const double u = (word + 0.5) * 0x1p-32;
  return better(best, Best{__fadd_rn(scaled, static_cast<float>(-log(-log(u)))), t});
}

// The noisy logit itself. Called: its logarithms would stand wherever a token is looked at.
__device__ __noinline__ float noisy_logit(float scaled, uint32_t word) {
  const double u = (word + 0.5) * 0x1p-32;
  return __fadd_rn(scaled, static_cast<float>(-log(-log(u))));
}
// Takes N tokens of every lane into a draw: logits of minus infinity and below `floor` are none. `best`: the lane's so far. Logarithms
// in 64 bits are dear, most of all on small cards: so the warp's most promising token comes first, and then what may still beat it.
template <int N, class Id> __device__ __forceinline__ Best warp_draw(Best best, const SampleRowArgs& r, const float (&logit)[N], const Id& id, float floor) {
  float scaled[N], bound[N];
  uint32_t word[N];
  auto warp_largest = [](float v) { return key_value(__reduce_max_sync(0xffffffffu, order_key(v))); };
#pragma unroll
  for (int i = 0; i < N; ++i) {
    word[i] = philox_word(r.seed, r.position, id(i));
    scaled[i] = __fdiv_rn(logit[i], r.temperature);
    bound[i] = logit[i] > -INFINITY && logit[i] >= floor ? scaled[i] + gumbel_bound(word[i]) + 1e-6f * fabsf(scaled[i]) : -INFINITY;
  }
  float most = bound[0], its_scaled = scaled[0];
  uint32_t its_word = word[0];
  int its_id = id(0);
#pragma unroll
  for (int i = 1; i < N; ++i)
    if (bound[i] > most) { most = bound[i]; its_scaled = scaled[i]; its_word = word[i]; its_id = id(i); }
  const float enough = warp_largest(best.id < 0 ? -INFINITY : best.value), promising = warp_largest(most);
  if (promising == -INFINITY || promising < enough) return best;
  int done = -1;
  if (most == promising) {
    best = better(best, Best{noisy_logit(its_scaled, its_word), its_id});
    done = its_id;
  }
  const float threshold = warp_largest(best.id < 0 ? -INFINITY : best.value);
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (bound[i] > -INFINITY && bound[i] >= threshold && id(i) != done) best = better(best, Best{noisy_logit(scaled[i], word[i]), id(i)});
  return best;
}

// Adds a row's bias to the logits of [begin, end). Ids may repeat, so one thread adds them in order.
__device__ __forceinline__ void add_bias(const SampleArgs& p, const SampleRowArgs& r, float* logits, int begin, int end) {
  if (threadIdx.x > 0) return;
  for (int i = r.bias_begin; i < r.bias_begin + r.bias_count; ++i)
    if (p.bias_ids[i] >= begin && p.bias_ids[i] < end) logits[p.bias_ids[i]] += p.bias_values[i];
}

// What penalties and a mask make of a row's logits, bias included.
struct Adjustment {
  const SampleArgs& p;
  const SampleRowArgs& r;
  const bool repetition, counts;
  const int64_t slot;
  const uint32_t* const mask;

  __device__ __forceinline__ Adjustment(const SampleArgs& p, const SampleRowArgs& r)
      : p(p), r(r), repetition(r.repetition_penalty != 1.f), counts(r.frequency_penalty != 0.f || r.presence_penalty != 0.f), slot(static_cast<int64_t>(r.slot) * p.vocabulary),
        mask(r.mask >= 0 ? p.masks + static_cast<int64_t>(r.mask) * ((p.vocabulary + 31) / 32) : nullptr) {}
  __device__ __forceinline__ float operator()(int t, float l) const {
    if (repetition || counts) {
      const int count = p.output_count ? __ldcg(p.output_count + slot + t) : 0;
      const bool seen = count > 0 || (p.prompt_seen && __ldcg(p.prompt_seen + slot + t) != 0);
      if (repetition && seen) l = l > 0 ? __fdiv_rn(l, r.repetition_penalty) : __fmul_rn(l, r.repetition_penalty);
      if (counts && count > 0) l = __fsub_rn(l, __fadd_rn(__fmul_rn(r.frequency_penalty, static_cast<float>(count)), r.presence_penalty));
    }
    return mask && !((mask[t / 32] >> (t % 32)) & 1u) ? -INFINITY : l;
  }
};

__device__ __forceinline__ int load_acquire(const int32_t* p) {
  int v;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
// All blocks of a row; `target` counts up by the number of blocks from barrier to barrier.
__device__ __forceinline__ void row_barrier(int32_t* counter, int target) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(counter, 1);
    while (load_acquire(counter) < target) { }
  }
  __syncthreads();
}

}  // namespace hearth::kernels::cuda
