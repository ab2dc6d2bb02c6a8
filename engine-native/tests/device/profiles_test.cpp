// What profiles of GPUs decide.
#include <gtest/gtest.h>

#include <cstdlib>

#include "device/profiles.h"

namespace hearth::device {
namespace {

const DeviceProfile& profile(const char* name) {
  for (const DeviceProfile& p : gpu_profiles())
    if (p.name == name) return p;
  ADD_FAILURE() << name;
  return gpu_profiles().front();
}

TEST(Profiles, StepsThatAreOneKernelCanBeSwitchedOff) {
  ::unsetenv("HEARTH_DECODE_PROGRAM");
  EXPECT_EQ(program_rows(profile("h200")), 8);
  EXPECT_EQ(program_rows(profile("orin-agx")), 8);
  EXPECT_EQ(program_rows(profile("rtx-4090")), 4);
  DeviceProfile other = profile("h200");  // an H100
  other.name = "computed";
  EXPECT_EQ(program_rows(other), 8);
  ::setenv("HEARTH_DECODE_PROGRAM", "off", 1);
  EXPECT_EQ(program_rows(profile("h200")), 0);
  EXPECT_EQ(program_rows(profile("orin-agx")), 0);
  EXPECT_EQ(program_rows(profile("rtx-4090")), 0);
  ::unsetenv("HEARTH_DECODE_PROGRAM");
}

}  // namespace
}  // namespace hearth::device
