// What quantizing costs the trained models, in perplexity on simple stories, which no setting was fitted to. It was chosen
// as the judge after results on another text (eval.txt) were known. hearth-tiny-vl learnt half of these stories by heart,
// in rows of 512 tokens: so that it is asked in windows of both lengths. docs/performance.md says what learning by heart does to perplexity.
#include <gtest/gtest.h>

#include "fixtures.h"
#include "quantize/quantize.h"

namespace hearth::quantize {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string root = HEARTH_SOURCE_DIR;
const std::string stories = root + "/engine-native/tests/quantize/stories.txt";  // see scripts/train/data/LICENCES.md
constexpr int64_t eval_tokens = 16384;
const std::vector<int> protocol{2048};  // windows of min(2048, context), as published
const std::vector<int> both{2048, 512};

struct Case { const char* model; int group; std::vector<int> windows = protocol; };

// stories260K's fixture has llama2.c's tokenizer only; the same one as a SentencePiece file stands beside this test.
std::string model_folder(const std::string& name, const TemporaryFolder& folder) {
  if (name != "stories260K") return root + "/models/" + name;
  const std::string to = folder.path() + "/model";
  fs::create_directories(to);
  for (const char* file : {"config.json", "model.safetensors"}) fs::copy_file(root + "/test/fixtures/checkpoints/stories260K/" + file, to + "/" + file);
  fs::copy_file(root + "/engine-native/tests/quantize/stories260K/tokenizer.model", to + "/tokenizer.model");
  return to;
}

class TrainedModel : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override { source_ = model_folder(GetParam().model, folder_); }
  std::string quantized(const std::string& method, const std::string& rounding = "compensated") {
    QuantizeOptions o;
    o.path = source_;
    o.out = folder_.path() + "/" + method + "-" + rounding;
    o.method = method;
    o.rounding = rounding;
    o.calibrate = root + "/models/calibration.txt";
    o.group = GetParam().group;
    o.tokens = 4096;
    o.search_tokens = 1024;
    o.threads = 2;
    const auto report = quantize(o, nullptr);
    EXPECT_TRUE(report) << report.status().message();
    return o.out;
  }
  Scores scores(const std::string& path, int window) {
    auto result = scores_of(path, stories, eval_tokens, false, window);
    EXPECT_TRUE(result) << result.status().message();
    return result ? std::move(*result) : Scores();
  }
  // Loss and KL, printed.
  std::pair<double, double> judge(const char* what, const std::string& path, const Scores& exact, int window) {
    const Scores got = scores(path, window);
    const double loss = loss_of(got), kl = divergence(exact, got);
    std::printf("%-18s g%-4d windows of %-5ld %-14s perplexity %8.4f (%+.3f %%)  KL %.5f\n", GetParam().model, GetParam().group, static_cast<long>(got.length), what,
                std::exp(loss), 100 * std::expm1(loss - loss_of(exact)), kl);
    return {loss, kl};
  }
  TemporaryFolder folder_;
  std::string source_;
};

TEST_P(TrainedModel, AwqBeatsRoundingToNearest) {
  const std::string rounded = quantized("rtn"), awq = quantized("awq");
  const char* more = std::getenv("HEARTH_QUANTIZE_TABLE");  // without the rounding that compensates too
  const std::string plain = more ? quantized("awq", "nearest") : "";
  for (const int window : GetParam().windows) {
    const Scores exact = scores(source_, window);
    const auto [rounded_loss, rounded_kl] = judge("rtn", rounded, exact, window);
    const auto [awq_loss, awq_kl] = judge("awq", awq, exact, window);
    EXPECT_LT(awq_kl, 0.8 * rounded_kl) << window;
    EXPECT_LT(awq_loss, rounded_loss) << window;
    if (more) judge("awq, nearest", plain, exact, window);
  }
}

INSTANTIATE_TEST_SUITE_P(Groups, TrainedModel,
                         testing::Values(Case{"tinystories-656k", 128}, Case{"tinystories-656k", 64}, Case{"tinystories-656k", 32},
                                         Case{"hearth-tiny-vl", 128, both}, Case{"hearth-tiny-vl", 64, both},
                                         Case{"stories260K", 64}, Case{"stories260K", 32}),
                         [](const auto& info) {
                           std::string name = std::string(info.param.model) + "_g" + std::to_string(info.param.group);
                           std::ranges::replace_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '_');
                           return name;
                         });

}  // namespace
}  // namespace hearth::quantize
