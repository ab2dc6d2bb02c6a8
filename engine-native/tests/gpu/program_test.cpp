// A captured decode step as one program against the same ops one by one.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/host/tuning.h"
#include "support.h"

#include <cstdlib>

namespace hearth::gpu_test {
namespace {

using namespace ops;

struct TestLinear {
  LinearSpec spec;
  const LinearImplementation* implementation = nullptr;
  std::unique_ptr<Array> weight, norm;
  void make(int in, int out, int group, DType type, bool normed, bool residual, bool gated) {
    spec.in = in; spec.out = out; spec.weight = WeightFormat::w4; spec.group = group;
    spec.x_type = normed ? DType::f32 : type; spec.y_type = residual ? DType::f32 : type;
    spec.residual = residual; spec.gated = gated;
    spec.activation = gated ? Activation::silu : Activation::none;
    spec.norm = normed ? NormKind::rms : NormKind::none; spec.norm_epsilon = 1e-5f;
    for (const auto* candidate : kernels::cuda::linear_implementations())
      if (!candidate->declines(spec, gpu().info())) { implementation = candidate; break; }
    ASSERT_NE(implementation, nullptr);
    std::vector<uint8_t> data(static_cast<size_t>(in) * out / 2), zeros(static_cast<size_t>(out) * (in / group));
    std::vector<float> scales(zeros.size());
    for (auto& b : data) b = static_cast<uint8_t>(random_int(0, 255));
    for (auto& z : zeros) z = static_cast<uint8_t>(random_int(6, 9));
    for (auto& v : scales) v = (0.5f + random_int(0, 100) / 100.f) * 0.1f / std::sqrt(static_cast<float>(in));
    weight = std::make_unique<Array>(DType::u8, implementation->packed_bytes(spec));
    implementation->pack(spec, {in, out, WeightFormat::w4, group, false, data.data(), scales.data(), zeros.data()}, 0, out, weight->host());
    weight->upload();
    norm = std::make_unique<Array>(DType::f32, in);
    for (int i = 0; i < in; ++i) norm->set(i, 1 + 0.1f * random_normal());
    norm->upload();
  }
  void run(int rows, Array& x, Array& y, Array& workspace) const {
    LinearParams p;
    p.rows = rows; p.x = x.device(); p.x_stride = spec.in; p.norm_weight = norm->as<float>(); p.weight = weight->device();
    p.y = y.device(); p.y_stride = spec.gated ? spec.out / 2 : spec.out; p.workspace = workspace.device();
    implementation->run(spec, p, gpu().stream());
  }
};

struct Shape { int width, heads, kv_heads, dim, ffn, group, window; DType type; KvFormat kv; bool qk_norm = false, interleaved = false; int head = 777; };

// Two layers and a head of a small model, on contexts of its own.
struct Step {
  Shape s;
  int rows, blocks;
  TestLinear qkv[2], o[2], up[2], down[2], head;
  AttentionSpec attention;
  const Implementation<AttentionSpec, AttentionParams>* attend = nullptr;
  std::unique_ptr<Array> k[2], v[2], k_scale[2], v_scale[2], x, a, b, c, logits, workspace, frequency, q_norm, k_norm, row_begin, context, table, positions, slots, row_sequence;
  std::vector<int> contexts;

