// GPTQ 4-bit safetensors (AutoGPTQ, GPTQModel), with and without act-order.
#pragma once

#include "formats/linear_reader.h"

namespace hearth::formats {

// group_size -1 stands for one group a row. zero_offset: version 1 files store zero - 1.
std::unique_ptr<LinearReader> make_gptq_reader(int64_t group_size, int zero_offset);

// Turns a g_idx (the group of each input) into the order in which inputs lie group by group; empty when they already
// do. Errors unless every group has exactly `group` inputs.
Result<std::vector<int32_t>> input_order_of(const TensorView& g_idx, int64_t in, int64_t group);

}  // namespace hearth::formats
