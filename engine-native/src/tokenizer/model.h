// What turns one piece of text into ids.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace hearth::tokenizer {

class Model {
 public:
  virtual ~Model() = default;
  // Appends the ids of a piece of well-formed, normalized text.
  virtual void encode(std::string_view piece, std::vector<int32_t>& ids) const = 0;
};

}  // namespace hearth::tokenizer
