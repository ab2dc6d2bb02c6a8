// When a crowd arrives at once, the first to be there would decode alone, tens of times as fast as the rest will, and be
// done before the last have begun. So decodes wait while more requests keep arriving; prefills go on, and everybody
// starts together. Bounded by a budget that refills slowly: under a steady stream of arrivals next to nothing is lost.
#pragma once

#include <algorithm>
#include <chrono>

namespace hearth::runtime {

class BurstHold {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::steady_clock::duration;
  static constexpr Duration budget_max = std::chrono::milliseconds(500);
  static constexpr Duration gap_max = std::chrono::milliseconds(20);    // between requests of one crowd
  static constexpr Duration quiet_min = std::chrono::milliseconds(10);  // after which nobody more is expected
  static constexpr int refill_share = 20;                               // a twentieth of the time

  void arrived(Time now) {
    crowd_ = now - last_arrival_ <= gap_max ? crowd_ + 1 : 1;
    last_arrival_ = now;
  }
  // Whether decodes wait. `preparing`: requests that are being made ready for the queue.
  bool hold(Time now, int preparing) {
    const Duration passed = last_look_ == Time{} ? Duration{} : now - last_look_;
    last_look_ = now;
    budget_ = holding_ ? budget_ - passed : std::min<Duration>(budget_max, budget_ + passed / refill_share);
    const bool more_come = preparing > 0 || now - last_arrival_ < quiet_min;
    return holding_ = crowd_ + preparing > 1 && more_come && budget_ > Duration{};
  }

 private:
  int crowd_ = 0;
  bool holding_ = false;
  Time last_arrival_{}, last_look_{};
  Duration budget_ = budget_max;
};

}  // namespace hearth::runtime
