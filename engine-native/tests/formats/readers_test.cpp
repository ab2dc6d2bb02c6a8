// Every format against files that scripts/golden/write_formats.py wrote from the formats' formulas: the numbers come out
// bit for bit.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "fixtures.h"
#include "tokenizer/tokenizer.h"

namespace hearth::formats {
namespace {

using ops::WeightFormat;

const std::string down = "model.layers.0.mlp.down_proj";

std::unique_ptr<Checkpoint> open(const std::string& name) {
  auto checkpoint = Checkpoint::open(fixture(name));
  EXPECT_TRUE(checkpoint) << checkpoint.status().message();
  return checkpoint ? std::move(*checkpoint) : nullptr;
}

// The weights in natural input order.
std::vector<float> natural(const LinearData& linear) {
  const std::vector<float> values = dequantize(linear.host);
  if (linear.input_order.empty()) return values;
  std::vector<float> ordered(values.size());
  const size_t in = static_cast<size_t>(linear.host.in);
  for (size_t i = 0; i < values.size(); i++) ordered[i / in * in + static_cast<size_t>(linear.input_order[i % in])] = values[i];
  return ordered;
}

// The header promises exactly what reading gives.
void expect_header(const LinearHeader& header, const LinearData& linear) {
  EXPECT_EQ(header.in, linear.host.in);
  EXPECT_EQ(header.out, linear.host.out);
  EXPECT_EQ(header.format, linear.host.format);
  EXPECT_EQ(header.group, linear.host.group);
  EXPECT_EQ(header.symmetric, linear.host.symmetric);
  EXPECT_EQ(header.bias, !linear.bias.empty());
  EXPECT_EQ(header.act_order, !linear.input_order.empty());
  EXPECT_EQ(header.static_scale, linear.static_scale);
}

struct Case {
  const char* name;
  const char* format;
  const char* expected;
  WeightFormat held;
  int group;
};

class Readers : public testing::TestWithParam<Case> {};

TEST_P(Readers, NumbersBitForBit) {
  const Case& c = GetParam();
  const auto checkpoint = open(c.name);
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->format(), c.format);
  ASSERT_TRUE(checkpoint->has_linear(down));
  auto header = checkpoint->linear_header(down);
  ASSERT_TRUE(header) << header.status().message();
  auto linear = checkpoint->linear(down);
  ASSERT_TRUE(linear) << linear.status().message();
  expect_header(*header, *linear);
  EXPECT_EQ(linear->host.format, c.held);
  EXPECT_EQ(linear->host.group, c.group);
  const std::vector<float> expected = read_floats(fixture("expected-" + std::string(c.expected) + ".f32"));
  const std::vector<float> values = natural(*linear);
  ASSERT_EQ(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); i++) {
    if (c.held == WeightFormat::f16) ASSERT_EQ(values[i], to_float(to_half(expected[i]))) << i;
    else if (c.held == WeightFormat::bf16) ASSERT_EQ(values[i], to_float(to_bfloat16(expected[i]))) << i;
    else ASSERT_EQ(values[i], expected[i]) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, Readers, testing::Values(
    Case{"awq-gemm-g128", "awq-gemm", "g128", WeightFormat::w4, 128},
    Case{"awq-gemm-g64", "awq-gemm", "g64", WeightFormat::w4, 64},
    Case{"awq-gemm-g32", "awq-gemm", "g32", WeightFormat::w4, 32},
    Case{"awq-gemm-g16", "awq-gemm", "g16", WeightFormat::f16, 0},      // no kernel's group: held dense
    Case{"awq-gemm-whole", "awq-gemm", "g256", WeightFormat::w4, 128},  // one group a row, scales repeated
    Case{"awq-old", "awq-gemm", "g128", WeightFormat::w4, 128},         // quant_config.json
    Case{"awq-gemv-fast-g128", "awq-gemv-fast", "g128", WeightFormat::w4, 128},
    Case{"awq-gemv-fast-g64", "awq-gemv-fast", "g64", WeightFormat::w4, 64},
    Case{"awq-gemv-fast-g32", "awq-gemv-fast", "g32", WeightFormat::w4, 32},
    Case{"llm-awq-g128", "llm-awq-v2", "g128", WeightFormat::w4, 128},
    Case{"llm-awq-g64", "llm-awq-v2", "g64", WeightFormat::w4, 64},
    Case{"llm-awq-g32", "llm-awq-v2", "g32", WeightFormat::w4, 32},
    Case{"llm-awq-g128/tiny-w4-g128-awq-v2.pt", "llm-awq-v2", "g128", WeightFormat::w4, 128},
    Case{"gptq-v1", "gptq", "g128", WeightFormat::w4, 128},
    Case{"gptq-v2", "gptq", "g128", WeightFormat::w4, 128},
    Case{"gptq-act-order", "gptq", "act-order", WeightFormat::w4, 128},
    Case{"compressed-pack", "compressed-tensors", "g128", WeightFormat::w4, 128},
    Case{"compressed-pack-sym", "compressed-tensors", "sym32", WeightFormat::w4, 32},
    Case{"compressed-int8", "compressed-tensors", "int8", WeightFormat::w8, 0},
    Case{"compressed-int8-static", "compressed-tensors", "int8", WeightFormat::w8, 0},
    Case{"q4_0.gguf", "gguf", "q4_0", WeightFormat::w4, 32},
    Case{"q4_1.gguf", "gguf", "q4_1", WeightFormat::f16, 0},
    Case{"q8_0.gguf", "gguf", "q8_0", WeightFormat::f16, 0},
    Case{"q4_k.gguf", "gguf", "q4_k", WeightFormat::f16, 0},
    Case{"q6_k.gguf", "gguf", "q6_k", WeightFormat::f16, 0},
    Case{"dense-f16", "float", "g128", WeightFormat::f16, 0},
    Case{"dense-bf16", "float", "g128", WeightFormat::bf16, 0},
    Case{"dense-f32", "float", "g128", WeightFormat::f32, 0},
    Case{"llava-old", "awq-gemm", "g128", WeightFormat::w4, 128},
    Case{"llava-new", "awq-gemm", "g128", WeightFormat::w4, 128},
    Case{"vila", "llm-awq-v2", "g128", WeightFormat::w4, 128}),
    [](const auto& info) {
      std::string name = info.param.name;
      for (char& c : name) if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
      return name;
    });

TEST(Readers, BiasAndStaticScale) {
  const auto linear = open("awq-gemm-g128")->linear(down);
  ASSERT_EQ(linear->bias.size(), 32u);
  EXPECT_EQ(linear->bias[3], 0.375f);
  EXPECT_EQ(open("compressed-int8-static")->linear(down)->static_scale, 0.125f);
}

TEST(Readers, ActOrderAsDenseIsNatural) {
  const auto linear = open("gptq-act-order")->linear(down);
  const auto expected = read_floats(fixture("expected-act-order.f32"));
  const auto values = dequantize(to_dense(*linear, WeightFormat::f16).host);
  for (size_t i = 0; i < values.size(); i++) ASSERT_EQ(values[i], to_float(to_half(expected[i]))) << i;
}

TEST(Readers, VisionNamesHaveOneSpelling) {
  for (const char* name : {"llava-old", "llava-new"}) {
    const auto checkpoint = open(name);
    for (const char* spelling : {"model.layers.0.mlp.down_proj.qweight", "language_model.model.layers.0.mlp.down_proj.qweight",
                                 "model.language_model.layers.0.mlp.down_proj.qweight", "multi_modal_projector.linear_1.weight",
                                 "model.multi_modal_projector.linear_1.weight", "vision_tower.vision_model.post_layernorm.weight"}) {
      EXPECT_NE(checkpoint->find(spelling), nullptr) << name << " " << spelling;
    }
  }
}

TEST(Readers, VilaFolderIsOneCheckpoint) {
  const auto checkpoint = open("vila");
  EXPECT_EQ(checkpoint->config()["text_config"]["hidden_size"], 32);
  EXPECT_EQ(checkpoint->config()["vision_config"]["model_type"], "siglip_vision_model");
  EXPECT_NE(checkpoint->find("vision_tower.vision_model.post_layernorm.weight"), nullptr);
  EXPECT_NE(checkpoint->find("mm_projector.layers.2.weight"), nullptr);
  const auto norm = checkpoint->floats("model.norm.weight", {{32}});  // a view into a storage, at an offset
  ASSERT_TRUE(norm) << norm.status().message();
  EXPECT_EQ((*norm)[0], 1.0f);
}

TEST(Gguf, ConfigInHuggingFaceTerms) {
  const auto checkpoint = open("q4_0.gguf");
  const auto& config = checkpoint->config();
  EXPECT_EQ(config["architectures"][0], "LlamaForCausalLM");
  EXPECT_EQ(config["hidden_size"], 32);
  EXPECT_EQ(config["intermediate_size"], 256);
  EXPECT_EQ(config["num_attention_heads"], 4);
  EXPECT_EQ(config["num_key_value_heads"], 2);
  EXPECT_EQ(config["head_dim"], 8);
  EXPECT_EQ(config["vocab_size"], 5);
  EXPECT_EQ(config["rope_theta"], 500000.0);
  EXPECT_EQ(config["tie_word_embeddings"], true);
  EXPECT_EQ(config["bos_token_id"], 1);
  EXPECT_EQ(config["chat_template"], "{{ messages[0].content }}");
}

TEST(Gguf, VocabularyForTheTokenizer) {
  const auto checkpoint = open("q4_0.gguf");
  const tokenizer::GgufVocabulary* vocabulary = checkpoint->vocabulary();
  ASSERT_NE(vocabulary, nullptr);
  EXPECT_EQ(vocabulary->model, "llama");
  EXPECT_EQ(vocabulary->tokens, (std::vector<std::string>{"<unk>", "<s>", "</s>", "\u2581a", "\u00e9"}));
  EXPECT_EQ(vocabulary->scores[3], -1.5f);
  EXPECT_EQ(vocabulary->types[1], 3);
  EXPECT_EQ(vocabulary->eos, 2);
  EXPECT_EQ(vocabulary->pad, -1);
  EXPECT_EQ(vocabulary->add_bos, true);
}

TEST(Gguf, RowsOfQueriesComeBackInOrder) {
  const auto checkpoint = open("q4_0.gguf");
  const auto linear = checkpoint->linear("model.layers.0.self_attn.q_proj");
  ASSERT_TRUE(linear) << linear.status().message();
  EXPECT_EQ(dequantize(linear->host), read_floats(fixture("expected-query.f32")));
  EXPECT_EQ(*checkpoint->floats("model.layers.0.self_attn.q_proj.weight", {{32, 32}}), read_floats(fixture("expected-query.f32")));
}

TEST(Gguf, SaysWhatIsHeldInAnotherForm) {
  EXPECT_TRUE(open("q4_0.gguf")->notes().empty());
  const auto notes = open("q4_k.gguf")->notes();
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("Q4_K"), std::string::npos);
}

}  // namespace
}  // namespace hearth::formats
