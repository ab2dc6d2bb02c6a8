// The roofline's memory line, measured in the process it is compared with.
#pragma once

#include "core/status.h"
#include "device/device.h"

namespace hearth::device {

struct Bandwidth {
  double gb_s = 0;      // read, 10^9 bytes a second, all workers together; median of the passes at the best stream count
  int streams = 0;      // concurrent streams of one worker that gave it
  size_t bytes = 0;     // read in one pass
};

// Reads `bytes` of huge-page memory over and over with all workers of a CPU device, for about `seconds`.
// More than the last-level cache, or the figure is the cache's. Must not run beside a step.
Result<Bandwidth> measure_cpu_read_bandwidth(Device& device, size_t bytes = size_t{512} << 20, double seconds = 1.0);

}  // namespace hearth::device
