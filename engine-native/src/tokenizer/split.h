// Cutting text into pieces at matches, with the five behaviours of Hugging Face's Split pre-tokenizer.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace hearth::tokenizer {

// Bytes [begin, end) of some text.
struct Match {
  uint32_t begin, end;
};
using Piece = Match;

enum class SplitBehaviour { removed, isolated, merged_with_previous, merged_with_next, contiguous };

// Appends the pieces of [0, size) cut at matches (sorted, disjoint), shifted by offset. inverted swaps what counts as
// matched. Empty pieces are left out.
void split_at(const std::vector<Match>& matches, uint32_t size, SplitBehaviour behaviour, bool inverted, uint32_t offset,
              std::vector<Piece>& pieces);

}  // namespace hearth::tokenizer
