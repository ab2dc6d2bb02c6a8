// Buffers on host and device, random data, error measures for the GPU tests.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <algorithm>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/thread_pool.h"
#include "device/cuda_stream.h"
#include "device/device.h"
#include "ops/ops.h"

namespace hearth::gpu_test {

using device::Device;
using device::MemoryKind;

Device& gpu();                 // opened once; the test program fails without one
std::mt19937& random_engine(); // seeded from the clock (printed) or --seed
inline int random_int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_engine()); }
inline float random_normal() { return std::normal_distribution<float>()(random_engine()); }
inline bool coin() { return random_int(0, 1) == 1; }

// A typed array on the host with a twin on the device.
class Array {
 public:
  Array(DType type, size_t count) : type_(type), count_(count), bytes_(std::max<size_t>(count * size_of(type), 1)) {
    auto p = gpu().allocate(bytes_.size(), MemoryKind::workspace, "test");
    if (!p) { ADD_FAILURE() << p.status().message(); return; }
    device_ = *p;
  }
  Array(const Array&) = delete;
  ~Array() { gpu().release(device_); }

  size_t count() const { return count_; }
  DType type() const { return type_; }
  void* device() const { return device_; }
  template <class T> T* as() const { return static_cast<T*>(device_); }
  void* host() { return bytes_.data(); }
  template <class T> T* host_as() { return reinterpret_cast<T*>(bytes_.data()); }

  float get(size_t i) const {
    switch (type_) {
      case DType::f32: { float v; std::memcpy(&v, &bytes_[i * 4], 4); return v; }
      case DType::f16: { Half v; std::memcpy(&v, &bytes_[i * 2], 2); return to_float(v); }
      case DType::bf16: { BFloat16 v; std::memcpy(&v, &bytes_[i * 2], 2); return to_float(v); }
      case DType::i8: return static_cast<int8_t>(bytes_[i]);
      default: return 0;
    }
  }
  void set(size_t i, float v) {
    switch (type_) {
      case DType::f32: std::memcpy(&bytes_[i * 4], &v, 4); break;
      case DType::f16: { Half h = to_half(v); std::memcpy(&bytes_[i * 2], &h, 2); break; }
      case DType::bf16: { BFloat16 h = to_bfloat16(v); std::memcpy(&bytes_[i * 2], &h, 2); break; }
      default: bytes_[i] = static_cast<uint8_t>(static_cast<int8_t>(v));
    }
  }
  Array& normal(float scale = 1) { for (size_t i = 0; i < count_; ++i) set(i, scale * random_normal()); return upload(); }
  // All bits set: NaN in every float type, so that anything read before it is written shows.
  Array& poison() { std::memset(bytes_.data(), 0xff, bytes_.size()); return upload(); }
  Array& zero() { std::memset(bytes_.data(), 0, bytes_.size()); return upload(); }
  Array& upload() { check(gpu().upload(device_, bytes_.data(), bytes_.size())); return *this; }
  Array& download() { check(gpu().download(bytes_.data(), device_, bytes_.size())); check(gpu().stream().synchronize()); return *this; }
  static void check(const Status& s) { if (!s) ADD_FAILURE() << s.message(); }

 private:
  DType type_;
  size_t count_;
  std::vector<uint8_t> bytes_;
  void* device_ = nullptr;
};

inline void fill(Array& a, const std::vector<int32_t>& values) {
  std::memcpy(a.host(), values.data(), values.size() * 4);
  a.upload();
}

inline double epsilon_of(DType t) { return t == DType::f32 ? 0x1p-23 : t == DType::f16 ? 0x1p-10 : 0x1p-7; }

// Relative error of the whole, and the worst element over its own bound.
struct Errors {
  double difference = 0, reference = 0, worst = 0;
  size_t count = 0, bad = 0;
  void add(double got, double want, double bound) {
    ++count;
    if (!std::isfinite(got)) { ++bad; return; }
    difference += (got - want) * (got - want);
    reference += want * want;
    if (bound > 0) worst = std::max(worst, std::fabs(got - want) / bound);
  }
  double relative() const { return std::sqrt(difference / std::max(reference, 1e-30)); }
};

}  // namespace hearth::gpu_test
