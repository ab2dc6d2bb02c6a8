// Parameters of the wgmma kernel: tensor maps by value, as the copy engine wants them.
#pragma once

#include "kernels/cuda/params.h"

namespace hearth::kernels::cuda {

struct alignas(64) TensorMapBytes { uint64_t opaque[16]; };
struct HopperArgs {
  TensorMapBytes x, weight;
  LinearArgs linear;
  int m_tiles, n_tiles;
};

}  // namespace hearth::kernels::cuda
