// Converting and evaluating: a converted model computes what its source computes, and is refused where it does not fit.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "fixtures.h"
#include "model/target.h"
#include "quantize/convert.h"
#include "quantize/evaluate.h"

namespace hearth::quantize {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string root = HEARTH_SOURCE_DIR;
const std::string source = root + "/models/tinystories-656k";
const std::string text = root + "/engine-native/tests/quantize/eval.txt";

std::unique_ptr<device::Device> cpu() { return std::move(device::open_cpu_device(2)).value(); }

json evaluated(const std::string& path, const std::string& against, const std::string& precision = "auto") {
  const auto device = cpu();
  EvaluateOptions o;
  o.path = path;
  o.against = against;
  o.text = text;
  o.precision = precision;
  o.tokens = 1024;
  const auto result = evaluate(o, *device, nullptr);
  EXPECT_TRUE(result) << result.status().message();
  return result ? *result : json();
}

Result<json> converted(const std::string& out, const std::string& target, const std::string& precision = "auto") {
  ConvertOptions o;
  o.path = source;
  o.out = out;
  o.target = target;
  o.precision = precision;
  return convert(o, nullptr);
}

TEST(Evaluate, FollowsTheProtocol) {
  const json result = evaluated(source, source);
  EXPECT_EQ(result["window"], 512);  // the model's context is less than 2048
  EXPECT_EQ(result["windows"], 2);
  EXPECT_EQ(result["tokens"], 2 * 511);
  EXPECT_NEAR(result["against"]["kl"], 0, 1e-9);
  EXPECT_EQ(result["against"]["top1_agreement"], 1.0);
  // The engine's kernels against the plain f32 forward pass of calibration.
  const auto scores = scores_of(source, text, 1024);
  ASSERT_TRUE(scores);
  const json small = [&] {
    const auto device = cpu();
    EvaluateOptions o{.path = source, .against = "", .text = text, .precision = "f32", .group = 0, .head_bits = 0, .window = 256, .tokens = 1024};
    return *evaluate(o, *device, nullptr);
  }();
  EXPECT_NEAR(small["loss"].get<double>(), loss_of(*scores), 1e-3);
}

TEST(Evaluate, RefusesWhatCannotBeScored) {
  const auto device = cpu();
  EvaluateOptions o{.path = source, .against = "", .text = text, .precision = "auto", .group = 0, .head_bits = 0, .window = 0, .tokens = 100};
  EXPECT_NE(evaluate(o, *device, nullptr).status().message().find("fewer than one window"), std::string::npos);
  o.text = "/nonexistent";
  EXPECT_EQ(evaluate(o, *device, nullptr).status().code(), Code::not_found);
  o.text = text;
  o.tokens = 0;
  o.against = root + "/test/fixtures/checkpoints/stories260K";
  EXPECT_FALSE(evaluate(o, *device, nullptr));
}

TEST(Convert, ComputesWhatItsSourceComputes) {
  const auto device = cpu();
  const std::string here = model::target_name(device->info());
  for (const char* precision : {"auto", "w4a8", "w8a8"}) {
    TemporaryFolder folder;
    const std::string out = folder.path() + "/out";
    const auto result = converted(out, here, precision);
    ASSERT_TRUE(result) << result.status().message();
    const json plain = evaluated(source, "", precision), packed = evaluated(out, "", precision);
    EXPECT_EQ(plain["precision"], packed["precision"]);
    EXPECT_EQ(plain["loss"], packed["loss"]) << precision;  // the same bytes in the same kernels
    const auto checkpoint = formats::Checkpoint::open(out);
    ASSERT_TRUE(checkpoint);
    EXPECT_EQ((*checkpoint)->format(), "hearth");
    EXPECT_EQ((*checkpoint)->target(), here);
    EXPECT_TRUE(fs::exists(out + "/tokenizer.json"));
    EXPECT_EQ((*checkpoint)->linear("model.layers.0.mlp.down_proj").status().code(), Code::unsupported);
  }
}

TEST(Convert, WrongTargetsAreRefusedWithTheCommand) {
  TemporaryFolder folder;
  EXPECT_NE(converted(folder.path() + "/x", "cpu-z80").status().message().find("cpu-avx2"), std::string::npos);
  EXPECT_NE(converted(folder.path() + "/x", "cuda-sm12").status().message().find("cuda-sm89"), std::string::npos);
  EXPECT_FALSE(fs::exists(folder.path() + "/x"));
#if defined(__x86_64__)
  const auto device = cpu();
  const std::string here = model::target_name(device->info());
  for (const char* other : {"cpu-amx", "cpu-reference"}) {
    const std::string out = folder.path() + "/" + other;
    ASSERT_TRUE(converted(out, other, "w4a8")) << other;
    model::LoadOptions load;
    load.path = out;
    const auto model = model::Model::load(load, *device);
    if (here == other || model) continue;  // the same layout serves both
    EXPECT_NE(model.status().message().find("hearth convert SOURCE --target " + here), std::string::npos) << model.status().message();
    EXPECT_NE(model.status().message().find(other), std::string::npos) << model.status().message();
  }
#endif
}

TEST(Convert, NothingHalfWrittenIsLeft) {
  TemporaryFolder folder;
  const auto device = cpu();
  ConvertOptions o{.path = source, .out = folder.path() + "/out", .target = model::target_name(device->info()), .precision = "auto", .group = 0, .head_bits = 0};
  EXPECT_EQ(convert(o, [](const ProgressReport&) { return false; }).status().code(), Code::cancelled);
  EXPECT_TRUE(fs::is_empty(folder.path()));
  fs::create_directories(o.out);
  EXPECT_NE(convert(o, nullptr).status().message().find("exists already"), std::string::npos);
}

}  // namespace
}  // namespace hearth::quantize
