#include "formats/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace hearth::formats {

Result<std::shared_ptr<const MappedFile>> MappedFile::open(const std::string& path) {
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  file->descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file->descriptor_ < 0) {
    const int error = errno;
    return Status(error == ENOENT ? Code::not_found : Code::io, path + ": " + std::strerror(error));
  }
  struct stat info {};
  if (::fstat(file->descriptor_, &info) != 0) return io_error(path + ": " + std::strerror(errno));
  if (!S_ISREG(info.st_mode)) return invalid(path + ": not a regular file");
  if (info.st_size == 0) return corrupt(path + ": the file is empty");
  const size_t size = static_cast<size_t>(info.st_size);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file->descriptor_, 0);
  if (address == MAP_FAILED) return io_error(path + ": cannot map: " + std::strerror(errno));
  file->bytes_ = {static_cast<const std::byte*>(address), size};
  return std::shared_ptr<const MappedFile>(std::move(file));
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status MappedFile::read(std::span<const std::byte> range, void* to) const {
  size_t offset = static_cast<size_t>(range.data() - bytes_.data()), left = range.size();
  for (auto* at = static_cast<char*>(to); left > 0;) {
    const ssize_t got = ::pread(descriptor_, at, left, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return io_error(path_ + ": " + (got < 0 ? std::strerror(errno) : "the file has become shorter"));
    at += got;
    offset += static_cast<size_t>(got);
    left -= static_cast<size_t>(got);
  }
  return Status::ok();
}

void MappedFile::forget(std::span<const std::byte> range) const {
  if (range.empty() || !holds(range.data())) return;
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t offset = static_cast<size_t>(range.data() - bytes_.data());
  const size_t begin = (offset + page - 1) / page * page;
  const bool last = offset + range.size() == bytes_.size();  // nothing shares the file's last page
  const size_t end = (offset + range.size() + (last ? page - 1 : 0)) / page * page;
  if (begin >= end) return;
  ::madvise(const_cast<std::byte*>(bytes_.data()) + begin, end - begin, MADV_DONTNEED);
  ::posix_fadvise(descriptor_, static_cast<off_t>(begin), static_cast<off_t>(end - begin), POSIX_FADV_DONTNEED);
}

}  // namespace hearth::formats
