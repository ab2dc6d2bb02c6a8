// Attention on CUDA. A step of single rows is one kernel (sm80/attention_short.cuh, sm80/attention_decode.cuh); anything else is prepared by one
// kernel and attended to by another, with single-row sequences of a mixed step still going to the decode kernel.
#include <algorithm>
#include <string>

#include "kernels/cuda/host/chain.h"
#include "kernels/cuda/host/resources.h"
#include "kernels/cuda/host/convert.h"
#include "kernels/cuda/host/hopper.h"
#include "kernels/cuda/host/implementations.h"
#include "kernels/cuda/host/program.h"
#include "kernels/cuda/host/tuning.h"
#include "kernels/cuda/program_params.h"

namespace hearth::kernels::cuda {

using device::CudaKernel;
using device::CudaModule;
using device::CudaStream;
using device::DeviceInfo;
using device::Stream;
using namespace ops;

extern const CudaModule module_attention, module_attention_prepare_wide, module_attention_decode_f16, module_attention_decode_bf16, module_attention_short_f16,
    module_attention_short_bf16, module_attention_prefill_f16, module_attention_prefill_bf16, module_attention_wgmma_f16, module_attention_wgmma_bf16, module_vision_attention_f16, module_vision_attention_bf16;

namespace {

static_assert(static_cast<int>(KvFormat::f16) == 1 && static_cast<int>(KvFormat::bf16) == 2 && static_cast<int>(KvFormat::int8) == 3);

constexpr int head_sizes = 4, decode_sizes = 3;
constexpr int prefill_dims[head_sizes] = {64, 96, 128, 256}, prefill_warps[head_sizes] = {8, 8, 8, 4}, prefill_tokens[head_sizes] = {64, 64, 64, 32};
constexpr int decode_dims[decode_sizes] = {64, 128, 256};
constexpr int decode_heads = 8, split_max = 64, split_warps = 4;

const CudaKernel prepare_wide_kernels[2] = {{&module_attention_prepare_wide, "attention_prepare_wide_f16"}, {&module_attention_prepare_wide, "attention_prepare_wide_bf16"}};
const CudaKernel prepare_kernel{&module_attention, "attention_prepare_kernel"}, generic_kernel{&module_attention, "attention_generic_kernel"},
    vision_rope_kernel{&module_attention, "vision_rope_kernel"}, vision_generic_kernel{&module_attention, "vision_generic_kernel"};

#define HEARTH_ATTENTION(phase, d) \
  {{&module_attention_##phase##_f16, "attention_" #phase "_d" #d "_f16"}, {&module_attention_##phase##_bf16, "attention_" #phase "_d" #d "_bf16"}, \
   {&module_attention_##phase##_f16, "attention_" #phase "_d" #d "_i8_f16"}, {&module_attention_##phase##_bf16, "attention_" #phase "_d" #d "_i8_bf16"}}
// [size][type + 2 * int8]
const CudaKernel decode_kernels[decode_sizes][4] = {HEARTH_ATTENTION(decode, 64), HEARTH_ATTENTION(decode, 128), HEARTH_ATTENTION(decode, 256)};
const CudaKernel short_kernels[2][4] = {HEARTH_ATTENTION(short, 64), HEARTH_ATTENTION(short, 128)};
const CudaKernel short_single_kernels[2] = {{&module_attention_short_f16, "attention_short_single_f16"}, {&module_attention_short_bf16, "attention_short_single_bf16"}};
const CudaKernel prefill_kernels[head_sizes][4] = {HEARTH_ATTENTION(prefill, 64), HEARTH_ATTENTION(prefill, 96), HEARTH_ATTENTION(prefill, 128), HEARTH_ATTENTION(prefill, 256)};
// Hopper's: heads, tiles of 128 rows (two multiplying warpgroups) or 64 (one), sequences.
constexpr int wgmma_sizes = 5;
constexpr int wgmma_dims[wgmma_sizes] = {64, 80, 96, 128, 256}, wgmma_tokens[2][wgmma_sizes] = {{128, 0, 0, 0, 0}, {128, 128, 128, 128, 64}};
#define HEARTH_ATTENTION_WGMMA(d, g) \
  {{&module_attention_wgmma_f16, "attention_wgmma_d" #d "_g" #g "_f16"}, {&module_attention_wgmma_bf16, "attention_wgmma_d" #d "_g" #g "_bf16"}, \
   {&module_attention_wgmma_f16, "attention_wgmma_d" #d "_g" #g "_i8_f16"}, {&module_attention_wgmma_bf16, "attention_wgmma_d" #d "_g" #g "_i8_bf16"}}
#define HEARTH_VISION_WGMMA(d, g) {{&module_attention_wgmma_f16, "vision_wgmma_d" #d "_g" #g "_f16"}, {&module_attention_wgmma_bf16, "vision_wgmma_d" #d "_g" #g "_bf16"}}
// [warpgroups - 1][size][type + 2 * int8], [warpgroups - 1][size][type]
const CudaKernel wgmma_kernels[2][wgmma_sizes][4] = {
    {HEARTH_ATTENTION_WGMMA(64, 1), {}, {}, {}, {}},
    {HEARTH_ATTENTION_WGMMA(64, 2), HEARTH_ATTENTION_WGMMA(80, 2), HEARTH_ATTENTION_WGMMA(96, 2), HEARTH_ATTENTION_WGMMA(128, 2), HEARTH_ATTENTION_WGMMA(256, 2)}};
const CudaKernel vision_wgmma_kernels[2][wgmma_sizes][2] = {
    {HEARTH_VISION_WGMMA(64, 1), {}, {}, {}, {}},
    {HEARTH_VISION_WGMMA(64, 2), HEARTH_VISION_WGMMA(80, 2), HEARTH_VISION_WGMMA(96, 2), HEARTH_VISION_WGMMA(128, 2), HEARTH_VISION_WGMMA(256, 2)}};
// Mirrors AttentionLayout of sm90/attention_wgmma.cuh.
constexpr int wgmma_shared_bytes(int groups, int size) { return divide_up(wgmma_dims[size], 64) * 128 * (64 * groups + 4 * wgmma_tokens[groups - 1][size]) + 1024; }
// Small heads leave room for two blocks of one warpgroup; one's softmax runs under the other's products.
int wgmma_groups(int size) { return size == 0 ? tuning().attention_groups : 2; }

// Towers' attention of many images with three multiplying warpgroups a block (sm90/vision_attention_*.cu): SigLIP's heads of
// 72 gain 15 % with several images, nothing with one; CLIP's heads of 64 gain nothing (docs/notes/cuda.md).
constexpr int tight_size = 1, tight_groups = 3, tight_tokens = 64, tight_shared_bytes = 2 * 128 * (64 * tight_groups + 4 * tight_tokens) + 1024;
const CudaKernel tight_kernels[2] = {{&module_vision_attention_f16, "vision_tight_f16"}, {&module_vision_attention_bf16, "vision_tight_bf16"}};

#define HEARTH_VISION(d) {{&module_attention_prefill_f16, "attention_vision_d" #d "_f16"}, {&module_attention_prefill_bf16, "attention_vision_d" #d "_bf16"}}
const CudaKernel vision_kernels[head_sizes][2] = {HEARTH_VISION(64), HEARTH_VISION(96), HEARTH_VISION(128), HEARTH_VISION(256)};

int size_index(const int* sizes, int count, int head_dim) {
  for (int i = 0; i < count; ++i) if (head_dim <= sizes[i]) return i;
  return -1;
}
int prefill_shared_bytes(int size) {
  const int pitch = prefill_dims[size] == 96 ? 256 : prefill_dims[size] * 2;
  return 4 * prefill_tokens[size] * pitch;
}
// Mirrors DecodeLayout, attention_decode and decode_warps of sm80/attention_decode*.cuh.
int decode_stage_bytes(int size, bool int8) { return 2 * 16 * decode_dims[size] * (int8 ? 1 : 2) + (int8 ? 128 : 0); }
int decode_shared_bytes(int size, bool int8, int heads_of_tile, int warps, int stages, int sequences) {
  const int d = decode_dims[size], scratch = heads_of_tile * (d * 2 + 16 + (d + 4) * 4) + 2 * d * (int8 ? 1 : 2) + 16 + d * 8;
  return warps * (stages * decode_stage_bytes(size, int8) + scratch) + (sequences + 1) * 16;
}
int decode_warps_most(int size, bool int8) { return size == 2 ? 8 : int8 ? 16 : 12; }
struct DecodePlan { int warps, stages, shared_bytes; };
// As many warps and stages as shared memory (and what the tuning leaves to the next kernel) holds.
DecodePlan plan_decode(int size, bool int8, int heads_of_tile, int sequences, int limit, bool early = false) {
  limit -= 1024;  // the kernel's own
  const Tuning& t = tuning();
  const bool few = sequences < t.decode_few;
  const int wanted = early && few ? t.decode_few_warps : int8 ? t.decode_int8_warps : t.decode_warps;
  DecodePlan plan{std::min(wanted, decode_warps_most(size, int8)), int8 && few ? 2 * t.decode_stages : t.decode_stages, 0};
  const int budget = std::min((few ? t.decode_few_kb : t.decode_shared_kb) * 1024, limit);
  auto bytes = [&] { return decode_shared_bytes(size, int8, heads_of_tile, plan.warps, plan.stages, sequences); };
  while (plan.stages > 2 && plan.warps <= 4 && bytes() > budget) --plan.stages;
  while (plan.warps > 4 && bytes() > budget) --plan.warps;
  while (plan.stages > 2 && bytes() > budget) --plan.stages;
  while (plan.warps > 1 && bytes() > limit) --plan.warps;
  plan.shared_bytes = bytes();
  return plan;
}

int head_tiles(const AttentionSpec& s) { return divide_up(s.heads / s.kv_heads, decode_heads); }

// Short contexts (sm80/attention_short.cuh): blocks that share a pair (sequence, head tile), 0: not for this step.
// releases_early: the next linear may come in beside them, which pays where they or clusters of them stand on all
// multiprocessors and the linear has a block on each (FP16, 7B, one row: 3,307 us a step against 3,391).
// Warps of it that a multiprocessor's registers hold; `single`: of the kernel for one query head a KV head and an int8 pool.
constexpr int short_resident_warps = 16, short_resident_warps_single = 20;
bool short_single(const AttentionSpec& s) { return s.kv == KvFormat::int8 && s.head_dim == 128 && s.heads == s.kv_heads; }
struct ShortPlan { int ranks, warps, stages, shared_bytes; bool releases_early; };
// Mirrors attention_short: every warp has its ring, its scratch and its place in the inboxes of all ranks.
int short_shared_bytes(int size, bool int8, int heads_of_tile, int ranks, int warps, int stages) {
  const int d = decode_dims[size], scratch = heads_of_tile * (d * 2 + 16) + 2 * d * (int8 ? 1 : 2) + 16 + d * 8;
  return warps * (stages * decode_stage_bytes(size, int8) + scratch + (heads_of_tile * d + ranks * round_up(heads_of_tile * 2, 4)) * 4) + 16;
}
ShortPlan fit_short(int size, bool int8, int heads_of_tile, int ranks, int warps, int limit, bool crowded) {
  int stages = (ranks == 1 ? 3 : 2) * (int8 ? 2 : 1);
  // At its end a warp's part of the result lies where its ring was: of int8 and eight heads that is more than one stage.
  const int d = decode_dims[size], least = divide_up(heads_of_tile * (d + 4) * 4, 2 * 16 * d * (int8 ? 1 : 2));
  auto bytes = [&] { return short_shared_bytes(size, int8, heads_of_tile, ranks, warps, stages); };
  while (stages > least && bytes() > limit - 1024) --stages;
  return {ranks, warps, stages, bytes(), ranks > 1 || crowded};
}
// A multiprocessor's share of the pairs stands beside the chain's block, with history loading before the chain ends, where it
// fits what that leaves (7B, 8 rows: 1,693 us a step against 1,799). Elsewhere no multiprocessor takes more than its share:
// the first to be free would.
ShortPlan plan_short(const AttentionSpec& s, const Batch& b, const CudaStream& stream) {
  const int pairs = b.sequences * s.kv_heads * head_tiles(s), places = stream.multiprocessors(), crowd = divide_up(pairs, places);
  if (b.max_rows > 1 || b.rows != b.sequences || b.max_context > tuning().short_context || s.head_dim > 128 || crowd > tuning().short_pairs) return {};
  // More pairs than are resident get fewer warps. One alone would be slow with the longest context, unless all pairs are there
  // at once.
  const bool single = short_single(s);
  const int resident = single ? short_resident_warps_single : short_resident_warps;
  const int warps = crowd <= resident / 4 ? 4 : crowd <= resident / 2 || !single ? 2 : 1;
  int ranks = 1;
  while (stream.hopper() && ranks < tuning().short_ranks && pairs * ranks * 2 <= places) ranks *= 2;
  auto fit = [&](int limit, bool crowded) { return fit_short(s.head_dim <= 64 ? 0 : 1, s.kv == KvFormat::int8, std::min(decode_heads, s.heads / s.kv_heads), ranks, warps, limit, crowded); };
  const ChainLeaves left = chain_leaves(stream);
  if (const ShortPlan beside = fit(left.shared_bytes / crowd, true); crowd * warps <= left.warps && beside.shared_bytes <= left.shared_bytes / crowd - 1024) return beside;
  const int limit = stream.shared_limit() / std::min(crowd, resident / warps);
  ShortPlan plan = fit(limit, crowd > 1);
  if (crowd > 1) plan.shared_bytes = std::max(plan.shared_bytes, limit - 1152);
  return plan;
}

const char* shape_declines(const AttentionSpec& s, const DeviceInfo& info) {
  if (!is_cuda(info)) return "not a CUDA device";
  if (!is_float(s.type)) return "types are f32, f16 or bf16";
  if (s.kv_heads <= 0 || s.heads % s.kv_heads != 0) return "kv_heads must divide heads";
  if (s.rope_dims % 2 != 0 || s.rope_dims > s.head_dim) return "rope_dims must be even and at most head_dim";
  return nullptr;
}
const char* mma_declines(const AttentionSpec& s, const DeviceInfo& info) {
  if (const char* reason = shape_declines(s, info)) return reason;
  if (!is_narrow(s.type)) return "activations are f16 or bf16";
  if (s.head_dim % 8 != 0 || s.head_dim > 256) return "head sizes are multiples of 8 up to 256";
  if (s.kv == KvFormat::int8) return nullptr;
  const bool same = (s.kv == KvFormat::f16 && s.type == DType::f16) || (s.kv == KvFormat::bf16 && s.type == DType::bf16);
  return same ? nullptr : "the KV pool must have the activations' type, or int8";
}

AttentionArgs arguments(const AttentionSpec& s, const AttentionParams& p, CudaStream& stream) {
  AttentionArgs a{};
  const Batch& b = p.batch;
  a.qkv = p.qkv; a.qkv_stride = p.qkv_stride; a.out = p.out; a.out_stride = p.out_stride;
  a.row_begin = b.row_begin; a.context = b.context; a.block_table = b.block_table; a.positions = b.positions;
  a.kv_slot = b.kv_slot; a.row_sequence = b.row_sequence;
  a.k = p.kv.k; a.v = p.kv.v; a.k_scale = p.kv.k_scale; a.v_scale = p.kv.v_scale;
  a.q_norm = p.q_norm; a.k_norm = p.k_norm; a.inverse_frequency = p.inverse_frequency;
  a.partial = static_cast<float*>(p.workspace);
  a.counters = stream.counters();
  a.scale = s.scale; a.rope_amplitude = p.rope_amplitude; a.qk_norm_epsilon = s.qk_norm_epsilon;
  a.rows = b.rows; a.sequences = b.sequences; a.block_table_stride = b.block_table_stride; a.max_rows = b.max_rows;
  a.heads = s.heads; a.kv_heads = s.kv_heads; a.head_dim = s.head_dim; a.window = s.window;
  a.kv_type = static_cast<int>(s.kv); a.type = static_cast<int>(s.type);
  a.rope_dims = s.rope_dims; a.rope_interleaved = s.rope_interleaved; a.position_axes = s.position_axes; a.axis_interleaved = s.axis_interleaved;
  for (int i = 0; i < 3; ++i) a.axis_sections[i] = s.axis_sections[i];
  a.qk_norm = s.qk_norm;
  return a;
}

// Splits of a context: enough blocks to fill the device, each with work for its four warps.
int split_count(const AttentionSpec& s, int sequences, int max_context, int multiprocessors) {
  const int context = s.window > 0 ? std::min(max_context, s.window + kv_block_tokens) : max_context;
  const int blocks = std::max(1, sequences * s.kv_heads * head_tiles(s));
  const int wanted = divide_up(multiprocessors * 4, blocks), useful = divide_up(std::max(context, 1), 4 * split_warps * kv_block_tokens);
  return std::clamp(std::min(wanted, useful), 1, split_max);
}

// The same for the decode program: as many parts as are worth their merge.
int program_split_count(const AttentionSpec& s, int max_context) {
  return divide_up(std::max(1, s.window > 0 ? std::min(max_context, s.window + kv_block_tokens) : max_context), program_split_blocks * kv_block_tokens);
}

// What attention_prepare_wide takes.
bool prepares_wide(const AttentionSpec& s, const AttentionArgs& a) {
  return is_narrow(s.type) && a.kv_type == a.type && s.head_dim % 8 == 0 && s.rope_dims % 16 == 0 && !s.qk_norm && !s.rope_interleaved && s.position_axes == 1 &&
         a.qkv_stride % 8 == 0 && aligned16(a.qkv) && aligned16(a.k) && aligned16(a.v);
}
void launch_prepare(const AttentionSpec& s, const AttentionArgs& a, CudaStream& stream) {
  if (prepares_wide(s, a)) {
    stream.launch(prepare_wide_kernels[s.type == DType::bf16], {a.rows, 1, 1, 256, std::max(16, s.rope_dims * 4)}, a);
    return;
  }
  const int blocks = a.rows >= 4 * stream.multiprocessors() ? 1 : std::min(divide_up(s.heads + 2 * s.kv_heads, 8), 8);
  stream.launch(prepare_kernel, {a.rows, blocks, 1, 256, 8 * round_up(s.head_dim, 2) * 4 + s.rope_dims * 4}, a);
}

void launch_prefill(const AttentionSpec& s, const AttentionParams& p, const AttentionArgs& a, int variant, CudaStream& stream) {
  if (hopper_linear_takes(stream.info().compute_capability)) {
    const int size = size_index(wgmma_dims, wgmma_sizes, s.head_dim), groups = wgmma_groups(size);
    HopperAttentionArgs maps{{}, {}, a};
    constexpr int rows = 1 << 30;  // more than any pool has: the block table says which exist
    for (const auto& [map, data] : {std::pair{&maps.k, a.k}, std::pair{&maps.v, a.v}})
      if (Status status = s.kv == KvFormat::int8 ? Status::ok() : describe_matrix(stream.api(), *map, s.type, data, s.head_dim, rows, s.head_dim, kv_block_tokens); !status) return stream.fail(status);
    stream.launch(wgmma_kernels[groups - 1][size][variant],
                  {s.heads, divide_up(p.batch.max_rows, 64 * groups), p.batch.sequences, 128 * (groups + 1), wgmma_shared_bytes(groups, size)}, maps);
    return;
  }
  const int size = size_index(prefill_dims, head_sizes, s.head_dim), rows = prefill_warps[size] * 16;
  stream.launch(prefill_kernels[size][variant], {divide_up(p.batch.max_rows, rows), s.heads, p.batch.sequences, prefill_warps[size] * 32, prefill_shared_bytes(size)}, a);
}

void mma_run(const AttentionSpec& s, const AttentionParams& p, Stream& base) {
  CudaStream& stream = device::cuda(base);
  AttentionArgs a = arguments(s, p, stream);
  const int variant = (s.type == DType::bf16 ? 1 : 0) + (s.kv == KvFormat::int8 ? 2 : 0);
  const bool many = p.batch.max_rows > 1;
  a.splits = split_count(s, p.batch.sequences, p.batch.max_context, stream.multiprocessors());
  a.prepared = 1;
  const int pairs = p.batch.sequences * s.kv_heads * head_tiles(s);
  a.releases_early = pairs >= tuning().attention_early_pairs && (p.batch.sequences <= 2 || p.batch.sequences >= tuning().attention_early_sequences);
  if (!many) chain_precedes(stream, a);
  if (!many) {
    AttentionArgs shared = a;
    shared.splits = program_split_count(s, p.batch.max_context);
    if (program_attention(stream, shared, s.type, [s, p, &base] { mma_run(s, p, base); })) return;
  }
  if (many) {
    launch_prepare(s, a, stream);
    launch_prefill(s, p, a, variant, stream);
  }
  // With one sequence of many rows there is no single row to serve.
  if (many && p.batch.sequences == 1) return;
  const int size = size_index(decode_dims, decode_sizes, s.head_dim);
  if (const ShortPlan plan = plan_short(s, p.batch, stream); plan.ranks) {
    a.stages = plan.stages;
    a.splits = plan.ranks;
    a.releases_early = plan.releases_early;
    // Early: every multiprocessor holds a block until the wait is over.
    const int places = plan.releases_early ? std::max(pairs, divide_up(stream.multiprocessors(), plan.ranks)) : pairs;
    const CudaKernel& kernel = short_single(s) ? short_single_kernels[s.type == DType::bf16] : short_kernels[size][variant];
    return stream.launch(kernel, {places * plan.ranks, 1, 1, plan.warps * 32, plan.shared_bytes, plan.ranks, tuning().attention_overlaps != 0}, a);
  }
  const DecodePlan plan = plan_decode(size, s.kv == KvFormat::int8, std::min(decode_heads, s.heads / s.kv_heads), p.batch.sequences, stream.shared_limit(), a.releases_early);
  a.stages = plan.stages;
  stream.launch(decode_kernels[size][variant], {stream.multiprocessors(), 1, 1, plan.warps * 32, plan.shared_bytes, 1, tuning().attention_overlaps != 0}, a);
}

// Of the decode kernel: two partial results a block.
size_t mma_workspace(const AttentionSpec& s, int, const DeviceInfo& info) {
  const size_t d = decode_dims[std::max(0, size_index(decode_dims, decode_sizes, s.head_dim))];
  return aligned(size_t{2} * info.threads * std::min(decode_heads, s.heads / s.kv_heads) * (d + 4) * sizeof(float));
}

const char* generic_declines(const AttentionSpec& s, const DeviceInfo& info) {
  if (const char* reason = shape_declines(s, info)) return reason;
  return s.head_dim * 4 * 8 <= info.profile.shared_bytes_per_block ? nullptr : "a head does not fit shared memory";
}
void generic_run(const AttentionSpec& s, const AttentionParams& p, Stream& base) {
  CudaStream& stream = device::cuda(base);
  AttentionArgs a = arguments(s, p, stream);
  a.prepared = 0;
  launch_prepare(s, a, stream);
  stream.launch(generic_kernel, {a.rows, divide_up(s.heads, 4), 1, 128, 8 * s.head_dim * 4}, a);
}

// ---- Vision ---------------------------------------------------------------------------------------------------------

const char* vision_shape(const VisionAttentionSpec& s, const DeviceInfo& info) {
  if (!is_cuda(info)) return "not a CUDA device";
  if (s.rope && s.head_dim % 2 != 0) return "rope needs an even head_dim";
  return is_float(s.type) ? nullptr : "types are f32, f16 or bf16";
}
const char* vision_declines(const VisionAttentionSpec& s, const DeviceInfo& info) {
  if (const char* reason = vision_shape(s, info)) return reason;
  if (!is_narrow(s.type)) return "activations are f16 or bf16";
  return s.head_dim % 8 == 0 && s.head_dim <= 256 ? nullptr : "head sizes are multiples of 8 up to 256";
}
VisionArgs vision_arguments(const VisionAttentionSpec& s, const VisionAttentionParams& p) {
  return {p.qkv, p.qkv_stride, p.out, p.out_stride, p.segment, p.rope_cos, p.rope_sin, s.scale, p.rows, p.segments, p.max_segment,
          s.heads, s.head_dim, static_cast<int>(s.type), s.rope};
}
void vision_run(const VisionAttentionSpec& s, const VisionAttentionParams& p, Stream& base) {
  CudaStream& stream = device::cuda(base);
  const VisionArgs a = vision_arguments(s, p);
  if (s.rope) stream.launch(vision_rope_kernel, {p.rows, 1, 1, 256}, a);
  if (hopper_linear_takes(stream.info().compute_capability)) {
    const int size = size_index(wgmma_dims, wgmma_sizes, s.head_dim);
    const bool tight = size == tight_size && s.heads * divide_up(p.max_segment, 64 * tight_groups) * p.segments >= 2 * stream.multiprocessors();
    const int groups = tight ? tight_groups : wgmma_groups(size), tokens = tight ? tight_tokens : wgmma_tokens[groups - 1][size];
    HopperVisionArgs maps{{}, a};
    if (Status status = describe_matrix(stream.api(), maps.qkv, s.type, a.qkv, 3 * s.heads * s.head_dim, p.rows, a.qkv_stride, tokens); !status) return stream.fail(status);
    const CudaKernel& kernel = tight ? tight_kernels[s.type == DType::bf16] : vision_wgmma_kernels[groups - 1][size][s.type == DType::bf16];
    stream.launch(kernel, {s.heads, divide_up(p.max_segment, 64 * groups), p.segments, 128 * (groups + 1), tight ? tight_shared_bytes : wgmma_shared_bytes(groups, size)}, maps);
    return;
  }
  const int size = size_index(prefill_dims, head_sizes, s.head_dim), rows = prefill_warps[size] * 16;
  stream.launch(vision_kernels[size][s.type == DType::bf16], {divide_up(p.max_segment, rows), s.heads, p.segments, prefill_warps[size] * 32, prefill_shared_bytes(size)}, a);
}
void vision_generic_run(const VisionAttentionSpec& s, const VisionAttentionParams& p, Stream& base) {
  CudaStream& stream = device::cuda(base);
  const VisionArgs a = vision_arguments(s, p);
  if (s.rope) stream.launch(vision_rope_kernel, {p.rows, 1, 1, 256}, a);
  stream.launch(vision_generic_kernel, {p.rows, divide_up(s.heads, 4), 1, 128, 8 * s.head_dim * 4}, a);
}

}  // namespace

const Implementation<AttentionSpec, AttentionParams> attention_mma{"cuda/sm80/mma", mma_declines, mma_run, mma_workspace};
const Implementation<AttentionSpec, AttentionParams> attention_generic{"cuda/generic", generic_declines, generic_run, nullptr};
const Implementation<VisionAttentionSpec, VisionAttentionParams> vision_mma{"cuda/sm80/mma", vision_declines, vision_run, nullptr};
const Implementation<VisionAttentionSpec, VisionAttentionParams> vision_generic{"cuda/generic", vision_shape, vision_generic_run, nullptr};

void append_attention_shared(int sm, std::vector<SharedUse>& uses) {
  for (int i = 0; i < head_sizes; ++i) uses.push_back({prefill_kernels[i][0].name, prefill_shared_bytes(i)});
  for (int i = 0; sm == 90 && i < wgmma_sizes; ++i)
    for (int groups = i == 0 ? 1 : 2; groups <= 2; ++groups) uses.push_back({wgmma_kernels[groups - 1][i][0].name, wgmma_shared_bytes(groups, i)});
  if (sm == 90) uses.push_back({tight_kernels[0].name, tight_shared_bytes});
  for (int i = 0; i < decode_sizes; ++i)
    for (int int8 = 0; int8 < 2; ++int8) uses.push_back({decode_kernels[i][2 * int8].name, plan_decode(i, int8, decode_heads, 256, 99 * 1024).shared_bytes});
  for (int i = 0; i < 2; ++i)
    for (int int8 = 0; int8 < 2; ++int8) uses.push_back({short_kernels[i][2 * int8].name, fit_short(i, int8, decode_heads, 1, 4, 99 * 1024, false).shared_bytes});
  uses.push_back({short_single_kernels[0].name, fit_short(1, true, 1, 1, 4, 99 * 1024, false).shared_bytes});
}

}  // namespace hearth::kernels::cuda
