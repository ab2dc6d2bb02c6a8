// Sampling on the device: one kernel, several blocks a row, each with a part of the vocabulary. Ties go to the lowest id
// everywhere.
//   1. Bias, penalties and mask; the part's best logit, sum of exponentials and, when nothing is cut off, best noisy logit.
//   2. Rows with top_k, top_p, min_p or wanted log-probabilities meet (row_barrier) and count their tokens in a histogram
//      over (best - logit) / temperature. From it every block reads which bins [low, high] the cut must fall into.
//   3. Tokens of those bins go to a list; tokens above them are kept for certain: their mass and best noisy logit are
//      added up at once. Mostly `low` is 0 and the list is everything that can be drawn.
//   4. The last block of a row sorts the list, cuts it exactly and draws. Where the list would be too long (thousands of
//      equal logits, huge top_k with top_p) it finds the cut by radix selection over the bits of the logits instead.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/sample_draw.cuh"
#include "kernels/cuda/sample_params.h"

using namespace hearth::kernels::cuda;

namespace {

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

constexpr int threads = sample_threads, warps = threads / 32;
constexpr float bins_per_unit = 32;  // at least; more where all logits lie close together

struct Selection { uint32_t key; int last_id; };  // kept: larger keys, and of this key the ids up to last_id
__device__ __forceinline__ bool selected(const Selection& s, uint32_t key, int id) { return key > s.key || (key == s.key && id <= s.last_id); }

struct Shared {
  union {
    struct { uint32_t count[sample_bins], part[sample_bins]; } bins;
    uint64_t list[sample_list_max];
    struct { unsigned histogram[256]; double weights[256]; } radix;
  };
  Best best[warps];
  double sums[warps];
  float scratch[33];
  int low, high, take_all, last, cut;
  uint32_t prefix, above;
  double above_sum;
};

__device__ __forceinline__ float block_min(float v, float* scratch) { return -block_max(-v, scratch); }
__device__ __forceinline__ double block_total(double v, double* scratch) { return block_sum_double(v, scratch); }
// Exclusive sum over the threads in front; the same order every time.
template <class T> __device__ __forceinline__ T block_before(T v, T* scratch) {
  T inclusive = v;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const T other = __shfl_up_sync(0xffffffffu, inclusive, d);
    if (lane >= d) inclusive += other;
  }
  __syncthreads();
  if (lane == 31) scratch[threadIdx.x / 32] = inclusive;
  __syncthreads();
  T before = inclusive - v;
  for (int w = 0; w < static_cast<int>(threadIdx.x) / 32; ++w) before += scratch[w];
  return before;
}

// Every token of [begin, end) with its logit, four loads under way at a time; all threads take part in every call, those
// beyond the end with minus infinity.
template <class F> __device__ __forceinline__ void for_tokens(const float* logits, int begin, int end, F&& f) {
  for (int first = begin; first < end; first += 4 * threads) {
    float l[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int t = first + i * threads + static_cast<int>(threadIdx.x);
      l[i] = t < end ? __ldcg(logits + t) : -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) f(first + i * threads + static_cast<int>(threadIdx.x), l[i]);
  }
}

// ---- The way for any distribution: radix selection by one block ----------------------------------------------------------

