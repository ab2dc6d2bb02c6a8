// Launches of the dense wgmma kernels: tensor maps, and the tile width that wastes least. The kernels are only in builds
// for sm_90; elsewhere hopper_linear_takes() says no.
#include <algorithm>

#include "kernels/cuda/host/hopper.h"
#include "kernels/cuda/host/tuning.h"

namespace hearth::kernels::cuda {

using device::CudaKernel;
using device::CudaStream;

extern const device::CudaModule module_linear_stream_f16, module_linear_stream_bf16;
extern const device::CudaModule module_linear_wgmma_f16, module_linear_wgmma_bf16, module_linear_wgmma_int8, module_linear_w4_prefill_f16, module_linear_w4_prefill_bf16;

namespace {

constexpr int even_rows = 512;  // from here linear_stream may share out evenly
constexpr int many_rows = 2048;
constexpr int widths = 4, bm = 128, row_bytes = 128;
constexpr int columns[widths] = {64, 128, 192, 256}, stages[widths] = {6, 5, 4, 4};
#define HEARTH_WGMMA(n) {{&module_linear_wgmma_f16, "linear_wgmma_n" #n "_f16"}, {&module_linear_wgmma_bf16, "linear_wgmma_n" #n "_bf16"}, {&module_linear_wgmma_int8, "linear_wgmma_n" #n "_int8"}}
const CudaKernel kernels[widths][3] = {HEARTH_WGMMA(64), HEARTH_WGMMA(128), HEARTH_WGMMA(192), HEARTH_WGMMA(256)};

// sm90/linear_stream.cuh: whole tiles of four widths, even shares, and two blocks a tile. `stores`: stages of a warp's stores.
struct StreamForm { int columns, stages, stores; CudaKernel kernels[2]; };
#define HEARTH_STREAM(form) {{&module_linear_stream_f16, "linear_stream_" #form "_f16"}, {&module_linear_stream_bf16, "linear_stream_" #form "_bf16"}}
enum { stream_even = 4, stream_split, stream_forms };
const StreamForm stream_kernels[stream_forms] = {{64, 6, 4, HEARTH_STREAM(n64)},  {128, 5, 4, HEARTH_STREAM(n128)}, {192, 4, 4, HEARTH_STREAM(n192)},
                                                 {256, 4, 2, HEARTH_STREAM(n256)}, {256, 4, 2, HEARTH_STREAM(even)}, {128, 5, 2, HEARTH_STREAM(split)}};
// The ring, the other block's sums, eight warps' stages of 2 KB, room to align the ring.
int stream_shared_bytes(int form) {
  const StreamForm& f = stream_kernels[form];
  return f.stages * (bm + f.columns) * row_bytes + (form == stream_split ? bm * f.columns / 2 * 4 : 0) + 8 * f.stores * 2048 + 1024;
}

// The ring, eight warps' stages of 4 KB, and room to align the ring.
int shared_bytes(int width) { return stages[width] * (bm + columns[width]) * row_bytes + 8 * 4096 + 1024; }

// Rows of a tile of the w4 kernel, its stages of activations and of weights.
constexpr int prefill_sizes = 2, prefill_rows[prefill_sizes] = {128, 256}, prefill_x_stages[prefill_sizes] = {8, 5}, prefill_w_stages = 4;
#define HEARTH_PREFILL(n) {{{&module_linear_w4_prefill_f16, "linear_w4_prefill_n" #n "_f16"}, {&module_linear_w4_prefill_bf16, "linear_w4_prefill_n" #n "_bf16"}}, \
                           {{&module_linear_w4_prefill_f16, "linear_w4_prefill_n" #n "_g_f16"}, {&module_linear_w4_prefill_bf16, "linear_w4_prefill_n" #n "_g_bf16"}}}
const CudaKernel prefill_kernels[prefill_sizes][2][2] = {HEARTH_PREFILL(128), HEARTH_PREFILL(256)};  // [size][any group][type]
int prefill_shared_bytes(int size, int unit_bytes) {
  return prefill_x_stages[size] * prefill_rows[size] * row_bytes + prefill_w_stages * round_up(8 * unit_bytes, 128) + 8 * 2560 + 1024;
}

// CUtensorMap enums.
constexpr int type_uint8 = 0, type_float16 = 6, type_float32 = 7, type_bfloat16 = 9, swizzle_128 = 3, promotion_256 = 3;

// Cycles of one wave, about: products of a k block take 4 a column, its bytes come at some 40 a cycle; then the epilogue.
int wave_cycles(int n, int blocks_k) { return blocks_k * std::max(4 * n, (bm + n) * row_bytes / 40) + 1500 + 8 * n; }

}  // namespace

bool hopper_linear_takes(int compute_capability) { return compute_capability == 90 && module_linear_wgmma_f16.images[0].sm == 90; }

int& hopper_forced_columns() {
  static int forced = 0;
  return forced;
}

int hopper_tile_columns(int rows, int out, int k_bytes, int multiprocessors) {
  if (hopper_forced_columns()) return hopper_forced_columns();
  int best = 0;
  int64_t least = 0;
  for (int i = 0; i < widths; ++i) {
    const int tiles = divide_up(rows, bm) * divide_up(out, columns[i]);
    const int64_t cycles = static_cast<int64_t>(divide_up(tiles, multiprocessors)) * wave_cycles(columns[i], divide_up(k_bytes, row_bytes));
    if (!best || cycles <= least) { best = columns[i]; least = cycles; }
  }
  return best;
}

int& hopper_forced_stream() {
  static int forced = 0;
  return forced;
}

Status describe_matrix(const device::cu::Api& api, TensorMapBytes& map, DType type, const void* data, int k, int rows, int64_t stride, int box_rows) {
  const int bytes = static_cast<int>(size_of(type)), kind = type == DType::bf16 ? type_bfloat16 : type == DType::f16 ? type_float16 : type == DType::f32 ? type_float32 : type_uint8;
  const uint64_t dims[2] = {static_cast<uint64_t>(k), static_cast<uint64_t>(rows)}, strides[1] = {static_cast<uint64_t>(stride) * bytes};
  const uint32_t box[2] = {static_cast<uint32_t>(row_bytes / bytes), static_cast<uint32_t>(box_rows)}, steps[2] = {1, 1};
  const int code = api.cuTensorMapEncodeTiled(reinterpret_cast<device::cu::TensorMap*>(&map), kind, 2, const_cast<void*>(data), dims, strides, box, steps, 0,
                                              swizzle_128, promotion_256, 0);
  return code == 0 ? Status::ok() : device::cu::error(code, "describing a matrix to the copy engine");
}

namespace {

// y as sm90/tile_store.cuh writes it.
bool stored_by_copy(const LinearArgs& linear) {
  const int bytes = linear.y_type == type_f32 ? 4 : 2;
  // The copy engine cuts off what is outside y by 16 bytes.
  const bool short_activation = linear.activation != activation_relu && linear.activation != activation_gelu_erf;
  return !linear.gated && !linear.weight_scale && short_activation && linear.out * bytes % 16 == 0 && linear.y_stride * bytes % 16 == 0 && reinterpret_cast<uint64_t>(linear.y) % 16 == 0;
}
Status describe_output(const device::cu::Api& api, HopperArgs& args) {
  const LinearArgs& linear = args.linear;
  const DType type = linear.y_type == type_f32 ? DType::f32 : linear.y_type == type_f16 ? DType::f16 : DType::bf16;
  return describe_matrix(api, args.y, type, linear.y, linear.out, linear.rows, linear.y_stride, 16);
}

// The form of linear_stream that takes a linear; -1: none.
int stream_form(const LinearArgs& linear, int multiprocessors) {
  const int forced = hopper_forced_stream(), blocks_k = divide_up(linear.k_padded * 2, row_bytes);
  if (!stored_by_copy(linear) || forced < 0) return -1;
  auto tiles = [&](int columns) { return divide_up(linear.rows, bm) * divide_up(linear.out, columns); };
  auto filled = [&](int columns) { return 100 * tiles(columns) / (divide_up(tiles(columns), multiprocessors) * multiprocessors); };  // per cent
  auto width = [](int columns) { return columns / 64 - 1; };
  const bool splits = blocks_k >= 2 && tiles(128) * 2 <= multiprocessors;
  if (forced == 1128) return splits ? stream_split : -1;
  if (forced == 1256) return linear.partial ? stream_even : -1;
  if (forced) return width(forced);
  // As measured on the shapes of vision towers (docs/notes/cuda.md).
  if (!tuning().dense_stream || linear.rows < 257) return -1;
  // Even shares read more from the L2 than whole tiles in step: they pay where a long K would leave most of a wave empty.
  if (linear.partial && linear.rows >= many_rows && blocks_k >= 48 && tiles(256) > multiprocessors && filled(256) < 70) return stream_even;
  // Few tiles and a long K.
  if (blocks_k >= 48 && splits) return stream_split;
  if (blocks_k > 20) return -1;
  if (linear.rows >= many_rows && linear.residual) return width(hopper_tile_columns(linear.rows, linear.out, linear.k_padded * 2, multiprocessors));
  if (linear.y_type == type_f32) return -1;
  if (linear.rows >= many_rows) return width(filled(256) >= 88 ? 256 : 128);
  // Few rows: the narrowest tiles that are one wave.
  for (int columns : {64, 128, 192, 256})
    if (linear.rows <= 1024 && tiles(columns) <= multiprocessors && 2 * tiles(columns) > multiprocessors) return width(columns);
  return -1;
}
void launch_stream(CudaStream& stream, DType type, int form, const LinearArgs& linear, bool weights_constant) {
  HopperArgs args{};
  args.linear = linear;
  args.weights_constant = weights_constant;
  const int out_rows = linear.tiles * 16, n = stream_kernels[form].columns, cluster = form == stream_split ? 2 : 1, sms = stream.multiprocessors();
  args.m_tiles = divide_up(linear.rows, bm);
  args.n_tiles = divide_up(linear.out, n);
  if (Status s = describe_matrix(stream.api(), args.x, type, linear.x, linear.in, linear.rows, linear.x_stride, bm); !s) return stream.fail(s);
  if (Status s = describe_matrix(stream.api(), args.weight, type, linear.weight, linear.k_padded, out_rows, linear.k_padded, n); !s) return stream.fail(s);
  if (Status s = describe_output(stream.api(), args); !s) return stream.fail(s);
  const int blocks = form == stream_even ? sms : std::min(args.m_tiles * args.n_tiles * cluster, sms);
  stream.launch(stream_kernels[form].kernels[type == DType::bf16], {blocks, 1, 1, 384, stream_shared_bytes(form), cluster}, args);
}

}  // namespace

void hopper_linear(CudaStream& stream, DType type, const LinearArgs& linear, bool weights_constant) {
  if (type != DType::i8 && !hopper_forced_columns()) {
    if (const int form = stream_form(linear, stream.multiprocessors()); form >= 0) return launch_stream(stream, type, form, linear, weights_constant);
  }
  HopperArgs args{};
  args.linear = linear;
  args.weights_constant = weights_constant;
  const int out_rows = linear.tiles * 16, sms = stream.multiprocessors(), bytes = static_cast<int>(size_of(type));
  const int bn = hopper_tile_columns(linear.rows, out_rows, linear.k_padded * bytes, sms);
  const int width = static_cast<int>(std::find(columns, columns + widths, bn) - columns);
  args.m_tiles = divide_up(linear.rows, bm);
  args.n_tiles = divide_up(out_rows, bn);
  if (Status s = describe_matrix(stream.api(), args.x, type, linear.x, linear.in, linear.rows, linear.x_stride, bm); !s) return stream.fail(s);
  if (Status s = describe_matrix(stream.api(), args.weight, type, linear.weight, linear.k_padded, out_rows, linear.k_padded, bn); !s) return stream.fail(s);
  stream.launch(kernels[width][type == DType::i8 ? 2 : type == DType::bf16], {std::min(args.m_tiles * args.n_tiles, sms), 1, 1, 384, shared_bytes(width)}, args);
}

void hopper_w4_prefill(CudaStream& stream, DType type, const LinearArgs& linear) {
  HopperArgs args{};
  args.linear = linear;
  args.m_tiles = divide_up(linear.tiles, 8);
  const int sms = stream.multiprocessors(), blocks_k = linear.k_padded / 64;
  auto cycles = [&](int n) { return static_cast<int64_t>(divide_up(args.m_tiles * divide_up(linear.rows, n), sms)) * (blocks_k * 4 * n + 1500 + 8 * n); };
  const int size = cycles(256) <= cycles(128) ? 1 : 0, n = prefill_rows[size];
  args.n_tiles = divide_up(linear.rows, n);
  if (Status s = describe_matrix(stream.api(), args.x, type, linear.x, linear.in, linear.rows, linear.x_stride, n); !s) return stream.fail(s);
  stream.launch(prefill_kernels[size][linear.group != 128][type == DType::bf16],
                {std::min(args.m_tiles * args.n_tiles, sms), 1, 1, 384, prefill_shared_bytes(size, linear.unit_bytes)}, args);
}

size_t hopper_linear_workspace(int max_rows, int multiprocessors) {
  return max_rows < even_rows ? 0 : static_cast<size_t>(multiprocessors) * bm * stream_kernels[stream_even].columns * sizeof(float);
}

void append_hopper_dense_shared(std::vector<SharedUse>& uses) {
  for (int i = 0; i < stream_forms; ++i) uses.push_back({stream_kernels[i].kernels[0].name, stream_shared_bytes(i)});
  for (int i = 0; i < widths; ++i) uses.push_back({kernels[i][0].name, shared_bytes(i)});
  for (int i = 0; i < prefill_sizes; ++i)
    for (int any = 0; any < 2; ++any) uses.push_back({prefill_kernels[i][any][0].name, prefill_shared_bytes(i, any ? 1184 : 1072)});
}

}  // namespace hearth::kernels::cuda
