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
  // Nobody more is expected after so many times the crowd's own mean gap, within these bounds.
  static constexpr int quiet_gaps = 4;
  static constexpr Duration quiet_least = std::chrono::milliseconds(1), quiet_most = std::chrono::milliseconds(10);
  static constexpr int refill_share = 20;                               // a twentieth of the time

  // alone: nobody else is waiting or being served. Whoever asks again as soon as the answer is there is no crowd.
  void arrived(Time now, bool alone) {
    crowd_ = !alone && now - last_arrival_ <= gap_max ? crowd_ + 1 : 1;
    if (crowd_ == 1) first_arrival_ = now;
    last_arrival_ = now;
  }
  // Whether decodes wait. `preparing`: requests that are being made ready for the queue.
  bool hold(Time now, int preparing) {
    const Duration passed = last_look_ == Time{} ? Duration{} : now - last_look_;
    last_look_ = now;
    budget_ = holding_ ? budget_ - passed : std::min<Duration>(budget_max, budget_ + passed / refill_share);
    const bool more_come = preparing > 0 || now - last_arrival_ < quiet();
    return holding_ = crowd_ + preparing > 1 && more_come && budget_ > Duration{};
  }

 private:
  Duration quiet() const {
    return std::clamp((last_arrival_ - first_arrival_) / std::max(crowd_ - 1, 1) * quiet_gaps, quiet_least, quiet_most);
  }

  int crowd_ = 0;
  bool holding_ = false;
  Time first_arrival_{}, last_arrival_{}, last_look_{};
  Duration budget_ = budget_max;
};

}  // namespace hearth::runtime
