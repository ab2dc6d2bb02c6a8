#include "tokenizer/unicode.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>
#include <vector>

#include "core/utf8.h"

namespace hearth::tokenizer {
namespace {

bool is_white_space(char32_t c, utf8proc_category_t category) {
  return (c >= 9 && c <= 13) || c == 0x85 || category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
         category == UTF8PROC_CATEGORY_ZP;
}

// Other_Alphabetic characters that are neither letters, marks nor letter numbers: the circled and squared letters.
bool is_circled_letter(char32_t c) {
  return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
         (c >= 0x1F170 && c <= 0x1F189);
}

bool is_ascii_punctuation(char32_t c) {
  return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
}

uint8_t class_of_category(utf8proc_category_t category) {
  switch (category) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM: case UTF8PROC_CATEGORY_LO: return class_letter | class_word;
    case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: return class_number | class_word;
    case UTF8PROC_CATEGORY_NO: return class_number;
    case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME: return class_mark | class_word;
    case UTF8PROC_CATEGORY_PC: return class_punctuation | class_word;
    case UTF8PROC_CATEGORY_PD: case UTF8PROC_CATEGORY_PS: case UTF8PROC_CATEGORY_PE: case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF: case UTF8PROC_CATEGORY_PO: return class_punctuation;
    default: return 0;
  }
}

utf8proc_option_t options_of(NormalForm form) {
  constexpr int stable = UTF8PROC_STABLE, compat = UTF8PROC_COMPAT;
  switch (form) {
    case NormalForm::nfc: return static_cast<utf8proc_option_t>(stable | UTF8PROC_COMPOSE);
    case NormalForm::nfd: return static_cast<utf8proc_option_t>(stable | UTF8PROC_DECOMPOSE);
    case NormalForm::nfkc: return static_cast<utf8proc_option_t>(stable | UTF8PROC_COMPOSE | compat);
    case NormalForm::nfkd: break;
  }
  return static_cast<utf8proc_option_t>(stable | UTF8PROC_DECOMPOSE | compat);
}

}  // namespace

uint8_t class_of_slow(char32_t c) {
  utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  uint8_t bits = class_of_category(category);
  if (is_white_space(c, category)) bits |= class_space;
  if (c == '\r' || c == '\n') bits |= class_newline;
  if (is_ascii_punctuation(c)) bits |= class_punctuation;
  if (is_circled_letter(c)) bits |= class_word;
  return bits;
}

const uint8_t* bmp_classes() {
  static const std::unique_ptr<const uint8_t[]> table = [] {
    auto classes = std::make_unique<uint8_t[]>(0x10000);
    for (char32_t c = 0; c < 0x10000; ++c) classes[c] = class_of_slow(c);
    return std::unique_ptr<const uint8_t[]>(std::move(classes));
  }();
  return table.get();
}

void append_normalized(std::string& out, std::string_view text, NormalForm form) {
  if (text.empty()) return;
  utf8proc_uint8_t* result = nullptr;
  utf8proc_ssize_t length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                         static_cast<utf8proc_ssize_t>(text.size()), &result, options_of(form));
  if (length >= 0) out.append(reinterpret_cast<const char*>(result), static_cast<size_t>(length));
  else out.append(text);  // only out of memory or ill-formed text get here, and text is well formed
  std::free(result);
}

bool starts_segment(char32_t c) {
  if (c < 0x300) return true;
  // Jamo, and the compatibility characters whose decomposition composes with what stands before them.
  if ((c >= 0x1160 && c <= 0x11FF) || (c >= 0xD7B0 && c <= 0xD7FF) || (c >= 0x3131 && c <= 0x318E) ||
      (c >= 0xFF9E && c <= 0xFFDC)) {
    return false;
  }
  return !(class_of(c) & class_mark);
}

void append_lowercase(std::string& out, char32_t c) {
  if (c == 0x130) out.append("i\xCC\x87");  // the one character whose full lower case is two
  else utf8::append(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}

}  // namespace hearth::tokenizer
