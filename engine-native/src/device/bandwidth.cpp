#include "device/bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "core/huge_pages.h"
#include "device/cpu_stream.h"

namespace hearth::device {
namespace {

typedef uint64_t Vector __attribute__((vector_size(32), aligned(32)));
constexpr size_t line_bytes = 64;

// Reads `streams` equal parts of [from, from + bytes) side by side; the sum keeps the loads alive.
template <int streams>
uint64_t read_streams(const uint8_t* from, size_t bytes) {
  const size_t part = bytes / streams / line_bytes * line_bytes;
  Vector sum[2] = {};
  for (size_t at = 0; at < part; at += line_bytes) {
    for (int s = 0; s < streams; ++s) {
      const uint8_t* line = from + s * part + at;
      // Far enough to cover DRAM's latency, near enough to stay in L1.
      __builtin_prefetch(line + 1024);
      sum[0] ^= *reinterpret_cast<const Vector*>(line);
      sum[1] ^= *reinterpret_cast<const Vector*>(line + 32);
    }
  }
  return sum[0][0] ^ sum[0][1] ^ sum[0][2] ^ sum[0][3] ^ sum[1][0] ^ sum[1][1] ^ sum[1][2] ^ sum[1][3];
}

using Reader = uint64_t (*)(const uint8_t*, size_t);
constexpr struct { int streams; Reader read; } readers[] = {
    {1, read_streams<1>}, {2, read_streams<2>}, {4, read_streams<4>}, {8, read_streams<8>}};

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + v.size() / 2, v.end());
  return v[v.size() / 2];
}

}  // namespace

Result<Bandwidth> measure_cpu_read_bandwidth(Device& device, size_t bytes, double seconds) {
  if (device.info().kind != DeviceKind::cpu) return unsupported("this measures CPUs");
  ThreadPool& pool = pool_of(device.stream());
  const size_t share = bytes / pool.size() / huge_page_bytes * huge_page_bytes;
  if (share == 0) return invalid("a bandwidth measurement needs at least 2 MiB a thread");
  auto* memory = static_cast<uint8_t*>(map_pages(share * pool.size(), true));
  if (memory == nullptr) return out_of_memory("cannot map memory to measure bandwidth");
  pool.parallel([&](int worker, int) { std::memset(memory + worker * share, worker + 1, share); });
  Bandwidth best{0, 0, share * pool.size()};
  std::atomic<uint64_t> sink{0};
  for (const auto& [streams, read] : readers) {
    std::vector<double> rates;
    const auto begin = std::chrono::steady_clock::now();
    auto last = begin;
    while (rates.size() < 3 || std::chrono::duration<double>(last - begin).count() < seconds / 4) {
      pool.parallel([&, read = read](int worker, int) { sink += read(memory + worker * share, share); });
      const auto now = std::chrono::steady_clock::now();
      rates.push_back(best.bytes / std::chrono::duration<double>(now - last).count() * 1e-9);
      last = now;
    }
    const double rate = median(rates);
    if (rate > best.gb_s) best.gb_s = rate, best.streams = streams;
  }
  unmap_pages(memory, share * pool.size(), true);
  return best;
}

}  // namespace hearth::device
