#include "device/host_memory.h"

#include <algorithm>
#include <fstream>

namespace hearth::device {
namespace {

// -1 when the file is absent or holds no number: memory.max says "max" where there is no limit.
int64_t read_integer(const std::string& path) {
  std::ifstream file(path);
  int64_t value = -1;
  return file >> value ? value : -1;
}

// The number behind `name` in a file of such lines; -1 when it is not there.
int64_t read_line(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  int64_t value = 0;
  for (std::string key, rest; file >> key >> value; std::getline(file, rest))
    if (key == name) return value;
  return -1;
}

}  // namespace

int64_t meminfo_bytes(const std::string& key) {
  const int64_t kibibytes = read_line("/proc/meminfo", key + ":");
  return kibibytes < 0 ? -1 : kibibytes * 1024;
}

int64_t cgroup_free_bytes(int64_t kept_bytes, const std::string& folder) {
  const int64_t limit = read_integer(folder + "/memory.max"), used = read_integer(folder + "/memory.current");
  if (limit <= 0 || used < 0) return -1;
  const int64_t inactive = std::min(read_line(folder + "/memory.stat", "inactive_file"), used);
  return std::max<int64_t>(0, limit - used + std::max<int64_t>(0, inactive - kept_bytes));
}

int64_t host_available_bytes(int64_t kept_bytes) {
  const int64_t machine = meminfo_bytes("MemAvailable"), container = cgroup_free_bytes(kept_bytes);
  if (machine < 0) return container;
  const int64_t available = std::max<int64_t>(0, machine - kept_bytes);
  return container < 0 ? available : std::min(available, container);
}

}  // namespace hearth::device
