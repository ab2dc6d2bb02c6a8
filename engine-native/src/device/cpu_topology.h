// Which CPUs there are to compute on: cores of two kinds, hyper-threads that share a core, and the share of a container.
#pragma once

#include <string>
#include <vector>

namespace hearth::device {

struct CpuTopology {
  // CPUs the process may use, in the order in which workers take them: one of each performance core, one of each efficiency
  // core, then the second hyper-threads of both.
  std::vector<int> order;
  int performance_cores = 1;  // physical cores; all of them where all are alike
  int efficiency_cores = 0;
  int quota = 0;  // CPUs' worth of time that a container (cgroup v2) may take, whole ones; 0: no limit

  // Workers that decode: one a performance core, as many as the quota runs at once: a second hyper-thread shares its core's vector units and
  // only adds waiting, and a group that has used up its quota stands still, all of it, until the next period. Where that would
  // be every CPU there is, and there are several, one is left to the server and to others: a step waits for a worker whose
  // CPU is taken away.
  int default_threads() const;
  // Workers that compute prompts: efficiency cores too, which have a third to a half of a performance core's rate.
  int default_prompt_threads() const;

 private:
  int threads_of(int cores) const;
};

// Read from sysfs below `root`. `usable` are the CPUs the process may run on; a system that tells nothing has one core a CPU.
CpuTopology read_cpu_topology(const std::vector<int>& usable, const std::string& root = "");

// The CPUs of the calling thread's affinity.
std::vector<int> usable_cpus();

}  // namespace hearth::device
