#include "formats/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <algorithm>
#include <cstring>
#include <deque>
#include <filesystem>
#include <future>
#include <mutex>
#include <nlohmann/json.hpp>
#include <span>
#include <thread>
#include <utility>

#include "core/huge_pages.h"
#include "formats/tensor_store.h"

namespace hearth::formats {

namespace {

constexpr size_t data_alignment = 4096;

const char* type_text(DType type) {
  switch (type) {
    case DType::f32: return "F32";
    case DType::f16: return "F16";
    case DType::bf16: return "BF16";
    case DType::i8: return "I8";
    case DType::u8: return "U8";
    case DType::i32: return "I32";
    case DType::i64: return "I64";
    case DType::f64: return "F64";
    case DType::i16: return "I16";
    case DType::boolean: return "BOOL";
  }
  return "";
}

// A file under a name of its own until it is whole.
class FileAside {
 public:
  explicit FileAside(const std::string& path) : path_(path), aside_(path + ".partial") {}
  ~FileAside() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (direct_ >= 0) ::close(direct_);
    if (!renamed_) ::unlink(aside_.c_str());
  }
  Status open() {
    descriptor_ = ::open(aside_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    return descriptor_ < 0 ? failed("create") : Status::ok();
  }
  // Takes the disk's room before anything is written: a full disk is known at once, and large writes go past the page cache.
  Status reserve(int64_t size) {
    if (::fallocate(descriptor_, 0, 0, size) != 0 && errno == ENOSPC) return failed("write");
    direct_ = ::open(aside_.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC);
    return Status::ok();
  }
  Status write(const void* data, size_t size) {
    const char* at = static_cast<const char*>(data);
    const off_t begin = written_;
    const bool aligned = reinterpret_cast<uintptr_t>(data) % data_alignment == 0 && written_ % static_cast<off_t>(data_alignment) == 0;
    while (size > 0) {
      const bool direct = direct_ >= 0 && aligned && size >= data_alignment;
      const size_t part = direct ? size / data_alignment * data_alignment : size;
      const ssize_t written = ::pwrite(direct ? direct_ : descriptor_, at, std::min(part, size_t{1} << 30), written_);
      if (written < 0 && errno == EINTR) continue;
      if (direct && (written <= 0 || static_cast<size_t>(written) % data_alignment != 0)) {  // a file system that refuses it only now
        ::close(direct_);
        direct_ = -1;
        if (written <= 0) continue;
      }
      if (written <= 0) return failed("write");
      at += written;
      size -= static_cast<size_t>(written);
      written_ += written;
    }
    // On its way to the disk at once: the sync at the end then waits for little.
    ::sync_file_range(descriptor_, begin, written_ - begin, SYNC_FILE_RANGE_WRITE);
    return Status::ok();
  }
  Status finish() {
    if (::fsync(descriptor_) != 0) return failed("sync");
    if (::rename(aside_.c_str(), path_.c_str()) != 0) return failed("rename");
    renamed_ = true;
    const auto folder = std::filesystem::path(path_).parent_path().string();
    return sync_folder(folder.empty() ? "." : folder);
  }

 private:
  Status failed(const char* what) const { return io_error(aside_ + ": cannot " + what + ": " + std::strerror(errno)); }
  std::string path_, aside_;
  int descriptor_ = -1, direct_ = -1;
  off_t written_ = 0;
  bool renamed_ = false;
};

// Memory for tensors under way, used again: fresh pages cost more than what is written to them.
class Buffers {
 public:
  ~Buffers() {
    for (const Block& block : free_) unmap_pages(block.at, block.bytes, true);
  }
  struct Block { std::byte* at = nullptr; size_t bytes = 0; };
  Result<Block> take(size_t bytes) {
    {
      std::lock_guard lock(mutex_);
      const auto fits = std::find_if(free_.begin(), free_.end(), [&](const Block& block) { return block.bytes >= bytes; });
      if (fits != free_.end()) {
        const Block block = *fits;
        free_.erase(fits);
        return block;
      }
      if (!free_.empty()) {  // too small: its place is taken by a larger one
        unmap_pages(free_.back().at, free_.back().bytes, true);
        free_.pop_back();
      }
    }
    const Block block{static_cast<std::byte*>(map_pages(bytes, true)), bytes};
    if (block.at == nullptr) return out_of_memory("cannot map " + std::to_string(bytes) + " bytes for a tensor");
    return block;
  }
  void give_back(const Block& block) {
    std::lock_guard lock(mutex_);
    free_.push_back(block);
  }

 private:
  std::mutex mutex_;
  std::vector<Block> free_;
};

// A tensor's bytes: a vector's, or a block's that goes back when they are written.
struct Content {
  Content() = default;
  explicit Content(std::vector<std::byte> bytes) : owned(std::move(bytes)), data(owned) {}
  Content(Buffers& from, Buffers::Block taken, size_t size) : buffers(&from), block(taken), data(taken.at, size) {}
  Content(Content&& other) noexcept : owned(std::move(other.owned)), buffers(std::exchange(other.buffers, nullptr)), block(other.block), data(other.data) {}
  Content& operator=(Content&&) = delete;
  ~Content() { if (buffers) buffers->give_back(block); }
  std::vector<std::byte> owned;
  Buffers* buffers = nullptr;
  Buffers::Block block;
  std::span<const std::byte> data;
};

Result<Content> make_content(const SafetensorsWriter::Source& source, const SafetensorsWriter::Fill& fill, size_t size, Buffers& buffers) {
  if (!fill) {
    HEARTH_ASSIGN(std::vector<std::byte> bytes, source());
    return Content(std::move(bytes));
  }
  HEARTH_ASSIGN(const Buffers::Block block, buffers.take(size));
  Content content(buffers, block, size);
  HEARTH_TRY(fill(block.at));
  return content;
}

// Results of make(0), make(1), … in order, each made on a thread of its own; the next few are under way.
class Ahead {
 public:
  Ahead(size_t count, std::function<Result<Content>(size_t)> make) : count_(count), make_(std::move(make)) {}
  Result<Content> next() {
    static const size_t threads = std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 8);
    for (; begun_ < count_ && under_way_.size() < threads; begun_++) under_way_.push_back(std::async(std::launch::async, make_, begun_));
    Result<Content> content = under_way_.front().get();
    under_way_.pop_front();
    return content;
  }

