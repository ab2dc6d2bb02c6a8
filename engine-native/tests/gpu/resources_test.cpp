// What CI can check of the CUDA kernels without a GPU: the compiler's report of every kernel and architecture (registers,
// spills, static shared memory) and the dynamic shared memory each kernel declares, against every profile's limits.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <regex>
#include <string>

#include "device/profiles.h"
#include "kernels/cuda/host/resources.h"

namespace hearth {
namespace {

struct Usage { int registers = 0, spill_bytes = 0, static_shared = 0; };

// ptxas -v of one image: kernel name -> usage.
std::map<std::string, Usage> read_report(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  std::map<std::string, Usage> result;
  std::string line, name;
  std::smatch m;
  const std::regex entry("Compiling entry function '([^']+)'"), spill("([0-9]+) bytes spill stores, ([0-9]+) bytes spill loads"), used("Used ([0-9]+) registers"), shared("([0-9]+) bytes smem");
  while (std::getline(file, line)) {
    if (std::regex_search(line, m, entry)) name = m[1];
    if (name.empty()) continue;
    if (std::regex_search(line, m, spill)) result[name].spill_bytes = std::stoi(m[1]) + std::stoi(m[2]);
    if (std::regex_search(line, m, used)) {
      result[name].registers = std::stoi(m[1]);
      if (std::regex_search(line, m, shared)) result[name].static_shared = std::stoi(m[1]);
    }
  }
  return result;
}

TEST(GpuResources, CompilerReportsStayWithinLimits) {
  std::ifstream list(HEARTH_CUDA_REPORTS);
  ASSERT_TRUE(list) << HEARTH_CUDA_REPORTS;
  int kernels = 0;
  for (std::string path; std::getline(list, path);) {
    for (const auto& [name, usage] : read_report(path)) {
      ++kernels;
      EXPECT_GT(usage.registers, 0) << name;
      EXPECT_LE(usage.registers, 255) << name;
      // Heads of 256 keep more than 255 registers' worth of sums; a handful of words outside their loops may spill.
      const bool wide_head = name.find("_d256") != std::string::npos || name.find("_n128") != std::string::npos || name.find("decode_program") == 0;
      EXPECT_LE(usage.spill_bytes, wide_head ? 640 : 192) << name << " in " << path;
      EXPECT_LE(usage.static_shared, 48 * 1024) << name;
    }
  }
  EXPECT_GT(kernels, 50);
}

TEST(GpuResources, SharedMemoryFitsEveryProfile) {
  for (const device::DeviceProfile& profile : device::gpu_profiles())
    for (const auto& use : kernels::cuda::declared_shared_memory(profile.sm))
      EXPECT_LE(use.bytes + 1024, profile.shared_bytes_per_block + 1024) << use.kernel << " on " << profile.name;
}

TEST(GpuResources, ProfilesAgreeWithTheirArchitecture) {
  for (const device::DeviceProfile& profile : device::gpu_profiles()) {
    EXPECT_EQ(profile.shared_bytes_per_block, device::shared_bytes_per_block(profile.sm)) << profile.name;
    EXPECT_EQ(device::find_profile(profile.name), &profile);
    EXPECT_EQ(profile.unified_memory, profile.sm == 87) << profile.name;
  }
  EXPECT_EQ(device::match_profile("NVIDIA GeForce RTX 4090", 89, 128)->name, "rtx-4090");
  EXPECT_EQ(device::match_profile("NVIDIA GeForce RTX 4070 Laptop GPU", 89, 36)->name, "rtx-4070-laptop");
  EXPECT_EQ(device::match_profile("Orin", 87, 16)->name, "orin-agx");
  EXPECT_EQ(device::match_profile("NVIDIA H200", 90, 132)->name, "h200");
  EXPECT_EQ(device::match_profile("NVIDIA GeForce RTX 3060", 86, 28), nullptr);
}

}  // namespace
}  // namespace hearth
