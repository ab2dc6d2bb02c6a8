#include "kernels/cuda/host/linear_shared.h"

#include "kernels/cuda/host/tuning.h"

namespace hearth::kernels::cuda {

using namespace ops;
using device::CudaKernel;
using device::CudaStream;

LinearArgs linear_arguments(const LinearSpec& s, const LinearParams& p, CudaStream& stream) {
  LinearArgs a{};
  a.x = p.x; a.x_stride = p.x_stride;
  a.weight = p.weight;
  a.norm_weight = p.norm_weight; a.norm_bias = p.norm_bias; a.norm_epsilon = s.norm_epsilon;
  a.bias = s.bias ? p.bias : nullptr;
  a.y = p.y; a.y_stride = p.y_stride;
  a.counters = stream.counters();
  a.rows = p.rows; a.in = s.in; a.k_padded = s.in; a.out = s.out; a.tiles = tile_count(s);
  a.x_type = static_cast<int>(s.x_type); a.y_type = static_cast<int>(s.y_type);
  a.norm = static_cast<int>(s.norm); a.activation = static_cast<int>(s.activation);
  a.gated = s.gated; a.residual = s.residual;
  a.static_scale = s.static_scale;
  return a;
}

void make_contiguous(LinearArgs& args, DType narrow, void* to, CudaStream& stream) {
  const int type = static_cast<int>(narrow);
  if (args.norm == norm_none && args.x_type == type && args.x_stride % 8 == 0 && aligned16(args.x)) return;
  launch_norm(stream, {args.x, args.x_stride, args.norm_weight, args.norm_bias, to, args.in, args.rows, args.in, args.norm, args.x_type, type, 0, args.norm_epsilon});
  args.x = to; args.x_stride = args.in; args.x_type = type; args.norm = norm_none;
}

size_t tile_partial_bytes(const TileSize& size, int multiprocessors) {
  return aligned(size_t{2} * multiprocessors * size.blocks_per_multiprocessor * size.bm * size.bn * sizeof(float));
}

void launch_tiles(CudaStream& stream, const CudaKernel& kernel, const TileSize& size, int chunk_k, LinearArgs args, void* partial) {
  const int shared = size.stages * size.stage_bytes;
  const int slots = stream.multiprocessors() * std::clamp(stream.occupancy(kernel, 256, shared), 1, size.blocks_per_multiprocessor);
  const int tiles = divide_up(args.tiles, size.bm / 16) * divide_up(args.rows, size.bn);
  const int64_t units = static_cast<int64_t>(tiles) * divide_up(args.k_padded, chunk_k);
  args.partial = static_cast<float*>(partial);
  // Whole tiles when they fill their last wave well enough; otherwise equal stripes of (tile, k).
  args.whole_tiles = tiles * 10 >= divide_up(tiles, slots) * slots * 9;
  const int grid = args.whole_tiles ? tiles : static_cast<int>(std::min<int64_t>(slots, units));
  stream.launch(kernel, {grid, 1, 1, 256, shared}, args);
}

const char* linear_shape_declines(const LinearSpec& s, const device::DeviceInfo& info) {
  if (!is_cuda(info)) return "not a CUDA device";
  if (!is_float(s.x_type) || !is_float(s.y_type)) return "types are f32, f16 or bf16";
  if (s.residual && s.y_type != DType::f32) return "residual needs f32 output";
  if (s.in % 8 != 0) return "the width must be a multiple of 8";
  const DType narrow = compute_type(s);
  if (is_narrow(s.x_type) && s.x_type != narrow) return "activations and weights differ in type";
  if (s.norm != NormKind::none && s.x_type != DType::f32) return "a fused norm takes f32";
  if ((s.norm != NormKind::none || s.x_type == DType::f32) && s.in > norm_width_max(info)) return "a row does not fit shared memory";
  return nullptr;
}

RowsForm rows_form(std::span<const int> stages, int rows, int k_padded, int element, const CudaStream& stream) {
  const int x_bytes = rows * (k_padded * element + 64);
  if (rows > tuning().rows_max || x_bytes > tuning().rows_x_bytes) return {};
  for (int i = static_cast<int>(stages.size()) - 1; i >= 0; --i) {
    const int bytes = 8 * stages[i] * 2048 + 2 * 8 * 128 * 4 + 36 * 4 + x_bytes;  // mirrors linear_rows: the ring, two tiles' sums, the feeders' scratch, x
    if (bytes <= stream.shared_limit()) return {i, bytes};
  }
  return {};
}

// A block a multiprocessor: with room for two, those of the kernel that starts early would double up on some and leave others
// empty. Tiles are dealt out in turn: who is done first starts on the next kernel's weights.
void launch_rows_kernel(CudaStream& stream, const CudaKernel& kernel, const RowsForm& form, const LinearArgs& args) {
  const int alone = stream.shared_limit() / 2 + 1024;
  stream.launch(kernel, {std::min(args.tiles, stream.multiprocessors()), 1, 1, 512, std::max(form.shared_bytes, alone)}, args);
}

}  // namespace hearth::kernels::cuda
