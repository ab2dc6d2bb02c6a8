// The hand-written scanners against PCRE2, and the parts that cut text.
#include <algorithm>

#include "tokenizer/regex.h"
#include "tokenizer/scanner.h"
#include "tokenizer/split.h"
#include "tokenizer/support.h"
#include "tokenizer/unicode.h"

namespace hearth::tokenizer {

static bool operator==(Match a, Match b) { return a.begin == b.begin && a.end == b.end; }
static void PrintTo(Match m, std::ostream* out) { *out << m.begin << ".." << m.end; }

namespace test {
namespace {

Regex compile(std::string_view pattern) {
  auto regex = Regex::compile(pattern);
  EXPECT_TRUE(regex.is_ok()) << regex.status().message();
  return *regex;
}

std::vector<std::string> found(std::string_view pattern, std::string_view text) {
  std::vector<Match> matches;
  Status status = compile(pattern).find_all(text, matches);
  EXPECT_TRUE(status.is_ok()) << status.message();
  std::vector<std::string> parts;
  for (Match m : matches) parts.emplace_back(text.substr(m.begin, m.end - m.begin));
  return parts;
}
using Parts = std::vector<std::string>;

// PCRE2 and utf8proc know different versions of Unicode. A character on whose class they differ (assigned in between)
// is not part of the comparison; how many there are is bounded.
class Agreement {
 public:
  Agreement() {
    for (auto [pattern, bit] : {std::pair{"\\p{L}", class_letter}, std::pair{"\\p{N}", class_number}, std::pair{"\\s", class_space}}) {
      Regex regex = compile(pattern);
      for (char32_t c = 0; c < 0x110000; ++c) {
        if (c >= 0xD800 && c < 0xE000) continue;
        std::string text;
        utf8::append(text, c);
        std::vector<Match> matches;
        static_cast<void>(regex.find_all(text, matches));
        if (matches.empty() == static_cast<bool>(class_of(c) & bit)) differing.push_back(c);
      }
    }
  }
  bool on(char32_t c) const { return std::find(differing.begin(), differing.end(), c) == differing.end(); }
  std::vector<char32_t> differing;
};

TEST(Scanner, ClassesAgreeWithPcre2ButForNewCharacters) {
  // Unicode 15 added 4,489 characters to Unicode 14's, 15.1 another 627, 16 another 5,185.
  EXPECT_LT(Agreement().differing.size(), 11000u);
  EXPECT_EQ(class_of(0x180E) & class_space, 0) << "U+180E has not been white space since Unicode 6.3";
  EXPECT_NE(class_of(0x85) & class_space, 0);
}

TEST(Scanner, EqualsPcre2OnRandomText) {
  Agreement agreement;
  std::mt19937 rng(17);
  for (ScannerKind kind : {ScannerKind::gpt2, ScannerKind::llama3, ScannerKind::qwen2}) {
    Regex regex = compile(pattern_of(kind));
    for (int i = 0; i < 4000; ++i) {
      std::string text;
      for (int n = 0; n < 40; ++n) {
        char32_t c = random_char(rng);
        if (agreement.on(c)) utf8::append(text, c);
      }
      std::vector<Match> wanted;
      std::vector<Piece> pieces;
      ASSERT_TRUE(regex.find_all(text, wanted).is_ok());
      scan(kind, text, 0, pieces);
      ASSERT_EQ(pieces, wanted) << static_cast<int>(kind) << ": " << Json(text).dump(-1, ' ', true);
    }
  }
}

TEST(Scanner, IsChosenByTheExactPattern) {
  EXPECT_EQ(scanner_for(pattern_of(ScannerKind::llama3)), ScannerKind::llama3);
  EXPECT_EQ(scanner_for(std::string(pattern_of(ScannerKind::llama3)) + " "), std::nullopt);
}

TEST(Regex, SpeaksOniguruma) {
  EXPECT_EQ(found("\\s+", "a \xC2\x85\xE2\x80\xA8z"), Parts({" \xC2\x85\xE2\x80\xA8"}));
  EXPECT_EQ(found("\\s", "\xE1\xA0\x8E"), Parts()) << "PCRE2's own \\s has U+180E";
  EXPECT_EQ(found("[^\\S\\n]+", " \n\t "), Parts({" ", "\t "}));
  EXPECT_EQ(found("\\w+", "e\xCC\x81_9\xE2\x92\xB6-x"), Parts({"e\xCC\x81_9\xE2\x92\xB6", "x"})) << "marks and circled letters are word characters";
  EXPECT_EQ(found("\\h+", "xyzBEEF09"), Parts({"BEEF09"})) << "\\h is a hex digit";
  EXPECT_EQ(found("(?m:a.b)", "a\nb"), Parts({"a\nb"})) << "Ruby's m lets . match line ends";
  EXPECT_EQ(found("a.b", "a\nb"), Parts());
  EXPECT_EQ(found("^b", "a\nb"), Parts({"b"})) << "^ matches at every line";
  EXPECT_EQ(found("\\u0041\\x{42}", "AB"), Parts({"AB"}));
  EXPECT_EQ(found("(?i:'s)", "'S'\xC5\xBF"), Parts({"'S", "'\xC5\xBF"}));
  EXPECT_EQ(found("[[:space:][:digit:]]+", "a1 2b"), Parts({"1 2"}));
  EXPECT_EQ(found("\\p{N}+\\p{^N}", "12ab"), Parts({"12a"}));
  EXPECT_EQ(found("a{2}b{1,2}", "aabbb"), Parts({"aabb"}));
  EXPECT_EQ(found("\\d", "\xD9\xA3"), Parts({"\xD9\xA3"}));
  EXPECT_EQ(found("x*", "xxa"), Parts({"xx", ""})) << "no empty match right after another";
  EXPECT_EQ(found("\\bb", "ab b"), Parts({"b"}));
  EXPECT_EQ(found("a", std::string("\0a", 2)), Parts({"a"}));
}

TEST(Regex, RefusesWhatItCannotSay) {
  for (const char* pattern : {"[a[bc]]", "[a-z&&[^b]]", "a{2}+", "[\\W]", "(", "[a", "a\\", "\\p{Nonsense}", "(?a)x", "\\u12"}) {
    EXPECT_FALSE(Regex::compile(pattern).is_ok()) << pattern;
  }
  EXPECT_FALSE(Regex::compile(std::string(70000, 'a')).is_ok());
  EXPECT_FALSE(Regex::compile(std::string(1000, '(') + std::string(1000, ')')).is_ok());
}

TEST(Regex, ReportsPatternsThatExplode) {
  std::vector<Match> matches;
  Status status = compile("(a|aa)+[bc]").find_all(std::string(5000, 'a'), matches);
  EXPECT_FALSE(status.is_ok());
}

// The examples in the documentation of Hugging Face's SplitDelimiterBehavior.
TEST(Split, HasTheFiveBehaviours) {
  const std::string text = "The-final--countdown";
  std::vector<Match> dashes{{3, 4}, {9, 10}, {10, 11}};
  auto pieces = [&](SplitBehaviour behaviour, bool inverted = false) {
    std::vector<Piece> out;
    split_at(dashes, static_cast<uint32_t>(text.size()), behaviour, inverted, 0, out);
    Parts parts;
    for (Piece p : out) parts.push_back(text.substr(p.begin, p.end - p.begin));
    return parts;
  };
  EXPECT_EQ(pieces(SplitBehaviour::removed), Parts({"The", "final", "countdown"}));
  EXPECT_EQ(pieces(SplitBehaviour::isolated), Parts({"The", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(pieces(SplitBehaviour::merged_with_previous), Parts({"The-", "final-", "-", "countdown"}));
  EXPECT_EQ(pieces(SplitBehaviour::merged_with_next), Parts({"The", "-final", "-", "-countdown"}));
  EXPECT_EQ(pieces(SplitBehaviour::contiguous), Parts({"The", "-", "final", "--", "countdown"}));
  EXPECT_EQ(pieces(SplitBehaviour::removed, true), Parts({"-", "-", "-"}));
}

}  // namespace
}  // namespace test
}  // namespace hearth::tokenizer
