// Writes a safetensors file so that no half-written one is ever found under its name: aside, synced, renamed.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"

namespace hearth::formats {

class SafetensorsWriter {
 public:
  // Gives the tensor's bytes when it is written, so that few tensors are in memory at a time; several are made at once,
  // each on a thread of its own, while earlier ones are written.
  using Source = std::function<Result<std::vector<std::byte>>()>;

  void add(std::string name, DType type, std::vector<int64_t> shape, std::vector<std::byte> bytes);
  void add(std::string name, DType type, std::vector<int64_t> shape, Source source);
  bool empty() const { return entries_.empty(); }
  int64_t bytes() const;

  // Tensors follow each other in the order they were added; the first begins on a multiple of 4096. io when the disk
  // is full; the file aside is removed then.
  Status write(const std::string& path, const std::map<std::string, std::string>& metadata,
               const std::function<bool(double done, double total)>& progress = nullptr) const;

  // The same for large tensors, written to memory that is used again for the next ones: 4096-byte aligned, contents undefined.
  using Fill = std::function<Status(std::byte* to)>;
  void add_filled(std::string name, DType type, std::vector<int64_t> shape, Fill fill);

 private:
  struct Entry { std::string name; DType type; std::vector<int64_t> shape; int64_t size; Source source; Fill fill; };
  std::string header(const std::map<std::string, std::string>& metadata) const;
  std::vector<Entry> entries_;
};

// Copies a file with the same promise, replacing what is there.
Status copy_file_atomically(const std::string& from, const std::string& to);
// A file with the same promise: aside, synced, renamed.
Status write_file_atomically(const std::string& path, std::string_view content);
// Syncs a folder, so that a rename in it survives a power cut.
Status sync_folder(const std::string& path);

template <class T>
std::vector<std::byte> to_bytes(const std::vector<T>& values) {
  const auto* begin = reinterpret_cast<const std::byte*>(values.data());
  return {begin, begin + values.size() * sizeof(T)};
}
// Values rounded to FP16.
std::vector<std::byte> to_half_bytes(const std::vector<float>& values);

}  // namespace hearth::formats
