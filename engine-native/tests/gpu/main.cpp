// hearth-gpu-test: every CUDA kernel against the reference, on fresh random data. Needs a GPU and nothing else.
//   hearth-gpu-test [--seed N] [--program] [--set name=value,...] [GoogleTest options]
// --program: ops of few rows run as programs of one phase (sm80/decode_program.cuh), so that the same tests check them.
// --set: kernel choices, as for hearth-gpu-bench.
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/host/tuning.h"
#include "support.h"

namespace hearth::gpu_test {
namespace {
std::unique_ptr<Device> opened;
std::mt19937 engine;
}  // namespace
Device& gpu() { return *opened; }
std::mt19937& random_engine() { return engine; }

// A different engine a test, from one seed: a failing test can be rerun alone.
class Reseed : public testing::EmptyTestEventListener {
 public:
  explicit Reseed(unsigned seed) : seed_(seed) {}
  void OnTestStart(const testing::TestInfo& info) override {
    unsigned hash = seed_;
    for (const char* c = info.name(); *c; ++c) hash = hash * 31 + static_cast<unsigned char>(*c);
    engine.seed(hash);
  }
 private:
  unsigned seed_;
};

}  // namespace hearth::gpu_test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  unsigned seed = static_cast<unsigned>(std::chrono::steady_clock::now().time_since_epoch().count());
  for (int i = 1; i + 1 < argc; ++i)
    if (std::string(argv[i]) == "--seed") seed = static_cast<unsigned>(std::strtoul(argv[i + 1], nullptr, 10));
  for (int i = 1; i < argc; ++i)
    if (std::string(argv[i]) == "--program") {
      auto& tuning = hearth::kernels::cuda::tuning();
      tuning.program_rows = 8;
      tuning.program_always = tuning.program_phases_min = tuning.program_dense = 1;
    }
  for (int i = 1; i + 1 < argc; ++i)
    if (std::string(argv[i]) == "--set")
      if (const auto set = hearth::kernels::cuda::set_tuning(argv[i + 1]); !set) {
        std::fprintf(stderr, "hearth-gpu-test: %s\n", set.message().c_str());
        return 1;
      }
  auto device = hearth::device::open_cuda_device(0, "", false);
  if (!device) {
    std::fprintf(stderr, "hearth-gpu-test: %s\n", device.status().message().c_str());
    return 1;
  }
  hearth::gpu_test::opened = std::move(*device);
  const auto& info = hearth::gpu_test::gpu().info();
  std::printf("%s, profile %s (sm_%d); rerun with --seed %u\n", info.name.c_str(), info.profile.name.c_str(), info.compute_capability, seed);
  testing::UnitTest::GetInstance()->listeners().Append(new hearth::gpu_test::Reseed(seed));
  const int result = RUN_ALL_TESTS();
  hearth::gpu_test::opened.reset();
  return result;
}
