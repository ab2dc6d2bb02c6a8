// What the checks of one op share: where it runs, random data with a twin on the device, and the measure of an error.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/thread_pool.h"
#include "device/cpu_stream.h"
#include "device/device.h"
#include "ops/ops.h"

namespace hearth::verify {

// One implementation of one op, over all its cases.
struct Check {
  std::string op, implementation;
  int cases = 0;
  double error = 0;              // the worst case's, relative to the reference's norm (sampling: share of rows that differ)
  double allowed = 0;            // that case's bound
  std::string skipped;           // why it never ran here, if it did not
  std::vector<std::string> failures;  // what went wrong in which case, the first few
  bool passed() const { return failures.empty(); }
};

// The device under test and the reference beside it.
class Bench {
 public:
  Bench(device::Device& device, uint32_t seed) : device(device), random(seed), pool_(static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))), reference(pool_) {}

  int integer(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); }
  float normal() { return normal_(random); }
  const device::DeviceInfo& info() const { return device.info(); }
  bool cuda() const { return info().kind == device::DeviceKind::cuda; }
  // Remembers the first thing the device refused.
  void keep(Status s) { if (status && !s) status = std::move(s); }

  device::Device& device;
  std::mt19937 random;
  Status status;

 private:
  std::normal_distribution<float> normal_;
  ThreadPool pool_;

 public:
  device::CpuStream reference;
};

// A typed array on the host with a twin on the device.
class Array {
 public:
  Array(Bench& bench, DType type, size_t count) : bench_(bench), type_(type), count_(count), bytes_(std::max<size_t>(count * size_of(type), 1)) {
    auto memory = bench.device.allocate(bytes_.size(), device::MemoryKind::workspace, "verify");
    if (memory) twin_ = *memory;
    else bench.keep(memory.status());
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { if (twin_) bench_.device.release(twin_); }

  size_t count() const { return count_; }
  DType type() const { return type_; }
  void* twin() const { return twin_; }
  void* host() { return bytes_.data(); }
  const void* host() const { return bytes_.data(); }
  template <class T> T* twin_as() const { return static_cast<T*>(twin_); }
  template <class T> T* host_as() { return reinterpret_cast<T*>(bytes_.data()); }
  size_t bytes() const { return bytes_.size(); }
  std::vector<uint8_t> copy() const { return bytes_; }

  float get(size_t i) const { return value(bytes_.data(), type_, i); }
  void set(size_t i, float v);
  static float value(const void* data, DType type, size_t i);

  Array& normal(float scale = 1) { for (size_t i = 0; i < count_; ++i) set(i, scale * bench_.normal()); return upload(); }
  // All bits set: NaN in every float type, so that what is read before it is written, or never written, shows.
  Array& poison() { std::memset(bytes_.data(), 0xff, bytes_.size()); return upload(); }
  Array& integers(const std::vector<int32_t>& values) { std::memcpy(bytes_.data(), values.data(), values.size() * 4); return upload(); }
  Array& upload() { if (twin_) bench_.keep(bench_.device.upload(twin_, bytes_.data(), bytes_.size())); return *this; }
  Array& download() {
    if (twin_) bench_.keep(bench_.device.download(bytes_.data(), twin_, bytes_.size()));
    bench_.keep(bench_.device.stream().synchronize());
    return *this;
  }

 private:
  Bench& bench_;
  DType type_;
  size_t count_;
  std::vector<uint8_t> bytes_;
  void* twin_ = nullptr;
};

// ‖got − want‖ ÷ ‖want‖, and how many values are not finite where the reference is.
struct Error {
  double difference = 0, reference = 0;
  int64_t not_finite = 0;
  void add(double got, double want) {
    if (!std::isfinite(got)) { not_finite += std::isfinite(want) ? 1 : 0; return; }
    difference += (got - want) * (got - want);
    reference += want * want;
  }
  double relative() const { return std::sqrt(difference / std::max(reference, 1e-30)); }
};

// One case's outcome into its implementation's line.
void record(Check& check, const Error& error, double allowed, const std::string& what);
void fail(Check& check, const std::string& what);

// Rounding of one value to the type.
double unit_of(DType type);

// Every implementation of the device but the reference itself, each over random cases of its op.
std::vector<Check> check_linears(Bench& bench);
std::vector<Check> check_small_ops(Bench& bench);
std::vector<Check> check_attention(Bench& bench);
std::vector<Check> check_vision_attention(Bench& bench);
std::vector<Check> check_sampling(Bench& bench);

}  // namespace hearth::verify
