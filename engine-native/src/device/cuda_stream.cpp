#include "device/cuda_functions.h"

namespace hearth::device {
namespace {

// Native code first (the highest sm of the same major that is not newer), then PTX that the driver compiles.
// A forced profile of another generation takes PTX first, so that the older generation's instructions are what runs.
const CudaImage* choose_image(const CudaModule& module, int hardware_sm, int wanted_sm) {
  const CudaImage *native = nullptr, *ptx = nullptr;
  for (const CudaImage* image = module.images; image->sm; ++image) {
    if (image->is_ptx) { if (image->sm <= hardware_sm) ptx = image; continue; }
    if (image->sm / 10 == hardware_sm / 10 && image->sm <= hardware_sm && (!native || image->sm > native->sm)) native = image;
  }
  if (wanted_sm / 10 != hardware_sm / 10 && ptx) return ptx;
  return native ? native : ptx;
}

}  // namespace

Status CudaStream::synchronize() {
  flush();
  api_->cuCtxSetCurrent(context_);
  cu::Result code = api_->cuStreamSynchronize(handle_);
  Status first = status_;
  status_ = Status::ok();
  if (!first) return first;
  return code == cu::success ? Status::ok() : cu::error(code, "a step on the GPU");
}

cu::Function CudaStream::function(const CudaKernel& kernel, int shared_bytes) {
  Functions::Entry& entry = functions_->kernels[&kernel];
  if (!entry.function) {
    cu::Module& module = functions_->modules[kernel.module];
    if (!module) {
      const CudaImage* image = choose_image(*kernel.module, hardware_sm_, info_->compute_capability);
      if (!image) {
        fail({Code::device, std::string("this build has no code for sm_") + std::to_string(hardware_sm_) + " (" + kernel.module->name + "): rebuild with --cuda=auto on this machine or --cuda=all"});
        return nullptr;
      }
      if (cu::Result code = api_->cuModuleLoadData(&module, image->data)) { fail(cu::error(code, kernel.module->name)); return nullptr; }
    }
    if (cu::Result code = api_->cuModuleGetFunction(&entry.function, module, kernel.name)) { fail(cu::error(code, kernel.name)); return nullptr; }
    // The same split of L1 and shared memory for every kernel: an SM that must change it cannot overlap two kernels.
    api_->cuFuncSetAttribute(entry.function, cu::function_shared_carveout, 100);
  }
  // More than 48 KB must be asked for, the kernel's static shared memory and its alignment counted: so ask well before that.
  if (shared_bytes > 32 * 1024 && shared_bytes > entry.shared_bytes) {
    if (cu::Result code = api_->cuFuncSetAttribute(entry.function, cu::function_max_dynamic_shared, shared_bytes)) { fail(cu::error(code, kernel.name)); return nullptr; }
    entry.shared_bytes = shared_bytes;
  }
  return entry.function;
}

std::string CudaStream::code_of(const CudaModule& module) const {
  const CudaImage* image = choose_image(module, hardware_sm_, info_->compute_capability);
  if (!image) return "";
  return image->is_ptx ? "compute_" + std::to_string(image->sm) + " PTX" : "sm_" + std::to_string(image->sm);
}

int CudaStream::occupancy(const CudaKernel& kernel, int threads, int shared_bytes) {
  api_->cuCtxSetCurrent(context_);
  cu::Function f = function(kernel, shared_bytes);
  if (!f) return 0;
  Functions::Entry& entry = functions_->kernels[&kernel];
  if (entry.occupancy_shared == shared_bytes && entry.occupancy_threads == threads) return entry.occupancy;
  int blocks = 0;
  if (cu::Result code = api_->cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, f, threads, shared_bytes)) fail(cu::error(code, kernel.name));
  entry.occupancy_shared = shared_bytes;
  entry.occupancy_threads = threads;
  return entry.occupancy = blocks;
}

