// Hand-written scanners for the pre-tokenizer patterns almost every byte-level model uses. Each gives exactly the
// pieces that its pattern gives as a Split with behaviour "isolated" (a differential test holds it to PCRE2), several
// times faster.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "tokenizer/split.h"

namespace hearth::tokenizer {

enum class ScannerKind {
  gpt2,    // GPT-2, and the pattern inside ByteLevel
  llama3,  // Llama 3: numbers in groups of up to three digits
  qwen2,   // Qwen 2: the same, every digit alone
};

std::string_view pattern_of(ScannerKind kind);
// The scanner for a pattern, if it is one we know, spelled exactly so.
std::optional<ScannerKind> scanner_for(std::string_view pattern);

// Appends the pieces of text (well-formed), shifted by offset; together they are the whole text.
void scan(ScannerKind kind, std::string_view text, uint32_t offset, std::vector<Piece>& pieces);

}  // namespace hearth::tokenizer
