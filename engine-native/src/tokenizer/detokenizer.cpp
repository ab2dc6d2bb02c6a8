#include "core/utf8.h"
#include "tokenizer/parts.h"
#include "tokenizer/tokenizer.h"

namespace hearth::tokenizer {
namespace {

std::string without(std::string_view text, std::string_view part) {
  std::string out;
  size_t done = 0;
  for (size_t at; (at = text.find(part, done)) != text.npos; done = at + part.size()) out.append(text, done, at - done);
  return out.append(text, done);
}

}  // namespace

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special, bool continues)
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special), first_(!continues) {
  if (tokenizer_ && !continues) strip_left_ = tokenizer_->parts_->decoder.strip_start;
}

void Detokenizer::push(int32_t id, std::string& out) { feed(*tokenizer_->parts_, id, out); }

void Detokenizer::feed(const Parts& parts, int32_t id, std::string& out) {
  if (!parts.has(id) || (skip_special_ && parts.special[static_cast<size_t>(id)])) return;
  const std::string& drop = parts.decoder.drop_in_first;
  if (first_ && !drop.empty()) pending_ += parts.decoder.bytes_of(without(parts.texts[static_cast<size_t>(id)], drop));
  else pending_ += parts.bytes(id);
  first_ = false;
  size_t complete = utf8::complete_length(pending_);
  if (complete == 0) return;
  std::string_view ready = std::string_view(pending_).substr(0, complete);
  while (strip_left_ > 0 && !ready.empty()) {
    utf8::Decoded d = utf8::decode(ready, 0);
    if (!d.valid || d.code != parts.decoder.strip_char) {
      strip_left_ = 0;
      break;
    }
    ready.remove_prefix(d.length);
    --strip_left_;
  }
  utf8::append_lossy(out, ready);
  pending_.erase(0, complete);
}

void Detokenizer::flush(std::string& out) {
  utf8::append_lossy(out, pending_);
  pending_.clear();
  strip_left_ = 0;
  first_ = false;
}

}  // namespace hearth::tokenizer
