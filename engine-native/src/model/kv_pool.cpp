#include "model/kv_pool.h"

namespace hearth::model {

size_t KvShape::element_bytes() const {
  switch (format) {
    case ops::KvFormat::f32: return 4;
    case ops::KvFormat::f16: case ops::KvFormat::bf16: return 2;
    case ops::KvFormat::int8: return 1;
  }
  return 4;
}

size_t KvShape::scale_block_bytes() const {
  return format == ops::KvFormat::int8 ? size_t(kv_heads) * ops::kv_block_tokens * sizeof(float) : 0;
}

const char* name_of(ops::KvFormat format) {
  constexpr const char* names[] = {"f32", "f16", "bf16", "int8"};
  return names[static_cast<int>(format)];
}

Result<ops::KvFormat> read_kv_format(const std::string& name, DType weights) {
  if (name == "auto") return weights == DType::f32 ? ops::KvFormat::f32 : ops::KvFormat::f16;
  if (name == "f32") return ops::KvFormat::f32;
  if (name == "f16") return ops::KvFormat::f16;
  if (name == "bf16") return ops::KvFormat::bf16;
  if (name == "int8") return ops::KvFormat::int8;
  return invalid("kv '" + name.substr(0, 40) + "' is none of auto, f32, f16, bf16, int8");
}

KvPool::~KvPool() {
  for (void* memory : memory_) device_.release(memory);
}

Status KvPool::allocate(const KvShape& shape, int blocks) {
  shape_ = shape;
  blocks_ = blocks;
  layers_.resize(static_cast<size_t>(shape.layers));
  const size_t half = shape.half_block_bytes() * static_cast<size_t>(blocks);
  const size_t scales = shape.scale_block_bytes() * static_cast<size_t>(blocks);
  auto take = [&](size_t bytes) -> Result<void*> {
    HEARTH_ASSIGN(void* memory, device_.allocate(bytes, device::MemoryKind::kv, "the KV pool"));
    memory_.push_back(memory);
    return memory;
  };
  for (ops::KvLayer& layer : layers_) {
    HEARTH_ASSIGN(layer.k, take(half));
    HEARTH_ASSIGN(layer.v, take(half));
    if (scales == 0) continue;
    HEARTH_ASSIGN(void* k_scale, take(scales));
    HEARTH_ASSIGN(void* v_scale, take(scales));
    layer.k_scale = static_cast<float*>(k_scale);
    layer.v_scale = static_cast<float*>(v_scale);
  }
  return Status::ok();
}

// Calls copy(device pointer, host offset, bytes) for the pieces of a block.
template <class Copy>
Status KvPool::each_piece(int block, Copy copy) const {
  if (block < 0 || block >= blocks_) return invalid("KV block " + std::to_string(block) + " of " + std::to_string(blocks_));
  const size_t half = shape_.half_block_bytes(), scales = shape_.scale_block_bytes(), at = static_cast<size_t>(block);
  size_t host = 0;
  for (const ops::KvLayer& layer : layers_) {
    for (void* part : {layer.k, layer.v}) {
      HEARTH_TRY(copy(static_cast<uint8_t*>(part) + at * half, host, half));
      host += half;
    }
    if (scales == 0) continue;
    for (float* part : {layer.k_scale, layer.v_scale}) {
      HEARTH_TRY(copy(reinterpret_cast<uint8_t*>(part) + at * scales, host, scales));
      host += scales;
    }
  }
  return Status::ok();
}

Status KvPool::read(int block, void* host) {
  return each_piece(block, [&](uint8_t* piece, size_t offset, size_t bytes) {
    return device_.download(static_cast<uint8_t*>(host) + offset, piece, bytes);
  });
}

Status KvPool::write(int block, const void* host) {
  return each_piece(block, [&](uint8_t* piece, size_t offset, size_t bytes) {
    return device_.upload(piece, static_cast<const uint8_t*>(host) + offset, bytes);
  });
}

Status KvPool::transfer(int block, void* host, bool to_host, device::Device::CopyQueue& queue) const {
  return each_piece(block, [&](uint8_t* piece, size_t offset, size_t bytes) {
    uint8_t* at = static_cast<uint8_t*>(host) + offset;
    return to_host ? queue.download(at, piece, bytes) : queue.upload(piece, at, bytes);
  });
}

}  // namespace hearth::model
