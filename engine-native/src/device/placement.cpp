#include "device/placement.h"

#include <dirent.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

namespace hearth::device {
namespace {

int64_t huge_bytes() {
  std::ifstream file("/proc/self/smaps_rollup");
  int64_t bytes = 0;
  for (std::string line; std::getline(file, line);) {
    for (const char* key : {"AnonHugePages:", "Private_Hugetlb:"}) {
      if (line.rfind(key, 0) == 0) bytes += std::strtoll(line.c_str() + std::string(key).size(), nullptr, 10) * 1024;
    }
  }
  return bytes;
}

// "Cpus_allowed_list: 3" names one core; a list or a range has a comma or a dash.
bool pinned(const std::string& task) {
  std::ifstream file("/proc/self/task/" + task + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("Cpus_allowed_list:", 0) == 0) return line.find_first_of(",-", 18) == std::string::npos;
  }
  return false;
}

int count_pinned() {
  DIR* folder = opendir("/proc/self/task");
  if (folder == nullptr) return 0;
  int count = 0;
  while (const dirent* entry = readdir(folder)) {
    if (entry->d_name[0] != '.') count += pinned(entry->d_name);
  }
  closedir(folder);
  return count;
}

// A mapping's line has N<node>=<pages> and kernelpagesize_kB=<size>; pages are counted in that size.
void add_mapping(const std::string& line, std::vector<int64_t>& nodes) {
  std::istringstream words(line);
  std::vector<std::pair<size_t, int64_t>> pages;
  int64_t page_bytes = 4096;
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos) continue;
    const int64_t value = std::strtoll(word.c_str() + equals + 1, nullptr, 10);
    if (word.rfind("kernelpagesize_kB", 0) == 0) page_bytes = value * 1024;
    else if (word[0] == 'N' && equals > 1 && word.find_first_not_of("0123456789", 1) == equals) pages.emplace_back(std::strtoul(word.c_str() + 1, nullptr, 10), value);
  }
  for (const auto& [node, count] : pages) {
    if (node >= 1024) continue;
    if (nodes.size() <= node) nodes.resize(node + 1);
    nodes[node] += count * page_bytes;
  }
}

}  // namespace

MemoryPlacement memory_placement() {
  MemoryPlacement placement;
  placement.huge_page_bytes = huge_bytes();
  placement.pinned_threads = count_pinned();
  std::ifstream maps("/proc/self/numa_maps");
  for (std::string line; std::getline(maps, line);) add_mapping(line, placement.node_bytes);
  return placement;
}

}  // namespace hearth::device
