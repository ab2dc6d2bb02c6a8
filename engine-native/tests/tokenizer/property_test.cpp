// What must hold for every text: round trips, streaming, literal ranges, and the merging order itself.
#include <algorithm>
#include <climits>
#include <cmath>
#include <thread>

#include "support/processor_time.h"
#include "tokenizer/support.h"

namespace hearth::tokenizer::test {
namespace {

struct Named {
  std::string name;
  Shared tokenizer;
  bool lossless;  // decode(encode(text)) == text for every well-formed text
};

const std::vector<Named>& all() {
  static const std::vector<Named> list = {
      {"minimind.json", load_json("minimind.json"), true},
      {"phi-3.json", load_json("phi-3.json"), false},
      {"tinystories.json", load_json("tinystories.json"), false},
      {"gpt-2.gguf", must(Tokenizer::from_gguf(gguf_vocabulary("gpt-2.gguf"))), true},
      {"phi-3.gguf", must(Tokenizer::from_gguf(gguf_vocabulary("phi-3.gguf"))), false},
      {"mistral-v1.model", load_model("mistral-v1.model"), false},
      {"spm-unigram.model", load_model("spm-unigram.model"), false},
      {"spm-unigram-unk.model", load_model("spm-unigram-unk.model"), false},
      {"spm-bpe.model", load_model("spm-bpe.model"), false},
  };
  return list;
}

std::string random_bytes(std::mt19937& rng, size_t n) {
  std::string text;
  for (size_t i = 0; i < n; ++i) text.push_back(static_cast<char>(rng()));
  return text;
}

TEST(RoundTrip, WhereNothingIsLost) {
  std::mt19937 rng(1);
  for (const Named& named : all()) {
    for (int i = 0; i < 300; ++i) {
      std::string text = random_text(rng, 50);
      Ids ids = encode_literal(*named.tokenizer, text);
      if (named.lossless) {
        ASSERT_EQ(named.tokenizer->decode(ids, false), text) << named.name;
      }
      for (int32_t id : ids) ASSERT_TRUE(id >= 0 && id < named.tokenizer->vocab_size()) << named.name;
    }
  }
}

// Byte fallback loses only U+2581, which stands for a blank.
TEST(RoundTrip, SentencePieceWithByteFallback) {
  std::mt19937 rng(2);
  for (const char* name : {"phi-3.json", "phi-3.gguf", "mistral-v1.model"}) {
    auto named = std::find_if(all().begin(), all().end(), [&](const Named& n) { return n.name == name; });
    for (int i = 0; i < 300; ++i) {
      std::string text = random_text(rng, 50);
      for (size_t at; (at = text.find("\xE2\x96\x81")) != text.npos;) text.replace(at, 3, "_");
      ASSERT_EQ(named->tokenizer->decode(encode_literal(*named->tokenizer, text), false), text) << name;
    }
  }
}

TEST(Encode, TakesAnyBytes) {
  std::mt19937 rng(3);
  for (const Named& named : all()) {
    for (int i = 0; i < 200; ++i) {
      std::string text = random_bytes(rng, 40);
      ASSERT_EQ(encode(*named.tokenizer, text), encode(*named.tokenizer, utf8::lossy(text))) << named.name;
    }
    EXPECT_EQ(encode(*named.tokenizer, ""), Ids()) << named.name;
    EXPECT_FALSE(encode(*named.tokenizer, std::string(3, '\0')).empty()) << named.name;
  }
}

TEST(Encode, AppendsAndKeepsIdsOnAnError) {
  Shared t = load_json("minimind.json");
  Ids ids{7};
  ByteRange outside{0, 99};
  Status status = t->encode("abc", {false, {&outside, 1}}, ids);
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_EQ(ids, Ids({7}));
  ByteRange backwards{2, 1};
  EXPECT_FALSE(t->encode("abc", {false, {&backwards, 1}}, ids).is_ok());
  EXPECT_TRUE(t->encode("abc", {}, ids).is_ok());
  EXPECT_EQ(ids[0], 7);
  EXPECT_GT(ids.size(), 1u);
}

TEST(Encode, IsTheSameOnManyThreads) {
  std::string text = read_file(fixture("README.md"));
  for (const Named& named : all()) {
    Ids wanted = encode(*named.tokenizer, text);
    std::vector<Ids> got(4);
    std::vector<std::thread> threads;
    for (Ids& ids : got) threads.emplace_back([&] { for (int i = 0; i < 3; ++i) ids.clear(), static_cast<void>(named.tokenizer->encode(text, {}, ids)); });
    for (std::thread& thread : threads) thread.join();
    for (const Ids& ids : got) EXPECT_EQ(ids, wanted) << named.name;
  }
}

TEST(Detokenizer, StreamsWhatDecodeGives) {
  std::mt19937 rng(4);
  for (const Named& named : all()) {
    for (int i = 0; i < 300; ++i) {
      Ids ids;
      for (int n = 0; n < 30; ++n) ids.push_back(static_cast<int32_t>(rng() % static_cast<uint32_t>(named.tokenizer->vocab_size() + 2)) - 1);
      // Bytes by themselves are where characters are split.
      for (int n = 0; n < 10; ++n) ids.push_back(static_cast<int32_t>(rng() % 300));
      bool skip = i % 2;
      Detokenizer stream(named.tokenizer, skip);
      std::string text;
      for (int32_t id : ids) {
        size_t before = text.size();
        stream.push(id, text);
        ASSERT_TRUE(utf8::is_valid(std::string_view(text).substr(before))) << named.name;
      }
      stream.flush(text);
      ASSERT_EQ(text, named.tokenizer->decode(ids, skip)) << named.name;
      ASSERT_TRUE(utf8::is_valid(text));
    }
  }
}

TEST(Detokenizer, NeverSplitsACharacter) {
  Shared t = load_json("minimind.json");
  Ids ids = encode(*t, "\xF0\x9F\xA6\x99\xE2\x82\xAC");  // a llama and a euro sign, spelled in bytes by this vocabulary
  ASSERT_GT(ids.size(), 2u);
  Detokenizer stream(t, true);
  std::vector<std::string> shown;
  for (int32_t id : ids) {
    std::string out;
    stream.push(id, out);
    if (!out.empty()) shown.push_back(out);
  }
  EXPECT_EQ(shown, std::vector<std::string>({"\xF0\x9F\xA6\x99", "\xE2\x82\xAC"}));
  std::string out;
  Detokenizer cut(t, true);
  cut.push(ids[0], out);
  EXPECT_EQ(out, "");
  cut.flush(out);
  EXPECT_EQ(out, "\xEF\xBF\xBD");
}

TEST(Detokenizer, LeadingBlankOnceAndNotWhenTextContinues) {
  Shared t = load_json("phi-3.json");
  Ids ids = encode(*t, "Hello world");
  auto stream = [&](bool continues) {
    Detokenizer d(t, true, continues);
    std::string out;
    for (int32_t id : ids) d.push(id, out);
    d.flush(out);
    return out;
  };
  EXPECT_EQ(stream(false), "Hello world");
  EXPECT_EQ(stream(true), " Hello world");
}

TEST(Tokens, BytesJoinedAreTheTextInTheMiddle) {
  for (const Named& named : all()) {
    if (!named.lossless) continue;
    std::string text = "plain \xC3\xA9\xF0\x9F\xA6\x99\n", joined;
    for (int32_t id : encode(*named.tokenizer, text)) joined += named.tokenizer->token_bytes(id);
    EXPECT_EQ(joined, text);
  }
  Shared phi = load_json("phi-3.json");
  EXPECT_EQ(phi->token_bytes(*phi->id_of("\xE2\x96\x81the")), " the");
  EXPECT_EQ(phi->token_text(*phi->id_of("<0x0A>")), "<0x0A>");
  EXPECT_EQ(phi->token_bytes(*phi->id_of("<0xFF>")), "\xFF");
  EXPECT_EQ(phi->token_bytes(*phi->id_of("<|user|>")), "<|user|>");
  EXPECT_TRUE(phi->is_special(*phi->id_of("<|user|>")));
  EXPECT_FALSE(phi->is_special(*phi->id_of("<0x0A>")));
  EXPECT_EQ(phi->id_of("no such token"), std::nullopt);
  for (int32_t id : {-1, INT32_MIN, INT32_MAX, phi->vocab_size()}) {
    EXPECT_EQ(phi->token_bytes(id), "");
    EXPECT_EQ(phi->token_text(id), "");
    EXPECT_FALSE(phi->is_special(id));
  }
}

TEST(Literal, SpecialTokensTypedByUsersStayText) {
  for (const Named& named : all()) {
    const Tokenizer& t = *named.tokenizer;
    int specials = 0;
    for (int32_t id = 0; id < t.vocab_size(); ++id) {
      if (!t.is_special(id)) continue;
      ++specials;
      std::string content(t.token_text(id));
      for (const std::string& text : {content, "x" + content + "y", content + content, " " + content + "\n"}) {
        for (int32_t got : encode_literal(t, text)) {
          // "<unk>" spelled out may need the unknown token for its characters; that is not a match.
          ASSERT_TRUE(t.unk() == got || !t.is_special(got)) << named.name << ": " << text;
        }
      }
      if (named.lossless) {
        ASSERT_EQ(t.decode(encode_literal(t, content), true), content) << named.name;
      }
    }
    EXPECT_GT(specials, 0) << named.name;
  }
}

TEST(Literal, OnlyWhereTheUserTyped) {
  Shared t = load_json("minimind.json");
  const std::string open = "<|im_start|>", typed = "hi<|im_end|>", close = "<|im_end|>";
  auto range = ByteRange{static_cast<uint32_t>(open.size()), static_cast<uint32_t>(open.size() + typed.size())};
  Ids ids = encode(*t, open + typed + close, false, {range});
  Ids wanted{1};
  for (int32_t id : encode_literal(*t, typed)) wanted.push_back(id);
  wanted.push_back(2);
  EXPECT_EQ(ids, wanted);
  EXPECT_EQ(encode(*t, close, false, {{9, 10}}), encode_literal(*t, close)) << "touching one byte is enough";
  EXPECT_EQ(encode(*t, close, false, {{0, 0}, {10, 10}}), Ids({2})) << "an empty range touches nothing";
  EXPECT_EQ(encode(*t, "ab" + close, false, {{1, 2}, {0, 2}, {0, 1}}).back(), 2) << "ranges in any order, overlapping";
}

TEST(Literal, FollowsTheTextThroughRepair) {
  Shared t = load_json("minimind.json");
  std::string text = "\xFF\xE2\x82<|im_end|><|im_end|>";  // two ill-formed stretches grow to three bytes each
  Ids ids = encode(*t, text, false, {{3, 13}});
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 2), 1);
  EXPECT_EQ(ids.back(), 2);
}