  Step(const Shape& shape, const std::vector<int>& lengths) : s(shape), rows(static_cast<int>(lengths.size())), contexts(lengths) {
    const int q = s.heads * s.dim, all = q + 2 * s.kv_heads * s.dim;
    for (int i = 0; i < 2; ++i) {
      qkv[i].make(s.width, all, s.group, s.type, true, false, false);
      o[i].make(q, s.width, s.group, s.type, false, true, false);
      up[i].make(s.width, 2 * s.ffn, s.group, s.type, true, false, true);
      down[i].make(s.ffn, s.width, s.group, s.type, false, true, false);
    }
    head.make(s.width, s.head, s.group, s.type, true, false, false);
    attention.heads = s.heads; attention.kv_heads = s.kv_heads; attention.head_dim = s.dim; attention.scale = 1 / std::sqrt(static_cast<float>(s.dim));
    attention.kv = s.kv; attention.type = s.type; attention.rope_dims = s.dim; attention.window = s.window;
    attention.qk_norm = s.qk_norm; attention.rope_interleaved = s.interleaved;
    for (const auto* candidate : kernels::cuda::attention_implementations())
      if (!candidate->declines(attention, gpu().info())) { attend = candidate; break; }
    std::vector<int32_t> first(rows + 1), sequences(rows), at(rows), places(rows);
    blocks = 0;
    int stride = 1;
    for (int n : lengths) stride = std::max(stride, (n + kv_block_tokens - 1) / kv_block_tokens);
    blocks = rows * stride + 3;
    std::vector<int32_t> order(blocks), tables(rows * stride);
    for (int i = 0; i < blocks; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random_engine());
    for (size_t i = 0; i < tables.size(); ++i) tables[i] = order[i];
    for (int i = 0; i < rows; ++i) {
      first[i] = i; sequences[i] = i; at[i] = std::max(0, lengths[i] - 1);
      places[i] = lengths[i] > 0 ? tables[i * stride + at[i] / kv_block_tokens] * kv_block_tokens + at[i] % kv_block_tokens : -1;
    }
    first[rows] = rows;
    auto ints = [](std::unique_ptr<Array>& to, const std::vector<int32_t>& values) { to = std::make_unique<Array>(DType::i32, values.size()); fill(*to, values); };
    ints(row_begin, first); ints(row_sequence, sequences); ints(positions, at); ints(slots, places); ints(table, tables); ints(context, std::vector<int32_t>(lengths.begin(), lengths.end()));
    const size_t tokens = static_cast<size_t>(blocks) * kv_block_tokens * s.kv_heads;
    const DType pool = s.kv == KvFormat::int8 ? DType::i8 : s.type;
    for (int i = 0; i < 2; ++i) {
      for (auto* to : {&k[i], &v[i]}) {
        *to = std::make_unique<Array>(pool, tokens * s.dim);
        if (pool == DType::i8) { for (size_t n = 0; n < (*to)->count(); ++n) (*to)->set(n, static_cast<float>(random_int(-127, 127))); (*to)->upload(); }
        else (*to)->normal();
      }
      for (auto* to : {&k_scale[i], &v_scale[i]}) { *to = std::make_unique<Array>(DType::f32, tokens); for (size_t n = 0; n < tokens; ++n) (*to)->set(n, 0.01f + random_int(0, 100) / 1e4f); (*to)->upload(); }
    }
    x = std::make_unique<Array>(DType::f32, rows * s.width);
    a = std::make_unique<Array>(s.type, rows * std::max(all, s.ffn));
    b = std::make_unique<Array>(s.type, rows * q);
    c = std::make_unique<Array>(s.type, rows * s.ffn);
    logits = std::make_unique<Array>(s.type, rows * s.head);
    frequency = std::make_unique<Array>(DType::f32, s.dim / 2);
    for (int i = 0; i < s.dim / 2; ++i) frequency->set(i, std::pow(10000.f, -2.f * i / s.dim));
    frequency->upload();
    for (auto* to : {&q_norm, &k_norm}) {
      *to = std::make_unique<Array>(DType::f32, s.dim);
      for (int i = 0; i < s.dim; ++i) (*to)->set(i, 1 + 0.1f * random_normal());
      (*to)->upload();
    }
    size_t scratch = attend->workspace_bytes(attention, rows, gpu().info());
    for (const TestLinear* l : {&qkv[0], &o[0], &up[0], &down[0], &head}) scratch = std::max(scratch, l->implementation->workspace_bytes(l->spec, rows, gpu().info()));
    workspace = std::make_unique<Array>(DType::u8, scratch);
    this->stride = stride;
  }
  int stride = 1;

