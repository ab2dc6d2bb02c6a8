// What a container's limit leaves, read from files like the kernel's.
#include "device/host_memory.h"

#include <gtest/gtest.h>

#include <fstream>

#include "support/temporary_folder.h"

namespace hearth::device {
namespace {

constexpr int64_t gibibyte = int64_t{1} << 30;

void write(const TemporaryFolder& folder, const char* name, const std::string& text) {
  std::ofstream(folder.path() + "/" + name) << text;
}

TEST(HostMemory, MeminfoSaysHowMuchThereIs) {
  EXPECT_GT(meminfo_bytes("MemTotal"), meminfo_bytes("MemAvailable") / 2);
  EXPECT_EQ(meminfo_bytes("MemTota"), -1);
  EXPECT_GT(host_available_bytes(), 0);
  EXPECT_LT(host_available_bytes(gibibyte / 64), meminfo_bytes("MemTotal"));
}

TEST(HostMemory, PageCacheOfAContainerIsFree) {
  const TemporaryFolder folder;
  EXPECT_EQ(cgroup_free_bytes(0, folder.path()), -1);
  write(folder, "memory.max", "max\n");
  write(folder, "memory.current", std::to_string(6 * gibibyte) + "\n");
  EXPECT_EQ(cgroup_free_bytes(0, folder.path()), -1);
  write(folder, "memory.max", std::to_string(8 * gibibyte) + "\n");
  EXPECT_EQ(cgroup_free_bytes(0, folder.path()), 2 * gibibyte);
  // A model's file was read before: most of what is taken would be given back at once.
  write(folder, "memory.stat", "anon 1073741824\nfile 5368709120\nactive_file 1073741824\ninactive_file 4294967296\n");
  EXPECT_EQ(cgroup_free_bytes(0, folder.path()), 6 * gibibyte);
  EXPECT_EQ(cgroup_free_bytes(3 * gibibyte, folder.path()), 3 * gibibyte);
  EXPECT_EQ(cgroup_free_bytes(9 * gibibyte, folder.path()), 2 * gibibyte);
  write(folder, "memory.current", std::to_string(9 * gibibyte) + "\n");
  write(folder, "memory.stat", "");
  EXPECT_EQ(cgroup_free_bytes(0, folder.path()), 0);
}

}  // namespace
}  // namespace hearth::device
