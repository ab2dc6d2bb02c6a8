#include "tokenizer/scanner.h"

#include "core/utf8.h"
#include "tokenizer/unicode.h"

namespace hearth::tokenizer {
namespace {

struct Char {
  uint8_t bits;  // CharClass
  const char* after;
};

// One text under a scanner's eye: pointers, so that the inner loops stay small.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : end_(text.data() + text.size()) {}

  const char* end() const { return end_; }
  Char at(const char* p) const {
    char32_t c = utf8::next(p);
    return {class_of(c), p};
  }
  // The end of the longest run of characters from p on with (bits & mask) == wanted, limited to a number of characters.
  const char* run(const char* p, uint8_t mask, uint8_t wanted, int limit = -1) const {
    while (p != end_ && limit-- != 0) {
      Char c = at(p);
      if ((c.bits & mask) != wanted) break;
      p = c.after;
    }
    return p;
  }
  bool is(const char* p, uint8_t mask) const { return p != end_ && (at(p).bits & mask); }
  // "other": [^\s\p{L}\p{N}]
  bool is_other(const char* p) const { return p != end_ && !(at(p).bits & other_mask); }
  const char* run_other(const char* p) const { return run(p, other_mask, 0); }

 private:
  static constexpr uint8_t other_mask = class_space | class_letter | class_number;
  const char* end_;
};

// 's 't 're 've 'm 'll 'd. Returns p where there is none.
const char* contraction(const char* p, const char* end, bool any_case) {
  if (*p != '\'' || end - p < 2) return p;
  auto lower = [&](int i) {
    char c = p[i];
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  char first = lower(1);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return p + 2;
  if (any_case && end - p >= 3 && p[1] == '\xC5' && p[2] == '\xBF') return p + 3;  // U+017F folds to s
  if (end - p < 3) return p;
  char second = lower(2);
  bool two = (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
  return two ? p + 3 : p;
}

// \s+(?!\S)|\s+ at p, where white space stands: a run gives up its last character to the word after it.
const char* white_space(const Cursor& cursor, const char* p) {
  const char* last = p;
  const char* q = p;
  while (q != cursor.end()) {
    Char c = cursor.at(q);
    if (!(c.bits & class_space)) return last == p ? q : last;
    last = q;
    q = c.after;
  }
  return q;
}

const char* next_gpt2(const Cursor& cursor, const char* p) {
  if (const char* q = contraction(p, cursor.end(), false); q != p) return q;
  const char* word = *p == ' ' ? p + 1 : p;
  if (word != cursor.end()) {
    Char c = cursor.at(word);
    if (c.bits & class_letter) return cursor.run(c.after, class_letter, class_letter);
    if (c.bits & class_number) return cursor.run(c.after, class_number, class_number);
    if (!(c.bits & class_space)) return cursor.run_other(c.after);
  }
  return white_space(cursor, p);
}

// \s*[\r\n]+ at p, where white space stands: up to the last line end of the run. Returns p where there is none.
const char* line_end(const Cursor& cursor, const char* p) {
  const char* found = p;
  while (p != cursor.end()) {
    Char c = cursor.at(p);
    if (!(c.bits & class_space)) break;
    if (c.bits & class_newline) found = c.after;
    p = c.after;
  }
  return found;
}

const char* next_llama3(const Cursor& cursor, const char* p, int digits) {
  if (const char* q = contraction(p, cursor.end(), true); q != p) return q;
  Char c = cursor.at(p);
  if (c.bits & class_letter) return cursor.run(c.after, class_letter, class_letter);
  if (c.bits & class_number) return cursor.run(c.after, class_number, class_number, digits - 1);
  if (!(c.bits & class_newline) && cursor.is(c.after, class_letter)) return cursor.run(c.after, class_letter, class_letter);
  const char* word = *p == ' ' ? p + 1 : p;
  if (cursor.is_other(word)) return cursor.run(cursor.run_other(word), class_newline, class_newline);
  if (const char* q = line_end(cursor, p); q != p) return q;
  return white_space(cursor, p);
}

}  // namespace

std::string_view pattern_of(ScannerKind kind) {
  switch (kind) {
    case ScannerKind::gpt2:
      return R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
    case ScannerKind::llama3:
      return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    case ScannerKind::qwen2: break;
  }
  return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
}

std::optional<ScannerKind> scanner_for(std::string_view pattern) {
  for (ScannerKind kind : {ScannerKind::gpt2, ScannerKind::llama3, ScannerKind::qwen2}) {
    if (pattern == pattern_of(kind)) return kind;
  }
  return std::nullopt;
}

void scan(ScannerKind kind, std::string_view text, uint32_t offset, std::vector<Piece>& pieces) {
  Cursor cursor(text);
  const char* const base = text.data();
  for (const char* p = base; p != cursor.end();) {
    const char* q = kind == ScannerKind::gpt2 ? next_gpt2(cursor, p) : next_llama3(cursor, p, kind == ScannerKind::llama3 ? 3 : 1);
    pieces.push_back({static_cast<uint32_t>(p - base) + offset, static_cast<uint32_t>(q - base) + offset});
    p = q;
  }
}

}  // namespace hearth::tokenizer
