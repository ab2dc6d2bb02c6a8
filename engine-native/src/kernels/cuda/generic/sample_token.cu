// Rows that want a token and no log-probabilities: without sorting. Whether top_p, min_p and top_k keep a token depends on how many tokens are better and what these weigh. So the best by noisy logit of all is found and then looked at: mostly it
// is kept, and since those that are kept are the best ones, it is what would have been drawn from them. Else the same again among the
// tokens better than it. With top_k, top_p is of what the best k weigh: that is found once, by a histogram and, of the part where the
// last of them lies, finer ones. Blocks of a row meet twice a turn and must all be on the device at once; a thread holds its tokens.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/sample_draw.cuh"
#include "kernels/cuda/sample_params.h"

using namespace hearth::kernels::cuda;

namespace {

constexpr int warps = sample_threads / 32;

// What tokens weigh, of which the best one weighs 1, as a whole number: blocks and threads come in any order, and what they add up
// to must not depend on it.
using Mass = unsigned long long;
constexpr float mass_of_one = 1099511627776.f;  // 2^40
__device__ __forceinline__ Mass to_mass(float weight) { return __float2ull_rn(weight * mass_of_one); }
__device__ __forceinline__ double mass_weight(Mass mass) { return static_cast<double>(mass) * (1.0 / mass_of_one); }

// A row's words of the counters. `arrived` counts on from meeting to meeting.
struct Turn { TokenKey drawn; Mass before; int32_t better, unused; };  // the candidate; mass and number of the tokens better than it
struct Meeting { TokenKey best; Mass total; int32_t arrived, left; Turn turn[2]; };
static_assert(sizeof(Meeting) <= sample_meeting_words * 4);

// Bias, penalties and mask, on the block's logits in memory: a token's is looked up by other blocks, too.
__device__ __forceinline__ void adjust(const SampleArgs& p, const SampleRowArgs& r, float* logits) {
  const int begin = blockIdx.x * sample_held * sample_threads, end = min(p.vocabulary, begin + sample_held * sample_threads);
  add_bias(p, r, logits, begin, end);
  __syncthreads();
  const Adjustment adjustment(p, r);
#pragma unroll 1
  for (int t = begin + threadIdx.x; t < end; t += sample_threads) logits[t] = adjustment(t, __ldcg(logits + t));
}
__device__ __forceinline__ float weight_of(float logit, float best, float inverse) { return expf((logit - best) * inverse); }

// The block's tokens, sample_held a thread.
struct Tokens {
  float logit[sample_held];  // minus infinity: never drawn
  int first;
  __device__ __forceinline__ int id(int i) const { return first + i * sample_threads; }
  __device__ __forceinline__ TokenKey key(int i) const { return logit[i] > -INFINITY ? token_key(logit[i], id(i)) : 0; }
};

// The best by noisy logit of those better than `limit`; `top`: the block's best logit. Further below it no token is worth its noise.
__device__ __forceinline__ TokenKey draw(const Tokens& tokens, const SampleRowArgs& r, TokenKey limit, TokenKey top) {
  float logit[sample_held];
#pragma unroll
  for (int i = 0; i < sample_held; ++i) logit[i] = tokens.key(i) > limit ? tokens.logit[i] : -INFINITY;
  const float floor = key_logit(top) - (gumbel_max + 4.0f) * r.temperature;  // 4: the least noise is about -3.1
  const Best best = warp_draw(Best{-INFINITY, -1}, r, logit, [&](int i) { return tokens.id(i); }, floor);
  return best.id < 0 ? 0 : token_key(best.value, best.id);
}

// Over the threads up to this one; the same order every time.
template <class V> __device__ __forceinline__ V block_upto(V v, V* of_warp) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const V other = __shfl_up_sync(0xffffffffu, v, d);
    if (lane >= d) v += other;
  }
  if (lane == 31) of_warp[warp] = v;
  __syncthreads();
  for (int w = 0; w < warp; ++w) v += of_warp[w];
  return v;
}