// Keeps the best `keep` of what `selection` keeps, or, with by_mass, the fewest whose weight reaches `mass`.
__device__ __noinline__ void radix_select(Shared& s, const float* logits, int vocabulary, float top, float temperature, bool by_mass, uint32_t keep, double mass, Selection& selection) {
  const int thread = threadIdx.x;
  const Selection old = selection;
  auto weight = [&](float l) { return exp(static_cast<double>(l) / temperature - static_cast<double>(top) / temperature); };
  uint32_t prefix = 0, above = 0;
  double above_sum = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    for (int i = thread; i < 256; i += threads) { s.radix.histogram[i] = 0; s.radix.weights[i] = 0; }
    __syncthreads();
    for (int t = thread; t < vocabulary; t += threads) {
      const float l = __ldcg(logits + t);
      const uint32_t k = order_key(l);
      if (!(l > -INFINITY) || !selected(old, k, t) || (shift < 24 && (k >> (shift + 8)) != prefix)) continue;
      const uint32_t bin = (k >> shift) & 255;
      atomicAdd(&s.radix.histogram[bin], 1u);
      if (by_mass) atomicAdd(&s.radix.weights[bin], weight(l));
    }
    __syncthreads();
    if (thread == 0) {
      uint32_t count = above;
      double sum = above_sum;
      int bin = 255;
      for (; bin > 0; --bin) {
        if (s.radix.histogram[bin] > 0 && (by_mass ? sum + s.radix.weights[bin] >= mass : count + s.radix.histogram[bin] >= keep)) break;
        count += s.radix.histogram[bin];
        sum += s.radix.weights[bin];
      }
      s.prefix = prefix << 8 | static_cast<uint32_t>(bin);
      s.above = count;
      s.above_sum = sum;
    }
    __syncthreads();
    prefix = s.prefix;
    above = s.above;
    above_sum = s.above_sum;
  }
  const uint32_t there = s.radix.histogram[prefix & 255];  // tokens with exactly this key
  uint32_t equal = keep - above;
  if (by_mass) {
    const double one = weight(key_value(prefix));
    for (equal = 0; equal < there && (above_sum < mass || above + equal == 0); ++equal) above_sum += one;
  }
  if (there == 0) return;  // fewer than asked for: all stay
  // The id of the equal-th token of this key.
  const int part = (vocabulary + threads - 1) / threads, begin = min(vocabulary, thread * part), end = min(vocabulary, begin + part);
  uint32_t mine = 0;
  for (int t = begin; t < end; ++t) { const uint32_t k = order_key(__ldcg(logits + t)); mine += k == prefix && selected(old, k, t); }
  uint32_t before = block_before<uint32_t>(mine, reinterpret_cast<uint32_t*>(s.scratch));
  if (thread == 0) s.cut = equal == 0 ? -1 : 0x7fffffff;
  __syncthreads();
  if (before < equal && before + mine >= equal)
    for (int t = begin; t < end; ++t) {
      const uint32_t k = order_key(__ldcg(logits + t));
      if (k == prefix && selected(old, k, t) && ++before == equal) { s.cut = t; break; }
    }
  __syncthreads();
  selection = Selection{prefix, s.cut};
}

__device__ __noinline__ Best radix_draw(Shared& s, const SampleRowArgs& r, const float* logits, int vocabulary, float top) {
  Selection selection{0, 0x7fffffff};
  auto weight = [&](float l) { return exp(static_cast<double>(l) / r.temperature - static_cast<double>(top) / r.temperature); };
  if (r.top_k > 0 && r.top_k < vocabulary) radix_select(s, logits, vocabulary, top, r.temperature, false, r.top_k, 0, selection);
  if (r.min_p > 0) {  // weights fall with the key: the last key whose weight reaches min_p, by bisection
    uint32_t low = selection.key, high = order_key(top);
    while (low < high) {
      const uint32_t middle = low + (high - low) / 2;
      if (weight(key_value(middle)) >= r.min_p) high = middle;
      else low = middle + 1;
    }
    if (low > selection.key) selection = Selection{low, 0x7fffffff};
  }
  if (r.top_p < 1) {
    double total = 0;
    for (int t = threadIdx.x; t < vocabulary; t += threads) {
      const float l = __ldcg(logits + t);
      if (l > -INFINITY && selected(selection, order_key(l), t)) total += weight(l);
    }
    total = block_total(total, s.sums);
    radix_select(s, logits, vocabulary, top, r.temperature, true, 0, r.top_p * total, selection);
  }
  Best best{-INFINITY, -1};
  const float floor = top - (gumbel_max + 4.0f) * r.temperature;
  for (int t = threadIdx.x; t < vocabulary; t += threads) {
    const float l = __ldcg(logits + t);
    if (l > -INFINITY && l >= floor && selected(selection, order_key(l), t)) best = draw_token(best, r, l, t);
  }
  return block_best(best, s.best);
}

// ---- The list -------------------------------------------------------------------------------------------------------------

// Descending, by one block; entries from `count` to the next power of two are filled with zeros.
__device__ __forceinline__ void sort_list(uint64_t* list, int count) {
  int size = 1;
  while (size < count) size *= 2;
  for (int i = count + threadIdx.x; i < size; i += threads) list[i] = 0;
  for (int width = 2; width <= size; width *= 2)
    for (int step = width / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < size / 2; i += threads) {
        const int a = 2 * i - (i & (step - 1)), b = a + step;
        const uint64_t x = list[a], y = list[b];
        if ((x < y) == ((a & width) == 0)) { list[a] = y; list[b] = x; }
      }
    }
  __syncthreads();
}

