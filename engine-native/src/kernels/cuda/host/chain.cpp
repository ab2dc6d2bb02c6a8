#include "kernels/cuda/host/chain.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/cuda/chain_params.h"
#include "kernels/cuda/host/convert.h"
#include "kernels/cuda/host/hopper.h"
#include "kernels/cuda/host/resources.h"
#include "kernels/cuda/host/tuning.h"

namespace hearth::kernels::cuda {

using device::CudaKernel;
using device::CudaStream;

extern const device::CudaModule module_linear_w4_chain_f16, module_linear_w4_chain_bf16;

namespace {

constexpr int chain_kind = 1;
constexpr int workers = w4_chain_workers, ranks = 2, threads = (workers + 4) * 32, rows_most = 64, slots_most = 16, units_most = 8;
// tiles: that a warp holds sums for; blocks: of four tiles, that a warpgroup does (wgmma). One of them is 0.
// beside: in so little of a multiprocessor that blocks of the short attention stand beside it, with their history loading.
// most_kb: what 227 KB leave beside the kernel's own.
struct ChainSize { int rows, tiles, blocks; bool beside; int most_kb; CudaKernel kernels[2]; };  // [type]
#define HEARTH_CHAIN(n) {{&module_linear_w4_chain_f16, "linear_w4_chain_n" #n "_f16"}, {&module_linear_w4_chain_bf16, "linear_w4_chain_n" #n "_bf16"}}
const ChainSize sizes[] = {{8, 4, 0, true, 219, HEARTH_CHAIN(8)}, {16, 4, 0, false, 219, HEARTH_CHAIN(16)}, {24, 0, 3, false, 221, HEARTH_CHAIN(24)}, {32, 0, 3, false, 221, HEARTH_CHAIN(32)},
                           {40, 0, 3, false, 221, HEARTH_CHAIN(40)}, {48, 0, 2, false, 223, HEARTH_CHAIN(48)}, {56, 0, 2, false, 223, HEARTH_CHAIN(56)}, {64, 0, 2, false, 223, HEARTH_CHAIN(64)}};
const ChainSize& size_for(int rows) { return sizes[(rows - 1) / 8]; }

int shared_budget(const ChainSize& size) { return std::min(size.beside ? tuning().chain_beside_kb : tuning().chain_kb, size.most_kb) * 1024; }
int clusters_of(CudaStream& stream, const ChainSize& size, DType type) {
  return std::min(stream.clusters(size.kernels[type == DType::bf16], threads, shared_budget(size), ranks), stream.multiprocessors() / ranks);
}

// How a phase's tiles are dealt to warps (wgmma: blocks of four to warpgroups): `columns` side by side, the others share k.
struct Deal { int columns = 0, parts = 0, tiles_warp = 0; };
Deal deal(int tiles, int units, const ChainSize& size) {
  Deal best;
  double least = 0;
  const int all = size.blocks ? workers / 4 : workers, most = size.blocks ? size.blocks : size.tiles, work = size.blocks ? divide_up(tiles, 4) : tiles;
  for (int columns : {12, 6, 4, 3, 2, 1}) {
    if (all % columns != 0) continue;
    const int mine = divide_up(work, columns), parts = all / columns;
    if (mine > most || parts > 6) continue;
    // A tile's products; what a warp does once a unit of k, its loads of the activations (wgmma has none); what it does for a
    // unit that is another's. Up to 8 rows also the meeting of sums, and that a tile alone is one chain of products, which
    // nothing hides.
    const double own = divide_up(std::max(1, units / ranks), parts), others = size.blocks ? 0 : units / ranks - own;
    const double cost = own * (mine + (size.blocks ? 0.1 : size.beside && mine == 1 ? 0.41 : 0.35)) + others * 0.4 + (size.beside ? 0.3 * (parts - 1) : 0);
    if (!best.columns || cost < least) { best = {columns, parts, mine}; least = cost; }
  }
  return best;
}

// Rows of 16-bit values as [k / 64][rows][64], read in boxes of `box_units` times 128 k of `box_rows` rows.
Status describe_rows(const device::cu::Api& api, TensorMapBytes& map, DType type, const void* data, int k, int rows, int64_t stride, int box_rows, int box_units) {
  constexpr int type_float16 = 6, type_bfloat16 = 9, swizzle_128 = 3, promotion_256 = 3;  // CUtensorMap enums
  const uint64_t dims[3] = {64, static_cast<uint64_t>(rows), static_cast<uint64_t>(k) / 64}, strides[2] = {static_cast<uint64_t>(stride) * 2, 128};
  const uint32_t box[3] = {64, static_cast<uint32_t>(box_rows), static_cast<uint32_t>(2 * box_units)}, steps[3] = {1, 1, 1};
  const int code = api.cuTensorMapEncodeTiled(reinterpret_cast<device::cu::TensorMap*>(&map), type == DType::bf16 ? type_bfloat16 : type_float16, 3, const_cast<void*>(data), dims, strides, box, steps, 0, swizzle_128, promotion_256, 0);
  return code == 0 ? Status::ok() : device::cu::error(code, "describing activations to the copy engine");
}

class Chain final : public CudaStream::Deferred {
 public:
  Chain(DType type, int rows, int clusters) : type_(type), size_(size_for(rows)), clusters_(clusters) { args_.rows = rows; }

