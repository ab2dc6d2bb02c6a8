#include "kernels/cuda/host/tuning.h"

namespace hearth::kernels::cuda {

Tuning& tuning() {
  static Tuning values;
  return values;
}

}  // namespace hearth::kernels::cuda
