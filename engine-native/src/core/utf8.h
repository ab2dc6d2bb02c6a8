// UTF-8 as the whole engine reads and writes it: strict decoding (no overlong forms, no surrogates, at most U+10FFFF).
// An ill-formed stretch counts as one "maximal subpart" and becomes one U+FFFD, as in the Unicode standard (section 3.9)
// and in the WHATWG decoder, so that our text equals what a browser or Node makes of the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace hearth::utf8 {

inline constexpr char32_t replacement = 0xFFFD;
inline constexpr std::string_view replacement_bytes = "\xEF\xBF\xBD";

struct Decoded {
  char32_t code;    // U+FFFD where !valid
  uint32_t length;  // bytes used, at least 1
  bool valid;
  bool incomplete;  // the text ends inside a sequence that is right so far
};

// The character that starts at text[at]; at < text.size().
Decoded decode(std::string_view text, size_t at);

bool is_valid(std::string_view text);

// How many leading bytes can be shown now: everything but a sequence that the end of the text cuts off.
size_t complete_length(std::string_view text);

void append(std::string& out, char32_t code);

// Appends text with every ill-formed stretch replaced by U+FFFD.
void append_lossy(std::string& out, std::string_view text);
std::string lossy(std::string_view text);

// Length in bytes of a character of well-formed text, from its first byte.
inline uint32_t length_of(unsigned char first) {
  return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

// Reads one character of well-formed text and moves the pointer past it.
inline char32_t next(const char*& p) {
  auto byte = [&](int i) { return static_cast<char32_t>(static_cast<unsigned char>(p[i])); };
  char32_t first = byte(0);
  if (first < 0x80) return ++p, first;
  char32_t code;
  if (first < 0xE0) code = (first & 0x1F) << 6 | (byte(1) & 0x3F);
  else if (first < 0xF0) code = (first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  else code = (first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  p += length_of(static_cast<unsigned char>(first));
  return code;
}

// Where the character before `at` begins (well-formed text, at > 0).
inline size_t previous(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

}  // namespace hearth::utf8
