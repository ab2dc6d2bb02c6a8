#include "verify/speed.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <vector>

#include "device/bandwidth.h"
#include "ops/bind.h"

namespace hearth::verify {
namespace {

using nlohmann::json;
using SteadyClock = std::chrono::steady_clock;

double since(SteadyClock::time_point begin) { return std::chrono::duration<double>(SteadyClock::now() - begin).count(); }

// Device memory that is given back when the measurement is over.
class Memory {
 public:
  explicit Memory(device::Device& device) : device_(device) {}
  Memory(const Memory&) = delete;
  ~Memory() { for (void* p : held_) device_.release(p); }
  Result<void*> take(size_t bytes) {
    HEARTH_ASSIGN(void* p, device_.allocate(std::max<size_t>(bytes, 1), device::MemoryKind::workspace, "measuring the speed"));
    held_.push_back(p);
    HEARTH_TRY(device_.fill_zero(p, bytes));
    return p;
  }

 private:
  device::Device& device_;
  std::vector<void*> held_;
};

// GB/s. On a GPU a copy reads and writes every byte.
Result<double> bandwidth(device::Device& device) {
  if (device.info().kind == device::DeviceKind::cpu) {
    HEARTH_ASSIGN(const device::Bandwidth b, device::measure_cpu_read_bandwidth(device));
    return b.gb_s;
  }
  HEARTH_ASSIGN(const size_t free, device.available_bytes());
  const size_t bytes = std::min<size_t>(size_t{1} << 30, free / 8) / 4096 * 4096;
  Memory memory(device);
  HEARTH_ASSIGN(void* from, memory.take(bytes));
  HEARTH_ASSIGN(void* to, memory.take(bytes));
  double best = 0;
  for (int pass = 0; pass < 6; ++pass) {
    HEARTH_TRY(device.stream().synchronize());
    const auto begin = SteadyClock::now();
    for (int i = 0; i < 4; ++i) HEARTH_TRY(device.copy(to, from, bytes));
    HEARTH_TRY(device.stream().synchronize());
    best = std::max(best, 4 * 2 * static_cast<double>(bytes) / since(begin) / 1e9);
  }
  return best;
}

// A linear with `copies` of its weights, so that a pass over all of them comes from memory, not from a cache.
class LinearRun {
 public:
  static Result<LinearRun> make(const ops::LinearSpec& spec, int rows, int copies, device::Device& device, Memory& memory) {
    LinearRun run(device, rows);
    HEARTH_ASSIGN(run.linear_, ops::bind(spec, device.info()));
    const size_t values = spec.weight == ops::WeightFormat::w4 ? static_cast<size_t>(spec.in) * spec.out / 2
                                                               : static_cast<size_t>(spec.in) * spec.out * (spec.weight == ops::WeightFormat::f32 ? 4 : 2);
    const std::vector<uint8_t> data(values, 0);
    const std::vector<float> scales(spec.group ? static_cast<size_t>(spec.out) * (spec.in / spec.group) : 1, 0.01f);
    const std::vector<uint8_t> zeros(scales.size(), 7);
    std::vector<uint8_t> packed(run.linear_.packed_bytes());
    run.linear_.pack({spec.in, spec.out, spec.weight, spec.group, false, data.data(), scales.data(), zeros.data()}, packed.data());
    for (int i = 0; i < copies; ++i) {
      HEARTH_ASSIGN(void* weight, memory.take(packed.size()));
      HEARTH_TRY(device.upload(weight, packed.data(), packed.size()));
      HEARTH_TRY(device.stream().synchronize());
      run.weights_.push_back(weight);
    }
    HEARTH_ASSIGN(void* x, memory.take(static_cast<size_t>(rows) * spec.in * size_of(spec.x_type)));
    HEARTH_ASSIGN(void* y, memory.take(static_cast<size_t>(rows) * spec.out * size_of(spec.y_type)));
    HEARTH_ASSIGN(void* scratch, memory.take(run.linear_.workspace_bytes(rows, device.info())));
    run.params_.rows = rows, run.params_.x = x, run.params_.x_stride = spec.in, run.params_.y = y, run.params_.y_stride = spec.out, run.params_.workspace = scratch;
    run.bytes_ = packed.size();
    return run;
  }
  size_t weight_bytes() const { return bytes_; }

