// The entries of a zip archive whose members are stored, as torch.save writes them. Compressed members are refused, so
// there is nothing to inflate and nothing to explode.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>

#include "core/status.h"

namespace hearth::formats {

// Name -> its bytes within `archive`. Ranges are inside the archive and do not overlap. `file` names it in messages.
Result<std::map<std::string, std::span<const std::byte>>> read_zip(std::span<const std::byte> archive, const std::string& file);

}  // namespace hearth::formats
