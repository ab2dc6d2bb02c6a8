// Puts the model without weights into a copy of the library, so that the wall can be tested from outside.
#include <cstdlib>
#include <random>

#include "capi/fake/controls.h"
#include "support/fake_model.h"

namespace {

std::atomic<int> preempt_every{0}, fail_at_step{0};

const bool installed = [] {
  hearth::runtime::Hooks& hooks = hearth::runtime::hooks();
  hooks.load = hearth::testing::load_fake;
  hooks.draft_length = 8;  // what pays is a matter of time, and tests are not
  hooks.fetch_min = 1;
  // For a server in a process of its own: the device is lost at that step.
  if (const char* steps = std::getenv("HEARTH_FAKE_FAIL_AT_STEP")) fail_at_step = std::atoi(steps);
  hooks.before_step = [](hearth::runtime::ModelRunner& runner) {
    thread_local std::mt19937 random(1);  // engines of a test that overlap have a step thread each
    if (fail_at_step > 0 && !runner.idle() && --fail_at_step == 0) hearth::testing::controls().fail_device = true;
    int every = preempt_every;
    if (every > 0 && random() % every == 0) runner.scheduler().preempt_youngest();
  };
  return true;
}();

}  // namespace

extern "C" {
__attribute__((visibility("default"))) void hearth_fake_preempt_every(int steps) { preempt_every = steps; }
__attribute__((visibility("default"))) void hearth_fake_overlap(int on) { hearth::runtime::hooks().overlap = on != 0; }
__attribute__((visibility("default"))) void hearth_fake_fail_device() { hearth::testing::controls().fail_device = true; }
__attribute__((visibility("default"))) void hearth_fake_pause_us(int us) { hearth::testing::controls().pause_us = us; }
__attribute__((visibility("default"))) void hearth_fake_copy_pause_us(int us) { hearth::testing::controls().copy_pause_us = us; }
__attribute__((visibility("default"))) void hearth_fake_prepare_pause_us(int us) { hearth::testing::controls().prepare_pause_us = us; }
__attribute__((visibility("default"))) int hearth_fake_encoded() { return hearth::testing::controls().encoded; }
}
