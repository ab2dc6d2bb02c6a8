// How far a long job is, and whether it should go on.
#pragma once

#include <chrono>
#include <functional>
#include <string>

namespace hearth::quantize {

struct ProgressReport {
  std::string stage;         // "calibrate", "resume" (layers done before are computed again), "quantize", "write", "evaluate"
  double done = 0, total = 0;  // layers, parts of a layer between
  double seconds_left = -1;  // estimate from what was done; -1 = not known yet
  std::string detail;
};

// Called between steps, from the job's thread. False ends the job with Code::cancelled.
using Progress = std::function<bool(const ProgressReport&)>;

// Estimates the time left from the time a unit of work took since the start (or since a resumed job's start).
class Clock {
 public:
  explicit Clock(double already_done = 0) : base_(already_done) {}
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  double seconds_left(double done, double total) const { return done > base_ ? seconds() / (done - base_) * (total - done) : -1; }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double base_;
};

}  // namespace hearth::quantize