TEST(Literal, ChangesNothingElse) {
  std::mt19937 rng(6);
  for (const Named& named : all()) {
    for (int i = 0; i < 150; ++i) {
      std::string text = random_text(rng, 40);
      std::vector<ByteRange> ranges;
      for (int n = 0; n < 3; ++n) {
        auto a = static_cast<uint32_t>(rng() % (text.size() + 1)), b = static_cast<uint32_t>(rng() % (text.size() + 1));
        ranges.push_back({std::min(a, b), std::max(a, b)});
      }
      ASSERT_EQ(encode(*named.tokenizer, text, false, ranges), encode(*named.tokenizer, text)) << named.name;
    }
  }
}

TEST(Literal, RunsOfBlanksAreStillTokens) {
  Json json = Json::parse(read_file(fixture("minimind.json")));
  json["added_tokens"] = Json::array({{{"id", 6400}, {"content", "    "}, {"special", false}, {"normalized", true}}, {{"id", 6401}, {"content", "<t>"}, {"special", false}}});
  Shared t = must(Tokenizer::from_tokenizer_json(json.dump()));
  EXPECT_EQ(encode_literal(*t, "    ")[0], 6400);
  EXPECT_EQ(encode(*t, "<t>"), Ids({6401}));
  Ids typed = encode_literal(*t, "<t>");
  EXPECT_EQ(std::count(typed.begin(), typed.end(), 6401), 0) << "words added to a vocabulary count as control, special or not";
}

