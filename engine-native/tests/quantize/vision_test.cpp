// Folders of vision models: the language model is quantized, tower and projector stay as they are.
#include <gtest/gtest.h>

#include "fixtures.h"
#include "formats/json_text.h"
#include "model/model.h"
#include "quantize/quantize.h"

namespace hearth::quantize {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string fixtures = std::string(HEARTH_SOURCE_DIR) + "/test/fixtures/checkpoints/";

// One token for each printable ASCII character, as a byte-level tokenizer spells it.
json ascii_tokenizer() {
  json vocabulary = {{"Ġ", 0}, {"Ċ", 1}};
  for (int c = 33; c < 127; c++) vocabulary[std::string(1, static_cast<char>(c))] = c - 31;
  const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  return {{"version", "1.0"}, {"added_tokens", json::array()}, {"normalizer", nullptr}, {"pre_tokenizer", bytes}, {"post_processor", nullptr},
          {"decoder", bytes}, {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", json::array()}}}};
}

struct Case { const char* folder; const char* method; };

class VisionFolder : public testing::TestWithParam<Case> {
 protected:
  // The fixture with a tokenizer and a text to calibrate on.
  void SetUp() override {
    source_ = folder_.path() + "/source";
    fs::copy(fixtures + GetParam().folder, source_, fs::copy_options::recursive);
    const std::string part = fs::exists(source_ + "/llm") ? "/llm" : "";
    std::ofstream(source_ + part + "/tokenizer.json") << ascii_tokenizer();
    std::ofstream text(folder_.path() + "/text.txt");
    for (int i = 0; i < 60; i++) text << "The " << i * 7 % 13 << " birds sat on wall number " << i << ", and none of them sang.\n";
  }
  Result<json> run() {
    QuantizeOptions o;
    o.path = source_;
    o.out = folder_.path() + "/out";
    o.method = GetParam().method;
    o.calibrate = folder_.path() + "/text.txt";
    o.group = 32;
    o.tokens = 1024;
    o.sequence = 64;
    o.threads = 2;
    return quantize(o, nullptr);
  }
  TemporaryFolder folder_;
  std::string source_;
};

bool of_language_layer(const std::string& name) { return name.starts_with("model.layers."); }

TEST_P(VisionFolder, LanguageModelIsQuantizedTheRestIsNot) {
  const auto report = run();
  ASSERT_TRUE(report) << report.status().message();
  const auto before = formats::Checkpoint::open(source_), after = formats::Checkpoint::open(folder_.path() + "/out");
  ASSERT_TRUE(before) << before.status().message();
  ASSERT_TRUE(after) << after.status().message();
  int kept = 0;
  for (const std::string& name : (*before)->names()) {
    if (of_language_layer(name) || name.starts_with("lm_head") || name.starts_with("model.embed_tokens") || name == "model.norm.weight") continue;
    const formats::TensorView *from = (*before)->find(name), *to = (*after)->find(name);
    ASSERT_NE(to, nullptr) << name;
    EXPECT_EQ(from->type, to->type) << name;
    EXPECT_EQ(from->shape, to->shape) << name;
    EXPECT_TRUE(std::ranges::equal(from->data, to->data)) << name;
    kept++;
  }
  EXPECT_GT(kept, 20);
  const std::string layer = "model.layers.0.";
  for (const char* module : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
    const auto header = (*after)->linear_header(layer + module);
    ASSERT_TRUE(header) << module;
    EXPECT_EQ(header->format, GetParam().method == std::string("smoothquant") ? ops::WeightFormat::w8 : ops::WeightFormat::w4) << module;
    EXPECT_EQ((*after)->find(layer + module + ".weight") != nullptr, GetParam().method == std::string("smoothquant")) << module;
  }
}

TEST_P(VisionFolder, LoadsAsTheModelItWas) {
  const auto report = run();
  ASSERT_TRUE(report) << report.status().message();
  auto device = device::open_cpu_device(2);
  ASSERT_TRUE(device);
  model::LoadOptions load;
  load.path = folder_.path() + "/out";
  load.context = 128;
  load.max_sequences = 1;
  load.kv_tokens = 128;
  const auto model = model::Model::load(load, **device);
  ASSERT_TRUE(model) << model.status().message();
}

INSTANTIATE_TEST_SUITE_P(All, VisionFolder,
                         testing::Values(Case{"llava-siglip", "awq"}, Case{"llava-clip", "rtn"}, Case{"llava-clip-new", "awq"},
                                         Case{"vila", "awq"}, Case{"vila", "smoothquant"}, Case{"qwen2.5-vl", "awq"},
                                         Case{"qwen3-vl", "rtn"}),
                         [](const auto& info) {
                           std::string name = std::string(info.param.folder) + "_" + info.param.method;
                           std::ranges::replace_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '_');
                           return name;
                         });

// What calibration's forward pass does not do is refused, with what does work.
TEST(VisionFolders, UnsupportedCalibrationIsRefused) {
  TemporaryFolder folder;
  QuantizeOptions o;
  o.path = fixtures + "qwen3-vl";
  o.out = folder.path() + "/out";
  o.calibrate = "/nonexistent";
  o.group = 32;
  const auto refused = quantize(o, nullptr);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.status().message().find("--method rtn"), std::string::npos) << refused.status().message();
  EXPECT_FALSE(fs::exists(o.out));
}

}  // namespace
}  // namespace hearth::quantize
