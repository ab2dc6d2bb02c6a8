// Real text: the published greedy continuation of stories260K, byte for byte.
#include <cstdint>
#include <fstream>
#include <iterator>

#include "model/support.h"

namespace hearth::model {
namespace {

// llama2.c's vocabulary file: longest piece, then (score, size, bytes) a token.
std::vector<std::string> read_pieces(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  std::vector<std::string> pieces;
  for (size_t at = 4; at + 8 <= bytes.size();) {
    int32_t size;
    std::memcpy(&size, bytes.data() + at + 4, 4);
    pieces.push_back(bytes.substr(at + 8, static_cast<size_t>(size)));
    at += 8 + static_cast<size_t>(size);
  }
  return pieces;
}

std::string text_of(const std::vector<std::string>& pieces, const std::vector<int32_t>& tokens) {
  std::string text;
  int previous = 1;
  for (const int32_t token : tokens) {
    if (token == 1) break;  // llama2.c stops at the next BOS
    std::string piece = pieces[static_cast<size_t>(token)];
    if (piece.size() == 6 && piece.rfind("<0x", 0) == 0) piece = static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16));
    if (previous == 1 && !piece.empty() && piece[0] == ' ') piece.erase(0, 1);
    text += piece;
    previous = token;
  }
  return text;
}

// Greedy continuation of a sequence whose prompt is in `ids`.
std::vector<int32_t> greedy(Model& model, Sequence& sequence, int count) {
  const auto vocabulary = static_cast<size_t>(model.info().vocabulary);
  std::vector<float> logits = prefill(model, sequence, 64);
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; i++) {
    tokens.push_back(best_of(std::span(logits).last(vocabulary)));
    sequence.ids.push_back(tokens.back());
    if (i + 1 < count) logits = step(model, sequence, 1);
  }
  return tokens;
}

std::string story(const std::string& precision, const std::string& kv) {
  LoadOptions options = exact_options(checkpoint_path("stories260K"));
  options.precision = precision;
  options.kv = kv;
  auto model = load(options);
  if (!model) return "";
  Sequence sequence(*model, 1);
  sequence.ids = {1};
  const std::vector<int32_t> tokens = greedy(*model, sequence, 200);
  return text_of(read_pieces(checkpoint_path("stories260K/tok512.bin")), tokens);
}

TEST(Stories, PublishedGreedyTextByteForByte) {
  std::ifstream in(checkpoint_path("stories260K/expected_greedy_200_steps.txt"), std::ios::binary);
  const std::string expected{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  EXPECT_EQ(story("none", "f32"), expected);
}

// Other formats of the same model tell the same story for a while: rounding moves it only later.
TEST(Stories, EveryFormatBeginsTheSameStory) {
  const std::string exact = story("none", "f32");
  struct Case { const char* precision; const char* kv; size_t same; };
  for (const Case& c : {Case{"f32", "f16", 100}, Case{"f16", "f16", 60}, Case{"bf16", "f32", 20}, Case{"w8a8", "f32", 20}, Case{"none", "int8", 20}, Case{"none", "bf16", 20}}) {
    const std::string text = story(c.precision, c.kv);
    EXPECT_EQ(text.substr(0, c.same), exact.substr(0, c.same)) << c.precision << " " << c.kv;
  }
}

}  // namespace
}  // namespace hearth::model
