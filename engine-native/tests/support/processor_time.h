// What work costs, however busy the machine is.
#pragma once

#include <time.h>

namespace hearth::testing {

// Of this thread so far.
inline double processor_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

}  // namespace hearth::testing
