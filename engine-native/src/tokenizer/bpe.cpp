#include "tokenizer/bpe.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "core/utf8.h"

namespace hearth::tokenizer {
namespace {

// A character that no rule and no byte token knows.
constexpr int32_t unknown_symbol = -1;
constexpr size_t joint_filter_bits = 1 << 18;
constexpr size_t short_word = 40;  // up to here a scan of an array beats a heap

size_t joint_bit(int32_t left, int32_t right) {
  return mix(pair_key(left, right), 0x9E3779B97F4A7C15ull) % joint_filter_bits;
}

// A direct-mapped cache of short words, one a thread, shared by all models. Zeroed pages from calloc cost nothing until used.
struct CacheEntry {
  static constexpr size_t max_key = 28, max_ids = 7;
  uint32_t serial;
  uint8_t key_length, count;
  char key[max_key];
  int32_t ids[max_ids];
};
constexpr size_t cache_entries = 1 << 15;

CacheEntry* thread_cache() {
  struct Free {
    void operator()(CacheEntry* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<CacheEntry[], Free> cache(static_cast<CacheEntry*>(std::calloc(cache_entries, sizeof(CacheEntry))));
  return cache.get();
}

}  // namespace

BpeModel::BpeModel(BpeRules rules) : rules_(std::move(rules)), merges_(rules_.merges.size()) {
  static std::atomic<uint32_t> serials{0};
  serial_ = ++serials;
  for (const BpeMerge& m : rules_.merges) merges_.insert(pair_key(m.left, m.right), {m.rank, m.result});
  std::vector<BpeMerge>().swap(rules_.merges);
  if (rules_.byte_level) return;
  bmp_symbols_.resize(0x10000, unknown_symbol);
  for (char32_t c = 0; c < 0x10000; ++c) {
    if (const int32_t* symbol = rules_.char_symbols.find(c)) bmp_symbols_[c] = *symbol;
  }
  joint_bits_.resize(joint_filter_bits / 64);
  rules_.joints.each([&](uint64_t key, uint8_t) {
    size_t bit = joint_bit(static_cast<int32_t>(key >> 32), static_cast<int32_t>(key & 0xFFFFFFFFu));
    joint_bits_[bit / 64] |= 1ull << (bit % 64);
  });
}

int32_t BpeModel::symbol_of(char32_t c) const {
  if (c < 0x10000) return bmp_symbols_[c];
  const int32_t* symbol = rules_.char_symbols.find(c);
  return symbol ? *symbol : unknown_symbol;
}

// May a token, or one fused unknown, reach across these two characters?
bool BpeModel::joined(int32_t left, int32_t right) const {
  auto unknown = [&](int32_t symbol) { return symbol == unknown_symbol || symbol >= rules_.first_virtual; };
  if (unknown(left) && unknown(right) && rules_.fuse_unk) return true;
  if (left == unknown_symbol || right == unknown_symbol) return false;
  size_t bit = joint_bit(left, right);
  return joint_bits_[bit / 64] >> (bit % 64) & 1;
}

void BpeModel::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  if (piece.empty()) return;
  if (rules_.ignore_merges) {
    if (const int32_t* id = rules_.words.find(piece)) return ids.push_back(*id);
  }
  if (rules_.byte_level || !rules_.can_cut) encode_cached(piece, ids);
  else encode_cut(piece, ids);
}

void BpeModel::encode_cut(std::string_view piece, std::vector<int32_t>& ids) const {
  const char *p = piece.data(), *const end = p + piece.size(), *begin = p;
  int32_t previous = symbol_of(utf8::next(p));
  while (p != end) {
    const char* at = p;
    int32_t symbol = symbol_of(utf8::next(p));
    if (!joined(previous, symbol)) {
      encode_cached({begin, static_cast<size_t>(at - begin)}, ids);
      begin = at;
    }
    previous = symbol;
  }
  encode_cached({begin, static_cast<size_t>(end - begin)}, ids);
}

void BpeModel::encode_cached(std::string_view word, std::vector<int32_t>& ids) const {
  CacheEntry* cache = word.size() <= CacheEntry::max_key ? thread_cache() : nullptr;
  if (!cache) return encode_word(word, ids);
  CacheEntry& entry = cache[hash_bytes(word.data(), word.size(), serial_) % cache_entries];
  if (entry.serial == serial_ && entry.key_length == word.size() && std::memcmp(entry.key, word.data(), word.size()) == 0) {
    ids.insert(ids.end(), entry.ids, entry.ids + entry.count);
    return;
  }
  size_t first = ids.size();
  encode_word(word, ids);
  size_t count = ids.size() - first;
  if (count > CacheEntry::max_ids) return;
  entry.serial = serial_;
  entry.key_length = static_cast<uint8_t>(word.size());
  entry.count = static_cast<uint8_t>(count);
  std::memcpy(entry.key, word.data(), word.size());
  std::copy_n(ids.begin() + static_cast<std::ptrdiff_t>(first), count, entry.ids);
}

void BpeModel::encode_word(std::string_view word, std::vector<int32_t>& ids) const {
  thread_local std::vector<int32_t> symbols;
  symbols.clear();
  begin_symbols(word, symbols);
  if (symbols.size() <= short_word) merge_short(symbols);
  else merge_long(symbols);
  emit(symbols, ids);
  if (symbols.capacity() > 1 << 16) std::vector<int32_t>().swap(symbols);  // do not keep what one huge word needed
}

void BpeModel::begin_symbols(std::string_view word, std::vector<int32_t>& symbols) const {
  if (rules_.byte_level) {
    for (char c : word) {
      int32_t symbol = rules_.byte_symbols[static_cast<unsigned char>(c)];
      if (symbol >= 0 || rules_.unk >= 0) symbols.push_back(symbol);
    }
    return;
  }
  const char *p = word.data(), *const end = p + word.size();
  while (p != end) {
    char32_t c = utf8::next(p);
    int32_t symbol = symbol_of(c);
    if (symbol != unknown_symbol) symbols.push_back(symbol);
    else if (!emit_bytes(c, symbols) && rules_.unk >= 0) symbols.push_back(unknown_symbol);
  }
}

bool BpeModel::emit_bytes(char32_t c, std::vector<int32_t>& ids) const {
  std::string bytes;
  utf8::append(bytes, c);
  auto token = [&](char b) { return rules_.byte_tokens[static_cast<unsigned char>(b)]; };
  if (std::any_of(bytes.begin(), bytes.end(), [&](char b) { return token(b) < 0; })) return false;
  for (char b : bytes) ids.push_back(token(b));
  return true;
}

void BpeModel::merge_short(std::vector<int32_t>& symbols) const {
  size_t n = symbols.size();
  if (n < 2) return;
  Merged pairs[short_word];
  for (size_t i = 0; i + 1 < n; ++i) pairs[i] = merge_of(symbols[i], symbols[i + 1]);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == UINT32_MAX) break;
    symbols[best] = pairs[best].result;
    for (size_t i = best + 1; i + 1 < n; ++i) symbols[i] = symbols[i + 1];
    for (size_t i = best + 1; i + 2 < n; ++i) pairs[i] = pairs[i + 1];
    --n;
    if (best > 0) pairs[best - 1] = merge_of(symbols[best - 1], symbols[best]);
    if (best + 1 < n) pairs[best] = merge_of(symbols[best], symbols[best + 1]);
  }
  symbols.resize(n);
}

