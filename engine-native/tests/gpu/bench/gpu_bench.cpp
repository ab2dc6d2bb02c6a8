// hearth-gpu-bench: what each CUDA op takes in place, and whole layer chains of the Llama shapes in captured graphs,
// beside the limits measured in the same process. Predicts what hearth-bench measures through the runtime.
//   hearth-gpu-bench [--profile NAME] [--shape 7b|8b|3b|1b] [--batches 2,64] [--what decode,batch,prefill,ops,parts,pass,tune,context,fp16,sample]
//                    (behind: sampling behind a decode step)
//                    (attention: decode attention alone) [--rows 4,16] [--contexts 160,2048 (of decode and batch)] [--set 'ranks=2,prefetch=64;ranks=4' (each in turn)]
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "device/cuda_stream.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/host/hopper.h"
#include "kernels/cuda/host/tuning.h"
#include "kernels/cuda/host/probe.h"
#include "kernels/cuda/program_params.h"

using namespace hearth;
using namespace hearth::ops;
using device::Device;
using device::MemoryKind;

namespace {

std::unique_ptr<Device> gpu;

// Not exit: the device would be closed while main's buffers are still there.
[[noreturn]] void die(const std::string& m) { std::fflush(stdout); std::fprintf(stderr, "hearth-gpu-bench: %s\n", m.c_str()); std::_Exit(1); }
void need(const Status& s) { if (!s) die(s.message()); }
void* take(size_t bytes, MemoryKind kind = MemoryKind::workspace) {
  auto p = gpu->allocate(bytes, kind, "bench");
  if (!p) die(p.status().message());
  return *p;
}

struct Shape { const char* name; int width, layers, heads, kv_heads, dim, ffn, vocabulary; };
const Shape shapes[] = {{"7b", 4096, 32, 32, 32, 128, 11008, 32000}, {"8b", 4096, 32, 32, 8, 128, 14336, 128256}, {"3b", 2560, 32, 20, 20, 128, 6912, 32000}, {"1b", 2048, 16, 32, 8, 64, 8192, 32000}};

// A linear bound to an implementation, with weights for `copies` layers.
struct Linear {
  LinearSpec spec;
  const LinearImplementation* implementation = nullptr;
  std::vector<void*> weights;
  size_t bytes = 0;
  void make(const LinearSpec& s, int copies) {
    spec = s;
    for (const auto* candidate : kernels::cuda::linear_implementations())
      if (!candidate->declines(s, gpu->info())) { implementation = candidate; break; }
    if (!implementation) die("no linear");
    std::mt19937 random(7);
    HostLinear host{s.in, s.out, s.weight, s.group, false, nullptr, nullptr, nullptr};
    std::vector<uint32_t> data(static_cast<size_t>(s.in) * s.out / (s.weight == WeightFormat::w4 ? 8 : s.weight == WeightFormat::w8 ? 4 : 2));
    std::vector<float> scales(static_cast<size_t>(s.out) * (s.group ? s.in / s.group : 1), 0.003f);
    std::vector<uint8_t> zeros(scales.size(), 8);
    if (s.weight == WeightFormat::w4 || s.weight == WeightFormat::w8) for (auto& v : data) v = random();
    else for (auto& v : data) { const float f = (static_cast<int>(random() % 2001) - 1000) * 2e-5f; v = to_half(f).bits * 0x10001u; }
    host.data = data.data(); host.scales = scales.data(); host.zeros = zeros.data();
    std::vector<uint8_t> packed(implementation->packed_bytes(s));
    implementation->pack(s, host, 0, s.out, packed.data());
    bytes = packed.size();
    for (int i = 0; i < copies; ++i) {
      weights.push_back(take(packed.size(), MemoryKind::weights));
      need(gpu->upload(weights.back(), packed.data(), packed.size()));
    }
    need(gpu->stream().synchronize());
  }
  void run(int layer, int rows, const void* x, int64_t x_stride, void* y, int64_t y_stride, const float* norm, void* workspace) const {
    LinearParams p;
    p.rows = rows; p.x = x; p.x_stride = x_stride; p.norm_weight = norm; p.weight = weights[layer]; p.y = y; p.y_stride = y_stride; p.workspace = workspace;
    implementation->run(spec, p, gpu->stream());
  }
};

double median_us(const std::function<void()>& body, double budget_ms = 120) {
  struct Body { const std::function<void()>* f; } b{&body};
  body();
  need(gpu->stream().synchronize());
  auto graph = gpu->capture([](void* a) { (*static_cast<Body*>(a)->f)(); return Status::ok(); }, &b);
  if (!graph) die(graph.status().message());
  auto once = [&](int n) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < n; ++i) need(gpu->replay(**graph));
    need(gpu->stream().synchronize());
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / n;
  };
  once(3);
  const double guess = once(2);
  const int n = std::max(3, static_cast<int>(budget_ms * 1000 / 5 / guess));
  std::vector<double> times;
  for (int i = 0; i < 5; ++i) times.push_back(once(n));
  std::sort(times.begin(), times.end());
  return times[2];
}