// Draws from the sorted list; `base` tokens better than all of it are kept for certain, with mass `above` and draw `best`.
__device__ __forceinline__ Best list_draw(Shared& s, const SampleRowArgs& r, int listed, int base, double above, double total_all, Best best, float top) {
  const double inverse = 1.0 / r.temperature;
  auto logit = [&](int i) { return key_value(static_cast<uint32_t>(s.list[i] >> 32)); };
  auto weight = [&](int i) { return exp((static_cast<double>(logit(i)) - top) * inverse); };
  constexpr int mine_max = sample_list_max / threads;
  const int mine = (listed + threads - 1) / threads, begin = threadIdx.x * mine;
  int n = listed;
  if (r.top_k > 0) n = max(0, min(n, r.top_k - base));
  if (r.min_p > 0) {
    int reach = 0;
    for (int i = begin; i < min(begin + mine, n); ++i) reach += weight(i) >= r.min_p || base + i == 0;
    n = static_cast<int>(block_total(reach, s.sums));
  }
  if (r.top_p < 1) {
    double local[mine_max], sum = 0;
#pragma unroll
    for (int i = 0; i < mine_max; ++i) { local[i] = i < mine && begin + i < n ? weight(begin + i) : 0; sum += local[i]; }
    const double before = block_before<double>(sum, s.sums), inside = block_total(sum, s.sums);
    const double total = r.top_k > 0 || n < listed ? above + inside : total_all;
    const double enough = r.top_p * total;
    if (threadIdx.x == 0) s.cut = n;
    __syncthreads();
    double reached = above + before;
#pragma unroll
    for (int i = 0; i < mine_max; ++i) {
      if (i >= mine) break;
      if (begin + i < n && (reached < enough || base + begin + i == 0)) {  // token i is kept; the next one is not if it suffices
        if (reached + local[i] >= enough) atomicMin(&s.cut, begin + i + 1);
      } else if (begin + i < n) {
        atomicMin(&s.cut, begin + i);
      }
      reached += local[i];
    }
    __syncthreads();
    n = s.cut;
  }
  const float floor = top - (gumbel_max + 4.0f) * r.temperature;
  for (int i = threadIdx.x; i < n; i += threads)
    if (logit(i) >= floor) best = draw_token(best, r, logit(i), static_cast<int>(~static_cast<uint32_t>(s.list[i])));
  return block_best(best, s.best);
}

// ---- Which bins hold the cut ---------------------------------------------------------------------------------------------------