  // Seconds of one run, the best of several passes over all copies.
  Result<double> seconds() {
    double best = 1e30;
    for (int pass = 0; pass < 5; ++pass) {
      const auto begin = SteadyClock::now();
      for (void* weight : weights_) {
        params_.weight = weight;
        linear_.run(params_, device_->stream());
      }
      HEARTH_TRY(device_->stream().synchronize());
      best = std::min(best, since(begin) / static_cast<double>(weights_.size()));
    }
    return best;
  }

 private:
  LinearRun(device::Device& device, int rows) : device_(&device) { params_.rows = rows; }
  device::Device* device_;
  ops::BoundLinear linear_;
  ops::LinearParams params_;
  std::vector<void*> weights_;
  size_t bytes_ = 0;
};

ops::LinearSpec w4_spec(const device::DeviceInfo& info) {
  ops::LinearSpec spec;
  spec.in = 4096, spec.out = 11008, spec.weight = ops::WeightFormat::w4, spec.group = 128;
  const bool cpu = info.kind == device::DeviceKind::cpu;
  spec.activations = cpu ? ops::ActivationFormat::int8_group : ops::ActivationFormat::exact;
  spec.x_type = spec.y_type = cpu ? DType::f32 : DType::f16;
  return spec;
}

ops::LinearSpec dense_spec(const device::DeviceInfo& info) {
  const bool cpu = info.kind == device::DeviceKind::cpu;
  ops::LinearSpec spec;
  spec.in = spec.out = cpu ? 2048 : 8192;
  spec.weight = cpu ? ops::WeightFormat::f32 : ops::WeightFormat::f16;
  spec.x_type = spec.y_type = cpu ? DType::f32 : DType::f16;
  return spec;
}

// Operations a second of a linear, in 10^12.
Result<double> tera_ops(const ops::LinearSpec& spec, int rows, device::Device& device) {
  Memory memory(device);
  HEARTH_ASSIGN(LinearRun run, LinearRun::make(spec, rows, 1, device, memory));
  HEARTH_ASSIGN(const double seconds, run.seconds());
  return 2.0 * spec.in * spec.out * rows / seconds / 1e12;
}

json line(const char* what, double measured, const char* unit, double limit) {
  return {{"what", what}, {"measured", measured}, {"unit", unit}, {"limit", limit}, {"fraction", limit > 0 ? measured / limit : 0}};
}

}  // namespace

Result<json> measure_speed(device::Device& device) {
  const bool cpu = device.info().kind == device::DeviceKind::cpu;
  HEARTH_ASSIGN(const double gb_s, bandwidth(device));
  json out = json::array({line(cpu ? "memory, read" : "memory, copy", gb_s, "GB/s", device.info().profile.bandwidth_gb_s)});
  {
    Memory memory(device);
    constexpr int copies = 16;  // 16 x 23 MB: more than any cache
    HEARTH_ASSIGN(LinearRun run, LinearRun::make(w4_spec(device.info()), 1, copies, device, memory));
    HEARTH_ASSIGN(const double seconds, run.seconds());
    out.push_back(line("4-bit linear, 1 row", static_cast<double>(run.weight_bytes()) / seconds / 1e9, "GB/s", gb_s));
  }
  HEARTH_ASSIGN(const double dense, tera_ops(dense_spec(device.info()), cpu ? 256 : 8192, device));
  out.push_back(line(cpu ? "dense f32 linear, 256 rows" : "dense f16 linear, 8192 rows", dense, "Tops/s", 0));
  HEARTH_ASSIGN(const double prefill, tera_ops(w4_spec(device.info()), 512, device));
  // On a CPU 4-bit products are int8 ones: the dense rate is no limit to them.
  out.push_back(line("4-bit linear, 512 rows", prefill, "Tops/s", cpu ? 0 : dense));
  return out;
}

}  // namespace hearth::verify
