// One copy of the weights: where they live in the system's own memory, a file's pages go as soon as its tensors are
// packed, from the process and from the page cache.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "formats/mapped_file.h"
#include "model/support.h"
#include "support/temporary_folder.h"

namespace hearth::model {
namespace {

namespace fs = std::filesystem;

// A folder on a disk: a tmpfs is memory itself, and drops nothing.
fs::path disk_folder() {
  constexpr long tmpfs = 0x01021994;
  for (const fs::path& folder : {fs::temp_directory_path(), fs::path("/var/tmp"), fs::current_path()}) {
    struct statfs info {};
    if (::statfs(folder.c_str(), &info) == 0 && info.f_type != tmpfs && ::access(folder.c_str(), W_OK) == 0) return folder;
  }
  throw std::runtime_error("no folder on a disk to write to: set TMPDIR");
}

// A copy of a checkpoint whose pages are clean, so that they can be dropped.
class DiskCopy {
 public:
  explicit DiskCopy(const fs::path& from) : folder_(disk_folder()) {
    fs::copy(from, path(), fs::copy_options::recursive);
    const int file = ::open(weights().c_str(), O_RDONLY);
    ::fsync(file);
    ::close(file);
  }
  const std::string& path() const { return folder_.path(); }
  std::string weights() const { return path() + "/model.safetensors"; }

  // Brings the file into the page cache; returns its size in pages.
  size_t warm() const {
    std::ifstream in(weights(), std::ios::binary);
    std::vector<char> bytes(fs::file_size(weights()));
    in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return (bytes.size() + page() - 1) / page();
  }
  // Pages of the file in memory, by whomever.
  size_t resident() const {
    const auto file = formats::MappedFile::open(weights());
    const size_t size = (*file)->bytes().size();
    std::vector<unsigned char> pages((size + page() - 1) / page());
    EXPECT_EQ(::mincore(const_cast<std::byte*>((*file)->bytes().data()), size, pages.data()), 0);
    size_t count = 0;
    for (const unsigned char one : pages) count += one & 1;
    return count;
  }

