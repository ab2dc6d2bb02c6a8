// Sampling: every implementation draws the reference's tokens; the reference follows the order of ops.h.
#include <algorithm>
#include <map>

#include "ops/bind.h"
#include "ops/noise.h"
#include "support.h"

namespace hearth::ops_test {
namespace {

using namespace ops;
constexpr auto cpu = device::DeviceKind::cpu;

struct Outcome {
  std::vector<int32_t> token, sampled, top_ids;
  std::vector<float> logprob, top_logprobs;
  std::vector<uint16_t> counts;
};

struct Case {
  SampleSpec spec;
  std::vector<float> logits;
  std::vector<SampleRow> rows;
  std::vector<int32_t> bias_ids;
  std::vector<float> bias_values;
  std::vector<uint32_t> masks;
  std::vector<uint16_t> prompt, counts;
};

Outcome run(const Implementation<SampleSpec, SampleParams>& kernel, const Case& c, Cpu& on) {
  const int rows = static_cast<int>(c.rows.size());
  Outcome o{std::vector<int32_t>(rows, -7), std::vector<int32_t>(c.spec.slots, -7), std::vector<int32_t>(rows * max_top_logprobs, -7),
            std::vector<float>(rows, NAN), std::vector<float>(rows * max_top_logprobs, NAN), c.counts};
  std::vector<float> logits = c.logits;
  std::vector<uint8_t> workspace(kernel.workspace_bytes ? kernel.workspace_bytes(c.spec, rows, on.info) : 0);
  SampleParams p;
  p.rows = rows, p.logits = logits.data(), p.logits_stride = c.spec.vocabulary;
  p.row = p.host_row = c.rows.data();
  p.bias_ids = c.bias_ids.data(), p.bias_values = c.bias_values.data(), p.masks = c.masks.data();
  std::vector<uint16_t> prompt = c.prompt;
  p.prompt_seen = prompt.empty() ? nullptr : prompt.data();
  p.output_count = o.counts.empty() ? nullptr : o.counts.data();
  p.sampled = o.sampled.data(), p.token = o.token.data(), p.logprob = o.logprob.data();
  p.top_ids = o.top_ids.data(), p.top_logprobs = o.top_logprobs.data(), p.workspace = workspace.data();
  kernel.run(c.spec, p, on.stream);
  return o;
}

Case random_case(int vocabulary, int rows, float spread, uint32_t seed) {
  Random random(seed);
  Case c;
  c.spec = {vocabulary, rows, rows};
  c.logits.resize(static_cast<size_t>(rows) * vocabulary);
  for (float& l : c.logits) l = spread * random.normal();
  c.rows.resize(rows);
  for (int i = 0; i < rows; ++i) {
    c.rows[i].slot = i;
    c.rows[i].seed = static_cast<uint32_t>(random.integer(0, 1 << 30));
    c.rows[i].position = static_cast<uint32_t>(random.integer(0, 5000));
    c.rows[i].temperature = 1;
  }
  return c;
}

void check_equal(const Case& c) {
  const Outcome want = run(*sample_implementations(cpu).back(), c, one_thread());
  for_each_taker(sample_implementations(cpu), c.spec, one_thread().info, [&](const auto& kernel) {
    for (Cpu* on : {&one_thread(), &three_threads()}) {
      const Outcome got = run(kernel, c, *on);
      EXPECT_EQ(got.token, want.token);
      EXPECT_EQ(got.sampled, want.sampled);
      EXPECT_EQ(got.counts, want.counts);
      EXPECT_EQ(got.top_ids, want.top_ids);
      for (size_t i = 0; i < want.logprob.size(); ++i) EXPECT_NEAR(got.logprob[i], want.logprob[i], 2e-5);
      for (size_t i = 0; i < want.top_logprobs.size(); ++i) {
        const float a = got.top_logprobs[i], b = want.top_logprobs[i];
        EXPECT_TRUE((std::isnan(a) && std::isnan(b)) || a == b || std::fabs(a - b) < 2e-5f) << a << " for " << b;
      }
    }
  });
}

TEST(Sample, PhiloxIsTheStandardOne) {
  // Known answer of Random123's philox4x32-10: counter and key all zero.
  EXPECT_EQ(philox_word(0, 0, 0), 0x6627e8d5u);
}

TEST(Sample, SameDrawsAsTheReference) {
  for (int vocabulary : {1, 5, 100, 2048, 32001}) {
    for (float spread : {0.01f, 1.0f, 12.0f}) {
      Case c = random_case(vocabulary, 24, spread, static_cast<uint32_t>(vocabulary));
      for (int i = 0; i < 24; ++i) {
        SampleRow& r = c.rows[i];
        r.temperature = i % 4 == 0 ? 0.0f : 0.3f * static_cast<float>(i % 4);
        if (i % 3 == 1) r.top_k = 1 + i * 3;
        if (i % 5 >= 3) r.top_p = 0.5f + 0.02f * static_cast<float>(i);
        if (i % 7 == 2) r.min_p = 0.05f;
        if (i % 2) r.top_logprobs = i % 21;
      }
      check_equal(c);
    }
  }
}

TEST(Sample, PenaltiesBiasMaskForcedRecord) {
  constexpr int vocabulary = 1003, rows = 12;
  Case c = random_case(vocabulary, rows, 2, 9);
  Random random(4);
  c.prompt.assign(rows * vocabulary, 0), c.counts.assign(rows * vocabulary, 0);
  for (int i = 0; i < 60 * rows; ++i) {
    c.prompt[random.integer(0, rows * vocabulary - 1)] = 1;
    c.counts[random.integer(0, rows * vocabulary - 1)] = static_cast<uint16_t>(random.integer(1, 9));
  }
  for (int i = 0; i < 40; ++i) c.bias_ids.push_back(random.integer(0, vocabulary - 1)), c.bias_values.push_back(random.integer(0, 1) ? 5.0f : -INFINITY);
  c.masks.resize(2 * 32);
  for (auto& word : c.masks) word = static_cast<uint32_t>(random.integer(0, 1 << 30));
  for (int i = 0; i < rows; ++i) {
    SampleRow& r = c.rows[i];
    r.temperature = i % 2 ? 0.8f : 0.0f;
    if (i % 3) r.repetition_penalty = 1.3f, r.frequency_penalty = 0.4f, r.presence_penalty = -0.2f;
    r.bias_begin = i, r.bias_count = i % 4 == 0 ? 20 : 0;
    r.mask = i % 4 == 1 ? i / 4 % 2 : -1;
    r.forced = i == 7 ? 17 : -1;
    r.record = i != 5;
    r.top_logprobs = 5;
  }
  check_equal(c);
}

TEST(Sample, GreedyIsTheFirstOfTheLargest) {
  Case c = random_case(300, 1, 1, 1);
  c.rows[0].temperature = 0;
  c.logits[17] = c.logits[18] = c.logits[250] = 9;
  c.logits[3] = NAN;
  for_each_taker(sample_implementations(cpu), c.spec, one_thread().info, [&](const auto& kernel) {
    EXPECT_EQ(run(kernel, c, one_thread()).token[0], 17);
  });
}

TEST(Sample, NothingAllowedGivesTokenZeroNotACrash) {
  for (const float nothing : {-INFINITY, NAN}) {
    Case c = random_case(300, 3, 1, 1);
    std::fill(c.logits.begin(), c.logits.end(), nothing);
    c.rows[0].temperature = 0.8f;
    c.rows[1].temperature = 0;
    c.rows[2].top_k = 4;
    for_each_taker(sample_implementations(cpu), c.spec, one_thread().info, [&](const auto& kernel) {
      const Outcome o = run(kernel, c, one_thread());
      EXPECT_EQ(o.token, std::vector<int32_t>({0, 0, 0})) << nothing;
    });
  }
}

// The frequency of a token over many seeds is its probability after temperature and truncation.
void check_distribution(SampleRow row, const std::vector<double>& want) {
  constexpr int draws = 20000, rows = 50;
  const std::vector<float> logits{1.0f, 2.0f, 0.0f, 3.0f, 2.5f, -1.0f, 0.5f, 1.5f, -2.0f};
  for_each_taker(sample_implementations(cpu), SampleSpec{9, rows, rows}, one_thread().info, [&](const auto& kernel) {
    std::vector<double> seen(9);
    for (int round = 0; round < draws / rows; ++round) {
      Case c;
      c.spec = {9, rows, rows};
      for (int i = 0; i < rows; ++i) {
        c.logits.insert(c.logits.end(), logits.begin(), logits.end());
        row.seed = static_cast<uint32_t>(round * rows + i), row.position = 3, row.slot = i;
        c.rows.push_back(row);
      }
      for (int32_t token : run(kernel, c, one_thread()).token) seen[token] += 1.0 / draws;
    }
    for (int t = 0; t < 9; ++t) EXPECT_NEAR(seen[t], want[t], 0.015) << t;
  });
}

std::vector<double> softmax(const std::vector<double>& logits) {
  std::vector<double> p;
  double total = 0;
  for (double l : logits) p.push_back(std::exp(l)), total += p.back();
  for (double& x : p) x /= total;
  return p;
}

TEST(Sample, Distribution) {
  const double out = -INFINITY;
  SampleRow r;
  r.temperature = 1;
  check_distribution(r, softmax({1, 2, 0, 3, 2.5, -1, 0.5, 1.5, -2}));
  r.temperature = 2;
  check_distribution(r, softmax({0.5, 1, 0, 1.5, 1.25, -0.5, 0.25, 0.75, -1}));
  r.temperature = 1, r.top_k = 3;
  check_distribution(r, softmax({out, 2, out, 3, 2.5, out, out, out, out}));
  r.top_k = 0, r.min_p = 0.3f;  // e^(l - 3) >= 0.3: l >= 1.796
  check_distribution(r, softmax({out, 2, out, 3, 2.5, out, out, out, out}));
  r.min_p = 0, r.top_p = 0.5f;  // 3: 0.40, 2.5: 0.24
  check_distribution(r, softmax({out, out, out, 3, 2.5, out, out, out, out}));
}

}  // namespace
}  // namespace hearth::ops_test