  void run() {
    Batch bt;
    bt.rows = bt.sequences = rows; bt.max_rows = 1; bt.block_table_stride = stride; bt.max_context = stride * kv_block_tokens;
    bt.row_begin = row_begin->as<int32_t>(); bt.context = context->as<int32_t>(); bt.block_table = table->as<int32_t>(); bt.positions = positions->as<int32_t>();
    bt.kv_slot = slots->as<int32_t>(); bt.row_sequence = row_sequence->as<int32_t>();
    for (int i = 0; i < 2; ++i) {
      qkv[i].run(rows, *x, *a, *workspace);
      AttentionParams p;
      p.batch = bt; p.qkv = a->device(); p.qkv_stride = (s.heads + 2 * s.kv_heads) * s.dim; p.inverse_frequency = frequency->as<float>(); p.q_norm = q_norm->as<float>(); p.k_norm = k_norm->as<float>();
      p.kv = {k[i]->device(), v[i]->device(), k_scale[i]->as<float>(), v_scale[i]->as<float>()};
      p.out = b->device(); p.out_stride = s.heads * s.dim; p.workspace = workspace->device();
      attend->run(attention, p, gpu().stream());
      o[i].run(rows, *b, *x, *workspace);
      up[i].run(rows, *x, *c, *workspace);
      down[i].run(rows, *c, *x, *workspace);
    }
    head.run(rows, *x, *logits, *workspace);
  }
};

std::vector<float> values(Array& array) {
  array.download();
  std::vector<float> out(array.count());
  for (size_t i = 0; i < out.size(); ++i) out[i] = array.get(i);
  return out;
}
double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) { sum += (a[i] - b[i]) * static_cast<double>(a[i] - b[i]); size += static_cast<double>(b[i]) * b[i]; }
  return std::sqrt(sum / std::max(size, 1e-30));
}

// By row the columns that differ, in any bit: "row 2: 8 of 4096, from 512 to 519; ".
std::string differences(const std::vector<float>& a, const std::vector<float>& b, int rows) {
  std::string out;
  const size_t width = a.size() / rows;
  for (int r = 0; r < rows; ++r) {
    size_t count = 0, from = 0, to = 0;
    for (size_t c = 0; c < width; ++c)
      if (std::memcmp(&a[r * width + c], &b[r * width + c], sizeof(float)) != 0) { to = c; if (count++ == 0) from = c; }
    if (count > 0) out += "row " + std::to_string(r) + ": " + std::to_string(count) + " of " + std::to_string(width) + ", from " + std::to_string(from) + " to " + std::to_string(to) + "; ";
  }
  return out;
}

// As one program where that is possible.
auto captured(Step& step) {
  auto& tuning = kernels::cuda::tuning();
  const auto before = tuning;
  tuning.program_rows = 8;
  auto graph = gpu().capture([](void* s) { static_cast<Step*>(s)->run(); return Status::ok(); }, &step);
  tuning = before;
  return graph;
}

