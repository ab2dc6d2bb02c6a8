#include <algorithm>
#include <numeric>

#include "grammar/grammar.h"

namespace hearth::grammar {
namespace {

constexpr size_t token_bytes_max = 200;  // depth fits a byte; longer tokens are left out of masks

}  // namespace

std::shared_ptr<const TokenTrie> TokenTrie::build(int size, const std::function<Token(int32_t)>& token, std::vector<int32_t> end_tokens) {
  auto trie = std::make_shared<TokenTrie>();
  trie->size_ = size;
  std::erase_if(end_tokens, [&](int32_t id) { return id < 0 || id >= size; });
  trie->end_tokens_ = std::move(end_tokens);
  std::vector<int32_t> ids = trie->collect_texts(token);
  std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return trie->bytes(a) < trie->bytes(b); });
  trie->make_nodes(ids);
  trie->sort_by_length(std::move(ids));
  return trie;
}

std::vector<int32_t> TokenTrie::collect_texts(const std::function<Token(int32_t)>& token) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < size_; ++id) {
    begin_.push_back(text_.size());
    const Token t = token(id);
    const bool end = std::find(end_tokens_.begin(), end_tokens_.end(), id) != end_tokens_.end();
    if (t.bytes.empty() || t.bytes.size() > token_bytes_max || end) continue;
    if (t.special) {
      special_texts_.emplace_back(t.bytes);
      text_ += special_open;
    }
    text_ += t.bytes;
    if (t.special) text_ += special_close;
    ids.push_back(id);
  }
  begin_.push_back(text_.size());
  std::sort(special_texts_.begin(), special_texts_.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
  return ids;
}

void TokenTrie::make_nodes(std::span<const int32_t> sorted) {
  std::vector<int32_t> open;  // nodes on the path to the text before
  std::string_view path;
  auto close_to = [&](size_t depth) {
    for (; open.size() > depth; open.pop_back()) nodes_[open.back()].next = static_cast<int32_t>(nodes_.size());
  };
  for (int32_t id : sorted) {
    const std::string_view text = bytes(id);
    const size_t common = std::mismatch(path.begin(), path.end(), text.begin(), text.end()).first - path.begin();
    close_to(common);
    for (size_t i = common; i < text.size(); ++i) {
      open.push_back(static_cast<int32_t>(nodes_.size()));
      nodes_.push_back({static_cast<uint8_t>(text[i]), static_cast<uint8_t>(i + 1), 0, 0, 0, 0});
    }
    for (int32_t node : open) nodes_[node].deepest = std::max(nodes_[node].deepest, static_cast<uint8_t>(text.size()));
    Node& last = nodes_[open.back()];
    if (last.token_count++ == 0) last.tokens = static_cast<int32_t>(token_list_.size());
    token_list_.push_back(id);
    path = text;
    longest_ = std::max(longest_, static_cast<int>(text.size()));
  }
  close_to(0);
}

void TokenTrie::sort_by_length(std::vector<int32_t> ids) {
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return bytes(a).size() > bytes(b).size(); });
  long_count_.assign(longest_ + 2, 0);
  for (int32_t id : ids)
    for (size_t n = 0; n <= bytes(id).size(); ++n) ++long_count_[n];
  longest_first_ = std::move(ids);
}

}  // namespace hearth::grammar
