#include "core/log.h"

#include <atomic>
#include <cstdio>

namespace hearth::log {
namespace {

constexpr const char* names[] = {"error", "warn", "info", "debug"};
std::atomic<int> threshold{static_cast<int>(Level::warn)};

}  // namespace

void set_level(const std::string& name) {
  for (int i = 0; i < 4; ++i)
    if (name == names[i]) threshold = i;
}

bool enabled(Level level) { return static_cast<int>(level) <= threshold.load(std::memory_order_relaxed); }

void write(Level level, const std::string& message) {
  if (!enabled(level)) return;
  std::string line = std::string("hearth ") + names[static_cast<int>(level)] + ": " + message + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);  // one call: lines of several threads do not mix
}

}  // namespace hearth::log
