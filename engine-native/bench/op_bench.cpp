// bench-ops: the linears of one decode or prefill step of a model's shape, with its real memory footprint, beside the
// roofline measured in the same process. For tuning kernels; hearth-bench measures the whole engine.
//
//   bench-ops [--threads N] [--layers N] [--group 32|64|128] [--asymmetric] [--activations int8|exact] [--weights w4|w8|f16|f32]
//             [--rows 1,8,128] [--seconds S]
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
  std::vector<int> rows{1, 4, 8, 128};
  double seconds = 1.5;
};

double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

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
  auto bound = ops::bind(s, device.info());
  if (!bound) std::fprintf(stderr, "%s\n", bound.status().message().c_str()), std::exit(2);
  auto weight = device.allocate(bound->packed_bytes(), device::MemoryKind::weights, "weights");
  if (!weight) std::fprintf(stderr, "%s\n", weight.status().message().c_str()), std::exit(2);
  const size_t elements = static_cast<size_t>(in) * out;
  std::vector<uint8_t> data(o.weights == "w4" ? elements / 2 : o.weights == "w8" ? elements : o.weights == "f32" ? 4 * elements : 2 * elements);
  uint32_t state = 1;
  for (auto& byte : data) byte = static_cast<uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
  if (o.weights[0] == 'f') std::fill(data.begin(), data.end(), uint8_t{0x11});
  std::vector<float> scales(o.weights == "w4" ? elements / o.group : out, 0.001f);
  std::vector<uint8_t> zeros(o.weights == "w4" ? elements / o.group : 0, 7);
  const ops::HostLinear host{in, out, s.weight, s.group, s.symmetric, data.data(), scales.data(), s.symmetric ? nullptr : zeros.data()};
  bound->pack(host, *weight);
  return {*bound, *weight};
}

struct Bench {
  Options options;
  std::unique_ptr<device::Device> device;
  std::vector<Linear> qkv, out, up, down;
  Linear head;
  Shape shape;
  size_t bytes = 0;
  double macs = 0;

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
    count(head);
  }
  void count(const Linear& l) { bytes += l.bound.packed_bytes(); macs += static_cast<double>(l.bound.spec().in) * l.bound.spec().out; }

  // Seconds of one step of `rows` rows; the head runs on one row when rows > 16 (prefill), else on all.
  double step(int rows, std::vector<float>& x, std::vector<float>& y, std::vector<uint8_t>& workspace, const std::vector<float>& ones) {
    const auto begin = Clock::now();
    const Shape& h = shape;
    auto run = [&](const Linear& l, int n, float* from, int64_t from_stride, float* to, int64_t to_stride) {
      ops::LinearParams p;
      p.rows = n, p.x = from, p.x_stride = from_stride, p.norm_weight = ones.data(), p.weight = l.weight;
      p.y = to, p.y_stride = to_stride, p.workspace = workspace.data();
      l.bound.run(p, device->stream());
    };
    for (int i = 0; i < options.layers; ++i) {
      run(qkv[i], rows, x.data(), h.width, y.data(), h.ffn);
      run(out[i], rows, y.data(), h.ffn, x.data(), h.width);
      run(up[i], rows, x.data(), h.width, y.data(), h.ffn);
      run(down[i], rows, y.data(), h.ffn, x.data(), h.width);
    }
    const int last = rows > 16 ? 1 : rows;
    run(head, last, x.data(), h.width, y.data(), h.vocabulary);
    return seconds_since(begin);
  }

  void measure(int rows, double bandwidth) {
    std::vector<float> x(static_cast<size_t>(rows) * shape.width, 0.5f), ones(shape.ffn, 1.0f);
    std::vector<float> y(static_cast<size_t>(std::max(rows, 4)) * shape.ffn + 16 * static_cast<size_t>(shape.vocabulary));
    size_t wanted = 0;
    for (const auto* l : {&qkv[0], &out[0], &up[0], &down[0], &head}) wanted = std::max(wanted, l->bound.workspace_bytes(std::max(rows, 16), device->info()));
    std::vector<uint8_t> workspace(wanted);
    std::vector<double> times;
    const auto begin = Clock::now();
    while (times.size() < 3 || seconds_since(begin) < options.seconds) {
      for (float& v : x) v = 0.5f;
      times.push_back(step(rows, x, y, workspace, ones));
    }
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    const double t = times[times.size() / 2];
    std::printf("rows %4d: %8.2f tok/s  %7.2f ms  %6.2f GB/s (%.0f %% of %.1f)  %7.1f GMAC/s\n", rows, rows / t, t * 1e3, bytes / t * 1e-9,
                100 * bytes / t * 1e-9 / bandwidth, bandwidth, rows * macs / t * 1e-9);
    std::fflush(stdout);
  }
};

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
    else if (name == "--rows") {
      o.rows.clear();
      for (size_t at = 0; at < value.size(); at = value.find(',', at) == std::string::npos ? value.size() : value.find(',', at) + 1) {
        o.rows.push_back(std::atoi(value.c_str() + at));
      }
    } else return false;
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
  auto device = device::open_cpu_device(bench.options.threads);
  if (!device) return std::fprintf(stderr, "%s\n", device.status().message().c_str()), 2;
  bench.device = std::move(*device);
  device::pool_of(bench.device->stream()).pin_caller();
  const auto bandwidth = device::measure_cpu_read_bandwidth(*bench.device);
  if (!bandwidth) return std::fprintf(stderr, "%s\n", bandwidth.status().message().c_str()), 2;
  bench.build();
  const auto& info = bench.device->info();
  std::printf("%s, %d threads, %s; %s; %.1f MB of weights; read %.1f GB/s (%d streams)\n", info.name.c_str(), info.threads,
              device::describe(info.cpu).c_str(), ops::describe(bench.up[0].bound.spec()).c_str(), bench.bytes * 1e-6, bandwidth->gb_s,
              bandwidth->streams);
  std::printf("kernel %s, layout %s\n", bench.up[0].bound.implementation().name, bench.up[0].bound.layout());
  for (int rows : bench.options.rows) bench.measure(rows, bandwidth->gb_s);
  return 0;
}