// From the row's histogram, in s.low and s.high; s.take_all: the list would not do.
__device__ __forceinline__ void find_bins(Shared& s, const SampleRowArgs& r, const SampleRowState& state, float per_unit, double total, bool cut, bool wants_list) {
  constexpr int mine = sample_bins / threads;
  const int bin0 = threadIdx.x * mine;
  uint32_t count[mine], sum = 0;
  double least[mine], mass = 0;  // of the bin's tokens: e^x >= 1 + x, so this is at most 0.1 % too small
#pragma unroll
  for (int i = 0; i < mine; ++i) {
    count[i] = __ldcg(state.count + bin0 + i);
    const uint32_t part = __ldcg(state.part + bin0 + i);
    least[i] = exp(-(bin0 + i + 1) / static_cast<double>(per_unit)) * (count[i] + part / (256.0 * per_unit));
    sum += count[i];
    mass += least[i];
  }
  uint32_t seen = block_before<uint32_t>(sum, reinterpret_cast<uint32_t*>(s.scratch));
  double reached = block_before<double>(mass, s.sums);
  if (threadIdx.x == 0) { s.low = sample_bins - 2; s.high = sample_bins - 2; s.cut = sample_bins - 2; s.take_all = 0; }
  __syncthreads();
  const double enough = r.top_p * total;
  int low = sample_bins - 2, high = sample_bins - 2, list_high = sample_bins - 2;
  const bool both = r.top_k > 0 && r.top_p < 1;
#pragma unroll
  for (int i = 0; i < mine; ++i) {
    seen += count[i];
    reached += least[i];
    if (cut && r.top_k > 0 && seen >= static_cast<uint32_t>(r.top_k)) { high = min(high, bin0 + i); low = min(low, bin0 + i); }
    if (cut && r.top_p < 1 && !both) {
      if (reached >= enough * (1 + 2e-5)) high = min(high, bin0 + i);
      // A bin's mass is at most this much above `least`: 0.1 % and a 256th of its width a token.
      if (reached * (1 + 1.2e-3) >= enough * (1 - 2e-5)) low = min(low, bin0 + i);
    }
    if (wants_list && seen >= static_cast<uint32_t>(r.top_logprobs)) list_high = min(list_high, bin0 + i);
  }
  if (cut && r.min_p > 0) {
    const float at = -__logf(r.min_p) * per_unit;
    high = min(high, max(0, static_cast<int>(at + 1.5f)));
    low = min(low, max(0, static_cast<int>(at - 1.5f)));
  }
  atomicMin(&s.high, high);
  atomicMin(&s.low, low);
  atomicMin(&s.cut, list_high);
  __syncthreads();
  high = cut ? s.high : 0;
  if (wants_list) high = max(high, s.cut);
  low = s.low;
  // Tokens up to `high`, and before `low`.
  uint32_t upto = 0, before = 0;
#pragma unroll
  for (int i = 0; i < mine; ++i) {
    if (bin0 + i <= high) upto += count[i];
    if (bin0 + i < low) before += count[i];
  }
  const double upto_all = block_total(upto, s.sums), before_all = block_total(before, s.sums);
  if (threadIdx.x == 0) {
    const bool whole = upto_all <= sample_list_max;
    if (!cut && !whole) high = -1;  // the few best are found without a list
    if (cut && !whole && (both || upto_all - before_all > sample_list_max)) { s.take_all = 1; high = -1; }
    s.low = whole || high < 0 ? 0 : low;
    s.high = high;
    s.above = static_cast<uint32_t>(before_all);
  }
  __syncthreads();
}

}  // namespace