  bool takes(const LinearArgs& a, DType type) const {
    const int first = first_tiles(a), phases = first < a.tiles ? 2 : 1;
    if (type != type_ || a.rows != args_.rows || args_.phases + phases > w4_chain_phases_max) return false;
    if (!fits(first, a) || (phases == 2 && (a.residual || !fits(a.tiles - first, a)))) return false;
    if (args_.phases == 0) return a.norm == norm_none;
    const int columns = last_.gated ? last_.out / 2 : last_.out;
    if (a.x != last_.y || a.x_stride != last_.y_stride || a.in != columns || a.x_type != last_.y_type) return false;
    return a.norm == norm_none ? !last_.residual : a.norm == norm_rms && last_.residual != 0;
  }

  void add(const LinearArgs& a, void* scratch, std::function<void()> alone) {
    LinearArgs read = a;  // x as it is read
    const int after = args_.phases - 1, first = first_tiles(a);
    if (a.norm == norm_rms) {
      W4ChainPhase &before = args_.phase[after], &p = args_.phase[args_.phases];
      read.x = before.next_x = scratch;
      read.x_stride = a.in;
      before.next_norm = a.norm_weight;
      p.squares = before.next_squares = reinterpret_cast<float*>(static_cast<char*>(scratch) + aligned(static_cast<size_t>(args_.rows) * a.in * 2));
      p.squares_tiles = last_.tiles; p.width = a.in; p.norm_epsilon = a.norm_epsilon;
    }
    add_phase(piece(read, 0, first), after);
    if (first < a.tiles) add_phase(piece(read, first, a.tiles - first), after);
    last_ = a;
    alone_.push_back(std::move(alone));
  }

  ChainLeaves leaves() const {
    constexpr int multiprocessor_kb = 228, other_kb = 5;  // other: what a block takes that is not dynamic
    return size_.beside ? ChainLeaves{8, multiprocessor_kb * 1024 - shared_budget(size_) - other_kb * 1024} : ChainLeaves{};
  }
  // Its history comes to the L2 meanwhile. Not where blocks of the attention stand beside the chain's.
  void precedes(const AttentionArgs& a) {
    if (size_.beside) return;
    const int row_bytes = a.head_dim * (a.kv_type == static_cast<int>(ops::KvFormat::int8) ? 1 : 2);
    args_.history = {a.k, a.v, a.context, a.block_table, a.sequences, a.block_table_stride, a.window, ops::kv_block_tokens, a.kv_heads * ops::kv_block_tokens * row_bytes};
  }

  int kind() const override { return chain_kind; }
  void launch(CudaStream& stream) override {
    if (alone_.size() < (args_.rows > 32 ? 3u : 2u)) {  // of many rows two alone are slower (8B, 64 rows)
      stream.defers = false;
      for (const auto& run : alone_) run();
      stream.defers = true;
      return;
    }
    plan_ring(shared_budget(size_) - 1024 - plan_sums());
    for (int i = 0; i < args_.phases; ++i) describe(stream, i);
    args_.counters = stream.counters();
    args_.trace = tuning().chain_trace & 1 ? reinterpret_cast<long long*>(stream.exchange() + (1 << 20)) : nullptr;
    stream.launch(size_.kernels[type_ == DType::bf16], {clusters_ * ranks, 1, 1, threads, shared_budget(size_), ranks}, args_);
  }

