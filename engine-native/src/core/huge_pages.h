// Anonymous memory for what is big and long-lived: 2 MiB aligned, huge pages where the system grants them.
#pragma once

#include <cstddef>

namespace hearth {

inline constexpr size_t huge_page_bytes = size_t{2} << 20;

// Zeroed address space, not yet touched: the first thread that writes a page decides its NUMA node.
// nullptr when the system has none left. Sizes are rounded up to whole pages.
void* map_pages(size_t bytes, bool huge);
void unmap_pages(void* pointer, size_t bytes, bool huge);
// Gives every page its memory now, by the calling thread. False when the system has none left.
bool populate_pages(void* pointer, size_t bytes);

}  // namespace hearth
