#include "tokenizer/added_tokens.h"

#include "core/utf8.h"
#include "tokenizer/unicode.h"

namespace hearth::tokenizer {
namespace {

char32_t char_at(std::string_view text, size_t at) {
  const char* p = text.data() + at;
  return utf8::next(p);
}

bool all_white_space(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    char32_t c = char_at(text, at);
    if (!is_space(c) && c != 0x2581) return false;  // U+2581 is SentencePiece's blank
    at += utf8::length_of(static_cast<unsigned char>(text[at]));
  }
  return true;
}

}  // namespace

bool AddedTokens::add(AddedToken token) {
  if (!by_content_.insert(token.content, static_cast<int32_t>(tokens_.size()))) return false;
  token.white_space = all_white_space(token.content);
  tokens_.push_back(std::move(token));
  return true;
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const int32_t* index = by_content_.find(content);
  return index ? &tokens_[static_cast<size_t>(*index)] : nullptr;
}

Status AddedTokens::prepare(const Normalizer& normalizer) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    if (token.content.empty()) continue;  // seen in the wild; can never be found in a text
    if (token.content.size() > max_content_bytes) return unsupported("an added token of more than 1024 bytes");
    if (!token.normalized) {
      raw_.insert(token.content, static_cast<int32_t>(i));
      continue;
    }
    TrackedText content{token.content, {}};
    if (!token.verbatim) HEARTH_TRY(normalizer.apply(content));
    if (content.text.size() > max_content_bytes) return unsupported("an added token of more than 1024 bytes");
    if (!content.text.empty()) normalized_.insert(content.text, static_cast<int32_t>(i));
  }
  return Status::ok();
}

bool AddedTokens::stands_alone(std::string_view text, size_t begin, size_t end) {
  auto is_word = [](char32_t c) { return (class_of(c) & class_word) || c == 0x200C || c == 0x200D; };
  if (begin > 0 && is_word(char_at(text, utf8::previous(text, begin)))) return false;
  return end == text.size() || !is_word(char_at(text, end));
}

size_t AddedTokens::space_before(std::string_view text, size_t begin, size_t limit) {
  while (begin > limit) {
    size_t at = utf8::previous(text, begin);
    if (!is_space(char_at(text, at))) break;
    begin = at;
  }
  return begin;
}

size_t AddedTokens::space_after(std::string_view text, size_t end) {
  while (end < text.size() && is_space(char_at(text, end))) end += utf8::length_of(static_cast<unsigned char>(text[end]));
  return end;
}

}  // namespace hearth::tokenizer
