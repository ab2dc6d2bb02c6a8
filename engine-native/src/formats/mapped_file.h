// A file mapped read-only. Readers hold it by shared_ptr; views into it stay valid as long as any holder lives.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "core/status.h"

namespace hearth::formats {

class MappedFile {
 public:
  // not_found, io, or corrupt for an empty file; the message names the path.
  static Result<std::shared_ptr<const MappedFile>> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::string& path() const { return path_; }
  bool holds(const std::byte* pointer) const { return pointer >= bytes_.data() && pointer < bytes_.data() + bytes_.size(); }
  // Copies `range` by reading the file: faster than touching pages that are not in memory. io when the file has shrunk.
  Status read(std::span<const std::byte> range, void* to) const;
  // Drops the whole pages inside `range` from this process and, as a hint, from the page cache.
  void forget(std::span<const std::byte> range) const;

 private:
  MappedFile() = default;
  std::string path_;
  int descriptor_ = -1;
  std::span<const std::byte> bytes_;
};

}  // namespace hearth::formats
