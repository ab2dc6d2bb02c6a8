// Converting and evaluating: a converted model computes what its source computes, and is refused where it does not fit.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

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
    EvaluateOptions o{.path = source, .against = "", .text = text, .precision = "f32", .group = 0, .head_bits = 0, .window = 0, .tokens = 1024};
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
    const auto result = converted(out, precision == std::string("auto") ? "cpu" : here, precision);  // "cpu": this one
    ASSERT_TRUE(result) << result.status().message();
    const json plain = evaluated(source, "", precision), packed = evaluated(out, "", precision);
    EXPECT_EQ(plain["precision"], packed["precision"]);
    EXPECT_EQ(plain["loss"], packed["loss"]) << precision;  // the same bytes in the same kernels
    const auto checkpoint = formats::Checkpoint::open(out);
    ASSERT_TRUE(checkpoint);
    EXPECT_EQ((*checkpoint)->format(), "hearth");
    EXPECT_EQ((*checkpoint)->target(), here);
    EXPECT_EQ((*result)["target"], here);
    EXPECT_TRUE(fs::exists(out + "/tokenizer.json"));
    EXPECT_EQ((*checkpoint)->linear("model.layers.0.mlp.down_proj").status().code(), Code::unsupported);
  }
}

// Tensors are made in memory that is used again by threads in any order: nothing of that may show.
TEST(Convert, GivesTheSameBytesEveryTime) {
  TemporaryFolder folder;
  const auto bytes = [&](const std::string& name) {
    EXPECT_TRUE(converted(folder.path() + name, "cpu", "w4a8"));
    std::ifstream in(folder.path() + name + "/model.safetensors", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  const std::string first = bytes("/0");
  for (int i = 1; i < 8; i++) EXPECT_TRUE(bytes("/" + std::to_string(i)) == first) << i;
}

TEST(Convert, WrongTargetsAreRefusedWithTheCommand) {
  TemporaryFolder folder;
  EXPECT_NE(converted(folder.path() + "/x", "cpu-z80").status().message().find("cpu-reference"), std::string::npos);
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

// A GGUF file of a small random Llama, with a SentencePiece vocabulary of bytes and a few words.
class GgufWriter {
 public:
  std::string write(const std::string& path) {
    key_text("general.architecture", "llama");
    for (const auto& [key, value] : {std::pair{"embedding_length", width}, {"feed_forward_length", 2 * width}, {"block_count", 2}, {"context_length", 512},
                                     {"attention.head_count", 4}, {"attention.head_count_kv", 2}}) {
      key_number(std::string("llama.") + key, value);
    }
    key_vocabulary();
    tensor("token_embd.weight", vocabulary, width);
    for (const char* layer : {"blk.0.", "blk.1."}) {
      for (const auto& [name, rows, columns] : {std::tuple{"attn_q", width, width}, {"attn_k", width / 2, width}, {"attn_v", width / 2, width}, {"attn_output", width, width},
                                                {"ffn_gate", 2 * width, width}, {"ffn_up", 2 * width, width}, {"ffn_down", width, 2 * width},
                                                {"attn_norm", width, 0}, {"ffn_norm", width, 0}}) {
        tensor(std::string(layer) + name + ".weight", rows, columns);
      }
    }
    tensor("output_norm.weight", width, 0);
    std::string file = "GGUF" + bytes_of<uint32_t>(3) + bytes_of<uint64_t>(tensors_) + bytes_of<uint64_t>(keys_) + key_bytes_ + info_bytes_;
    file.resize((file.size() + 31) / 32 * 32);
    std::ofstream(path, std::ios::binary) << file << data_;
    return path;
  }

 private:
  static constexpr int width = 64, vocabulary = 264;
  template <class T>
  static std::string bytes_of(T value) { return std::string(reinterpret_cast<const char*>(&value), sizeof value); }
  static std::string text_bytes(const std::string& text) { return bytes_of<uint64_t>(text.size()) + text; }
  void key(const std::string& name, uint32_t type, const std::string& value) { keys_++, key_bytes_ += text_bytes(name) + bytes_of(type) + value; }
  void key_text(const std::string& name, const std::string& value) { key(name, 8, text_bytes(value)); }
  void key_number(const std::string& name, int value) { key(name, 4, bytes_of<uint32_t>(static_cast<uint32_t>(value))); }
  template <class T>
  void key_array(const std::string& name, uint32_t element, const std::vector<T>& values) {
    std::string all = bytes_of(element) + bytes_of<uint64_t>(values.size());
    for (const T& value : values) {
      if constexpr (std::is_same_v<T, std::string>) all += text_bytes(value);
      else all += bytes_of(value);
    }
    key(name, 9, all);
  }
  void key_vocabulary() {
    std::vector<std::string> tokens{"<unk>", "<s>", "</s>"};
    std::vector<int32_t> types{2, 3, 3};
    for (int byte = 0; byte < 256; byte++) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", byte);
      tokens.push_back(name);
      types.push_back(6);
    }
    for (const char* word : {"\u2581", "e", "t", "\u2581t", "h"}) tokens.push_back(word), types.push_back(1);
    std::vector<float> scores(tokens.size());
    for (size_t i = 0; i < scores.size(); i++) scores[i] = -static_cast<float>(i);
    key_text("tokenizer.ggml.model", "llama");
    key_array("tokenizer.ggml.tokens", 8, tokens);
    key_array("tokenizer.ggml.scores", 6, scores);
    key_array("tokenizer.ggml.token_type", 5, types);
    key_number("tokenizer.ggml.bos_token_id", 1);
    key_number("tokenizer.ggml.eos_token_id", 2);
    key_text("tokenizer.chat_template", "{{ messages[0].content }}");
  }
  // F32, [rows, columns], or a vector near 1.
  void tensor(const std::string& name, int rows, int columns) {
    tensors_++;
    info_bytes_ += text_bytes(name) + bytes_of<uint32_t>(columns ? 2 : 1);
    if (columns) info_bytes_ += bytes_of<uint64_t>(static_cast<uint64_t>(columns));
    info_bytes_ += bytes_of<uint64_t>(static_cast<uint64_t>(rows)) + bytes_of<uint32_t>(0) + bytes_of<uint64_t>(data_.size());
    for (int i = 0; i < rows * std::max(columns, 1); i++) {
      const float noise = static_cast<float>(random_() >> 8) / 8388608.0f - 1.0f;
      data_ += bytes_of<float>(columns ? 0.2f * noise : 1 + 0.1f * noise);
    }
    data_.resize((data_.size() + 31) / 32 * 32);
  }

  std::mt19937 random_{7};
  uint64_t tensors_ = 0, keys_ = 0;
  std::string key_bytes_, info_bytes_, data_;
};

TEST(Convert, AGgufFileBecomesAFolderThatComputesAndTokenizesTheSame) {
  TemporaryFolder folder;
  const auto device = cpu();
  const std::string file = GgufWriter().write(folder.path() + "/small.gguf");
  for (const char* precision : {"auto", "w4a8"}) {
    ConvertOptions o{.path = file, .out = folder.path() + "/" + precision, .target = model::target_name(device->info()), .precision = precision, .group = 32};
    const auto result = convert(o, nullptr);
    ASSERT_TRUE(result) << result.status().message();
    const auto before = formats::Checkpoint::open(file), after = formats::Checkpoint::open(o.out);
    ASSERT_TRUE(after) << after.status().message();
    EXPECT_EQ((*before)->config(), (*after)->config());
    ASSERT_NE((*after)->vocabulary(), nullptr);
    EXPECT_EQ((*before)->vocabulary()->tokens, (*after)->vocabulary()->tokens);
    EXPECT_EQ((*before)->vocabulary()->scores, (*after)->vocabulary()->scores);
    EvaluateOptions judged{.path = file, .against = "", .text = text, .precision = precision, .group = 32, .head_bits = 0, .window = 128, .tokens = 1024};
    const auto plain = evaluate(judged, *device, nullptr);
    judged.path = o.out;
    judged.precision = "auto";
    const auto packed = evaluate(judged, *device, nullptr);
    ASSERT_TRUE(plain) << plain.status().message();
    ASSERT_TRUE(packed) << packed.status().message();
    EXPECT_EQ((*plain)["loss"], (*packed)["loss"]) << precision;
    EXPECT_EQ((*plain)["tokens"], (*packed)["tokens"]);
  }
}

}  // namespace
}  // namespace hearth::quantize
