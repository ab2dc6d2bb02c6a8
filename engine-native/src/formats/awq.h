// AutoAWQ's two layouts, and llm-awq v2 (the second under other names).
#pragma once

#include "formats/linear_reader.h"

namespace hearth::formats {

// group_size -1 stands for one group a row.
std::unique_ptr<LinearReader> make_awq_gemm_reader(int64_t group_size);
// Stored group sizes differ by width, so the group is found from the shape of `scales` when group_size is 0 (llm-awq
// files do not say). `zeros_suffix` is "qzeros" (AutoAWQ) or "scaled_zeros" (llm-awq).
std::unique_ptr<LinearReader> make_gemv_fast_reader(int64_t group_size, std::string zeros_suffix, std::string_view format);

}  // namespace hearth::formats
