// Launches of the wgmma kernel: tensor maps, and the tile width that wastes least of the last wave. The kernel is only in
// builds for sm_90; elsewhere takes() says no.
#include "kernels/cuda/host/hopper.h"

#include <algorithm>

#include "kernels/cuda/hopper_params.h"

namespace hearth::kernels::cuda {

using device::CudaKernel;
using device::CudaStream;

extern const device::CudaModule module_linear_wgmma;

namespace {

const CudaKernel wgmma_kernels[2][2] = {{{&module_linear_wgmma, "linear_wgmma_n128_f16"}, {&module_linear_wgmma, "linear_wgmma_n128_bf16"}},
                                        {{&module_linear_wgmma, "linear_wgmma_n256_f16"}, {&module_linear_wgmma, "linear_wgmma_n256_bf16"}}};
constexpr int bm = 128, bk = 64;
constexpr int type_float16 = 6, type_bfloat16 = 9, swizzle_128 = 3, promotion_256 = 3;  // CUtensorMap enums

// A matrix of 16-bit rows, read in boxes of `box_rows` rows by 64 elements.
Status encode(const device::cu::Api& api, TensorMapBytes& map, DType type, const void* data, int k, int rows, int64_t stride, int box_rows) {
  const uint64_t dims[2] = {static_cast<uint64_t>(k), static_cast<uint64_t>(rows)}, strides[1] = {static_cast<uint64_t>(stride) * 2};
  const uint32_t box[2] = {bk, static_cast<uint32_t>(box_rows)}, steps[2] = {1, 1};
  const int code = api.cuTensorMapEncodeTiled(reinterpret_cast<device::cu::TensorMap*>(&map), type == DType::bf16 ? type_bfloat16 : type_float16, 2,
                                              const_cast<void*>(data), dims, strides, box, steps, 0, swizzle_128, promotion_256, 0);
  return code == 0 ? Status::ok() : device::cu::error(code, "describing a matrix to the copy engine");
}

}  // namespace

bool hopper_linear_takes(int compute_capability) { return compute_capability == 90 && module_linear_wgmma.images[0].sm == 90; }

void hopper_linear(CudaStream& stream, DType type, const LinearArgs& linear) {
  HopperArgs args{};
  args.linear = linear;
  const int out_rows = linear.tiles * 16, sms = stream.multiprocessors();
  args.m_tiles = divide_up(linear.rows, bm);
  // Time of a wave is proportional to the tile; wide tiles run at a higher rate (about 8 % here).
  auto waves = [&](int bn) { return divide_up(args.m_tiles * divide_up(out_rows, bn), sms) * bn; };
  const bool wide = waves(256) <= waves(128) * 1.08;
  const int bn = wide ? 256 : 128, stages = wide ? 4 : 6;
  args.n_tiles = divide_up(out_rows, bn);
  if (Status s = encode(stream.api(), args.x, type, linear.x, linear.in, linear.rows, linear.x_stride, bm); !s) return stream.fail(s);
  if (Status s = encode(stream.api(), args.weight, type, linear.weight, linear.k_padded, out_rows, linear.k_padded, bn); !s) return stream.fail(s);
  const int tiles = args.m_tiles * args.n_tiles, shared = stages * (bm + bn) * bk * 2 + 1024;
  stream.launch(wgmma_kernels[wide][type == DType::bf16], {std::min(tiles, sms), 1, 1, 384, shared}, args);
}

}  // namespace hearth::kernels::cuda