 private:
  size_t count_, begun_ = 0;
  std::function<Result<Content>(size_t)> make_;
  std::deque<std::future<Result<Content>>> under_way_;
};

}  // namespace

Status sync_folder(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return io_error(path + ": " + std::strerror(errno));
  const bool synced = ::fsync(descriptor) == 0 || errno == EINVAL;  // some file systems cannot sync folders
  ::close(descriptor);
  return synced ? Status::ok() : io_error(path + ": cannot sync: " + std::strerror(errno));
}

Status write_file_atomically(const std::string& path, std::string_view content) {
  FileAside file(path);
  HEARTH_TRY(file.open());
  HEARTH_TRY(file.write(content.data(), content.size()));
  return file.finish();
}

Status copy_file_atomically(const std::string& from, const std::string& to) {
  const int source = ::open(from.c_str(), O_RDONLY | O_CLOEXEC);
  if (source < 0) return io_error(from + ": " + std::strerror(errno));
  FileAside file(to);
  Status status = file.open();
  std::vector<char> block(size_t{4} << 20);
  ssize_t got = 1;
  while (status && got != 0) {
    got = ::read(source, block.data(), block.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) status = io_error(from + ": " + std::strerror(errno));
    else status = file.write(block.data(), static_cast<size_t>(got));
  }
  ::close(source);
  return status ? file.finish() : status;
}

void SafetensorsWriter::add(std::string name, DType type, std::vector<int64_t> shape, std::vector<std::byte> bytes) {
  add(std::move(name), type, std::move(shape), [bytes = std::move(bytes)]() -> Result<std::vector<std::byte>> { return bytes; });
}

void SafetensorsWriter::add(std::string name, DType type, std::vector<int64_t> shape, Source source) {
  const int64_t size = checked_bytes(shape, static_cast<int64_t>(size_of(type))).value_or(0);
  entries_.push_back({std::move(name), type, std::move(shape), size, std::move(source), nullptr});
}

void SafetensorsWriter::add_filled(std::string name, DType type, std::vector<int64_t> shape, Fill fill) {
  const int64_t size = checked_bytes(shape, static_cast<int64_t>(size_of(type))).value_or(0);
  entries_.push_back({std::move(name), type, std::move(shape), size, nullptr, std::move(fill)});
}

int64_t SafetensorsWriter::bytes() const {
  int64_t total = 0;
  for (const Entry& entry : entries_) total += entry.size;
  return total;
}

std::string SafetensorsWriter::header(const std::map<std::string, std::string>& metadata) const {
  nlohmann::json object = nlohmann::json::object();
  object["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const Entry& entry : entries_) {
    object[entry.name] = {{"dtype", type_text(entry.type)}, {"shape", entry.shape}, {"data_offsets", {offset, offset + entry.size}}};
    offset += entry.size;
  }
  std::string text = object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const size_t end = sizeof(uint64_t) + text.size();
  text.append((data_alignment - end % data_alignment) % data_alignment, ' ');
  return text;
}

Status SafetensorsWriter::write(const std::string& path, const std::map<std::string, std::string>& metadata,
                                const std::function<bool(double, double)>& progress) const {
  FileAside file(path);
  HEARTH_TRY(file.open());
  const std::string text = header(metadata);
  const uint64_t size = text.size();
  HEARTH_TRY(file.reserve(static_cast<int64_t>(sizeof size + text.size()) + bytes()));
  HEARTH_TRY(file.write(&size, sizeof size));
  HEARTH_TRY(file.write(text.data(), text.size()));
  const double total = static_cast<double>(bytes());
  double done = 0;
  Buffers buffers;
  Ahead ahead(entries_.size(), [this, &buffers](size_t i) { return make_content(entries_[i].source, entries_[i].fill, static_cast<size_t>(entries_[i].size), buffers); });
  for (const Entry& entry : entries_) {
    const Result<Content> made = ahead.next();
    if (!made) return made.status();
    if (static_cast<int64_t>(made->data.size()) != entry.size) {
      return Status(Code::internal, path + ": tensor '" + entry.name + "' has " + std::to_string(made->data.size()) + " bytes, declared " + std::to_string(entry.size));
    }
    HEARTH_TRY(file.write(made->data.data(), made->data.size()));
    done += static_cast<double>(entry.size);
    if (progress && !progress(done, total)) return Status(Code::cancelled, path + ": cancelled");
  }
  return file.finish();
}

std::vector<std::byte> to_half_bytes(const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(Half));
  auto* to = reinterpret_cast<Half*>(bytes.data());
  for (size_t i = 0; i < values.size(); i++) to[i] = to_half(values[i]);
  return bytes;
}

}  // namespace hearth::formats
