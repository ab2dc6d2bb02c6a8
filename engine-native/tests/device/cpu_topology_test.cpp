// Where workers run, read from files like the kernel's of machines people have.
#include "device/cpu_topology.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "support/temporary_folder.h"

namespace hearth::device {
namespace {

struct Machine {
  explicit Machine(int cpus) {
    for (int cpu = 0; cpu < cpus; ++cpu) all.push_back(cpu);
  }
  void write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = folder.path() + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  }
  // A file of every CPU below `first` .. `last`.
  void each(int first, int last, const std::string& name, const std::function<std::string(int)>& text) {
    for (int cpu = first; cpu <= last; ++cpu) write("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/" + name, text(cpu));
  }
  CpuTopology read() const { return read_cpu_topology(all, folder.path()); }

  TemporaryFolder folder;
  std::vector<int> all;
};

const char* const siblings = "topology/thread_siblings_list";
std::string pair_of(int cpu) { return std::to_string(cpu / 2 * 2) + "-" + std::to_string(cpu / 2 * 2 + 1); }

TEST(CpuTopology, HyperThreadsSideBySideAreNotTwoCores) {
  Machine server(8);
  server.each(0, 7, siblings, pair_of);
  const CpuTopology found = server.read();
  EXPECT_EQ(found.order, (std::vector<int>{0, 2, 4, 6, 1, 3, 5, 7}));
  EXPECT_EQ(found.performance_cores, 4);
  EXPECT_EQ(found.efficiency_cores, 0);
  EXPECT_EQ(found.default_threads(), 4);
}

TEST(CpuTopology, HyperThreadsBehindTheCores) {
  Machine ryzen(8);
  ryzen.each(0, 7, siblings, [](int cpu) { return std::to_string(cpu % 4) + "," + std::to_string(cpu % 4 + 4); });
  // Cores that clock a little higher than others are of one kind with them.
  ryzen.each(0, 7, "cpufreq/cpuinfo_max_freq", [](int cpu) { return std::to_string(cpu % 4 == 1 ? 5'700'000 : 5'200'000); });
  EXPECT_EQ(ryzen.read().order, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(ryzen.read().default_threads(), 4);
  EXPECT_EQ(ryzen.read().default_prompt_threads(), 4);
}

TEST(CpuTopology, EfficiencyCoresOfIntelComeAfterPerformanceCores) {
  Machine hybrid(8);  // two performance cores of two threads, four efficiency cores
  hybrid.each(0, 3, siblings, pair_of);
  hybrid.each(4, 7, siblings, [](int cpu) { return std::to_string(cpu); });
  hybrid.each(0, 7, "cpufreq/cpuinfo_max_freq", [](int cpu) { return std::to_string(cpu < 4 ? 5'000'000 : 4'200'000); });
  hybrid.write("/sys/devices/cpu_core/cpus", "0-3");
  hybrid.write("/sys/devices/cpu_atom/cpus", "4-7");
  const CpuTopology found = hybrid.read();
  EXPECT_EQ(found.order, (std::vector<int>{0, 2, 4, 5, 6, 7, 1, 3}));
  EXPECT_EQ(found.performance_cores, 2);
  EXPECT_EQ(found.efficiency_cores, 4);
  EXPECT_EQ(found.default_threads(), 2);
  EXPECT_EQ(found.default_prompt_threads(), 6);
  EXPECT_EQ(read_cpu_topology({4, 5, 7}, hybrid.folder.path()).default_threads(), 3);
}

TEST(CpuTopology, SmallCoresOfArmComeLast) {
  Machine board(8);  // RK3588: the small ones are first
  board.each(0, 7, siblings, [](int cpu) { return std::to_string(cpu); });
  board.each(0, 7, "cpu_capacity", [](int cpu) { return cpu < 4 ? "414" : "1024"; });
  EXPECT_EQ(board.read().order, (std::vector<int>{4, 5, 6, 7, 0, 1, 2, 3}));
  EXPECT_EQ(board.read().default_threads(), 4);
}

TEST(CpuTopology, AContainersShareLimitsThreads) {
  Machine host(16);
  host.each(0, 15, siblings, pair_of);
  for (const auto& [text, threads] : std::vector<std::pair<const char*, int>>{
           {"max 100000", 8}, {"250000 100000", 2}, {"50000 100000", 1}, {"6400000 100000", 8}, {"nonsense", 8}, {"100 0", 8}}) {
    host.write("/sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(host.read().default_threads(), threads) << text;
  }
}

TEST(CpuTopology, OneOfManyIsLeftToOthersWhereAllWouldCompute) {
  const Machine small(6), large(12);
  EXPECT_EQ(small.read().default_threads(), 6);
  EXPECT_EQ(large.read().default_threads(), 11);
  Machine threads(12);  // others have the second hyper-threads
  threads.each(0, 11, siblings, pair_of);
  EXPECT_EQ(threads.read().default_threads(), 6);
  Machine hybrid(16);  // or the efficiency cores
  hybrid.write("/sys/devices/cpu_atom/cpus", "8-15");
  EXPECT_EQ(hybrid.read().default_threads(), 8);
}

TEST(CpuTopology, ASystemThatTellsNothing) {
  const CpuTopology found = Machine(3).read();
  EXPECT_EQ(found.order, (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(found.default_threads(), 3);
  EXPECT_EQ(read_cpu_topology({}, "/nowhere").default_threads(), 1);
}

TEST(CpuTopology, ThisMachine) {
  const std::vector<int> usable = usable_cpus();
  const CpuTopology found = read_cpu_topology(usable);
  EXPECT_EQ(found.order.size(), usable.size());
  EXPECT_GE(found.default_threads(), 1);
  EXPECT_LE(found.default_threads(), static_cast<int>(usable.size()));
}

}  // namespace
}  // namespace hearth::device