template <class S, class P> const Implementation<S, P>* pick(const Implementations<S, P>& list, const S& s) {
  for (const auto* c : list) if (!c->declines(s, gpu->info())) return c;
  die("no implementation");
}

std::vector<uint8_t> bytes_of(const std::vector<float>& v) {
  const auto* from = reinterpret_cast<const uint8_t*>(v.data());
  return {from, from + v.size() * sizeof(float)};
}
// Keys or values of a history: memory reads zeros faster than what a model leaves there.
std::vector<uint8_t> kv_noise(KvFormat format) {
  std::mt19937 random(11);
  std::vector<uint8_t> out(size_t{1} << 22);
  if (format == KvFormat::int8) {
    for (uint8_t& v : out) v = static_cast<uint8_t>(random() % 255 - 127);
    return out;
  }
  for (size_t i = 0; i < out.size(); i += 2) {
    const uint16_t v = to_half(static_cast<float>(random() % 4001) / 2000 - 1).bits;
    std::memcpy(&out[i], &v, 2);
  }
  return out;
}
// `bytes` of device memory, `pattern` over and over.
void fill(void* to, size_t bytes, const std::vector<uint8_t>& pattern) {
  size_t done = std::min(bytes, pattern.size());
  need(gpu->upload(to, pattern.data(), done));
  for (; done < bytes; done += std::min(done, bytes - done)) need(gpu->copy(static_cast<char*>(to) + done, to, std::min(done, bytes - done)));
}

struct Model {
  Shape s;
  DType type = DType::f16;
  KvFormat kv;
  Linear qkv, o, up, down, head;
  AttentionSpec attention;
  const Implementation<AttentionSpec, AttentionParams>* attend;
  std::vector<KvLayer> pools;
  size_t weight_bytes = 0;
  float *x, *norm, *frequency, *logits;
  void *a, *b, *workspace;
  int32_t *row_begin, *context, *table, *positions, *slots, *row_sequence;
  int stride = 0;
  int64_t tokens = 0;  // that the pool holds

