// How deep a JSON text nests, measured before it is parsed: what is made of it is copied, compared and written by
// recursion, and a document of a million brackets would cost gigabytes as a tree.
#pragma once

#include <algorithm>
#include <string_view>

namespace hearth {

inline int nesting_depth(std::string_view text) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); i++) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') i++;
      else if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      depth--;
    }
  }
  return deepest;
}

}  // namespace hearth
