// Byte-pair encoding: the adjacent pair with the lowest rank is merged first, the leftmost of equals first, until no
// rule applies. One engine serves byte-level vocabularies (symbols are bytes), SentencePiece-style merge lists and
// SentencePiece models (symbols are characters; there a rank is the order of the merged piece's score).
//
// Long pieces cost O(n log n): a heap of pairs over a linked list. Pieces cut where no merge can reach across are
// encoded apart, and short ones are remembered in a cache of the calling thread.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "tokenizer/flat_map.h"
#include "tokenizer/model.h"

namespace hearth::tokenizer {

struct BpeMerge {
  int32_t left, right;
  uint32_t rank;
  int32_t result;
};

// Everything the engine needs, prepared by the readers.
struct BpeRules {
  bool byte_level = false;
  bool ignore_merges = false;  // a piece that is a token is that token
  bool fuse_unk = false;       // a run of unknown characters is one unknown token
  int32_t unk = -1;            // -1: unknown characters vanish

  std::array<int32_t, 256> byte_symbols;  // byte level: the token of each byte, -1 where missing
  std::array<int32_t, 256> byte_tokens;   // byte fallback: <0x00>…, -1 where missing
  // Characters that symbols begin as. Ids from first_virtual on are characters that are no token but parts of one.
  FlatMap<int32_t> char_symbols;
  int32_t first_virtual = INT32_MAX;
  std::vector<char32_t> virtual_chars;

  std::vector<BpeMerge> merges;
  StringMap words;           // for ignore_merges: piece -> id
  // Pairs of characters, as symbols, that stand next to each other inside some token: between any others text may be
  // cut without changing the outcome. Used only with can_cut.
  FlatMap<uint8_t> joints;
  bool can_cut = false;

  BpeRules() { byte_symbols.fill(-1), byte_tokens.fill(-1); }
};

inline uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

class BpeModel final : public Model {
 public:
  explicit BpeModel(BpeRules rules);
  void encode(std::string_view piece, std::vector<int32_t>& ids) const override;

 private:
  struct Merged {
    uint32_t rank;
    int32_t result;
  };
  Merged merge_of(int32_t left, int32_t right) const {
    if (left < 0 || right < 0) return {UINT32_MAX, -1};  // unknown characters merge with nothing
    const Merged* found = merges_.find(pair_key(left, right));
    return found ? *found : Merged{UINT32_MAX, -1};
  }
  int32_t symbol_of(char32_t c) const;
  bool joined(int32_t left, int32_t right) const;
  void encode_cut(std::string_view piece, std::vector<int32_t>& ids) const;
  void encode_cached(std::string_view word, std::vector<int32_t>& ids) const;
  void encode_word(std::string_view word, std::vector<int32_t>& ids) const;
  void begin_symbols(std::string_view word, std::vector<int32_t>& symbols) const;
  void merge_short(std::vector<int32_t>& symbols) const;
  void merge_long(std::vector<int32_t>& symbols) const;
  void emit(const std::vector<int32_t>& symbols, std::vector<int32_t>& ids) const;
  bool emit_bytes(char32_t c, std::vector<int32_t>& ids) const;

  BpeRules rules_;
  FlatMap<Merged> merges_;
  std::vector<int32_t> bmp_symbols_;    // char_symbols for U+0000..U+FFFF
  std::vector<uint64_t> joint_bits_;    // a Bloom filter of joints: false alarms only cost a cut
  uint32_t serial_;                     // names this model in the threads' caches
};

}  // namespace hearth::tokenizer
