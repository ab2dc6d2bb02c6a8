// torch.save files of a state_dict: a zip of stored entries, one of them a pickle. The pickle is read by a machine that
// knows dictionaries, tuples, lists, strings, numbers and tensors, and nothing that could run: any other global is an
// error that names it.
#pragma once

#include <string>
#include <vector>

#include "formats/tensor_store.h"

namespace hearth::formats {

// The tensors of the state_dict in `archive` (the whole file); the views point into it.
Result<std::vector<TensorView>> parse_torch_file(std::span<const std::byte> archive, const std::string& file);
Status add_torch_file(TensorStore& store, const std::string& path, const std::string& prefix = {});

}  // namespace hearth::formats
