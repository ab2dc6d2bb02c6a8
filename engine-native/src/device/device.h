// A compute device: where memory lives and where ops run in order. One CPU device, one per CUDA GPU.
// Everything above (ops, model, runtime) talks to this interface and never to a driver.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"

namespace hearth::device {

enum class DeviceKind : uint8_t { cpu, cuda };

// Instruction sets of a CPU, after asking the operating system whether it saves their registers
// (XGETBV, arch_prctl for AMX) and applying the cap HEARTH_CPU_MAX.
struct CpuFeatures {
  bool avx2 = false, avx_vnni = false, avx512 = false, avx512_vnni = false, avx512_bf16 = false, avx512_fp16 = false;
  bool amx_int8 = false, amx_bf16 = false;
  bool neon = false, neon_dotprod = false, neon_i8mm = false, neon_fp16 = false;
};

// Profile of a device: data, not code. What a datasheet knows; what it cannot, the tuning pass measures.
struct DeviceProfile {
  std::string name;               // "rtx-4090", "orin-agx", "h200", "cpu", or "computed"
  int sm = 0;                     // 89 for sm_89; 0 on a CPU
  int multiprocessors = 0;        // SMs, or cores
  int64_t l2_bytes = 0;
  int64_t memory_bytes = 0;
  double bandwidth_gb_s = 0;      // datasheet
  bool unified_memory = false;
  int shared_bytes_per_block = 0; // dynamic shared memory a block may ask for
  int step_tokens = 512;          // token budget of one step (prefill chunk)
};

struct DeviceInfo {
  DeviceKind kind = DeviceKind::cpu;
  int ordinal = 0;
  std::string name;               // as the maker names it
  int compute_capability = 0;     // 90 for sm_90; the profile's when forced (HEARTH_DEVICE_PROFILE)
  int decode_threads = 1;         // CPU worker threads in steps of few rows
  int threads = 1;                // CPU worker threads at most; on CUDA the multiprocessors of the hardware, also when a profile is forced
  CpuFeatures cpu;
  int performance_cores = 0, efficiency_cores = 0, cpu_limit = 0;  // of a CPU (CpuTopology); cpu_limit: a container's, 0 where there is none
  DeviceProfile profile;
};

// Ops are enqueued on a stream and run in the order of their calls. On the CPU they run at once.
// A stream remembers its first error; check it when a step ends.
class Stream {
 public:
  virtual ~Stream() = default;
  // Waits until all that was enqueued is done and returns the first error since the last call.
  virtual Status synchronize() = 0;
};

// Where bytes live. weights and kv are big and long-lived (huge pages on a CPU, chunked on a GPU); staging is host
// memory the device copies from and to without a detour (pinned on CUDA).
enum class MemoryKind : uint8_t { weights, kv, workspace, staging };

class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceInfo& info() const = 0;
  // The stream steps run on. Thread-compatible: one thread at a time.
  virtual Stream& stream() = 0;

  // Called once by the thread that will run steps for ever: pins it where the device wants it (CPU: worker 0's core).
  virtual void adopt_step_thread() {}
  // What follows on the stream, by the thread that runs steps, computes this many rows at a time.
  virtual void begin_rows(int rows) { (void)rows; }

  // Memory the ops can read and write, 256-byte aligned, contents undefined. Freed with the device at the latest.
  virtual Result<void*> allocate(size_t bytes, MemoryKind kind, const char* what) = 0;
  virtual void release(void* pointer) = 0;
  // Bytes still free for allocations (MemAvailable on unified memory and CPUs).
  virtual Result<size_t> available_bytes() = 0;
  // More (or, negative, fewer) bytes of weights are used where a file's pages hold them: the system calls such pages free.
  virtual void count_mapped(int64_t bytes) { (void)bytes; }

  // Copies in stream order. `host` of upload/download may be any memory; from staging memory they do not block.
  virtual Status upload(void* device, const void* host, size_t bytes) = 0;
  virtual Status download(void* host, const void* device, size_t bytes) = 0;
  virtual Status copy(void* device_to, const void* device_from, size_t bytes) = 0;
  virtual Status fill_zero(void* device, size_t bytes) = 0;

  // Copies beside the stream, for a thread of their own: they neither wait for steps nor hold them up, but for what
  // after() asks. Host memory should be staging memory.
  struct CopyQueue {
    virtual ~CopyQueue() = default;
    // What is enqueued from here on starts when the stream has passed the marker.
    virtual Status after(uint32_t marker) = 0;
    virtual Status upload(void* device, const void* host, size_t bytes) = 0;
    virtual Status download(void* host, const void* device, size_t bytes) = 0;
    // Waits until all of it is done.
    virtual Status finish() = 0;
  };
  virtual Result<std::unique_ptr<CopyQueue>> open_copy_queue() = 0;

  // True when device pointers can be read by the host as they are (CPU, unified memory).
  virtual bool host_visible() const = 0;

  // Records everything `body` enqueues into a replayable graph, where the device has graphs; otherwise unsupported.
  // Pointers and launch shapes are frozen, what they point to is not.
  struct Graph { virtual ~Graph() = default; };
  virtual Result<std::unique_ptr<Graph>> capture(Status (*body)(void*), void* argument) {
    (void)body; (void)argument;
    return unsupported("this device has no graphs");
  }
  virtual Status replay(Graph& graph) { (void)graph; return unsupported("this device has no graphs"); }

  // A marker in the stream: wait(marker) blocks the host until all before mark() is done. For overlapping a step with
  // the planning of the next. On the CPU both return at once.
  virtual Result<uint32_t> mark() = 0;
  virtual Status wait(uint32_t marker) = 0;
};

// "cpu": the one CPU device, with `threads` workers that decode (0 = CpuTopology::default_threads()) and `prompt_threads` where
// many rows are computed (0 = `threads` where those are given, else CpuTopology::default_prompt_threads()).
Result<std::unique_ptr<Device>> open_cpu_device(int threads, int prompt_threads = 0);
// CUDA GPU `ordinal`, through the driver API loaded at run time. Device-coded errors say what to do.
Result<std::unique_ptr<Device>> open_cuda_device(int ordinal, const std::string& forced_profile, bool force_unified);
// Number of usable CUDA devices, and why there is none.
Result<int> count_cuda_devices();

}  // namespace hearth::device
