#include "tokenizer/charsmap.h"

#include <cstring>

namespace hearth::tokenizer {
namespace {

// The units of darts-clone (github.com/s-yata/darts-clone, include/darts.h).
bool has_leaf(uint32_t unit) { return unit >> 8 & 1; }
uint32_t value_of(uint32_t unit) { return unit & 0x7FFFFFFFu; }
uint32_t label_of(uint32_t unit) { return unit & 0x800000FFu; }
uint32_t offset_of(uint32_t unit) { return (unit >> 10) << ((unit & 0x200u) >> 6); }

}  // namespace

Result<Charsmap> Charsmap::parse(std::string_view blob) {
  uint32_t bytes = 0;
  if (blob.size() >= 4) std::memcpy(&bytes, blob.data(), 4);
  if (blob.size() < 4 || bytes > blob.size() - 4 || bytes < 4 || bytes % 4 != 0) return corrupt("precompiled_charsmap: bad trie size");
  Charsmap map;
  map.units_.resize(bytes / 4);
  std::memcpy(map.units_.data(), blob.data() + 4, bytes);
  map.replacements_.assign(blob.substr(4 + bytes));
  if (map.replacements_.empty() || map.replacements_.back() != '\0') return corrupt("precompiled_charsmap: replacements not terminated");
  return map;
}

std::optional<Charsmap::Found> Charsmap::longest(std::string_view text, size_t at) const {
  std::optional<Found> found;
  size_t node = offset_of(units_[0]);
  for (size_t i = at; i < text.size(); ++i) {
    auto label = static_cast<unsigned char>(text[i]);
    node ^= label;
    // The builder gives the NUL label to leaves, so a NUL in the text never leads on.
    if (label == 0 || node >= units_.size() || label_of(units_[node]) != label) break;
    uint32_t unit = units_[node];
    node ^= offset_of(unit);
    if (!has_leaf(unit) || node >= units_.size()) continue;
    uint32_t value = value_of(units_[node]);
    if (value < replacements_.size()) found = Found{static_cast<uint32_t>(i + 1 - at), replacements_.c_str() + value};
  }
  return found;
}

}  // namespace hearth::tokenizer
