// The CPU as a device: ops run at once on a pool of pinned workers; weights and KV live in huge-page arenas.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <unordered_map>

#include "core/huge_pages.h"
#include "device/cpu_features.h"
#include "device/cpu_stream.h"
#include "device/cpu_topology.h"
#include "device/device.h"
#include "device/host_memory.h"

namespace hearth::device {
namespace {

int64_t last_level_cache_bytes() {
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size");
  std::string text;
  return std::getline(file, text) ? std::strtoll(text.c_str(), nullptr, 10) * 1024 : 0;
}

// From this many rows on computing takes longer than reading the weights: a core multiplies an int8 weight with six to ten
// rows while memory brings its share of them.
constexpr int computing_rows = 8;

DeviceInfo describe_cpu(int threads, int prompt_threads, const CpuTopology& topology, const CpuFeatures& features) {
  DeviceInfo info;
  info.kind = DeviceKind::cpu;
  info.name = cpu_name();
  info.threads = prompt_threads;
  info.decode_threads = threads;
  info.cpu = features;
  info.performance_cores = topology.performance_cores;
  info.efficiency_cores = topology.efficiency_cores;
  info.cpu_limit = topology.quota;
  info.profile.name = "cpu";
  info.profile.multiprocessors = threads;
  info.profile.l2_bytes = last_level_cache_bytes();
  info.profile.memory_bytes = meminfo_bytes("MemTotal");
  info.profile.unified_memory = true;
  info.profile.step_tokens = 256;
  return info;
}

// Copies at once, on the thread that asks.
struct HostCopyQueue final : Device::CopyQueue {
  Status after(uint32_t) override { return Status::ok(); }
  Status upload(void* to, const void* from, size_t bytes) override { return std::memcpy(to, from, bytes), Status::ok(); }
  Status download(void* to, const void* from, size_t bytes) override { return std::memcpy(to, from, bytes), Status::ok(); }
  Status finish() override { return Status::ok(); }
};

class CpuDevice final : public Device {
 public:
  CpuDevice(int threads, int prompt_threads, const CpuTopology& topology, const CpuFeatures& features)
      : pool_(threads, topology.order, prompt_threads - threads), stream_(pool_),
        info_(describe_cpu(threads, prompt_threads, topology, features)) {}
  ~CpuDevice() override {
    for (const auto& [pointer, block] : blocks_) unmap_pages(pointer, block.bytes, block.huge);
  }

  const DeviceInfo& info() const override { return info_; }
  Stream& stream() override { return stream_; }
  void adopt_step_thread() override { pool_.pin_caller(); }
  void begin_rows(int rows) override { pool_.use_reserve(rows >= computing_rows); }

  Result<void*> allocate(size_t bytes, MemoryKind kind, const char* what) override {
    if (bytes == 0) bytes = 1;
    // A huge page for every small tensor would waste most of it.
    const bool huge = bytes >= huge_page_bytes && kind != MemoryKind::staging;
    void* pointer = map_pages(bytes, huge);
    if (pointer == nullptr) {
      return out_of_memory("cannot map " + std::to_string(bytes) + " bytes for " + what);
    }
    std::lock_guard lock(mutex_);
    blocks_[pointer] = {bytes, huge};
    return pointer;
  }

  void release(void* pointer) override {
    std::lock_guard lock(mutex_);
    const auto found = blocks_.find(pointer);
    if (found == blocks_.end()) return;
    unmap_pages(pointer, found->second.bytes, found->second.huge);
    blocks_.erase(found);
  }

  Result<size_t> available_bytes() override {
    const int64_t free = host_available_bytes(mapped_);
    if (free < 0) return io_error("/proc/meminfo has no MemAvailable");
    return static_cast<size_t>(free);
  }

  void count_mapped(int64_t bytes) override { mapped_ += bytes; }

  Status upload(void* to, const void* from, size_t bytes) override { return copy(to, from, bytes); }
  Status download(void* to, const void* from, size_t bytes) override { return copy(to, from, bytes); }
  Status copy(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) std::memmove(to, from, bytes);
    return Status::ok();
  }
  Status fill_zero(void* to, size_t bytes) override {
    if (bytes > 0) std::memset(to, 0, bytes);
    return Status::ok();
  }

  Result<std::unique_ptr<CopyQueue>> open_copy_queue() override {
    return std::unique_ptr<CopyQueue>(std::make_unique<HostCopyQueue>());
  }

  bool host_visible() const override { return true; }
  Result<uint32_t> mark() override { return uint32_t{0}; }
  Status wait(uint32_t) override { return Status::ok(); }

 private:
  struct Block { size_t bytes; bool huge; };
  ThreadPool pool_;
  CpuStream stream_;
  DeviceInfo info_;
  std::atomic<int64_t> mapped_{0};
  std::mutex mutex_;  // models load on other threads than the step's
  std::unordered_map<void*, Block> blocks_;
};

}  // namespace

Result<std::unique_ptr<Device>> open_cpu_device(int threads, int prompt_threads) {
  constexpr int threads_max = 1024;
  if (threads < 0 || threads > threads_max) {
    return invalid("threads must be 0 (one per performance core) to " + std::to_string(threads_max) + ", not " + std::to_string(threads));
  }
  if (prompt_threads < 0 || prompt_threads > threads_max) {
    return invalid("prompt_threads must be 0 (efficiency cores too) to " + std::to_string(threads_max) + ", not " + std::to_string(prompt_threads));
  }
  const char* cap = std::getenv("HEARTH_CPU_MAX");
  HEARTH_ASSIGN(const CpuFeatures features, cap_cpu_features(detect_cpu_features(), cap == nullptr ? "" : cap));
  const CpuTopology topology = read_cpu_topology(usable_cpus());
  const int decode = threads == 0 ? topology.default_threads() : threads;
  const int prompt = prompt_threads > 0 ? prompt_threads : threads > 0 ? threads : topology.default_prompt_threads();
  if (prompt < decode) {
    return invalid("prompt threads (" + std::to_string(prompt) + ") must be at least the threads that decode (" + std::to_string(decode) + ")");
  }
  return std::unique_ptr<Device>(std::make_unique<CpuDevice>(decode, prompt, topology, features));
}

}  // namespace hearth::device
