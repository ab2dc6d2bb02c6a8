// Small read-mostly hash tables with open addressing, for the tables that encoding looks into millions of times.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace hearth::tokenizer {

inline uint64_t mix(uint64_t a, uint64_t b) {
  unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline uint64_t hash_bytes(const char* p, size_t n, uint64_t seed = 0) {
  uint64_t h = seed ^ (n * 0x9E3779B97F4A7C15ull);
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    h = mix(h ^ word, 0xA0761D6478BD642Full);
  }
  uint64_t tail = 0;
  std::memcpy(&tail, p, n);
  return mix(h ^ tail, 0xE7037ED1A0B428DBull);
}

// Keys of 64 bits to values; a key of all ones is not allowed.
template <class Value>
class FlatMap {
 public:
  explicit FlatMap(size_t expected = 0) { resize(expected); }

  // Keeps the value that is there already; false if there was one.
  bool insert(uint64_t key, Value value) {
    if ((count_ + 1) * 2 > slots_.size()) resize(count_ + 1);
    Slot& slot = slots_[place(key)];
    if (slot.key == key) return false;
    slot = {key, value};
    ++count_;
    return true;
  }
  const Value* find(uint64_t key) const {
    const Slot& slot = slots_[place(key)];
    return slot.key == key ? &slot.value : nullptr;
  }
  size_t size() const { return count_; }
  template <class Visit>
  void each(Visit visit) const {
    for (const Slot& slot : slots_) {
      if (slot.key != free_key) visit(slot.key, slot.value);
    }
  }

 private:
  static constexpr uint64_t free_key = ~0ull;
  struct Slot {
    uint64_t key = free_key;
    Value value{};
  };
  size_t place(uint64_t key) const {
    size_t at = mix(key, 0x9E3779B97F4A7C15ull) & (slots_.size() - 1);
    while (slots_[at].key != key && slots_[at].key != free_key) at = (at + 1) & (slots_.size() - 1);
    return at;
  }
  void resize(size_t expected) {
    size_t capacity = 16;
    while (capacity < expected * 2 + 2) capacity *= 2;
    std::vector<Slot> old = std::move(slots_);
    slots_.assign(capacity, {});
    for (const Slot& slot : old) {
      if (slot.key != free_key) slots_[place(slot.key)] = slot;
    }
  }
  std::vector<Slot> slots_;
  size_t count_ = 0;
};

// Strings to ids. Keys are copied into one arena.
class StringMap {
 public:
  bool insert(std::string_view key, int32_t id) {
    if ((entries_.size() + 1) * 2 > slots_.size()) grow();
    uint32_t& slot = slots_[place(key)];
    if (slot != 0) return false;
    entries_.push_back({arena_.size(), static_cast<uint32_t>(key.size()), id});
    arena_.append(key);
    slot = static_cast<uint32_t>(entries_.size());
    return true;
  }
  const int32_t* find(std::string_view key) const {
    if (slots_.empty()) return nullptr;
    uint32_t slot = slots_[place(key)];
    return slot == 0 ? nullptr : &entries_[slot - 1].id;
  }
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    size_t begin;
    uint32_t length;
    int32_t id;
  };
  size_t place(std::string_view key) const {
    size_t at = hash_bytes(key.data(), key.size()) & (slots_.size() - 1);
    while (slots_[at] != 0 && key_of(slots_[at]) != key) at = (at + 1) & (slots_.size() - 1);
    return at;
  }
  std::string_view key_of(uint32_t slot) const {
    const Entry& entry = entries_[slot - 1];
    return std::string_view(arena_).substr(entry.begin, entry.length);
  }
  void grow() {
    slots_.assign(slots_.empty() ? 64 : slots_.size() * 2, 0);
    for (uint32_t i = 1; i <= entries_.size(); ++i) slots_[place(key_of(i))] = i;
  }
  std::string arena_;
  std::vector<Entry> entries_;
  std::vector<uint32_t> slots_;  // index + 1 into entries_; 0 is free
};

// Byte strings to ids by prefix: all keys that begin at a place of a text.
class ByteTrie {
 public:
  ByteTrie() : ids_(1, -1) { std::memset(root_, 0xFF, sizeof root_); }

  // Keeps the first id given for a key. Keys must not be empty.
  void insert(std::string_view key, int32_t id) {
    int32_t node = 0;
    for (char c : key) {
      int32_t child = step(node, c);
      node = child >= 0 ? child : add(node, c);
    }
    if (ids_[static_cast<size_t>(node)] < 0) ids_[static_cast<size_t>(node)] = id;
    empty_ = false;
  }
  // Calls visit(length, id) for every key that text[at..] begins with, shortest first.
  template <class Visit>
  void prefixes(std::string_view text, size_t at, Visit visit) const {
    int32_t node = 0;
    for (size_t i = at; i < text.size(); ++i) {
      node = step(node, text[i]);
      if (node < 0) return;
      if (int32_t id = ids_[static_cast<size_t>(node)]; id >= 0) visit(i + 1 - at, id);
    }
  }
  bool can_start(char c) const { return root_[static_cast<unsigned char>(c)] >= 0; }
  bool empty() const { return empty_; }

 private:
  static uint64_t edge(int32_t node, char c) {
    return static_cast<uint64_t>(static_cast<uint32_t>(node)) << 8 | static_cast<unsigned char>(c);
  }
  int32_t step(int32_t node, char c) const {
    if (node == 0) return root_[static_cast<unsigned char>(c)];
    const int32_t* child = edges_.find(edge(node, c));
    return child ? *child : -1;
  }
  int32_t add(int32_t node, char c) {
    int32_t child = static_cast<int32_t>(ids_.size());
    ids_.push_back(-1);
    if (node == 0) root_[static_cast<unsigned char>(c)] = child;
    else edges_.insert(edge(node, c), child);
    return child;
  }
  int32_t root_[256];
  FlatMap<int32_t> edges_;
  std::vector<int32_t> ids_;
  bool empty_ = true;
};

}  // namespace hearth::tokenizer
