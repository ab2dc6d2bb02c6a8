// W4A16 linears. Layout "w4-mma", one resident copy for all batch sizes:
//   units    [tiles][k / 128], each of 16 rows x 128 k:
//              weights  [2][32 lanes][16 bytes]: what each lane of an mma needs, see pack_word
//              scales   f16 [groups][8][2]: rows r and r + 8 side by side, divided by the row's factor
//              zeros    [groups][8] bytes: row r in the low nibble, r + 8 in the high; padded to 16 bytes
//   factors  f32 [tiles * 16]: a power of two a row, so that tiny scales do not fall out of f16
// k is padded to 128 with weights of scale 0. A gated linear's tile holds 8 gate rows and their 8 up rows.
#include <cmath>
#include <cstring>

#include "kernels/cuda/host/resources.h"
#include "kernels/cuda/host/chain.h"
#include "kernels/cuda/host/hopper.h"
#include "kernels/cuda/host/linear_mma.h"
#include "kernels/cuda/host/linear_shared.h"
#include "kernels/cuda/host/program.h"
#include "kernels/cuda/host/tuning.h"

namespace hearth::kernels::cuda {

using namespace ops;
using device::CudaKernel;
using device::CudaModule;
using device::CudaStream;
using device::DeviceInfo;
using device::Stream;

extern const CudaModule module_linear_rows_w4_f16, module_linear_rows_w4_bf16, module_linear_rows_w4_bulk_f16, module_linear_rows_w4_bulk_bf16,
    module_linear_tile_w4_f16, module_linear_tile_w4_bf16;

namespace {

struct Layout {
  int tiles, k_padded, units, unit_groups, unit_bytes;
  size_t factors, bytes;
  explicit Layout(const LinearSpec& s) {
    tiles = tile_count(s);
    k_padded = round_up(s.in, 128);
    units = k_padded / 128;
    unit_groups = 128 / s.group;
    unit_bytes = round_up(1024 + unit_groups * 40, 16);
    factors = aligned(size_t(tiles) * units * unit_bytes);
    bytes = factors + aligned(size_t(tiles) * 64);
  }
  size_t unit(int tile, int u) const { return (static_cast<size_t>(tile) * units + u) * unit_bytes; }
};

#define HEARTH_ROWS(g, st) {{&module_linear_rows_w4_f16, "linear_rows_w4_g" #g "_s" #st "_f16"}, {&module_linear_rows_w4_bf16, "linear_rows_w4_g" #g "_s" #st "_bf16"}}
const CudaKernel rows_kernels[3][2][2] = {{HEARTH_ROWS(128, 3), HEARTH_ROWS(128, 5)}, {HEARTH_ROWS(64, 3), HEARTH_ROWS(64, 5)}, {HEARTH_ROWS(32, 3), HEARTH_ROWS(32, 5)}};  // [group][stages][type]
#define HEARTH_BULK(g, st) {{&module_linear_rows_w4_bulk_f16, "linear_rows_w4_bulk_g" #g "_s" #st "_f16"}, {&module_linear_rows_w4_bulk_bf16, "linear_rows_w4_bulk_g" #g "_s" #st "_bf16"}}
const CudaKernel bulk_kernels[3][2][2] = {{HEARTH_BULK(128, 3), HEARTH_BULK(128, 5)}, {HEARTH_BULK(64, 3), HEARTH_BULK(64, 5)}, {HEARTH_BULK(32, 3), HEARTH_BULK(32, 5)}};
#define HEARTH_TILE(ng, n) {{&module_linear_tile_w4_f16, "linear_tile_w4_ng" #ng "_n" #n "_f16"}, {&module_linear_tile_w4_bf16, "linear_tile_w4_ng" #ng "_n" #n "_bf16"}}
constexpr int sizes = 4;
const CudaKernel tile_kernels[2][sizes][2] = {{HEARTH_TILE(1, 16), HEARTH_TILE(1, 32), HEARTH_TILE(1, 64), HEARTH_TILE(1, 128)},
                                              {HEARTH_TILE(2, 16), HEARTH_TILE(2, 32), HEARTH_TILE(2, 64), HEARTH_TILE(2, 128)}};

const CudaKernel half_kernels[2] = {{&module_linear_tile_w4_f16, "linear_tile_w4_ng1_n64_half"}, {&module_linear_tile_w4_f16, "linear_tile_w4_ng2_n64_half"}};  // sums in f16

constexpr TileSize tile_size(int i, int ng) {
  constexpr int bm[sizes] = {128, 128, 128, 256}, bn[sizes] = {16, 32, 64, 128}, stages[sizes] = {6, 5, 4, 3}, blocks[sizes] = {2, 2, 2, 1};
  return {bm[i], bn[i], stages[i], tile_stage_bytes(kind_w4, ng, bm[i], bn[i]), blocks[i]};
}
constexpr TileSize half_size(int ng) { return {128, 64, 3, tile_stage_bytes(kind_w4, ng, 128, 64), 2}; }
int size_for(int rows) { return rows <= 16 ? 0 : rows <= 32 ? 1 : rows <= 64 ? 2 : 3; }

int group_index(int group) { return group == 128 ? 0 : group == 64 ? 1 : 2; }

// How the decode path takes these rows; shared_bytes 0: it does not. One block a multiprocessor, in at most half of the
// shared memory where that is possible, so that the next kernel's block fits beside it.
struct RowsPlan { int shared_bytes, stages, grid, pass; };
RowsPlan plan_rows(const LinearSpec& s, const Layout& layout, int rows, int multiprocessors, int limit) {
  const Tuning& t = tuning();
  constexpr int warps = 16;
  if (rows > t.rows_max || rows * (layout.k_padded * 2 + 64) > t.rows_x_bytes) return {0, 0, 0, 0};
  const int per_block = divide_up(layout.tiles, multiprocessors), pairs = divide_up(rows, 2);
  const int tile_sums = warps * 8 * pairs * 16, x_bytes = layout.k_padded / s.group * 32 + rows * (layout.k_padded * 2 + 64);
  int pass = std::min(per_block, std::max(1, 16 / pairs));
  auto bytes = [&](int stages) { return warps * stages * layout.unit_bytes + pass * tile_sums + x_bytes; };
  const int room = limit - 640, half = limit / 2 - 1536;  // less barriers and squares, and of half what the system keeps a block
  while (pass > 1 && bytes(3) > room) --pass;
  const int stages = t.rows_stages == 5 && bytes(5) <= room && (bytes(5) <= half || bytes(3) > half) ? 5 : 3;
  return {bytes(stages) <= room ? bytes(stages) : 0, stages, std::min(layout.tiles, multiprocessors), pass};
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

// A unit: the k's of row g (and of row g + 8) that lane (g, t) has in 16-step i are 16 i + 2 t, + 1, + 8, + 9.
void pack_unit(const uint8_t* const rows[16], int k0, int in, uint32_t* out) {
  for (int half = 0; half < 2; ++half)
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        const int k = k0 + half * 64 + i * 16, t = lane % 4;
        auto sixteen = [&](const uint8_t* row) -> uint32_t {
          return row && k < in ? row[k / 2 + t] | static_cast<uint32_t>(row[k / 2 + 4 + t]) << 8 : 0;
        };
        *out++ = pack_word(sixteen(rows[lane / 4]), sixteen(rows[lane / 4 + 8]));
      }
}

// The exponent that brings a row's largest scale to [0.5, 1).
int row_exponent(const float* scales, int groups) {
  float largest = 0;
  for (int g = 0; g < groups; ++g) largest = std::fmax(largest, std::fabs(scales[g]));
  int exponent = 0;
  if (largest > 0 && std::isfinite(largest)) std::frexp(largest, &exponent);
  return exponent;
}

void pack_tile(const LinearSpec& s, const HostLinear& from, const Layout& layout, int tile, char* base) {
  const int groups = s.in / s.group;
  const uint8_t* rows[16];
  for (int r = 0; r < 16; ++r) {
    const int source = source_row(s, tile, r);
    rows[r] = source < 0 ? nullptr : static_cast<const uint8_t*>(from.data) + static_cast<size_t>(source) * s.in / 2;
  }
  for (int u = 0; u < layout.units; ++u) {
    std::memset(base + layout.unit(tile, u) + 1024, 0, layout.unit_bytes - 1024);
    pack_unit(rows, u * 128, s.in, reinterpret_cast<uint32_t*>(base + layout.unit(tile, u)));
  }
  for (int r = 0; r < 16; ++r) {
    const int source = source_row(s, tile, r);
    const float* scales = source < 0 ? nullptr : from.scales + static_cast<size_t>(source) * groups;
    const int exponent = scales ? row_exponent(scales, groups) : 0;
    reinterpret_cast<float*>(base + layout.factors)[tile * 16 + r] = std::ldexp(1.0f, exponent);
    for (int g = 0; scales && g < groups; ++g) {
      char* unit = base + layout.unit(tile, g / layout.unit_groups) + 1024;
      const int at = g % layout.unit_groups;
      reinterpret_cast<uint16_t*>(unit)[at * 16 + r % 8 * 2 + r / 8] = to_half(std::ldexp(scales[g], -exponent)).bits;
      const int zero = from.zeros ? from.zeros[static_cast<size_t>(source) * groups + g] : 8;
      reinterpret_cast<uint8_t*>(unit)[layout.unit_groups * 32 + at * 8 + r % 8] |= static_cast<uint8_t>(r < 8 ? zero : zero << 4);
    }
  }
}

void pack(const LinearSpec& s, const HostLinear& from, int begin, int end, void* to) {
  const Layout layout(s);
  for (int tile = begin / 16; tile < divide_up(end, 16); ++tile) pack_tile(s, from, layout, tile, static_cast<char*>(to));
}

// ---- Running ----------------------------------------------------------------------------------------------------------

size_t workspace_bytes(const LinearSpec& s, int max_rows, const DeviceInfo& info) {
  const size_t x = aligned(static_cast<size_t>(max_rows) * s.in * 2);  // also of rows that are not 16-byte aligned
  size_t most = 0;
  for (int i = 0; i <= size_for(max_rows); ++i) most = std::max(most, tile_partial_bytes(tile_size(i, s.group == 32 ? 2 : 1), info.threads));
  return std::max(x + most, chain_scratch_bytes(std::min(max_rows, 64), s.in));
}

// What the tuning pass found, or the choice by rows. `few`: the decode path takes these rows.
LinearChoice choose(const LinearSpec& s, int rows, bool few, CudaStream& stream) {
  const LinearChoice* tuned = tuning_table().find(s, rows);
  if (tuned && (tuned->path != LinearPath::rows || few)) return *tuned;
  const bool hopper = hopper_linear_takes(stream.info().compute_capability);
  if (few && !(hopper && rows >= tuning().cluster_rows)) return {LinearPath::rows};
  if (hopper) {
    if (rows >= tuning().prefill_rows) return {LinearPath::prefill};
    return {LinearPath::cluster, -1};
  }
  if (rows >= tuning().mma_rows) return {LinearPath::mma};
  return {LinearPath::tile, size_for(rows)};
}

void run(const LinearSpec& s, const LinearParams& p, Stream& base) {
  CudaStream& stream = device::cuda(base);
  if (p.rows <= 0) return;
  const Layout layout(s);
  const DType narrow = compute_type(s);
  const int type = narrow == DType::bf16;
  LinearArgs a = linear_arguments(s, p, stream);
  const char* weight = static_cast<const char*>(p.weight);
  a.k_padded = layout.k_padded; a.group = s.group; a.unit_bytes = layout.unit_bytes;
  a.weight_scale = reinterpret_cast<const float*>(weight + layout.factors);
  Scratch scratch(p.workspace);
  void* x = scratch.take<char>(static_cast<size_t>(p.rows) * s.in * 2);

  if (program_linear(stream, a, narrow, [s, p, &base] { run(s, p, base); })) return;
  if (chain_linear(stream, a, narrow, p.workspace, [s, p, &base] { run(s, p, base); })) return;
  const RowsPlan plan = plan_rows(s, layout, p.rows, stream.multiprocessors(), stream.shared_limit());
  const LinearChoice choice = choose(s, p.rows, plan.shared_bytes > 0, stream);
  if (choice.path == LinearPath::rows) {
    const bool fused = s.norm == NormKind::none || (s.norm == NormKind::rms && p.rows <= tuning().fused_norm_rows);
    const bool readable = p.x_stride % 8 == 0 && aligned16(p.x);
    if (!fused || !readable) make_contiguous(a, narrow, x, stream);
    a.pass = plan.pass;
    const auto& kernels = hopper_linear_takes(stream.info().compute_capability) ? bulk_kernels : rows_kernels;
    stream.launch(kernels[group_index(s.group)][plan.stages == 5][type], {plan.grid, 1, 1, 512, plan.shared_bytes}, a);
    return;
  }
  make_contiguous(a, narrow, x, stream);
  if (choice.path == LinearPath::prefill) return hopper_w4_prefill(stream, narrow, a);
  if (choice.path == LinearPath::cluster) return hopper_w4_cluster(stream, narrow, a, choice.variant, choice.split);
  if (choice.path == LinearPath::mma) return mma_linear(stream, kind_w4, narrow, a);
  const int ng = s.group == 32 ? 2 : 1, size = choice.variant;
  if (size == 2 && narrow == DType::f16 && half_sums(stream)) return launch_tiles(stream, half_kernels[ng - 1], half_size(ng), 64, a, scratch.at);
  launch_tiles(stream, tile_kernels[ng - 1][size][type], tile_size(size, ng), 64, a, scratch.at);
}

}  // namespace

std::vector<LinearChoice> w4_candidates(const LinearSpec& s, int rows, CudaStream& stream) {
  const Layout layout(s);
  std::vector<LinearChoice> list;
  if (plan_rows(s, layout, rows, stream.multiprocessors(), stream.shared_limit()).shared_bytes) list.push_back({LinearPath::rows});
  const int cc = stream.info().compute_capability;
  if (hopper_linear_takes(cc)) {
    for (const auto& [variant, split] : hopper_w4_candidates(rows, layout.units)) list.push_back({LinearPath::cluster, variant, split});
    if (rows >= 256) list.push_back({LinearPath::prefill});
    return list;
  }
  for (int i = std::max(0, size_for(rows) - 1); i <= size_for(rows); ++i) list.push_back({LinearPath::tile, i});
  if (rows >= 128) list.push_back({LinearPath::mma});
  return list;
}

const LinearImplementation linear_w4{{"cuda/sm80/w4-mma", declines, run, workspace_bytes}, "w4-mma", packed_bytes, pack, 16};

void append_w4_shared(int, std::vector<SharedUse>& uses) {
  for (int ng = 1; ng <= 2; ++ng) uses.push_back({half_kernels[ng - 1].name, half_size(ng).stages * half_size(ng).stage_bytes});
  for (int ng = 1; ng <= 2; ++ng)
    for (int i = 0; i < sizes; ++i) uses.push_back({tile_kernels[ng - 1][i][0].name, tile_size(i, ng).stages * tile_size(i, ng).stage_bytes});
}

}  // namespace hearth::kernels::cuda
