#include "core/utf8.h"

#include "tokenizer/support.h"

namespace hearth::tokenizer::test {
namespace {

// The example of the Unicode standard, table 3-8, and its neighbours.
TEST(Utf8, ReplacesMaximalSubparts) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(utf8::lossy("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64"), "a" + r + r + r + "b" + r + "c" + r + r + "d");
  EXPECT_EQ(utf8::lossy("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A") << "overlong forms";
  EXPECT_EQ(utf8::lossy("\xED\xA0\x80\xF4\x91\x92\x93\xFF"), r + r + r + r + r + r + r + r) << "surrogates, beyond U+10FFFF";
  EXPECT_EQ(utf8::lossy("\xE2\x82"), r);
  EXPECT_EQ(utf8::lossy("plain"), "plain");
}

TEST(Utf8, RoundTripsEveryCharacter) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    utf8::append(text, c);
    utf8::Decoded d = utf8::decode(text, 0);
    ASSERT_TRUE(d.valid && d.code == c && d.length == text.size());
    const char* p = text.data();
    ASSERT_EQ(utf8::next(p), c);
    ASSERT_EQ(p, text.data() + text.size());
    for (size_t cut = 1; cut < text.size(); ++cut) ASSERT_EQ(utf8::complete_length("x" + text.substr(0, cut)), 1u);
    ASSERT_EQ(utf8::complete_length("x" + text), 1 + text.size());
  }
  std::string text;
  utf8::append(text, 0xD800);
  utf8::append(text, 0x110000);
  EXPECT_EQ(text, "\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(Utf8, CompleteLengthWaitsOnlyForWhatCanStillCome) {
  EXPECT_EQ(utf8::complete_length("a\xF0\x9F\x98"), 1u);
  EXPECT_EQ(utf8::complete_length("a\xF0\x80\x80"), 4u) << "an overlong form never becomes a character";
  EXPECT_EQ(utf8::complete_length("\x80\x80\x80"), 3u);
  EXPECT_EQ(utf8::complete_length(""), 0u);
}

}  // namespace
}  // namespace hearth::tokenizer::test