 private:
  bool fits(int tiles, const LinearArgs& a) const { return tiles >= clusters_ && deal(divide_up(tiles, clusters_), a.k_padded / 128, size_).columns; }
  // Of a linear's first phase; more than warpgroups hold sums for follow in one of their own.
  int first_tiles(const LinearArgs& a) const {
    const int most = size_.blocks * workers * clusters_;
    return size_.blocks && a.tiles > most ? std::min(most, a.tiles - clusters_) : a.tiles;
  }
  static LinearArgs piece(LinearArgs a, int first, int tiles) {
    const int outputs = first * (a.gated ? 8 : 16);
    a.weight = static_cast<const char*>(a.weight) + static_cast<int64_t>(first) * (a.k_padded / 128) * a.unit_bytes;
    a.weight_scale += first * 16;
    if (a.bias) a.bias += outputs;
    a.y = static_cast<char*>(a.y) + outputs * (a.residual ? 4 : 2);
    a.tiles = tiles;
    return a;
  }
  // after: the phase whose outputs it reads.
  void add_phase(const LinearArgs& a, int after) {
    W4ChainPhase& p = args_.phase[args_.phases++];
    p.some = a.tiles / clusters_; p.more = a.tiles % clusters_;
    p.units = a.k_padded / 128; p.unit_bytes = a.unit_bytes;
    const Deal d = deal(most(p), p.units, size_);
    p.columns = d.columns; p.parts = d.parts; p.tiles_warp = d.tiles_warp;
    p.factors = a.weight_scale; p.bias = a.bias; p.y = a.y; p.y_stride = a.y_stride;
    p.out = a.out; p.gated = a.gated; p.residual = a.residual; p.activation = a.activation; p.y_type = a.y_type;
    p.after = after; p.normed = a.norm != norm_none;
    linears_.push_back(a);
  }
  int unit_bytes(const W4ChainPhase& p) const { return size_.rows * 256 + most(p) * p.unit_bytes; }
  int most(const W4ChainPhase& p) const { return p.some + (p.more > 0); }
  // Room for sums: what a block's warps have of as many rows as fit, and what the other block sends it; where each of the
  // blocks finishes half of the rows, the latter alone.
  int plan_sums() {
    constexpr int enough = 48 * 1024;
    const int live = divide_up(args_.rows, 8);
    int most_bytes = 0, extent = 0;
    for (int i = 0; i < args_.phases; ++i) {
      W4ChainPhase& p = args_.phase[i];
      const int half = most(p) * divide_up(live, 2) * 512, eight = most(p) * p.parts * 512;
      p.chunk = live;
      p.split_rows = live > 1 && p.parts == 1 && !p.residual && half <= enough;
      p.inbox = p.after + 1 == i ? 0 : extent;  // nobody waits: the other block may still be adding up the phase before
      if (!p.split_rows) {
        p.chunk = std::clamp(enough / eight, 1, live);
        p.inbox = std::max(p.inbox, eight * p.chunk);
      }
      extent = p.inbox + (p.split_rows ? half : divide_up(most(p), ranks) * live * 512);
      most_bytes = std::max(most_bytes, extent);
    }
    return round_up(most_bytes, 1024);
  }
  // Slots of one size, and how many units of k of each phase one holds: as most bytes of weights are under way in the phase
  // that has fewest. Few large stages, since each costs its loaders and readers some hundred cycles.
  void plan_ring(int bytes) {
    int largest = 0;
    for (int i = 0; i < args_.phases; ++i) largest = std::max(largest, unit_bytes(args_.phase[i]));
    int64_t best = -1;
    for (int slot = round_up(largest, 1024); slot <= std::max(bytes / 4, largest) + 1023; slot += 1024) {
      const int slots = std::min(bytes / slot, slots_most);
      int64_t least = -1;
      for (int i = 0; i < args_.phases; ++i) {
        const W4ChainPhase& p = args_.phase[i];
        const int64_t weights = static_cast<int64_t>(std::min(slot / unit_bytes(p), units_most)) * p.some * p.unit_bytes * slots;
        if (least < 0 || weights < least) least = weights;
      }
      if (least <= best) continue;
      best = least;
      args_.slot_bytes = slot;
      args_.slots = slots;
    }
    for (int i = 0; i < args_.phases; ++i) {  // no more than its stages need when shared out evenly
      W4ChainPhase& p = args_.phase[i];
      const int units = divide_up(p.units, ranks), stages = divide_up(units, std::min(args_.slot_bytes / unit_bytes(p), units_most));
      p.stage_units = divide_up(units, stages);
    }
  }
  void describe(CudaStream& stream, int phase) {
    W4ChainPhase& p = args_.phase[phase];
    const LinearArgs& a = linears_[phase];
    if (Status s = describe_rows(stream.api(), p.x, type_, a.x, a.in, a.rows, a.x_stride, size_.rows, p.stage_units); !s) stream.fail(s);
    if (Status s = describe_units(stream.api(), p.weight_few, a, p.some, p.stage_units); !s) stream.fail(s);
    if (Status s = describe_units(stream.api(), p.weight_more, a, most(p), p.stage_units); !s) stream.fail(s);
  }

