// Sampling: the reference. Candidates are sorted outright; the order of stages is that of ops.h.
#include <algorithm>

#include "device/cpu_stream.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/scalar.h"
#include "ops/noise.h"

namespace hearth::kernels::cpu::reference {
namespace {

using device::DeviceInfo;
using device::Stream;
using namespace ops;

const char* declines(const SampleSpec& s, const DeviceInfo&) {
  return s.vocabulary > 0 ? nullptr : "an empty vocabulary";
}

// Workspace a row: candidate ids [vocabulary] and their weights [vocabulary].
size_t row_bytes(const SampleSpec& s) { return aligned(8 * static_cast<size_t>(s.vocabulary)); }
size_t workspace_bytes(const SampleSpec& s, int max_rows, const DeviceInfo&) { return row_bytes(s) * max_rows; }

void penalise(const SampleSpec& s, const SampleParams& p, const SampleRow& r, float* logits) {
  for (int i = r.bias_begin; i < r.bias_begin + r.bias_count; ++i) logits[p.bias_ids[i]] += p.bias_values[i];
  const int64_t base = static_cast<int64_t>(r.slot) * s.vocabulary;
  const bool repetition = r.repetition_penalty != 1, counts = r.frequency_penalty != 0 || r.presence_penalty != 0;
  for (int t = 0; t < s.vocabulary && (repetition || counts); ++t) {
    const int count = p.output_count == nullptr ? 0 : p.output_count[base + t];
    const bool seen = count > 0 || (p.prompt_seen != nullptr && p.prompt_seen[base + t] != 0);
    float& l = logits[t];
    if (repetition && seen) l = l > 0 ? l / r.repetition_penalty : l * r.repetition_penalty;
    if (counts && count > 0) l -= r.frequency_penalty * static_cast<float>(count) + r.presence_penalty;
  }
  if (r.mask < 0) return;
  const uint32_t* mask = p.masks + static_cast<int64_t>(r.mask) * ((s.vocabulary + 31) / 32);
  for (int t = 0; t < s.vocabulary; ++t) {
    if (((mask[t / 32] >> (t % 32)) & 1u) == 0) logits[t] = -INFINITY;
  }
}

int argmax(const float* logits, int count) {
  int best = 0;
  float value = -INFINITY;
  for (int t = 0; t < count; ++t) {
    if (logits[t] > value) {
      value = logits[t];
      best = t;
    }
  }
  return best;
}

// log of the sum of exponentials, so that log-probability = logit - this.
double log_sum(const float* logits, int count) {
  const double best = logits[argmax(logits, count)];
  double sum = 0;
  for (int t = 0; t < count; ++t) {
    if (logits[t] > -INFINITY) sum += std::exp(static_cast<double>(logits[t]) - best);
  }
  return best + std::log(sum);
}

// Candidates from best to worst; NaN and forbidden tokens are none.
int sorted_candidates(const float* logits, int count, int* ids) {
  int n = 0;
  for (int t = 0; t < count; ++t) {
    if (logits[t] > -INFINITY) ids[n++] = t;
  }
  std::sort(ids, ids + n, [&](int a, int b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); });
  return n;
}

// How many of the sorted candidates stay after top_k, min_p and top_p.
int truncate(const SampleRow& r, const float* logits, const int* ids, int n) {
  if (r.top_k > 0) n = std::min(n, static_cast<int>(r.top_k));
  const double best = static_cast<double>(logits[ids[0]]) / r.temperature;
  auto weight = [&](int i) { return std::exp(static_cast<double>(logits[ids[i]]) / r.temperature - best); };
  if (r.min_p > 0) {
    int kept = 1;
    while (kept < n && weight(kept) >= r.min_p) ++kept;
    n = kept;
  }
  if (r.top_p < 1) {
    double total = 0, sum = 0;
    for (int i = 0; i < n; ++i) total += weight(i);
    int kept = 0;
    while (kept < n && (kept == 0 || sum < r.top_p * total)) sum += weight(kept++);
    n = kept;
  }
  return n;
}

int draw(const SampleSpec& s, const SampleRow& r, const float* logits, int* ids) {
  if (r.temperature <= 0) return argmax(logits, s.vocabulary);
  int n = sorted_candidates(logits, s.vocabulary, ids);
  if (n == 0) return 0;
  n = truncate(r, logits, ids, n);
  int best = ids[0];
  float value = -INFINITY;
  for (int i = 0; i < n; ++i) {
    const float noisy = logits[ids[i]] / r.temperature + gumbel_noise(r.seed, r.position, static_cast<uint32_t>(ids[i]));
    if (noisy > value || (noisy == value && ids[i] < best)) {
      value = noisy;
      best = ids[i];
    }
  }
  return best;
}

void report(const SampleSpec& s, const SampleParams& p, int row, const float* logits, int token, int* ids) {
  const SampleRow& r = p.row[row];
  p.logprob[row] = 0;
  if (r.top_logprobs < 0 && r.forced < 0) return;
  const double norm = log_sum(logits, s.vocabulary);
  p.logprob[row] = static_cast<float>(logits[token] - norm);
  if (r.top_logprobs <= 0) return;
  const int n = sorted_candidates(logits, s.vocabulary, ids);
  for (int i = 0; i < std::min<int>(r.top_logprobs, max_top_logprobs); ++i) {
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
  device::pool_of(stream).parallel([&](int worker, int size) {
    const Range rows = share(p.rows, worker, size);
    for (int row = rows.begin; row < rows.end; ++row) sample_row(s, p, row);
  });
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

const Kernel<SampleSpec, SampleParams> sample{"cpu/reference", declines, run, workspace_bytes};

}  // namespace hearth::kernels::cpu::reference
