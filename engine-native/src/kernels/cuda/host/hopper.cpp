// Launches of the wgmma kernels of few rows (hopper_dense.cpp has those of many).
#include "kernels/cuda/host/resources.h"
#include "kernels/cuda/host/hopper.h"

#include <algorithm>

#include "kernels/cuda/hopper_params.h"

namespace hearth::kernels::cuda {

using device::CudaKernel;
using device::CudaStream;

extern const device::CudaModule module_linear_w4_wgmma_small_f16, module_linear_w4_wgmma_small_bf16, module_linear_w4_wgmma_n128_f16,
    module_linear_w4_wgmma_n128_bf16, module_linear_w4_wgmma_n256_f16, module_linear_w4_wgmma_n256_bf16;

namespace {

#define HEARTH_W4(n, part) {{{&module_linear_w4_wgmma_##part##_f16, "linear_w4_wgmma_n" #n "_f16"}, {&module_linear_w4_wgmma_##part##_bf16, "linear_w4_wgmma_n" #n "_bf16"}}, \
                            {{&module_linear_w4_wgmma_##part##_f16, "linear_w4_wgmma_n" #n "_g_f16"}, {&module_linear_w4_wgmma_##part##_bf16, "linear_w4_wgmma_n" #n "_g_bf16"}}}
// [size][any group][type]; the last size only for groups of 128
const CudaKernel w4_kernels[6][2][2] = {HEARTH_W4(8, small), HEARTH_W4(16, small), HEARTH_W4(32, small), HEARTH_W4(64, small), HEARTH_W4(128, n128), HEARTH_W4(256, n256)};
constexpr int w4_rows[6] = {8, 16, 32, 64, 128, 256}, w4_stages[2][6] = {{6, 6, 5, 4, 5, 3}, {6, 6, 5, 4, 4, 0}};
int w4_blocks(int size) { return size < 4 ? 2 : 1; }
int w4_size(int rows, bool any_group) {
  const int last = any_group ? 4 : 5;
  for (int i = 0; i < last; ++i) if (rows <= w4_rows[i]) return i;
  return last;
}

constexpr int bk = 64;
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

size_t hopper_w4_partial_bytes(int max_rows, int multiprocessors) {
  size_t most = 0;
  for (int i = 0; i <= w4_size(max_rows, false); ++i) most = std::max(most, size_t{2} * multiprocessors * w4_blocks(i) * 128 * w4_rows[i] * sizeof(float));
  return aligned(most);
}

void hopper_w4(CudaStream& stream, DType type, LinearArgs linear, void* partial) {
  const bool any_group = linear.group != 128;
  const int size = w4_size(linear.rows, any_group), bn = w4_rows[size], sms = stream.multiprocessors();
  const int shared = w4_stages[any_group][size] * (bn * 256 + (any_group ? 10240 : 9216)) + 1024;
  HopperArgs args{};
  args.m_tiles = divide_up(linear.tiles, 8);
  args.n_tiles = divide_up(linear.rows, bn);
  if (Status s = encode(stream.api(), args.x, type, linear.x, linear.in, linear.rows, linear.x_stride, bn); !s) return stream.fail(s);
  const int tiles = args.m_tiles * args.n_tiles, slots = sms * w4_blocks(size);
  const int64_t units = static_cast<int64_t>(tiles) * (linear.k_padded / 128);
  linear.whole_tiles = tiles * 100 >= divide_up(tiles, slots) * slots * 92;
  linear.partial = static_cast<float*>(partial);
  args.linear = linear;
  const int grid = linear.whole_tiles ? tiles : static_cast<int>(std::min<int64_t>(slots, units));
  stream.launch(w4_kernels[size][any_group][type == DType::bf16], {grid, 1, 1, 384, shared}, args);
}

void append_hopper_shared(int sm, std::vector<SharedUse>& uses) {
  if (sm != 90) return;
  for (int any = 0; any < 2; ++any)
    for (int i = 0; i < 6; ++i)
      if (w4_stages[any][i]) uses.push_back({w4_kernels[i][any][0].name, w4_stages[any][i] * (w4_rows[i] * 256 + (any ? 10240 : 9216)) + 1024});
  append_hopper_dense_shared(uses);
}

}  // namespace hearth::kernels::cuda