struct Histogram {
  static constexpr int bins = sample_threads, finest = sample_bins / bins;
  Mass mass[bins];
  int count[bins], counts_of_warp[warps];
  float masses_of_warp[warps], result;
  int boundary, missing;
};
// What the best k tokens weigh. Places are in bins below the best logit: those of one bin lie within a tenth of a temperature, and a
// finer histogram's within one of its bins.
__device__ __forceinline__ float mass_of_best(Histogram& s, SampleRowState& state, Meeting& row, const float (&logit)[sample_held], float best, float inverse, int k, int& target) {
  constexpr float bins_per_unit = Histogram::bins / 24.f;  // what is further below weighs nothing
  const int thread = threadIdx.x;
  float at[sample_held], above = 0;
#pragma unroll
  for (int i = 0; i < sample_held; ++i) at[i] = logit[i] > -INFINITY ? (best - logit[i]) * inverse * bins_per_unit : Histogram::bins;
  for (int fine = 0; fine < Histogram::finest; ++fine) {
    uint32_t* const counts = state.count + fine * Histogram::bins;
    Mass* const masses = reinterpret_cast<Mass*>(state.list) + fine * Histogram::bins;
    s.count[thread] = 0;
    s.mass[thread] = 0;
    if (thread == 0) s.boundary = -1;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < sample_held; ++i)
      if (at[i] >= 0 && at[i] < Histogram::bins) {
        atomicAdd(&s.count[static_cast<int>(at[i])], 1);
        atomicAdd(&s.mass[static_cast<int>(at[i])], to_mass(weight_of(logit[i], best, inverse)));
      }
    __syncthreads();
    if (s.count[thread]) {
      atomicAdd(counts + thread, static_cast<uint32_t>(s.count[thread]));
      atomicAdd(masses + thread, s.mass[thread]);
    }
    __threadfence();
    row_barrier(&row.arrived, target += gridDim.x);
    const int here = static_cast<int>(__ldcg(counts + thread)), upto = block_upto(here, s.counts_of_warp);
    const float mass = static_cast<float>(mass_weight(__ldcg(masses + thread))), mass_upto = block_upto(mass, s.masses_of_warp);
    if (thread == Histogram::bins - 1) s.result = mass_upto;  // of all, should there be fewer than k
    __syncthreads();
    if (upto - here < k && upto >= k) {  // one thread's
      s.boundary = upto == k ? -1 : thread;
      s.missing = k - (upto - here);
      s.result = upto == k ? mass_upto : fine == Histogram::finest - 1 ? mass_upto - mass + mass * s.missing / here : mass_upto - mass;
    }
    __syncthreads();
    above += s.result;
    if (s.boundary < 0) break;
    k = s.missing;
#pragma unroll
    for (int i = 0; i < sample_held; ++i) {
      const float inside = at[i] - s.boundary;
      at[i] = inside >= 0 && inside < 1 ? inside * Histogram::bins : -1.f;
    }
    __syncthreads();
  }
  return above;
}

struct Sums { float total, before; int better; };
// Over the block, to its first thread.
__device__ __forceinline__ Sums block_sums(Sums v, Sums* of_warp) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) {
    v.total += __shfl_xor_sync(0xffffffffu, v.total, d);
    v.before += __shfl_xor_sync(0xffffffffu, v.before, d);
  }
  v.better = __reduce_add_sync(0xffffffffu, v.better);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x > 0) return v;
#pragma unroll
  for (int w = 1; w < warps; ++w) {
    v.total += of_warp[w].total;
    v.before += of_warp[w].before;
    v.better += of_warp[w].better;
  }
  return v;
}

}  // namespace