  LinearSpec linear(int in, int out, bool normed, bool residual, bool gated, bool fp16) {
    LinearSpec l;
    l.in = in; l.out = out; l.weight = fp16 ? WeightFormat::f16 : WeightFormat::w4; l.group = fp16 ? 0 : 128;
    l.x_type = normed ? DType::f32 : type; l.y_type = residual ? DType::f32 : type; l.residual = residual; l.gated = gated;
    l.activation = gated ? Activation::silu : Activation::none;
    l.norm = normed ? NormKind::rms : NormKind::none; l.norm_epsilon = 1e-5f;
    return l;
  }
  Model(const Shape& shape, KvFormat kv_format, bool fp16, int max_rows, int64_t kv_tokens, int max_sequences) : s(shape), kv(kv_format), tokens(kv_tokens) {
    qkv.make(linear(s.width, (s.heads + 2 * s.kv_heads) * s.dim, true, false, false, fp16), s.layers);
    o.make(linear(s.heads * s.dim, s.width, false, true, false, fp16), s.layers);
    up.make(linear(s.width, 2 * s.ffn, true, false, true, fp16), s.layers);
    down.make(linear(s.ffn, s.width, false, true, false, fp16), s.layers);
    LinearSpec h = linear(s.width, s.vocabulary, true, false, false, fp16);
    h.y_type = DType::f32;
    head.make(h, 1);
    weight_bytes = s.layers * (qkv.bytes + o.bytes + up.bytes + down.bytes) + head.bytes;
    attention.heads = s.heads; attention.kv_heads = s.kv_heads; attention.head_dim = s.dim; attention.scale = 1 / std::sqrt(static_cast<float>(s.dim));
    attention.kv = kv; attention.type = type; attention.rope_dims = s.dim;
    attend = pick(kernels::cuda::attention_implementations(), attention);
    const int64_t blocks = kv_tokens / kv_block_tokens;
    const size_t element = kv == KvFormat::int8 ? 1 : 2, bytes = static_cast<size_t>(kv_tokens) * s.kv_heads * s.dim * element;
    const std::vector<uint8_t> noise = kv_noise(kv);
    const std::vector<float> scales(1024, 0.01f);
    for (int i = 0; i < s.layers; ++i) {
      KvLayer l{take(bytes, MemoryKind::kv), take(bytes, MemoryKind::kv), nullptr, nullptr};
      fill(l.k, bytes, noise); fill(l.v, bytes, noise);
      l.k_scale = static_cast<float*>(take(kv_tokens * s.kv_heads * 4)); l.v_scale = static_cast<float*>(take(kv_tokens * s.kv_heads * 4));
      fill(l.k_scale, kv_tokens * s.kv_heads * 4, bytes_of(scales)); fill(l.v_scale, kv_tokens * s.kv_heads * 4, bytes_of(scales));
      pools.push_back(l);
    }
    const int widest = std::max(2 * s.ffn, (s.heads + 2 * s.kv_heads) * s.dim);
    x = static_cast<float*>(take(static_cast<size_t>(max_rows) * s.width * 4));
    need(gpu->fill_zero(x, static_cast<size_t>(max_rows) * s.width * 4));
    a = take(static_cast<size_t>(max_rows) * widest * 2); b = take(static_cast<size_t>(max_rows) * widest * 2);
    logits = static_cast<float*>(take(static_cast<size_t>(max_sequences) * s.vocabulary * 4));
    std::vector<float> ones(std::max(s.width, s.dim), 1.f);
    norm = static_cast<float*>(take(ones.size() * 4)); need(gpu->upload(norm, ones.data(), ones.size() * 4));
    std::vector<float> f(s.dim / 2);
    for (int i = 0; i < s.dim / 2; ++i) f[i] = std::pow(10000.f, -2.f * i / s.dim);
    frequency = static_cast<float*>(take(f.size() * 4)); need(gpu->upload(frequency, f.data(), f.size() * 4));
    std::vector<float> start(static_cast<size_t>(max_rows) * s.width);
    for (size_t i = 0; i < start.size(); ++i) start[i] = static_cast<float>(static_cast<int>(i * 2654435761u >> 20) % 200 - 100) / 100;
    need(gpu->upload(x, start.data(), start.size() * 4));
    size_t scratch = attend->workspace_bytes ? attend->workspace_bytes(attention, max_rows, gpu->info()) : 0;
    for (const Linear* l : {&qkv, &o, &up, &down, &head}) scratch = std::max(scratch, l->implementation->workspace_bytes ? l->implementation->workspace_bytes(l->spec, max_rows, gpu->info()) : 0);
    workspace = take(scratch + 256);
    auto ints = [](size_t n) { return static_cast<int32_t*>(take(n * 4)); };
    row_begin = ints(max_sequences + 1); context = ints(max_sequences); table = ints(blocks); positions = ints(max_rows); slots = ints(max_rows); row_sequence = ints(max_rows);
    need(gpu->stream().synchronize());
  }
  // `sequences` of `rows` new rows each, context tokens after the step.
  Batch batch(int sequences, int rows, int tokens) {
    Batch bt;
    stride = (tokens + kv_block_tokens - 1) / kv_block_tokens;
    std::vector<int32_t> rb, ct, tb, ps, sl, rs;
    for (int i = 0; i < sequences; ++i) {
      rb.push_back(i * rows); ct.push_back(tokens);
      for (int k = 0; k < stride; ++k) tb.push_back(i * stride + k);
      for (int r = 0; r < rows; ++r) { const int at = tokens - rows + r; ps.push_back(at); sl.push_back(i * stride * kv_block_tokens + at); rs.push_back(i); }
    }
    rb.push_back(sequences * rows);
    auto send = [](int32_t* to, const std::vector<int32_t>& v) { need(gpu->upload(to, v.data(), v.size() * 4)); };
    send(row_begin, rb); send(context, ct); send(table, tb); send(positions, ps); send(slots, sl); send(row_sequence, rs);
    need(gpu->stream().synchronize());
    bt.rows = sequences * rows; bt.sequences = sequences; bt.max_rows = rows; bt.max_context = tokens; bt.block_table_stride = stride;
    bt.row_begin = row_begin; bt.context = context; bt.block_table = table; bt.positions = positions; bt.kv_slot = slots; bt.row_sequence = row_sequence;
    return bt;
  }
  void attention_run(const Batch& bt, int layer) {
    AttentionParams p;
    p.batch = bt; p.qkv = a; p.qkv_stride = (s.heads + 2 * s.kv_heads) * s.dim; p.inverse_frequency = frequency; p.kv = pools[layer];
    p.out = b; p.out_stride = s.heads * s.dim; p.workspace = workspace;
    attend->run(attention, p, gpu->stream());
  }
  // parts: 1 qkv, 2 attention, 4 o, 8 up, 16 down
  void chain(const Batch& bt, int parts) {
    const int rows = bt.rows;
    for (int i = 0; i < s.layers; ++i) {
      if (parts & 1) qkv.run(i, rows, x, s.width, a, (s.heads + 2 * s.kv_heads) * s.dim, norm, workspace);
      if (parts & 2) attention_run(bt, i);
      if (parts & 4) o.run(i, rows, b, s.heads * s.dim, x, s.width, nullptr, workspace);
      if (parts & 8) up.run(i, rows, x, s.width, a, s.ffn, norm, workspace);
      if (parts & 16) down.run(i, rows, a, s.ffn, x, s.width, nullptr, workspace);
    }
  }
  void step(const Batch& bt) {
    const int rows = bt.rows;
    for (int i = 0; i < s.layers; ++i) {
      qkv.run(i, rows, x, s.width, a, (s.heads + 2 * s.kv_heads) * s.dim, norm, workspace);
      attention_run(bt, i);
      o.run(i, rows, b, s.heads * s.dim, x, s.width, nullptr, workspace);
      up.run(i, rows, x, s.width, a, s.ffn, norm, workspace);
      down.run(i, rows, a, s.ffn, x, s.width, nullptr, workspace);
    }
    head.run(0, bt.sequences, x, s.width, logits, s.vocabulary, norm, workspace);
  }
  double kv_bytes(const Batch& bt) const { return 2.0 * bt.sequences * bt.max_context * s.kv_heads * s.dim * (kv == KvFormat::int8 ? 1 : 2) * s.layers; }
  double parameters() const { return static_cast<double>(s.layers) * ((s.heads + 2.0 * s.kv_heads) * s.dim * s.width + s.heads * s.dim * static_cast<double>(s.width) + 3.0 * s.width * s.ffn); }
};

