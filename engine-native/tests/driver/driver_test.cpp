// What people read when the GPU cannot be used, against a driver library of our own: no driver, one too old, no device, a
// device too old, memory that is full, and a device that is lost in the middle of a step. The driver is loaded once a
// process, so each case is a process: this program again, with --probe.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "device/device.h"

using namespace hearth;

namespace {

std::string self;

// Opens the device, takes memory, runs a step of nothing, and says how far it came.
int probe() {
  auto opened = device::open_cuda_device(0, "", false);
  if (!opened) return std::printf("open %d: %s\n", static_cast<int>(opened.status().code()), opened.status().message().c_str()), 0;
  device::Device& device = **opened;
  auto memory = device.allocate(1 << 20, device::MemoryKind::weights, "a test");
  if (!memory) return std::printf("allocate %d: %s\n", static_cast<int>(memory.status().code()), memory.status().message().c_str()), 0;
  auto marker = device.mark();
  Status status = marker ? device.wait(*marker) : marker.status();
  if (status) status = device.stream().synchronize();
  return std::printf("step %d: %s\n", static_cast<int>(status.code()), status.message().c_str()), 0;
}

std::string run(const std::string& library_folder, const std::string& fake) {
  const std::string command = "LD_LIBRARY_PATH='" + library_folder + "' FAKE_CUDA='" + fake + "' " HEARTH_EMULATOR " '" + self + "' --probe 2>&1";
  std::string text;
  FILE* pipe = popen(command.c_str(), "r");
  for (char line[1024]; pipe && fgets(line, sizeof line, pipe);) text += line;
  if (pipe) pclose(pipe);
  return text;
}

void expect_says(const std::string& got, std::initializer_list<const char*> parts) {
  for (const char* part : parts) EXPECT_NE(got.find(part), std::string::npos) << "\"" << part << "\" is not in: " << got;
}

const std::string device_code = std::to_string(static_cast<int>(Code::device));

}  // namespace

TEST(Driver, AWorkingOneOpens) { expect_says(run(HEARTH_FAKE_DRIVER, ""), {"step 0"}); }
TEST(Driver, NoneSaysWhatToInstall) {
  const std::string got = run("/nowhere", "");
  if (got.find("step 0") != std::string::npos) GTEST_SKIP() << "this machine has a driver of its own";
  expect_says(got, {"open", "libcuda.so.1", "Install the driver", "--device cpu"});
}
TEST(Driver, TooOldSaysWhichIsNeeded) {
  expect_says(run(HEARTH_FAKE_DRIVER, "version=11080"), {"open", device_code.c_str(), "CUDA 11.8", "12.0", "525"});
  expect_says(run(HEARTH_OLD_DRIVER, ""), {"open", "too old", "cuLaunchKernelEx", "525"});
}
TEST(Driver, NoDeviceSaysWhereToLook) {
  expect_says(run(HEARTH_FAKE_DRIVER, "init=100"), {"open", "sees no GPU", "nvidia-smi"});
  expect_says(run(HEARTH_FAKE_DRIVER, "count=0"), {"open", "there is no GPU 0"});
}
TEST(Driver, AnOldDeviceIsRefusedByName) { expect_says(run(HEARTH_FAKE_DRIVER, "sm=75"), {"open", "Fake GPU is sm_75", "sm_80", "--device cpu"}); }
TEST(Driver, FullMemorySaysWhatToDo) {
  expect_says(run(HEARTH_FAKE_DRIVER, "memory=1"), {std::to_string(static_cast<int>(Code::out_of_memory)).c_str(), "memory is full"});
}
TEST(Driver, ADeviceLostInAStepIsADeviceError) {
  expect_says(run(HEARTH_FAKE_DRIVER, "step=214"), {("step " + device_code).c_str(), "ECC", "restart the machine"});
  expect_says(run(HEARTH_FAKE_DRIVER, "synchronize=719"), {("step " + device_code).c_str(), "LAUNCH_FAILED", "must be restarted"});
}

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "--probe") return probe();
  self = argv[0];
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
