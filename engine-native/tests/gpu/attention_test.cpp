// Attention on the paged pool and vision attention, against the CPU reference on the same (rounded) inputs.
#include "device/cpu_stream.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/host/tuning.h"
#include "support.h"

namespace hearth::gpu_test {
namespace {

using namespace ops;
namespace reference = kernels::cpu::reference;

device::CpuStream& cpu() {
  static ThreadPool pool(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  static device::CpuStream stream(pool);
  return stream;
}

DType pool_type(KvFormat f) { return f == KvFormat::int8 ? DType::i8 : f == KvFormat::f16 ? DType::f16 : f == KvFormat::bf16 ? DType::bf16 : DType::f32; }

struct Sequence { int history, rows; };

void check_attention(AttentionSpec s, const std::vector<Sequence>& sequences, int empty_slots, const char* wanted, const std::string& label) {
  const AttentionSpec& spec = s;
  SCOPED_TRACE(label + " d" + std::to_string(s.head_dim) + " heads " + std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " kv " + std::to_string(static_cast<int>(s.kv)));
  const Implementation<AttentionSpec, AttentionParams>* attention = nullptr;
  for (const auto* candidate : kernels::cuda::attention_implementations())
    if (!candidate->declines(s, gpu().info())) { attention = candidate; break; }
  ASSERT_NE(attention, nullptr);
  ASSERT_STREQ(attention->name, wanted);

  const int live = static_cast<int>(sequences.size()), count = live + empty_slots;
  std::vector<int32_t> row_begin{0}, context, positions, slots, row_sequence;
  int blocks_total = 1, max_rows = 1, max_context = 1, stride = 1;
  for (const Sequence& q : sequences) {
    stride = std::max(stride, (q.history + q.rows + kv_block_tokens - 1) / kv_block_tokens);
    blocks_total += (q.history + q.rows + kv_block_tokens - 1) / kv_block_tokens;
    max_rows = std::max(max_rows, q.rows);
    max_context = std::max(max_context, q.history + q.rows);
  }
  std::vector<int32_t> ids(blocks_total);
  for (int i = 0; i < blocks_total; ++i) ids[i] = i;
  std::shuffle(ids.begin(), ids.end(), random_engine());
  std::vector<int32_t> table(static_cast<size_t>(count) * stride, -1);
  int next = 0;
  for (int i = 0; i < count; ++i) {
    const Sequence q = i < live ? sequences[i] : Sequence{0, 1};
    const int total = i < live ? q.history + q.rows : 0;
    for (int b = 0; b < (total + kv_block_tokens - 1) / kv_block_tokens; ++b) table[i * stride + b] = ids[next++];
    for (int r = 0; r < q.rows; ++r) {
      const int at = q.history + r;
      slots.push_back(i < live ? table[i * stride + at / kv_block_tokens] * kv_block_tokens + at % kv_block_tokens : -1);
      row_sequence.push_back(i);
    }
    row_begin.push_back(static_cast<int32_t>(row_sequence.size()));
    context.push_back(total);
  }
  const int rows = static_cast<int>(row_sequence.size());
  for (int axis = 0; axis < s.position_axes; ++axis)
    for (int i = 0; i < count; ++i)
      for (int r = row_begin[i]; r < row_begin[i + 1]; ++r) positions.push_back((i < live ? sequences[i].history : 0) + r - row_begin[i] + axis * 3);

  Array d_row_begin(DType::i32, row_begin.size()), d_context(DType::i32, context.size()), d_table(DType::i32, table.size()), d_positions(DType::i32, positions.size()),
      d_slots(DType::i32, slots.size()), d_row_sequence(DType::i32, row_sequence.size());
  fill(d_row_begin, row_begin); fill(d_context, context); fill(d_table, table); fill(d_positions, positions); fill(d_slots, slots); fill(d_row_sequence, row_sequence);

  const size_t pool = static_cast<size_t>(blocks_total) * s.kv_heads * kv_block_tokens;
  const int qkv_width = (s.heads + 2 * s.kv_heads) * s.head_dim, qkv_stride = qkv_width + 8, out_stride = s.heads * s.head_dim + 8;
  Array k(pool_type(s.kv), pool * s.head_dim), v(pool_type(s.kv), pool * s.head_dim), k_scale(DType::f32, pool), v_scale(DType::f32, pool);
  // History is random, everything else of the pool is NaN (or garbage, for integers).
  std::memset(k.host(), 0xff, k.count() * size_of(k.type()));
  std::memset(v.host(), 0xff, v.count() * size_of(v.type()));
  std::memset(k_scale.host(), 0xff, pool * 4);
  std::memset(v_scale.host(), 0xff, pool * 4);
  for (int i = 0; i < live; ++i)
    for (int t = 0; t < sequences[i].history; ++t)
      for (int h = 0; h < s.kv_heads; ++h) {
        const size_t at = (static_cast<size_t>(table[i * stride + t / kv_block_tokens]) * s.kv_heads + h) * kv_block_tokens + t % kv_block_tokens;
        for (int d = 0; d < s.head_dim; ++d) {
          const bool whole = s.kv == KvFormat::int8;
          k.set(at * s.head_dim + d, whole ? random_int(-127, 127) : random_normal());
          v.set(at * s.head_dim + d, whole ? random_int(-127, 127) : random_normal());
        }
        k_scale.set(at, 0.01f + 0.01f * random_int(0, 100) / 100.f);
        v_scale.set(at, 0.01f + 0.01f * random_int(0, 100) / 100.f);
      }
  k.upload(); v.upload(); k_scale.upload(); v_scale.upload();
  Array qkv(s.type, static_cast<size_t>(rows) * qkv_stride), out(s.type, static_cast<size_t>(rows) * out_stride);
  qkv.normal(); out.poison();
  Array q_norm(DType::f32, s.head_dim), k_norm(DType::f32, s.head_dim), frequency(DType::f32, std::max(1, s.rope_dims / 2));
  q_norm.normal(); k_norm.normal();
  for (int i = 0; i < s.rope_dims / 2; ++i) frequency.set(i, std::pow(10000.0f, -2.0f * i / s.rope_dims));
  frequency.upload();

  AttentionParams p;
  Batch& b = p.batch;
  b.rows = rows; b.sequences = count; b.max_rows = max_rows; b.max_context = max_context; b.block_table_stride = stride;
  auto set_host = [&](Array& a, const int32_t*& device_pointer, const int32_t*& host_pointer) { device_pointer = a.as<int32_t>(); host_pointer = a.host_as<int32_t>(); };
  set_host(d_row_begin, b.row_begin, b.host.row_begin); set_host(d_context, b.context, b.host.context); set_host(d_table, b.block_table, b.host.block_table);
  set_host(d_positions, b.positions, b.host.positions); set_host(d_slots, b.kv_slot, b.host.kv_slot); set_host(d_row_sequence, b.row_sequence, b.host.row_sequence);
  p.qkv_stride = qkv_stride; p.out_stride = out_stride; p.rope_amplitude = 1.1f;

  // The reference, in f32 on the values the 16-bit inputs hold.
  AttentionParams r = p;
  AttentionSpec rs = spec;
  rs.type = DType::f32;
  std::vector<float> r_qkv(qkv.count()), r_out(out.count(), 0.f);
  for (size_t i = 0; i < qkv.count(); ++i) r_qkv[i] = qkv.get(i);
  std::vector<uint8_t> r_k(k.count() * size_of(k.type())), r_v(r_k.size());
  std::memcpy(r_k.data(), k.host(), r_k.size());
  std::memcpy(r_v.data(), v.host(), r_v.size());
  std::vector<float> r_ks(pool), r_vs(pool);
  for (size_t i = 0; i < pool; ++i) { r_ks[i] = k_scale.get(i); r_vs[i] = v_scale.get(i); }
  std::vector<uint8_t> r_workspace(reference::attention.workspace_bytes(rs, rows, gpu().info()));
  r.batch.row_begin = b.host.row_begin; r.batch.context = b.host.context; r.batch.block_table = b.host.block_table;
  r.batch.positions = b.host.positions; r.batch.kv_slot = b.host.kv_slot; r.batch.row_sequence = b.host.row_sequence;
  r.qkv = r_qkv.data(); r.out = r_out.data(); r.workspace = r_workspace.data();
  r.q_norm = q_norm.host_as<float>(); r.k_norm = k_norm.host_as<float>(); r.inverse_frequency = frequency.host_as<float>();
  r.kv = {r_k.data(), r_v.data(), r_ks.data(), r_vs.data()};
  reference::attention.run(rs, r, cpu());

  Array workspace(DType::u8, attention->workspace_bytes ? attention->workspace_bytes(s, rows, gpu().info()) : 1);
  workspace.poison();
  p.qkv = qkv.device(); p.out = out.device(); p.workspace = workspace.device();
  p.q_norm = q_norm.as<float>(); p.k_norm = k_norm.as<float>(); p.inverse_frequency = frequency.as<float>();
  p.kv = {k.device(), v.device(), k_scale.as<float>(), v_scale.as<float>()};
  attention->run(s, p, gpu().stream());
  out.download(); k.download(); v.download(); k_scale.download();
  if (max_rows == 1) {  // the same bits in every replay
    const std::vector<uint8_t> before(static_cast<const uint8_t*>(out.host()), static_cast<const uint8_t*>(out.host()) + out.count() * size_of(s.type));
    for (int i = 0; i < 3; ++i) attention->run(s, p, gpu().stream());
    out.download();
    EXPECT_EQ(std::memcmp(before.data(), out.host(), before.size()), 0);
  }

  const double unit = epsilon_of(s.type);
  Errors e, written;
  for (int row = 0; row < rows; ++row)
    for (int i = 0; i < s.heads * s.head_dim; ++i) {
      const size_t at = static_cast<size_t>(row) * out_stride + i;
      e.add(out.get(at), r_out[at], 0);
    }
  EXPECT_EQ(e.bad, 0u) << "of " << e.count;
  // Rounded queries shift every score by a few units of the type; int8 keys may round the other way.
  EXPECT_LT(e.relative(), (s.type == DType::f32 ? 1e-4 : 3 * unit) + (s.kv == KvFormat::int8 ? 4e-3 : 0)) << "reference norm " << std::sqrt(e.reference);
  for (int row = 0; row < rows; ++row)
    for (int h = 0; slots[row] >= 0 && h < s.kv_heads; ++h) {
      const size_t token = (static_cast<size_t>(slots[row] / kv_block_tokens) * s.kv_heads + h) * kv_block_tokens + slots[row] % kv_block_tokens;
      for (int d = 0; d < s.head_dim; ++d) {
        const size_t at = token * s.head_dim + d;
        float want_k, want_v;
        if (s.kv == KvFormat::int8) { want_k = static_cast<int8_t>(r_k[at]); want_v = static_cast<int8_t>(r_v[at]); }
        else if (s.kv == KvFormat::f16) { Half a, c; std::memcpy(&a, &r_k[at * 2], 2); std::memcpy(&c, &r_v[at * 2], 2); want_k = to_float(a); want_v = to_float(c); }
        else if (s.kv == KvFormat::bf16) { BFloat16 a, c; std::memcpy(&a, &r_k[at * 2], 2); std::memcpy(&c, &r_v[at * 2], 2); want_k = to_float(a); want_v = to_float(c); }
        else { std::memcpy(&want_k, &r_k[at * 4], 4); std::memcpy(&want_v, &r_v[at * 4], 4); }
        const double slack = s.kv == KvFormat::int8 ? 1.01 : 1e-4 + 2 * epsilon_of(k.type()) * (std::fabs(want_k) + 1);
        written.add(k.get(at), want_k, slack);
        written.add(v.get(at), want_v, s.kv == KvFormat::int8 ? 1.01 : 1e-6 + epsilon_of(k.type()) * std::fabs(want_v));
      }
    }
  EXPECT_EQ(written.bad, 0u);
  EXPECT_LE(written.worst, 1.0) << "KV write";
}

AttentionSpec shape(int heads, int kv_heads, int dim, DType type, KvFormat kv) {
  AttentionSpec s;
  s.heads = heads; s.kv_heads = kv_heads; s.head_dim = dim; s.type = type; s.kv = kv;
  s.scale = 1 / std::sqrt(static_cast<float>(dim));
  s.rope_dims = dim;
  return s;
}

void vary(AttentionSpec& s, int i) {
  if (i % 3 == 1) s.window = random_int(1, 200);
  if (i % 4 == 2) s.rope_dims = s.head_dim / 2 / 2 * 2;
  if (i % 4 == 3) s.rope_interleaved = true;
  if (i % 5 == 4) s.qk_norm = true;
  if (i % 6 == 5) { s.position_axes = 3; s.axis_sections[0] = s.rope_dims / 8; s.axis_sections[1] = s.rope_dims / 8; s.axis_sections[2] = s.rope_dims / 4; s.axis_interleaved = i % 12 == 5; }
}

struct Grouping { int heads, kv_heads; };
const Grouping groupings[] = {{4, 4}, {8, 2}, {6, 1}, {14, 2}, {12, 1}};

template <class Body> void each_shape(Body body) {
  int i = 0;
  for (int dim : {64, 72, 80, 96, 128, 256, 40})
    for (KvFormat kv : {KvFormat::f16, KvFormat::int8, KvFormat::bf16}) {
      const DType type = kv == KvFormat::bf16 || (kv == KvFormat::int8 && i % 2) ? DType::bf16 : DType::f16;
      const Grouping g = groupings[i % 5];
      AttentionSpec s = shape(g.heads, g.kv_heads, dim, type, kv);
      vary(s, i);
      body(s, i++);
    }
}

void check_decode(const AttentionSpec& s, int i, int longest, int most_sequences, const std::string& label) {
  std::vector<Sequence> sequences;
  for (int n = random_int(1, most_sequences); n > 0; --n) sequences.push_back({random_int(0, longest - 1), 1});
  check_attention(s, sequences, i % 3, "cuda/sm80/mma", label);
}
TEST(Attention, Decode) {
  const kernels::cuda::Tuning before = kernels::cuda::tuning();
  kernels::cuda::tuning().short_context = 0;
  each_shape([](const AttentionSpec& s, int i) { check_decode(s, i, 400, 6, "decode"); });
  kernels::cuda::tuning() = before;
}
// Few sequences with short contexts: every number of blocks a pair.
TEST(Attention, DecodeShort) {
  const kernels::cuda::Tuning before = kernels::cuda::tuning();
  for (int ranks : {1, 2, 4, 8}) {
    kernels::cuda::tuning().short_ranks = ranks;
    const std::string label = "short, ranks " + std::to_string(ranks);
    for (int longest : {100, 1024}) each_shape([&](const AttentionSpec& s, int i) { check_decode(s, i, longest, 4, label); });
    check_attention(shape(32, 32, 128, DType::f16, KvFormat::f16), {{160, 1}}, 0, "cuda/sm80/mma", label);
    check_attention(shape(32, 8, 128, DType::bf16, KvFormat::int8), {{0, 1}, {15, 1}}, 1, "cuda/sm80/mma", label);
    // Seven heads of 64 by eight blocks a pair take exactly 48 KB, beside what is static.
    check_attention(shape(14, 2, 64, DType::f16, KvFormat::f16), {{160, 1}, {31, 1}}, 0, "cuda/sm80/mma", label);
  }
  kernels::cuda::tuning() = before;
}
TEST(Attention, DecodeLongContext) {
  for (KvFormat kv : {KvFormat::f16, KvFormat::int8}) {
    check_attention(shape(8, 2, 128, DType::f16, kv), {{6000, 1}}, 0, "cuda/sm80/mma", "long");
    check_attention(shape(4, 4, 64, DType::f16, kv), {{0, 1}, {3999, 1}, {15, 1}, {16, 1}}, 2, "cuda/sm80/mma", "long ragged");
  }
}
// More sequences than a warp has lanes, contexts that cross the borders of blocks and warps, and equal ones that do not; by
// attention_decode, and by attention_short with several blocks a multiprocessor.
TEST(Attention, DecodeManySequences) {
  const kernels::cuda::Tuning before = kernels::cuda::tuning();
  for (int pairs : {0, 100})
    for (KvFormat kv : {KvFormat::f16, KvFormat::int8})
      for (const Grouping& g : {Grouping{4, 4}, {8, 2}, {6, 1}, {12, 1}}) {
        kernels::cuda::tuning().short_pairs = pairs;
        AttentionSpec s = shape(g.heads, g.kv_heads, g.heads == 8 ? 64 : 128, DType::f16, kv);
        std::vector<Sequence> ragged;
        for (int n = random_int(33, 90); n > 0; --n) ragged.push_back({random_int(0, random_int(0, 3) ? 100 : 600), 1});
        check_attention(s, ragged, 3, "cuda/sm80/mma", "ragged");
        check_attention(s, std::vector<Sequence>(random_int(1, 40), Sequence{random_int(0, 400), 1}), 0, "cuda/sm80/mma", "equal");
        s.window = random_int(1, 150);
        check_attention(s, ragged, 1, "cuda/sm80/mma", "windows");
      }
  // More pairs than are resident at once.
  for (KvFormat kv : {KvFormat::f16, KvFormat::int8}) check_attention(shape(32, 32, 128, DType::f16, kv), std::vector<Sequence>(20, Sequence{random_int(0, 100), 1}), 1, "cuda/sm80/mma", "crowd");
  // Little memory a warp, and parts of eight heads that want more than a stage of it.
  check_attention(shape(64, 8, 128, DType::f16, KvFormat::int8), std::vector<Sequence>(64, Sequence{random_int(50, 200), 1}), 1, "cuda/sm80/mma", "eight heads");
  kernels::cuda::tuning() = before;
}
// One query head a KV head and an int8 pool, from a cluster a pair to a warp a pair.
TEST(Attention, DecodeSingle) {
  int i = 0;
  for (int count : {1, 3, 12, 24, 40, 64})
    for (DType type : {DType::f16, DType::bf16})
      for (int longest : {40, 300}) {
        AttentionSpec s = shape(32, 32, 128, type, KvFormat::int8);
        vary(s, i++);
        std::vector<Sequence> ragged;
        for (int n = 0; n < count; ++n) ragged.push_back({random_int(0, longest), 1});
        check_attention(s, ragged, count % 3, "cuda/sm80/mma", "single, " + std::to_string(count) + " sequences");
      }
}
// Every depth of the ring and number of warps.
TEST(Attention, DecodeRings) {
  const kernels::cuda::Tuning before = kernels::cuda::tuning();
  kernels::cuda::tuning().short_context = 0;
  for (int warps : {1, 3, 4, 8, 12, 16})
    for (int stages : {2, 3, 4, 6}) {
      kernels::cuda::tuning().decode_warps = kernels::cuda::tuning().decode_int8_warps = warps;
      kernels::cuda::tuning().decode_stages = stages;
      for (KvFormat kv : {KvFormat::f16, KvFormat::int8})
        check_attention(shape(4, coin() ? 4 : 2, coin() ? 128 : 64, DType::f16, kv), {{random_int(0, 2000), 1}, {random_int(0, 60), 1}, {random_int(0, 60), 1}}, 1, "cuda/sm80/mma",
                        "warps " + std::to_string(warps) + " stages " + std::to_string(stages));
    }
  kernels::cuda::tuning() = before;
}
TEST(Attention, Prefill) {
  each_shape([](const AttentionSpec& s, int i) {
    check_attention(s, {{i % 2 ? random_int(0, 300) : 0, random_int(2, 300)}}, 0, "cuda/sm80/mma", "prefill");
  });
}
TEST(Attention, BlockBoundaries) {
  for (int rows : {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129})
    for (int history : {0, 1, 16, 64, 127}) check_attention(shape(4, 2, 64, DType::f16, KvFormat::f16), {{history, rows}}, 0, "cuda/sm80/mma", "boundary " + std::to_string(history) + "+" + std::to_string(rows));
}
TEST(Attention, Mixed) {
  each_shape([](const AttentionSpec& s, int i) {
    std::vector<Sequence> sequences;
    for (int n = random_int(2, 7); n > 0; --n) sequences.push_back({random_int(0, 250), coin() ? 1 : random_int(1, 150)});
    check_attention(s, sequences, i % 2, "cuda/sm80/mma", "mixed");
  });
}
// Many tiles of keys, chunks against a long history, windows that begin inside a tile.
TEST(Attention, LongPrefill) {
  for (int dim : {64, 72, 128, 256})
    for (KvFormat kv : {KvFormat::f16, KvFormat::int8})
      for (int window : {0, 333}) {
        AttentionSpec s = shape(4, 2, dim, DType::f16, kv);
        s.window = window;
        check_attention(s, {{random_int(600, 900), random_int(500, 700)}, {0, random_int(250, 400)}, {random_int(0, 40), 1}}, 1, "cuda/sm80/mma", "long prefill, window " + std::to_string(window));
      }
}
TEST(Attention, GenericTakesOddHeads) {
  for (int dim : {20, 36, 100, 320}) {
    check_attention(shape(3, 1, dim, DType::f32, KvFormat::f32), {{40, 3}, {9, 1}, {0, 20}}, 0, "cuda/generic", "f32");
    AttentionSpec s = shape(4, 2, dim, DType::f16, dim == 320 ? KvFormat::int8 : KvFormat::f16);
    if (dim % 8 == 0 && dim <= 256) continue;
    check_attention(s, {{40, 3}, {9, 1}, {0, 20}}, 1, "cuda/generic", "odd");
  }
}

// `broken`: a segment whose rows are NaN, which must stay its own affair.
void check_vision(const VisionAttentionSpec& s, const std::vector<int32_t>& segment, int broken = -1) {
  const DType type = s.type;
  const int dim = s.head_dim;
  SCOPED_TRACE("d" + std::to_string(dim) + " type " + std::to_string(static_cast<int>(type)));
  const int longest = [&] { int most = 0; for (size_t j = 1; j < segment.size(); ++j) most = std::max(most, segment[j] - segment[j - 1]); return most; }();
  const int rows = segment.back(), width = s.heads * dim;
  Array segments(DType::i32, segment.size()), qkv(type, static_cast<size_t>(rows) * 3 * width), out(type, static_cast<size_t>(rows) * width), c(DType::f32, static_cast<size_t>(rows) * dim), n(DType::f32, static_cast<size_t>(rows) * dim);
  fill(segments, segment);
  qkv.normal(); out.poison();
  if (broken >= 0) {
    for (int64_t j = int64_t{segment[broken]} * 3 * width; j < int64_t{segment[broken + 1]} * 3 * width; ++j) qkv.set(j, NAN);
    qkv.upload();
  }
  for (size_t j = 0; j < c.count(); ++j) { const float angle = random_normal(); c.set(j, std::cos(angle)); n.set(j, std::sin(angle)); }
  c.upload(); n.upload();
  VisionAttentionSpec rs = s;
  rs.type = DType::f32;
  std::vector<float> r_qkv(qkv.count()), r_out(out.count());
  for (size_t j = 0; j < qkv.count(); ++j) r_qkv[j] = qkv.get(j);
  std::vector<uint8_t> scratch(reference::vision_attention.workspace_bytes(rs, rows, gpu().info()));
  VisionAttentionParams r{rows, static_cast<int>(segment.size()) - 1, longest, segments.host_as<int32_t>(), segments.host_as<int32_t>(), c.host_as<float>(), n.host_as<float>(), r_qkv.data(), 3 * width, r_out.data(), width, scratch.data()};
  reference::vision_attention.run(rs, r, cpu());
  const Implementation<VisionAttentionSpec, VisionAttentionParams>* attention = nullptr;
  for (const auto* candidate : kernels::cuda::vision_attention_implementations())
    if (!candidate->declines(s, gpu().info())) { attention = candidate; break; }
  ASSERT_NE(attention, nullptr);
  ASSERT_STREQ(attention->name, dim == 36 || type == DType::f32 ? "cuda/generic" : "cuda/sm80/mma");
  VisionAttentionParams p = r;
  p.segment = segments.as<int32_t>(); p.rope_cos = c.as<float>(); p.rope_sin = n.as<float>(); p.qkv = qkv.device(); p.out = out.device(); p.workspace = nullptr;
  attention->run(s, p, gpu().stream());
  out.download();
  Errors e;
  for (size_t j = 0; j < out.count(); ++j) {
    const int row = static_cast<int>(j / width);
    if (broken < 0 || row < segment[broken] || row >= segment[broken + 1]) e.add(out.get(j), r_out[j], 0);
  }
  EXPECT_EQ(e.bad, 0u);
  EXPECT_LT(e.relative(), type == DType::f32 ? 1e-4 : 3 * epsilon_of(type));
}

TEST(VisionAttention, Segments) {
  int i = 0;
  for (int dim : {64, 72, 80, 96, 128, 36})
    for (DType type : {DType::f16, DType::bf16, DType::f32}) {
      std::vector<int32_t> segment{0};
      for (int n = random_int(1, 5); n > 0; --n) segment.push_back(segment.back() + random_int(1, n == 2 ? 700 : 150));
      check_vision({random_int(1, 5), dim, 1 / std::sqrt(static_cast<float>(dim)), type, i++ % 2 == 1}, segment);
    }
}
// The towers' own sizes, several images at once.
TEST(VisionAttention, Towers) {
  for (DType type : {DType::f16, DType::bf16}) {
    check_vision({2, 64, 0.125f, type, false}, {0, 577, 577 + 192, 900}, 1);
    check_vision({2, 72, 1 / std::sqrt(72.f), type, false}, {0, 729, 729 + 65, 1000}, 1);
    check_vision({70, 72, 1 / std::sqrt(72.f), type, false}, {0, 65, 65 + 193, 600, 601}, 1);  // enough for the kernels of many
  }
  check_vision({3, 72, 1 / std::sqrt(72.f), DType::f16, false}, {0, 729, 2 * 729, 3 * 729});
  check_vision({16, 72, 1 / std::sqrt(72.f), DType::f16, false}, {0, 729, 2 * 729, 3 * 729, 4 * 729, 5 * 729});  // enough for the kernels of many
  check_vision({3, 64, 0.125f, DType::f16, false}, {0, 577, 2 * 577}, 1);
  check_vision({3, 72, 1 / std::sqrt(72.f), DType::f16, false}, {0, 100, 229, 400}, 1);
  check_vision({2, 80, 1 / std::sqrt(80.f), DType::bf16, true}, {0, 1024, 1024 + 64, 1024 + 128, 2000});
}

}  // namespace
}  // namespace hearth::gpu_test
