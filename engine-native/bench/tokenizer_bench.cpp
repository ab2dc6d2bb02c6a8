// How fast text becomes tokens: one cold pass (a fresh tokenizer and a fresh thread, so no word is remembered), then
// warm ones, on one core.
//
//   tokenizer-bench TEXT-FILE VOCABULARY...     (tokenizer.json, a .model file, or a folder)
#include <chrono>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "tokenizer/tokenizer.h"

namespace {

using hearth::Result;
using hearth::tokenizer::Tokenizer;
using Clock = std::chrono::steady_clock;

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

Result<std::shared_ptr<const Tokenizer>> load(const std::string& path) {
  if (path.ends_with(".json")) return Tokenizer::from_tokenizer_json(read_file(path));
  if (path.ends_with(".model")) {
    std::string data = read_file(path);
    return Tokenizer::from_sentencepiece(std::as_bytes(std::span(data)));
  }
  return Tokenizer::load_folder(path);
}

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void measure(const Tokenizer& tokenizer, const std::string& text, const char* name, double load_seconds) {
  double cold = 0, best = 1e9, decode = 0;
  size_t tokens = 0;
  for (int pass = 0; pass < 5; ++pass) {
    std::vector<int32_t> ids;
    auto start = Clock::now();
    if (auto status = tokenizer.encode(text, {}, ids); !status) {
      std::printf("%s: %s\n", name, status.message().c_str());
      return;
    }
    double seconds = seconds_since(start);
    if (pass == 0) cold = seconds;
    best = std::min(best, seconds);
    tokens = ids.size();
    if (pass > 0) continue;
    start = Clock::now();
    std::string out = tokenizer.decode(ids, false);
    decode = seconds_since(start);
  }
  auto rate = [&](double seconds) { return static_cast<double>(tokens) / seconds; };
  std::printf("{\"vocabulary\":\"%s\",\"bytes\":%zu,\"tokens\":%zu,\"load_ms\":%.1f,\"cold_tokens_per_second\":%.0f,\"warm_tokens_per_second\":%.0f,"
              "\"decode_tokens_per_second\":%.0f}\n", name, text.size(), tokens, load_seconds * 1e3, rate(cold), rate(best), rate(decode));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: tokenizer-bench TEXT-FILE VOCABULARY...\n");
    return 2;
  }
  std::string text = read_file(argv[1]);
  for (int i = 2; i < argc; ++i) {
    auto start = Clock::now();
    auto tokenizer = load(argv[i]);
    double load_seconds = seconds_since(start);
    if (!tokenizer) {
      std::fprintf(stderr, "%s: %s\n", argv[i], tokenizer.status().message().c_str());
      return 1;
    }
    std::thread([&] { measure(**tokenizer, text, argv[i], load_seconds); }).join();
  }
  return 0;
}
