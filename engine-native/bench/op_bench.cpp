// bench-ops: the linears of one decode or prefill step of a model's shape, with its real memory footprint, beside the
// roofline measured in the same process. For tuning kernels; hearth-bench measures the whole engine.
//
//   bench-ops [--threads N] [--layers N] [--group 32|64|128] [--asymmetric] [--activations int8|exact] [--weights w4|w8|f16|f32]
//             [--rows 1,8,128] [--contexts 128,512] [--seconds S]
//
// With contexts, attention after that many tokens is measured instead: the rows are the last of one sequence, every layer has
// KV of its own (F16).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "device/bandwidth.h"
#include "device/cpu_features.h"
#include "device/cpu_stream.h"
#include "ops/bind.h"
#include "ops/describe.h"

namespace {

using namespace hearth;
using Clock = std::chrono::steady_clock;

struct Options {
  int threads = 0, layers = 16, group = 32;
  bool symmetric = true;
  std::string activations = "int8", weights = "w4";
  std::vector<int> rows{1, 4, 8, 128}, contexts;
  double seconds = 1.5;
};

template <class T>
T must(Result<T> result) {
  if (!result) std::fprintf(stderr, "%s\n", result.status().message().c_str()), std::exit(2);
  return std::move(*result);
}

double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

// Of at least three runs of body(), for so many seconds.
template <class Body>
double median_seconds(double seconds, Body body) {
  std::vector<double> times;
  for (const auto begin = Clock::now(); times.size() < 3 || seconds_since(begin) < seconds;) {
    const auto start = Clock::now();
    body();
    times.push_back(seconds_since(start));
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

ops::LinearSpec spec_of(const Options& o, int in, int out, bool gated, bool residual, bool norm) {
  ops::LinearSpec s;
  s.in = in, s.out = out, s.gated = gated, s.residual = residual;
  if (gated) s.activation = ops::Activation::silu;
  if (norm) s.norm = ops::NormKind::rms, s.norm_epsilon = 1e-5f;
  if (o.weights == "w4") {
    s.weight = ops::WeightFormat::w4, s.group = o.group, s.symmetric = o.symmetric;
    s.activations = o.activations == "exact" ? ops::ActivationFormat::exact : ops::ActivationFormat::int8_group;
  } else if (o.weights == "w8") {
    s.weight = ops::WeightFormat::w8;
    s.activations = o.activations == "exact" ? ops::ActivationFormat::exact : ops::ActivationFormat::int8_row;
  } else {
    s.weight = o.weights == "f32" ? ops::WeightFormat::f32 : ops::WeightFormat::f16;
  }
  return s;
}

struct Linear { ops::BoundLinear bound; void* weight; };

struct Shape { int width = 2048, heads = 32, kv_heads = 8, head_dim = 64, ffn = 8192, vocabulary = 32000; };

// Random weights: scales small enough that activations stay finite through the layers.
Linear make(const Options& o, device::Device& device, int in, int out, bool gated, bool residual, bool norm) {
  const ops::LinearSpec s = spec_of(o, in, out, gated, residual, norm);
  const ops::BoundLinear bound = must(ops::bind(s, device.info()));
  void* weight = must(device.allocate(bound.packed_bytes(), device::MemoryKind::weights, "weights"));
  const size_t elements = static_cast<size_t>(in) * out;
  std::vector<uint8_t> data(o.weights == "w4" ? elements / 2 : o.weights == "w8" ? elements : o.weights == "f32" ? 4 * elements : 2 * elements);
  uint32_t state = 1;
  for (auto& byte : data) byte = static_cast<uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
  if (o.weights[0] == 'f') std::fill(data.begin(), data.end(), uint8_t{0x11});
  std::vector<float> scales(o.weights == "w4" ? elements / o.group : out, 0.001f);
  std::vector<uint8_t> zeros(o.weights == "w4" ? elements / o.group : 0, 7);
  const ops::HostLinear host{in, out, s.weight, s.group, s.symmetric, data.data(), scales.data(), s.symmetric ? nullptr : zeros.data()};
  bound.pack(host, weight);
  return {bound, weight};
}

struct Bench {
  Options options;
  std::unique_ptr<device::Device> device;
  std::vector<Linear> qkv, out, up, down;
  Linear head;  // on one row of many (prefill), else on all
  Shape shape;
  size_t bytes = 0;
  double macs = 0;  // of a row, without the head
  float *x = nullptr, *y = nullptr, *workspace = nullptr;
  std::vector<float> ones;

  void build() {
    const Shape& h = shape;
    const int kv = h.kv_heads * h.head_dim;
    for (int i = 0; i < options.layers; ++i) {
      qkv.push_back(make(options, *device, h.width, h.width + 2 * kv, false, false, true));
      out.push_back(make(options, *device, h.width, h.width, false, true, false));
      up.push_back(make(options, *device, h.width, 2 * h.ffn, true, false, true));
      down.push_back(make(options, *device, h.ffn, h.width, false, true, false));
    }
    head = make(options, *device, h.width, h.vocabulary, false, false, true);
    for (const auto* list : {&qkv, &out, &up, &down}) for (const Linear& l : *list) count(l);
    bytes += head.bound.packed_bytes();
  }
  static double macs_of(const Linear& l) { return static_cast<double>(l.bound.spec().in) * l.bound.spec().out; }
  void count(const Linear& l) { bytes += l.bound.packed_bytes(), macs += macs_of(l); }
  int rows_of_head(int rows) const { return rows > 16 ? 1 : rows; }

  float* floats(size_t count) { return static_cast<float*>(must(device->allocate(4 * count, device::MemoryKind::workspace, "activations"))); }

  // Activations where the engine has them, in huge pages.
  void make_room() {
    const auto rows = static_cast<size_t>(*std::max_element(options.rows.begin(), options.rows.end()));
    x = floats(rows * shape.width);
    y = floats(std::max(rows, size_t{4}) * shape.ffn + 16 * static_cast<size_t>(shape.vocabulary));
    ones.assign(static_cast<size_t>(shape.ffn), 1.0f);
    size_t wanted = 0;
    for (const auto* l : {&qkv[0], &out[0], &up[0], &down[0], &head}) {
      wanted = std::max(wanted, l->bound.workspace_bytes(std::max(static_cast<int>(rows), 16), device->info()));
    }
    workspace = floats(wanted / 4 + 1);
  }

  // One step of `rows` rows.
  void step(int rows) {
    const Shape& h = shape;
    auto run = [&](const Linear& l, int n, float* from, int64_t from_stride, float* to, int64_t to_stride) {
      ops::LinearParams p;
      p.rows = n, p.x = from, p.x_stride = from_stride, p.norm_weight = ones.data(), p.weight = l.weight;
      p.y = to, p.y_stride = to_stride, p.workspace = workspace;
      l.bound.run(p, device->stream());
    };
    for (int i = 0; i < options.layers; ++i) {
      run(qkv[i], rows, x, h.width, y, h.ffn);
      run(out[i], rows, y, h.ffn, x, h.width);
      run(up[i], rows, x, h.width, y, h.ffn);
      run(down[i], rows, y, h.ffn, x, h.width);
    }
    run(head, rows_of_head(rows), x, h.width, y, h.vocabulary);
  }

  void measure(int rows, double bandwidth) {
    const double t = median_seconds(options.seconds, [&] {
      std::fill(x, x + static_cast<size_t>(rows) * shape.width, 0.5f);
      step(rows);
    });
    std::printf("rows %4d: %8.2f tok/s  %7.2f ms  %6.2f GB/s (%.0f %% of %.1f)  %7.1f GMAC/s\n", rows, rows / t, t * 1e3, bytes / t * 1e-9,
                100 * bytes / t * 1e-9 / bandwidth, bandwidth, (rows * macs + rows_of_head(rows) * macs_of(head)) / t * 1e-9);
    std::fflush(stdout);
  }
};

// Attention of one sequence over all layers.
struct AttentionBench {
  const Options& options;
  device::Device& device;
  Shape shape;
  ops::BoundAttention bound;
  std::vector<ops::KvLayer> layers;
  std::vector<int32_t> table, positions, slots, sequence;
  std::vector<float> frequency;

  AttentionBench(const Options& o, device::Device& on) : options(o), device(on) {
    ops::AttentionSpec s;
    s.heads = shape.heads, s.kv_heads = shape.kv_heads, s.head_dim = s.rope_dims = shape.head_dim, s.scale = 0.125f;
    const int context = *std::max_element(o.contexts.begin(), o.contexts.end()) + *std::max_element(o.rows.begin(), o.rows.end());
    const size_t blocks = static_cast<size_t>(context) / ops::kv_block_tokens + 1;
    bound = must(ops::bind(s, device.info()));
    for (size_t i = 0; i < blocks; ++i) table.push_back(static_cast<int32_t>(i));
    for (int i = 0; i < shape.head_dim / 2; ++i) frequency.push_back(1.0f / static_cast<float>(1 << i / 2));
    const size_t bytes = blocks * ops::kv_block_tokens * shape.kv_heads * shape.head_dim * 2;
    for (int i = 0; i < o.layers; ++i) {
      ops::KvLayer layer;
      layer.k = must(device.allocate(bytes, device::MemoryKind::kv, "keys"));
      layer.v = must(device.allocate(bytes, device::MemoryKind::kv, "values"));
      std::memset(layer.k, 0x24, bytes), std::memset(layer.v, 0x24, bytes);
      layers.push_back(layer);
    }
  }

  void measure(int rows, int past) {
    const int width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim, context = past + rows;
    std::vector<float> qkv(static_cast<size_t>(rows) * width, 0.01f), out(static_cast<size_t>(rows) * shape.width);
    std::vector<uint8_t> workspace(bound.workspace_bytes(rows, device.info()));
    positions.clear();
    for (int i = 0; i < rows; ++i) positions.push_back(past + i);
    sequence.assign(static_cast<size_t>(rows), 0);
    const int32_t row_begin[] = {0, rows}, contexts[] = {context};
    ops::AttentionParams p;
    ops::Batch& b = p.batch;
    b.rows = b.max_rows = rows, b.sequences = 1, b.max_context = context, b.block_table_stride = static_cast<int>(table.size());
    b.row_begin = row_begin, b.context = contexts, b.block_table = table.data(), b.row_sequence = sequence.data();
    b.positions = b.kv_slot = positions.data();  // blocks lie in order
    p.qkv = qkv.data(), p.qkv_stride = width, p.inverse_frequency = frequency.data();
    p.out = out.data(), p.out_stride = shape.width, p.workspace = workspace.data();
    const double t = median_seconds(options.seconds, [&] {
      for (const ops::KvLayer& layer : layers) {
        p.kv = layer;
        bound.run(p, device.stream());
      }
    }) / options.layers;
    const double macs = 2.0 * shape.heads * shape.head_dim * rows * (past + (rows + 1) / 2.0);
    std::printf("attention %4d rows after %5d: %8.1f us a layer  %6.2f GB/s of KV  %6.1f GMAC/s\n", rows, past, t * 1e6,
                4e-9 * context * shape.kv_heads * shape.head_dim / t, macs / t * 1e-9);
    std::fflush(stdout);
  }
};

std::vector<int> numbers(const std::string& list) {
  std::vector<int> out;
  for (size_t at = 0; at < list.size(); at = list.find(',', at) == std::string::npos ? list.size() : list.find(',', at) + 1) {
    out.push_back(std::atoi(list.c_str() + at));
  }
  return out;
}

bool parse(int argc, char** argv, Options& o) {
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--asymmetric") { o.symmetric = false; continue; }
    if (i + 1 >= argc) return false;
    const std::string value = argv[++i];
    if (name == "--threads") o.threads = std::atoi(value.c_str());
    else if (name == "--layers") o.layers = std::atoi(value.c_str());
    else if (name == "--group") o.group = std::atoi(value.c_str());
    else if (name == "--activations") o.activations = value;
    else if (name == "--weights") o.weights = value;
    else if (name == "--seconds") o.seconds = std::atof(value.c_str());
    else if (name == "--rows") o.rows = numbers(value);
    else if (name == "--contexts") o.contexts = numbers(value);
    else return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  Bench bench;
  if (!parse(argc, argv, bench.options)) {
    std::fprintf(stderr, "bench-ops: see the top of bench/op_bench.cpp for options\n");
    return 2;
  }
  bench.device = must(device::open_cpu_device(bench.options.threads));
  device::pool_of(bench.device->stream()).pin_caller();
  if (!bench.options.contexts.empty()) {
    AttentionBench attention(bench.options, *bench.device);
    for (int context : bench.options.contexts) for (int rows : bench.options.rows) attention.measure(rows, context);
    return 0;
  }
  const auto bandwidth = must(device::measure_cpu_read_bandwidth(*bench.device));
  bench.build();
  bench.make_room();
  const auto& info = bench.device->info();
  std::printf("%s, %d threads, %s; %s; %.1f MB of weights; read %.1f GB/s (%d streams)\n", info.name.c_str(), info.threads,
              device::describe(info.cpu).c_str(), ops::describe(bench.up[0].bound.spec()).c_str(), bench.bytes * 1e-6, bandwidth.gb_s,
              bandwidth.streams);
  std::printf("kernel %s, layout %s\n", bench.up[0].bound.implementation().name, bench.up[0].bound.layout());
  for (int rows : bench.options.rows) bench.measure(rows, bandwidth.gb_s);
  return 0;
}
