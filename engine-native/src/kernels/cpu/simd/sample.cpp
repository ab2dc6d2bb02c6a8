// Sampling in vectors: the same draws as the reference, without sorting the vocabulary. Passes over all logits are
// vectors; what needs sorting is the few tokens above a threshold; noise is drawn only for tokens that can still win.
#include <algorithm>

#include "device/cpu_stream.h"
#include "kernels/cpu/simd/isa.h"
#include "ops/noise.h"

namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {

using device::DeviceInfo;
using device::Stream;
using namespace ops;

const char* declines(const SampleSpec& s, const DeviceInfo& info) {
  if (const char* missing = isa_missing(info)) return missing;
  return s.vocabulary > 0 ? nullptr : "an empty vocabulary";
}

// Candidate ids of a row.
size_t row_bytes(const SampleSpec& s) { return aligned(4 * static_cast<size_t>(s.vocabulary)); }
size_t workspace_bytes(const SampleSpec& s, int max_rows, const DeviceInfo&) { return row_bytes(s) * max_rows; }

void apply_counts(const SampleSpec& s, const SampleParams& p, const SampleRow& r, float* logits) {
  const bool repetition = r.repetition_penalty != 1, counts = r.frequency_penalty != 0 || r.presence_penalty != 0;
  if (!repetition && !counts) return;
  const int64_t base = static_cast<int64_t>(r.slot) * s.vocabulary;
  const uint16_t* prompt = p.prompt_seen == nullptr ? nullptr : p.prompt_seen + base;
  const uint16_t* output = p.output_count == nullptr ? nullptr : p.output_count + base;
  for (int t = 0; t < s.vocabulary; ++t) {
    if (t + 4 <= s.vocabulary && t % 4 == 0) {  // most tokens were never seen: four at once
      uint64_t a = 0, b = 0;
      if (prompt != nullptr) std::memcpy(&a, prompt + t, 8);
      if (output != nullptr) std::memcpy(&b, output + t, 8);
      if ((a | b) == 0) {
        t += 3;
        continue;
      }
    }
    const int count = output == nullptr ? 0 : output[t];
    const bool seen = count > 0 || (prompt != nullptr && prompt[t] != 0);
    float& l = logits[t];
    if (repetition && seen) l = l > 0 ? l / r.repetition_penalty : l * r.repetition_penalty;
    if (counts && count > 0) l -= r.frequency_penalty * static_cast<float>(count) + r.presence_penalty;
  }
}

void apply_mask(const SampleSpec& s, const uint32_t* mask, float* logits) {
  for (int t = 0; t < s.vocabulary; t += 32) {
    const uint32_t word = mask[t / 32];
    if (word == 0xffffffffu) continue;
    const int count = s.vocabulary - t < 32 ? s.vocabulary - t : 32;
    for (int i = 0; i < count; ++i) logits[t + i] = (word >> i) & 1u ? logits[t + i] : -INFINITY;
  }
}

void penalise(const SampleSpec& s, const SampleParams& p, const SampleRow& r, float* logits) {
  for (int i = r.bias_begin; i < r.bias_begin + r.bias_count; ++i) logits[p.bias_ids[i]] += p.bias_values[i];
  apply_counts(s, p, r, logits);
  if (r.mask >= 0) apply_mask(s, p.masks + static_cast<int64_t>(r.mask) * ((s.vocabulary + 31) / 32), logits);
}

// -inf when nothing is allowed. NaN is never the largest.
float largest_logit(const float* logits, int n) {
  F a = splat(-INFINITY), b = a;
  int i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) a = maximum(load(logits + i), a), b = maximum(load(logits + i + lanes), b);
  float best = largest(maximum(a, b));
  for (; i < n; ++i) best = logits[i] > best ? logits[i] : best;
  return best;
}

// body(i) for every i with logits[i] >= floor(); floor may rise meanwhile.
template <class Floor, class Body>
HEARTH_INLINE void for_above(const float* logits, int n, Floor&& floor, Body&& body) {
  int i = 0;
  for (; i + lanes <= n; i += lanes) {
    if (!any(load(logits + i) >= floor())) continue;
    for (int j = i; j < i + lanes; ++j) if (logits[j] >= floor()) body(j);
  }
  for (; i < n; ++i) if (logits[i] >= floor()) body(i);
}

int argmax(const float* logits, int n) {
  const float best = largest_logit(logits, n);
  if (best == -INFINITY) return 0;
  int i = 0;
  while (i + lanes <= n && !any(load(logits + i) == best)) i += lanes;
  while (logits[i] != best) ++i;
  return i;
}

