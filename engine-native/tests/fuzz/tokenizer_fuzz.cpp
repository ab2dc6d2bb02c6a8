// libFuzzer entry for the vocabulary readers and what runs on what they accept. Not part of the build; with clang:
//
//   clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -DPCRE2_CODE_UNIT_WIDTH=8 -DUTF8PROC_STATIC \
//     -Iengine-native/src engine-native/tests/fuzz/tokenizer_fuzz.cpp engine-native/src/tokenizer/*.cpp \
//     engine-native/src/core/utf8.cpp -lpcre2-8 -l:libutf8proc.a -o tokenizer-fuzz
//   ./tokenizer-fuzz -max_len=65536 corpus/ test/fixtures/tokenizers/
#include <algorithm>
#include <cstdlib>
#include <span>

#include "core/utf8.h"
#include "tokenizer/tokenizer.h"

namespace {

using hearth::tokenizer::Tokenizer;

void use(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  hearth::tokenizer::ByteRange literal{0, static_cast<uint32_t>(text.size() / 2)};
  if (!tokenizer.encode(text, {true, {&literal, 1}}, ids)) return;
  for (int32_t id : ids) {
    if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
  }
  if (!hearth::utf8::is_valid(tokenizer.decode(ids, false))) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  std::string_view sample = text.substr(0, std::min<size_t>(size, 64));
  if (auto t = Tokenizer::from_tokenizer_json(text)) use(**t, sample);
  if (auto t = Tokenizer::from_sentencepiece(std::as_bytes(std::span(data, size)))) use(**t, sample);
  return 0;
}