// Grid (chunks, rows).
extern "C" __global__ void __launch_bounds__(sample_threads, 4) sample_kernel(const SampleArgs p) {
  __shared__ Shared s;
  __shared__ SampleRowArgs r;
  launch_dependents();
  wait_predecessors();
  const int row = blockIdx.y, thread = threadIdx.x, chunks = gridDim.x;
  if (thread < static_cast<int>(sizeof(r) / 4)) reinterpret_cast<uint32_t*>(&r)[thread] = __ldcg(reinterpret_cast<const uint32_t*>(p.row + row) + thread);
  __syncthreads();
  SampleRowState& state = p.state[row];
  int32_t* counter = p.counters + row * 2;
  float* logits = p.logits + row * p.logits_stride;
  const int part = (p.vocabulary + chunks - 1) / chunks, begin = min(p.vocabulary, static_cast<int>(blockIdx.x) * part), end = min(p.vocabulary, begin + part);
  const bool cut = truncated(r) && r.forced < 0, wants_list = r.top_logprobs > 0, meets = cut || wants_list;
  const float temperature = r.temperature > 0 ? r.temperature : 1.f;
  if (meets) {  // cleared before the first barrier, filled after it
    for (int i = blockIdx.x * threads + thread; i < 2 * sample_bins; i += chunks * threads) state.count[i] = 0;
    if (blockIdx.x == 0 && thread == 0) state.listed = 0;
  }
  if (r.bias_count > 0) {
    add_bias(p, r, logits, begin, end);
    __syncthreads();
  }
  const Adjustment adjustment(p, r);
  const bool noisy_draw = r.temperature > 0 && !cut && r.forced < 0;
  Best best{-INFINITY, -1};
  float top = -INFINITY, least = INFINITY, sum = 0;
  for_tokens(logits, begin, end, [&](int t, float l) {
    if (t >= end) return;
    if (const float model = l; (l = adjustment(t, model)) != model) logits[t] = l;
    if (l > -INFINITY) {
      least = fminf(least, l);
      if (l > top) { sum = sum * __expf(top - l) + 1.f; top = l; }
      else sum += __expf(l - top);
      if (!noisy_draw) best = better(best, Best{l, t});
    }
  });
  // The noisy draw wants the part's best logit first: most tokens are too far below it to be worth their noise.
  const float part_top = block_max(top, s.scratch);
  if (noisy_draw) {
    const float floor = part_top - (gumbel_max + 4.0f) * r.temperature;  // 4: the least noise is about -3.1
    for_tokens(logits, begin, end, [&](int t, float l) {
      if (l > -INFINITY && l >= floor) best = draw_token(best, r, l, t);
    });
  }
  best = block_best(best, s.best);
  sum = block_sum(top > -INFINITY ? sum * __expf(top - part_top) : 0.f, s.scratch);
  if (meets) least = block_min(least, s.scratch);
  if (thread == 0) {
    state.partial[blockIdx.x] = SamplePartial{best.value, best.id, part_top, sum};
    state.least[blockIdx.x] = least;
  }

  float row_top = -INFINITY;
  auto find_top = [&] {
    row_top = thread < chunks ? __ldcg(&state.partial[thread].top) : -INFINITY;
    row_top = block_max(row_top, s.scratch);
  };
  Best sure{-INFINITY, -1};  // of tokens that are kept for certain
  int base = 0;              // how many those are
  bool listed = false, by_radix = false;
  if (meets) {
    row_barrier(counter, chunks);
    find_top();
    if (row_top > -INFINITY) {  // otherwise every token is forbidden
      const float spread = (row_top - block_min(thread < chunks ? __ldcg(&state.least[thread]) : INFINITY, s.scratch)) / temperature;
      const float per_unit = fminf(fmaxf(bins_per_unit, (sample_bins - 2) / spread), 1e6f), scale = per_unit / temperature;
      for (int i = thread; i < 2 * sample_bins; i += threads) s.bins.count[i] = 0;
      __syncthreads();
      double total = 0;
      const float inverse = 1.f / temperature;
      for_tokens(logits, begin, end, [&](int, float l) {
        if (!(l > -INFINITY)) return;
        const float at = (row_top - l) * scale;
        const int bin = min(static_cast<int>(at), sample_bins - 1);
        if (bin == sample_bins - 1) return;  // too far below to be drawn or to weigh anything
        atomicAdd(&s.bins.count[bin], 1u);
        if (cut && r.top_p < 1) {
          atomicAdd(&s.bins.part[bin], static_cast<uint32_t>((1.f - (at - bin)) * 255.99f));
          const float weight = expf((l - row_top) * inverse);
          if (weight >= r.min_p) total += weight;
        }
      });
      total = block_total(total, s.sums);
      if (thread == 0) state.mass[blockIdx.x].total = total;
      for (int i = thread; i < 2 * sample_bins; i += threads)
        if (s.bins.count[i]) atomicAdd(state.count + i, s.bins.count[i]);
      row_barrier(counter, 2 * chunks);
      total = block_total(thread < chunks ? __ldcg(&state.mass[thread].total) : 0, s.sums);
      find_bins(s, r, state, per_unit, total, cut, wants_list);
      const int low = s.low, high = s.high;
      by_radix = s.take_all;
      listed = high >= 0;
      base = low > 0 ? s.above : 0;
      double above = 0;
      const double inverse_wide = 1.0 / temperature;
      if (listed)
        for_tokens(logits, begin, end, [&](int t, float l) {
          const int bin = l > -INFINITY ? min(static_cast<int>((row_top - l) * scale), sample_bins - 1) : sample_bins - 1;
          const bool goes = bin >= low && bin <= high;
          const unsigned members = __ballot_sync(0xffffffffu, goes);
          if (members) {
            uint32_t at = 0;
            if (thread % 32 == 0) at = atomicAdd(&state.listed, static_cast<uint32_t>(__popc(members)));
            at = __shfl_sync(0xffffffffu, at, 0) + __popc(members & ((1u << (thread % 32)) - 1));
            if (goes) state.list[at] = static_cast<uint64_t>(order_key(l)) << 32 | ~static_cast<uint32_t>(t);
          }
          if (bin < low) {
            above += exp((static_cast<double>(l) - row_top) * inverse_wide);
            sure = draw_token(sure, r, l, t);
          }
        });
      if (low > 0) {
        sure = block_best(sure, s.best);
        above = block_total(above, s.sums);
        if (thread == 0) { state.mass[blockIdx.x].above = above; state.draw[blockIdx.x] = SamplePartial{sure.value, sure.id, 0, 0}; }
      }
    }
  }

  // The last block of the row finishes it.
  __syncthreads();
  if (thread == 0) {
    __threadfence();
    s.last = atomicAdd(counter + 1, 1) == chunks - 1;
    if (s.last) counter[0] = counter[1] = 0;
    __threadfence();
  }
  __syncthreads();
  if (!s.last) return;
  find_top();
  double norm = 0;
  best = Best{-INFINITY, -1};
  if (thread < chunks) {
    const SamplePartial* part = state.partial + thread;
    best = Best{__ldcg(&part->value), __ldcg(&part->id)};
    const float part_top_here = __ldcg(&part->top);
    if (part_top_here > -INFINITY) norm = static_cast<double>(__ldcg(&part->sum)) * exp(static_cast<double>(part_top_here) - row_top);
  }
  best = block_best(best, s.best);
  norm = row_top + log(block_total(norm, s.sums));
  int in_list = 0;
  if (listed) {
    in_list = __ldcg(reinterpret_cast<const int*>(&state.listed));
    for (int i = thread; i < in_list; i += threads) s.list[i] = __ldcg(reinterpret_cast<const unsigned long long*>(state.list + i));
    sort_list(s.list, in_list);
  }
  if (cut && row_top > -INFINITY) {
    if (by_radix) {
      best = radix_draw(s, r, logits, p.vocabulary, row_top);
    } else {
      sure = Best{-INFINITY, -1};
      double above = 0;
      if (base > 0 && thread < chunks) {
        sure = Best{__ldcg(&state.draw[thread].value), __ldcg(&state.draw[thread].id)};
        above = __ldcg(&state.mass[thread].above);
      }
      above = block_total(above, s.sums);
      const double total = block_total(thread < chunks ? __ldcg(&state.mass[thread].total) : 0, s.sums);
      best = list_draw(s, r, in_list, base, above, total, sure, row_top);
    }
  }
  const int token = r.forced >= 0 ? r.forced : best.id < 0 ? 0 : best.id;
  if (thread == 0) {
    p.token[row] = token;
    p.logprob[row] = r.top_logprobs < 0 && r.forced < 0 ? 0.f : static_cast<float>(static_cast<double>(__ldcg(logits + token)) - norm);
    if (r.record) {
      p.sampled[r.slot] = token;
      if (p.output_count) {
        uint16_t* count = p.output_count + static_cast<int64_t>(r.slot) * p.vocabulary + token;
        if (*count < 0xffff) ++*count;
      }
    }
  }
  if (!wants_list) return;
  const int wanted = min(r.top_logprobs, max_top), ready = base > 0 ? 0 : min(in_list, wanted);
  float* top_logprobs = p.top_logprobs + row * max_top;
  int32_t* top_ids = p.top_ids + row * max_top;
  Best last{INFINITY, -1};
  if (ready > 0) {
    if (thread < ready) {
      top_ids[thread] = static_cast<int>(~static_cast<uint32_t>(s.list[thread]));
      top_logprobs[thread] = static_cast<float>(static_cast<double>(key_value(static_cast<uint32_t>(s.list[thread] >> 32))) - norm);
    }
    last = Best{key_value(static_cast<uint32_t>(s.list[ready - 1] >> 32)), static_cast<int>(~static_cast<uint32_t>(s.list[ready - 1]))};
  }
  // Those the list does not hold, one pass each: the best that comes after the last one found.
  for (int n = ready; n < wanted; ++n) {
    Best next{-INFINITY, -1};
    for (int t = thread; t < p.vocabulary; t += threads) {
      const float l = __ldcg(logits + t);
      if (!(l > -INFINITY) || (last.id >= 0 && (l > last.value || (l == last.value && t <= last.id)))) continue;
      next = better(next, Best{l, t});
    }
    next = block_best(next, s.best);
    if (thread == 0) {
      top_ids[n] = next.id;
      top_logprobs[n] = next.id < 0 ? -INFINITY : static_cast<float>(static_cast<double>(next.value) - norm);
    }
    if (next.id < 0) {  // no more candidates
      for (int m = n + 1 + thread; m < wanted; m += threads) { top_ids[m] = -1; top_logprobs[m] = -INFINITY; }
      break;
    }
    last = next;
  }
}
