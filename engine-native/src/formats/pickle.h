// A restricted unpickler. Values live in one array and refer to each other by index, so that no input can make the
// reader recurse. Every instruction costs a bounded amount of memory.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/status.h"

namespace hearth::formats {

using PickleId = uint32_t;  // index into Pickle::values

struct PickleValue {
  enum class Kind : uint8_t {
    none, boolean, integer, number, text, tuple, list, dict,
    global,       // text = "module name"
    persistent,   // items[0] = the id that stands for data outside the pickle
    call,         // items[0] = the callee (a permitted global), items[1] = its arguments
    mark,
  };
  Kind kind = Kind::none;
  int64_t integer = 0;
  double number = 0;
  std::string text;
  std::vector<PickleId> items;                            // tuple, list, persistent, call
  std::vector<std::pair<PickleId, PickleId>> entries;     // dict, in order
};

struct Pickle {
  std::vector<PickleValue> values;
  PickleId root = 0;
  const PickleValue& at(PickleId id) const { return values[id]; }
};

// `permitted` lists the globals ("collections OrderedDict") that may be named; all others are refused. Calling one
// makes a `call` value; nothing is executed. `file` names the source in messages.
Result<Pickle> read_pickle(std::span<const std::byte> bytes, std::span<const std::string_view> permitted, const std::string& file);

}  // namespace hearth::formats
