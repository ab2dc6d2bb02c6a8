#include "kernels/cuda/host/linear_mma.h"

#include <algorithm>

#include "device/profiles.h"
#include "kernels/cuda/host/tuning.h"

namespace hearth::kernels::cuda {

using device::CudaKernel;
using device::CudaStream;

extern const device::CudaModule module_linear_mma_f16, module_linear_mma_bf16, module_linear_mma_int8;

namespace {

// A compiled size: rows of a tile, stages, the kernel by type.
struct Size { int rows, stages; CudaKernel kernels[2]; };
#define HEARTH_MMA(name) {{&module_linear_mma_f16, "linear_mma_" name "_f16"}, {&module_linear_mma_bf16, "linear_mma_" name "_bf16"}}
constexpr int sizes = 2;
const Size w4_sizes[2][sizes] = {{{128, 4, HEARTH_MMA("w4_ng1_n128_s4")}, {256, 4, HEARTH_MMA("w4_ng1_n256_s4")}},
                                 {{128, 4, HEARTH_MMA("w4_ng2_n128_s4")}, {256, 4, HEARTH_MMA("w4_ng2_n256_s4")}}};
const Size w4_half_sizes[2] = {{128, 4, {{&module_linear_mma_f16, "linear_mma_w4_ng1_n128_s4_half"}}}, {128, 4, {{&module_linear_mma_f16, "linear_mma_w4_ng2_n128_s4_half"}}}};  // sums in f16
const Size dense_sizes[sizes] = {{128, 3, HEARTH_MMA("dense_n128_s3")}, {256, 3, HEARTH_MMA("dense_n256_s3")}};
const Size int8_sizes[sizes] = {{128, 3, {{&module_linear_mma_int8, "linear_mma_int8_n128_s3"}}}, {256, 3, {{&module_linear_mma_int8, "linear_mma_int8_n256_s3"}}}};

// Mirrors MmaStage; the eight warps' stages of the epilogue fit in any ring.
int shared_bytes(int kind, int groups, const Size& size) {
  const int weights = kind == kind_w4 ? 8 * 512 + 8 * groups * 40 : 128 * 128;
  return size.stages * (round_up(weights, 128) + size.rows * 128);
}

}  // namespace

bool half_sums(const CudaStream& stream) { return tuning().half_sums < 0 ? device::sums_in_half(stream.info().profile) : tuning().half_sums; }

void mma_linear(CudaStream& stream, int kind, DType type, const LinearArgs& args) {
  const int groups = kind == kind_w4 && args.group == 32 ? 2 : 1, sms = stream.multiprocessors();
  const Size* all = kind == kind_w4 ? w4_sizes[groups - 1] : kind == kind_int8 ? int8_sizes : dense_sizes;
  auto tiles = [&](const Size& s) { return divide_up(args.tiles, 8) * divide_up(args.rows, s.rows); };
  if (kind == kind_w4 && type == DType::f16 && half_sums(stream)) {
    const Size& size = w4_half_sizes[groups - 1];
    return stream.launch(size.kernels[0], {tiles(size), 1, 1, 256, shared_bytes(kind, groups, size)}, args);
  }
  // Wide tiles read less: about a tenth faster, where they fit and their waves are as full.
  const bool fits = shared_bytes(kind, groups, all[1]) <= stream.shared_limit();
  const Size& size = all[fits && divide_up(tiles(all[1]), sms) * 256 * 10 <= divide_up(tiles(all[0]), sms) * 128 * 11];
  stream.launch(size.kernels[type == DType::bf16], {tiles(size), 1, 1, 256, shared_bytes(kind, groups, size)}, args);
}

void append_mma_shared(int sm, std::vector<SharedUse>& uses) {
  for (int kind : {kind_w4, kind_dense16, kind_int8})
    for (int groups = 1; groups <= (kind == kind_w4 ? 2 : 1); ++groups)
      for (int i = 0; i < sizes; ++i) {
        const Size& size = (kind == kind_w4 ? w4_sizes[groups - 1] : kind == kind_int8 ? int8_sizes : dense_sizes)[i];
        const int bytes = shared_bytes(kind, groups, size);
        if (i == 0 || bytes <= device::shared_bytes_per_block(sm)) uses.push_back({size.kernels[0].name, bytes});
      }
  for (int groups = 1; groups <= 2; ++groups) uses.push_back({w4_half_sizes[groups - 1].kernels[0].name, shared_bytes(kind_w4, groups, w4_half_sizes[groups - 1])});
}

}  // namespace hearth::kernels::cuda
