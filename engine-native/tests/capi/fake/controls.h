// What tests may ask of the library over the model without weights (hooks.cpp), beside its C ABI.
#pragma once

extern "C" {
void hearth_fake_preempt_every(int steps);  // somebody in one of so many steps; 0: never
void hearth_fake_overlap(int on);
void hearth_fake_fail_device();
void hearth_fake_pause_us(int us);
void hearth_fake_copy_pause_us(int us);
void hearth_fake_prepare_pause_us(int us);
int hearth_fake_encoded();
}