  W4ChainArgs args_{};
  std::vector<LinearArgs> linears_;  // a phase's
  LinearArgs last_{};                // as it was given
  std::vector<std::function<void()>> alone_;
  DType type_;
  const ChainSize& size_;
  int clusters_;
};

bool collects(const CudaStream& stream, const LinearArgs& a) {
  if (!stream.defers || !stream.capturing || a.rows < tuning().chain_rows_min || a.rows > std::min(tuning().chain_rows, rows_most)) return false;
  if (!hopper_linear_takes(stream.info().compute_capability) || a.group != 128 || a.in % 128 != 0) return false;
  if (a.out % 16 != 0 || a.y_stride % 2 != 0 || (reinterpret_cast<uintptr_t>(a.y) & 3) != 0) return false;
  if (a.x_stride % 8 != 0 || !aligned16(a.x)) return false;
  return a.residual ? a.y_type == type_f32 && !a.gated : a.y_type != type_f32;
}

}  // namespace

size_t chain_scratch_bytes(int rows, int in) { return aligned(static_cast<size_t>(rows) * in * 2) + aligned(static_cast<size_t>(divide_up(in, 16)) * rows_most * sizeof(float)); }

bool chain_linear(CudaStream& stream, const LinearArgs& a, DType narrow, void* scratch, std::function<void()> alone) {
  if (!collects(stream, a)) return false;
  auto* present = stream.deferred && stream.deferred->kind() == chain_kind ? static_cast<Chain*>(stream.deferred.get()) : nullptr;
  if (!present || !present->takes(a, narrow)) {
    stream.flush();
    const int clusters = clusters_of(stream, size_for(a.rows), narrow);
    if (clusters <= 0) return false;
    auto fresh = std::make_unique<Chain>(narrow, a.rows, clusters);
    if (!fresh->takes(a, narrow)) return false;
    present = fresh.get();
    stream.deferred = std::move(fresh);
  }
  present->add(a, scratch, std::move(alone));
  return true;
}

void chain_precedes(CudaStream& stream, const AttentionArgs& attention) {
  if (stream.deferred && stream.deferred->kind() == chain_kind) static_cast<Chain*>(stream.deferred.get())->precedes(attention);
}

ChainLeaves chain_leaves(const CudaStream& stream) {
  return stream.deferred && stream.deferred->kind() == chain_kind ? static_cast<const Chain*>(stream.deferred.get())->leaves() : ChainLeaves{};
}

void append_chain_shared(int sm, std::vector<SharedUse>& uses) {
  if (sm != 90) return;
  for (const ChainSize& size : sizes) uses.push_back({size.kernels[0].name, shared_budget(size)});
}

}  // namespace hearth::kernels::cuda
