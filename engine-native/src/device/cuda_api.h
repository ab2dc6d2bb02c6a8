// The few pieces of the CUDA driver API we speak, declared here so that no toolkit is needed to build, and loaded from
// libcuda.so.1 at run time so that one library serves machines with and without a GPU. Nothing newer than CUDA 12.0.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/status.h"

namespace hearth::device::cu {

using Result = int;  // CUresult
using Device = int;
using DevicePtr = unsigned long long;
using Context = struct ContextTag*;
using Module = struct ModuleTag*;
using Function = struct FunctionTag*;
using StreamHandle = struct StreamTag*;
using Event = struct EventTag*;
using Graph = struct GraphTag*;
using GraphExec = struct GraphExecTag*;

struct LaunchAttribute {
  int id;
  char pad[4];
  union { char bytes[64]; int cooperative; int programmatic_serialization; struct { unsigned x, y, z; } cluster; } value;
};
struct LaunchConfig {
  unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
  StreamHandle stream;
  LaunchAttribute* attributes;
  unsigned attribute_count;
};
struct alignas(64) TensorMap { uint64_t opaque[16]; };

inline constexpr int attribute_cooperative = 2, attribute_cluster = 4, attribute_programmatic_serialization = 6;
inline constexpr int success = 0, error_out_of_memory = 2, error_no_device = 100, error_not_found = 500,
                     error_ecc = 214, error_illegal_address = 700, error_launch_failed = 719;

// Device attributes (CUdevice_attribute).
inline constexpr int attribute_multiprocessors = 16, attribute_integrated = 18, attribute_memory_clock_khz = 36,
                     attribute_bus_bits = 37, attribute_l2_bytes = 38, attribute_major = 75, attribute_minor = 76,
                     attribute_shared_bytes_optin = 97;
// Function attributes (CUfunction_attribute).
inline constexpr int function_registers = 4, function_local_bytes = 3, function_static_shared_bytes = 1,
                     function_max_dynamic_shared = 8, function_shared_carveout = 9;

// Every entry is non-null once api() succeeded.
struct Api {
  Result (*cuInit)(unsigned);
  Result (*cuDriverGetVersion)(int*);
  Result (*cuGetErrorName)(Result, const char**);
  Result (*cuGetErrorString)(Result, const char**);
  Result (*cuDeviceGetCount)(int*);
  Result (*cuDeviceGet)(Device*, int);
  Result (*cuDeviceGetName)(char*, int, Device);
  Result (*cuDeviceTotalMem)(size_t*, Device);
  Result (*cuDeviceGetAttribute)(int*, int, Device);
  Result (*cuDevicePrimaryCtxRetain)(Context*, Device);
  Result (*cuDevicePrimaryCtxRelease)(Device);
  Result (*cuCtxSetCurrent)(Context);
  Result (*cuMemGetInfo)(size_t*, size_t*);
  Result (*cuMemAlloc)(DevicePtr*, size_t);
  Result (*cuMemFree)(DevicePtr);
  Result (*cuMemHostAlloc)(void**, size_t, unsigned);
  Result (*cuMemFreeHost)(void*);
  Result (*cuMemHostRegister)(void*, size_t, unsigned);
  Result (*cuMemHostUnregister)(void*);
  Result (*cuMemcpyHtoDAsync)(DevicePtr, const void*, size_t, StreamHandle);
  Result (*cuMemcpyDtoHAsync)(void*, DevicePtr, size_t, StreamHandle);
  Result (*cuMemcpyDtoDAsync)(DevicePtr, DevicePtr, size_t, StreamHandle);
  Result (*cuMemsetD8Async)(DevicePtr, unsigned char, size_t, StreamHandle);
  Result (*cuStreamCreate)(StreamHandle*, unsigned);
  Result (*cuStreamDestroy)(StreamHandle);
  Result (*cuStreamSynchronize)(StreamHandle);
  Result (*cuStreamWaitEvent)(StreamHandle, Event, unsigned);
  Result (*cuStreamBeginCapture)(StreamHandle, int);
  Result (*cuStreamEndCapture)(StreamHandle, Graph*);
  Result (*cuGraphInstantiateWithFlags)(GraphExec*, Graph, unsigned long long);
  Result (*cuGraphLaunch)(GraphExec, StreamHandle);
  Result (*cuGraphDestroy)(Graph);
  Result (*cuGraphExecDestroy)(GraphExec);
  Result (*cuEventCreate)(Event*, unsigned);
  Result (*cuEventDestroy)(Event);
  Result (*cuEventRecord)(Event, StreamHandle);
  Result (*cuEventSynchronize)(Event);
  Result (*cuEventElapsedTime)(float*, Event, Event);
  Result (*cuModuleLoadData)(Module*, const void*);
  Result (*cuModuleUnload)(Module);
  Result (*cuModuleGetFunction)(Function*, Module, const char*);
  Result (*cuFuncGetAttribute)(int*, int, Function);
  Result (*cuFuncSetAttribute)(Function, int, int);
  Result (*cuOccupancyMaxActiveBlocksPerMultiprocessor)(int*, Function, int, size_t);
  // nullptr on drivers before 12.0; only the sm_90 path uses it.
  Result (*cuOccupancyMaxActiveClusters)(int*, Function, const LaunchConfig*);
  Result (*cuLaunchKernelEx)(const LaunchConfig*, Function, void**, void**);
  // nullptr on drivers before 12.0; only the sm_90 path uses it.
  Result (*cuTensorMapEncodeTiled)(TensorMap*, int type, uint32_t rank, void* base, const uint64_t* dims,
                                   const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                                   int interleave, int swizzle, int l2_promotion, int out_of_bounds);
};

// The loaded API, or why there is none: no driver, a driver too old (needs 12.0), cuInit's error.
hearth::Result<const Api*> api();

// "CUDA_ERROR_X (text)" with what to do about the common ones.
Status error(Result code, const char* what);

}  // namespace hearth::device::cu
