// SentencePiece's own way to say BPE: pieces with scores instead of a list of merges. Two neighbours merge when their
// text together is a piece, the highest score first. Shared by .model files and by "llama" vocabularies in GGUF.
#pragma once

#include <string>
#include <vector>

#include "core/status.h"
#include "tokenizer/bpe.h"

namespace hearth::tokenizer {

enum class PieceType { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct ScoredPiece {
  std::string text;
  float score;
  PieceType type;
};

// Rules in which only normal pieces can be made by merging. byte tokens are filled from pieces of type byte.
Result<BpeRules> bpe_rules_from_scores(const std::vector<ScoredPiece>& pieces);

// Notes that two neighbouring characters of a token may not be cut apart.
void note_joints(std::string_view token, BpeRules& rules);

}  // namespace hearth::tokenizer
