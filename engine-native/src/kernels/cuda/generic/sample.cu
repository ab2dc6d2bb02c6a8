// Sampling on the device. Two kernels: the first applies bias, penalties and mask over the vocabulary with many blocks a
// row and finds, per block, the best logit, the sum of exponentials and the best noisy logit; the second, one block a
// row, merges them, and for rows with top_k, top_p or min_p finds the threshold logit by radix selection over the bits of
// the (order-preserving) float, then draws again among those above it. Ties go to the lowest id everywhere.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/sample_params.h"

using namespace hearth::kernels::cuda;

namespace {

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
__device__ __forceinline__ float gumbel_noise(uint32_t seed, uint32_t position, uint32_t token) {
  const double u = (philox_word(seed, position, token) + 0.5) * 0x1p-32;
  return static_cast<float>(-log(-log(u)));
}

// Larger floats have larger keys; NaN is the smallest of all.
__device__ __forceinline__ uint32_t order_key(float v) {
  if (v != v) return 0;
  const uint32_t bits = __float_as_uint(v);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
// Best value first, then the lowest id. Id -1: none.
struct Best { float value; int id; };
__device__ __forceinline__ Best better(Best a, Best b) {
  if (b.id < 0) return a;
  if (a.id < 0) return b;
  if (b.value > a.value || (b.value == a.value && b.id < a.id)) return b;
  return a;
}
__device__ __forceinline__ Best block_best(Best v, Best* scratch) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v = better(v, Best{__shfl_xor_sync(0xffffffffu, v.value, d), __shfl_xor_sync(0xffffffffu, v.id, d)});
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  Best best = scratch[0];
  for (int w = 1; w < static_cast<int>(blockDim.x) / 32; ++w) best = better(best, scratch[w]);
  return best;
}
__device__ __forceinline__ double block_sum_double(double v, double* scratch) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / 32; ++w) total += scratch[w];
  return total;
}
__device__ __forceinline__ bool truncated(const SampleRowArgs& r) { return r.temperature > 0 && (r.top_k > 0 || r.min_p > 0 || r.top_p < 1); }

}  // namespace

