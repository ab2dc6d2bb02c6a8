#include "device/cuda_api.h"

#include <dlfcn.h>

#include <mutex>
#include <string>

namespace hearth::device::cu {
namespace {

constexpr int oldest_driver = 12000;

Api loaded_api;

template <class Function>
bool load(void* library, Function& entry, const char* name) {
  entry = reinterpret_cast<Function>(dlsym(library, name));
  return entry != nullptr;
}

// The first missing symbol, or nullptr. `_v2` names are what cuda.h maps the plain names to.
const char* load_all(void* library, Api& a) {
#define HEARTH_CU(name) if (!load(library, a.name, #name)) return #name
#define HEARTH_CU2(name) if (!load(library, a.name, #name "_v2")) return #name "_v2"
  HEARTH_CU(cuInit); HEARTH_CU(cuDriverGetVersion); HEARTH_CU(cuGetErrorName); HEARTH_CU(cuGetErrorString);
  HEARTH_CU(cuDeviceGetCount); HEARTH_CU(cuDeviceGet); HEARTH_CU(cuDeviceGetName); HEARTH_CU2(cuDeviceTotalMem);
  HEARTH_CU(cuDeviceGetAttribute); HEARTH_CU(cuDevicePrimaryCtxRetain); HEARTH_CU2(cuDevicePrimaryCtxRelease);
  HEARTH_CU(cuCtxSetCurrent); HEARTH_CU2(cuMemGetInfo); HEARTH_CU2(cuMemAlloc); HEARTH_CU2(cuMemFree);
  HEARTH_CU(cuMemHostAlloc); HEARTH_CU(cuMemFreeHost); HEARTH_CU2(cuMemHostRegister); HEARTH_CU(cuMemHostUnregister);
  HEARTH_CU2(cuMemcpyHtoDAsync); HEARTH_CU2(cuMemcpyDtoHAsync); HEARTH_CU2(cuMemcpyDtoDAsync);
  HEARTH_CU(cuMemsetD8Async); HEARTH_CU(cuStreamCreate); HEARTH_CU2(cuStreamDestroy); HEARTH_CU(cuStreamSynchronize);
  HEARTH_CU(cuStreamWaitEvent);
  HEARTH_CU2(cuStreamBeginCapture); HEARTH_CU(cuStreamEndCapture); HEARTH_CU(cuGraphInstantiateWithFlags);
  HEARTH_CU(cuGraphLaunch); HEARTH_CU(cuGraphDestroy); HEARTH_CU(cuGraphExecDestroy); HEARTH_CU(cuEventCreate);
  HEARTH_CU2(cuEventDestroy); HEARTH_CU(cuEventRecord); HEARTH_CU(cuEventSynchronize); HEARTH_CU(cuEventElapsedTime);
  HEARTH_CU(cuModuleLoadData); HEARTH_CU(cuModuleUnload); HEARTH_CU(cuModuleGetFunction);
  HEARTH_CU(cuFuncGetAttribute); HEARTH_CU(cuFuncSetAttribute); HEARTH_CU(cuOccupancyMaxActiveBlocksPerMultiprocessor);
  HEARTH_CU(cuLaunchKernelEx);
#undef HEARTH_CU
#undef HEARTH_CU2
  load(library, a.cuTensorMapEncodeTiled, "cuTensorMapEncodeTiled");
  load(library, a.cuOccupancyMaxActiveClusters, "cuOccupancyMaxActiveClusters");
  return nullptr;
}

Status device_error(std::string message) { return {Code::device, std::move(message)}; }

Status load_driver() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) return device_error("no NVIDIA driver: libcuda.so.1 was not found. Install the driver (in a container: run with --gpus all), or use --device cpu");
  if (const char* missing = load_all(library, loaded_api))
    return device_error(std::string("the NVIDIA driver is too old: it lacks ") + missing + ". Hearth needs a driver for CUDA 12.0 (525) or newer");
  int version = 0;
  loaded_api.cuDriverGetVersion(&version);
  if (version < oldest_driver)
    return device_error("the NVIDIA driver speaks CUDA " + std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10) + "; Hearth needs 12.0 (driver 525) or newer");
  Result code = loaded_api.cuInit(0);
  if (code == error_no_device) return device_error("the NVIDIA driver is installed but sees no GPU (CUDA_VISIBLE_DEVICES, container device access, or a fallen-off card: see nvidia-smi)");
  if (code != success) return error(code, "starting the NVIDIA driver (cuInit)");
  return Status::ok();
}

const char* advice(Result code) {
  switch (code) {
    case error_out_of_memory: return ": the GPU's memory is full; close other programs, or use a smaller model, a shorter context or --kv int8";
    case error_ecc: return ": uncorrectable memory error of the GPU; restart the machine, and replace the card if it comes back";
    case error_illegal_address: case error_launch_failed: return ": a kernel failed; the engine must be restarted (please report it with HEARTH_KERNELS=trace output)";
    default: return "";
  }
}

}  // namespace

hearth::Result<const Api*> api() {
  static std::once_flag once;
  static Status status;
  std::call_once(once, [] { status = load_driver(); });
  if (!status) return status;
  return &loaded_api;
}

Status error(Result code, const char* what) {
  const char *name = nullptr, *text = nullptr;
  loaded_api.cuGetErrorName(code, &name);
  loaded_api.cuGetErrorString(code, &text);
  std::string message = std::string(what) + " failed: " + (name ? name : "unknown CUDA error") + " (" + (text ? text : std::to_string(code)) + ")" + advice(code);
  return {code == error_out_of_memory ? Code::out_of_memory : Code::device, std::move(message)};
}

}  // namespace hearth::device::cu