void BpeModel::merge_long(std::vector<int32_t>& symbols) const {
  constexpr uint32_t none = UINT32_MAX;
  const auto n = static_cast<uint32_t>(symbols.size());
  struct Node {
    uint32_t previous, next, rank;  // rank of the pair that begins here, as last looked up
    int32_t result;
  };
  std::vector<Node> nodes(n);
  std::vector<uint64_t> heap;  // rank << 32 | place; entries whose rank is out of date are dropped when met
  auto look_up = [&](uint32_t at) {
    Node& node = nodes[at];
    Merged merged = node.next == none ? Merged{UINT32_MAX, -1} : merge_of(symbols[at], symbols[node.next]);
    node.rank = merged.rank;
    node.result = merged.result;
    return merged.rank != UINT32_MAX;
  };
  for (uint32_t i = 0; i < n; ++i) nodes[i] = {i == 0 ? none : i - 1, i + 1 == n ? none : i + 1, UINT32_MAX, -1};
  for (uint32_t i = 0; i < n; ++i) {
    if (look_up(i)) heap.push_back(static_cast<uint64_t>(nodes[i].rank) << 32 | i);
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  auto push = [&](uint32_t at) {
    if (!look_up(at)) return;
    heap.push_back(static_cast<uint64_t>(nodes[at].rank) << 32 | at);
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    auto at = static_cast<uint32_t>(heap.back());
    auto rank = static_cast<uint32_t>(heap.back() >> 32);
    heap.pop_back();
    Node& node = nodes[at];
    if (node.rank != rank) continue;
    symbols[at] = node.result;
    uint32_t gone = node.next;
    nodes[gone].rank = UINT32_MAX;
    node.next = nodes[gone].next;
    if (node.next != none) nodes[node.next].previous = at;
    push(at);
    if (node.previous != none) push(node.previous);
  }
  size_t count = 0;
  for (uint32_t at = 0; at != none; at = nodes[at].next) symbols[count++] = symbols[at];
  symbols.resize(count);
}

void BpeModel::emit(const std::vector<int32_t>& symbols, std::vector<int32_t>& ids) const {
  bool after_unknown = false;
  for (int32_t symbol : symbols) {
    bool is_virtual = symbol >= rules_.first_virtual;
    bool unknown = symbol == unknown_symbol || (is_virtual && !emit_bytes(rules_.virtual_chars[static_cast<size_t>(symbol - rules_.first_virtual)], ids));
    if (unknown) {
      if (rules_.unk >= 0 && !(after_unknown && rules_.fuse_unk)) ids.push_back(rules_.unk);
    } else if (!is_virtual) {
      ids.push_back(symbol);
    }
    after_unknown = unknown;
  }
}

}  // namespace hearth::tokenizer
