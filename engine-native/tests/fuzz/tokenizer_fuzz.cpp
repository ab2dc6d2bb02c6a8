// libFuzzer target for the readers of vocabularies and what runs on what they accept. HEARTH_FUZZ_TARGET chooses the
// format: 1 tokenizer.json, 2 SentencePiece, 3 GGUF. Whatever the bytes, loading ends in a tokenizer or a Status; a
// tokenizer encodes any text in time that grows with its length, and decodes what it gave to well-formed UTF-8.
#include <algorithm>
#include <cstdlib>
#include <span>

#include "core/utf8.h"
#include "formats/gguf.h"
#include "formats/gguf_checkpoint.h"
#include "tokenizer/tokenizer.h"

namespace {

using hearth::tokenizer::Detokenizer;
using hearth::tokenizer::Tokenizer;
using Loaded = hearth::Result<std::shared_ptr<const Tokenizer>>;

constexpr size_t text_bytes = 1024, long_text_bytes = 64 << 10;  // what is quadratic in the latter runs into the time limit

// The vocabulary's own spellings, which get further than any text made without it, and what is hard for all of them.
std::string text_for(const Tokenizer& tokenizer, std::string_view input) {
  std::string part(input.substr(0, 24));
  for (int32_t id = 0; id < std::min(tokenizer.vocab_size(), 12); ++id) part += tokenizer.token_text(id);
  part += " a  b\n\t\xc3\xa9\xe2\x96\x81 \xf0\x9f\x98\x80\xff\xc3 '1234s";
  part.resize(std::min(part.size(), text_bytes));
  // One input in sixteen gets a long text: the same for the same input, so that a finding can be run again.
  const size_t size = std::hash<std::string_view>{}(input) % 16 == 0 ? long_text_bytes : text_bytes;
  std::string text;
  while (text.size() + part.size() <= size) text += part;
  return text;
}

void check_decoding(const std::shared_ptr<const Tokenizer>& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  const std::string whole = tokenizer->decode(ids, skip_special);
  if (!hearth::utf8::is_valid(whole)) std::abort();
  std::string pieces;
  Detokenizer detokenizer(tokenizer, skip_special);
  for (int32_t id : ids) detokenizer.push(id, pieces);
  detokenizer.flush(pieces);
  if (pieces != whole) std::abort();
}

void use(const Loaded& loaded, std::string_view input) {
  if (!loaded) return;
  const auto& tokenizer = *loaded;
  const std::string text = text_for(*tokenizer, input);
  const hearth::tokenizer::ByteRange literal{0, static_cast<uint32_t>(text.size() / 2)};
  std::vector<int32_t> ids;
  if (!tokenizer->encode(text, {true, {&literal, 1}}, ids)) return;
  for (int32_t id : ids) {
    if (id < 0 || id >= tokenizer->vocab_size()) std::abort();
  }
  check_decoding(tokenizer, ids, false);
  check_decoding(tokenizer, ids, true);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
#if HEARTH_FUZZ_TARGET == 1
  use(Tokenizer::from_tokenizer_json(text), text);
#elif HEARTH_FUZZ_TARGET == 2
  use(Tokenizer::from_sentencepiece(std::as_bytes(std::span(data, size))), text);
#else
  const auto gguf = hearth::formats::parse_gguf(std::as_bytes(std::span(data, size)), "fuzz");
  if (gguf) use(Tokenizer::from_gguf(hearth::formats::read_vocabulary(*gguf)), text);
#endif
  return 0;
}
