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
  std::vector<int32_t> order;
  for (int32_t id = 0; id < size; ++id) {
    trie->begin_.push_back(trie->text_.size());
    Token t = token(id);
    bool end = std::find(trie->end_tokens_.begin(), trie->end_tokens_.end(), id) != trie->end_tokens_.end();
    if (t.bytes.empty() || t.bytes.size() > token_bytes_max || end) continue;
    if (t.special) {
      trie->special_texts_.emplace_back(t.bytes);
      trie->text_ += special_open;
    }
    trie->text_ += t.bytes;
    if (t.special) trie->text_ += special_close;
    order.push_back(id);
  }
  trie->begin_.push_back(trie->text_.size());
  std::sort(trie->special_texts_.begin(), trie->special_texts_.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return trie->bytes(a) < trie->bytes(b); });
  std::vector<int32_t> open;  // nodes on the path
  std::string_view path;
  for (int32_t id : order) {
    std::string_view text = trie->bytes(id);
    size_t common = std::mismatch(path.begin(), path.end(), text.begin(), text.end()).first - path.begin();
    while (open.size() > common) trie->nodes_[open.back()].next = static_cast<int32_t>(trie->nodes_.size()), open.pop_back();
    for (size_t i = common; i < text.size(); ++i) {
      open.push_back(static_cast<int32_t>(trie->nodes_.size()));
      trie->nodes_.push_back({static_cast<uint8_t>(text[i]), static_cast<uint8_t>(i + 1), 0, 0, 0, 0});
    }
    for (int32_t node : open) trie->nodes_[node].deepest = std::max(trie->nodes_[node].deepest, static_cast<uint8_t>(text.size()));
    Node& node = trie->nodes_[open.back()];
    if (node.token_count++ == 0) node.tokens = static_cast<int32_t>(trie->token_list_.size());
    trie->token_list_.push_back(id);
    path = text;
    trie->longest_ = std::max(trie->longest_, static_cast<int>(text.size()));
  }
  for (int32_t node : open) trie->nodes_[node].next = static_cast<int32_t>(trie->nodes_.size());
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return trie->bytes(a).size() > trie->bytes(b).size(); });
  trie->long_count_.assign(trie->longest_ + 2, 0);
  for (int32_t id : order)
    for (size_t n = 0; n <= trie->bytes(id).size(); ++n) ++trie->long_count_[n];
  trie->longest_first_ = std::move(order);
  return trie;
}

}  // namespace hearth::grammar
