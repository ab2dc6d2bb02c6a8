// Attention: every implementation against plain softmax(q k^T) v in float64, over ragged batches in a paged pool.
#include <algorithm>

#include "kernels/cpu/scalar.h"
#include "ops/bind.h"
#include "support.h"

namespace hearth::ops_test {
namespace {

using namespace ops;
constexpr auto cpu = device::DeviceKind::cpu;

struct SequenceShape { int past, rows, prompt = 0; };

// A pool with random history, and a step's batch in it. Blocks are dealt out of order; unused memory is NaN.
struct Scene {
  AttentionSpec s;
  std::vector<SequenceShape> shape;
  int rows = 0, blocks = 1, table_stride = 0;
  std::vector<int32_t> row_begin{0}, context, prompt, table, positions, kv_slot, row_sequence;
  std::vector<std::vector<float>> history;  // per sequence: raw k and v rows of past tokens [past][2][kv_heads][dim]
  std::vector<float> inverse_frequency, q_norm, k_norm;
  Buffer qkv{DType::f32, 0};
  int64_t qkv_stride = 0;
  std::vector<uint8_t> k, v;
  std::vector<float> k_scale, v_scale;
};

size_t kv_bytes(KvFormat f) { return f == KvFormat::f32 ? 4 : f == KvFormat::int8 ? 1 : 2; }

void lay_out(Scene& c, Random& random) {
  int max_context = 0, total_blocks = 0;
  for (const auto& q : c.shape) {
    max_context = std::max(max_context, q.past + q.rows);
    total_blocks += (q.past + q.rows + kv_block_tokens - 1) / kv_block_tokens;
  }
  c.table_stride = (max_context + kv_block_tokens - 1) / kv_block_tokens + 1;
  c.blocks = total_blocks + 2;
  std::vector<int32_t> free(c.blocks);
  for (int i = 0; i < c.blocks; ++i) free[i] = i;
  std::shuffle(free.begin(), free.end(), std::mt19937(7));
  for (size_t q = 0; q < c.shape.size(); ++q) {
    const int tokens = c.shape[q].past + c.shape[q].rows;
    c.table.resize((q + 1) * c.table_stride, -12345);
    for (int b = 0; b * kv_block_tokens < tokens; ++b) {
      c.table[q * c.table_stride + b] = free.back();
      free.pop_back();
    }
    c.context.push_back(tokens);
    c.prompt.push_back(c.shape[q].prompt);
    for (int r = 0; r < c.shape[q].rows; ++r) {
      const int token = c.shape[q].past + r;
      c.kv_slot.push_back(c.table[q * c.table_stride + token / kv_block_tokens] * kv_block_tokens + token % kv_block_tokens);
      c.row_sequence.push_back(static_cast<int32_t>(q));
    }
    c.row_begin.push_back(c.row_begin.back() + c.shape[q].rows);
  }
  c.rows = c.row_begin.back();
  for (int a = 0; a < c.s.position_axes; ++a) {
    for (int r = 0; r < c.rows; ++r) c.positions.push_back(random.integer(0, 3000));
  }
}

Batch batch_of(const Scene& c) {
  Batch b;
  b.rows = c.rows;
  b.sequences = static_cast<int>(c.shape.size());
  for (const auto& q : c.shape) b.max_rows = std::max(b.max_rows, q.rows), b.max_context = std::max(b.max_context, q.past + q.rows);
  b.block_table_stride = c.table_stride;
  b.row_begin = c.row_begin.data(), b.context = c.context.data(), b.block_table = c.table.data();
  b.positions = c.positions.data(), b.kv_slot = c.kv_slot.data(), b.row_sequence = c.row_sequence.data();
  b.host = {b.row_begin, b.context, b.block_table, b.positions, b.kv_slot, b.row_sequence, c.prompt.data()};
  return b;
}

AttentionParams params_of(Scene& c) {
  AttentionParams p;
  p.batch = batch_of(c);
  p.qkv = c.qkv.data(), p.qkv_stride = c.qkv_stride;
  p.q_norm = c.q_norm.data(), p.k_norm = c.k_norm.data();
  p.inverse_frequency = c.inverse_frequency.data();
  p.rope_amplitude = 1.1f;
  p.kv = {c.k.data(), c.v.data(), c.k_scale.data(), c.v_scale.data()};
  return p;
}

Scene make_scene(const AttentionSpec& s, std::vector<SequenceShape> shape, uint32_t seed) {
  Random random(seed);
  Scene c;
  c.s = s;
  c.shape = std::move(shape);
  lay_out(c, random);
  for (int i = 0; i < s.rope_dims / 2; ++i) c.inverse_frequency.push_back(std::pow(10000.0f, -2.0f * i / s.rope_dims));
  c.q_norm = random.normals(s.head_dim), c.k_norm = random.normals(s.head_dim);
  c.qkv_stride = (s.heads + 2 * s.kv_heads) * s.head_dim + 8;
  c.qkv = Buffer(s.type, random.normals(c.rows * c.qkv_stride));
  const size_t pool = static_cast<size_t>(c.blocks) * s.kv_heads * kv_block_tokens;
  c.k.assign(pool * s.head_dim * kv_bytes(s.kv), 0xff);
  c.v = c.k;
  c.k_scale.assign(pool, NAN), c.v_scale = c.k_scale;
  return c;
}

// Fills the pool's past with a prefill through the reference kernel, so that the pool's own format is exercised.
void fill_past(Scene& c, uint32_t seed) {
  std::vector<SequenceShape> past;
  for (const auto& q : c.shape) past.push_back({0, q.past});
  Random random(seed);
  Scene earlier = c;
  earlier.shape = past;
  earlier.row_begin = {0};
  earlier.positions.clear(), earlier.kv_slot.clear(), earlier.row_sequence.clear(), earlier.context.clear();
  for (size_t q = 0; q < past.size(); ++q) {
    for (int token = 0; token < past[q].rows; ++token) {
      earlier.kv_slot.push_back(c.table[q * c.table_stride + token / kv_block_tokens] * kv_block_tokens + token % kv_block_tokens);
      earlier.row_sequence.push_back(static_cast<int32_t>(q));
    }
    earlier.context.push_back(past[q].rows);
    earlier.row_begin.push_back(earlier.row_begin.back() + past[q].rows);
  }
  earlier.rows = earlier.row_begin.back();
  if (earlier.rows == 0) return;
  for (int i = 0; i < earlier.rows * c.s.position_axes; ++i) earlier.positions.push_back(random.integer(0, 3000));
  earlier.qkv = Buffer(c.s.type, random.normals(earlier.rows * c.qkv_stride));
  const auto* reference = attention_implementations(cpu).back();
  std::vector<uint8_t> workspace(reference->workspace_bytes(c.s, earlier.rows, one_thread().info));
  std::vector<float> out(static_cast<size_t>(earlier.rows) * c.s.heads * c.s.head_dim);
  AttentionParams p = params_of(earlier);
  p.workspace = workspace.data(), p.out = out.data(), p.out_stride = c.s.heads * c.s.head_dim;
  reference->run(c.s, p, one_thread().stream);
  c.k = earlier.k, c.v = earlier.v, c.k_scale = earlier.k_scale, c.v_scale = earlier.v_scale;
}

double pool_value(const Scene& c, const std::vector<uint8_t>& pool, const std::vector<float>& scales, int64_t row, int d) {
  const int64_t at = row * c.s.head_dim + d;
  switch (c.s.kv) {
    case KvFormat::f32: return reinterpret_cast<const float*>(pool.data())[at];
    case KvFormat::f16: return to_float(reinterpret_cast<const Half*>(pool.data())[at]);
    case KvFormat::bf16: return to_float(reinterpret_cast<const BFloat16*>(pool.data())[at]);
    case KvFormat::int8: return static_cast<double>(reinterpret_cast<const int8_t*>(pool.data())[at]) * scales[row];
  }
  return 0;
}

std::vector<double> norm_and_rope(const Scene& c, int row, int head, const std::vector<float>& weight) {
  const AttentionSpec& s = c.s;
  std::vector<double> x(s.head_dim);
  double square = 0;
  for (int d = 0; d < s.head_dim; ++d) x[d] = c.qkv.get(row * c.qkv_stride + head * s.head_dim + d), square += x[d] * x[d];
  for (int d = 0; d < s.head_dim && s.qk_norm; ++d) x[d] *= weight[d] / std::sqrt(square / s.head_dim + s.qk_norm_epsilon);
  for (int i = 0; i < s.rope_dims / 2; ++i) {
    int axis = 0;
    if (s.position_axes == 3 && s.axis_interleaved) axis = i % 3 > 0 && i < 3 * s.axis_sections[i % 3] ? i % 3 : 0;
    else if (s.position_axes == 3) axis = i < s.axis_sections[0] ? 0 : i < s.axis_sections[0] + s.axis_sections[1] ? 1 : 2;
    const float angle = static_cast<float>(c.positions[axis * c.rows + row]) * c.inverse_frequency[i];
    const double cosine = std::cos(static_cast<double>(angle)) * 1.1f, sine = std::sin(static_cast<double>(angle)) * 1.1f;
    const int a = s.rope_interleaved ? 2 * i : i, b = s.rope_interleaved ? 2 * i + 1 : i + s.rope_dims / 2;
    const double u = x[a] * cosine - x[b] * sine, w = x[b] * cosine + x[a] * sine;
    x[a] = u, x[b] = w;
  }
  return x;
}

// H x / sqrt(n) by its definition: entry (i, j) is (-1)^popcount(i & j).
std::vector<double> rotate(const std::vector<double>& x, int dim) {
  const int n = dim & -dim;
  std::vector<double> y(dim);
  for (int i = 0; i < dim; ++i) {
    for (int j = 0; j < n; ++j) {
      const int base = i / n * n;
      y[i] += (std::popcount(static_cast<unsigned>((i % n) & j)) % 2 ? -1 : 1) * x[base + j] / std::sqrt(n);
    }
  }
  return y;
}

int64_t pool_row(const Scene& c, int sequence, int token, int kv_head) {
  const int64_t block = c.table[sequence * c.table_stride + token / kv_block_tokens];
  return (block * c.s.kv_heads + kv_head) * kv_block_tokens + token % kv_block_tokens;
}

// Expected output of one (row, head), from the pool as the run left it.
std::vector<double> expected(const Scene& c, int row, int head) {
  const AttentionSpec& s = c.s;
  std::vector<double> q = norm_and_rope(c, row, head, c.q_norm);
  if (s.kv == KvFormat::int8) q = rotate(q, s.head_dim);
  const int sequence = c.row_sequence[row], kv_head = head / (s.heads / s.kv_heads);
  const int last = c.shape[sequence].past + row - c.row_begin[sequence];
  const int first = s.window > 0 ? std::max(0, last - s.window + 1) : 0;
  std::vector<double> scores, out(s.head_dim);
  double best = -INFINITY, total = 0;
  for (int t = first; t <= last; ++t) {
    double dot = 0;
    for (int d = 0; d < s.head_dim; ++d) dot += q[d] * pool_value(c, c.k, c.k_scale, pool_row(c, sequence, t, kv_head), d);
    scores.push_back(dot * s.scale);
    best = std::max(best, scores.back());
  }
  for (double& x : scores) total += x = std::exp(x - best);
  for (int t = first; t <= last; ++t) {
    for (int d = 0; d < s.head_dim; ++d) {
      out[d] += scores[t - first] / total * pool_value(c, c.v, c.v_scale, pool_row(c, sequence, t, kv_head), d);
    }
  }
  return out;
}

// Rounds to int8 values of one scale, as scalar.h defines it; returns the scale.
double round_all(std::vector<double>& x) {
  float amax = 0;
  for (double v : x) amax = std::max(amax, std::fabs(static_cast<float>(v)));
  const auto by = kernels::cpu::int8_scale(amax);
  for (double& v : x) v = kernels::cpu::to_int8(static_cast<float>(v), by.inverse);
  return by.scale;
}

// The same with both products in int8: AttentionSpec::int8_products.
std::vector<double> expected_int8(const Scene& c, int row, int head) {
  const AttentionSpec& s = c.s;
  std::vector<double> q = rotate(norm_and_rope(c, row, head, c.q_norm), s.head_dim), out(s.head_dim);
  for (double& x : q) x *= s.scale;
  const double q_scale = round_all(q);
  const int sequence = c.row_sequence[row], kv_head = head / (s.heads / s.kv_heads);
  const int last = c.shape[sequence].past + row - c.row_begin[sequence], first = s.window > 0 ? std::max(0, last - s.window + 1) : 0;
  const auto* values = reinterpret_cast<const int8_t*>(c.v.data());
  double best = -INFINITY, total = 0;
  for (int begin = first / int8_chunk_tokens * int8_chunk_tokens; begin <= last; begin += int8_chunk_tokens) {
    std::vector<double> weights;
    std::vector<int64_t> at;
    double high = best;
    for (int t = std::max(begin, first); t < begin + int8_chunk_tokens && t <= last; ++t) {
      at.push_back(pool_row(c, sequence, t, kv_head));
      double dot = 0;
      for (int d = 0; d < s.head_dim; ++d) dot += q[d] * q_scale * pool_value(c, c.k, c.k_scale, at.back(), d);
      weights.push_back(dot), high = std::max(high, dot);
    }
    const double shrink = std::exp(best - high);
    best = high, total *= shrink;
    for (size_t i = 0; i < weights.size(); ++i) {
      total += weights[i] = std::exp(weights[i] - best);
      weights[i] *= c.v_scale[at[i]];
    }
    const double scale = round_all(weights);
    for (int d = 0; d < s.head_dim; ++d) {
      out[d] *= shrink;
      for (size_t i = 0; i < at.size(); ++i) out[d] += weights[i] * scale * values[at[i] * s.head_dim + d];
    }
  }
  for (double& x : out) x /= total;
  return out;
}

// What the step wrote to the pool is what q/k norm, rope and the format say.
void check_written(const Scene& c) {
  const AttentionSpec& s = c.s;
  const double step = s.kv == KvFormat::int8 ? 0.51 / 127 : s.kv == KvFormat::f32 ? 1e-5 : s.kv == KvFormat::f16 ? 0x1p-11 : 0x1p-8;
  for (int row = 0; row < c.rows; ++row) {
    const int sequence = c.row_sequence[row], token = c.shape[sequence].past + row - c.row_begin[sequence];
    for (int h = 0; h < s.kv_heads; ++h) {
      std::vector<double> k = norm_and_rope(c, row, s.heads + h, c.k_norm);
      if (s.kv == KvFormat::int8) k = rotate(k, s.head_dim);
      double amax = 0, v_amax = 0;
      for (int d = 0; d < s.head_dim; ++d) {
        amax = std::max(amax, std::fabs(k[d]));
        v_amax = std::max<double>(v_amax, std::fabs(c.qkv.get(row * c.qkv_stride + (s.heads + s.kv_heads + h) * s.head_dim + d)));
      }
      for (int d = 0; d < s.head_dim; ++d) {
        const int64_t at = pool_row(c, sequence, token, h);
        const double v = c.qkv.get(row * c.qkv_stride + (s.heads + s.kv_heads + h) * s.head_dim + d);
        ASSERT_NEAR(pool_value(c, c.k, c.k_scale, at, d), k[d], step * amax + 1e-5);
        ASSERT_NEAR(pool_value(c, c.v, c.v_scale, at, d), v, step * v_amax + 1e-6);
      }
    }
  }
}

// `bias`: what one channel of all keys of the step is, if not 0, as in models whose keys have a large one.
void check(const AttentionSpec& s, const std::vector<SequenceShape>& shape, uint32_t seed, double tolerance = 3e-5, float bias = 0) {
  Scene before = make_scene(s, shape, seed);
  for (int i = 0; bias != 0 && i < before.rows * s.kv_heads; ++i) {
    before.qkv.set(i / s.kv_heads * before.qkv_stride + (s.heads + i % s.kv_heads) * s.head_dim + 3, bias);
  }
  fill_past(before, seed + 1);
  std::vector<uint8_t> alike;  // of the sets, which all round alike; `reference` works in float64
  for_each_taker(attention_implementations(cpu), s, one_thread().info, [&](const auto& kernel) {
    std::vector<std::vector<uint8_t>> outputs;
    for (Cpu* on : {&one_thread(), &three_threads()}) {
      Scene c = before;
      std::vector<uint8_t> workspace(kernel.workspace_bytes ? kernel.workspace_bytes(s, c.rows, on->info) : 0, 0xff);
      Buffer out(s.type, static_cast<size_t>(c.rows) * s.heads * s.head_dim);
      AttentionParams p = params_of(c);
      p.workspace = workspace.data(), p.out = out.data(), p.out_stride = s.heads * s.head_dim;
      kernel.run(s, p, on->stream);
      Scene source = before;  // q may be overwritten
      source.k = c.k, source.v = c.v, source.k_scale = c.k_scale, source.v_scale = c.v_scale;
      check_written(source);
      for (int row = 0; row < c.rows; ++row) {
        for (int h = 0; h < s.heads; ++h) {
          const std::vector<double> want = expected(source, row, h);
          for (int d = 0; d < s.head_dim; ++d) {
            const double got = out.get((static_cast<size_t>(row) * s.heads + h) * s.head_dim + d);
            ASSERT_NEAR(got, want[d], tolerance + 3 * epsilon_of(s.type)) << "row " << row << " head " << h << " dim " << d;
          }
        }
      }
      outputs.push_back(out.bytes);
    }
    EXPECT_EQ(outputs[0], outputs[1]) << "the result depends on the number of threads";
    if (std::string(kernel.name).find("reference") != std::string::npos) return;
    if (alike.empty()) alike = outputs[0];
    EXPECT_EQ(outputs[0], alike) << kernel.name << " rounds differently, " << s.heads << " heads of " << s.head_dim;
  });
}

AttentionSpec basic(int heads, int kv_heads, int dim) {
  AttentionSpec s;
  s.heads = heads, s.kv_heads = kv_heads, s.head_dim = dim;
  s.scale = 1 / std::sqrt(static_cast<float>(dim));
  s.rope_dims = dim;
  return s;
}

const std::vector<SequenceShape> mixed{{0, 5}, {31, 1}, {16, 17}, {70, 1}, {0, 1}, {200, 3}};

TEST(Attention, FormatsAndShapes) {
  for (KvFormat kv : {KvFormat::f32, KvFormat::f16, KvFormat::bf16, KvFormat::int8}) {
    for (const auto& [heads, kv_heads] : {std::pair{4, 4}, {6, 2}, {8, 1}, {20, 2}}) {
      for (int dim : {4, 48, 64}) {
        AttentionSpec s = basic(heads, kv_heads, dim);
        s.kv = kv;
        check(s, mixed, dim);
      }
      // Queries that fill two vectors of lanes, and rests.
      for (int window : {0, 70}) {
        AttentionSpec s = basic(heads, kv_heads, 32);
        s.kv = kv, s.window = window;
        check(s, {{0, 37}, {130, 21}}, 32 + window);
      }
    }
  }
}

// Sums are exact integers, so results differ from float64's by rounding alone, but where a value lies so near the middle
// of two int8 steps that its last bit decides: one step of one element of a chunk then, in very few rows.
TEST(Attention, Int8Products) {
  for (const auto& [heads, kv_heads, dim, window] : {std::tuple{4, 4, 64, 0}, {6, 2, 48, 0}, {8, 1, 128, 0}, {4, 2, 32, 40}, {2, 1, 12, 0}, {2, 2, 256, 0}}) {
    AttentionSpec s = basic(heads, kv_heads, dim);
    s.kv = KvFormat::int8, s.int8_products = true, s.window = window;
    Scene before = make_scene(s, mixed, dim);
    fill_past(before, dim + 1);
    for_each_taker(attention_implementations(cpu), s, one_thread().info, [&](const auto& kernel) {
      std::vector<std::vector<uint8_t>> outputs;
      for (Cpu* on : {&one_thread(), &three_threads()}) {
        Scene c = before;
        std::vector<uint8_t> workspace(kernel.workspace_bytes(s, c.rows, on->info), 0xff);
        Buffer out(s.type, static_cast<size_t>(c.rows) * s.heads * s.head_dim);
        AttentionParams p = params_of(c);
        p.workspace = workspace.data(), p.out = out.data(), p.out_stride = s.heads * s.head_dim;
        kernel.run(s, p, on->stream);
        Scene source = before;
        source.k = c.k, source.v = c.v, source.k_scale = c.k_scale, source.v_scale = c.v_scale;
        int flipped = 0;
        for (int i = 0; i < c.rows * s.heads; ++i) {
          const std::vector<double> want = expected_int8(source, i / s.heads, i % s.heads);
          double worst = 0;
          for (int d = 0; d < s.head_dim; ++d) worst = std::max(worst, std::fabs(out.get(static_cast<size_t>(i) * s.head_dim + d) - want[d]));
          flipped += worst > 3e-5;
          ASSERT_LE(worst, 0.1) << "row " << i / s.heads << " head " << i % s.heads;
        }
        EXPECT_LE(flipped, 1 + c.rows * s.heads / 50);
        outputs.push_back(out.bytes);
      }
      EXPECT_EQ(outputs[0], outputs[1]) << "the result depends on the number of threads";
    });
  }
}

TEST(Attention, Int8ProductsNeedInt8KeysAndValues) {
  AttentionSpec s = basic(2, 1, 16);
  s.int8_products = true;
  EXPECT_EQ(bind(s, one_thread().info).status().code(), Code::unsupported);
}

// Rounded to 12 bits and more, and still the same bits on every set and for any number of threads. Prompts beside answers, and both in
// one sequence, chunks that begin before a window, rests of tiles, more heads than a tile has queries.
TEST(Attention, FixedPoint) {
  const std::vector<SequenceShape> prompts{{0, 70, 70}, {31, 1, 32}, {75, 66, 100}, {3, 5}, {90, 1, 60}};
  for (const auto& [heads, kv_heads, dim, kv] : {std::tuple{4, 4, 16, KvFormat::f32}, {6, 2, 64, KvFormat::f16}, {3, 1, 80, KvFormat::bf16}, {2, 1, 128, KvFormat::int8}}) {
    for (int window : {0, 40}) {
      AttentionSpec s = basic(heads, kv_heads, dim);
      s.fixed_point = true, s.kv = kv, s.window = window;
      check(s, prompts, dim, 2e-3);
    }
  }
  for (const auto& [heads, kv_heads, dim] : {std::tuple{40, 1, 32}, {1, 1, 256}, {2, 1, 96}, {8, 4, 8}, {2, 2, 24}, {2, 1, 48}}) {
    AttentionSpec s = basic(heads, kv_heads, dim);
    s.fixed_point = true;
    check(s, {{0, 66, 66}, {130, 15, 145}}, dim, 2e-3);
  }
}

TEST(Attention, FixedPointOfKeysWithALargeBias) {
  AttentionSpec s = basic(2, 2, 64);
  s.fixed_point = true, s.kv = KvFormat::f32, s.rope_dims = 0;
  check(s, {{0, 100, 100}}, 5, 2e-3, 100);
}

TEST(Attention, FixedPointLeavesAnswersExact) {
  AttentionSpec s = basic(8, 2, 64);
  s.fixed_point = true;
  check(s, {{200, 8, 200}, {0, 80}, {90, 1, 7}}, 6);
}

TEST(Attention, LargeHeads) {
  for (int dim : {128, 256, 320}) check(basic(2, 1, dim), {{3, 4}, {65, 1}}, dim);
}

TEST(Attention, DecodeBatch) {
  AttentionSpec s = basic(8, 2, 64);
  check(s, {{0, 1}, {15, 1}, {16, 1}, {63, 1}, {64, 1}, {129, 1}}, 3);
  check(s, {{500, 1}}, 4);
}

TEST(Attention, Prefill) { check(basic(4, 2, 32), {{0, 70}}, 5); }

TEST(Attention, Window) {
  for (int window : {1, 7, 16, 40}) {
    AttentionSpec s = basic(4, 2, 16);
    s.window = window;
    check(s, mixed, window);
  }
}

TEST(Attention, RopeVariants) {
  AttentionSpec s = basic(4, 2, 64);
  s.rope_interleaved = true;
  check(s, mixed, 1);
  s.rope_interleaved = false;
  s.rope_dims = 20;  // partial
  check(s, mixed, 2);
  s.rope_dims = 0;
  check(s, mixed, 3);
  s.rope_dims = 64, s.qk_norm = true;
  check(s, mixed, 4);
}

TEST(Attention, MultimodalRope) {
  AttentionSpec s = basic(4, 2, 64);
  s.position_axes = 3;
  s.axis_sections[0] = 8, s.axis_sections[1] = 12, s.axis_sections[2] = 12;
  check(s, mixed, 1);
  s.axis_interleaved = true;
  s.axis_sections[0] = 12, s.axis_sections[1] = 10, s.axis_sections[2] = 10;
  check(s, mixed, 2);
}

TEST(Attention, NarrowActivations) {
  for (DType type : {DType::f16, DType::bf16}) {
    AttentionSpec s = basic(4, 2, 32);
    s.type = type;
    check(s, mixed, 9);
  }
}

TEST(Attention, EmptySlotsAndRowsWithoutASlotWriteNothing) {
  AttentionSpec s = basic(2, 1, 16);
  Scene c = make_scene(s, {{0, 2}, {0, 1}}, 1);
  c.context[1] = 0;   // an empty slot of a bucket
  c.kv_slot[2] = -1;
  for_each_taker(attention_implementations(cpu), s, one_thread().info, [&](const auto& kernel) {
    Scene run = c;
    std::vector<uint8_t> workspace(kernel.workspace_bytes(s, c.rows, one_thread().info));
    Buffer out(DType::f32, 3 * 2 * 16);
    AttentionParams p = params_of(run);
    p.workspace = workspace.data(), p.out = out.data(), p.out_stride = 32;
    kernel.run(s, p, one_thread().stream);
    int written = 0;
    for (size_t i = 0; i < run.k.size(); i += 2 * s.head_dim) written += run.k[i] != 0xff || run.k[i + 1] != 0xff;
    EXPECT_EQ(written, 2);
    for (int i = 0; i < 32; ++i) EXPECT_EQ(out.get(64 + i), 0.0f);
  });
}

void check_vision(const VisionAttentionSpec& s, const std::vector<int32_t>& segment, uint32_t seed) {
  const double tolerance = (s.int8_products ? 5e-3 : 3e-5) + 3 * epsilon_of(s.type);
  Random random(seed);
  const int rows = segment.back(), width = s.heads * s.head_dim;
  const int64_t stride = 3 * width + 8;
  Buffer qkv(s.type, random.normals(rows * stride));
  const std::vector<float> c = random.normals(rows * s.head_dim), n = random.normals(rows * s.head_dim);
  // As prepared, [3][heads][rows][head_dim]: turned by the rope, and on the int8 grid where products are.
  std::vector<double> prepared;
  for (int item = 0; item < 3 * s.heads * rows; ++item) {
    const int row = item % rows, head = item / rows % s.heads, part = item / rows / s.heads, half = s.head_dim / 2;
    const int64_t at = row * stride + part * width + head * s.head_dim;
    std::vector<float> x(s.head_dim);
    for (int d = 0; d < s.head_dim; ++d) {
      x[d] = qkv.get(at + d);
      if (!s.rope || part == 2) continue;
      const float cosine = c[row * s.head_dim + d] * qkv.get(at + d), sine = n[row * s.head_dim + d] * qkv.get(at + (d < half ? d + half : d - half));
      x[d] = d < half ? cosine - sine : cosine + sine;
    }
    float largest = 0;
    for (float v : x) largest = std::max(largest, std::fabs(v));
    for (float v : x) prepared.push_back(s.int8_products ? static_cast<double>(std::nearbyint(v * (127.0f / largest))) * (largest / 127.0f) : v);
  }
  auto value = [&](int row, int part, int head, int d) { return prepared[((static_cast<size_t>(part) * s.heads + head) * rows + row) * s.head_dim + d]; };
  for_each_taker(vision_attention_implementations(cpu), s, one_thread().info, [&](const auto& kernel) {
    if (s.int8_products && std::string(kernel.name) != "cpu/avx2") return;  // the others multiply exactly
    std::vector<uint8_t> workspace(kernel.workspace_bytes(s, rows, three_threads().info) + 64, 0xff);
    Buffer out(s.type, static_cast<size_t>(rows) * width);
    Buffer input = qkv;
    VisionAttentionParams p;
    p.rows = rows, p.segments = static_cast<int>(segment.size()) - 1;
    p.segment = p.host_segment = segment.data();
    p.rope_cos = c.data(), p.rope_sin = n.data(), p.qkv = input.data(), p.qkv_stride = stride;
    p.out = out.data(), p.out_stride = width, p.workspace = workspace.data();
    kernel.run(s, p, three_threads().stream);
    for (int g = 0; g + 1 < static_cast<int>(segment.size()); ++g) {
      for (int row = segment[g]; row < segment[g + 1]; ++row) {
        for (int h = 0; h < s.heads; ++h) {
          std::vector<double> scores, want(s.head_dim);
          double best = -INFINITY, total = 0;
          for (int t = segment[g]; t < segment[g + 1]; ++t) {
            double dot = 0;
            for (int d = 0; d < s.head_dim; ++d) dot += value(row, 0, h, d) * value(t, 1, h, d);
            scores.push_back(dot * s.scale), best = std::max(best, scores.back());
          }
          for (double& x : scores) total += x = std::exp(x - best);
          for (size_t t = 0; t < scores.size(); ++t) {
            for (int d = 0; d < s.head_dim; ++d) want[d] += scores[t] / total * value(segment[g] + static_cast<int>(t), 2, h, d);
          }
          for (int d = 0; d < s.head_dim; ++d) {
            ASSERT_NEAR(out.get(static_cast<size_t>(row) * width + h * s.head_dim + d), want[d], tolerance);
          }
        }
      }
    }
  });
}

TEST(VisionAttention, SegmentsTypesRope) {
  for (DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (int dim : {6, 16, 72, 80}) {
      for (bool rope : {false, true}) {
        check_vision({3, dim, 1 / std::sqrt(static_cast<float>(dim)), type, rope}, {0, 1, 20, 90}, dim);
      }
    }
  }
}

// More keys than a chunk and more rows than a panel, with rests of every kind.
TEST(VisionAttention, LongSegments) {
  for (int dim : {64, 72}) check_vision({2, dim, 1 / std::sqrt(static_cast<float>(dim)), DType::f32, dim == 72}, {0, 7, 300, 845}, dim);
}

TEST(VisionAttention, Int8Products) {
  for (int dim : {16, 64, 72}) {
    for (bool rope : {false, true}) {
      VisionAttentionSpec s{2, dim, 1 / std::sqrt(static_cast<float>(dim)), DType::f32, rope};
      s.int8_products = true;
      check_vision(s, {0, 1, 34, 555}, dim);
    }
  }
}

}  // namespace
}  // namespace hearth::ops_test
