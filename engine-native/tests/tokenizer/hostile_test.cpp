// Vocabulary files are untrusted: whatever is in them, loading ends in a tokenizer that works or in a clear error.
#include <cmath>

#include "tokenizer/support.h"

namespace hearth::tokenizer::test {
namespace {

Json small_bpe() {
  return Json::parse(R"({"added_tokens": [{"id": 4, "content": "<s>", "special": true}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<unk>": 3}, "merges": ["a b"], "unk_token": "<unk>"}, "decoder": {"type": "Fuse"}})");
}

void use(const Tokenizer& t) {
  Ids ids;
  static_cast<void>(t.encode("ab <s> \xC3\xA9\n", {true, {}}, ids));
  for (int32_t id : ids) ASSERT_TRUE(id >= 0 && id < t.vocab_size());
  EXPECT_TRUE(utf8::is_valid(t.decode(ids, false)));
}

struct Change {
  const char* patch;    // merged into the file
  const char* message;  // part of the error
};

TEST(Hostile, TokenizerJsonIsRefusedWithAReason) {
  Change changes[] = {
      {R"({"model": {"type": "WordPiece"}})", "WordPiece"},
      {R"({"model": {"vocab": {"a": -1}}})", "out of range"},
      {R"({"model": {"vocab": {"a": 4294967296}}})", "out of range"},
      {R"({"model": {"vocab": {"a": 1e300}}})", "vocab"},
      {R"({"model": {"vocab": {"c": 1}}})", "stands for both"},
      {R"({"model": {"vocab": []}})", "vocab"},
      {R"({"model": {"merges": ["a"]}})", "not two words"},
      {R"({"model": {"merges": ["a b c"]}})", "not two words"},
      {R"({"model": {"merges": ["a c"]}})", "not in the vocabulary"},
      {R"({"model": {"merges": [["a"]]}})", "not a pair"},
      {R"({"model": {"merges": 3}})", "merges"},
      {R"({"model": {"dropout": 0.1}})", "dropout"},
      {R"({"model": {"end_of_word_suffix": "</w>"}})", "end_of_word_suffix"},
      {R"({"model": {"unk_token": "nowhere"}})", "unk_token"},
      {R"({"model": 5})", "model"},
      {R"({"added_tokens": [{"content": "x"}]})", "id"},
      {R"({"added_tokens": [{"id": 0, "content": "x"}]})", "stands for both"},
      {R"({"added_tokens": {}})", "added_tokens"},
      {R"({"normalizer": {"type": "BertNormalizer"}})", "BertNormalizer"},
      {R"({"normalizer": {"type": "Sequence"}})", "normalizers"},
      {R"({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}})", "charsmap"},
      {R"({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}})", "base64"},
      {R"({"pre_tokenizer": {"type": "BertPreTokenizer"}})", "BertPreTokenizer"},
      {R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "["}, "behavior": "Isolated"}})", "lacks a closing"},
      {R"({"pre_tokenizer": {"type": "Split", "pattern": {"String": "a"}, "behavior": "Sideways"}})", "Sideways"},
      {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}]}})", "after ByteLevel"},
      {R"({"decoder": {"type": "WordPiece"}})", "WordPiece"},
      {R"({"decoder": {"type": "Strip", "content": "", "start": 0, "stop": 0}})", "Strip"},
      {R"({"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}], "special_tokens": {"<s>": {"ids": [99]}}}})", "outside"},
      {R"({"post_processor": {"type": "Other"}})", "Other"},
  };
  EXPECT_TRUE(Tokenizer::from_tokenizer_json(small_bpe().dump()).is_ok());
  for (const Change& change : changes) {
    Json json = small_bpe();
    json.merge_patch(Json::parse(change.patch));
    auto result = Tokenizer::from_tokenizer_json(json.dump());
    ASSERT_FALSE(result.is_ok()) << change.patch;
    EXPECT_NE(result.status().message().find(change.message), std::string::npos) << change.patch << " -> " << result.status().message();
  }
  for (const char* text : {"", "{", "[]", "null", "{\"model\":null}", "\xFF"}) EXPECT_FALSE(Tokenizer::from_tokenizer_json(text).is_ok()) << text;
  std::string deep = R"({"normalizer":)";
  for (int i = 0; i < 5000; ++i) deep += R"({"type":"Sequence","normalizers":[)";
  EXPECT_FALSE(Tokenizer::from_tokenizer_json(deep).is_ok());
}

// Values of the wrong type everywhere: every leaf of a real file's frame replaced by every kind of value.
TEST(Hostile, WrongTypesEverywhere) {
  Json frame = Json::parse(read_file(fixture("phi-3.json")));
  frame["model"]["vocab"] = Json::object();
  for (int i = 0; i < 40; ++i) frame["model"]["vocab"]["t" + std::to_string(i)] = 100 + i;
  frame["model"]["vocab"].update({{"<unk>", 0}, {"t", 90}, {"1", 91}});
  frame["model"]["merges"] = Json::array({"t 1"});
  ASSERT_TRUE(Tokenizer::from_tokenizer_json(frame.dump()).is_ok());
  Json flat = frame.flatten();
  const Json values[] = {nullptr, true, -1, 0, 1u << 31, 1e99, "x", "", Json::array(), Json::object(), Json::array({Json::array({1})})};
  int loaded = 0, refused = 0;
  for (const auto& [pointer, old] : flat.items()) {
    for (const Json& value : values) {
      Json json = frame;
      json[Json::json_pointer(pointer)] = value;
      auto result = Tokenizer::from_tokenizer_json(json.dump());
      if (result) {
        use(**result);
      } else {
        EXPECT_FALSE(result.status().message().empty());
      }
      ++(result ? loaded : refused);
    }
  }
  EXPECT_GT(loaded, 50);
  EXPECT_GT(refused, 200);
}

