#include "formats/zip.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "formats/packing.h"

namespace hearth::formats {

namespace {

constexpr uint32_t end_signature = 0x06054b50, end64_signature = 0x06064b50, locator64_signature = 0x07064b50;
constexpr uint32_t entry_signature = 0x02014b50, local_signature = 0x04034b50;
constexpr uint64_t entries_max = 1'000'000;

class Reader {
 public:
  Reader(std::span<const std::byte> bytes, uint64_t position) : bytes_(bytes), position_(position) {}
  bool has(uint64_t count) const { return position_ <= bytes_.size() && count <= bytes_.size() - position_; }
  template <class T>
  T take() {  // after has()
    T value;
    __builtin_memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }
  std::string text(size_t size) {
    std::string value(reinterpret_cast<const char*>(bytes_.data()) + position_, size);
    position_ += size;
    return value;
  }
  void skip(uint64_t count) { position_ += count; }
  uint64_t position() const { return position_; }

 private:
  std::span<const std::byte> bytes_;
  uint64_t position_;
};

struct Directory { uint64_t entries = 0, offset = 0, size = 0; };
struct Entry { std::string name; uint64_t size = 0, stored_size = 0, offset = 0; uint16_t method = 0, flags = 0; };

std::optional<uint64_t> find_end(std::span<const std::byte> archive) {
  constexpr uint64_t record = 22, comment_max = 65535;
  if (archive.size() < record) return std::nullopt;
  const uint64_t last = archive.size() - record;
  for (uint64_t back = 0; back <= std::min(last, comment_max); back++) {
    if (load_at<uint32_t>(archive.data() + (last - back), 0) == end_signature) return last - back;
  }
  return std::nullopt;
}

// Archives over 4 GB hold the real numbers in a second record, found through a locator before the first.
Result<Directory> read_end64(std::span<const std::byte> archive, uint64_t end, const std::string& file) {
  if (end < 20) return corrupt(file + ": zip64 locator is missing");
  Reader locator(archive, end - 20);
  if (locator.take<uint32_t>() != locator64_signature) return corrupt(file + ": zip64 locator is missing");
  locator.skip(4);
  Reader record(archive, locator.take<uint64_t>());
  if (!record.has(56) || record.take<uint32_t>() != end64_signature) return corrupt(file + ": zip64 end record is missing");
  record.skip(28);
  Directory directory;
  directory.entries = record.take<uint64_t>();
  directory.size = record.take<uint64_t>();
  directory.offset = record.take<uint64_t>();
  return directory;
}

Result<Directory> read_end(std::span<const std::byte> archive, const std::string& file) {
  const auto end = find_end(archive);
  if (!end) return corrupt(file + ": not a zip archive, or truncated");
  Reader reader(archive, *end + 10);
  Directory directory;
  directory.entries = reader.take<uint16_t>();
  directory.size = reader.take<uint32_t>();
  directory.offset = reader.take<uint32_t>();
  if (directory.entries == 0xffff || directory.size == 0xffffffff || directory.offset == 0xffffffff) {
    HEARTH_ASSIGN(directory, read_end64(archive, *end, file));
  }
  if (directory.entries > entries_max) return corrupt(file + ": " + std::to_string(directory.entries) + " zip entries");
  if (directory.offset > archive.size() || directory.size > archive.size() - directory.offset) {
    return corrupt(file + ": the zip directory lies outside the file");
  }
  return directory;
}

// Sizes of 0xffffffff are in the zip64 extra field, in this order.
bool read_extra64(Reader extra, uint64_t extra_end, Entry& entry) {
  while (extra.position() + 4 <= extra_end) {
    const uint16_t id = extra.take<uint16_t>(), size = extra.take<uint16_t>();
    if (extra.position() + size > extra_end) return false;
    if (id != 1) {
      extra.skip(size);
      continue;
    }
    uint16_t left = size;
    for (uint64_t* field : {&entry.size, &entry.stored_size, &entry.offset}) {
      if (*field != 0xffffffff) continue;
      if (left < 8) return false;
      *field = extra.take<uint64_t>();
      left = static_cast<uint16_t>(left - 8);
    }
    return true;
  }
  return entry.size != 0xffffffff && entry.stored_size != 0xffffffff && entry.offset != 0xffffffff;
}

Result<Entry> read_entry(std::span<const std::byte> archive, Reader& reader, const std::string& file) {
  if (!reader.has(46) || reader.take<uint32_t>() != entry_signature) return corrupt(file + ": a zip directory entry is damaged");
  Entry entry;
  reader.skip(4);
  entry.flags = reader.take<uint16_t>();
  entry.method = reader.take<uint16_t>();
  reader.skip(8);
  entry.stored_size = reader.take<uint32_t>();
  entry.size = reader.take<uint32_t>();
  const uint16_t name_size = reader.take<uint16_t>(), extra_size = reader.take<uint16_t>(), comment_size = reader.take<uint16_t>();
  reader.skip(8);
  entry.offset = reader.take<uint32_t>();
  if (!reader.has(uint64_t{name_size} + extra_size + comment_size)) return corrupt(file + ": a zip directory entry is truncated");
  entry.name = reader.text(name_size);
  const uint64_t extra_end = reader.position() + extra_size;
  if (!read_extra64(Reader(archive, reader.position()), extra_end, entry))
    return corrupt(file + ": zip entry '" + entry.name + "' has a damaged size");
  reader.skip(uint64_t{extra_size} + comment_size);
  return entry;
}

Result<std::span<const std::byte>> locate(std::span<const std::byte> archive, const Entry& entry, const std::string& file) {
  const std::string what = file + ": zip entry '" + entry.name + "'";
  if (entry.flags & 1) return unsupported(what + " is encrypted");
  if (entry.method != 0) return unsupported(what + " is compressed; torch.save stores its entries");
  if (entry.size != entry.stored_size) return corrupt(what + " has two sizes");
  Reader local(archive, entry.offset);
  if (!local.has(30) || local.take<uint32_t>() != local_signature) return corrupt(what + " has no local header");
  local.skip(22);
  const uint16_t name_size = local.take<uint16_t>(), extra_size = local.take<uint16_t>();
  local.skip(uint64_t{name_size} + extra_size);
  if (!local.has(entry.size)) return corrupt(what + " ends outside the file");
  return archive.subspan(local.position(), entry.size);
}

}  // namespace

Result<std::map<std::string, std::span<const std::byte>>> read_zip(std::span<const std::byte> archive, const std::string& file) {
  HEARTH_ASSIGN(const Directory directory, read_end(archive, file));
  std::map<std::string, std::span<const std::byte>> entries;
  std::vector<std::span<const std::byte>> ranges;
  Reader reader(archive, directory.offset);
  for (uint64_t i = 0; i < directory.entries; i++) {
    HEARTH_ASSIGN(const Entry entry, read_entry(archive, reader, file));
    HEARTH_ASSIGN(const auto bytes, locate(archive, entry, file));
    if (!entries.emplace(entry.name, bytes).second) return corrupt(file + ": zip entry '" + entry.name + "' appears twice");
    if (!bytes.empty()) ranges.push_back(bytes);
  }
  std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) { return a.data() < b.data(); });
  for (size_t i = 1; i < ranges.size(); i++) {
    if (ranges[i - 1].data() + ranges[i - 1].size() > ranges[i].data()) return corrupt(file + ": zip entries overlap");
  }
  return entries;
}

}  // namespace hearth::formats
