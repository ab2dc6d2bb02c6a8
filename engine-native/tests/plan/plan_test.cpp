// Plans for GPUs that are not here: the kernels' own sizes, a profile, and how much of its memory is free. No driver and
// no GPU; where the build has no CUDA, the kernels' host code is linked over modules without images.
#include <gtest/gtest.h>

#include "device/profiles.h"
#include "model/memory_plan.h"
#include "model/model.h"
#include "model/target.h"

namespace hearth::model {
namespace {

constexpr int64_t mib = int64_t{1} << 20;

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

// What the driver calls free when a model is loaded. A desktop with a browser holds about 600 MiB of a card that draws
// it, our context about 300, and 8 GB cards show 8,188 MiB in all, of which the driver keeps some 200.
constexpr int64_t laptop_free = (8188 - 200 - 600 - 300) * mib;
constexpr int64_t desktop_12_free = (12282 - 250 - 300) * mib;  // no display; the same context
constexpr int64_t nano_free = int64_t{6'500'000'000};           // MemAvailable of an 8 GB Orin Nano without a desktop

LoadOptions shape_4_bits(const std::string& shape) {
  LoadOptions options;
  options.shape = shape;
  options.precision = "w4a16";
  options.head_bits = 4;
  return options;
}

struct Planned {
  Result<MemoryDemand> demand;
  int64_t of(const std::string& what) const {
    for (const MemoryLine& line : demand->lines) if (line.what.rfind(what, 0) == 0) return line.bytes;
    return 0;
  }
  std::string pool() const { return demand->lines.back().what; }
};

Planned plan_for(const std::string& profile, int64_t free, const LoadOptions& options) {
  const device::DeviceProfile* found = device::find_profile(profile);
  EXPECT_NE(found, nullptr) << profile;
  auto device = make_planning_target(*found, static_cast<size_t>(free));
  EXPECT_TRUE(device.is_ok()) << device.status().message();
  Planned planned{Model::plan(options, **device, 0)};
  if (planned.demand) {
    std::printf("%s, %s in %.0f MiB:\n%s  together %.0f MiB\n", options.shape.c_str(), profile.c_str(), static_cast<double>(planned.demand->available) / mib,
                table_text(planned.demand->lines).c_str(), static_cast<double>(planned.demand->bytes) / mib);
    EXPECT_LE(planned.demand->bytes, planned.demand->available);
  } else {
    std::printf("%s, %s: %s\n", options.shape.c_str(), profile.c_str(), planned.demand.status().message().c_str());
  }
  return planned;
}

TEST(Plan, SevenBillionOnAnEightGigabyteLaptop) {
  const Planned planned = plan_for("rtx-4070-laptop", laptop_free, shape_4_bits("llama-2-7b"));
  ASSERT_TRUE(planned.demand.is_ok());
  EXPECT_EQ(planned.pool(), "KV pool of 4096 tokens (f16)");
  EXPECT_EQ(planned.of("KV pool"), int64_t{4096} * 32 * 2 * 4096 * 2);
  // 6.48 billion weights in groups of 128 and a head: 4 bits and a scale and a zero point.
  EXPECT_GT(planned.of("weights"), int64_t{6'600'000'000} / 2);
  EXPECT_LT(planned.of("weights"), int64_t{6'650'000'000} * 9 / 16);
}

TEST(Plan, LaptopWithABusyDesktopTakesInt8) {
  const Planned planned = plan_for("rtx-4070-laptop", laptop_free - 1200 * mib, shape_4_bits("llama-2-7b"));
  ASSERT_TRUE(planned.demand.is_ok());
  EXPECT_EQ(planned.pool(), "KV pool of 4096 tokens (int8, as f16 would not fit)");
  EXPECT_EQ(planned.of("KV pool"), int64_t{4096} * 32 * 2 * (4096 + 32 * 4));
}

TEST(Plan, AskedForKvIsNeverChanged) {
  LoadOptions options = shape_4_bits("llama-2-7b");
  options.kv = "f16";
  const Planned planned = plan_for("rtx-4070-laptop", laptop_free - 1200 * mib, options);
  ASSERT_FALSE(planned.demand.is_ok());
  EXPECT_EQ(planned.demand.status().code(), Code::out_of_memory);
  EXPECT_HAS(planned.demand.status().message(), "--kv int8 with the full context of 4096");
}

TEST(Plan, ThirteenBillionOnTwelveGigabytes) {
  const Planned planned = plan_for("rtx-4070", desktop_12_free, shape_4_bits("llama-2-13b"));
  ASSERT_TRUE(planned.demand.is_ok());
  EXPECT_EQ(planned.pool(), "KV pool of 4096 tokens (f16)");
}

TEST(Plan, SevenBillionOnAnOrinNano) {
  const Planned planned = plan_for("orin-nano", nano_free, shape_4_bits("llama-2-7b"));
  ASSERT_TRUE(planned.demand.is_ok());
  EXPECT_HAS(planned.pool(), "KV pool of 4096 tokens");
  // With a desktop and a browser on it there is no room: refused, with what keeps how much.
  const Planned crowded = plan_for("orin-nano", nano_free - 2'500'000'000, shape_4_bits("llama-2-7b"));
  ASSERT_FALSE(crowded.demand.is_ok());
  const std::string message = crowded.demand.status().message();
  for (const char* part : {"3814.7 MiB free, less 512.0 MiB kept for the system and the server", "weights", "token embedding",
                           "KV pool of 4096 tokens (int8, as f16 would not fit)", "too much", "\n  a smaller model"}) EXPECT_HAS(message, part);
}

TEST(Plan, DenseWeightsAreToldOfFourBits) {
  LoadOptions options;
  options.shape = "llama-2-7b";
  options.precision = "f16";
  const Planned planned = plan_for("rtx-4070-laptop", laptop_free, options);
  ASSERT_FALSE(planned.demand.is_ok());
  const std::string message = planned.demand.status().message();
  for (const char* part : {"less 384.0 MiB kept for driver, kernels and graphs", "less 256.0 MiB kept for a display", "--precision w4a16"}) EXPECT_HAS(message, part);
}

TEST(Plan, LongContextsAreToldWhatFits) {
  LoadOptions options = shape_4_bits("mistral-7b");
  const Planned whole = plan_for("orin-nano", nano_free - 1'000'000'000, options);
  ASSERT_FALSE(whole.demand.is_ok());
  const std::string message = whole.demand.status().message();
  const size_t at = message.find("--context ");
  ASSERT_NE(at, std::string::npos) << message;
  options.kv = "int8";  // what the refusal speaks of
  options.context = std::stoi(message.substr(at + 10));
  EXPECT_GE(options.context, 4096);
  EXPECT_TRUE(plan_for("orin-nano", nano_free - 1'000'000'000, options).demand.is_ok());
  options.context += 1024;
  EXPECT_FALSE(plan_for("orin-nano", nano_free - 1'000'000'000, options).demand.is_ok());
}

TEST(Plan, EveryProfileHoldsASmallModel) {
  for (const device::DeviceProfile& profile : device::gpu_profiles()) {
    const Planned planned = plan_for(profile.name, profile.memory_bytes / 2, shape_4_bits("tinyllama-1.1b"));
    EXPECT_TRUE(planned.demand.is_ok()) << profile.name;
  }
}

}  // namespace
}  // namespace hearth::model
