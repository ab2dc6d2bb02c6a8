// Normalizers, pre-tokenizers, decoders and added tokens one by one, through small vocabularies made here.
#include <unistd.h>
#include <utf8proc.h>

#include <cstdlib>
#include <filesystem>

#include "tokenizer/normalizer.h"
#include "tokenizer/support.h"
#include "tokenizer/unicode.h"

namespace hearth::tokenizer::test {
namespace {

// A WordLevel tokenizer over these words: ids show exactly which pieces a pre-tokenizer made. 0 is unknown.
Json words(const std::vector<std::string>& list) {
  Json vocab = {{"<unk>", 0}};
  for (const std::string& word : list) vocab.emplace(word, vocab.size());
  return {{"model", {{"type", "WordLevel"}, {"vocab", vocab}, {"unk_token", "<unk>"}}}, {"decoder", {{"type", "Fuse"}}}};
}

std::vector<std::string> pieces(Json json, const Json& pre_tokenizer, const std::string& text) {
  json["pre_tokenizer"] = pre_tokenizer;
  Shared t = must(Tokenizer::from_tokenizer_json(json.dump()));
  std::vector<std::string> out;
  for (int32_t id : encode(*t, text)) out.emplace_back(t->token_text(id));
  return out;
}
using Pieces = std::vector<std::string>;

TEST(PreTokenizer, Digits) {
  Json json = words({"a", "1", "2", "12", "\xC2\xBD", "\xC2\xBD" "1", "b"});
  EXPECT_EQ(pieces(json, {{"type", "Digits"}, {"individual_digits", true}}, "a12b"), Pieces({"a", "1", "2", "b"}));
  EXPECT_EQ(pieces(json, {{"type", "Digits"}, {"individual_digits", false}}, "a12b"), Pieces({"a", "12", "b"}));
  EXPECT_EQ(pieces(json, {{"type", "Digits"}}, "a\xC2\xBD" "1b"), Pieces({"a", "\xC2\xBD" "1", "b"})) << "any number, not only 0-9";
}

TEST(PreTokenizer, PunctuationAndWhitespace) {
  Json json = words({"Hey", "friend", "!", "!!", " friend", "Hey!", "a_b", "?!"});
  EXPECT_EQ(pieces(json, {{"type", "Punctuation"}}, "Hey!! friend"), Pieces({"Hey", "!", "!", " friend"}));
  EXPECT_EQ(pieces(json, {{"type", "Punctuation"}, {"behavior", "Contiguous"}}, "Hey!! friend"), Pieces({"Hey", "!!", " friend"}));
  EXPECT_EQ(pieces(json, {{"type", "Whitespace"}}, "Hey  friend?!\na_b"), Pieces({"Hey", "friend", "?!", "a_b"}));
  EXPECT_EQ(pieces(json, {{"type", "WhitespaceSplit"}}, " Hey!\xE3\x80\x80" "friend "), Pieces({"Hey!", "friend"}));
  EXPECT_EQ(pieces(json, {{"type", "CharDelimiterSplit"}, {"delimiter", "x"}}, "HeyxxHey!x"), Pieces({"Hey", "Hey!"}));
}

TEST(PreTokenizer, SplitByString) {
  Json json = words({"a", "b", "-", "a-", "-b"});
  auto split = [](const char* behaviour) { return Json{{"type", "Split"}, {"pattern", {{"String", "-"}}}, {"behavior", behaviour}, {"invert", false}}; };
  EXPECT_EQ(pieces(json, split("Isolated"), "a-b"), Pieces({"a", "-", "b"}));
  EXPECT_EQ(pieces(json, split("MergedWithPrevious"), "a-b"), Pieces({"a-", "b"}));
  EXPECT_EQ(pieces(json, split("MergedWithNext"), "a-b"), Pieces({"a", "-b"}));
  EXPECT_EQ(pieces(json, split("Removed"), "-a--b-"), Pieces({"a", "b"}));
}

TEST(PreTokenizer, Metaspace) {
  const std::string m = "\xE2\x96\x81";
  Json json = words({m + "Hey", m + "friend", "Hey", m, "<x>"});
  json["added_tokens"] = Json::array({{{"id", 9}, {"content", "<x>"}, {"special", true}}});
  json["model"]["vocab"].erase("<x>");
  auto meta = [](const char* scheme) { return Json{{"type", "Metaspace"}, {"replacement", "\xE2\x96\x81"}, {"prepend_scheme", scheme}, {"split", true}}; };
  EXPECT_EQ(pieces(json, meta("always"), "Hey friend<x>Hey"), Pieces({m + "Hey", m + "friend", "<x>", m + "Hey"}));
  EXPECT_EQ(pieces(json, meta("first"), "Hey friend<x>Hey"), Pieces({m + "Hey", m + "friend", "<x>", "Hey"}));
  EXPECT_EQ(pieces(json, meta("never"), "Hey friend<x>Hey"), Pieces({"Hey", m + "friend", "<x>", "Hey"}));
  EXPECT_EQ(pieces(json, meta("always"), " Hey  friend"), Pieces({m + "Hey", m, m + "friend"})) << "none before a blank";
}

TEST(AddedTokens, SingleWord) {
  Json json = words({"a", "b", "xa"});
  json["pre_tokenizer"] = {{"type", "WhitespaceSplit"}};
  json["added_tokens"] = Json::array({{{"id", 9}, {"content", "tok"}, {"special", true}, {"single_word", true}}});
  Shared t = must(Tokenizer::from_tokenizer_json(json.dump()));
  EXPECT_EQ(encode(*t, "a tok b"), Ids({1, 9, 2}));
  EXPECT_EQ(encode(*t, "tok"), Ids({9}));
  EXPECT_EQ(encode(*t, "a toka"), Ids({1, 0}));
  EXPECT_EQ(encode(*t, "\xC3\xA9tok"), Ids({0})) << "é is a word character";
}

TEST(AddedTokens, NormalizedAreComparedNormalized) {
  Json json = words({"a"});
  json["normalizer"] = {{"type", "Lowercase"}};
  json["pre_tokenizer"] = {{"type", "WhitespaceSplit"}};
  json["added_tokens"] = Json::array({{{"id", 8}, {"content", "<Raw>"}, {"special", true}, {"normalized", false}},
                                      {{"id", 9}, {"content", "<Norm>"}, {"special", true}, {"normalized", true}}});
  Shared t = must(Tokenizer::from_tokenizer_json(json.dump()));
  EXPECT_EQ(encode(*t, "A<Raw>a<nOrM>A"), Ids({1, 8, 1, 9, 1}));
  EXPECT_EQ(encode(*t, "<raw>"), Ids({0}));
  EXPECT_EQ(encode_literal(*t, "<Norm> a <Raw>"), Ids({0, 1, 0}));
  EXPECT_EQ(encode(*t, "<Norm> <norm>", false, {{7, 13}}), Ids({9, 0})) << "only what the user typed stays text";
}

TEST(Normalizer, CutSegmentsChangeNothing) {
  std::mt19937 rng(23);
  for (NormalForm form : {NormalForm::nfc, NormalForm::nfd, NormalForm::nfkc, NormalForm::nfkd}) {
    Normalizer normalizer;
    normalizer.add(Normalize{form});
    for (int i = 0; i < 1500; ++i) {
      std::string text;
      static const char32_t near[] = {'a', 'e', 0x301, 0x327, 0x1112, 0x1161, 0x11AB, 0xAC00, 0xFF76, 0xFF9E, 0x3131, 0x314F, 0x9C7, 0x9BE, 0x344, 0x212B, 0xFB01, 0xDF, 0x4E00};
      for (int n = 0; n < 24; ++n) utf8::append(text, rng() % 2 ? near[rng() % std::size(near)] : random_char(rng));
      std::string whole;
      append_normalized(whole, text, form);
      for (bool tracked : {false, true}) {
        TrackedText target{text, {}};
        if (tracked) target.literal.assign(text.size(), 0);
        ASSERT_TRUE(normalizer.apply(target).is_ok());
        ASSERT_EQ(target.text, whole) << static_cast<int>(form) << tracked << Json(text).dump(-1, ' ', true);
        ASSERT_EQ(target.literal.size(), tracked ? whole.size() : 0u);
      }
    }
  }
}

// utf8proc by itself is the reference for the forms, and is quadratic in the number of marks in a row.
TEST(Normalizer, EqualsUtf8procAndStandsManyMarks) {
  std::mt19937 rng(29);
  for (int i = 0; i < 2000; ++i) {
    std::string text = random_text(rng, 12);
    for (int n = 0; n < 12; ++n) utf8::append(text, 0x300 + rng() % 0x70);
    for (size_t at; (at = text.find('\0')) != text.npos;) text[at] = 'x';
    auto check = [&](NormalForm form, utf8proc_uint8_t* whole) {
      std::string out;
      append_normalized(out, text, form);
      EXPECT_EQ(out, reinterpret_cast<char*>(whole)) << Json(text).dump(-1, ' ', true);
      std::free(whole);
    };
    const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.c_str());
    check(NormalForm::nfc, utf8proc_NFC(bytes));
    check(NormalForm::nfd, utf8proc_NFD(bytes));
    check(NormalForm::nfkc, utf8proc_NFKC(bytes));
    check(NormalForm::nfkd, utf8proc_NFKD(bytes));
  }
  std::string marks = "a";
  for (int i = 0; i < 500'000; ++i) marks += i % 2 ? "\xCC\x80" : "\xCC\xA7";  // classes 230 and 202 in turn
  Json json = Json::parse(read_file(fixture("minimind.json")));
  json["normalizer"] = {{"type", "NFC"}};
  Shared t = must(Tokenizer::from_tokenizer_json(json.dump()));
  EXPECT_GT(encode(*t, marks).size(), 100'000u);
}

TEST(Normalizer, StripAndReplace) {
  auto normalized = [](Json step, const std::string& text) {
    Json json = words({});
    json["model"]["vocab"] = {{"<unk>", 0}, {"X", 1}, {"abX", 2}, {"X ", 3}, {" X", 4}};
    json["normalizer"] = std::move(step);
    Shared t = must(Tokenizer::from_tokenizer_json(json.dump()));
    return encode(*t, text);
  };
  EXPECT_EQ(normalized({{"type", "Strip"}, {"strip_left", true}, {"strip_right", false}}, " \xE3\x80\x80X "), Ids({3}));
  EXPECT_EQ(normalized({{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}}, " X\n "), Ids({4}));
  EXPECT_EQ(normalized({{"type", "Prepend"}, {"prepend", "ab"}}, "X"), Ids({2}));
  EXPECT_EQ(normalized({{"type", "Replace"}, {"pattern", {{"Regex", "[a-c]+"}}}, {"content", "X"}}, "abcab"), Ids({1}));
  EXPECT_EQ(normalized({{"type", "Replace"}, {"pattern", {{"String", "."}}}, {"content", "X"}}, "."), Ids({1}));
}

TEST(Model, OldUnigramFilesDoNotSayTheirType) {
  const std::string m = "\xE2\x96\x81";
  Json json = {{"model", {{"unk_id", 0}, {"vocab", Json::array({Json::array({"<unk>", 0.0}), Json::array({m, -3.0}), Json::array({m + "ab", -4.0}),
                                                                       Json::array({"a", -1.0}), Json::array({"b", -1.0})})}}},
               {"pre_tokenizer", {{"type", "Metaspace"}}}, {"decoder", {{"type", "Metaspace"}}}};
  Shared t = must(Tokenizer::from_tokenizer_json(json.dump()));
  EXPECT_EQ(encode(*t, "ab xx"), Ids({2, 1, 0})) << "one piece at -4 beats three at -5; unknown characters are one token";
  EXPECT_EQ(t->unk(), 0);
}

std::string decoded(const Json& decoder, const std::vector<std::string>& tokens) {
  Json json = words(tokens);
  json["decoder"] = decoder;
  Shared t = must(Tokenizer::from_tokenizer_json(json.dump()));
  Ids ids;
  for (const std::string& token : tokens) ids.push_back(*t->id_of(token));
  return t ? t->decode(ids, false) : "";
}

TEST(Decoder, Kinds) {
  const std::string m = "\xE2\x96\x81";
  Json metaspace = {{"type", "Metaspace"}, {"replacement", m}, {"prepend_scheme", "always"}};
  EXPECT_EQ(decoded(metaspace, {m + "Hey", m + "friend" + m}), "Hey friend ");
  EXPECT_EQ(decoded({{"type", "Sequence"}, {"decoders", {{{"type", "ByteFallback"}}, metaspace}}}, {m + "a", "<0xC3>", "<0xA9>", m + "b"}), "a\xC3\xA9 b");
  metaspace["prepend_scheme"] = "never";
  EXPECT_EQ(decoded(metaspace, {m + "Hey", m + "friend"}), " Hey friend");
  Json llama = {{"type", "Sequence"}, {"decoders", {{{"type", "Replace"}, {"pattern", {{"String", m}}}, {"content", " "}}, {{"type", "ByteFallback"}}, {{"type", "Fuse"}},
                                                   {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
  EXPECT_EQ(decoded(llama, {m + m + "a", "<0xE2>", "<0x82>", "<0xAC>", m + "b"}), " a\xE2\x82\xAC b");
  EXPECT_EQ(decoded(llama, {"<0xE2>", "a", "<0xFF>"}), "\xEF\xBF\xBD" "a\xEF\xBF\xBD");
  EXPECT_EQ(decoded(nullptr, {"a", "b"}), "a b") << "without a decoder tokens are joined by blanks";
}

TEST(Companions, OfAFolder) {
  namespace fs = std::filesystem;
  fs::path dir = fs::temp_directory_path() / ("hearth-tokenizer-" + std::to_string(::getpid()));
  fs::create_directories(dir);
  auto write = [&](const char* name, const std::string& text) { std::ofstream(dir / name, std::ios::binary) << text; };
  EXPECT_EQ(Tokenizer::load_folder(dir.string()).status().code(), Code::not_found);

  write("tokenizer.model", read_file(fixture("mistral-v1.model")));
  Shared bare = must(Tokenizer::load_folder(dir.string()));
  EXPECT_EQ(encode(*bare, "Hello", true), Ids({1, 22557}));

  write("added_tokens.json", R"({"<|im_end|>": 32000})");
  write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer", "add_bos_token": false, "add_eos_token": true, "eos_token": {"content": "<|im_end|>"},
    "added_tokens_decoder": {"32001": {"content": "<|im_start|>", "special": true}, "32000": {"content": "<|im_end|>", "special": true}}})");
  Shared chat = must(Tokenizer::load_folder(dir.string()));
  EXPECT_EQ(encode(*chat, "<|im_start|>Hello", true), Ids({32001, 22557, 32000}));
  EXPECT_TRUE(chat->is_special(32000));
  EXPECT_EQ(chat->eos(), 32000);
  EXPECT_EQ(chat->bos(), 1);
  EXPECT_EQ(chat->vocab_size(), 32002);

  write("tokenizer.json", read_file(fixture("minimind.json")));
  write("special_tokens_map.json", R"({"pad_token": "<|endoftext|>", "unk_token": "missing"})");
  std::filesystem::remove(dir / "added_tokens.json");
  write("tokenizer_config.json", R"({"bos_token": "<|im_start|>"})");
  Shared json = must(Tokenizer::load_folder(dir.string()));
  EXPECT_EQ(json->bos(), 1);
  EXPECT_EQ(json->pad(), 0);
  EXPECT_EQ(json->unk(), std::nullopt);
  write("tokenizer_config.json", "[]");
  EXPECT_EQ(Tokenizer::load_folder(dir.string()).status().code(), Code::corrupt);
  fs::remove_all(dir);
}

}  // namespace
}  // namespace hearth::tokenizer::test
