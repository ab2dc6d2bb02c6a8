#include "tokenizer/regex.h"

#include <pcre2.h>

#include <algorithm>

#include "core/utf8.h"

namespace hearth::tokenizer {
namespace {

// Insides of character classes. White_Space differs from PCRE2's \s (which has U+180E); Oniguruma's \w has marks and
// all alphabetic characters, PCRE2's before 10.43 only letters, numbers and "_".
constexpr const char* space_set = "\\x{9}-\\x{d}\\x{85}\\p{Z}";
constexpr const char* not_space_set =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";
constexpr const char* word_set =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}";
constexpr const char* hex_set = "0-9A-Fa-f";

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  Result<std::string> run() {
    while (at_ < in_.size()) {
      char c = in_[at_];
      if (c == '\\') HEARTH_TRY(escape(false));
      else if (c == '[') HEARTH_TRY(character_class());
      else if (c == '(') HEARTH_TRY(group());
      else if (c == '}') HEARTH_TRY(interval_end());
      else out_.push_back(c), ++at_;
    }
    return std::move(out_);
  }

 private:
  Status refuse(const std::string& what) const {
    return unsupported("pattern \"" + std::string(in_) + "\" uses " + what + ", which Hearth cannot translate to PCRE2");
  }

  // A set such as \s: as a class of its own, or as a part of the class we are in.
  void emit_set(const char* set, bool in_class, bool negated) {
    if (in_class) out_.append(set);
    else out_.append(negated ? "[^" : "[").append(set).append("]");
  }

  Status escape(bool in_class) {
    if (at_ + 1 >= in_.size()) return invalid("pattern \"" + std::string(in_) + "\" ends in a backslash");
    char c = in_[at_ + 1];
    at_ += 2;
    switch (c) {
      case 's': emit_set(space_set, in_class, false); return Status::ok();
      case 'S': emit_set(in_class ? not_space_set : space_set, in_class, true); return Status::ok();
      case 'w': emit_set(word_set, in_class, false); return Status::ok();
      case 'W':
        if (in_class) return refuse("\\W inside a character class");
        emit_set(word_set, false, true);
        return Status::ok();
      case 'd': out_.append("\\p{Nd}"); return Status::ok();
      case 'D': out_.append("\\P{Nd}"); return Status::ok();
      case 'h': emit_set(hex_set, in_class, false); return Status::ok();
      case 'H':
        if (in_class) return refuse("\\H inside a character class");
        emit_set(hex_set, false, true);
        return Status::ok();
      case 'b': case 'B': return in_class ? refuse("\\b inside a character class") : word_boundary(c == 'B');
      case 'u': return code_unit();
      case 'C': case 'M': case 'K': case 'y': case 'Y': case 'O': case 'N': return refuse(std::string("\\") + c);
      default: out_.push_back('\\'), out_.push_back(c); return braces();
    }
  }

  // What belongs to \p, \x and \k: {L}, {1F600}.
  Status braces() {
    char kind = out_.back();
    if (at_ >= in_.size() || in_[at_] != '{' || (kind != 'p' && kind != 'P' && kind != 'x' && kind != 'k' && kind != 'g')) return Status::ok();
    size_t end = in_.find('}', at_);
    if (end == in_.npos) return invalid("pattern \"" + std::string(in_) + "\" lacks a closing }");
    out_.append(in_.substr(at_, end + 1 - at_));
    at_ = end + 1;
    return Status::ok();
  }

  Status word_boundary(bool negated) {
    std::string word = std::string("[") + word_set + "]";
    out_ += negated ? "(?:(?<=" + word + ")(?=" + word + ")|(?<!" + word + ")(?!" + word + "))"
                    : "(?:(?<=" + word + ")(?!" + word + ")|(?<!" + word + ")(?=" + word + "))";
    return Status::ok();
  }

  Status code_unit() {  // \uHHHH
    std::string_view digits = in_.substr(at_, 4);
    if (digits.size() < 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos) return refuse("\\u without four hex digits");
    out_.append("\\x{").append(digits).append("}");
    at_ += 4;
    return Status::ok();
  }

  Status character_class() {
    out_.push_back('['), ++at_;
    if (at_ < in_.size() && in_[at_] == '^') out_.push_back('^'), ++at_;
    bool first = true;
    while (at_ < in_.size()) {
      char c = in_[at_];
      if (c == ']' && !first) return out_.push_back(']'), ++at_, Status::ok();
      if (c == '\\') HEARTH_TRY(escape(true));
      else if (c == '[' && in_.substr(at_, 2) == "[:") HEARTH_TRY(posix_class());
      else if (c == '[') return refuse("a character class inside another");
      else if (in_.substr(at_, 2) == "&&") return refuse("an intersection of character classes");
      else out_.push_back(c), ++at_;
      first = false;
    }
    return invalid("pattern \"" + std::string(in_) + "\" lacks a closing ]");
  }