void check_step(const Shape& shape, const std::vector<int>& lengths, int replays = 6) {
  SCOPED_TRACE("width " + std::to_string(shape.width) + " heads " + std::to_string(shape.heads) + "/" + std::to_string(shape.kv_heads) + " of " + std::to_string(shape.dim) + " group " + std::to_string(shape.group) +
               " rows " + std::to_string(lengths.size()) + " context " + std::to_string(lengths[0]));
  Step step(shape, lengths);
  if (testing::Test::HasFatalFailure()) return;
  step.x->normal();
  std::vector<float> start = values(*step.x);
  auto restart = [&] { for (size_t i = 0; i < start.size(); ++i) step.x->set(i, start[i]); step.x->upload(); for (Array* to : {step.a.get(), step.b.get(), step.c.get(), step.logits.get()}) to->poison(); };
  auto& tuning = kernels::cuda::tuning();
  const auto before = tuning;
  restart();
  tuning.program_rows = 0;
  step.run();
  const auto want = values(*step.logits), want_x = values(*step.x), want_k = values(*step.k[1]);
  tuning = before;
  const uint64_t launched = device::cuda(gpu().stream()).launches();
  auto graph = captured(step);
  ASSERT_TRUE(graph) << graph.status().message();
  // Activations that take more than half of the shared memory leave too little for a ring: there the step is several kernels.
  // So do the sums of more than four rows on cards of 99 KB; and Hopper's blocks have one item each of so many rows' attention, or the step is a chain.
  const device::CudaStream& stream = device::cuda(gpu().stream());
  const size_t shared = stream.shared_limit(), rows = std::min<size_t>(lengths.size(), 4);
  const int items = step.rows * shape.kv_heads * ((shape.heads / shape.kv_heads + 7) / 8);
  const bool fits = rows * shape.ffn * 2 * 2 < shared && (lengths.size() <= 4 || (shared > 128 * 1024 && !(stream.hopper() && items > stream.multiprocessors())));
  EXPECT_LE(device::cuda(gpu().stream()).launches() - launched, fits ? 1u : 20u) << "the step is one kernel";
  std::vector<std::vector<float>> first;
  for (int i = 0; i < replays; ++i) {
    restart();
    Array::check(gpu().replay(**graph));
    const auto got = values(*step.logits), got_x = values(*step.x);
    const double limit = shape.type == DType::bf16 ? 3e-2 : 4e-3;
    EXPECT_LT(difference(got_x, want_x), limit);
    EXPECT_LT(difference(got, want), limit);
    EXPECT_LT(difference(values(*step.k[1]), want_k), limit);
    std::vector<std::vector<float>> all = {values(*step.a), values(*step.b), values(*step.c), got_x, got};
    all[0].resize(step.rows * static_cast<size_t>((shape.heads + 2 * shape.kv_heads) * shape.dim));
    if (i == 0) first = all;
    for (size_t n = 0; n < all.size(); ++n) EXPECT_EQ(differences(first[n], all[n], step.rows), "") << "replay " << i << " differs in " << std::vector<const char*>{"qkv", "attention", "gate and up", "the residual", "logits"}[n];
  }
}

// The same step many times over, with nothing between but its input: a race shows in one of some thousands. HEARTH_PROGRAM_REPLAYS
// sets how many.
void check_replays(const Shape& shape, const std::vector<int>& lengths) {
  SCOPED_TRACE("width " + std::to_string(shape.width) + " rows " + std::to_string(lengths.size()) + (shape.type == DType::bf16 ? " bf16" : " f16") + (shape.kv == KvFormat::int8 ? " int8 KV" : ""));
  const char* const wanted = std::getenv("HEARTH_PROGRAM_REPLAYS");
  const int replays = wanted ? std::atoi(wanted) : 200;
  Step step(shape, lengths);
  if (testing::Test::HasFatalFailure()) return;
  Array start(DType::f32, step.x->count());
  start.normal();
  auto graph = captured(step);
  ASSERT_TRUE(graph) << graph.status().message();
  const size_t x_bytes = step.x->count() * size_of(DType::f32), logits_bytes = step.logits->count() * size_of(shape.type);
  std::vector<float> first_x;
  std::vector<uint8_t> first;
  int other = 0;
  std::string where;
  for (int i = 0; i < replays; ++i) {
    std::memcpy(step.x->host(), start.host(), x_bytes);
    step.x->upload();
    Array::check(gpu().replay(**graph));
    step.x->download();
    step.logits->download();
    const float* const x = step.x->host_as<float>();
    const uint8_t* const logits = step.logits->host_as<uint8_t>();
    if (i == 0) {
      first_x.assign(x, x + step.x->count());
      first.assign(logits, logits + logits_bytes);
    } else if (std::memcmp(first_x.data(), x, x_bytes) != 0 || std::memcmp(first.data(), logits, logits_bytes) != 0) {
      if (other++ < 3) where += "replay " + std::to_string(i) + ": " + differences(first_x, {x, x + step.x->count()}, step.rows) + "\n";
    }
  }
  EXPECT_EQ(other, 0) << "of " << replays << " replays gave other bits\n" << where;
}

