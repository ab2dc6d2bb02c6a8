#include "formats/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <thread>
#include <vector>

#include "core/huge_pages.h"

namespace hearth::formats {

namespace {

constexpr size_t piece_bytes = size_t{32} << 20;  // brought in between two reports of progress
constexpr size_t block_bytes = size_t{8} << 20;   // read at once by one thread
constexpr size_t direct_alignment = 4096;
constexpr double huge_enough = 0.9;

size_t page_bytes() { return static_cast<size_t>(::sysconf(_SC_PAGESIZE)); }

// Bytes of the mapping that begins at `address` that huge page table entries map.
size_t huge_mapped_bytes(const void* address) {
  std::ifstream maps("/proc/self/smaps");
  char begin[32];
  std::snprintf(begin, sizeof begin, "%lx-", reinterpret_cast<unsigned long>(address));
  constexpr std::string_view key = "FilePmdMapped:";
  bool here = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.starts_with(begin)) here = true;
    else if (here && line.starts_with(key)) return std::strtoull(line.c_str() + key.size(), nullptr, 10) * 1024;
  }
  return 0;
}

// Maps [at, at + size) before it is touched, reading what is not in the page cache; false where the system cannot.
bool populate(const std::byte* at, size_t size) {
#ifdef MADV_POPULATE_READ
  int result;
  do result = ::madvise(const_cast<std::byte*>(at), size, MADV_POPULATE_READ);
  while (result != 0 && (errno == EINTR || errno == EAGAIN));
  return result == 0;
#else
  return false;
#endif
}

bool mostly_in_page_cache(std::span<const std::byte> bytes) {
  std::vector<unsigned char> pages((bytes.size() + page_bytes() - 1) / page_bytes());
  if (::mincore(const_cast<std::byte*>(bytes.data()), bytes.size(), pages.data()) != 0) return false;
  const auto there = std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return (page & 1) != 0; });
  return static_cast<size_t>(there) > pages.size() / 2;
}

Status read_at(int descriptor, size_t offset, size_t size, size_t least, std::byte* to, const std::string& path) {
  for (size_t done = 0; done < least;) {
    const ssize_t got = ::pread(descriptor, to + done, size - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return io_error(path + ": " + (got < 0 ? std::strerror(errno) : "the file has become shorter"));
    done += static_cast<size_t>(got);
  }
  return Status::ok();
}

}  // namespace

Result<std::shared_ptr<MappedFile>> MappedFile::open(const std::string& path) {
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
  // What is touched is then read by huge pages, where the file system has them: settle() may use them in place.
  ::madvise(address, size, MADV_HUGEPAGE);
  return file;
}

MappedFile::~MappedFile() {
  if (settled_ && !in_place()) unmap_pages(const_cast<std::byte*>(settled_), bytes_.size() + direct_alignment, true);
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  if (descriptor_ >= 0) ::close(descriptor_);
}

// The file's first piece shows whether its pages are huge; where they are not, no more is brought into the page cache.
Status MappedFile::settle(const Progress& progress) {
  if (settled_) return Status::ok();
  bool huge = bytes_.size() >= huge_page_bytes;
  for (size_t at = 0; huge && at < bytes_.size(); at += piece_bytes) {
    const size_t size = std::min(piece_bytes, bytes_.size() - at);
    huge = populate(bytes_.data() + at, size);
    if (huge && at == 0) huge = static_cast<double>(huge_mapped_bytes(bytes_.data())) > 0.5 * static_cast<double>(size);
    if (huge && progress && !progress(static_cast<double>(at + size))) return Status(Code::cancelled, path_ + ": cancelled");
  }
  if (huge) huge = static_cast<double>(huge_mapped_bytes(bytes_.data())) >= huge_enough * static_cast<double>(bytes_.size());
  if (!huge) return copy_to_memory(progress);
  settled_ = bytes_.data();
  return Status::ok();
}

// Several threads, past the page cache unless the file is in it: the disk writes into huge pages while others are taken.
Status MappedFile::copy_to_memory(const Progress& progress) {
  auto* memory = static_cast<std::byte*>(map_pages(bytes_.size() + direct_alignment, true));
  if (memory == nullptr) return out_of_memory("cannot map " + std::to_string(bytes_.size()) + " bytes for " + path_);
  int direct = mostly_in_page_cache(bytes_) ? -1 : ::open(path_.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  std::atomic<size_t> next{0};
  std::mutex mutex;
  Status first;
  size_t total = 0;
  const auto work = [&] {
    for (size_t at = next.fetch_add(block_bytes); at < bytes_.size(); at = next.fetch_add(block_bytes)) {
      const size_t size = std::min(block_bytes, bytes_.size() - at), whole = (size + direct_alignment - 1) / direct_alignment * direct_alignment;
      // A file system may refuse the flag only when it comes to reading.
      Status status = direct < 0 ? io_error("") : read_at(direct, at, whole, size, memory + at, path_);
      if (!status) status = read_at(descriptor_, at, size, size, memory + at, path_);
      std::lock_guard lock(mutex);
      if (status && progress && !progress(static_cast<double>(total += size))) status = Status(Code::cancelled, path_ + ": cancelled");
      if (!status && first) first = status, next = bytes_.size();
    }
  };
  const unsigned count = std::clamp(std::thread::hardware_concurrency(), 2u, 4u);
  std::vector<std::thread> threads;
  for (unsigned i = 1; i < count; i++) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  if (direct >= 0) ::close(direct);
  if (!first) unmap_pages(memory, bytes_.size() + direct_alignment, true);
  else settled_ = memory;
  return first;
}

Status MappedFile::read(std::span<const std::byte> range, void* to) const {
  if (settled_) return std::memcpy(to, settled(range.data()), range.size()), Status::ok();
  const size_t offset = static_cast<size_t>(range.data() - bytes_.data());
  return read_at(descriptor_, offset, range.size(), range.size(), static_cast<std::byte*>(to), path_);
}

void MappedFile::forget(std::span<const std::byte> range) const {
  if (range.empty() || !holds(range.data()) || in_place()) return;
  const size_t page = page_bytes();
  const size_t offset = static_cast<size_t>(range.data() - bytes_.data());
  const size_t begin = (offset + page - 1) / page * page;
  const bool last = offset + range.size() == bytes_.size();  // nothing shares the file's last page
  const size_t end = (offset + range.size() + (last ? page - 1 : 0)) / page * page;
  if (begin >= end) return;
  ::madvise(const_cast<std::byte*>(bytes_.data()) + begin, end - begin, MADV_DONTNEED);
  ::posix_fadvise(descriptor_, static_cast<off_t>(begin), static_cast<off_t>(end - begin), POSIX_FADV_DONTNEED);
}

}  // namespace hearth::formats
