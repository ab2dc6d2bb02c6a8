// What the system says of its memory: /proc/meminfo, and the limit of a container (cgroup v2), which that does not know.
#pragma once

#include <cstdint>
#include <string>

namespace hearth::device {

// A line of /proc/meminfo, such as "MemTotal", in bytes; -1 when it is not there.
int64_t meminfo_bytes(const std::string& key);

// Bytes the process's container may still take; -1 where it has no limit. Page cache that the kernel would drop first
// (inactive_file) counts as free, as it does in MemAvailable: reading a model's file fills it. Not so `kept_bytes` of it,
// which are weights used where they lie in their file.
int64_t cgroup_free_bytes(int64_t kept_bytes, const std::string& folder = "/sys/fs/cgroup");

// MemAvailable or what the container leaves of it, without `kept_bytes` of page cache; -1 when neither can be read.
int64_t host_available_bytes(int64_t kept_bytes = 0);

}  // namespace hearth::device
