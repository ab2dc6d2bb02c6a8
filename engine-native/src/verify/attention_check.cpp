// Attention over a random paged pool, and vision attention, against the reference in f32 on the same rounded inputs.
#include "ops/describe.h"
#include "ops/registry.h"
#include "verify/check.h"

namespace hearth::verify {
namespace {

using namespace ops;

struct Sequence { int history, rows; };

DType type_of(KvFormat f) { return f == KvFormat::int8 ? DType::i8 : f == KvFormat::f16 ? DType::f16 : f == KvFormat::bf16 ? DType::bf16 : DType::f32; }
int blocks_of(int tokens) { return (tokens + kv_block_tokens - 1) / kv_block_tokens; }

// A step's rows over blocks in random order.
struct Layout {
  std::vector<int32_t> row_begin{0}, context, table, positions, slots, row_sequence;
  int rows = 0, max_rows = 1, max_context = 1, stride = 1, blocks = 1;

  Layout(const std::vector<Sequence>& sequences, int axes, Bench& bench) {
    for (const Sequence& q : sequences) {
      const int total = q.history + q.rows;
      stride = std::max(stride, blocks_of(total)), blocks += blocks_of(total);
      max_rows = std::max(max_rows, q.rows), max_context = std::max(max_context, total);
    }
    std::vector<int32_t> ids(blocks);
    for (int i = 0; i < blocks; ++i) ids[i] = i;
    std::shuffle(ids.begin(), ids.end(), bench.random);
    table.assign(sequences.size() * stride, -1);
    for (size_t i = 0, next = 0; i < sequences.size(); ++i) {
      const Sequence& q = sequences[i];
      for (int b = 0; b < blocks_of(q.history + q.rows); ++b) table[i * stride + b] = ids[next++];
      for (int at = q.history; at < q.history + q.rows; ++at) {
        slots.push_back(table[i * stride + at / kv_block_tokens] * kv_block_tokens + at % kv_block_tokens);
        row_sequence.push_back(static_cast<int32_t>(i));
      }
      rows += q.rows;
      row_begin.push_back(rows), context.push_back(q.history + q.rows);
    }
    for (int axis = 0; axis < axes; ++axis)
      for (const Sequence& q : sequences)
        for (int at = q.history; at < q.history + q.rows; ++at) positions.push_back(at + 3 * axis);
  }
};

struct Pool {
  Array k, v, k_scale, v_scale;
  Pool(const AttentionSpec& s, const Layout& layout, const std::vector<Sequence>& sequences, Bench& bench)
      : k(bench, type_of(s.kv), tokens(s, layout) * s.head_dim), v(bench, type_of(s.kv), tokens(s, layout) * s.head_dim),
        k_scale(bench, DType::f32, tokens(s, layout)), v_scale(bench, DType::f32, tokens(s, layout)) {
    k.poison(), v.poison(), k_scale.poison(), v_scale.poison();  // what no sequence wrote must not be read
    const bool whole = s.kv == KvFormat::int8;
    auto value = [&] { return whole ? static_cast<float>(bench.integer(-127, 127)) : bench.normal(); };
    for (size_t i = 0; i < sequences.size(); ++i)
      for (int t = 0; t < sequences[i].history; ++t)
        for (int h = 0; h < s.kv_heads; ++h) {
          const size_t at = (size_t(layout.table[i * layout.stride + t / kv_block_tokens]) * s.kv_heads + h) * kv_block_tokens + t % kv_block_tokens;
          for (int d = 0; d < s.head_dim; ++d) k.set(at * s.head_dim + d, value()), v.set(at * s.head_dim + d, value());
          k_scale.set(at, 0.01f + 0.0001f * bench.integer(0, 100)), v_scale.set(at, 0.01f + 0.0001f * bench.integer(0, 100));
        }
    k.upload(), v.upload(), k_scale.upload(), v_scale.upload();
  }
  static size_t tokens(const AttentionSpec& s, const Layout& layout) { return static_cast<size_t>(layout.blocks) * s.kv_heads * kv_block_tokens; }
};

struct Inputs {
  Array row_begin, context, table, positions, slots, row_sequence, q_norm, k_norm, frequency;
  Inputs(const AttentionSpec& s, const Layout& l, Bench& b)
      : row_begin(b, DType::i32, l.row_begin.size()), context(b, DType::i32, l.context.size()), table(b, DType::i32, l.table.size()), positions(b, DType::i32, l.positions.size()),
        slots(b, DType::i32, l.slots.size()), row_sequence(b, DType::i32, l.row_sequence.size()), q_norm(b, DType::f32, s.head_dim), k_norm(b, DType::f32, s.head_dim),
        frequency(b, DType::f32, std::max(1, s.rope_dims / 2)) {
    row_begin.integers(l.row_begin), context.integers(l.context), table.integers(l.table), positions.integers(l.positions);
    slots.integers(l.slots), row_sequence.integers(l.row_sequence), q_norm.normal(), k_norm.normal();
    for (int i = 0; i < s.rope_dims / 2; ++i) frequency.set(i, std::pow(10000.0f, -2.0f * i / s.rope_dims));
    frequency.upload();
  }
  Batch batch(const Layout& l, bool host) {
    Batch b;
    b.rows = l.rows, b.sequences = static_cast<int>(l.context.size()), b.max_rows = l.max_rows, b.max_context = l.max_context, b.block_table_stride = l.stride;
    b.host = {row_begin.host_as<int32_t>(), context.host_as<int32_t>(), table.host_as<int32_t>(), positions.host_as<int32_t>(), slots.host_as<int32_t>(), row_sequence.host_as<int32_t>()};
    b.row_begin = host ? b.host.row_begin : row_begin.twin_as<int32_t>();
    b.context = host ? b.host.context : context.twin_as<int32_t>();
    b.block_table = host ? b.host.block_table : table.twin_as<int32_t>();
    b.positions = host ? b.host.positions : positions.twin_as<int32_t>();
    b.kv_slot = host ? b.host.kv_slot : slots.twin_as<int32_t>();
    b.row_sequence = host ? b.host.row_sequence : row_sequence.twin_as<int32_t>();
    return b;
  }
};

// Rounded queries shift every score by a few units of the type; an int8 key may round the other way.
double allowed_error(const AttentionSpec& s) {
  return (s.type == DType::f32 ? (s.kv == KvFormat::f32 ? 1e-4 : 2e-3) : 3 * unit_of(s.type)) + (s.kv == KvFormat::int8 ? 4e-3 : 0) + (s.kv == KvFormat::bf16 ? 1e-2 : 0);
}

std::vector<float> as_floats(const Array& a) {
  std::vector<float> out(a.count());
  for (size_t i = 0; i < out.size(); ++i) out[i] = a.get(i);
  return out;
}

void run_case(const Implementation<AttentionSpec, AttentionParams>& attention, const AttentionSpec& s, const std::vector<Sequence>& sequences, Bench& bench, Check& check) {
  const auto& reference = *attention_implementations(device::DeviceKind::cpu).back();
  const Layout layout(sequences, s.position_axes, bench);
  Pool pool(s, layout, sequences, bench);
  Inputs inputs(s, layout, bench);
  const int qkv_stride = (s.heads + 2 * s.kv_heads) * s.head_dim + 8, width = s.heads * s.head_dim, out_stride = width + 8;
  Array qkv(bench, s.type, size_t(layout.rows) * qkv_stride), out(bench, s.type, size_t(layout.rows) * out_stride);
  Array scratch(bench, DType::u8, attention.workspace_bytes ? attention.workspace_bytes(s, layout.rows, bench.info()) : 1);
  if (!bench.status) return;
  qkv.normal(), out.poison(), scratch.poison();

  AttentionSpec rs = s;
  rs.type = DType::f32;
  std::vector<float> r_qkv = as_floats(qkv), r_out(out.count()), r_ks = as_floats(pool.k_scale), r_vs = as_floats(pool.v_scale);
  std::vector<uint8_t> r_k = pool.k.copy(), r_v = pool.v.copy(), r_scratch(reference.workspace_bytes ? reference.workspace_bytes(rs, layout.rows, bench.info()) : 0);
  AttentionParams p;
  p.batch = inputs.batch(layout, true), p.qkv = r_qkv.data(), p.qkv_stride = qkv_stride, p.out = r_out.data(), p.out_stride = out_stride, p.rope_amplitude = 1.1f;
  p.q_norm = inputs.q_norm.host_as<float>(), p.k_norm = inputs.k_norm.host_as<float>(), p.inverse_frequency = inputs.frequency.host_as<float>();
  p.kv = {r_k.data(), r_v.data(), r_ks.data(), r_vs.data()}, p.workspace = r_scratch.data();
  reference.run(rs, p, bench.reference);

  p.batch = inputs.batch(layout, false), p.qkv = qkv.twin(), p.out = out.twin(), p.workspace = scratch.twin();
  p.q_norm = inputs.q_norm.twin_as<float>(), p.k_norm = inputs.k_norm.twin_as<float>(), p.inverse_frequency = inputs.frequency.twin_as<float>();
  p.kv = {pool.k.twin(), pool.v.twin(), pool.k_scale.twin_as<float>(), pool.v_scale.twin_as<float>()};
  attention.run(s, p, bench.device.stream());
  out.download();
  Error error;
  for (int row = 0; row < layout.rows; ++row)
    for (int i = 0; i < width; ++i) error.add(out.get(size_t(row) * out_stride + i), r_out[size_t(row) * out_stride + i]);
  record(check, error, allowed_error(s), describe(s) + ", " + std::to_string(sequences.size()) + " sequences, " + std::to_string(layout.rows) + " rows");
}

AttentionSpec random_spec(int head_dim, KvFormat kv, int turn, Bench& bench) {
  constexpr int groupings[][2] = {{4, 4}, {8, 2}, {6, 1}, {14, 2}, {12, 1}};
  AttentionSpec s;
  s.heads = groupings[turn % 5][0], s.kv_heads = groupings[turn % 5][1], s.head_dim = head_dim, s.kv = kv;
  s.scale = 1 / std::sqrt(static_cast<float>(head_dim));
  s.type = !bench.cuda() || kv == KvFormat::f32 ? DType::f32 : kv == KvFormat::bf16 ? DType::bf16 : DType::f16;
  s.rope_dims = turn % 4 == 2 ? head_dim / 4 * 2 : head_dim;
  if (turn % 3 == 1) s.window = bench.integer(1, 200);
  s.rope_interleaved = turn % 4 == 3;
  s.qk_norm = turn % 5 == 4;
  return s;
}

std::vector<Sequence> random_sequences(int style, Bench& bench) {
  if (style == 0) return {{bench.integer(0, 300), bench.integer(2, 150)}};  // a prefill chunk
  std::vector<Sequence> out;
  for (int n = bench.integer(1, 6); n > 0; --n) out.push_back({bench.integer(0, 400), style == 1 || bench.integer(0, 1) ? 1 : bench.integer(1, 100)});
  return out;
}

void run_vision_case(const Implementation<VisionAttentionSpec, VisionAttentionParams>& attention, const VisionAttentionSpec& s, Bench& bench, Check& check) {
  const auto& reference = *vision_attention_implementations(device::DeviceKind::cpu).back();
  std::vector<int32_t> ends{0};
  int longest = 0;
  for (int n = bench.integer(1, 4); n > 0; --n) {
    const int length = bench.integer(1, 300);
    longest = std::max(longest, length), ends.push_back(ends.back() + length);
  }
  const int rows = ends.back(), width = s.heads * s.head_dim;
  Array segment(bench, DType::i32, ends.size()), qkv(bench, s.type, size_t(rows) * 3 * width), out(bench, s.type, size_t(rows) * width);
  Array cosine(bench, DType::f32, size_t(rows) * s.head_dim), sine(bench, DType::f32, size_t(rows) * s.head_dim);
  Array scratch(bench, DType::u8, attention.workspace_bytes ? attention.workspace_bytes(s, rows, bench.info()) : 1);
  if (!bench.status) return;
  segment.integers(ends), qkv.normal(), out.poison(), scratch.poison();
  for (size_t i = 0; i < cosine.count(); ++i) { const float angle = bench.normal(); cosine.set(i, std::cos(angle)), sine.set(i, std::sin(angle)); }
  cosine.upload(), sine.upload();
  VisionAttentionSpec rs = s;
  rs.type = DType::f32;
  std::vector<float> r_qkv = as_floats(qkv), r_out(out.count());
  std::vector<uint8_t> r_scratch(reference.workspace_bytes ? reference.workspace_bytes(rs, rows, bench.info()) : 0);
  VisionAttentionParams p{rows, static_cast<int>(ends.size()) - 1, longest, segment.host_as<int32_t>(), segment.host_as<int32_t>(), cosine.host_as<float>(),
                          sine.host_as<float>(), r_qkv.data(), 3 * width, r_out.data(), width, r_scratch.data()};
  reference.run(rs, p, bench.reference);
  p.segment = segment.twin_as<int32_t>(), p.rope_cos = cosine.twin_as<float>(), p.rope_sin = sine.twin_as<float>();
  p.qkv = qkv.twin(), p.out = out.twin(), p.workspace = scratch.twin();
  attention.run(s, p, bench.device.stream());
  out.download();
  Error error;
  for (size_t i = 0; i < out.count(); ++i) error.add(out.get(i), r_out[i]);
  record(check, error, s.type == DType::f32 ? 1e-4 : 3 * unit_of(s.type), describe(s) + ", " + std::to_string(rows) + " rows");
}

}  // namespace

std::vector<Check> check_attention(Bench& bench) {
  std::vector<Check> checks;
  const auto* reference = attention_implementations(device::DeviceKind::cpu).back();
  for (const auto* attention : attention_implementations(bench.info().kind)) {
    if (attention == reference) continue;
    Check check{"attention", attention->name, 0, 0, 0, {}, {}};
    int turn = 0;
    for (int head_dim : {64, 72, 80, 96, 128, 256, 40})
      for (KvFormat kv : {KvFormat::f16, KvFormat::int8, KvFormat::bf16, KvFormat::f32})
        for (int style = 0; style < 3; ++style) {
          const AttentionSpec s = random_spec(head_dim, kv, turn++, bench);
          if (!bench.status) return checks;
          if (const char* no = attention->declines(s, bench.info())) check.skipped = no;
          else run_case(*attention, s, random_sequences(style, bench), bench, check);
        }
    if (check.cases > 0) check.skipped.clear();
    checks.push_back(std::move(check));
  }
  return checks;
}

std::vector<Check> check_vision_attention(Bench& bench) {
  std::vector<Check> checks;
  const auto* reference = vision_attention_implementations(device::DeviceKind::cpu).back();
  for (const auto* attention : vision_attention_implementations(bench.info().kind)) {
    if (attention == reference) continue;
    Check check{"vision_attention", attention->name, 0, 0, 0, {}, {}};
    for (int head_dim : {64, 72, 80, 96, 128, 36})
      for (DType type : {DType::f32, DType::f16, DType::bf16}) {
        const VisionAttentionSpec s{bench.integer(1, 5), head_dim, 1 / std::sqrt(static_cast<float>(head_dim)), type, bench.integer(0, 1) == 1};
        if (!bench.status) return checks;
        if (const char* no = attention->declines(s, bench.info())) check.skipped = no;
        else run_vision_case(*attention, s, bench, check);
      }
    if (check.cases > 0) check.skipped.clear();
    checks.push_back(std::move(check));
  }
  return checks;
}

}  // namespace hearth::verify
