// Sampling against the CPU reference: the same token, the same log-probabilities.
#include "device/cpu_stream.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cuda/cuda_kernels.h"
#include "support.h"

namespace hearth::gpu_test {
namespace {

using namespace ops;

void check_sample(int vocabulary, int rows, int style) {
  SCOPED_TRACE("vocabulary " + std::to_string(vocabulary) + " style " + std::to_string(style));
  static ThreadPool pool(1);
  static device::CpuStream cpu(pool);
  const int slots = rows + 2, mask_words = (vocabulary + 31) / 32;
  SampleSpec s{vocabulary, rows, slots};
  Array logits(DType::f32, static_cast<size_t>(rows) * vocabulary), bias_values(DType::f32, 64), logprob(DType::f32, rows), top_logprobs(DType::f32, rows * max_top_logprobs);
  Array bias_ids(DType::i32, 64), sampled(DType::i32, slots), token(DType::i32, rows), top_ids(DType::i32, rows * max_top_logprobs), masks(DType::i32, 2 * mask_words);
  Array seen(DType::i16, static_cast<size_t>(slots) * vocabulary), counts(DType::i16, static_cast<size_t>(slots) * vocabulary);
  // Coarse values make ties; a wide spread makes the tail negligible.
  // Style 7 is nearly flat: the cut falls among more candidates than a list holds.
  for (size_t i = 0; i < logits.count(); ++i) logits.set(i, style == 7 ? random_normal() * 0.3f : style % 3 == 0 ? std::round(random_normal() * 4) / 4 : random_normal() * (style % 3 == 1 ? 1 : 5));
  // From 8 on rows want nothing but fewer tokens, from 11 on all but log-probabilities.
  const bool simple = style == 0 || (style >= 8 && style < 11);
  if (style == 0 || style == 9) {  // what is never drawn: a row of nothing else, and here and there in the last
    for (int t = 0; t < vocabulary; ++t) logits.set(t, coin() ? -INFINITY : NAN);
    for (int i = 0; i < vocabulary; ++i) logits.set(logits.count() - 1 - random_int(0, vocabulary - 1), coin() ? NAN : -INFINITY);
  }
  logits.upload();
  std::vector<int32_t> ids(64), masked(2 * mask_words);
  for (auto& id : ids) id = random_int(0, vocabulary - 1);
  for (int i = 0; i < 64; ++i) bias_values.set(i, i % 9 == 8 ? -INFINITY : random_normal() * 3);
  for (auto& m : masked) m = static_cast<int32_t>(random_engine()());
  fill(bias_ids, ids); fill(masks, masked); bias_values.upload();
  std::memset(seen.host(), 0, seen.count() * 2);
  std::memset(counts.host(), 0, counts.count() * 2);
  for (size_t i = 0; i < seen.count(); ++i) { if (random_int(0, 20) == 0) seen.host_as<uint16_t>()[i] = 1; if (random_int(0, 30) == 0) counts.host_as<uint16_t>()[i] = static_cast<uint16_t>(random_int(1, 5)); }
  seen.upload(); counts.upload(); sampled.zero(); token.poison(); logprob.poison(); top_ids.poison(); top_logprobs.poison();
  std::vector<SampleRow> row(rows);
  for (int i = 0; i < rows; ++i) {
    SampleRow& r = row[i];
    r.slot = i; r.seed = random_engine()(); r.position = static_cast<uint32_t>(random_int(0, 5000));
    if (simple) {  // the best token, noisy or not, or the best noisy one of those that are kept: the kernels for that
      r.record = random_int(0, 4) != 0;
      r.temperature = random_int(0, style >= 8 ? 4 : 1) == 0 ? 0.f : 0.2f + random_int(0, 100) / 60.f;
      const int kind = style >= 8 ? random_int(0, 6) : 0;
      if (kind == 1 || kind == 2 || kind >= 5) r.top_p = random_int(0, 100) / 100.f;
      if (kind == 2 || kind == 3 || kind == 6) r.min_p = random_int(0, 30) / 100.f;
      if (kind >= 4) r.top_k = random_int(1, std::min(vocabulary, coin() ? 3 : 60));
      continue;
    }
    r.temperature = coin() ? 0.f : 0.2f + random_int(0, 100) / 60.f;
    if (style > 2 && coin()) r.top_k = random_int(1, std::min(vocabulary, style == 7 ? 20000 : 60));
    if (style > 2 && coin()) r.top_p = random_int(1, 100) / 100.f;
    if (style > 2 && coin()) r.min_p = random_int(0, 30) / 100.f;
    if (coin()) r.repetition_penalty = 1.3f;
    if (coin()) { r.frequency_penalty = 0.5f; r.presence_penalty = -0.25f; }
    if (coin()) { r.bias_begin = random_int(0, 20); r.bias_count = random_int(0, 40); }
    if (random_int(0, 3) == 0) r.mask = random_int(0, 1);
    if (random_int(0, 4) == 0) r.forced = random_int(0, vocabulary - 1);
    if (style >= 11) r.forced = -1;
    else r.top_logprobs = random_int(-1, 20);
    r.record = random_int(0, 4) != 0;
  }
  Array d_row(DType::u8, rows * sizeof(SampleRow));
  std::memcpy(d_row.host(), row.data(), rows * sizeof(SampleRow));
  d_row.upload();

  std::vector<float> r_logits(logits.count()), r_logprob(rows), r_top(rows * max_top_logprobs, 7.f);
  for (size_t i = 0; i < logits.count(); ++i) r_logits[i] = logits.get(i);
  std::vector<int32_t> r_sampled(slots, 0), r_token(rows), r_ids(rows * max_top_logprobs, -7);
  std::vector<uint16_t> r_seen(seen.host_as<uint16_t>(), seen.host_as<uint16_t>() + seen.count()), r_counts(counts.host_as<uint16_t>(), counts.host_as<uint16_t>() + counts.count());
  const auto& reference = kernels::cpu::reference::sample;
  std::vector<uint8_t> r_workspace(reference.workspace_bytes(s, rows, gpu().info()));
  SampleParams p;
  p.rows = rows; p.logits = r_logits.data(); p.logits_stride = vocabulary; p.row = row.data(); p.host_row = row.data();
  p.bias_ids = bias_ids.host_as<int32_t>(); p.bias_values = bias_values.host_as<float>(); p.masks = masks.host_as<uint32_t>();
  const bool counts_tokens = !simple;
  p.prompt_seen = counts_tokens ? r_seen.data() : nullptr; p.output_count = counts_tokens ? r_counts.data() : nullptr; p.sampled = r_sampled.data(); p.token = r_token.data();
  p.logprob = r_logprob.data(); p.top_ids = r_ids.data(); p.top_logprobs = r_top.data(); p.workspace = r_workspace.data();
  reference.run(s, p, cpu);

  const auto* sample = kernels::cuda::sample_implementations()[0];
  Array workspace(DType::u8, sample->workspace_bytes(s, rows, gpu().info()));
  workspace.poison();
  p.logits = logits.as<float>(); p.row = d_row.as<SampleRow>(); p.bias_ids = bias_ids.as<int32_t>(); p.bias_values = bias_values.as<float>(); p.masks = masks.as<uint32_t>();
  p.prompt_seen = counts_tokens ? seen.as<uint16_t>() : nullptr; p.output_count = counts_tokens ? counts.as<uint16_t>() : nullptr; p.sampled = sampled.as<int32_t>(); p.token = token.as<int32_t>();
  p.logprob = logprob.as<float>(); p.top_ids = top_ids.as<int32_t>(); p.top_logprobs = top_logprobs.as<float>(); p.workspace = workspace.device();
  sample->run(s, p, gpu().stream());
  token.download(); logprob.download(); top_ids.download(); top_logprobs.download(); sampled.download(); counts.download();
  for (int i = 0; i < rows; ++i) {
    const SampleRow& r = row[i];
    SCOPED_TRACE("row " + std::to_string(i) + " t " + std::to_string(r.temperature) + " k " + std::to_string(r.top_k) + " p " + std::to_string(r.top_p) + " min " + std::to_string(r.min_p));
    EXPECT_EQ(token.host_as<int32_t>()[i], r_token[i]);
    if (std::isnan(r_logprob[i])) {  // every token is forbidden
      EXPECT_TRUE(std::isnan(logprob.get(i)));
    } else if (std::isinf(r_logprob[i])) { EXPECT_EQ(logprob.get(i), r_logprob[i]); } else { EXPECT_NEAR(logprob.get(i), r_logprob[i], 2e-4); }
    for (int n = 0; n < r.top_logprobs; ++n) {
      EXPECT_EQ(top_ids.host_as<int32_t>()[i * max_top_logprobs + n], r_ids[i * max_top_logprobs + n]);
      if (r_ids[i * max_top_logprobs + n] >= 0) { EXPECT_NEAR(top_logprobs.get(i * max_top_logprobs + n), r_top[i * max_top_logprobs + n], 2e-4); }
    }
  }
  for (int i = 0; i < slots; ++i) EXPECT_EQ(sampled.host_as<int32_t>()[i], r_sampled[i]);
  EXPECT_EQ(std::memcmp(counts.host(), r_counts.data(), counts.count() * 2), 0);
}

TEST(Sample, MatchesReference) {
  for (int vocabulary : {1, 2, 31, 500, 32000, 50001})
    for (int style = 0; style < 14; ++style) check_sample(vocabulary, vocabulary > 1000 ? 6 : 12, style);
}
TEST(Sample, LargeVocabulary) { for (int style : {4, 6, 7, 8, 10, 13}) check_sample(151936, 4, style); }
// More rows than the device holds blocks of: one block a row.
TEST(Sample, ManyRows) { for (int style : {5, 8}) check_sample(3000, 700, style); }

}  // namespace
}  // namespace hearth::gpu_test
