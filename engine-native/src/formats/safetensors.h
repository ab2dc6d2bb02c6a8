// The safetensors container: u64 header size, JSON header, tensor bytes. The rules are the format's own, checked in full:
// every tensor's bytes match its type and shape, none overlap, none is outside the file, and no byte is unaccounted for.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "formats/tensor_store.h"

namespace hearth::formats {

struct SafetensorsHeader {
  std::vector<TensorView> tensors;              // in file order
  std::map<std::string, std::string> metadata;  // __metadata__
};

// `bytes` is the whole file; the views point into it. `file` names it in messages.
Result<SafetensorsHeader> parse_safetensors(std::span<const std::byte> bytes, const std::string& file);

// Maps `path` and adds its tensors to `store`. Names that the metadata maps to a tensor (tied weights) become aliases.
Result<SafetensorsHeader> add_safetensors(TensorStore& store, const std::string& path, const std::string& prefix = {});
// The same of a file that has been mapped and parsed.
Status add_safetensors(TensorStore& store, std::shared_ptr<MappedFile> file, const SafetensorsHeader& header, const std::string& prefix = {});

// All safetensors of a folder: the index's shards, else model.safetensors, else whatever *.safetensors there are.
// not_found when there is none.
Status add_safetensors_folder(TensorStore& store, const std::string& folder, const std::string& prefix,
                              std::map<std::string, std::string>* metadata);

}  // namespace hearth::formats