// Grid (chunks, rows).
extern "C" __global__ void __launch_bounds__(256) sample_scan_kernel(const SampleArgs p) {
  __shared__ Best best_scratch[8];
  __shared__ float scratch[33];
  launch_dependents();
  wait_predecessors();
  const int row = blockIdx.y;
  const SampleRowArgs r = p.row[row];
  float* logits = p.logits + row * p.logits_stride;
  const int chunk = (p.vocabulary + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * chunk, end = min(p.vocabulary, begin + chunk);
  // Bias first: entries of this chunk. Ids may repeat, so one thread adds them in order.
  if (r.bias_count > 0) {
    if (threadIdx.x == 0)
      for (int i = r.bias_begin; i < r.bias_begin + r.bias_count; ++i)
        if (p.bias_ids[i] >= begin && p.bias_ids[i] < end) logits[p.bias_ids[i]] += p.bias_values[i];
    __syncthreads();
  }
  const bool repetition = r.repetition_penalty != 1.f, counts = r.frequency_penalty != 0.f || r.presence_penalty != 0.f;
  const int64_t slot = static_cast<int64_t>(r.slot) * p.vocabulary;
  const uint32_t* mask = r.mask >= 0 ? p.masks + static_cast<int64_t>(r.mask) * ((p.vocabulary + 31) / 32) : nullptr;
  const bool noisy_draw = r.temperature > 0 && !truncated(r);
  Best best{-INFINITY, -1};
  float top = -INFINITY, sum = 0;
  for (int t = begin + threadIdx.x; t < end; t += blockDim.x) {
    float l = r.bias_count > 0 ? logits[t] : __ldcg(logits + t);
    bool changed = false;
    if (repetition || counts) {
      const int count = p.output_count ? __ldcg(p.output_count + slot + t) : 0;
      const bool seen = count > 0 || (p.prompt_seen && __ldcg(p.prompt_seen + slot + t) != 0);
      if (repetition && seen) { l = l > 0 ? __fdiv_rn(l, r.repetition_penalty) : __fmul_rn(l, r.repetition_penalty); changed = true; }
      if (counts && count > 0) { l = __fsub_rn(l, __fadd_rn(__fmul_rn(r.frequency_penalty, static_cast<float>(count)), r.presence_penalty)); changed = true; }
    }
    if (mask && !((mask[t / 32] >> (t % 32)) & 1u)) { l = -INFINITY; changed = true; }
    if (changed) logits[t] = l;
    if (l > -INFINITY) {
      if (l > top) { sum = sum * __expf(top - l) + 1.f; top = l; }
      else sum += __expf(l - top);
      if (!noisy_draw) best = better(best, Best{l, t});
    }
  }
  // The noisy draw wants the chunk's best logit first: most tokens are too far below it to be worth their noise.
  const float chunk_top = block_max(top, scratch);
  if (noisy_draw) {
    const float floor = chunk_top - (gumbel_max + 4.0f) * r.temperature;  // 4: the least noise is about -3.1
    for (int t = begin + threadIdx.x; t < end; t += blockDim.x) {
      const float l = logits[t];
      if (l > -INFINITY && l >= floor) best = better(best, Best{__fadd_rn(__fdiv_rn(l, r.temperature), gumbel_noise(r.seed, r.position, t)), t});
    }
  }
  best = block_best(best, best_scratch);
  sum = block_sum(top > -INFINITY ? sum * __expf(top - chunk_top) : 0.f, scratch);
  if (threadIdx.x == 0) p.partial[static_cast<int64_t>(row) * gridDim.x + blockIdx.x] = SamplePartial{best.value, best.id, chunk_top, sum};
}

// One block a row.
extern "C" __global__ void __launch_bounds__(1024) sample_finish_kernel(const SampleArgs p) {
  __shared__ Best best_scratch[32];
  __shared__ double sum_scratch[32];
  __shared__ unsigned histogram[256];
  __shared__ double weights[256];
  __shared__ uint32_t chosen_prefix, chosen_left;
  __shared__ double chosen_sum;
  launch_dependents();
  wait_predecessors();
  const int row = blockIdx.x, thread = threadIdx.x;
  const SampleRowArgs r = p.row[row];
  const float* logits = p.logits + row * p.logits_stride;
  Best best{-INFINITY, -1};
  float top = -INFINITY;
  for (int c = 0; c < p.chunks; ++c) {
    const SamplePartial part = p.partial[static_cast<int64_t>(row) * p.chunks + c];
    best = better(best, Best{part.value, part.id});
    top = fmaxf(top, part.top);
  }
  double norm = 0;
  for (int c = 0; c < p.chunks; ++c) {
    const SamplePartial part = p.partial[static_cast<int64_t>(row) * p.chunks + c];
    if (part.top > -INFINITY) norm += static_cast<double>(part.sum) * exp(static_cast<double>(part.top) - top);
  }
  norm = top + log(norm);

  if (truncated(r) && top > -INFINITY && r.forced < 0) {
    // The kept set is the best by (logit descending, id ascending): everything with a key above `key`, and of those
    // equal to it the first `ties` ids. Start from everything.
    uint32_t key = order_key(-INFINITY) + 1;
    uint32_t ties = 0xffffffffu;
    const float inverse_temperature = 1.f / r.temperature;
    auto weight = [&](float l) { return static_cast<double>(expf((l - top) * inverse_temperature)); };
    // Keeps the best `keep` tokens, or, with `mass`, the fewest whose weight reaches it. Four passes of eight bits.
    auto select = [&](bool by_mass, uint32_t keep, double mass) {
      const uint32_t old_key = key, old_ties = ties;
      uint32_t prefix = 0, above = 0;
      double above_sum = 0;
      for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = thread; i < 256; i += blockDim.x) { histogram[i] = 0; weights[i] = 0; }
        __syncthreads();
        const int rounded = (p.vocabulary + 31) / 32 * 32;
        for (int t = thread; t < rounded; t += blockDim.x) {
          const float l = t < p.vocabulary ? logits[t] : -INFINITY;
          const uint32_t k = t < p.vocabulary ? order_key(l) : 0;
          const bool here = k >= old_key && (shift == 24 || (k >> (shift + 8)) == prefix);
          const uint32_t bin = (k >> shift) & 255;
          if (shift < 24) {
            if (!here) continue;
            atomicAdd(&histogram[bin], 1u);
            if (by_mass) atomicAdd(&weights[bin], weight(l));
            continue;
          }
          // The first bits are the same for nearly every token: one addition a warp and value.
          for (unsigned left = __ballot_sync(0xffffffffu, here); left;) {
            const uint32_t value = __shfl_sync(0xffffffffu, bin, __ffs(left) - 1);
            const bool same = here && bin == value;
            const unsigned members = __ballot_sync(0xffffffffu, same);
            float sum = by_mass && same ? expf((l - top) * inverse_temperature) : 0.f;
            if (by_mass) sum = warp_sum(sum);
            if (thread % 32 == 0) {
              atomicAdd(&histogram[value], static_cast<unsigned>(__popc(members)));
              if (by_mass) atomicAdd(&weights[value], static_cast<double>(sum));
            }
            left &= ~members;
          }
        }
        __syncthreads();
        if (thread == 0) {
          uint32_t count = above;
          double sum = above_sum;
          int bin = 255;
          for (; bin > 0; --bin) {
            const bool here = by_mass ? sum + weights[bin] >= mass && histogram[bin] > 0 : count + histogram[bin] >= keep && histogram[bin] > 0;
            if (here) break;
            count += histogram[bin];
            sum += weights[bin];
          }
          chosen_prefix = prefix << 8 | static_cast<uint32_t>(bin);
          chosen_left = count;
          chosen_sum = sum;
        }
        __syncthreads();
        prefix = chosen_prefix;
        above = chosen_left;
        above_sum = chosen_sum;
        __syncthreads();
      }
      uint32_t equal;
      if (by_mass) {
        const uint32_t bits = prefix & 0x80000000u ? prefix & 0x7fffffffu : ~prefix;
        const double one = weight(__uint_as_float(bits));
        equal = 0;
        double sum = above_sum;
        while (equal < 0x7fffffffu && (sum < mass || (above == 0 && equal == 0)) && one > 0) { sum += one; ++equal; if (equal > histogram[prefix & 255]) break; }
        equal = equal < 1 ? 1 : equal;
      } else {
        equal = keep - above;
      }
      if (prefix < old_key) return;  // fewer candidates than asked for: all stay
      key = prefix;
      ties = prefix == old_key ? (equal < old_ties ? equal : old_ties) : equal;
    };
    if (r.top_k > 0 && r.top_k < p.vocabulary) select(false, r.top_k, 0);
    if (r.min_p > 0) {
      // Weights fall with the key, so the last key whose weight reaches min_p is found by bisection.
      uint32_t low = key, high = order_key(top);  // high always qualifies
      while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const uint32_t bits = middle & 0x80000000u ? middle & 0x7fffffffu : ~middle;
        if (weight(__uint_as_float(bits)) >= r.min_p) high = middle;
        else low = middle + 1;
      }
      if (low > key) { key = low; ties = 0xffffffffu; }
    }
    // Rank among equals of `key` is the number of equal ids before; only needed when some must go.
    auto kept = [&](float l, int t) {
      const uint32_t k = order_key(l);
      if (k != key) return k > key;
      if (ties == 0xffffffffu) return true;
      uint32_t rank = 0;
      for (int i = 0; i < t && rank < ties; ++i) rank += order_key(logits[i]) == key;
      return rank < ties;
    };
    if (r.top_p < 1) {
      double total = 0;
      for (int t = thread; t < p.vocabulary; t += blockDim.x) {
        const float l = logits[t];
        if (order_key(l) >= key && kept(l, t)) total += weight(l);
      }
      total = block_sum_double(total, sum_scratch);
      select(true, 0, r.top_p * total);
    }
    best = Best{-INFINITY, -1};
    const float floor = top - (gumbel_max + 4.0f) * r.temperature;
    for (int t = thread; t < p.vocabulary; t += blockDim.x) {
      const float l = logits[t];
      if (order_key(l) < key || l < floor || !kept(l, t)) continue;
      best = better(best, Best{__fadd_rn(__fdiv_rn(l, r.temperature), gumbel_noise(r.seed, r.position, t)), t});
    }
    best = block_best(best, best_scratch);
  }
  const int token = r.forced >= 0 ? r.forced : best.id < 0 ? 0 : best.id;
  if (thread == 0) {
    p.token[row] = token;
    p.logprob[row] = r.top_logprobs < 0 && r.forced < 0 ? 0.f : static_cast<float>(static_cast<double>(logits[token]) - norm);
    if (r.record) {
      p.sampled[r.slot] = token;
      if (p.output_count) {
        uint16_t* count = p.output_count + static_cast<int64_t>(r.slot) * p.vocabulary + token;
        if (*count < 0xffff) ++*count;
      }
    }
  }
  // The n best, one pass each: the best that comes after the last one found.
  Best last{INFINITY, -1};
  for (int n = 0; n < r.top_logprobs && n < max_top; ++n) {
    Best next{-INFINITY, -1};
    for (int t = thread; t < p.vocabulary; t += blockDim.x) {
      const float l = logits[t];
      if (!(l > -INFINITY)) continue;
      if (n > 0 && (l > last.value || (l == last.value && t <= last.id))) continue;
      next = better(next, Best{l, t});
    }
    next = block_best(next, best_scratch);
    if (thread == 0) {
      p.top_ids[row * max_top + n] = next.id;
      p.top_logprobs[row * max_top + n] = next.id < 0 ? -INFINITY : static_cast<float>(static_cast<double>(next.value) - norm);
    }
    if (next.id < 0) {  // no more candidates
      for (int m = n + 1; m < r.top_logprobs && m < max_top; ++m)
        if (thread == 0) { p.top_ids[row * max_top + m] = -1; p.top_logprobs[row * max_top + m] = -INFINITY; }
      break;
    }
    last = next;
  }
}
