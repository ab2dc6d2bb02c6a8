// A driver library that says what FAKE_CUDA asks for: enough of libcuda.so.1 to open a device and to lose it.
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

int value_of(const char* key, int otherwise) {
  const char* all = std::getenv("FAKE_CUDA");
  const char* at = all ? std::strstr(all, key) : nullptr;
  return at ? std::atoi(at + std::strlen(key)) : otherwise;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {
int cuInit(unsigned) { return value_of("init=", 0); }
int cuDriverGetVersion(int* version) { return *version = value_of("version=", 12060), 0; }
int cuGetErrorName(int code, const char** name) { return *name = code == 214 ? "CUDA_ERROR_ECC_UNCORRECTABLE" : code == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR_FAKE", 0; }
int cuGetErrorString(int, const char** text) { return *text = "a fake error", 0; }
int cuDeviceGetCount(int* count) { return *count = value_of("count=", 1), 0; }
int cuDeviceGet(int* device, int) { return *device = 0, 0; }
int cuDeviceGetName(char* name, int, int) { return std::strcpy(name, "Fake GPU"), 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = size_t{8} << 30, 0; }
int cuDeviceGetAttribute(int* value, int which, int) {
  const int sm = value_of("sm=", 89);
  *value = which == 75 ? sm / 10 : which == 76 ? sm % 10 : which == 16 ? 36 : which == 18 ? 0 : 1024;
  return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = reinterpret_cast<void*>(16), 0; }
int cuMemAlloc_v2(unsigned long long* pointer, size_t bytes) {
  if (value_of("memory=", 0) != 0) return 2;
  return *pointer = reinterpret_cast<unsigned long long>(std::malloc(bytes)), 0;
}
int cuMemFree_v2(unsigned long long pointer) { return std::free(reinterpret_cast<void*>(pointer)), 0; }
int cuMemHostAlloc(void** pointer, size_t bytes, unsigned) { return *pointer = std::malloc(bytes), 0; }
int cuMemFreeHost(void* pointer) { return std::free(pointer), 0; }
int cuStreamSynchronize(void*) { static int calls = 0; return calls++ == 0 ? 0 : value_of("synchronize=", 0); }
int cuStreamCreate(void** stream, unsigned) { return *stream = reinterpret_cast<void*>(32), 0; }
int cuEventCreate(void** event, unsigned) { return *event = reinterpret_cast<void*>(48), 0; }
int cuEventSynchronize(void*) { return value_of("step=", 0); }
#define HEARTH_FAKE(name) int name() { return 0; }
HEARTH_FAKE(cuDevicePrimaryCtxRelease_v2) HEARTH_FAKE(cuCtxSetCurrent) HEARTH_FAKE(cuMemGetInfo_v2)
HEARTH_FAKE(cuMemHostRegister_v2) HEARTH_FAKE(cuMemHostUnregister) HEARTH_FAKE(cuMemcpyHtoDAsync_v2) HEARTH_FAKE(cuMemcpyDtoHAsync_v2)
HEARTH_FAKE(cuMemcpyDtoDAsync_v2) HEARTH_FAKE(cuMemsetD8Async) HEARTH_FAKE(cuStreamDestroy_v2)
HEARTH_FAKE(cuStreamWaitEvent) HEARTH_FAKE(cuStreamBeginCapture_v2) HEARTH_FAKE(cuStreamEndCapture)
HEARTH_FAKE(cuGraphInstantiateWithFlags) HEARTH_FAKE(cuGraphLaunch) HEARTH_FAKE(cuGraphDestroy) HEARTH_FAKE(cuGraphExecDestroy)
HEARTH_FAKE(cuEventDestroy_v2) HEARTH_FAKE(cuEventRecord) HEARTH_FAKE(cuEventElapsedTime) HEARTH_FAKE(cuModuleLoadData)
HEARTH_FAKE(cuModuleUnload) HEARTH_FAKE(cuModuleGetFunction) HEARTH_FAKE(cuFuncGetAttribute) HEARTH_FAKE(cuFuncSetAttribute)
HEARTH_FAKE(cuOccupancyMaxActiveBlocksPerMultiprocessor)
#ifndef HEARTH_FAKE_OLD
HEARTH_FAKE(cuLaunchKernelEx)
#endif
}
#pragma GCC visibility pop
