// Prompt lookup: proposes that what followed the last words where they stood before follows again. Costs a scan of a few
// thousand tokens, needs no second model, and is exact, since a proposal only counts when it equals the sample.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hearth::runtime {

inline constexpr int draft_tokens_max = 8;

// Fills `draft` with at most `count` tokens that followed the latest earlier occurrence of the last three tokens (two when
// three are nowhere). Leaves it empty when there is none.
void propose_draft(std::span<const int32_t> tokens, int count, std::vector<int32_t>& draft);

}  // namespace hearth::runtime