 private:
  static size_t page() { return static_cast<size_t>(::sysconf(_SC_PAGESIZE)); }
  TemporaryFolder folder_;
};

struct Watch {
  const DiskCopy* copy;
  size_t before_last = 0;  // resident when the last tensor had been packed, before what is left is dropped
};

bool watch(void* context, const char* stage, double done, double total) {
  auto* seen = static_cast<Watch*>(context);
  if (std::string(stage) == "weights" && done == total) seen->before_last = seen->copy->resident();
  return true;
}

TEST(FilePages, GoAsTensorsArePacked) {
  const DiskCopy copy(std::string(HEARTH_SOURCE_DIR) + "/models/hearth-tiny-vl");
  const size_t pages = copy.warm();
  ASSERT_GE(copy.resident(), pages * 9 / 10);
  ASSERT_GE(pages, 1000u);
  for (const char* precision : {"auto", "w4a8"}) {
    copy.warm();
    LoadOptions options = exact_options(copy.path());
    options.precision = precision;
    options.kv = "auto";
    Watch seen{&copy};
    auto model = Model::load(options, test_device(), watch, &seen);
    ASSERT_TRUE(model.is_ok()) << model.status().message();
    std::printf("%s: %zu pages, %zu resident after the last tensor, %zu after the load\n", precision, pages, seen.before_last, copy.resident());
    // Of tensors as small as these, folios of the page cache that reach into a neighbour stay until the end.
    EXPECT_LE(seen.before_last, pages * 2 / 3) << precision;
    EXPECT_LE(copy.resident(), 16u) << precision;
  }
}

// Whoever reads weights where the file has them keeps them: opening and reading drops nothing.
TEST(FilePages, StayWhereNothingWasPacked) {
  const DiskCopy copy(std::string(HEARTH_SOURCE_DIR) + "/models/hearth-tiny-vl");
  const size_t pages = copy.warm();
  {
    auto checkpoint = formats::Checkpoint::open(copy.path());
    ASSERT_TRUE(checkpoint.is_ok());
    ASSERT_TRUE((*checkpoint)->linear("model.layers.0.self_attn.q_proj").is_ok());
  }
  ASSERT_TRUE(Model::plan(exact_options(copy.path()), test_device(), 0).is_ok());
  EXPECT_GE(copy.resident(), pages * 9 / 10);
}

TEST(FilePages, ForgottenBytesAreReadAgain) {
  const DiskCopy copy(std::string(HEARTH_SOURCE_DIR) + "/models/hearth-tiny-vl");
  const auto file = formats::MappedFile::open(copy.weights());
  ASSERT_TRUE(file.is_ok());
  const std::vector<std::byte> before((*file)->bytes().begin(), (*file)->bytes().end());
  (*file)->forget((*file)->bytes());
  EXPECT_LE(copy.resident(), 16u);
  EXPECT_TRUE(std::equal(before.begin(), before.end(), (*file)->bytes().begin()));
}

// A file of `bytes` bytes that are not zero, clean and out of the page cache.
std::string big_file(const TemporaryFolder& folder, size_t bytes) {
  const std::string path = folder.path() + "/big";
  std::vector<uint32_t> words((bytes + 3) / 4);
  for (size_t i = 0; i < words.size(); i++) words[i] = static_cast<uint32_t>(i * 2654435761u + 1);
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(words.data()), static_cast<std::streamsize>(bytes));
  const int file = ::open(path.c_str(), O_RDONLY);
  ::fsync(file);
  ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  ::close(file);
  return path;
}

// Settled bytes are the file's, wherever they lie: in the page cache by huge pages, or copied from the disk, from the page
// cache, or on a file system without huge pages.
TEST(FilePages, SettledBytesAreTheFiles) {
  constexpr size_t bytes = (size_t{40} << 20) + 12345;
  const TemporaryFolder disk(disk_folder()), memory("/dev/shm");
  for (const TemporaryFolder* folder : {&disk, &memory}) {
    for (const bool warm : {false, true}) {
      const std::string path = big_file(*folder, bytes);
      std::ifstream in(path, std::ios::binary);
      std::vector<char> expected(warm ? bytes : 0);
      in.read(expected.data(), static_cast<std::streamsize>(expected.size()));
      auto file = formats::MappedFile::open(path);
      ASSERT_TRUE(file.is_ok());
      const std::span<const std::byte> all = (*file)->bytes();
      EXPECT_EQ((*file)->settled(all.data()), nullptr);
      double reached = 0;
      const Status status = (*file)->settle([&](double done) { return reached = done, true; });
      ASSERT_TRUE(status.is_ok()) << status.message();
      EXPECT_EQ(reached, static_cast<double>(bytes));
      const std::byte* at = (*file)->settled(all.data());
      EXPECT_TRUE(std::equal(all.begin(), all.end(), at)) << path;
      EXPECT_EQ((*file)->in_place(), at == all.data());
      EXPECT_EQ(reinterpret_cast<uintptr_t>(at) % 4096, 0u);
      (*file)->forget(all);
      EXPECT_TRUE(std::equal(all.begin(), all.end(), at));
      std::printf("%s, %s: %s\n", path.c_str(), warm ? "read before" : "cold", (*file)->in_place() ? "in place" : "copied");
    }
  }
}

TEST(FilePages, AFileThatShrankIsRefused) {
  const TemporaryFolder folder(disk_folder());
  const std::string path = big_file(folder, size_t{40} << 20);
  auto file = formats::MappedFile::open(path);
  ASSERT_TRUE(file.is_ok());
  fs::resize_file(path, size_t{20} << 20);
  const Status status = (*file)->settle(nullptr);
  EXPECT_EQ(status.code(), Code::io);
  EXPECT_NE(status.message().find("shorter"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace hearth::model