std::vector<int> numbers(const char* text) {
  std::vector<int> list;
  for (char* at = const_cast<char*>(text); *at;) { list.push_back(static_cast<int>(std::strtol(at, &at, 10))); if (*at == ',') ++at; }
  return list;
}
std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}
#include "prefill_bench.h"

// Where a block of the decode program passed which point, in cycles since the phase before was done (kernels built with
// HEARTH_PROGRAM_TRACE=block). Points of a linear: first weights here, activations here, multiplied, stored (by each finisher, its last tile);
// of an attention: begun, queries here, blocks done, -, -, merged. Then: all loaded; and how long the loader waited for copies
// to land and for room, a worker for weights and for room for its sums.
void bench_trace(const std::function<void()>& step) {
  median_us(step, 20);
  std::vector<long long> at(64 * 16);
  need(gpu->download(at.data(), device::cuda(gpu->stream()).exchange() + kernels::cuda::program_trace_at, at.size() * 8));
  need(gpu->stream().synchronize());
  long long before = at[0];
  for (int i = 0; i < 64; ++i) {
    std::printf("phase %2d:", i);
    long long end = before;
    for (int p = 0; p < 7; ++p) {
      const long long t = at[i * 16 + p];
      std::printf(" %7lld", t ? t - before : 0);
      if (p < 6) end = std::max(end, t);
    }
    std::printf(" | %6lld %6lld %6lld %6lld  = %lld\n", at[i * 16 + 7], at[i * 16 + 8], at[i * 16 + 9], at[i * 16 + 10], end - before);
    before = end;
  }
  // All blocks by their common clock, in ns since the first of them began the phase: first, median, last.
  const int blocks = gpu->info().threads;
  std::vector<long long> all(static_cast<size_t>(64) * 6 * blocks);
  need(gpu->download(all.data(), device::cuda(gpu->stream()).exchange() + kernels::cuda::program_trace_all_at, all.size() * 8));
  need(gpu->stream().synchronize());
  for (int i = 9; i < 21; ++i) {
    std::printf("phase %2d:", i);
    for (int p = 0; p < 6; ++p) {
      std::vector<std::pair<long long, int>> t;
      for (int b = 0; b < blocks; ++b) if (const long long v = all[(i * 6 + p) * blocks + b]) t.emplace_back(v - all[(9 * 6) * blocks], b);
      std::sort(t.begin(), t.end());
      if (t.empty()) std::printf("  [-]");
      else std::printf("  [%lld %lld %lld(%d)]", t.front().first, t[t.size() / 2].first, t.back().first, t.back().second);
    }
    std::printf("\n");
  }
}

