// One CUDA GPU as a Device: memory in chunks, one stream, graphs, markers.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "core/huge_pages.h"
#include "device/cuda_functions.h"
#include "device/host_memory.h"
#include "device/profiles.h"

namespace hearth::device {
namespace {

#ifndef HEARTH_CUDA_BUILT
#define HEARTH_CUDA_BUILT ""
#endif
constexpr const char* built_for = HEARTH_CUDA_BUILT;  // "80 90 ptx"; empty: built without CUDA

constexpr size_t alignment = 256;
// Small tensors share chunks of this size; larger ones get memory of their own. One huge block fails on Jetsons.
constexpr size_t chunk_bytes = size_t{64} << 20;
constexpr size_t few_bytes = 8192;  // of an upload; a decode step of 64 rows has 2.5 KB of inputs
constexpr unsigned host_mapped = 0x2, host_portable = 0x1;
constexpr int capture_relaxed = 2;
constexpr unsigned event_no_timing = 0x2, stream_non_blocking = 0x1;

Status built_without() {
  return {Code::device, "this library was built without CUDA: run `npm run build:native` on a machine whose GPU nvidia-smi shows, or `npm run build:native -- --cuda=all`"};
}

size_t round_up(size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

struct CudaGraph final : Device::Graph {
  const cu::Api* api = nullptr;
  cu::Context context = nullptr;
  cu::GraphExec exec = nullptr;
  ~CudaGraph() override {
    api->cuCtxSetCurrent(context);
    if (exec) api->cuGraphExecDestroy(exec);
  }
};

}  // namespace

class CudaDevice final : public Device {
 public:
  static Result<std::unique_ptr<Device>> open(int ordinal, const std::string& forced_profile, bool force_unified);
  ~CudaDevice() override;

  const DeviceInfo& info() const override { return info_; }
  Stream& stream() override { return stream_; }
  Result<void*> allocate(size_t bytes, MemoryKind kind, const char* what) override;
  void release(void* pointer) override;
  Result<size_t> available_bytes() override;
  Status upload(void* device, const void* host, size_t bytes) override;
  Status download(void* host, const void* device, size_t bytes) override;
  Status copy(void* to, const void* from, size_t bytes) override;
  Status fill_zero(void* device, size_t bytes) override;
  bool host_visible() const override { return unified_; }
  Result<std::unique_ptr<Graph>> capture(Status (*body)(void*), void* argument) override;
  Status replay(Graph& graph) override;
  Result<uint32_t> mark() override;
  Status wait(uint32_t marker) override;
  Result<std::unique_ptr<CopyQueue>> open_copy_queue() override;

 private:
  struct Copies;
  struct Block {
    char* base = nullptr;
    size_t used = 0, bytes = 0;
    int users = 0;
    MemoryKind kind{};
    bool host = false;    // pinned host memory
    bool mapped = false;  // of these, pages of our own, see map_pinned
    bool shared = false;  // by several allocations
  };

  Status describe(int ordinal, const std::string& forced_profile, bool force_unified);
  Status start();
  Result<Block> take(size_t bytes, MemoryKind kind, const char* what);
  void give_back(const Block& block);
  Status check(cu::Result code, const char* what) const { return code == cu::success ? Status::ok() : cu::error(code, what); }
  void enter() const { api_->cuCtxSetCurrent(context_); }