int CudaStream::clusters(const CudaKernel& kernel, int threads, int shared_bytes, int cluster) {
  if (!api_->cuOccupancyMaxActiveClusters) return 0;
  api_->cuCtxSetCurrent(context_);
  cu::Function f = function(kernel, shared_bytes);
  if (!f) return 0;
  int& known = functions_->kernels[&kernel].clusters[cluster >= 8 ? 3 : cluster >= 4 ? 2 : cluster >= 2 ? 1 : 0];
  if (known >= 0) return known;
  cu::LaunchAttribute attribute{};
  attribute.id = cu::attribute_cluster;
  attribute.value.cluster = {static_cast<unsigned>(cluster), 1, 1};
  cu::LaunchConfig config{};
  config.grid_x = multiprocessors_ / cluster * cluster; config.grid_y = config.grid_z = 1;
  config.block_x = threads; config.block_y = config.block_z = 1;
  config.shared_bytes = shared_bytes;
  config.attributes = &attribute;
  config.attribute_count = 1;
  int count = 0;
  if (cu::Result code = api_->cuOccupancyMaxActiveClusters(&count, f, &config)) { fail(cu::error(code, kernel.name)); return 0; }
  return known = count;
}

void CudaStream::launch_raw(const CudaKernel& kernel, const LaunchShape& shape, void* params) {
  flush();
  if (!status_) return;
  if (shape.grid_x <= 0 || shape.grid_y <= 0 || shape.grid_z <= 0) return;  // nothing to do
  api_->cuCtxSetCurrent(context_);
  cu::Function f = function(kernel, shape.shared_bytes);
  if (!f) return;
  cu::LaunchAttribute attributes[2]{};
  unsigned count = 0;
  if (shape.overlaps && overlap_allowed && hopper()) {
    attributes[count].id = cu::attribute_programmatic_serialization;
    attributes[count++].value.programmatic_serialization = 1;
  } else if (shape.together) {
    attributes[count].id = cu::attribute_cooperative;
    attributes[count++].value.cooperative = 1;
  }
  if (shape.cluster > 1) {
    attributes[count].id = cu::attribute_cluster;
    attributes[count++].value.cluster = {static_cast<unsigned>(shape.cluster), 1, 1};
  }
  cu::LaunchConfig config{};
  config.grid_x = shape.grid_x; config.grid_y = shape.grid_y; config.grid_z = shape.grid_z;
  config.block_x = shape.threads; config.block_y = config.block_z = 1;
  config.shared_bytes = shape.shared_bytes;
  config.stream = handle_;
  config.attributes = attributes;
  config.attribute_count = count;
  void* arguments[] = {params};
  ++launches_;
  if (cu::Result code = api_->cuLaunchKernelEx(&config, f, arguments, nullptr)) fail(cu::error(code, kernel.name));
}

uint32_t* CudaStream::exchange() {
  if (exchange_ || !status_) return exchange_;
  api_->cuCtxSetCurrent(context_);
  constexpr cu::StreamHandle null_stream = nullptr;  // this stream may be capturing
  cu::DevicePtr words = 0;
  cu::Result code = api_->cuMemAlloc(&words, exchange_bytes_);
  if (!code) code = api_->cuMemsetD8Async(words, 0, exchange_bytes_, null_stream);
  if (!code) code = api_->cuStreamSynchronize(null_stream);
  exchange_ = reinterpret_cast<uint32_t*>(words);
  if (code) fail(cu::error(code, "allocating the exchange on the GPU"));
  return exchange_;
}

void CudaStream::zero(void* device, size_t bytes) {
  flush();
  if (!status_ || !bytes) return;
  api_->cuCtxSetCurrent(context_);
  if (cu::Result code = api_->cuMemsetD8Async(reinterpret_cast<cu::DevicePtr>(device), 0, bytes, handle_)) fail(cu::error(code, "clearing GPU memory"));
}

}  // namespace hearth::device
