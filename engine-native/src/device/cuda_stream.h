// What CUDA kernels get as their Stream: launches of embedded kernels, and the device's constants that choices need.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "device/cuda_api.h"
#include "device/device.h"

namespace hearth::device {

// One compiled image of a source file. sm 80 with is_ptx = compute_80 PTX, which the driver compiles for newer devices.
struct CudaImage { int sm; bool is_ptx; const void* data; };
// A source file's images (the array ends with sm 0) and one kernel in it. Address identifies the kernel: keep it static.
struct CudaModule { const char* name; const CudaImage* images; };
struct CudaKernel { const CudaModule* module; const char* name; };

struct LaunchShape {
  int grid_x = 1, grid_y = 1, grid_z = 1;
  int threads = 128;
  int shared_bytes = 0;
  // Blocks along x that run together and may read each other's shared memory (sm_90; divides grid_x).
  int cluster = 1;
  // The kernel calls griddepcontrol.wait before it touches anything its predecessors in the stream wrote or read.
  // Every kernel of ours does, so this is on; devices before sm_90 ignore it.
  bool overlaps = true;
  // The blocks wait for one another: a launch that cannot have all of them resident fails (where kernels do not overlap).
  bool together = false;
};

class CudaStream final : public Stream {
 public:
  Status synchronize() override;

  // Enqueues one kernel with one parameter struct, by value. Errors stick: later launches do nothing until synchronize.
  template <class Params>
  void launch(const CudaKernel& kernel, const LaunchShape& shape, const Params& params) {
    launch_raw(kernel, shape, const_cast<Params*>(&params));
  }
  void zero(void* device, size_t bytes);

  // Ops that were asked for and are launched later, several as one kernel: at the latest before anything else is enqueued.
  // The kernels' host code fills it, and only while a graph is captured, so that nothing is held back unnoticed.
  struct Deferred {
    virtual ~Deferred() = default;
    virtual void launch(CudaStream& stream) = 0;
    virtual int kind() const { return 0; }  // of collection: who collects another kind flushes first
  };
  std::unique_ptr<Deferred> deferred;
  bool capturing = false, defers = true;
  bool programs_of_many = true;  // whether what is captured may be programs of more than four rows (kernels/cuda/host/program.cpp)
  void flush() {
    if (!deferred) return;
    const std::unique_ptr<Deferred> work = std::move(deferred);
    work->launch(*this);
  }
  void fail(Status status) { if (status_) status_ = std::move(status); }
  const Status& status() const { return status_; }

  const DeviceInfo& info() const { return *info_; }
  int multiprocessors() const { return multiprocessors_; }  // of the hardware, also when a profile is forced
  int shared_limit() const { return info_->profile.shared_bytes_per_block; }
  bool hopper() const { return info_->compute_capability == 90; }
  // [counter_count] int32 on the device, all zero between kernels: a kernel that counts its blocks sets it back.
  int32_t* counters() const { return counters_; }
  static constexpr int counter_count = 1 << 18;
  // Words that are all zero between kernels, in which the blocks of one kernel hand activations to one another. Taken at
  // the first use, which may be while a graph is captured; null with a sticky error when memory is full.
  uint32_t* exchange();
  size_t exchange_bytes() const { return exchange_bytes_; }
  const cu::Api& api() const { return *api_; }
  cu::StreamHandle handle() const { return handle_; }
  // Resident blocks of the kernel an SM holds; 0 with a sticky error when it cannot be loaded.
  int occupancy(const CudaKernel& kernel, int threads, int shared_bytes);
  // Clusters of `cluster` blocks that the whole device holds at once (sm_90); 0 when it cannot tell.
  int clusters(const CudaKernel& kernel, int threads, int shared_bytes, int cluster);
  uint64_t launches() const { return launches_; }
  // The image of a module that this device runs: "sm_90", "compute_80 PTX", or "" when there is none.
  std::string code_of(const CudaModule& module) const;
  // Off: every kernel starts when the one before has ended. For measurements.
  bool overlap_allowed = true;

 private:
  friend class CudaDevice;
  struct Functions;
  void launch_raw(const CudaKernel& kernel, const LaunchShape& shape, void* params);
  cu::Function function(const CudaKernel& kernel, int shared_bytes);

  const cu::Api* api_ = nullptr;
  const DeviceInfo* info_ = nullptr;
  Functions* functions_ = nullptr;
  cu::Context context_ = nullptr;
  cu::StreamHandle handle_ = nullptr;
  int32_t* counters_ = nullptr;
  uint32_t* exchange_ = nullptr;
  size_t exchange_bytes_ = 0;
  int multiprocessors_ = 0, hardware_sm_ = 0;
  uint64_t launches_ = 0;
  Status status_;
};

inline CudaStream& cuda(Stream& stream) { return static_cast<CudaStream&>(stream); }

}  // namespace hearth::device
