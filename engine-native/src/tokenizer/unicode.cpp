#include "tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
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
  int options = UTF8PROC_STABLE;
  options |= form == NormalForm::nfc || form == NormalForm::nfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::nfkc || form == NormalForm::nfkd) options |= UTF8PROC_COMPAT;
  return static_cast<utf8proc_option_t>(options);
}

int combining_class(utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; }

// Canonical ordering: a stable sort of every run of non-starters. utf8proc sorts by swapping neighbours, which takes
// hours on a run of a million marks that someone sends on purpose; on sorted runs it has nothing left to do.
void sort_marks(std::vector<utf8proc_int32_t>& chars) {
  for (size_t i = 0; i < chars.size();) {
    size_t end = i;
    while (end < chars.size() && combining_class(chars[end]) != 0) ++end;
    auto begin = chars.begin() + static_cast<std::ptrdiff_t>(i);
    if (end - i > 1) std::stable_sort(begin, chars.begin() + static_cast<std::ptrdiff_t>(end), [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    i = end + 1;
  }
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
  const utf8proc_option_t options = options_of(form);
  std::vector<utf8proc_int32_t> chars;
  chars.reserve(text.size());
  for (const char* p = text.data(); p != text.data() + text.size();) {
    auto c = static_cast<utf8proc_int32_t>(utf8::next(p));
    utf8proc_int32_t parts[32];  // the longest decomposition, U+FDFA's, has 18
    utf8proc_ssize_t count = utf8proc_decompose_char(c, parts, 32, options, nullptr);
    if (count < 0 || count > 32) chars.push_back(c);
    else chars.insert(chars.end(), parts, parts + count);
  }
  sort_marks(chars);
  utf8proc_ssize_t length = utf8proc_normalize_utf32(chars.data(), static_cast<utf8proc_ssize_t>(chars.size()), options);
  for (utf8proc_ssize_t i = 0; i < length; ++i) utf8::append(out, static_cast<char32_t>(chars[static_cast<size_t>(i)]));
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
