// Consecutive w4 linears of a captured step as one kernel against the same linears one by one.
#include <cmath>
#include <cstring>
#include <functional>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/host/tuning.h"
#include "support.h"

namespace hearth::gpu_test {
namespace {

using namespace ops;

struct Part {
  LinearSpec spec;
  const LinearImplementation* implementation = nullptr;
  std::unique_ptr<Array> weight, norm, bias;
  Part(int in, int out, DType type, bool normed, bool residual, bool gated, bool biased, Activation activation) {
    spec.in = in; spec.out = out; spec.weight = WeightFormat::w4; spec.group = 128;
    spec.x_type = normed ? DType::f32 : type; spec.y_type = residual ? DType::f32 : type;
    spec.residual = residual; spec.gated = gated; spec.bias = biased; spec.activation = activation;
    spec.norm = normed ? NormKind::rms : NormKind::none; spec.norm_epsilon = 1e-5f;
    for (const auto* candidate : kernels::cuda::linear_implementations())
      if (!candidate->declines(spec, gpu().info())) { implementation = candidate; break; }
    std::vector<uint8_t> data(static_cast<size_t>(in) * out / 2), zeros(static_cast<size_t>(out) * (in / 128));
    std::vector<float> scales(zeros.size());
    for (auto& b : data) b = static_cast<uint8_t>(random_int(0, 255));
    for (auto& z : zeros) z = static_cast<uint8_t>(random_int(0, 15));
    for (auto& v : scales) v = (0.5f + random_int(0, 100) / 100.f) * 0.1f / std::sqrt(static_cast<float>(in));
    weight = std::make_unique<Array>(DType::u8, implementation->packed_bytes(spec));
    implementation->pack(spec, {in, out, WeightFormat::w4, 128, false, data.data(), scales.data(), zeros.data()}, 0, out, weight->host());
    weight->upload();
    norm = std::make_unique<Array>(DType::f32, in);
    for (int i = 0; i < in; ++i) norm->set(i, 1 + 0.1f * random_normal());
    norm->upload();
    bias = std::make_unique<Array>(DType::f32, out);
    bias->normal();
  }
  void run(int rows, Array& x, Array& y, Array& workspace) const {
    LinearParams p;
    p.rows = rows; p.x = x.device(); p.x_stride = spec.in; p.norm_weight = norm->as<float>(); p.weight = weight->device(); p.bias = bias->as<float>();
    p.y = y.device(); p.y_stride = spec.gated ? spec.out / 2 : spec.out; p.workspace = workspace.device();
    implementation->run(spec, p, gpu().stream());
  }
};

std::vector<float> values(Array& array) {
  array.download();
  std::vector<float> out(array.count());
  for (size_t i = 0; i < out.size(); ++i) out[i] = array.get(i);
  return out;
}
// Relative error of each row: a row that is wrong does not hide behind the others.
double worst_row(const std::vector<float>& a, const std::vector<float>& b, int rows) {
  double worst = 0;
  const size_t width = a.size() / rows;
  for (int r = 0; r < rows; ++r) {
    double sum = 0, size = 0;
    for (size_t i = r * width; i < (r + 1) * width; ++i) { sum += (a[i] - b[i]) * static_cast<double>(a[i] - b[i]); size += static_cast<double>(b[i]) * b[i]; }
    const double error = std::sqrt(sum / std::max(size, 1e-30));
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

// Where two matrices differ, for whoever looks for a reason.
void describe(const std::vector<float>& a, const std::vector<float>& b, int rows) {
  const int width = static_cast<int>(a.size()) / rows;
  for (int r = 0; r < rows; r += std::max(1, rows / 6)) {
    std::printf("row %d, error by sixteenth of a row:", r);
    for (int part = 0; part < 16; ++part) {
      double sum = 0, size = 0;
      for (int i = width * part / 16; i < width * (part + 1) / 16; ++i) { const double v = a[r * width + i], w = b[r * width + i]; sum += (v - w) * (v - w); size += w * w; }
      std::printf(" %.3f", std::sqrt(sum / size));
    }
    std::printf("; first %g %g, want %g %g\n", a[r * width], a[r * width + 8], b[r * width], b[r * width + 8]);
  }
}

// o, gate and up, down, qkv of a model of this width.
struct Layer {
  int width, inner, ffn, all;
  DType type;
  Part o, up, down, qkv;
  Layer(int width_, int inner_, int ffn_, int all_, DType type_, bool biased)
      : width(width_), inner(inner_), ffn(ffn_), all(all_), type(type_), o(inner, width, type, false, true, false, biased, Activation::none), up(width, 2 * ffn, type, true, false, true, biased, Activation::silu),
        down(ffn, width, type, false, true, false, biased, Activation::none), qkv(width, all, type, true, false, false, biased, Activation::none) {}
};

// A layer twice over, so that chains follow one another.
struct Chained {
  int rows;
  const Part &o, &up, &down, &qkv;
  Array attended, x, gates, out, workspace;
  Chained(int rows_, const Layer& l)
      : rows(rows_), o(l.o), up(l.up), down(l.down), qkv(l.qkv), attended(l.type, static_cast<size_t>(rows) * l.inner), x(DType::f32, static_cast<size_t>(rows) * l.width),
        gates(l.type, static_cast<size_t>(rows) * l.ffn), out(l.type, static_cast<size_t>(rows) * l.all), workspace(DType::u8, scratch()) {}
  size_t scratch() const {
    size_t most = 256;
    for (const Part* p : {&o, &up, &down, &qkv}) most = std::max(most, p->implementation->workspace_bytes(p->spec, rows, gpu().info()));
    return most;
  }
  void run() {
    for (int i = 0; i < 2; ++i) {
      o.run(rows, attended, x, workspace);
      up.run(rows, x, gates, workspace);
      down.run(rows, gates, x, workspace);
      qkv.run(rows, x, out, workspace);
    }
  }
};

void check_chain(int rows, const Layer& layer, int kernels_most) {
  const DType type = layer.type;
  SCOPED_TRACE("rows " + std::to_string(rows) + " width " + std::to_string(layer.width) + " inner " + std::to_string(layer.inner) + " ffn " + std::to_string(layer.ffn) + " all " + std::to_string(layer.all) + (type == DType::bf16 ? " bf16" : " f16"));
  Chained chain(rows, layer);
  chain.x.normal();
  chain.attended.normal();
  const std::vector<float> start = values(chain.x);
  auto restart = [&] {
    for (size_t i = 0; i < start.size(); ++i) chain.x.set(i, start[i]);
    chain.x.upload();
    for (Array* to : {&chain.gates, &chain.out, &chain.workspace}) to->poison();
  };
  auto& tuning = kernels::cuda::tuning();
  const auto before = tuning;
  restart();
  tuning.chain_rows = 0;
  chain.run();
  const auto want_x = values(chain.x), want_gates = values(chain.gates), want = values(chain.out);
  tuning.chain_rows = 64;
  tuning.program_rows = 4;  // so few rows as the chain takes, too, may be a program's
  const uint64_t launched = device::cuda(gpu().stream()).launches();
  auto graph = gpu().capture([](void* c) { static_cast<Chained*>(c)->run(); return Status::ok(); }, &chain);
  tuning = before;
  ASSERT_TRUE(graph) << graph.status().message();
  EXPECT_LE(device::cuda(gpu().stream()).launches() - launched, static_cast<uint64_t>(kernels_most)) << "the linears are one kernel";
  std::vector<float> first;
  for (int i = 0; i < 5; ++i) {
    restart();
    Array::check(gpu().replay(**graph));
    const double limit = type == DType::bf16 ? 2e-2 : 3e-3;
    const auto got = values(chain.out);
    EXPECT_LT(worst_row(values(chain.gates), want_gates, rows), limit) << "gates";
    EXPECT_LT(worst_row(values(chain.x), want_x, rows), limit) << "residual";
    EXPECT_LT(worst_row(got, want, rows), limit) << "qkv";
    if (testing::Test::HasFailure()) return describe(got, want, rows);
    if (i == 0) first = got;
    EXPECT_EQ(std::memcmp(first.data(), got.data(), got.size() * 4), 0) << "not deterministic";
  }
}

// Clusters and wgmma: no other device has what the chain is made of, and there it is never chosen.
class Chain : public testing::Test {
 protected:
  void SetUp() override {
    if (gpu().info().compute_capability != 90) GTEST_SKIP() << "Hopper alone has it";
  }
};

TEST_F(Chain, MatchesItsLinears) {
  // Two launches: a second o cannot follow qkv.
  const Layer half(4096, 4096, 11008, 12288, DType::f16, false), bfloat(4096, 4096, 11008, 12288, DType::bf16, true);
  for (int rows : {5, 6, 8, 9, 12, 16, 17, 24, 27, 32, 33, 40, 48, 50, 64}) check_chain(rows, half, 2);
  for (int rows : {7, 8, 13, 22, 24, 47, 61}) check_chain(rows, bfloat, 2);
}

// More tiles of gate·up than the kernels of most shapes hold sums for.
TEST_F(Chain, MatchesAtWideShapes) {
  const Layer half(4096, 4096, 14336, 6144, DType::f16, false), bfloat(4096, 4096, 14336, 6144, DType::bf16, false);
  for (int rows : {24, 40, 48, 49, 56, 64}) check_chain(rows, half, 2);
  for (int rows : {33, 55, 64}) check_chain(rows, bfloat, 2);
  const Layer wider(3584, 3584, 18944, 4608, DType::f16, true);
  for (int rows : {32, 48, 64}) check_chain(rows, wider, 2);
}

// Small enough for compute-sanitizer.
TEST_F(Chain, MatchesAtItsSmallestShape) {
  const Layer layer(1152, 256, 1152, 1152, DType::f16, true);
  for (int rows : {5, 16, 24, 32, 48, 64}) check_chain(rows, layer, 2);
}

// A chain before an attention has its history fetched: of any contexts, empty slots and windows, and nothing else changes.
TEST_F(Chain, PrecedesAnAttention) {
  const Layer layer(1152, 256, 1152, 1152, DType::f16, false);  // qkv of 14 query heads and 2 KV heads of 64
  for (const auto& [rows, window] : {std::pair{24, 0}, {24, 50}, {8, 0}}) {
    AttentionSpec spec;
    spec.heads = 14; spec.kv_heads = 2; spec.head_dim = spec.rope_dims = 64; spec.type = DType::f16; spec.kv = KvFormat::f16; spec.scale = 0.125f; spec.window = window;
    const Implementation<AttentionSpec, AttentionParams>* attention = nullptr;
    for (const auto* candidate : kernels::cuda::attention_implementations())
      if (!candidate->declines(spec, gpu().info())) { attention = candidate; break; }
    ASSERT_NE(attention, nullptr);
    constexpr int stride = 16;
    const int blocks = rows * stride;
    std::vector<int32_t> ids(blocks), context(rows), table(blocks, -1), slots(rows), positions(rows), row_begin(rows + 1), row_sequence(rows);
    for (int i = 0; i < blocks; ++i) ids[i] = i;
    std::shuffle(ids.begin(), ids.end(), random_engine());
    for (int i = 0; i < rows; ++i) {
      context[i] = i % 5 == 2 ? 0 : random_int(1, stride * kv_block_tokens);
      for (int b = 0; b * kv_block_tokens < context[i]; ++b) table[i * stride + b] = ids[i * stride + b];
      positions[i] = std::max(0, context[i] - 1);
      slots[i] = context[i] ? table[i * stride + positions[i] / kv_block_tokens] * kv_block_tokens + positions[i] % kv_block_tokens : -1;
      row_begin[i + 1] = i + 1;
      row_sequence[i] = i;
    }
    Array d_context(DType::i32, rows), d_table(DType::i32, blocks), d_slots(DType::i32, rows), d_positions(DType::i32, rows), d_begin(DType::i32, rows + 1), d_sequence(DType::i32, rows);
    fill(d_context, context); fill(d_table, table); fill(d_slots, slots); fill(d_positions, positions); fill(d_begin, row_begin); fill(d_sequence, row_sequence);
    Array k(DType::f16, static_cast<size_t>(blocks) * 2 * kv_block_tokens * 64), v(DType::f16, k.count()), frequency(DType::f32, 32), out(DType::f16, rows * 14 * 64), workspace(DType::u8, attention->workspace_bytes(spec, rows, gpu().info()));
    k.normal(); v.normal(); frequency.normal();
    Chained chain(rows, layer);
    chain.x.normal(); chain.attended.normal();
    AttentionParams params;
    Batch& b = params.batch;
    b.rows = b.sequences = rows; b.max_rows = 1; b.max_context = stride * kv_block_tokens; b.block_table_stride = stride;
    b.row_begin = d_begin.as<int32_t>(); b.context = d_context.as<int32_t>(); b.block_table = d_table.as<int32_t>(); b.positions = d_positions.as<int32_t>(); b.kv_slot = d_slots.as<int32_t>(); b.row_sequence = d_sequence.as<int32_t>();
    params.qkv = chain.out.device(); params.qkv_stride = 1152; params.out = out.device(); params.out_stride = 14 * 64; params.workspace = workspace.device();
    params.inverse_frequency = frequency.as<float>(); params.rope_amplitude = 1; params.kv = {k.device(), v.device(), nullptr, nullptr};
    auto attend = [&] { attention->run(spec, params, gpu().stream()); };
    std::function<void()> step = [&] { chain.run(); attend(); };
    auto& tuning = kernels::cuda::tuning();
    const auto before = tuning;
    tuning.program_rows = 4;
    auto graph = gpu().capture([](void* c) { (*static_cast<std::function<void()>*>(c))(); return Status::ok(); }, &step);
    tuning = before;
    ASSERT_TRUE(graph) << graph.status().message();
    out.poison();
    Array::check(gpu().replay(**graph));
    const auto got = values(out);
    out.poison();
    attend();
    EXPECT_EQ(got, values(out)) << "rows " << rows << " window " << window;
  }
}

TEST_F(Chain, MatchesAtOtherShapes) {
  for (int i = 0; i < 12; ++i) {
    const int width = 128 * random_int(9, 40), inner = 128 * random_int(1, 40), ffn = 128 * random_int(9, 100), all = 16 * random_int(66, 900);
    check_chain(random_int(5, 64), Layer(width, inner, ffn, all, i % 2 ? DType::bf16 : DType::f16, i % 3 == 0), 16);
  }
}

}  // namespace
}  // namespace hearth::gpu_test
