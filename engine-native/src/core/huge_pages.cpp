#include "core/huge_pages.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>

namespace hearth {
namespace {

constexpr size_t small_page_bytes = 4096;
constexpr int populate_write = 23;  // MADV_POPULATE_WRITE of Linux 5.14; older headers do not name it

size_t rounded(size_t bytes, bool huge) {
  const size_t page = huge ? huge_page_bytes : small_page_bytes;
  return (bytes + page - 1) / page * page;
}

void* map_anonymous(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : p;
}

}  // namespace

void* map_pages(size_t bytes, bool huge) {
  const size_t size = rounded(bytes, huge);
  if (size < bytes) return nullptr;  // overflow
  if (!huge) return map_anonymous(size);
  // mmap aligns to 4 KiB: ask for one huge page more and give the ends back.
  auto* raw = static_cast<uint8_t*>(map_anonymous(size + huge_page_bytes));
  if (raw == nullptr) return nullptr;
  const size_t head = (huge_page_bytes - reinterpret_cast<uintptr_t>(raw) % huge_page_bytes) % huge_page_bytes;
  if (head > 0) munmap(raw, head);
  munmap(raw + head + size, huge_page_bytes - head);
  madvise(raw + head, size, MADV_HUGEPAGE);
  return raw + head;
}

void unmap_pages(void* pointer, size_t bytes, bool huge) {
  if (pointer != nullptr) munmap(pointer, rounded(bytes, huge));
}

bool populate_pages(void* pointer, size_t bytes) {
  if (madvise(pointer, bytes, populate_write) == 0) return true;
  if (errno != EINVAL) return false;
  auto* page = static_cast<volatile uint8_t*>(pointer);
  for (size_t at = 0; at < bytes; at += small_page_bytes) page[at] = 0;
  return true;
}

}  // namespace hearth
