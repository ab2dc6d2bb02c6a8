// AWQ's clipping on the CPU, after its scales: by search on what each group's rounding does to the layer's outputs.
#pragma once

#include <vector>

#include "core/thread_pool.h"
#include "quantize/block.h"

namespace hearth::quantize {

inline constexpr int clip_steps = 10;  // 1.00, 0.95, … 0.55 of the largest weight

// grams: XᵀX of each group's inputs. Over all tokens the error of a row's group is d H dᵀ, where d is the change of its
// weights: the tokens are summed once instead of for every candidate. Returns the number of groups clamped.
double clip_groups(ThreadPool& pool, Weight& weight, const std::vector<std::vector<float>>& grams, int group);

}  // namespace hearth::quantize
