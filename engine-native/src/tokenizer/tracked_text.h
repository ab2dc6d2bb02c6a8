// Text on its way through the normalizers, with a mark on every byte that came from what a user typed, so that special
// tokens can be kept from matching there after the bytes have moved.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hearth::tokenizer {

struct TrackedText {
  std::string text;
  std::vector<uint8_t> literal;  // one flag a byte, or empty where nothing is tracked

  bool tracked() const { return !literal.empty(); }
  bool any_literal(size_t begin, size_t end) const {
    return tracked() && std::find(literal.begin() + static_cast<std::ptrdiff_t>(begin), literal.begin() + static_cast<std::ptrdiff_t>(end), 1) !=
                            literal.begin() + static_cast<std::ptrdiff_t>(end);
  }
};

// Rewrites a text from left to right. What is put in place of a stretch is literal if any byte of the stretch was.
class Edit {
 public:
  explicit Edit(TrackedText& target) : target_(target) { text_.reserve(target.text.size() + target.text.size() / 8); }

  std::string_view source() const { return target_.text; }
  bool tracked() const { return target_.tracked(); }
  void keep(size_t begin, size_t end) {
    text_.append(target_.text, begin, end - begin);
    if (tracked()) {
      literal_.insert(literal_.end(), target_.literal.begin() + static_cast<std::ptrdiff_t>(begin),
                      target_.literal.begin() + static_cast<std::ptrdiff_t>(end));
    }
  }
  void put(std::string_view bytes, size_t begin, size_t end) {
    text_.append(bytes);
    if (tracked()) literal_.insert(literal_.end(), bytes.size(), target_.any_literal(begin, end));
  }
  // Takes back bytes from the end of the result.
  void drop_last(size_t count) {
    text_.resize(text_.size() - count);
    if (tracked()) literal_.resize(text_.size());
  }
  const std::string& text() const { return text_; }
  void finish() {
    target_.text = std::move(text_);
    // An empty text stays tracked only in name; nothing can match in it.
    if (tracked()) target_.literal = std::move(literal_);
  }

 private:
  TrackedText& target_;
  std::string text_;
  std::vector<uint8_t> literal_;
};

}  // namespace hearth::tokenizer
