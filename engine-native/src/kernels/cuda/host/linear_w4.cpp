// W4A16 linears. Layout "w4-mma", one resident copy for all batch sizes:
//   weights  [tiles][k / 64][32 lanes][16 bytes]: what each lane of an mma needs, see pack_word
//   scales   f16 [tiles][groups][8][2]: rows r and r + 8 side by side, divided by the row's factor
//   zeros    [tiles][groups][8] bytes: row r in the low nibble, r + 8 in the high
//   factors  f32 [tiles * 16]: a power of two a row, so that tiny scales do not fall out of f16
// k is padded to 128 with weights of scale 0. A gated linear's tile holds 8 gate rows and their 8 up rows.
#include <cmath>
#include <cstring>

#include "kernels/cuda/host/hopper.h"
#include "kernels/cuda/host/linear_shared.h"
#include "kernels/cuda/host/tuning.h"

namespace hearth::kernels::cuda {

using namespace ops;
using device::CudaKernel;
using device::CudaModule;
using device::CudaStream;
using device::DeviceInfo;
using device::Stream;

extern const CudaModule module_linear_rows_w4_f16, module_linear_rows_w4_bf16, module_linear_tile_w4_f16, module_linear_tile_w4_bf16, module_dequantize;

namespace {

struct Layout {
  int tiles, k_padded, groups;
  size_t scales, zeros, factors, bytes;
  explicit Layout(const LinearSpec& s) {
    tiles = tile_count(s);
    k_padded = round_up(s.in, 128);
    groups = k_padded / s.group;
    scales = aligned(size_t(tiles) * k_padded * 8);
    zeros = scales + aligned(size_t(tiles) * groups * 32);
    factors = zeros + aligned(size_t(tiles) * groups * 8);
    bytes = factors + aligned(size_t(tiles) * 64);
  }
};

#define HEARTH_ROWS(g) {{{&module_linear_rows_w4_f16, "linear_rows_w4_g" #g "_s4_f16"}, {&module_linear_rows_w4_f16, "linear_rows_w4_g" #g "_s8_f16"}}, \
                        {{&module_linear_rows_w4_bf16, "linear_rows_w4_g" #g "_s4_bf16"}, {&module_linear_rows_w4_bf16, "linear_rows_w4_g" #g "_s8_bf16"}}}
const CudaKernel rows_kernels[3][2][2] = {HEARTH_ROWS(128), HEARTH_ROWS(64), HEARTH_ROWS(32)};  // [group][type][stages]
#define HEARTH_TILE(ng, n) {{&module_linear_tile_w4_f16, "linear_tile_w4_ng" #ng "_n" #n "_f16"}, {&module_linear_tile_w4_bf16, "linear_tile_w4_ng" #ng "_n" #n "_bf16"}}
constexpr int sizes = 4;
const CudaKernel tile_kernels[2][sizes][2] = {{HEARTH_TILE(1, 16), HEARTH_TILE(1, 32), HEARTH_TILE(1, 64), HEARTH_TILE(1, 128)},
                                              {HEARTH_TILE(2, 16), HEARTH_TILE(2, 32), HEARTH_TILE(2, 64), HEARTH_TILE(2, 128)}};
const CudaKernel dequantize_kernels[2] = {{&module_dequantize, "dequantize_w4_f16"}, {&module_dequantize, "dequantize_w4_bf16"}};

constexpr TileSize tile_size(int i, int ng) {
  constexpr int bm[sizes] = {128, 128, 128, 256}, bn[sizes] = {16, 32, 64, 128}, stages[sizes] = {6, 5, 4, 3}, blocks[sizes] = {2, 2, 2, 1};
  return {bm[i], bn[i], stages[i], tile_stage_bytes(kind_w4, ng, bm[i], bn[i]), blocks[i]};
}
int size_for(int rows) { return rows <= 16 ? 0 : rows <= 32 ? 1 : rows <= 64 ? 2 : 3; }

int group_index(int group) { return group == 128 ? 0 : group == 64 ? 1 : 2; }
int rows_stage_bytes(int group) { return 1024 + (128 / group * 40 + 15) / 16 * 16; }

// Whether the decode path takes this many rows, and its shared memory.
int rows_path_bytes(const LinearSpec& s, int rows, int k_padded, int limit) {
  const Tuning& t = tuning();
  if (rows > t.rows_max || rows * (k_padded * 2 + 64) > t.rows_x_bytes) return 0;
  const int bytes = rows_shared_bytes(rows_stage_bytes(s.group), t.rows_stages, rows, k_padded, 2);
  return bytes <= limit ? bytes : 0;
}

const char* declines(const LinearSpec& s, const DeviceInfo& info) {
  if (s.weight != WeightFormat::w4) return "weights are not w4";
  if (s.activations != ActivationFormat::exact) return "only exact activations (W4A16) on CUDA";
  if (s.group != 32 && s.group != 64 && s.group != 128) return "groups are 32, 64 or 128";
  if (s.in % s.group != 0) return "the group must divide the width";
  return linear_shape_declines(s, info);
}

size_t packed_bytes(const LinearSpec& s) { return Layout(s).bytes; }

uint32_t spread(uint32_t v) { return (v & 0xf) | (v & 0xf0) << 12 | (v & 0xf00) | (v & 0xf000) << 12; }
// Four weights of row r and four of row r + 8, in the order decode4 (common.cuh) undoes.
uint32_t pack_word(uint32_t low, uint32_t high) { return spread(low) | spread(high) << 4; }

uint32_t eight_nibbles(const uint8_t* row, int k, int in) {
  if (row == nullptr || k >= in) return 0;
  uint32_t v;
  std::memcpy(&v, row + k / 2, 4);
  return v;
}

void pack_weights(const LinearSpec& s, const HostLinear& from, const Layout& layout, int tile, uint32_t* out) {
  const auto* data = static_cast<const uint8_t*>(from.data);
  const uint8_t* rows[16];
  for (int r = 0; r < 16; ++r) {
    const int source = source_row(s, tile, r);
    rows[r] = source < 0 ? nullptr : data + static_cast<size_t>(source) * s.in / 2;
  }
  for (int block = 0; block < layout.k_padded / 64; ++block)
    for (int lane = 0; lane < 32; ++lane)
      for (int half = 0; half < 2; ++half) {
        const int k = block * 64 + half * 32 + lane % 4 * 8;
        const uint32_t low = eight_nibbles(rows[lane / 4], k, s.in), high = eight_nibbles(rows[lane / 4 + 8], k, s.in);
        *out++ = pack_word(low & 0xffff, high & 0xffff);
        *out++ = pack_word(low >> 16, high >> 16);
      }
}

void pack_meta(const LinearSpec& s, const HostLinear& from, const Layout& layout, int tile, uint16_t* scales, uint8_t* zeros, float* factors) {
  const int groups = s.in / s.group;
  for (int r = 0; r < 16; ++r) {
    const int source = source_row(s, tile, r);
    float largest = 0;
    for (int g = 0; source >= 0 && g < groups; ++g) largest = std::fmax(largest, std::fabs(from.scales[static_cast<size_t>(source) * groups + g]));
    int exponent = 0;
    if (largest > 0 && std::isfinite(largest)) std::frexp(largest, &exponent);
    factors[r] = std::ldexp(1.0f, exponent);
    for (int g = 0; g < layout.groups; ++g) {
      const bool live = source >= 0 && g < groups;
      const size_t at = live ? static_cast<size_t>(source) * groups + g : 0;
      scales[g * 16 + r % 8 * 2 + r / 8] = to_half(live ? std::ldexp(from.scales[at], -exponent) : 0.0f).bits;
      const int zero = !live ? 0 : from.zeros ? from.zeros[at] : 8;
      uint8_t& byte = zeros[g * 8 + r % 8];
      byte = r < 8 ? static_cast<uint8_t>(zero) : static_cast<uint8_t>(byte | zero << 4);
    }
  }
}

void pack(const LinearSpec& s, const HostLinear& from, int begin, int end, void* to) {
  const Layout layout(s);
  char* base = static_cast<char*>(to);
  for (int tile = begin / 16; tile < divide_up(end, 16); ++tile) {
    pack_weights(s, from, layout, tile, reinterpret_cast<uint32_t*>(base + static_cast<size_t>(tile) * layout.k_padded * 8));
    pack_meta(s, from, layout, tile, reinterpret_cast<uint16_t*>(base + layout.scales) + static_cast<size_t>(tile) * layout.groups * 16,
              reinterpret_cast<uint8_t*>(base + layout.zeros) + static_cast<size_t>(tile) * layout.groups * 8,
              reinterpret_cast<float*>(base + layout.factors) + tile * 16);
  }
}

// ---- Running ----------------------------------------------------------------------------------------------------------

bool use_prefill(int rows, int compute_capability) {
  return hopper_linear_takes(compute_capability) && rows >= tuning().prefill_rows;
}

size_t scratch_bytes(const Layout& layout) { return aligned(static_cast<size_t>(layout.tiles) * 16 * layout.k_padded * 2); }

size_t workspace_bytes(const LinearSpec& s, int max_rows, const DeviceInfo& info) {
  const Layout layout(s);
  const size_t x = needs_conversion(s, compute_type(s)) ? aligned(static_cast<size_t>(max_rows) * s.in * 2) : 0;
  size_t most = 0;
  for (int i = 0; i <= size_for(max_rows); ++i) most = std::max(most, tile_partial_bytes(tile_size(i, s.group == 32 ? 2 : 1), info.threads));
  if (use_prefill(max_rows, info.compute_capability)) most = std::max(most, scratch_bytes(layout));
  return x + most;
}

void run(const LinearSpec& s, const LinearParams& p, Stream& base) {
  CudaStream& stream = device::cuda(base);
  if (p.rows <= 0) return;
  const Layout layout(s);
  const DType narrow = compute_type(s);
  const int type = narrow == DType::bf16;
  LinearArgs a = linear_arguments(s, p, stream);
  const char* weight = static_cast<const char*>(p.weight);
  a.k_padded = layout.k_padded; a.groups = layout.groups; a.group = s.group;
  a.scales = reinterpret_cast<const uint16_t*>(weight + layout.scales);
  a.zeros = reinterpret_cast<const uint8_t*>(weight + layout.zeros);
  a.weight_scale = reinterpret_cast<const float*>(weight + layout.factors);
  Scratch scratch(p.workspace);
  void* x = needs_conversion(s, narrow) ? static_cast<void*>(scratch.take<char>(static_cast<size_t>(p.rows) * s.in * 2)) : scratch.at;

  if (const int shared = rows_path_bytes(s, p.rows, layout.k_padded, stream.shared_limit())) {
    const bool fused = p.rows <= tuning().fused_norm_rows && s.in <= 8192;
    const bool readable = p.x_stride % 8 == 0 && aligned16(p.x);
    if ((s.norm != NormKind::none && !fused) || !readable) make_contiguous(a, narrow, x, stream);
    launch_rows_kernel(stream, rows_kernels[group_index(s.group)][type][tuning().rows_stages == 8], shared, a);
    return;
  }
  make_contiguous(a, narrow, x, stream);
  if (use_prefill(p.rows, stream.info().compute_capability)) {
    const DequantizeArgs d{a.weight, a.scales, a.zeros, scratch.at, layout.tiles, layout.k_padded, layout.groups, s.group, static_cast<int>(narrow)};
    stream.launch(dequantize_kernels[type], {stream.multiprocessors() * 8, 1, 1, 256}, d);
    a.weight = scratch.at;
    hopper_linear(stream, narrow, a);
    return;
  }
  const int ng = s.group == 32 ? 2 : 1, size = size_for(p.rows);
  launch_tiles(stream, tile_kernels[ng - 1][size][type], tile_size(size, ng), 64, a, scratch.at);
}

}  // namespace

const LinearImplementation linear_w4{{"cuda/sm80/w4-mma", declines, run, workspace_bytes}, "w4-mma", packed_bytes, pack, 16};

}  // namespace hearth::kernels::cuda
