// Puts the model without weights into a copy of the library, so that the wall can be tested from outside.
#include <cstdlib>
#include <random>

#include "support/fake_model.h"

namespace {

std::atomic<int> preempt_every{0};

const bool installed = [] {
  hearth::runtime::Hooks& hooks = hearth::runtime::hooks();
  hooks.load = hearth::testing::load_fake;
  hooks.before_step = [](hearth::runtime::ModelRunner& runner) {
    static std::mt19937 random(1);
    int every = preempt_every;
    if (every > 0 && random() % every == 0) runner.scheduler().preempt_youngest();
  };
  return true;
}();

}  // namespace

// Controls for the tests, beside the ABI.
extern "C" {
__attribute__((visibility("default"))) void hearth_fake_preempt_every(int steps) { preempt_every = steps; }
__attribute__((visibility("default"))) void hearth_fake_overlap(int on) { hearth::runtime::hooks().overlap = on != 0; }
__attribute__((visibility("default"))) void hearth_fake_fail_device() { hearth::testing::controls().fail_device = true; }
__attribute__((visibility("default"))) void hearth_fake_pause_us(int us) { hearth::testing::controls().pause_us = us; }
__attribute__((visibility("default"))) int hearth_fake_encoded() { return hearth::testing::controls().encoded; }
}