TEST(Program, ReplaysAreAlike) {
  const std::vector<int> eight = {1200, 64, 0, 333, 20, 5, 80, 190};
  auto of = [&](int rows) { return std::vector<int>(eight.begin(), eight.begin() + rows); };
  const Shape wide{4096, 32, 8, 128, 14336, 128, 0, DType::bf16, KvFormat::bf16}, wide_int8{4096, 32, 8, 128, 14336, 128, 0, DType::f16, KvFormat::int8};
  const Shape deep{4096, 32, 32, 128, 11008, 128, 0, DType::f16, KvFormat::f16}, narrow{2048, 32, 4, 64, 5632, 128, 0, DType::f16, KvFormat::f16};
  for (int rows : {7, 8, 5, 4, 2, 1}) check_replays(wide, of(rows));
  for (int rows : {8, 3, 1}) check_replays(wide_int8, of(rows));
  for (int rows : {1, 4}) check_replays(deep, of(rows));
  for (int rows : {1, 6}) check_replays(narrow, of(rows));
}

TEST(Program, SmallStepMatchesItsOps) {  // little enough for compute-sanitizer
  check_step({256, 2, 2, 128, 512, 128, 0, DType::f16, KvFormat::f16}, {40});
  check_step({256, 4, 2, 64, 512, 64, 0, DType::bf16, KvFormat::int8}, {17, 0, 33});
  check_step({256, 4, 2, 64, 512, 128, 0, DType::f16, KvFormat::f16}, {17, 0, 33, 5, 20, 1, 40});
}

TEST(Program, StepMatchesItsOps) {
  check_step({1024, 8, 8, 128, 2816, 128, 0, DType::f16, KvFormat::f16}, {160});
  check_step({1024, 8, 2, 128, 2816, 128, 0, DType::f16, KvFormat::f16}, {1});
  check_step({1024, 8, 2, 128, 2816, 128, 0, DType::f16, KvFormat::f16}, {3000});
  check_step({512, 8, 1, 64, 1408, 64, 0, DType::bf16, KvFormat::bf16}, {17, 1000});
  check_step({512, 12, 1, 64, 1408, 32, 100, DType::f16, KvFormat::f16}, {257, 16, 900});
  check_step({1024, 8, 8, 128, 1408, 128, 0, DType::f16, KvFormat::int8}, {33, 700});
  check_step({1024, 16, 4, 64, 1408, 128, 0, DType::bf16, KvFormat::int8}, {2000, 0, 5});
  check_step({1024, 8, 4, 80, 1408, 128, 0, DType::f16, KvFormat::f16}, {77, 300, 1, 2500});
  check_step({1024, 8, 2, 128, 1408, 128, 0, DType::bf16, KvFormat::bf16, true}, {90, 400});
  check_step({1024, 8, 4, 64, 1408, 64, 0, DType::f16, KvFormat::f16, true}, {31});
  check_step({1024, 8, 4, 128, 1408, 128, 0, DType::f16, KvFormat::f16, false, true}, {200});
  // One row of every group size: a unit a worker, two, and tiles of several slots.
  check_step({512, 8, 4, 64, 1408, 32, 0, DType::f16, KvFormat::f16}, {20});
  check_step({2560, 20, 4, 128, 5632, 32, 0, DType::bf16, KvFormat::bf16}, {50});
  check_step({2560, 20, 4, 128, 5632, 64, 0, DType::f16, KvFormat::f16}, {70});
  check_step({2560, 20, 4, 128, 6912, 128, 0, DType::f16, KvFormat::f16}, {90});
  check_step({2560, 40, 40, 64, 1408, 128, 0, DType::f16, KvFormat::f16}, {20, 333, 0, 600});  // more items than blocks
  // A tile a block in all linears but the last: the second finisher has nothing to do for more tiles than sums have slots.
  check_step({2048, 30, 1, 64, 1024, 64, 0, DType::f16, KvFormat::f16, false, false, 6000}, {40});
  check_step({4096, 32, 32, 128, 11008, 128, 0, DType::f16, KvFormat::f16}, {300});
  check_step({4096, 32, 32, 128, 11008, 128, 0, DType::f16, KvFormat::f16}, {150, 160});
  // Blocks that share K two, three and four at a time, with a last part that is shorter; empty slots.
  check_step({2560, 20, 4, 128, 6912, 32, 0, DType::f16, KvFormat::f16}, {90, 0, 33});
  check_step({2048, 16, 16, 128, 9600, 64, 0, DType::f16, KvFormat::f16}, {40, 7, 200});
  check_step({2048, 16, 4, 128, 15616, 128, 0, DType::bf16, KvFormat::bf16}, {40, 70});
  // Where replays once differed, one in five (docs/notes/cuda.md).
  check_step({4096, 32, 8, 128, 14336, 128, 0, DType::bf16, KvFormat::bf16}, {1200, 64, 0, 333}, 40);
  check_step({4096, 32, 8, 128, 14336, 128, 0, DType::f16, KvFormat::f16}, {1200, 64, 0, 333}, 40);
}

