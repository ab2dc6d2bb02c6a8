// The KV pool's memory: for each layer K and V of every block, and copies of whole blocks to and from the host.
#pragma once

#include <vector>

#include "core/status.h"
#include "device/device.h"
#include "ops/ops.h"

namespace hearth::model {

struct KvShape {
  int layers = 0, kv_heads = 0, head_dim = 0;
  ops::KvFormat format = ops::KvFormat::f16;

  size_t element_bytes() const;
  // K (or V) of one block in one layer; its scales.
  size_t half_block_bytes() const { return size_t(kv_heads) * ops::kv_block_tokens * head_dim * element_bytes(); }
  size_t scale_block_bytes() const;
  // One block over all layers, K, V and scales.
  size_t block_bytes() const { return size_t(layers) * 2 * (half_block_bytes() + scale_block_bytes()); }
};

// "auto" is f16, or f32 where the weights are f32. Errors name the value.
Result<ops::KvFormat> read_kv_format(const std::string& name, DType weights);
const char* name_of(ops::KvFormat format);

class KvPool {
 public:
  explicit KvPool(device::Device& device) : device_(device) {}
  ~KvPool();
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;

  Status allocate(const KvShape& shape, int blocks);
  const ops::KvLayer& layer(int index) const { return layers_[static_cast<size_t>(index)]; }
  int blocks() const { return blocks_; }
  size_t block_bytes() const { return shape_.block_bytes(); }
  // Host bytes of a block: for each layer K, V, K's scales, V's scales.
  Status read(int block, void* host);
  Status write(int block, const void* host);
  Status transfer(int block, void* host, bool to_host, device::Device::CopyQueue& queue) const;

 private:
  template <class Copy>
  Status each_piece(int block, Copy copy) const;

  device::Device& device_;
  KvShape shape_;
  int blocks_ = 0;
  std::vector<ops::KvLayer> layers_;
  std::vector<void*> memory_;
};

}  // namespace hearth::model