  const cu::Api* api_ = nullptr;
  cu::Device device_ = 0;
  cu::Context context_ = nullptr;
  DeviceInfo info_;
  bool unified_ = false;
  int hardware_sm_ = 0, multiprocessors_ = 0;
  CudaStream stream_;
  CudaStream::Functions functions_;
  std::mutex mutex_;                     // of the memory map: loaders allocate from several threads
  std::map<char*, Block> blocks_;        // by base
  std::map<void*, char*> owner_;         // allocation -> base of its block
  std::array<cu::Event, 64> events_{};
  uint32_t markers_ = 0;
  cu::Event turn_end_ = nullptr;         // of the step of another model on the same GPU, see replay
};

// Who replayed a graph last, by GPU (models on one GPU share its primary context).
struct Turns { std::mutex mutex; std::map<cu::Context, CudaDevice*> last; };
inline Turns turns;

Status CudaDevice::describe(int ordinal, const std::string& forced_profile, bool force_unified) {
  int count = 0;
  HEARTH_TRY(check(api_->cuDeviceGetCount(&count), "counting GPUs"));
  if (ordinal < 0 || ordinal >= count) return {Code::device, "there is no GPU " + std::to_string(ordinal) + ": the driver sees " + std::to_string(count)};
  HEARTH_TRY(check(api_->cuDeviceGet(&device_, ordinal), "opening the GPU"));
  char name[256] = {};
  api_->cuDeviceGetName(name, sizeof(name) - 1, device_);
  auto attribute = [&](int which) { int value = 0; api_->cuDeviceGetAttribute(&value, which, device_); return value; };
  hardware_sm_ = attribute(cu::attribute_major) * 10 + attribute(cu::attribute_minor);
  multiprocessors_ = attribute(cu::attribute_multiprocessors);
  if (hardware_sm_ < 80) return {Code::device, std::string(name) + " is sm_" + std::to_string(hardware_sm_) + "; Hearth's kernels need sm_80 (Ampere) or newer. Use --device cpu"};
  const bool integrated = attribute(cu::attribute_integrated) != 0;
  unified_ = integrated || force_unified;

  info_.kind = DeviceKind::cuda;
  info_.ordinal = ordinal;
  info_.name = name;
  info_.compute_capability = hardware_sm_;
  info_.threads = multiprocessors_;
  DeviceProfile& p = info_.profile;
  if (const DeviceProfile* known = match_profile(name, hardware_sm_, multiprocessors_)) p = *known;
  else {
    p.name = "computed";
    p.bandwidth_gb_s = 2.0 * attribute(cu::attribute_memory_clock_khz) * 1e3 * attribute(cu::attribute_bus_bits) / 8 / 1e9;
    p.step_tokens = multiprocessors_ >= 100 ? 2048 : multiprocessors_ >= 30 ? 512 : 256;
  }
  size_t total = 0;
  api_->cuDeviceTotalMem(&total, device_);
  p.sm = hardware_sm_;
  p.multiprocessors = multiprocessors_;
  p.memory_bytes = static_cast<int64_t>(total);
  p.l2_bytes = attribute(cu::attribute_l2_bytes);
  p.unified_memory = unified_;
  p.shared_bytes_per_block = attribute(cu::attribute_shared_bytes_optin);
  if (forced_profile.empty()) return Status::ok();

  const DeviceProfile* forced = find_profile(forced_profile);
  if (!forced) {
    std::string names;
    for (const DeviceProfile& known : gpu_profiles()) names += " " + known.name;
    return invalid("HEARTH_DEVICE_PROFILE=" + forced_profile + " is no profile; there are" + names);
  }
  if (forced->sm > hardware_sm_) return invalid("profile " + forced_profile + " needs sm_" + std::to_string(forced->sm) + "; this GPU is sm_" + std::to_string(hardware_sm_));
  const int limit = std::min(p.shared_bytes_per_block, forced->shared_bytes_per_block);
  p = *forced;  // its code path and choices; memory stays where the hardware has it
  p.memory_bytes = static_cast<int64_t>(total);
  p.unified_memory = unified_;
  p.shared_bytes_per_block = limit;
  info_.compute_capability = forced->sm;
  return Status::ok();
}

Status CudaDevice::start() {
  HEARTH_TRY(check(api_->cuDevicePrimaryCtxRetain(&context_, device_), "creating a context on the GPU"));
  HEARTH_TRY(check(api_->cuCtxSetCurrent(context_), "using the GPU's context"));
  stream_.api_ = api_;
  stream_.info_ = &info_;
  stream_.functions_ = &functions_;
  stream_.context_ = context_;
  stream_.multiprocessors_ = multiprocessors_;
  stream_.hardware_sm_ = hardware_sm_;
  HEARTH_TRY(check(api_->cuStreamCreate(&stream_.handle_, stream_non_blocking), "creating a stream"));
  for (cu::Event& event : events_) HEARTH_TRY(check(api_->cuEventCreate(&event, event_no_timing), "creating an event"));
  HEARTH_TRY(check(api_->cuEventCreate(&turn_end_, event_no_timing), "creating an event"));
  cu::DevicePtr counters = 0;
  constexpr size_t bytes = CudaStream::counter_count * sizeof(int32_t);
  HEARTH_TRY(check(api_->cuMemAlloc(&counters, bytes), "allocating counters on the GPU"));
  stream_.counters_ = reinterpret_cast<int32_t*>(counters);
  stream_.zero(stream_.counters_, bytes);
  stream_.exchange_bytes_ = info_.profile.memory_bytes >= int64_t{24} << 30 ? size_t{32} << 20 : info_.profile.memory_bytes >= int64_t{12} << 30 ? size_t{16} << 20 : size_t{4} << 20;
  return stream_.synchronize();
}

Result<std::unique_ptr<Device>> CudaDevice::open(int ordinal, const std::string& forced_profile, bool force_unified) {
  auto device = std::unique_ptr<CudaDevice>(new CudaDevice);
  HEARTH_ASSIGN(device->api_, cu::api());
  HEARTH_TRY(device->describe(ordinal, forced_profile, force_unified));
  HEARTH_TRY(device->start());
  return std::unique_ptr<Device>(std::move(device));
}

CudaDevice::~CudaDevice() {
  if (!context_) return;
  enter();
  {
    std::lock_guard lock(turns.mutex);
    if (auto last = turns.last.find(context_); last != turns.last.end() && last->second == this) turns.last.erase(last);
  }
  if (stream_.handle_) api_->cuStreamSynchronize(stream_.handle_);
  for (auto& [base, block] : blocks_) give_back(block);
  if (stream_.counters_) api_->cuMemFree(reinterpret_cast<cu::DevicePtr>(stream_.counters_));
  if (stream_.exchange_) api_->cuMemFree(reinterpret_cast<cu::DevicePtr>(stream_.exchange_));
  for (auto& [source, module] : functions_.modules) if (module) api_->cuModuleUnload(module);
  for (cu::Event event : events_) if (event) api_->cuEventDestroy(event);
  if (turn_end_) api_->cuEventDestroy(turn_end_);
  if (stream_.handle_) api_->cuStreamDestroy(stream_.handle_);
  api_->cuDevicePrimaryCtxRelease(device_);
}

// Pinned memory for copies. cuMemHostAlloc keeps the whole GPU waiting while the system finds and clears pages: 44 ms for
// 64 MiB beside an H200, where pages that are there already are pinned in 3 ms and nobody waits. nullptr: not to be had so.
char* map_pinned(const cu::Api& api, size_t bytes) {
  void* pages = map_pages(bytes, true);
  if (!pages) return nullptr;
  if (populate_pages(pages, bytes) && api.cuMemHostRegister(pages, bytes, host_portable) == cu::success) return static_cast<char*>(pages);
  unmap_pages(pages, bytes, true);
  return nullptr;
}

Result<CudaDevice::Block> CudaDevice::take(size_t bytes, MemoryKind kind, const char* what) {
  Block block;
  block.bytes = bytes;
  block.kind = kind;
  block.host = unified_ || kind == MemoryKind::staging;
  if (block.host && !unified_ && bytes >= huge_page_bytes) block.base = map_pinned(*api_, bytes);
  block.mapped = block.base != nullptr;
  if (block.mapped) return block;
  cu::Result code;
  if (block.host) {
    void* pointer = nullptr;
    code = api_->cuMemHostAlloc(&pointer, bytes, host_mapped | host_portable);
    block.base = static_cast<char*>(pointer);
  } else {
    cu::DevicePtr pointer = 0;
    code = api_->cuMemAlloc(&pointer, bytes);
    block.base = reinterpret_cast<char*>(pointer);
  }
  if (code != cu::success) {
    std::string text = std::string("allocating ") + std::to_string(bytes >> 20) + " MiB for " + what;
    return cu::error(code, text.c_str());
  }
  return block;
}

void CudaDevice::give_back(const Block& block) {
  if (block.mapped) {
    api_->cuMemHostUnregister(block.base);
    unmap_pages(block.base, block.bytes, true);
  } else if (block.host) api_->cuMemFreeHost(block.base);
  else api_->cuMemFree(reinterpret_cast<cu::DevicePtr>(block.base));
}

Result<void*> CudaDevice::allocate(size_t bytes, MemoryKind kind, const char* what) {
  std::lock_guard lock(mutex_);
  enter();
  bytes = round_up(std::max<size_t>(bytes, 1));
  if (bytes < chunk_bytes / 4 && kind != MemoryKind::staging) {
    for (auto& [base, block] : blocks_) {
      if (!block.shared || block.kind != kind || block.used + bytes > block.bytes) continue;
      char* pointer = block.base + block.used;
      block.used += bytes;
      ++block.users;
      owner_[pointer] = base;
      return static_cast<void*>(pointer);
    }
  }
  const bool shared = bytes < chunk_bytes / 4 && kind != MemoryKind::staging;
  HEARTH_ASSIGN(Block block, take(shared ? chunk_bytes : bytes, kind, what));
  block.shared = shared;
  block.used = bytes;
  block.users = 1;
  blocks_[block.base] = block;
  owner_[block.base] = block.base;
  return static_cast<void*>(block.base);
}

void CudaDevice::release(void* pointer) {
  std::lock_guard lock(mutex_);
  auto found = owner_.find(pointer);
  if (found == owner_.end()) return;
  enter();
  auto block = blocks_.find(found->second);
  owner_.erase(found);
  if (--block->second.users > 0) return;
  api_->cuStreamSynchronize(stream_.handle_);  // work still enqueued may use it
  give_back(block->second);
  blocks_.erase(block);
}

Result<size_t> CudaDevice::available_bytes() {
  enter();
  if (unified_) return static_cast<size_t>(std::max<int64_t>(0, host_available_bytes()));
  size_t free = 0, total = 0;
  HEARTH_TRY(check(api_->cuMemGetInfo(&free, &total), "asking for free GPU memory"));
  return free;
}

// Few bytes from ordinary memory travel with the commands themselves. From pinned memory a copy engine would fetch them, and
// the kernels before and after would wait for it: 8.7 us a step on an H200 where this takes 0.4.
Status CudaDevice::upload(void* device, const void* host, size_t bytes) {
  if (!bytes) return Status::ok();
  enter();
  stream_.flush();
  std::byte few[few_bytes];
  if (bytes <= few_bytes) host = std::memcpy(few, host, bytes);
  return check(api_->cuMemcpyHtoDAsync(reinterpret_cast<cu::DevicePtr>(device), host, bytes, stream_.handle_), "copying to the GPU");
}

Status CudaDevice::download(void* host, const void* device, size_t bytes) {
  if (!bytes) return Status::ok();
  enter();
  stream_.flush();
  return check(api_->cuMemcpyDtoHAsync(host, reinterpret_cast<cu::DevicePtr>(device), bytes, stream_.handle_), "copying from the GPU");
}

Status CudaDevice::copy(void* to, const void* from, size_t bytes) {
  if (!bytes) return Status::ok();
  enter();
  stream_.flush();
  return check(api_->cuMemcpyDtoDAsync(reinterpret_cast<cu::DevicePtr>(to), reinterpret_cast<cu::DevicePtr>(from), bytes, stream_.handle_), "copying on the GPU");
}

Status CudaDevice::fill_zero(void* device, size_t bytes) {
  if (!bytes) return Status::ok();
  enter();
  stream_.flush();
  return check(api_->cuMemsetD8Async(reinterpret_cast<cu::DevicePtr>(device), 0, bytes, stream_.handle_), "clearing GPU memory");
}

// Relaxed: kernels are loaded at their first use, which may be here.
Result<std::unique_ptr<Device::Graph>> CudaDevice::capture(Status (*body)(void*), void* argument) {
  enter();
  std::lock_guard lock(turns.mutex);  // nobody may mark this stream while it is captured
  HEARTH_TRY(stream_.status());
  HEARTH_TRY(check(api_->cuStreamBeginCapture(stream_.handle_, capture_relaxed), "starting to capture a graph"));
  stream_.capturing = stream_.programs_of_many = true;
  Status status = body(argument);
  stream_.flush();
  stream_.capturing = false;
  cu::Graph recorded = nullptr;
  Status ended = check(api_->cuStreamEndCapture(stream_.handle_, &recorded), "capturing a graph");
  if (status) status = stream_.status();
  if (status) status = ended;
  auto graph = std::make_unique<CudaGraph>();
  graph->api = api_;
  graph->context = context_;
  if (status) status = check(api_->cuGraphInstantiateWithFlags(&graph->exec, recorded, 0), "instantiating a graph");
  if (recorded) api_->cuGraphDestroy(recorded);
  if (!status) return status;
  return std::unique_ptr<Graph>(std::move(graph));
}

// Graphs of several models on one GPU take turns. Some kernels fill the device with blocks that wait for one another (the
// decode program, the chain of linears); two of them, each holding a part of the multiprocessors, would wait for ever.
Status CudaDevice::replay(Graph& graph) {
  enter();
  std::lock_guard lock(turns.mutex);
  CudaDevice*& last = turns.last[context_];
  if (last && last != this) {
    HEARTH_TRY(check(api_->cuEventRecord(turn_end_, last->stream_.handle_), "marking another model's step"));
    HEARTH_TRY(check(api_->cuStreamWaitEvent(stream_.handle_, turn_end_, 0), "waiting for another model's step"));
  }
  last = this;
  return check(api_->cuGraphLaunch(static_cast<CudaGraph&>(graph).exec, stream_.handle_), "launching a graph");
}

Result<uint32_t> CudaDevice::mark() {
  enter();
  HEARTH_TRY(stream_.status());
  const uint32_t marker = markers_++;
  HEARTH_TRY(check(api_->cuEventRecord(events_[marker % events_.size()], stream_.handle_), "marking the stream"));
  return marker;
}

// An event reused since waits for a later point: late, never early.
Status CudaDevice::wait(uint32_t marker) {
  enter();
  return check(api_->cuEventSynchronize(events_[marker % events_.size()]), "a step on the GPU");
}

// A stream of its own: the copy engines work beside the kernels.
struct CudaDevice::Copies final : Device::CopyQueue {
  explicit Copies(CudaDevice& owner) : device(owner) {}
  ~Copies() override {
    device.enter();
    if (handle) device.api_->cuStreamDestroy(handle);
  }
  Status after(uint32_t marker) override {
    device.enter();
    const cu::Event event = device.events_[marker % device.events_.size()];
    return device.check(device.api_->cuStreamWaitEvent(handle, event, 0), "ordering copies after a step");
  }
  Status upload(void* to, const void* from, size_t bytes) override {
    return device.check(device.api_->cuMemcpyHtoDAsync(reinterpret_cast<cu::DevicePtr>(to), from, bytes, handle), "copying to the GPU");
  }
  Status download(void* to, const void* from, size_t bytes) override {
    return device.check(device.api_->cuMemcpyDtoHAsync(to, reinterpret_cast<cu::DevicePtr>(from), bytes, handle), "copying from the GPU");
  }
  Status finish() override { return device.check(device.api_->cuStreamSynchronize(handle), "copies beside a step"); }

  CudaDevice& device;
  cu::StreamHandle handle = nullptr;
};

Result<std::unique_ptr<Device::CopyQueue>> CudaDevice::open_copy_queue() {
  enter();
  auto copies = std::make_unique<Copies>(*this);
  HEARTH_TRY(check(api_->cuStreamCreate(&copies->handle, stream_non_blocking), "creating a stream for copies"));
  return std::unique_ptr<CopyQueue>(std::move(copies));
}

Result<std::unique_ptr<Device>> open_cuda_device(int ordinal, const std::string& forced_profile, bool force_unified) {
  if (!*built_for) return built_without();
  std::string profile = forced_profile;
  if (const char* forced = std::getenv("HEARTH_DEVICE_PROFILE"); profile.empty() && forced) profile = forced;
  return CudaDevice::open(ordinal, profile, force_unified);
}

Result<int> count_cuda_devices() {
  if (!*built_for) return built_without();
  HEARTH_ASSIGN(const cu::Api* api, cu::api());
  int count = 0;
  if (cu::Result code = api->cuDeviceGetCount(&count)) return cu::error(code, "counting GPUs");
  return count;
}

}  // namespace hearth::device
