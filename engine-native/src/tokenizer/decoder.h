// The decoders of tokenizer.json, reduced to what streaming needs: the bytes of each token, and what happens once at
// the beginning of a text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace hearth::tokenizer {

struct ReplaceInToken { std::string from, to; };
struct ByteFallbackToken {};                            // "<0x0A>" is the byte 0x0A
struct StripToken { char32_t c; uint32_t start, stop; };  // takes c off both ends of a token
struct MetaspaceToken { std::string replacement; };     // the replacement becomes a blank

using DecoderStep = std::variant<ReplaceInToken, ByteFallbackToken, StripToken, MetaspaceToken>;

struct Decoder {
  bool byte_level = false;             // tokens are spelled in GPT-2's alphabet of bytes
  bool joined_by_blanks = false;       // no decoder at all: tokens are joined by blanks
  std::vector<DecoderStep> steps;      // on each token by itself
  char32_t strip_char = U' ';
  uint32_t strip_start = 0;            // up to so many strip_char are taken off the beginning of the text
  // Metaspace: the first token loses its replacement characters instead of turning them into blanks. Empty: it does not.
  std::string drop_in_first;

  std::string bytes_of(std::string_view token) const;
};

// GPT-2's alphabet: every byte as a printable character. byte_of gives -1 for characters outside it.
char32_t char_of_byte(uint8_t byte);
int byte_of_char(char32_t c);
// The bytes that a byte-level token spells; the token itself where it is not in the alphabet.
std::string byte_level_bytes(std::string_view token);
// 0..255 for "<0x00>".."<0xFF>", otherwise -1.
int byte_fallback_value(std::string_view token);

}  // namespace hearth::tokenizer