TEST(Hostile, SentencePieceFilesCutAndFlipped) {
  std::mt19937 rng(11);
  for (const char* name : {"spm-unigram.model", "spm-bpe.model"}) {
    const std::string whole = read_file(fixture(name));
    int refused = 0;
    for (int i = 0; i < 120; ++i) {
      std::string data = whole;
      // The pieces are at the front, the specifications at the back; the character map between is half of the file.
      size_t front = std::min<size_t>(data.size(), 12000);
      if (i % 4 == 0) data.resize(rng() % data.size());
      else if (i % 4 == 1) data[rng() % front] ^= static_cast<char>(1 << (rng() % 8));
      else if (i % 4 == 2) data[data.size() - 1 - rng() % 600] = static_cast<char>(rng());
      else for (int n = 0; n < 20; ++n) data[rng() % data.size()] = static_cast<char>(rng());
      auto result = Tokenizer::from_sentencepiece(std::as_bytes(std::span(data)));
      if (result) use(**result);
      else ++refused;
    }
    EXPECT_GT(refused, 10) << name;
  }
  EXPECT_FALSE(Tokenizer::from_sentencepiece({}).is_ok());
}

TEST(Hostile, GgufVocabularies) {
  GgufVocabulary good;
  good.model = "gpt2";
  good.pre = "gpt-2";
  good.tokens = {"a", "b", "ab", "<s>"};
  good.types = {1, 1, 1, 3};
  good.merges = {"a b"};
  use(*must(Tokenizer::from_gguf(good)));
  auto refused = [](GgufVocabulary v, const char* part) {
    auto result = Tokenizer::from_gguf(v);
    ASSERT_FALSE(result.is_ok()) << part;
    EXPECT_NE(result.status().message().find(part), std::string::npos) << result.status().message();
  };
  auto with = [&](auto change) { GgufVocabulary v = good; change(v); return v; };
  refused(with([](auto& v) { v.pre = "deepseek-llm"; }), "deepseek-llm");
  refused(with([](auto& v) { v.model = "t5"; }), "t5");
  refused(with([](auto& v) { v.types.pop_back(); }), "token_type");
  refused(with([](auto& v) { v.types[0] = 9; }), "token_type 9");
  refused(with([](auto& v) { v.tokens.clear(); }), "no tokens");
  refused(with([](auto& v) { v.merges = {"ab"}; }), "not two words");
  refused(with([](auto& v) { v.merges = {"b a"}; }), "no token");
  refused(with([](auto& v) { v.bos = 99; }), "outside");
  refused(with([](auto& v) { v.tokens[0] = "\xFF"; }), "UTF-8");
  refused(with([](auto& v) { v.model = "llama"; }), "scores");
  refused(with([](auto& v) { v.model = "llama"; v.scores = {0, 0, NAN, 0}; }), "score");
  refused(with([](auto& v) { v.model = "llama"; v.scores = {0, 0, 0, 0}; v.tokens[0] = std::string(5000, 'x'); }), "1024");
}

TEST(Gguf, PreNamesCutAsTheyShould) {
  GgufVocabulary v;
  v.model = "gpt2";
  for (const char* token : {"1", "2", "3", "4", "12", "34", "123", "1234", "x", "'", "S", "'S", ".", "..", "x.", "\xC4\xA0", "\xC4\xA0x"}) v.tokens.push_back(token);
  v.merges = {"1 2", "12 3", "123 4", "3 4", "' S", "x .", "\xC4\xA0 x", ". ."};
  auto texts = [&](const char* pre, const char* text) {
    v.pre = pre;
    Shared t = must(Tokenizer::from_gguf(v));
    std::vector<std::string> out;
    for (int32_t id : encode(*t, text)) out.emplace_back(t->token_text(id));
    return out;
  };
  using Texts = std::vector<std::string>;
  EXPECT_EQ(texts("gpt-2", "1234'S"), Texts({"1234", "'", "S"}));
  EXPECT_EQ(texts("phi-2", "1234"), Texts({"1234"}));
  EXPECT_EQ(texts("llama-bpe", "1234'S"), Texts({"123", "4", "'S"}));
  EXPECT_EQ(texts("qwen2", "1234"), Texts({"1", "2", "3", "4"}));
  EXPECT_EQ(texts("smollm", "1234 x"), Texts({"1", "2", "3", "4", "\xC4\xA0x"}));
  EXPECT_EQ(texts("default", "1234x..x"), Texts({"123", "4", "x", "..", "x"}));
}

}  // namespace
}  // namespace hearth::tokenizer::test