// Sum of e^((logit - best) / temperature).
double sum_weights(const float* logits, int n, float best, float temperature) {
  double total = 0;
  int i = 0;
  while (i + lanes <= n) {
    F part = {};  // short float sums, so that a large vocabulary loses no digits
    for (int end = i + 64 * lanes < n - lanes ? i + 64 * lanes : n - lanes; i <= end; i += lanes) {
      part += exponential((load(logits + i) - best) / temperature);
    }
    total += sum(part);
  }
  for (; i < n; ++i) total += logits[i] > -INFINITY ? std::exp((static_cast<double>(logits[i]) - best) / temperature) : 0.0;
  return total;
}

struct Better {
  const float* logits;
  bool operator()(int a, int b) const { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); }
};

// The k best, sorted; a heap whose root is the worst kept.
int best_tokens(const float* logits, int n, int k, int* ids) {
  const Better better{logits};
  int count = 0;
  float floor = -3.4028235e38f;
  for_above(logits, n, [&] { return floor; }, [&](int t) {
    if (count < k) {
      ids[count++] = t;
      std::push_heap(ids, ids + count, better);
    } else if (better(t, ids[0])) {
      std::pop_heap(ids, ids + count, better);
      ids[count - 1] = t;
      std::push_heap(ids, ids + count, better);
    }
    if (count == k) floor = logits[ids[0]];
  });
  std::sort_heap(ids, ids + count, better);
  return count;
}

int tokens_above(const float* logits, int n, float floor, int* ids) {
  int count = 0;
  for_above(logits, n, [&] { return floor; }, [&](int t) { ids[count++] = t; });
  std::sort(ids, ids + count, Better{logits});
  return count;
}

// Weight of a token relative to the best one, in double as the reference has it.
double weight(const SampleRow& r, const float* logits, int best, int token) {
  return std::exp(static_cast<double>(logits[token]) / r.temperature - static_cast<double>(logits[best]) / r.temperature);
}

// Of n sorted candidates, how many reach min_p.
int keep_min_p(const SampleRow& r, const float* logits, const int* ids, int n) {
  int kept = 1;
  while (kept < n && weight(r, logits, ids[0], ids[kept]) >= r.min_p) ++kept;
  return kept;
}

// Of n sorted candidates, how many make up top_p of `total`; -1 when they do not reach it.
int keep_top_p(const SampleRow& r, const float* logits, const int* ids, int n, double total) {
  double sum = 0;
  int kept = 0;
  while (kept < n && (kept == 0 || sum < r.top_p * total)) sum += weight(r, logits, ids[0], ids[kept++]);
  return sum < r.top_p * total ? -1 : kept;
}

double total_weight(const SampleRow& r, const float* logits, const int* ids, int n) {
  double total = 0;
  for (int i = 0; i < n; ++i) total += weight(r, logits, ids[0], ids[i]);
  return total;
}

// Tokens that top_k, min_p and top_p leave, sorted.
int truncate(const SampleSpec& s, const SampleRow& r, const float* logits, float best, int* ids) {
  const int n = s.vocabulary;
  constexpr float lowest = -3.4028235e38f;
  if (r.top_k > 0 || r.min_p > 0) {
    // min_p bounds the candidates by value; the small margin is undone by keep_min_p.
    const float floor = r.min_p > 0 ? best + r.temperature * (std::log(r.min_p) - 1e-3f) - std::fabs(best) * 1e-6f : lowest;
    int count = r.top_k > 0 && r.top_k < n ? best_tokens(logits, n, r.top_k, ids) : tokens_above(logits, n, floor, ids);
    if (r.min_p > 0) count = keep_min_p(r, logits, ids, count);
    if (r.top_p < 1) {
      const int kept = keep_top_p(r, logits, ids, count, total_weight(r, logits, ids, count));
      count = kept < 0 ? count : kept;
    }
    return count;
  }
  const double total = sum_weights(logits, n, best, r.temperature);
  for (float reach = 6;; reach *= 3) {
    const float floor = best - r.temperature * reach;
    const int count = tokens_above(logits, n, floor > lowest ? floor : lowest, ids);
    const int kept = keep_top_p(r, logits, ids, count, total);
    if (kept > 0) return kept;
    if (reach > 1000) return count;  // top_p rounds to everything
  }
}

