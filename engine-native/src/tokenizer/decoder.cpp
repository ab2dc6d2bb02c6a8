#include "tokenizer/decoder.h"

#include <array>

#include "core/utf8.h"

namespace hearth::tokenizer {
namespace {

// GPT-2's bytes_to_unicode: printable Latin-1 stands for itself, the other 68 bytes are U+0100 and on, in order.
struct ByteAlphabet {
  std::array<char32_t, 256> chars;
  std::array<int, 0x144> bytes;
  ByteAlphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (char32_t b = 0; b < 256; ++b) {
      bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      chars[b] = printable ? b : next++;
      bytes[chars[b]] = static_cast<int>(b);
    }
  }
};

const ByteAlphabet& alphabet() {
  static const ByteAlphabet table;
  return table;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  size_t done = 0;
  for (size_t at; !from.empty() && (at = text.find(from, done)) != text.npos; done = at + from.size()) {
    out.append(text, done, at - done).append(to);
  }
  return out.append(text, done);
}

std::string strip(std::string text, const StripToken& step) {
  std::string c;
  utf8::append(c, step.c);
  for (uint32_t i = 0; i < step.start && text.starts_with(c); ++i) text.erase(0, c.size());
  for (uint32_t i = 0; i < step.stop && text.ends_with(c); ++i) text.erase(text.size() - c.size());
  return text;
}

}  // namespace

char32_t char_of_byte(uint8_t byte) { return alphabet().chars[byte]; }
int byte_of_char(char32_t c) { return c < alphabet().bytes.size() ? alphabet().bytes[c] : -1; }

std::string byte_level_bytes(std::string_view token) {
  std::string bytes;
  const char* p = token.data();
  while (p != token.data() + token.size()) {
    int byte = byte_of_char(utf8::next(p));
    if (byte < 0) return std::string(token);
    bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

int byte_fallback_value(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (char c : token.substr(3, 2)) {
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

std::string Decoder::bytes_of(std::string_view token) const {
  if (byte_level) return byte_level_bytes(token);
  std::string text(token);
  if (joined_by_blanks) return " " + text;
  for (const DecoderStep& step : steps) {
    if (auto* replace = std::get_if<ReplaceInToken>(&step)) {
      text = replace_all(text, replace->from, replace->to);
    } else if (auto* metaspace = std::get_if<MetaspaceToken>(&step)) {
      text = replace_all(text, metaspace->replacement, " ");
    } else if (auto* ends = std::get_if<StripToken>(&step)) {
      text = strip(std::move(text), *ends);
    } else if (int byte = byte_fallback_value(text); byte >= 0) {
      return std::string(1, static_cast<char>(byte));
    }
  }
  return text;
}

}  // namespace hearth::tokenizer
