// hearth verify on this machine's CPU: everything passes, every op is covered, and a wrong result would show.
#include "verify/verify.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "verify/check.h"
#include "verify/model_check.h"

namespace hearth::verify {
namespace {

using nlohmann::json;

device::Device& cpu() {
  static const auto device = device::open_cpu_device(2);
  return **device;
}

TEST(Verify, EveryKernelOfThisCpuPasses) {
  Options options;
  options.speed = false, options.seed = 7;
  std::set<std::string> stages;
  const auto report = verify(cpu(), options, [&](const std::string& stage, double done, double total) {
    EXPECT_LT(done, total);
    stages.insert(stage);
    return true;
  });
  ASSERT_TRUE(report) << report.status().message();
  EXPECT_TRUE(report->at("passed").get<bool>()) << report->dump(1);
  EXPECT_EQ(report->at("seed"), 7);
  std::set<std::string> ran;
  for (const json& check : report->at("checks")) {
    EXPECT_TRUE(check["passed"].get<bool>()) << check.dump(1);
    EXPECT_LE(check["error"].get<double>(), check["allowed"].get<double>());
    if (check["cases"].get<int>() > 0) ran.insert(check["op"]);
    else EXPECT_FALSE(check["skipped"].is_null()) << "a kernel that never ran says why: " << check.dump();
  }
  if (cpu().info().cpu.avx2) {
    EXPECT_EQ(ran, (std::set<std::string>{"linear", "norm", "gate", "add", "gather", "embed", "attention", "vision_attention", "sample"}));
  }
  EXPECT_EQ(stages.size(), 5u);
}

TEST(Verify, AWrongResultIsNamed) {
  Check check{"linear", "cpu/wrong", 0, 0, 0, {}, {}};
  Error right, wrong, broken;
  for (int i = 1; i < 100; ++i) right.add(i, i), wrong.add(i * 1.01, i), broken.add(i == 50 ? std::numeric_limits<double>::quiet_NaN() : i, i);
  record(check, right, 1e-3, "right");
  EXPECT_TRUE(check.passed());
  record(check, wrong, 1e-3, "wrong");
  EXPECT_NEAR(check.error, 0.01, 1e-6);
  record(check, broken, 1e-3, "broken");
  ASSERT_EQ(check.failures.size(), 2u);
  EXPECT_NE(check.failures[0].find("wrong: error 1.00e-02"), std::string::npos) << check.failures[0];
  EXPECT_NE(check.failures[1].find("broken: 1 values are not numbers"), std::string::npos) << check.failures[1];
  EXPECT_EQ(check.cases, 3);
}

TEST(Verify, AModelIsComparedWithExactActivations) {
  const auto report = check_model(cpu(), HEARTH_SOURCE_DIR "/models/hearth-tiny-vl-awq", 3);
  ASSERT_TRUE(report) << report.status().message();
  EXPECT_TRUE(report->at("passed").get<bool>()) << report->dump(1);
  EXPECT_EQ(report->at("precision"), "w4a8");
  EXPECT_GT(report->at("error").get<double>(), 0) << "int8 activations differ from unrounded ones";
}

TEST(Verify, StopsWhenToldTo) {
  const auto report = verify(cpu(), {}, [](const std::string&, double done, double) { return done < 1; });
  ASSERT_FALSE(report);
  EXPECT_EQ(report.status().code(), Code::cancelled);
}

}  // namespace
}  // namespace hearth::verify
