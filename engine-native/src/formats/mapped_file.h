// A file mapped read-only. Readers hold it by shared_ptr; views into it stay valid as long as any holder lives.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/status.h"

namespace hearth::formats {

class MappedFile {
 public:
  // not_found, io, or corrupt for an empty file; the message names the path.
  static Result<std::shared_ptr<MappedFile>> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::string& path() const { return path_; }
  bool holds(const std::byte* pointer) const { return pointer >= bytes_.data() && pointer < bytes_.data() + bytes_.size(); }
  using Progress = std::function<bool(double bytes)>;  // false ends it with Code::cancelled
  // Brings the whole file to memory that ops can stream over as they do over huge pages: the mapping itself where the
  // system maps it by huge pages (a file system with large folios), else a copy in huge pages. Not for two threads at once.
  Status settle(const Progress& progress);
  // Where the byte at `pointer` lies after settle(); nullptr before.
  const std::byte* settled(const std::byte* pointer) const { return settled_ ? settled_ + (pointer - bytes_.data()) : nullptr; }
  // Settled in the page cache: what the system counts as free, and must not be dropped.
  bool in_place() const { return settled_ == bytes_.data(); }

  // Copies `range` by reading the file: faster than touching pages that are not in memory. io when the file has shrunk.
  Status read(std::span<const std::byte> range, void* to) const;
  // Drops the whole pages inside `range` from this process and, as a hint, from the page cache.
  void forget(std::span<const std::byte> range) const;

 private:
  MappedFile() = default;
  Status copy_to_memory(const Progress& progress);
  std::string path_;
  int descriptor_ = -1;
  std::span<const std::byte> bytes_;
  const std::byte* settled_ = nullptr;  // bytes_.data(), or the copy
};

}  // namespace hearth::formats