U philox_words(uint32_t seed, uint32_t position, U token) {
  U c0 = U{} + position, c1 = token, c2 = {}, c3 = {};
  uint32_t k0 = seed, k1 = 0;
  for (int round = 0; round < 10; ++round) {
    const U high0 = multiply_high(c0, 0xD2511F53u), low0 = c0 * 0xD2511F53u;
    const U high1 = multiply_high(c2, 0xCD9E8D57u), low1 = c2 * 0xCD9E8D57u;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}

// The running winner of logit / temperature + noise.
struct Race {
  const SampleRow& r;
  const float* logits;
  float top;             // the largest logit / temperature
  int winner = -1;
  float value = -INFINITY;
  uint32_t word_min = 0; // no smaller random word can win any more

  void enter(int token) {
    const float noisy = logits[token] / r.temperature + gumbel_noise(r.seed, r.position, static_cast<uint32_t>(token));
    if (!(noisy > value || (noisy == value && token < winner))) return;
    value = noisy;
    winner = token;
    // Noise of at least value - top is needed: u >= e^-e^-(value - top), with room for rounding.
    const double u = std::exp(-std::exp(-(static_cast<double>(value) - top - 1e-3)));
    const double word = u * 0x1p32 * (1 - 1e-6) - 2;
    word_min = word <= 0 ? 0u : word >= 4294967295.0 ? 4294967295u : static_cast<uint32_t>(word);
  }
};

int race_all(const SampleSpec& s, const SampleRow& r, const float* logits) {
  const int first = argmax(logits, s.vocabulary);
  if (!(logits[first] > -INFINITY)) return 0;
  Race race{r, logits, logits[first] / r.temperature};
  race.enter(first);
  U ids;
  for (int i = 0; i < lanes; ++i) ids[i] = static_cast<uint32_t>(i);
  int t = 0;
  for (; t + lanes <= s.vocabulary; t += lanes) {
    const I near = load(logits + t) / r.temperature + gumbel_max >= race.value;
    if (!any(near)) continue;
    const U words = philox_words(r.seed, r.position, ids + static_cast<uint32_t>(t));
    if (!any(near & reinterpret_cast<I>(words >= race.word_min))) continue;
    for (int i = 0; i < lanes; ++i) {
      if (near[i] != 0 && words[i] >= race.word_min) race.enter(t + i);
    }
  }
  for (; t < s.vocabulary; ++t) if (logits[t] > -INFINITY) race.enter(t);
  return race.winner;
}

int draw(const SampleSpec& s, const SampleRow& r, const float* logits, int* ids) {
  if (r.temperature <= 0) return argmax(logits, s.vocabulary);
  if (r.top_k <= 0 && r.min_p <= 0 && r.top_p >= 1) return race_all(s, r, logits);
  const float best = largest_logit(logits, s.vocabulary);
  if (best == -INFINITY) return 0;
  const int n = truncate(s, r, logits, best, ids);
  Race race{r, logits, best / r.temperature};
  for (int i = 0; i < n; ++i) race.enter(ids[i]);
  return race.winner;
}

void report(const SampleSpec& s, const SampleParams& p, int row, const float* logits, int token, int* ids) {
  const SampleRow& r = p.row[row];
  p.logprob[row] = 0;
  if (r.top_logprobs < 0 && r.forced < 0) return;
  const float best = largest_logit(logits, s.vocabulary);
  const double norm = best + std::log(sum_weights(logits, s.vocabulary, best, 1.0f));
  p.logprob[row] = static_cast<float>(logits[token] - norm);
  if (r.top_logprobs <= 0) return;
  const int wanted = r.top_logprobs < max_top_logprobs ? r.top_logprobs : max_top_logprobs;
  const int n = best_tokens(logits, s.vocabulary, wanted < s.vocabulary ? wanted : s.vocabulary, ids);
  for (int i = 0; i < wanted; ++i) {
    p.top_ids[row * max_top_logprobs + i] = i < n ? ids[i] : -1;
    p.top_logprobs[row * max_top_logprobs + i] = i < n ? static_cast<float>(logits[ids[i]] - norm) : -INFINITY;
  }
}

void sample_row(const SampleSpec& s, const SampleParams& p, int row) {
  const SampleRow& r = p.row[row];
  float* logits = const_cast<float*>(p.logits) + row * p.logits_stride;
  auto* ids = reinterpret_cast<int*>(static_cast<uint8_t*>(p.workspace) + row_bytes(s) * row);
  penalise(s, p, r, logits);
  const int token = r.forced >= 0 ? r.forced : draw(s, r, logits, ids);
  report(s, p, row, logits, token, ids);
  p.token[row] = token;
}

void run(const SampleSpec& s, const SampleParams& p, Stream& stream) {
  if (p.rows == 1) {
    sample_row(s, p, 0);
  } else {
    device::pool_of(stream).parallel([&](int worker, int size) {
      const Range rows = share(p.rows, worker, size);
      for (int row = rows.begin; row < rows.end; ++row) sample_row(s, p, row);
    });
  }
  for (int row = 0; row < p.rows; ++row) {
    const SampleRow& r = p.row[row];
    if (r.record == 0) continue;
    p.sampled[r.slot] = p.token[row];
    if (p.output_count == nullptr) continue;
    uint16_t& count = p.output_count[static_cast<int64_t>(r.slot) * s.vocabulary + p.token[row]];
    if (count < 0xffff) ++count;
  }
}

}  // namespace

extern const Kernel<SampleSpec, SampleParams> sample;
const Kernel<SampleSpec, SampleParams> sample{HEARTH_ISA_NAME, declines, run, workspace_bytes};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