// The last chain of linears of a step: when its blocks passed which point, in cycles since its predecessors were done, which all see at once.
void bench_chain_trace(const std::function<void()>& step) {
  kernels::cuda::tuning().chain_trace |= 1;
  median_us(step, 20);
  const int blocks = device::cuda(gpu->stream()).multiprocessors();
  std::vector<long long> at(static_cast<size_t>(blocks) * 7 * 8);
  need(gpu->download(at.data(), device::cuda(gpu->stream()).exchange() + (1 << 20), at.size() * 8));
  need(gpu->stream().synchronize());
  kernels::cuda::tuning().chain_trace = 0;
  auto line = [&](const char* name, int phase, int point) {
    double sum = 0, least = 1e18, most = 0;
    for (int b = 0; b < blocks; ++b) {
      const double t = static_cast<double>(at[(b * 7 + phase) * 8 + point] - at[(b * 7 + 6) * 8 + 1]);
      sum += t; least = std::min(least, t); most = std::max(most, t);
    }
    std::printf("    %-22s mean %8.0f  first %8.0f  last %8.0f\n", name, sum / blocks, least, most);
  };
  line("predecessors done", 6, 1);
  const char* names[] = {"begun", "first stage there", "multiplied", "last sums there", "stored", "published", "input ready", "first weights asked"};
  for (int phase = 0; phase < 4; ++phase) {
    std::printf("  phase %d\n", phase);
    for (int point : {7, 0, 6, 1, 2, 3, 4, 5}) line(names[point], phase, point);
  }
}

bool wants(const std::string& what, const char* name) { return what.find(name) != std::string::npos; }

// Sampling alone: peaked logits (a trained model's) and flat ones (a random model's).
// before: what stands in front of the sampling, of one row.
void bench_sample(int vocabulary, float spread, const std::function<void()>& before = {}) {
  const double alone = before ? median_us(before, 60) : 0;
  SampleSpec s{vocabulary, 64, 64};
  const auto* sample = kernels::cuda::sample_implementations()[0];
  SampleParams p;
  std::vector<float> l(static_cast<size_t>(64) * s.vocabulary);
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (auto& v : l) v = normal(random) * spread;
  auto* logits = static_cast<float*>(take(l.size() * 4));
  need(gpu->upload(logits, l.data(), l.size() * 4));
  // One row is drawn with the noise of so many positions in turn: of some a token is looked at in vain.
  constexpr int positions = 16;
  auto* row = static_cast<SampleRow*>(take(64 * sizeof(SampleRow)));
  auto ints = [](size_t n) { return static_cast<int32_t*>(take(n * 4)); };
  p.logits = logits; p.logits_stride = s.vocabulary; p.row = row; p.workspace = take(sample->workspace_bytes(s, 64, gpu->info()));
  p.sampled = ints(64); p.token = ints(64); p.logprob = static_cast<float*>(take(256)); p.top_ids = ints(64 * 20); p.top_logprobs = static_cast<float*>(take(64 * 80));
  const char* kinds[] = {"greedy", "temperature", "top_p", "top_k", "top_k+top_p", "min_p", "top_p+logprobs"};
  for (int kind = 0; kind < 7; ++kind)
    for (int rows : {1, 64}) {
      if (before && rows > 1) continue;
      std::vector<SampleRow> rs(64);
      for (int i = 0; i < 64; ++i) {
        rs[i].slot = i; rs[i].seed = i; rs[i].position = i; rs[i].temperature = kind ? 0.8f : 0;
        if (kind == 2 || kind == 4 || kind == 6) rs[i].top_p = 0.9f;
        if (kind == 3 || kind == 4) rs[i].top_k = 40;
        if (kind == 5) rs[i].min_p = 0.05f;
        if (kind == 6) rs[i].top_logprobs = 5;
      }
      need(gpu->upload(row, rs.data(), rs.size() * sizeof(SampleRow)));
      need(gpu->stream().synchronize());
      p.rows = rows; p.host_row = rs.data();
      auto sampled = [&](int position) {
        p.row = row + position;
        if (before) before();
        sample->run(s, p, gpu->stream());
      };
      const int turns = rows > 1 ? 1 : positions;
      double us = 0;
      if (before) for (int i = 0; i < turns; ++i) us += median_us([&] { sampled(i); }, 10) / turns;  // a graph a step, as an engine has it
      else us = median_us([&] { for (int i = 0; i < turns; ++i) sampled(i); }, 20) / turns;
      std::printf("sample %d logits of spread %.1f: %s rows %d: ", s.vocabulary, spread, kinds[kind], rows);
      if (before) std::printf("%.1f us behind a step of %.1f us\n", us - alone, alone);
      else std::printf("%.1f us\n", us);
    }
  for (void* pointer : {static_cast<void*>(logits), static_cast<void*>(p.workspace)}) gpu->release(pointer);
}

}  // namespace

