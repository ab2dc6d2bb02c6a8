// Embedding, norm, gate, add, gather against the CPU reference; the device itself.
#include <array>

#include "device/cpu_stream.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cuda/cuda_kernels.h"
#include "support.h"

namespace hearth::kernels::cuda { extern const device::CudaModule module_sample; }

namespace hearth::gpu_test {
namespace {

using namespace ops;
namespace reference = kernels::cpu::reference;

device::CpuStream& cpu() {
  static ThreadPool pool(1);
  static device::CpuStream stream(pool);
  return stream;
}
DType any_float() { return static_cast<DType>(random_int(0, 2)); }

void compare(const Array& got, const std::vector<uint8_t>& want_bytes, size_t count, double tolerance, const char* label) {
  Errors e;
  for (size_t i = 0; i < count; ++i) {
    float want;
    switch (got.type()) {
      case DType::f32: std::memcpy(&want, &want_bytes[i * 4], 4); break;
      case DType::f16: { Half h; std::memcpy(&h, &want_bytes[i * 2], 2); want = to_float(h); break; }
      default: { BFloat16 h; std::memcpy(&h, &want_bytes[i * 2], 2); want = to_float(h); }
    }
    e.add(got.get(i), want, tolerance + (epsilon_of(got.type()) + 1e-5) * std::fabs(want));
  }
  EXPECT_EQ(e.bad, 0u) << label;
  EXPECT_LT(e.worst, 1.0) << label;
}

std::vector<uint8_t> copy_of(Array& a) { auto* p = static_cast<uint8_t*>(a.host()); return {p, p + a.count() * size_of(a.type())}; }

TEST(Small, Norm) {
  for (int i = 0; i < 24; ++i) {
    NormSpec s;
    s.kind = i % 2 ? NormKind::layer : NormKind::rms;
    const bool many = i % 6 == 5;  // a warp a row
    s.width = many ? 4 * random_int(1, 320) : i < 4 ? 4096 : random_int(1, 5000);
    s.epsilon = 1e-5f; s.x_type = many ? DType::f32 : any_float(); s.y_type = many ? DType::f16 : any_float(); s.accumulate = !many && i % 5 == 4;
    if (s.accumulate) s.y_type = DType::f32;
    const int rows = many ? random_int(257, 300) : random_int(1, 9), stride = s.width + (many ? 4 : 3);
    Array x(s.x_type, rows * stride), w(DType::f32, s.width), b(DType::f32, s.width), y(s.y_type, rows * s.width);
    x.normal(2); w.normal(); b.normal();
    if (s.accumulate) y.normal(); else y.poison();
    auto want = copy_of(y);
    NormParams p{rows, x.host(), stride, w.host_as<float>(), s.kind == NormKind::layer ? b.host_as<float>() : nullptr, want.data(), s.width};
    reference::norm.run(s, p, cpu());
    p.x = x.device(); p.weight = w.as<float>(); p.bias = p.bias ? b.as<float>() : nullptr; p.y = y.device();
    ASSERT_EQ(kernels::cuda::norm_implementations()[0]->declines(s, gpu().info()), nullptr);
    kernels::cuda::norm_implementations()[0]->run(s, p, gpu().stream());
    y.download();
    compare(y, want, rows * s.width, 1e-4, "norm");
  }
}

TEST(Small, GateAddGatherEmbed) {
  for (int i = 0; i < 12; ++i) {
    const int width = random_int(1, 3000), rows = random_int(1, 40);
    GateSpec gs{width, static_cast<Activation>(random_int(0, 5)), any_float()};
    Array x(gs.type, rows * (2 * width + 4)), y(gs.type, rows * width);
    x.normal(); y.poison();
    auto want = copy_of(y);
    GateParams gp{rows, x.host(), 2 * width + 4, want.data(), width};
    reference::gate.run(gs, gp, cpu());
    gp.x = x.device(); gp.y = y.device();
    kernels::cuda::gate_implementations()[0]->run(gs, gp, gpu().stream());
    y.download();
    compare(y, want, rows * width, 1e-5, "gate");

    AddSpec as{width, any_float()};
    Array ax(as.x_type, rows * width), ay(DType::f32, rows * width);
    ax.normal(); ay.normal();
    auto add_want = copy_of(ay);
    AddParams ap{rows, ax.host(), width, reinterpret_cast<float*>(add_want.data()), width};
    reference::add.run(as, ap, cpu());
    ap.x = ax.device(); ap.y = ay.as<float>();
    kernels::cuda::add_implementations()[0]->run(as, ap, gpu().stream());
    ay.download();
    compare(ay, add_want, rows * width, 1e-6, "add");

    GatherSpec ts{width, any_float(), any_float()};
    Array tx(ts.x_type, 50 * width), ty(ts.y_type, rows * width), index(DType::i32, rows);
    tx.normal(); ty.poison();
    std::vector<int32_t> ids(rows);
    for (auto& id : ids) id = random_int(-1, 49);
    fill(index, ids);
    auto gather_want = copy_of(ty);
    GatherParams tp{rows, tx.host(), width, index.host_as<int32_t>(), gather_want.data(), width};
    reference::gather.run(ts, tp, cpu());
    tp.x = tx.device(); tp.index = index.as<int32_t>(); tp.y = ty.device();
    kernels::cuda::gather_implementations()[0]->run(ts, tp, gpu().stream());
    ty.download();
    compare(ty, gather_want, rows * width, 1e-6, "gather");

    EmbedSpec es{width, 50, any_float(), 1.5f};
    Array table(es.table_type, 50 * width), image(DType::f32, 7 * width), ex(DType::f32, rows * width), source(DType::i32, rows), sampled(DType::i32, 9), eids(DType::i32, rows);
    table.normal(); image.normal(); ex.poison();
    std::vector<int32_t> sources(rows), slots(9), names(rows);
    for (auto& v : slots) v = random_int(0, 49);
    for (int r = 0; r < rows; ++r) { sources[r] = random_int(0, 2); names[r] = sources[r] == 0 ? random_int(0, 49) : sources[r] == 1 ? random_int(0, 8) : random_int(0, 6); }
    fill(source, sources); fill(sampled, slots); fill(eids, names);
    auto embed_want = copy_of(ex);
    EmbedParams ep{rows, eids.host_as<int32_t>(), source.host_as<int32_t>(), sampled.host_as<int32_t>(), table.host(), image.host_as<float>(), reinterpret_cast<float*>(embed_want.data())};
    reference::embed.run(es, ep, cpu());
    ep = {rows, eids.as<int32_t>(), source.as<int32_t>(), sampled.as<int32_t>(), table.device(), image.as<float>(), ex.as<float>()};
    kernels::cuda::embed_implementations()[0]->run(es, ep, gpu().stream());
    ex.download();
    compare(ex, embed_want, rows * width, 1e-6, "embed");
  }
}

TEST(Device, GraphReplaysWhatWasCaptured) {
  constexpr int width = 1000;
  Array x(DType::f32, width), y(DType::f32, width);
  x.normal(); y.zero();
  struct Work { Array *x, *y; } work{&x, &y};
  auto body = [](void* argument) {
    auto* w = static_cast<Work*>(argument);
    AddParams p{1, w->x->device(), width, w->y->as<float>(), width};
    for (int i = 0; i < 3; ++i) kernels::cuda::add_implementations()[0]->run({width, DType::f32}, p, gpu().stream());
    return Status::ok();
  };
  auto graph = gpu().capture(body, &work);
  ASSERT_TRUE(graph) << graph.status().message();
  for (int i = 0; i < 4; ++i) Array::check(gpu().replay(**graph));
  auto marker = gpu().mark();
  ASSERT_TRUE(marker);
  Array::check(gpu().wait(*marker));
  y.download();
  for (int i = 0; i < width; ++i) ASSERT_NEAR(y.get(i), 12 * x.get(i), 1e-4 * std::fabs(x.get(i)) + 1e-5);
}

TEST(Device, MemoryIsAlignedReusedAndRefused) {
  auto free_before = gpu().available_bytes();
  ASSERT_TRUE(free_before);
  std::vector<void*> pieces;
  for (int i = 0; i < 200; ++i) {
    auto p = gpu().allocate(random_int(1, 3 << 20), MemoryKind::weights, "test");
    ASSERT_TRUE(p);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(*p) % 256, 0u);
    pieces.push_back(*p);
  }
  for (void* p : pieces) gpu().release(p);
  auto free_after = gpu().available_bytes();
  EXPECT_NEAR(static_cast<double>(*free_after), static_cast<double>(*free_before), 80e6);
  auto too_much = gpu().allocate(size_t{1} << 50, MemoryKind::kv, "the KV pool");
  ASSERT_FALSE(too_much);
  EXPECT_EQ(too_much.status().code(), Code::out_of_memory);
  EXPECT_NE(too_much.status().message().find("the KV pool"), std::string::npos);
}

TEST(Device, UnifiedMemoryIsOneCopy) {
  auto unified = device::open_cuda_device(0, "", true);
  ASSERT_TRUE(unified) << unified.status().message();
  EXPECT_TRUE((*unified)->host_visible());
  auto x = (*unified)->allocate(4096, MemoryKind::weights, "x"), y = (*unified)->allocate(4096, MemoryKind::kv, "y");
  ASSERT_TRUE(x && y);
  auto *from = static_cast<float*>(*x), *to = static_cast<float*>(*y);
  for (int i = 0; i < 1024; ++i) { from[i] = i; to[i] = 1; }
  kernels::cuda::add_implementations()[0]->run({1024, DType::f32}, {1, from, 1024, to, 1024}, (*unified)->stream());
  Array::check((*unified)->stream().synchronize());
  for (int i = 0; i < 1024; ++i) ASSERT_EQ(to[i], i + 1.0f);
}

// Two models on one GPU: the second one's step must see what the first one's wrote, though their streams are different.
TEST(Device, GraphsOfTwoModelsTakeTurns) {
  auto other = device::open_cuda_device(0, "", false);
  ASSERT_TRUE(other) << other.status().message();
  struct Copies { device::Device* device; std::vector<std::array<void*, 2>> to_from; size_t bytes; };
  auto body = [](void* argument) {
    auto& copies = *static_cast<Copies*>(argument);
    for (const auto& [to, from] : copies.to_from) HEARTH_TRY(copies.device->copy(to, from, copies.bytes));
    return Status::ok();
  };
  constexpr size_t count = size_t{32} << 20;
  Array first(DType::i8, count), passed(DType::i8, count), second(DType::i8, count);
  Copies slow{&gpu(), {}, count}, quick{other->get(), {{second.device(), passed.device()}}, count};
  for (int i = 0; i < 50; ++i) slow.to_from.push_back({second.device(), first.device()});
  slow.to_from.push_back({passed.device(), first.device()});
  auto slow_graph = gpu().capture(body, &slow), quick_graph = (*other)->capture(body, &quick);
  ASSERT_TRUE(slow_graph && quick_graph);
  for (int round = 1; round <= 20; ++round) {
    for (size_t i = 0; i < count; i += 4099) first.set(i, static_cast<float>(round));
    first.upload();
    Array::check(gpu().replay(**slow_graph));
    Array::check((*other)->replay(**quick_graph));
    Array::check((*other)->stream().synchronize());
    second.download();
    for (size_t i = 0; i < count; i += 4099) ASSERT_EQ(second.get(i), static_cast<float>(round)) << "round " << round;
  }
}

TEST(Device, ForcedProfilesAndTheirErrors) {
  auto orin = device::open_cuda_device(0, "orin-agx", false);
  ASSERT_TRUE(orin) << orin.status().message();
  EXPECT_EQ((*orin)->info().compute_capability, 87);
  EXPECT_EQ((*orin)->info().profile.name, "orin-agx");
  // An older generation's profile runs that generation's instructions where the build has them.
  const device::CudaModule& module = kernels::cuda::module_sample;
  bool has_ptx = false;
  for (const auto* image = module.images; image->sm; ++image) has_ptx |= image->is_ptx;
  const std::string native = device::cuda(gpu().stream()).code_of(module), forced = device::cuda((*orin)->stream()).code_of(module);
  EXPECT_EQ(native.find("PTX"), std::string::npos) << native;
  if (has_ptx && gpu().info().compute_capability >= 90) { EXPECT_EQ(forced, "compute_80 PTX"); } else { EXPECT_FALSE(forced.empty()); }
  auto none = device::open_cuda_device(0, "orin-xxl", false);
  ASSERT_FALSE(none);
  EXPECT_NE(none.status().message().find("orin-nano"), std::string::npos);
  auto far = device::open_cuda_device(99, "", false);
  ASSERT_FALSE(far);
  EXPECT_EQ(far.status().code(), Code::device);
}

}  // namespace
}  // namespace hearth::gpu_test
