// Parameters of the wgmma kernel: tensor maps by value, as the copy engine wants them.
#pragma once

#include "kernels/cuda/params.h"

namespace hearth::kernels::cuda {

struct alignas(64) TensorMapBytes { uint64_t opaque[16]; };
// Prefill attention: the pool's keys and values as rows of a head, [blocks * kv_heads * kv_tokens, head_dim] (not int8).
struct HopperAttentionArgs { TensorMapBytes k, v; AttentionArgs attention; };
// The rows of qkv as they are.
struct HopperVisionArgs { TensorMapBytes qkv; VisionArgs vision; };
struct HopperArgs {
  TensorMapBytes x, weight;
  TensorMapBytes y;  // kernels that end in tile_store.cuh: boxes of 16 rows by 128 bytes
  LinearArgs linear;
  int m_tiles, n_tiles;
  int weights_constant;  // dense: no kernel writes the weights, so they may be read before the kernels before this one end
};

// linear_w4_cluster. A pass over K takes `tiles_few` tiles or one more; each count has its map.
struct W4ClusterArgs {
  TensorMapBytes x, weight_few, weight_more;
  LinearArgs linear;
  int tiles_few, passes, stages, stage_bytes;
  int sums;      // where a block's sums go, from the ring's begin
  int prefetch;  // stages after the ring that are brought to the L2 at the start
};

}  // namespace hearth::kernels::cuda
