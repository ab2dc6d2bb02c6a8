// What CPU kernels get as their Stream: the pool they split work over.
#pragma once

#include "core/thread_pool.h"
#include "device/device.h"

namespace hearth::device {

class CpuStream final : public Stream {
 public:
  explicit CpuStream(ThreadPool& pool) : pool(pool) {}
  Status synchronize() override { return Status::ok(); }
  ThreadPool& pool;
};

inline ThreadPool& pool_of(Stream& stream) { return static_cast<CpuStream&>(stream).pool; }

}  // namespace hearth::device