int main(int argc, char** argv) {
  std::string profile, shape_name = "7b", what = "decode,batch,prefill,ops";
  std::vector<int> batches{2, 4, 8, 16, 32, 64}, op_rows{1, 4, 8, 16, 32, 64, 128, 512, 2048};
  std::vector<int> contexts;
  std::vector<std::string> sets{""};
  for (int i = 1; i + 1 < argc; i += 2) {
    if (!std::strcmp(argv[i], "--profile")) profile = argv[i + 1];
    else if (!std::strcmp(argv[i], "--shape")) shape_name = argv[i + 1];
    else if (!std::strcmp(argv[i], "--what")) what = argv[i + 1];
    else if (!std::strcmp(argv[i], "--batches")) batches = numbers(argv[i + 1]);
    else if (!std::strcmp(argv[i], "--contexts")) contexts = numbers(argv[i + 1]);
    else if (!std::strcmp(argv[i], "--rows")) op_rows = numbers(argv[i + 1]);
    else if (!std::strcmp(argv[i], "--set")) sets = split(argv[i + 1], ';');
    else die(std::string("unknown option ") + argv[i]);
  }
  auto opened = device::open_cuda_device(0, profile, false);
  if (!opened) die(opened.status().message());
  gpu = std::move(*opened);
  const Shape* shape = nullptr;
  for (const Shape& s : shapes) if (shape_name == s.name) shape = &s;
  if (!shape) die("shapes are 7b, 8b, 1b");
  auto limits = kernels::cuda::probe(*gpu);
  if (!limits) die(limits.status().message());
  std::printf("%s as %s: read %.0f GB/s, mma.sync %.0f TFLOP/s, wgmma %.0f TFLOP/s\n", gpu->info().name.c_str(), gpu->info().profile.name.c_str(), limits->read_gb_s, limits->mma_tflop_s, limits->wgmma_tflop_s);
  if (wants(what, "dense")) bench_dense();
  if (wants(what, "vit")) bench_towers(std::max(limits->mma_tflop_s, limits->wgmma_tflop_s));
  if (wants(what, "cuts")) bench_cuts();
  if (what == "cuts" || what == "dense" || what == "vit" || what == "dense,vit") { gpu.reset(); return 0; }
  const double gb = limits->read_gb_s * 1e9;
  if (wants(what, "sample"))
    for (int vocabulary : {32000, 128256}) { bench_sample(vocabulary, 3); bench_sample(vocabulary, 0.3f); }
  if (what == "sample") { gpu.reset(); return 0; }
  auto& tuning = kernels::cuda::tuning();
  const bool fp16 = wants(what, "fp16");
  const KvFormat kv = wants(what, "int8kv") ? KvFormat::int8 : KvFormat::f16;
  const int longest = contexts.empty() ? 256 : *std::max_element(contexts.begin(), contexts.end()), most = wants(what, "batch") ? *std::max_element(batches.begin(), batches.end()) : 1;
  const int64_t kv_tokens = std::max<int64_t>(wants(what, "context") ? 131072 + 256 : 64 * 256, int64_t{most} * (longest + kv_block_tokens));
  Model model(*shape, kv, fp16, 2048, kv_tokens, std::max(64, most));
  std::printf("weights %.3f GB, limit %.0f tok/s at batch 1\n", model.weight_bytes / 1e9, gb / model.weight_bytes);
  if (!sets[0].empty()) need(kernels::cuda::set_tuning(sets[0]));  // also for the traces
  auto decode = [&](int sequences, int tokens, const char* label) {
    const Batch bt = model.batch(sequences, 1, tokens);
    const double us = median_us([&] { model.step(bt); });
    const double limit = (model.weight_bytes + model.kv_bytes(bt)) / gb * 1e6;
    std::printf("%s batch %d context %d: %.1f us, %.0f tok/s, limit %.0f tok/s, fraction %.3f\n", label, sequences, tokens, us, sequences * 1e6 / us, sequences * 1e6 / limit, limit / us);
    std::fflush(stdout);
    return us;
  };
  if (wants(what, "trace") && !wants(what, "chaintrace"))
    for (int n : batches) {
      std::printf("trace of batch %d context %d\n", n, contexts[0]);
      const Batch bt = model.batch(n, 1, contexts[0]);
      bench_trace([&] { model.step(bt); });
    }
  if (wants(what, "chaintrace"))
    for (int n : batches) {
      const Batch bt = model.batch(n, 1, 192);
      std::printf("chain of batch %d\n", n);
      bench_chain_trace([&] {  // ends with a chain of four
        for (int i = 0; i < 2; ++i) {
          model.attention_run(bt, i);
          model.o.run(i, n, model.b, model.s.heads * model.s.dim, model.x, model.s.width, nullptr, model.workspace);
          model.up.run(i, n, model.x, model.s.width, model.a, model.s.ffn, model.norm, model.workspace);
          model.down.run(i, n, model.a, model.s.ffn, model.x, model.s.width, nullptr, model.workspace);
          model.qkv.run(i + 1, n, model.x, model.s.width, model.a, (model.s.heads + 2 * model.s.kv_heads) * model.s.dim, model.norm, model.workspace);
        }
      });
    }
  if (wants(what, "pass")) {
    ::setenv("HEARTH_TUNING", "on", 1);
    std::vector<TuneRequest> requests;
    for (const Linear* l : {&model.qkv, &model.o, &model.up, &model.down, &model.head}) requests.push_back({l->spec, {l->weights.begin(), l->weights.end()}});
    const auto start = std::chrono::steady_clock::now();
    need(kernels::cuda::tune_linears(*gpu, requests, 256, nullptr));
    std::printf("tuning pass: %.2f s\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  if (wants(what, "overlap")) {
    for (int batch : batches)
      for (int variant = 0; variant < 5; ++variant) {
        device::cuda(gpu->stream()).overlap_allowed = variant != 4;
        tuning.attention_overlaps = variant & 1;
        tuning.attention_early_sequences = variant & 2 ? 0 : 1 << 30;
        decode(batch, 160, variant == 4 ? "no overlap" : (std::string("attention ") + (variant & 1 ? "overlaps, " : "waits, ") + (variant & 2 ? "releases early" : "releases late")).c_str());
      }
    device::cuda(gpu->stream()).overlap_allowed = true;
    tuning = {};
  }
  if (wants(what, "tune")) {
    for (int stages : {3, 5}) {
      tuning.rows_stages = stages;
      decode(1, 160, ("stages " + std::to_string(stages)).c_str());
    }
    tuning = {};
    for (int batch : {2, 4, 8})
      for (int most : {1, 8})
        for (int fused : {0, 8}) {
          tuning.rows_max = most; tuning.fused_norm_rows = fused;
          if (most == 1 && fused) continue;
          decode(batch, 160, ("rows_max " + std::to_string(most) + " fused " + std::to_string(fused)).c_str());
        }
    tuning = {};
    tuning = {};
  }
  for (const std::string& set : sets) {
    if (!set.empty()) {
      tuning = {};
      need(kernels::cuda::set_tuning(set));
      std::printf("-- %s\n", set.c_str());
    }
    if (wants(what, "parts")) {
      const Batch bt = model.batch(1, 1, 160);
      for (int parts : {31, 29, 1, 2, 4, 8, 16, 3, 6, 12, 24, 17}) {
        const double us = median_us([&] { model.chain(bt, parts); }, 40) / model.s.layers;
        std::printf("chain of %s%s%s%s%s: %.2f us a layer\n", parts & 1 ? "qkv " : "", parts & 2 ? "attention " : "", parts & 4 ? "o " : "", parts & 8 ? "up " : "", parts & 16 ? "down" : "", us);
      }
      need(gpu->stream().synchronize());
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < 20; ++i) model.chain(bt, 31);
      need(gpu->stream().synchronize());
      std::printf("chain without a graph: %.2f us a layer\n", std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / 20 / model.s.layers);
    }
    if (wants(what, "attention"))
      for (const auto& [sequences, tokens] : {std::pair{1, 160}, {1, 1024}, {1, 8192}, {1, 32768}, {1, 131072}, {2, 192}, {4, 192}, {8, 192}, {16, 192}, {16, 500}, {16, 1000}, {32, 192}, {64, 192}}) {
        if (static_cast<int64_t>(sequences) * tokens > model.tokens) continue;
        const Batch bt = model.batch(sequences, 1, tokens);
        const double us = median_us([&] { for (int i = 0; i < model.s.layers; ++i) model.attention_run(bt, i); }, 30) / model.s.layers, limit = model.kv_bytes(bt) / model.s.layers / gb * 1e6;
        std::printf("attention %3d x %6d: %8.2f us a layer, limit %7.2f (%.2f)\n", sequences, tokens, us, limit, limit / us);
        std::fflush(stdout);
      }
    if (wants(what, "behind")) {
      const Batch bt = model.batch(1, 1, 160);
      bench_sample(model.s.vocabulary, 3, [&] { model.step(bt); });
    }
    if (wants(what, "decode")) for (int n : contexts.empty() ? std::vector{160} : contexts) decode(1, n, "decode");
    if (wants(what, "batch")) for (int n : batches) for (int tokens : contexts.empty() ? std::vector{192} : contexts) decode(n, tokens, "decode");
    if (wants(what, "context")) for (int n : {8192, 32768, 131072}) decode(1, n, "decode");
    if (wants(what, "prefill")) for (int n : {128, 512, 2048}) {
      const Batch bt = model.batch(1, n, n);
      const double us = median_us([&] { model.step(bt); });
      std::printf("prefill %d: %.0f us, %.0f tok/s, %.0f TFLOP/s\n", n, us, n * 1e6 / us, 2 * model.parameters() * n / us / 1e6);
      std::fflush(stdout);
    }
    if (wants(what, "ops")) {
      struct Entry { const char* name; Linear* linear; };
      for (int rows : op_rows) {
        const Batch bt = rows <= 64 ? model.batch(rows, 1, 192) : model.batch(1, rows, rows);
        for (const Entry& e : {Entry{"qkv", &model.qkv}, {"o", &model.o}, {"up", &model.up}, {"down", &model.down}, {"head", &model.head}}) {
          if (e.linear == &model.head && rows > 64) continue;
          const LinearSpec& l = e.linear->spec;
          const double us = median_us([&] {
            for (int i = 0; i < model.s.layers; ++i)
              e.linear->run(i % static_cast<int>(e.linear->weights.size()), rows, l.norm != NormKind::none ? static_cast<void*>(model.x) : model.a, l.in, l.residual ? static_cast<void*>(model.x) : model.b, l.gated ? l.out / 2 : l.out, model.norm, model.workspace);
          }, 30) / model.s.layers;
          std::printf("op %-5s rows %4d: %8.2f us, %5.0f GB/s (%.2f), %4.0f TFLOP/s\n", e.name, rows, us, e.linear->bytes / us / 1e3, e.linear->bytes / us * 1e6 / gb, 2.0 * l.in * l.out * rows / us / 1e6);
        }
        const double us = median_us([&] { for (int i = 0; i < model.s.layers; ++i) model.attention_run(bt, i); }, 30) / model.s.layers;
        std::printf("op attn  rows %4d: %8.2f us (%d sequences of %d)\n", rows, us, bt.sequences, bt.max_context);
        std::fflush(stdout);
      }
    }
  }
  need(gpu->stream().synchronize());
  gpu.reset();
  return 0;
}
