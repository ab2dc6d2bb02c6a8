// What the op tests share: random data, NaN-poisoned outputs, devices with 1 and 3 threads, and error measures.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "core/dtype.h"
#include "core/thread_pool.h"
#include "device/cpu_features.h"
#include "device/cpu_stream.h"
#include "ops/describe.h"
#include "ops/ops.h"
#include "ops/registry.h"

namespace hearth::ops_test {

inline ops::DeviceInfo cpu_info(int threads) {
  ops::DeviceInfo info;
  info.threads = threads;
  info.cpu = device::detect_cpu_features();
  return info;
}

struct Cpu {
  explicit Cpu(int threads) : pool(threads), stream(pool), info(cpu_info(threads)) {}
  ThreadPool pool;
  device::CpuStream stream;
  ops::DeviceInfo info;
};
inline Cpu& one_thread() { static Cpu cpu(1); return cpu; }
inline Cpu& three_threads() { static Cpu cpu(3); return cpu; }

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  float normal() { return normal_(engine_); }
  float uniform(float low, float high) { return std::uniform_real_distribution<float>(low, high)(engine_); }
  int integer(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine_); }
  std::vector<float> normals(size_t n) {
    std::vector<float> v(n);
    for (float& x : v) x = normal();
    return v;
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

// A typed buffer: written from floats, or poisoned so that an element nobody writes shows.
struct Buffer {
  Buffer(DType type, size_t count) : type(type), bytes(count * size_of(type) + 64, 0xff) {}
  Buffer(DType type, const std::vector<float>& values) : Buffer(type, values.size()) {
    for (size_t i = 0; i < values.size(); ++i) set(i, values[i]);
  }
  void set(size_t i, float v) {
    if (type == DType::f16) reinterpret_cast<Half*>(data())[i] = to_half(v);
    else if (type == DType::bf16) reinterpret_cast<BFloat16*>(data())[i] = to_bfloat16(v);
    else reinterpret_cast<float*>(data())[i] = v;
  }
  float get(size_t i) const {
    const uint8_t* p = bytes.data();
    if (type == DType::f16) return to_float(reinterpret_cast<const Half*>(p)[i]);
    if (type == DType::bf16) return to_float(reinterpret_cast<const BFloat16*>(p)[i]);
    return reinterpret_cast<const float*>(p)[i];
  }
  uint8_t* data() { return bytes.data(); }
  DType type;
  std::vector<uint8_t> bytes;
};

// Largest relative step of a type.
inline double epsilon_of(DType type) {
  return type == DType::f16 ? 0x1p-11 : type == DType::bf16 ? 0x1p-8 : 0x1p-24;
}

// ‖got - want‖ / ‖want‖; NaN counts as infinite.
inline double relative_error(const std::vector<double>& got, const std::vector<double>& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isnan(got[i])) return INFINITY;
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

// Every implementation of this machine, in turn.
template <class List, class Body>
void for_each_taker(const List& list, const auto& spec, const ops::DeviceInfo& info, Body&& body) {
  int takers = 0;
  for (const auto* implementation : list) {
    if (implementation->declines(spec, info) != nullptr) continue;
    ++takers;
    SCOPED_TRACE(std::string(implementation->name) + " [" + ops::describe(spec) + "]");
    body(*implementation);
  }
  EXPECT_GT(takers, 0) << "nobody takes [" << ops::describe(spec) << "]";
}

}  // namespace hearth::ops_test
