// Where this process's memory and threads really are, as the system says: pages are promised, placed and counted by it.
#pragma once

#include <cstdint>
#include <vector>

namespace hearth::device {

struct MemoryPlacement {
  int64_t huge_page_bytes = 0;       // anonymous memory in transparent or explicit huge pages (/proc/self/smaps_rollup)
  int pinned_threads = 0;            // threads that may run on one core alone
  std::vector<int64_t> node_bytes;   // resident bytes of each NUMA node (/proc/self/numa_maps); empty where unknown
};
MemoryPlacement memory_placement();

}  // namespace hearth::device
