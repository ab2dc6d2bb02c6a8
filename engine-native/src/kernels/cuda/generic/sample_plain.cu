// The best token of every row, or the best by its noisy logit, where no row wants more: little code, because a step's other
// kernels have driven it out of the caches when it starts (behind a step of 1.1B the kernel for everything adds 19 us, of which
// alone it takes 3). Blocks of a row meet in one word. Ties go to the lowest id; NaN and minus infinity are never drawn; a row
// of nothing else gives token 0.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/sample_draw.cuh"
#include "kernels/cuda/sample_params.h"

using namespace hearth::kernels::cuda;

namespace {

constexpr int warps = sample_threads / 32, loads = 4;  // of a thread at a time

// f(first, logits) for the tokens of [begin, end), `loads` of a thread at a time, sample_threads apart from `first` on; minus infinity
// beyond the end. Whole warps take part.
template <class F> __device__ __forceinline__ void for_tokens(const float* logits, int begin, int end, F&& f) {
#pragma unroll 1
  for (int base = begin; base < end; base += loads * sample_threads) {
    const int first = base + static_cast<int>(threadIdx.x);
    float l[loads];
#pragma unroll
    for (int i = 0; i < loads; ++i) l[i] = first + i * sample_threads < end ? __ldcg(logits + first + i * sample_threads) : -INFINITY;
    f(first, l);
  }
}

// The block's best by noisy logit; `top` is its best without noise, further below which no token is worth its noise.
__device__ __noinline__ TokenKey noisy_most(const SampleRowArgs& r, const float* logits, int begin, int end, TokenKey top, TokenKey* of_warp) {
  Best best{-INFINITY, -1};
  if (top) {
    const float floor = key_logit(top) - (gumbel_max + 4.0f) * r.temperature;  // 4: the least noise is about -3.1
    for_tokens(logits, begin, end, [&](int first, const float (&l)[loads]) { best = warp_draw(best, r, l, [&](int i) { return first + i * sample_threads; }, floor); });
  }
  return block_most<warps>(best.id < 0 ? 0 : token_key(best.value, best.id), of_warp);
}

}  // namespace

// Grid (chunks, rows). A row's words of the counters: the best so far (two), blocks that are done.
extern "C" __global__ void __launch_bounds__(sample_threads) sample_plain_kernel(const SampleArgs p) {
  __shared__ TokenKey of_warp[2][warps];
  const int row = blockIdx.y, chunks = gridDim.x;
  const int part = (p.vocabulary + chunks - 1) / chunks, begin = min(p.vocabulary, static_cast<int>(blockIdx.x) * part), end = min(p.vocabulary, begin + part);
  launch_dependents();
  wait_predecessors();
  const SampleRowArgs& r = p.row[row];
  const int slot = __ldcg(&r.slot), record = __ldcg(&r.record);
  const float temperature = __ldcg(&r.temperature);
  const float* logits = p.logits + row * p.logits_stride;
  TokenKey best = 0;
  for_tokens(logits, begin, end, [&](int first, const float (&l)[loads]) {
#pragma unroll
    for (int i = 0; i < loads; ++i)
      if (l[i] > -INFINITY) best = max(best, token_key(l[i], first + i * sample_threads));
  });
  best = block_most<warps>(best, of_warp[0]);
  if (temperature > 0) best = noisy_most(r, logits, begin, end, best, of_warp[1]);
  if (threadIdx.x > 0) return;
  auto* of_row = reinterpret_cast<TokenKey*>(p.counters + row * 4);
  int32_t* done = p.counters + row * 4 + 2;
  atomicMax(of_row, best);
  __threadfence();
  if (atomicAdd(done, 1) < chunks - 1) return;
  __threadfence();
  const TokenKey most = atomicExch(of_row, TokenKey{0});  // as the next kernel wants it
  *done = 0;
  const int token = most ? static_cast<int>(~static_cast<uint32_t>(most)) : 0;
  p.token[row] = token;
  p.logprob[row] = 0.f;
  if (record) p.sampled[slot] = token;
}
