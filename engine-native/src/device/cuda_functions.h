// Loaded modules and kernels of one device. Internal to the device folder.
#pragma once

#include <unordered_map>

#include "device/cuda_stream.h"

namespace hearth::device {

struct CudaStream::Functions {
  struct Entry { cu::Function function = nullptr; int shared_bytes = 0, occupancy = 0, occupancy_threads = 0, occupancy_shared = -1;
    int clusters[4] = {-1, -1, -1, -1};  // by log2 of the cluster
  };
  std::unordered_map<const CudaModule*, cu::Module> modules;
  std::unordered_map<const CudaKernel*, Entry> kernels;
};

}  // namespace hearth::device
