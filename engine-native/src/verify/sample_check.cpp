// Sampling: the same token as the reference for the same seed, whatever the stages; the same log-probabilities.
#include "ops/registry.h"
#include "verify/check.h"

namespace hearth::verify {
namespace {

using namespace ops;

SampleRow random_row(int style, int slot, int vocabulary, Bench& b) {
  SampleRow r;
  r.slot = slot, r.seed = b.random(), r.position = static_cast<uint32_t>(b.integer(0, 5000));
  if (style == 0) return r;  // plain argmax
  auto coin = [&] { return b.integer(0, 1) == 1; };
  r.temperature = coin() ? 0.0f : 0.2f + b.integer(0, 100) / 60.0f;
  if (style > 1 && coin()) r.top_k = b.integer(1, std::min(vocabulary, 60));
  if (style > 1 && coin()) r.top_p = b.integer(1, 100) / 100.0f;
  if (style > 1 && coin()) r.min_p = b.integer(0, 30) / 100.0f;
  if (coin()) r.repetition_penalty = 1.3f;
  if (coin()) r.frequency_penalty = 0.5f, r.presence_penalty = -0.25f;
  if (coin()) r.bias_begin = b.integer(0, 20), r.bias_count = b.integer(0, 40);
  if (b.integer(0, 3) == 0) r.mask = b.integer(0, 1);
  r.top_logprobs = b.integer(-1, max_top_logprobs);
  return r;
}

struct Case {
  SampleSpec spec;
  int rows;
  Array logits, bias_values, logprob, top_logprobs, bias_ids, sampled, token, top_ids, masks, seen, counts, row;
  Case(int vocabulary, int count, int style, Bench& b)
      : spec{vocabulary, count, count + 2}, rows(count), logits(b, DType::f32, size_t(count) * vocabulary), bias_values(b, DType::f32, 64), logprob(b, DType::f32, count),
        top_logprobs(b, DType::f32, size_t(count) * max_top_logprobs), bias_ids(b, DType::i32, 64), sampled(b, DType::i32, count + 2), token(b, DType::i32, count),
        top_ids(b, DType::i32, size_t(count) * max_top_logprobs), masks(b, DType::i32, 2 * size_t((vocabulary + 31) / 32)), seen(b, DType::i16, size_t(count + 2) * vocabulary),
        counts(b, DType::i16, size_t(count + 2) * vocabulary), row(b, DType::u8, size_t(count) * sizeof(SampleRow)) {
    for (size_t i = 0; i < logits.count(); ++i) logits.set(i, style % 2 ? std::round(b.normal() * 4) / 4 : b.normal() * 5);  // ties, or a wide spread
    for (size_t i = 0; i < 64; ++i) bias_values.set(i, i % 9 == 8 ? -INFINITY : b.normal() * 3), bias_ids.host_as<int32_t>()[i] = b.integer(0, vocabulary - 1);
    for (size_t i = 0; i < masks.count(); ++i) masks.host_as<uint32_t>()[i] = b.random();
    for (size_t i = 0; i < seen.count(); ++i) {
      seen.host_as<uint16_t>()[i] = b.integer(0, 20) == 0;
      counts.host_as<uint16_t>()[i] = static_cast<uint16_t>(b.integer(0, 30) == 0 ? b.integer(1, 5) : 0);
    }
    for (int i = 0; i < rows; ++i) row.host_as<SampleRow>()[i] = random_row(style, i, vocabulary, b);
    sampled.integers(std::vector<int32_t>(sampled.count(), 0));
    logits.upload(), bias_values.upload(), bias_ids.upload(), masks.upload(), seen.upload(), counts.upload(), row.upload();
    token.poison(), logprob.poison(), top_ids.poison(), top_logprobs.poison();
  }
  SampleParams params(bool host) {
    auto at = [host](Array& a) { return host ? a.host() : a.twin(); };
    SampleParams p;
    p.rows = rows, p.logits = static_cast<float*>(at(logits)), p.logits_stride = spec.vocabulary, p.row = static_cast<SampleRow*>(at(row)), p.host_row = row.host_as<SampleRow>();
    p.bias_ids = static_cast<int32_t*>(at(bias_ids)), p.bias_values = static_cast<float*>(at(bias_values)), p.masks = static_cast<uint32_t*>(at(masks));
    p.prompt_seen = static_cast<uint16_t*>(at(seen)), p.output_count = static_cast<uint16_t*>(at(counts)), p.sampled = static_cast<int32_t*>(at(sampled));
    p.token = static_cast<int32_t*>(at(token)), p.logprob = static_cast<float*>(at(logprob)), p.top_ids = static_cast<int32_t*>(at(top_ids));
    p.top_logprobs = static_cast<float*>(at(top_logprobs));
    return p;
  }
};

void run_case(const Implementation<SampleSpec, SampleParams>& sample, int vocabulary, int rows, int style, Bench& bench, Check& check) {
  const auto& reference = *sample_implementations(device::DeviceKind::cpu).back();
  Case c(vocabulary, rows, style, bench);
  Array scratch(bench, DType::u8, sample.workspace_bytes ? sample.workspace_bytes(c.spec, rows, bench.info()) : 1);
  if (!bench.status) return;
  SampleParams device_params = c.params(false);
  device_params.workspace = scratch.twin();
  sample.run(c.spec, device_params, bench.device.stream());
  c.token.download(), c.logprob.download();
  const std::vector<int32_t> tokens(c.token.host_as<int32_t>(), c.token.host_as<int32_t>() + rows);
  const std::vector<float> logprobs(c.logprob.host_as<float>(), c.logprob.host_as<float>() + rows);
  std::vector<uint8_t> r_scratch(reference.workspace_bytes ? reference.workspace_bytes(c.spec, rows, bench.info()) : 0);
  SampleParams host_params = c.params(true);
  host_params.workspace = r_scratch.data();
  reference.run(c.spec, host_params, bench.reference);
  int different = 0;
  for (int i = 0; i < rows; ++i) {
    const float want = c.logprob.get(i);
    const bool same = std::isfinite(want) ? std::fabs(logprobs[i] - want) < 5e-4 : std::isnan(want) == std::isnan(logprobs[i]);
    different += tokens[i] != c.token.host_as<int32_t>()[i] || !same;
  }
  check.cases += rows;
  check.error = std::max(check.error, static_cast<double>(different) / rows);
  if (different)
    fail(check, std::to_string(different) + " of " + std::to_string(rows) +
         " rows drew another token or log-probability, vocabulary " + std::to_string(vocabulary));
}

}  // namespace

std::vector<Check> check_sampling(Bench& bench) {
  std::vector<Check> checks;
  const auto* reference = sample_implementations(device::DeviceKind::cpu).back();
  for (const auto* sample : sample_implementations(bench.info().kind)) {
    if (sample == reference) continue;
    Check check{"sample", sample->name, 0, 0, 0, {}, {}};
    for (int vocabulary : {1, 31, 500, 32000, 151936})
      for (int style = 0; style < 4; ++style) {
        const SampleSpec spec{vocabulary, 4, 6};
        if (!bench.status) return checks;
        if (const char* no = sample->declines(spec, bench.info())) check.skipped = no;
        else run_case(*sample, vocabulary, vocabulary > 40000 ? 2 : 4, style, bench, check);
      }
    if (check.cases > 0) check.skipped.clear();
    checks.push_back(std::move(check));
  }
  return checks;
}

}  // namespace hearth::verify