// A tile's products, sums and outputs by fours; the last one not whole.
TEST(Program, FiveToEightRows) {
  check_step({256, 2, 2, 128, 512, 128, 0, DType::f16, KvFormat::f16}, {40, 3, 17, 0, 33});
  check_step({1024, 8, 2, 128, 2816, 128, 0, DType::f16, KvFormat::f16}, {160, 1, 90, 33, 16, 257});
  check_step({1024, 16, 4, 64, 1408, 128, 0, DType::bf16, KvFormat::int8}, {2000, 0, 5, 17, 300, 31, 64});
  check_step({2560, 20, 4, 128, 6912, 128, 100, DType::f16, KvFormat::f16, true}, {90, 400, 20, 7, 8, 250, 1, 0});
  check_step({2048, 16, 4, 128, 15616, 128, 0, DType::bf16, KvFormat::bf16}, {40, 70, 3, 0, 0, 0, 0, 900});
  check_step({4096, 32, 32, 128, 11008, 128, 0, DType::f16, KvFormat::f16}, {150, 160, 40, 200, 10});
  check_step({4096, 32, 8, 128, 14336, 128, 0, DType::f16, KvFormat::f16}, {1200, 64, 0, 333, 20, 5, 80, 190}, 12);
  check_step({4096, 32, 8, 128, 14336, 128, 0, DType::bf16, KvFormat::bf16}, {1200, 64, 0, 333, 20, 5, 80}, 12);
  check_step({2048, 32, 4, 64, 5632, 128, 0, DType::f16, KvFormat::f16}, {12, 64, 0, 333, 20, 5, 80});  // fewer tiles than blocks
}

// Where no number of blocks fits: tiles of several slots, several rows' activations in more than two batches, the last of them not whole.
TEST(Program, LongInputsAreNotShared) {
  auto& tuning = kernels::cuda::tuning();
  const auto before = tuning;
  tuning.program_parts = 0;
  check_step({2560, 20, 4, 128, 6912, 128, 0, DType::f16, KvFormat::f16}, {90});
  check_step({2560, 20, 4, 128, 6912, 128, 0, DType::f16, KvFormat::f16}, {90, 20});
  check_step({2048, 16, 16, 128, 9600, 64, 0, DType::f16, KvFormat::f16}, {40, 7, 200});
  tuning = before;
}

}  // namespace
}  // namespace hearth::gpu_test
