// Against the tokenizers others wrote: @huggingface/tokenizers (golden.json), SentencePiece (sentencepiece.json),
// llama.cpp (the .inp and .out files of its vocabularies).
#include "tokenizer/support.h"

namespace hearth::tokenizer::test {
namespace {

struct GoldenSet {
  Json texts;  // shared texts and the set's own
  Json set;
  Shared tokenizer;
};

Shared build(const Json& set) {
  Json json = Json::parse(read_file(fixture(set["base"])));
  for (const auto& [key, value] : set["patch"].items()) {
    if (key == "model") json["model"].update(value);
    else json[key] = value;
  }
  return must(Tokenizer::from_tokenizer_json(json.dump()));
}

const Json& golden() {
  static const Json json = Json::parse(read_file(fixture("golden.json")));
  return json;
}

class Golden : public testing::TestWithParam<size_t> {};

TEST_P(Golden, EqualsHuggingFace) {
  ASSERT_LT(GetParam(), golden()["sets"].size());
  const Json& set = golden()["sets"][GetParam()];
  Shared tokenizer = build(set);
  ASSERT_TRUE(tokenizer);
  Json texts = golden()["texts"];
  for (const Json& text : set["texts"]) texts.push_back(text);
  ASSERT_EQ(texts.size(), set["ids"].size());
  for (size_t i = 0; i < texts.size(); ++i) {
    std::string text = texts[i].get<std::string>();
    Ids wanted = set["ids"][i].get<Ids>();
    ASSERT_EQ(encode(*tokenizer, text, set["special"].get<bool>()), wanted) << set["name"] << " text " << i << ": " << Json(text).dump(-1, ' ', true);
    std::string decoded = set["decoded"][i].is_string() ? set["decoded"][i].get<std::string>() : text;
    ASSERT_EQ(tokenizer->decode(wanted, false), decoded) << set["name"] << " text " << i << ": " << Json(text).dump(-1, ' ', true);
  }
  for (const Json& pair : set["sequences"]) {
    ASSERT_EQ(tokenizer->decode(pair[0].get<Ids>(), false), pair[1].get<std::string>()) << set["name"] << " " << pair[0];
  }
}
INSTANTIATE_TEST_SUITE_P(Sets, Golden, testing::Range<size_t>(0, 18));

TEST(Golden, EverySetIsTested) { EXPECT_EQ(golden()["sets"].size(), 18u); }

TEST(SentencePiece, EqualsSpmEncode) {
  Json json = Json::parse(read_file(fixture("sentencepiece.json")));
  ASSERT_EQ(json["models"].size(), 5u);
  for (const Json& entry : json["models"]) {
    std::string name = entry["model"];
    Shared tokenizer = load_model(name);
    ASSERT_TRUE(tokenizer) << name;
    for (size_t i = 0; i < json["lines"].size(); ++i) {
      std::string line = json["lines"][i];
      // spm_encode never takes control symbols from text; for us that is what "literal" means.
      ASSERT_EQ(encode_literal(*tokenizer, line), entry["ids"][i].get<Ids>()) << name << " line " << i << ": " << Json(line).dump(-1, ' ', true);
    }
    for (size_t i = 0; i < json["symbols"].size(); ++i) {
      std::string line = json["symbols"][i];
      ASSERT_EQ(encode(*tokenizer, line), entry["symbolIds"][i].get<Ids>()) << name << ": " << line;
    }
  }
}

// What spm_decode --input_format=id printed for the ids of "▁ ▁ a ▁ ▁ a": a model that removes extra blanks loses all the
// leading ones, another only its dummy prefix.
TEST(SentencePiece, DecodesLeadingBlanksAsSpmDecode) {
  for (auto [name, text] : {std::pair{"spm-unigram.model", "a  a"}, std::pair{"spm-bpe.model", "a  a"}, std::pair{"mistral-v1.model", " a  a"}}) {
    Shared t = load_model(name);
    int32_t blank = *t->id_of("\xE2\x96\x81"), a = *t->id_of("a");
    EXPECT_EQ(t->decode(Ids{blank, blank, a, blank, blank, a}, false), text) << name;
  }
}

std::vector<std::string> split(const std::string& text, const std::string& by) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t at; (at = text.find(by, begin)) != text.npos; begin = at + by.size()) parts.push_back(text.substr(begin, at - begin));
  parts.push_back(text.substr(begin));
  return parts;
}

void expect_llama_cpp_cases(const Tokenizer& tokenizer, const std::string& out_file) {
  auto inputs = split(read_file(fixture("cases.inp")), "\n__ggml_vocab_test__\n");
  auto outputs = split(read_file(fixture(out_file)), "\n");
  if (inputs.back().empty()) inputs.pop_back();
  ASSERT_GE(inputs.size(), 40u);
  ASSERT_GE(outputs.size(), inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    Ids wanted;
    std::istringstream line(outputs[i]);
    for (int32_t id; line >> id;) wanted.push_back(id);
    EXPECT_EQ(encode(tokenizer, inputs[i]), wanted) << out_file << " case " << i << ": " << inputs[i];
  }
}

TEST(Gguf, Gpt2EqualsLlamaCpp) { expect_llama_cpp_cases(*must(Tokenizer::from_gguf(gguf_vocabulary("gpt-2.gguf"))), "gpt-2.out"); }
TEST(Gguf, Phi3EqualsLlamaCpp) { expect_llama_cpp_cases(*must(Tokenizer::from_gguf(gguf_vocabulary("phi-3.gguf"))), "phi-3.out"); }
TEST(TokenizerJson, Phi3EqualsLlamaCpp) { expect_llama_cpp_cases(*load_json("phi-3.json"), "phi-3.out"); }

// The same vocabulary by three readers gives the same ids on random text.
TEST(Gguf, Phi3EqualsItsTokenizerJson) {
  Shared gguf = must(Tokenizer::from_gguf(gguf_vocabulary("phi-3.gguf"))), json = load_json("phi-3.json");
  std::mt19937 rng(5);
  for (int i = 0; i < 300; ++i) {
    std::string text = random_text(rng, 60);
    ASSERT_EQ(encode_literal(*gguf, text), encode_literal(*json, text)) << Json(text).dump(-1, ' ', true);
  }
}

}  // namespace
}  // namespace hearth::tokenizer::test