  Status posix_class() {
    size_t end = in_.find(":]", at_);
    if (end == in_.npos) return refuse("an unfinished POSIX class");
    std::string_view name = in_.substr(at_ + 2, end - at_ - 2);
    if (name == "space") out_.append(space_set);
    else if (name == "word") out_.append(word_set);
    else if (name == "digit") out_.append("\\p{Nd}");
    else if (name == "alpha") out_.append("\\p{L}\\p{M}\\p{Nl}");
    else if (name == "punct") out_.append("\\p{P}$+<=>^`|~");
    else if (name == "upper" || name == "lower" || name == "xdigit") out_.append(in_.substr(at_, end + 2 - at_));
    else return refuse("[:" + std::string(name) + ":]");
    at_ = end + 2;
    return Status::ok();
  }

  // Groups are the same but for inline options: Oniguruma's m lets "." match line ends, which PCRE2 calls s.
  Status group() {
    out_.push_back('('), ++at_;
    if (at_ >= in_.size() || in_[at_] != '?') return Status::ok();
    size_t end = in_.find_first_not_of("imxsaWDSP-", at_ + 1);
    if (end == in_.npos || end == at_ + 1 || (in_[end] != ':' && in_[end] != ')')) return Status::ok();
    out_.push_back('?');
    for (char c : in_.substr(at_ + 1, end - at_ - 1)) {
      if (c != 'i' && c != 'm' && c != 'x' && c != '-') return refuse(std::string("the option ") + c);
      out_.push_back(c == 'm' ? 's' : c);
    }
    at_ = end;
    return Status::ok();
  }

  Status interval_end() {
    out_.push_back('}'), ++at_;
    // Ruby's syntax reads {2}+ as a repeated repeat, PCRE2 as possessive.
    if (at_ < in_.size() && in_[at_] == '+') return refuse("a + after an interval");
    return Status::ok();
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
};

// What one thread needs to match: made once, since a match is shorter than an allocation.
struct Scratch {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 * 1024, 4 * 1024 * 1024, nullptr);
  Scratch() {
    if (context && stack) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Scratch() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

std::string message_of(int code) {
  char text[256];
  pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof text);
  return text;
}

}  // namespace

Result<std::string> translate_oniguruma(std::string_view pattern) {
  if (pattern.size() > 64 * 1024) return unsupported("a pattern of more than 64 KiB");
  if (!utf8::is_valid(pattern)) return invalid("a pattern that is not UTF-8");
  return Translator(pattern).run();
}

Result<Regex> Regex::compile(std::string_view pattern) {
  HEARTH_ASSIGN(std::string translated, translate_oniguruma(pattern));
  std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(pcre2_compile_context_create(nullptr),
                                                                                        pcre2_compile_context_free);
  if (!context) return out_of_memory("compiling a pattern");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), 100);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context.get());
  if (!code) {
    return unsupported("pattern \"" + std::string(pattern) + "\": " + message_of(error) + " (as \"" + translated + "\", at byte " +
                       std::to_string(offset) + ")");
  }
  Regex regex;
  regex.code_.reset(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it fails, pcre2_match interprets: slower, same answer
  return regex;
}

Status Regex::find_all(std::string_view text, std::vector<Match>& matches) const {
  thread_local Scratch scratch;
  if (!scratch.data || !scratch.context) return out_of_memory("matching a pattern");
  // Enough for a few passes over the whole text, which greedy runs take when they give back; exploding patterns need more.
  pcre2_set_match_limit(scratch.context, static_cast<uint32_t>(std::min<uint64_t>(10'000'000 + 64 * uint64_t{text.size()}, UINT32_MAX)));
  size_t at = 0;
  bool any = false;
  while (at <= text.size()) {
    int rc = pcre2_match(static_cast<pcre2_code*>(code_.get()), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                         PCRE2_NO_UTF_CHECK, scratch.data, scratch.context);
    if (rc == PCRE2_ERROR_NOMATCH) return Status::ok();
    if (rc < 0) return unsupported("a pattern of the tokenizer failed on this text: " + message_of(rc));
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(scratch.data);
    if (range[1] < at || range[0] > range[1]) return unsupported("a pattern of the tokenizer that matches backwards");
    bool empty = range[0] == range[1];
    if (!(empty && any && matches.back().end == range[1])) {
      matches.push_back({static_cast<uint32_t>(range[0]), static_cast<uint32_t>(range[1])});
      any = true;
    }
    at = range[1];
    if (empty) at += at < text.size() ? utf8::length_of(static_cast<unsigned char>(text[at])) : 1;
  }
  return Status::ok();
}

}  // namespace hearth::tokenizer
