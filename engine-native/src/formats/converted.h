// Folders made by `hearth convert`: an ordinary safetensors file whose metadata tells the layout. Each packed linear is a
// U8 tensor "packed.<modules joined by '+'>", padded to 4096 bytes (256 in older folders); everything that is not packed keeps its name.
#pragma once

#include <map>
#include <string>

#include "formats/tensor_store.h"

namespace hearth::formats {

inline constexpr const char* target_key = "hearth_target";    // metadata: "cpu-avx2", ...
inline constexpr const char* linears_key = "hearth_linears";  // metadata: JSON of the packed linears
inline constexpr const char* packed_prefix = "packed.";
inline constexpr int64_t packed_alignment = 4096;  // whole blocks of a disk, and pages of a mapping

class PackedIndex {
 public:
  // Reads the metadata and checks every entry against the tensors of `store`.
  static Result<PackedIndex> parse(const std::map<std::string, std::string>& metadata, const TensorStore& store, const std::string& file);
  static std::string write(const std::vector<PackedHeader>& headers);

  const std::string& target() const { return target_; }
  const PackedHeader* find(std::string_view key) const;
  // The header of one module, as if it stood alone; nullopt when it is not packed.
  std::optional<LinearHeader> module(std::string_view name) const;

 private:
  std::string target_;
  std::map<std::string, PackedHeader, std::less<>> headers_;
  std::map<std::string, std::pair<std::string, size_t>, std::less<>> modules_;  // module -> key, place in it
};

}  // namespace hearth::formats
