// The CPU as a device: memory, copies, the cap on instruction sets, the bandwidth measurement.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "device/bandwidth.h"
#include "device/cpu_features.h"
#include "device/cpu_stream.h"
#include "device/device.h"

namespace hearth::device {
namespace {

std::unique_ptr<Device> open(int threads) {
  auto device = open_cpu_device(threads);
  EXPECT_TRUE(device.is_ok()) << device.status().message();
  return std::move(*device);
}

TEST(CpuDevice, SaysWhatItIs) {
  const auto device = open(3);
  EXPECT_EQ(device->info().kind, DeviceKind::cpu);
  EXPECT_EQ(device->info().threads, 3);
  EXPECT_FALSE(device->info().name.empty());
  EXPECT_GT(device->info().profile.memory_bytes, 0);
  EXPECT_TRUE(device->host_visible());
  EXPECT_GT(open(0)->info().threads, 0);
  auto more = open_cpu_device(2, 4);
  ASSERT_TRUE(more.is_ok());
  EXPECT_EQ((*more)->info().decode_threads, 2);
  EXPECT_EQ((*more)->info().threads, 4);
  EXPECT_EQ(pool_of((*more)->stream()).size(), 2);
  (*more)->begin_rows(64);
  EXPECT_EQ(pool_of((*more)->stream()).size(), 4);
  (*more)->begin_rows(1);
  EXPECT_EQ(pool_of((*more)->stream()).size(), 2);
}

TEST(CpuDevice, RefusesImpossibleThreadCounts) {
  for (int threads : {-1, 100000}) {
    EXPECT_EQ(open_cpu_device(threads).status().code(), Code::invalid_argument);
    EXPECT_EQ(open_cpu_device(1, threads).status().code(), Code::invalid_argument);
  }
  EXPECT_EQ(open_cpu_device(3, 2).status().code(), Code::invalid_argument);
}

TEST(CpuDevice, MemoryIsAlignedWritableAndReleased) {
  const auto device = open(1);
  for (MemoryKind kind : {MemoryKind::weights, MemoryKind::kv, MemoryKind::workspace, MemoryKind::staging}) {
    for (size_t bytes : {size_t{0}, size_t{1}, size_t{5000}, (size_t{2} << 20) + 1, size_t{9} << 20}) {
      auto memory = device->allocate(bytes, kind, "a test");
      ASSERT_TRUE(memory.is_ok());
      EXPECT_EQ(reinterpret_cast<uintptr_t>(*memory) % 256, 0u);
      std::memset(*memory, 1, bytes);
      device->release(*memory);
    }
  }
  device->release(nullptr);
}

TEST(CpuDevice, TooMuchMemoryIsAnErrorThatNamesItsUse) {
  const auto memory = open(1)->allocate(size_t{1} << 62, MemoryKind::weights, "a whale");
  ASSERT_FALSE(memory.is_ok());
  EXPECT_EQ(memory.status().code(), Code::out_of_memory);
  EXPECT_NE(memory.status().message().find("a whale"), std::string::npos);
  EXPECT_FALSE(open(1)->allocate(~size_t{0}, MemoryKind::weights, "more than there is").is_ok());
}

TEST(CpuDevice, CopiesAndFills) {
  const auto device = open(2);
  const std::vector<uint8_t> from(1000, 7);
  std::vector<uint8_t> back(1000);
  void* a = *device->allocate(1000, MemoryKind::workspace, "a");
  void* b = *device->allocate(1000, MemoryKind::workspace, "b");
  ASSERT_TRUE(device->upload(a, from.data(), 1000).is_ok());
  ASSERT_TRUE(device->fill_zero(b, 1000).is_ok());
  ASSERT_TRUE(device->copy(b, a, 500).is_ok());
  ASSERT_TRUE(device->download(back.data(), b, 1000).is_ok());
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(back[i], i < 500 ? 7 : 0);
  ASSERT_TRUE(device->stream().synchronize().is_ok());
  const auto free = device->available_bytes();
  ASSERT_TRUE(free.is_ok());
  EXPECT_GT(*free, 0u);
}

TEST(CpuFeatures, CapTakesAwayWhatLiesAbove) {
#if defined(__x86_64__)
  CpuFeatures all;
  all.avx2 = all.avx_vnni = all.avx512 = all.avx512_vnni = all.avx512_bf16 = all.amx_int8 = all.amx_bf16 = true;
  EXPECT_EQ(describe(*cap_cpu_features(all, "reference")), "reference");
  EXPECT_EQ(describe(*cap_cpu_features(all, "avx2")), "avx2");
  EXPECT_EQ(describe(*cap_cpu_features(all, "avx-vnni")), "avx2 avx-vnni");
  EXPECT_EQ(describe(*cap_cpu_features(all, "avx512")), "avx2 avx-vnni avx512 avx512-vnni avx512-bf16");
  EXPECT_EQ(describe(*cap_cpu_features(all, "amx")), describe(all));
#else
  CpuFeatures all;
  all.neon = all.neon_dotprod = all.neon_i8mm = all.neon_fp16 = true;
  EXPECT_EQ(describe(*cap_cpu_features(all, "reference")), "reference");
  EXPECT_EQ(describe(*cap_cpu_features(all, "neon")), "neon");
  EXPECT_EQ(describe(*cap_cpu_features(all, "i8mm")), describe(all));
#endif
}

TEST(CpuFeatures, UnknownCapIsAnErrorThatListsTheNames) {
  setenv("HEARTH_CPU_MAX", "sse9", 1);
  const auto device = open_cpu_device(1);
  unsetenv("HEARTH_CPU_MAX");
  ASSERT_FALSE(device.is_ok());
  EXPECT_EQ(device.status().code(), Code::invalid_argument);
  EXPECT_NE(device.status().message().find("reference"), std::string::npos);
}

TEST(Bandwidth, IsMeasuredAndPositive) {
  const auto device = open(2);
  const auto measured = measure_cpu_read_bandwidth(*device, size_t{64} << 20, 0.05);
  ASSERT_TRUE(measured.is_ok());
  EXPECT_GT(measured->gb_s, 0.1);
  EXPECT_GE(measured->streams, 1);
  EXPECT_FALSE(measure_cpu_read_bandwidth(*device, 100).is_ok());
}

}  // namespace
}  // namespace hearth::device
