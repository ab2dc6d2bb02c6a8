// Quantising a trained model, with and without planted outliers: what is written, and what it costs.
#include <gtest/gtest.h>

#include "fixtures.h"
#include "formats/json_text.h"
#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"
#include "quantize/quantize.h"

namespace hearth::quantize {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string root = HEARTH_SOURCE_DIR;
const std::string model_path = root + "/models/tinystories-656k";
const std::string text = root + "/engine-native/tests/quantize/eval.txt";
constexpr int64_t eval_tokens = 4096;

QuantizeOptions options(const std::string& method, const std::string& out) {
  QuantizeOptions o;
  o.path = model_path;
  o.out = out;
  o.method = method;
  o.calibrate = root + "/models/calibration.txt";
  o.group = 64;
  o.tokens = 4096;
  o.sequence = 256;
  o.threads = 2;
  return o;
}

// Where it does not matter how good the result is.
QuantizeOptions quick(const std::string& method, const std::string& out) {
  QuantizeOptions o = options(method, out);
  o.tokens = 512;
  return o;
}

json run(const QuantizeOptions& o) {
  const auto report = quantize(o, nullptr);
  EXPECT_TRUE(report) << report.status().message();
  return report ? *report : json();
}

Scores scores(const std::string& path, bool int8 = false) {
  // HEARTH_EVAL_TEXT measures on another text than the committed one.
  const char* other = std::getenv("HEARTH_EVAL_TEXT");
  auto result = scores_of(path, other ? other : text, eval_tokens, int8);
  EXPECT_TRUE(result) << result.status().message();
  return result ? std::move(*result) : Scores();
}

// Channels whose activations are scaled up by the norm and down again by the weights: the function is the same, the
// outliers are real.
void plant_outliers(const std::string& to) {
  formats::TensorStore store;
  const auto header = formats::add_safetensors(store, model_path + "/model.safetensors");
  ASSERT_TRUE(header);
  formats::SafetensorsWriter writer;
  for (const formats::TensorView& view : header->tensors) {
    std::vector<float> values(view.data.size() / sizeof(float));
    std::memcpy(values.data(), view.data.data(), view.data.size());
    const bool norm = view.name.find("input_layernorm") != std::string::npos || view.name.find("post_attention_layernorm") != std::string::npos;
    const bool fed = view.name.find("q_proj") != std::string::npos || view.name.find("k_proj") != std::string::npos ||
                     view.name.find("v_proj") != std::string::npos || view.name.find("gate_proj") != std::string::npos ||
                     view.name.find("up_proj") != std::string::npos;
    for (size_t at = 0; at < values.size(); at++) {
      const size_t channel = at % 128;
      if (channel % 37 != 5) continue;
      if (norm) values[at] *= 24;
      if (fed) values[at] /= 24;
    }
    writer.add(view.name, DType::f32, view.shape, formats::to_bytes(values));
  }
  fs::create_directories(to);
  ASSERT_TRUE(writer.write(to + "/model.safetensors", header->metadata));
  for (const char* file : {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    if (fs::exists(model_path + "/" + file)) fs::copy_file(model_path + "/" + file, to + "/" + file);
  }
}

void print(const char* what, const Scores& exact, const Scores& got) {
  std::printf("%-22s loss %.5f (%+.5f), KL %.6f\n", what, loss_of(got), loss_of(got) - loss_of(exact), divergence(exact, got));
}

TEST(Quantize, AwqBeatsRounding) {
  TemporaryFolder folder;
  const Scores exact = scores(model_path);
  run(options("rtn", folder.path() + "/rtn"));
  const json report = run(options("awq", folder.path() + "/awq"));
  const Scores rounded = scores(folder.path() + "/rtn"), awq = scores(folder.path() + "/awq");
  print("rounded to nearest", exact, rounded);
  print("awq", exact, awq);
  EXPECT_LT(divergence(exact, awq), divergence(exact, rounded));
  for (const json& layer : report["layers"]) {
    for (const json& pair : layer["pairs"]) EXPECT_LE(pair["loss"], pair["loss_rounding"]);
  }
}

// Linears that stay FP16 are left as they are: not scaled against a grid, not clipped, not rounded.
TEST(Quantize, WhatStaysFp16IsNotTouched) {
  TemporaryFolder folder;
  const std::string source = folder.path() + "/source";
  fs::create_directories(source);
  for (const char* file : {"config.json", "model.safetensors"}) fs::copy_file(root + "/test/fixtures/checkpoints/stories260K/" + file, source + "/" + file);
  fs::copy_file(root + "/engine-native/tests/quantize/stories260K/tokenizer.model", source + "/tokenizer.model");
  for (const char* rounding : {"compensated", "nearest"}) {
    QuantizeOptions o = quick("awq", folder.path() + "/" + rounding);
    o.path = source;
    o.rounding = rounding;
    run(o);
    const auto before = formats::Checkpoint::open(source), after = formats::Checkpoint::open(o.out);
    ASSERT_TRUE(before);
    ASSERT_TRUE(after) << after.status().message();
    for (const char* module : {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      const std::string name = std::string("model.layers.2.") + module;
      const auto exact = (*before)->linear(name), kept = (*after)->linear(name);
      ASSERT_TRUE(exact);
      ASSERT_TRUE(kept) << kept.status().message();
      const std::vector<float> a = formats::dequantize(exact->host), b = formats::dequantize(kept->host);
      for (size_t i = 0; i < a.size(); i++) ASSERT_EQ(to_float(to_half(a[i])), b[i]) << name;
    }
  }
}

TEST(Quantize, AwqHalvesTheLossOfPlantedOutliers) {
  TemporaryFolder folder;
  plant_outliers(folder.path() + "/planted");
  const Scores exact = scores(model_path);
  EXPECT_LT(divergence(exact, scores(folder.path() + "/planted")), 1e-6);  // the function is unchanged
  for (const char* method : {"rtn", "awq"}) {
    QuantizeOptions o = options(method, folder.path() + "/" + method);
    o.path = folder.path() + "/planted";
    run(o);
  }
  const Scores rounded = scores(folder.path() + "/rtn"), awq = scores(folder.path() + "/awq");
  print("planted, to nearest", exact, rounded);
  print("planted, awq", exact, awq);
  EXPECT_LT(divergence(exact, awq), divergence(exact, rounded) / 2);
}

TEST(Quantize, SmoothQuantStaysWithinOnePercent) {
  TemporaryFolder folder;
  const json report = run(options("smoothquant", folder.path() + "/smooth"));
  const Scores exact = scores(model_path), smooth = scores(folder.path() + "/smooth", true);
  print("smoothquant", exact, smooth);
  EXPECT_LT(std::exp(loss_of(smooth)), 1.01 * std::exp(loss_of(exact)));
  EXPECT_LT(divergence(exact, smooth), 0.01);
  const auto checkpoint = formats::Checkpoint::open(folder.path() + "/smooth");
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ((*checkpoint)->format(), "compressed-tensors");
}

TEST(Quantize, FolderIsAutoAwqs) {
  TemporaryFolder folder;
  run(quick("awq", folder.path() + "/awq"));
  const std::string out = folder.path() + "/awq";
  const auto config = formats::read_json(out + "/config.json");
  ASSERT_TRUE(config);
  EXPECT_EQ((*config)["quantization_config"], json({{"quant_method", "awq"}, {"bits", 4}, {"group_size", 64}, {"zero_point", true}, {"version", "gemm"}, {"modules_to_not_convert", nullptr}}));
  EXPECT_EQ((*config)["torch_dtype"], "float16");
  const auto checkpoint = formats::Checkpoint::open(out);
  ASSERT_TRUE(checkpoint) << checkpoint.status().message();
  EXPECT_EQ((*checkpoint)->format(), "awq-gemm");
  const formats::TensorView* weight = (*checkpoint)->find("model.layers.1.mlp.down_proj.qweight");
  ASSERT_NE(weight, nullptr);
  EXPECT_EQ(weight->shape, (std::vector<int64_t>{384, 16}));
  EXPECT_EQ((*checkpoint)->find("model.layers.1.mlp.down_proj.scales")->shape, (std::vector<int64_t>{6, 128}));
  EXPECT_EQ((*checkpoint)->find("model.layers.1.mlp.down_proj.weight"), nullptr);
  EXPECT_EQ((*checkpoint)->find("model.layers.0.input_layernorm.weight")->type, DType::f16);
  for (const char* file : {"tokenizer.json", "quantize-report.json", "quantize-report.svg"}) EXPECT_TRUE(fs::exists(out + "/" + file)) << file;
  EXPECT_FALSE(fs::exists(out + ".partial"));
  EXPECT_FALSE(fs::exists(out + "/state.json"));
}

TEST(Quantize, InterruptedGoesOnAndGivesTheSame) {
  TemporaryFolder folder;
  run(quick("awq", folder.path() + "/whole"));
  const QuantizeOptions o = quick("awq", folder.path() + "/cut");
  const auto cut = quantize(o, [](const ProgressReport& report) { return report.done < 1; });
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.status().code(), Code::cancelled);
  EXPECT_FALSE(fs::exists(o.out));
  EXPECT_TRUE(fs::exists(o.out + ".partial/layer-00000.safetensors"));
  QuantizeOptions other = o;
  other.group = 32;
  EXPECT_EQ(quantize(other, nullptr).status().code(), Code::invalid_argument);  // another quantisation's folder
  std::vector<std::string> stages;
  ASSERT_TRUE(quantize(o, [&](const ProgressReport& report) { return note_whole(report, stages); }));
  EXPECT_EQ(stages, (std::vector<std::string>{"resume1", "quantize2", "write2"}));  // the first layer was not searched again
  const auto bytes = [](const std::string& path) {
    std::ifstream in(path + "/model.safetensors", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  EXPECT_EQ(bytes(o.out), bytes(folder.path() + "/whole"));
}

// A layer of a large model takes minutes: it says how far it is, and stops when told.
TEST(Quantize, TellsHowFarALayerIsAndStopsWithinIt) {
  TemporaryFolder folder;
  const QuantizeOptions o = quick("awq", folder.path() + "/out");
  std::vector<double> seen;
  const auto cut = quantize(o, [&](const ProgressReport& report) {
    EXPECT_EQ(report.total, 2);
    seen.push_back(report.done);
    return seen.size() < 5;
  });
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.status().code(), Code::cancelled);
  EXPECT_NE(cut.status().message().find("0 of 2 layers"), std::string::npos) << cut.status().message();
  EXPECT_EQ(seen.size(), 5u);
  EXPECT_TRUE(std::ranges::is_sorted(seen));
  EXPECT_GT(seen.front(), 0);
  EXPECT_LT(seen.back(), 1);
  EXPECT_FALSE(fs::exists(o.out + ".partial/layer-00000.safetensors"));
}

TEST(Quantize, WidthsThatNoGroupDividesAreReported) {
  TemporaryFolder folder;
  QuantizeOptions o = options("rtn", folder.path() + "/out");
  o.path = root + "/test/fixtures/checkpoints/stories260K";
  if (!fs::exists(o.path)) GTEST_FAIL() << o.path << " is missing";
  o.group = 128;
  const auto refused = quantize(o, nullptr);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.status().message().find("--group 64"), std::string::npos) << refused.status().message();
  o.group = 32;
  const json report = run(o);
  ASSERT_EQ(report["kept_fp16"].size(), 15u);  // 172 inputs hold no group, 172 outputs no whole words
  EXPECT_EQ(report["kept_fp16"][2], "model.layers.0.mlp.down_proj");
  const auto config = formats::read_json(o.out + "/config.json");
  EXPECT_EQ((*config)["quantization_config"]["modules_to_not_convert"].size(), 15u);
  const auto checkpoint = formats::Checkpoint::open(o.out);
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ((*checkpoint)->linear_header("model.layers.0.mlp.down_proj")->format, ops::WeightFormat::f16);
}

// A copy of the model with its tensor's first value replaced.
void plant_value(const std::string& to, const std::string& tensor, float value) {
  fs::copy(model_path, to, fs::copy_options::recursive);
  const std::string path = to + "/model.safetensors";
  uint64_t size = 0;
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.read(reinterpret_cast<char*>(&size), sizeof(size));
  std::string header(size, ' ');
  file.read(header.data(), static_cast<std::streamsize>(size));
  const json entry = json::parse(header)[tensor];
  ASSERT_EQ(entry["dtype"], "F32");
  file.seekp(static_cast<std::streamoff>(sizeof(size) + size + entry["data_offsets"][0].get<uint64_t>()));
  file.write(reinterpret_cast<const char*>(&value), sizeof(value));
}

TEST(Quantize, ValuesThatAreNotFiniteAreNamed) {
  TemporaryFolder folder;
  int cases = 0;
  const auto refused = [&](const std::string& method, const std::string& tensor, float value, const std::string& message) {
    const std::string here = folder.path() + "/" + std::to_string(cases++);
    fs::create_directories(here);
    QuantizeOptions o = quick(method, here + "/out");
    o.path = here + "/model";
    plant_value(o.path, tensor, value);
    const auto report = quantize(o, nullptr);
    ASSERT_FALSE(report) << method << " " << tensor;
    EXPECT_NE(report.status().message().find(message), std::string::npos) << report.status().message();
    EXPECT_FALSE(fs::exists(o.out));
  };
  for (const char* method : {"awq", "smoothquant", "rtn"}) {
    refused(method, "model.layers.1.mlp.up_proj.weight", std::nanf(""), "'model.layers.1.mlp.up_proj.weight' holds values that are not finite");
    refused(method, "model.layers.0.input_layernorm.weight", INFINITY, "'model.layers.0.input_layernorm.weight' holds values that are not finite");
  }
  // Finite, but its square is not: the layer's outputs are no numbers.
  refused("awq", "model.layers.0.input_layernorm.weight", 3e38f, "layer 0 computes values that are not finite");
}

TEST(Quantize, RefusesBadOptions) {
  TemporaryFolder folder;
  const auto refused = [&](auto change, const char* message) {
    QuantizeOptions o = options("awq", folder.path() + "/out");
    change(o);
    const auto report = quantize(o, nullptr);
    ASSERT_FALSE(report);
    EXPECT_NE(report.status().message().find(message), std::string::npos) << report.status().message();
    EXPECT_FALSE(fs::exists(folder.path() + "/out"));
  };
  refused([](QuantizeOptions& o) { o.method = "magic"; }, "method 'magic'");
  refused([](QuantizeOptions& o) { o.group = 48; }, "group 48");
  refused([](QuantizeOptions& o) { o.rounding = "up"; }, "rounding 'up'");
  refused([](QuantizeOptions& o) { o.path = "/nonexistent"; }, "/nonexistent");
  refused([](QuantizeOptions& o) { o.calibrate = ""; }, "calibration text");
  refused([](QuantizeOptions& o) { o.calibrate = "/nonexistent"; }, "/nonexistent");
  refused([](QuantizeOptions& o) { o.tokens = 10; }, "fewer than one sequence");
  refused([&](QuantizeOptions& o) { o.out = folder.path(); }, "exists already");
}

// Of a text whose first part is one word over and over, a search learns nothing that holds on the rest: it is undone.
TEST(Awq, WhatFitsItsOwnTextOnlyIsUndone) {
  TemporaryFolder folder;
  QuantizeOptions o = quick("awq", folder.path() + "/out");
  o.calibrate = folder.path() + "/text.txt";
  std::ofstream to(o.calibrate);
  for (int i = 0; i < 520; i++) to << "the ";  // one token each; what is held out comes after 512
  to << std::ifstream(text).rdbuf();
  to.close();
  const json report = run(o);
  bool undone = false;
  for (const json& layer : report["layers"]) {
    const json& held = layer["held_out"];
    EXPECT_LE(held["error"], held["error_rounding"]);
    EXPECT_EQ(held["kept"].get<bool>(), held["error_searched"] <= held["error_rounding"]);
    if (held["kept"].get<bool>()) continue;
    undone = true;
    EXPECT_EQ(layer["error"], layer["error_rounding"]);
    EXPECT_TRUE(layer["pairs"].empty());
  }
  EXPECT_TRUE(undone);
  // A text of one kind keeps what it finds.
  for (const json& layer : run(quick("awq", folder.path() + "/usual"))["layers"]) EXPECT_TRUE(layer["held_out"]["kept"].get<bool>()) << layer["held_out"];
}

}  // namespace
}  // namespace hearth::quantize
