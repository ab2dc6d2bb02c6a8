// What the tokenizer asks of the Unicode character database, and the normalization forms (both by utf8proc).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hearth::tokenizer {

// Classes of a character, as bits.
enum CharClass : uint8_t {
  class_letter = 1,        // \p{L}
  class_number = 2,        // \p{N}
  class_space = 4,         // White_Space, which is \s
  class_newline = 8,       // CR and LF only (also class_space)
  class_punctuation = 16,  // \p{P} and ASCII punctuation
  class_mark = 32,         // \p{M}
  class_word = 64,         // \w: alphabetic, mark, decimal digit, connector punctuation
};

uint8_t class_of_slow(char32_t c);
const uint8_t* bmp_classes();  // the classes of U+0000..U+FFFF

inline uint8_t class_of(char32_t c) {
  static const uint8_t* const table = bmp_classes();
  return c < 0x10000 ? table[c] : class_of_slow(c);
}

inline bool is_space(char32_t c) { return class_of(c) & class_space; }

enum class NormalForm { nfc, nfd, nfkc, nfkd };

// Appends the normal form of well-formed text.
void append_normalized(std::string& out, std::string_view text, NormalForm form);

// May text be cut before c without changing the normal form of either side? True only where it is certain.
bool starts_segment(char32_t c);

void append_lowercase(std::string& out, char32_t c);

}  // namespace hearth::tokenizer
