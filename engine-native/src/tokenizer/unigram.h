// Unigram language model: the segmentation with the highest sum of scores (Viterbi over all pieces that match at each
// place), as in SentencePiece; and WordLevel, which only looks a whole piece up.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "tokenizer/flat_map.h"
#include "tokenizer/model.h"

namespace hearth::tokenizer {

struct UnigramRules {
  // A token longer than this is refused by the readers: it bounds the work per character.
  static constexpr size_t max_piece_bytes = 1024;

  ByteTrie trie;                          // pieces that text may become
  std::vector<double> scores;             // by id: what the piece adds to a path
  double unknown_score = 0;               // what one unknown character adds
  bool fuse_unk = true;
  int32_t unk = -1;
  std::array<int32_t, 256> byte_tokens;   // byte fallback, -1 where missing

  UnigramRules() { byte_tokens.fill(-1); }
};

class UnigramModel final : public Model {
 public:
  explicit UnigramModel(UnigramRules rules) : rules_(std::move(rules)) {}
  void encode(std::string_view piece, std::vector<int32_t>& ids) const override;

 private:
  bool emit_bytes(std::string_view text, std::vector<int32_t>& ids) const;
  UnigramRules rules_;
};

class WordLevelModel final : public Model {
 public:
  WordLevelModel(StringMap words, int32_t unk) : words_(std::move(words)), unk_(unk) {}
  void encode(std::string_view piece, std::vector<int32_t>& ids) const override {
    if (const int32_t* id = words_.find(piece)) ids.push_back(*id);
    else if (unk_ >= 0) ids.push_back(unk_);
  }

 private:
  StringMap words_;
  int32_t unk_;
};

}  // namespace hearth::tokenizer