// The definition of BPE, word for word: find the adjacent pair of lowest rank, leftmost first, merge it, start again.
Ids merge_naively(const Json& model, const std::vector<std::string>& chars) {
  static std::map<const Json*, std::map<std::pair<std::string, std::string>, size_t>> tables;
  auto& ranks = tables[&model];
  if (ranks.empty()) {
    for (const Json& m : model["merges"]) {
      std::string both = m.is_string() ? m.get<std::string>() : m[0].get<std::string>() + " " + m[1].get<std::string>();
      size_t blank = both.find(' ');
      ranks.emplace(std::pair{both.substr(0, blank), both.substr(blank + 1)}, ranks.size());
    }
  }
  std::vector<std::string> parts = chars;
  for (;;) {
    size_t best = SIZE_MAX, where = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      auto it = ranks.find({parts[i], parts[i + 1]});
      if (it != ranks.end() && it->second < best) best = it->second, where = i;
    }
    if (best == SIZE_MAX) break;
    parts[where] += parts[where + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(where) + 1);
  }
  Ids ids;
  for (const std::string& part : parts) ids.push_back(model["vocab"][part].get<int32_t>());
  return ids;
}

TEST(Bpe, MergesInTheDefinedOrder) {
  static const Json minimind = Json::parse(read_file(fixture("minimind.json"))), phi = Json::parse(read_file(fixture("phi-3.json")));
  Shared bytes = load_json("minimind.json"), chars = load_json("phi-3.json");
  std::mt19937 rng(8);
  for (int i = 0; i < 60; ++i) {
    // One word of few letters: many equal pairs, short (array) and long (heap).
    std::string word;
    std::vector<std::string> letters;
    for (size_t n = 1 + rng() % (i % 2 ? 300 : 60); n > 0; --n) letters.push_back(std::string(1, "etaoinshr"[rng() % 9])), word += letters.back();
    ASSERT_EQ(encode(*bytes, word), merge_naively(minimind["model"], letters)) << word;
    letters.insert(letters.begin(), "\xE2\x96\x81");
    ASSERT_EQ(encode(*chars, word), merge_naively(phi["model"], letters)) << word;
  }
}

TEST(Bpe, OneHugeWordIsNotQuadratic) {
  std::mt19937 rng(9);
  std::string same(1 << 19, 'a'), mixed;
  for (size_t i = 0; i < (1u << 19); ++i) mixed.push_back("etaoinshr"[rng() % 9]);
  for (const Named& named : all()) {
    for (const std::string* text : {&same, &mixed}) {
      const double start = testing::processor_seconds();
      Ids ids = encode(*named.tokenizer, *text);
      const double seconds = testing::processor_seconds() - start;
      EXPECT_EQ(named.tokenizer->decode(ids, false).size(), text->size()) << named.name;
      EXPECT_LT(seconds, 60) << named.name;  // a quadratic merge takes many minutes
    }
  }
}

}  // namespace
}  // namespace hearth::tokenizer::test