// Grid (chunks, rows).
extern "C" __global__ void __launch_bounds__(sample_threads, 4) sample_token_kernel(const SampleArgs p) {
  __shared__ TokenKey of_warp[2][warps];
  __shared__ Sums sums[warps];
  __shared__ Histogram histogram;
  const int row_index = blockIdx.y, chunks = gridDim.x, thread = threadIdx.x;
  Meeting& row = *reinterpret_cast<Meeting*>(p.counters + row_index * sample_meeting_words);
  launch_dependents();
  wait_predecessors();
  const SampleRowArgs& r = p.row[row_index];
  float* logits = p.logits + row_index * p.logits_stride;
  if (adjusted(r)) adjust(p, r, logits);
  Tokens tokens;
  tokens.first = blockIdx.x * sample_held * sample_threads + thread;
#pragma unroll
  for (int i = 0; i < sample_held; ++i) tokens.logit[i] = tokens.id(i) < p.vocabulary ? __ldcg(logits + tokens.id(i)) : -INFINITY;
  TokenKey top = 0, limit = 0;
#pragma unroll
  for (int i = 0; i < sample_held; ++i) top = max(top, tokens.key(i));
  top = block_most<warps>(top, of_warp[0]);
  if (thread == 0 && top) atomicMax(&row.best, top);
  const float inverse = 1.f / r.temperature;
  const bool of_best = truncated(r) && r.top_k > 0 && r.top_p < 1;
  SampleRowState& state = p.state[row_index];
  if (of_best)  // cleared before the first meeting, filled after it
    for (int i = blockIdx.x * sample_threads + thread; i < sample_bins; i += chunks * sample_threads) {
      state.count[i] = 0;
      state.list[i] = 0;
    }
  float whole = INFINITY;  // what top_p is of, unless all that min_p leaves weighs less
  TokenKey drawn;
  for (int target = 0, n = 0;; ++n) {
    Turn &turn = row.turn[n % 2], &other = row.turn[1 - n % 2];
    const TokenKey mine = block_most<warps>(r.temperature > 0 ? draw(tokens, r, limit, top) : top, of_warp[1]);
    if (thread == 0 && mine) atomicMax(&turn.drawn, mine);
    row_barrier(&row.arrived, target += chunks);
    drawn = __ldcg(&turn.drawn);
    if (!drawn || !truncated(r)) break;
    if (blockIdx.x == 0 && thread == 0) other = Turn{};  // everybody has read it
    const int id = static_cast<int>(~static_cast<uint32_t>(drawn));
    const float best = key_logit(__ldcg(&row.best)), logit = __ldcg(logits + id);
    const TokenKey key = token_key(logit, id);
    if (of_best && n == 0) whole = mass_of_best(histogram, state, row, tokens.logit, best, inverse, r.top_k, target);
    Sums s{0, 0, 0};
#pragma unroll
    for (int i = 0; i < sample_held; ++i) {
      const float weight = tokens.logit[i] > -INFINITY ? weight_of(tokens.logit[i], best, inverse) : 0.f;
      const bool better = tokens.key(i) > key;
      if (weight >= r.min_p) s.total += weight;
      if (better) s.before += weight;
      s.better += better;
    }
    s = block_sums(s, sums);
    if (thread == 0) {
      if (n == 0) atomicAdd(&row.total, to_mass(s.total));
      if (s.better) {
        atomicAdd(&turn.before, to_mass(s.before));
        atomicAdd(&turn.better, s.better);
      }
    }
    row_barrier(&row.arrived, target += chunks);
    const int better = __ldcg(&turn.better);
    const bool within = (r.top_k <= 0 || better < r.top_k) && weight_of(logit, best, inverse) >= r.min_p && (r.top_p >= 1 || mass_weight(__ldcg(&turn.before)) < r.top_p * fmin(static_cast<double>(whole), mass_weight(__ldcg(&row.total))));
    if (better == 0 || within) break;
    limit = key;
  }
  __syncthreads();
  if (thread > 0) return;
  if (blockIdx.x == 0) {
    const int token = drawn ? static_cast<int>(~static_cast<uint32_t>(drawn)) : 0;
    p.token[row_index] = token;
    p.logprob[row_index] = 0.f;
    if (r.record) {
      p.sampled[r.slot] = token;
      if (p.output_count) {
        uint16_t* count = p.output_count + static_cast<int64_t>(r.slot) * p.vocabulary + token;
        if (*count < 0xffff) ++*count;
      }
    }
  }
  if (atomicAdd(&row.left, 1) == chunks - 1) row = Meeting{};  // as the next kernel wants it
}
