// Messages of the engine for whoever runs it: one line each on standard error, never a prompt, never a picture.
#pragma once

#include <string>

namespace hearth::log {

enum class Level : int { error = 0, warn = 1, info = 2, debug = 3 };

// By name ("error", "warn", "info", "debug"); anything else changes nothing. One level a process.
void set_level(const std::string& name);
bool enabled(Level level);
void write(Level level, const std::string& message);

}  // namespace hearth::log
