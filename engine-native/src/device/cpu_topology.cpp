#include "device/cpu_topology.h"

#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <set>
#include <sstream>

namespace hearth::device {
namespace {

std::string line_of(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "0-3,8" as 0, 1, 2, 3, 8.
std::set<int> cpu_list(const std::string& text) {
  std::set<int> cpus;
  std::istringstream ranges(text);
  for (std::string range; std::getline(ranges, range, ',');) {
    int first = 0, last = 0;
    char dash = 0;
    std::istringstream numbers(range);
    if (!(numbers >> first)) continue;
    if (!(numbers >> dash >> last)) last = first;
    for (int cpu = first; cpu <= last; ++cpu) cpus.insert(cpu);
  }
  return cpus;
}

// How fast each CPU is, in whatever unit the system tells of all of them; empty where it does not.
std::vector<int64_t> speeds(const std::vector<int>& usable, const std::string& cpus) {
  for (const char* name : {"/cpu_capacity", "/cpufreq/cpuinfo_max_freq"}) {
    std::vector<int64_t> values;
    for (const int cpu : usable) {
      std::istringstream text(line_of(cpus + "/cpu" + std::to_string(cpu) + name));
      int64_t value = 0;
      if (text >> value && value > 0) values.push_back(value);
    }
    if (values.size() == usable.size()) return values;
  }
  return {};
}

int quota_of(const std::string& root) {
  std::istringstream text(line_of(root + "/sys/fs/cgroup/cpu.max"));  // "max 100000" or "250000 100000", us
  int64_t quota = 0, period = 0;
  if (!(text >> quota >> period) || quota <= 0 || period <= 0) return 0;
  return static_cast<int>(std::clamp<int64_t>(quota / period, 1, 1 << 20));
}

}  // namespace

int CpuTopology::threads_of(int cores) const {
  // Of eight CPUs and 16, one costs a quiet machine 8 % and nothing, and gains 26 and 40 % where something else takes a third
  // of one; of four 16 and 10 %.
  constexpr size_t several = 8;
  const int workers = quota > 0 ? std::min(quota, cores) : cores;
  return order.size() >= several && static_cast<size_t>(workers) == order.size() ? workers - 1 : workers;
}

int CpuTopology::default_threads() const { return threads_of(performance_cores); }
int CpuTopology::default_prompt_threads() const { return threads_of(performance_cores + efficiency_cores); }

CpuTopology read_cpu_topology(const std::vector<int>& usable, const std::string& root) {
  const std::string cpus = root + "/sys/devices/system/cpu";
  // Intel names its efficiency cores; elsewhere they are those that are much slower than the fastest. Cores of one kind differ
  // by some 10 % in how high they clock.
  constexpr double efficiency_most = 0.7;
  const std::set<int> atoms = cpu_list(line_of(root + "/sys/devices/cpu_atom/cpus"));
  const std::vector<int64_t> speed = speeds(usable, cpus);
  const int64_t fastest = speed.empty() ? 0 : *std::max_element(speed.begin(), speed.end());
  std::set<std::string> cores;
  std::vector<int> performance, efficiency, seconds, slow_seconds;
  for (size_t i = 0; i < usable.size(); ++i) {
    const std::string cpu = std::to_string(usable[i]);
    const std::string siblings = line_of(cpus + "/cpu" + cpu + "/topology/thread_siblings_list");
    const bool slow = atoms.empty() ? !speed.empty() && speed[i] < efficiency_most * fastest : atoms.count(usable[i]) > 0;
    const bool first = cores.insert(siblings.empty() ? "cpu" + cpu : siblings).second;
    (first ? slow ? efficiency : performance : slow ? slow_seconds : seconds).push_back(usable[i]);
  }
  // A process that is kept to efficiency cores takes all of them.
  if (performance.empty()) performance.swap(efficiency);
  CpuTopology topology;
  topology.performance_cores = std::max<int>(1, performance.size());
  topology.efficiency_cores = static_cast<int>(efficiency.size());
  topology.quota = quota_of(root);
  for (const auto* some : {&performance, &efficiency, &seconds, &slow_seconds}) topology.order.insert(topology.order.end(), some->begin(), some->end());
  return topology;
}

std::vector<int> usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

}  // namespace hearth::device
