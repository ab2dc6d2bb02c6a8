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
constexpr int workers = w4_chain_workers, ranks = 2, threads = (workers + 3) * 32, rows_most = 16;
struct ChainSize { int rows, tiles_warp; CudaKernel kernels[2]; };  // [type]
#define HEARTH_CHAIN(n) {{&module_linear_w4_chain_f16, "linear_w4_chain_n" #n "_f16"}, {&module_linear_w4_chain_bf16, "linear_w4_chain_n" #n "_bf16"}}
const ChainSize sizes[] = {{8, 4, HEARTH_CHAIN(8)}, {16, 4, HEARTH_CHAIN(16)}};
const ChainSize& size_for(int rows) { return sizes[rows > 8]; }

int shared_budget() { return std::min(tuning().chain_kb, 222) * 1024; }  // 227 KB hold 4 more that are not dynamic
int clusters_of(CudaStream& stream, const ChainSize& size, DType type) {
  return std::min(stream.clusters(size.kernels[type == DType::bf16], threads, shared_budget(), ranks), stream.multiprocessors() / ranks);
}

// How a phase's tiles are dealt to warps: `columns` side by side, the others share k.
struct Deal { int columns = 0, parts = 0, tiles_warp = 0; };
Deal deal(int tiles, int units, int tiles_warp_most) {
  Deal best;
  double least = 0;
  for (int columns : {12, 6, 4, 3, 2, 1}) {
    const int mine = divide_up(tiles, columns), parts = workers / columns;
    if (mine > tiles_warp_most || parts > 6) continue;
    // A tile's products, and what every warp does once a stage: its loads of the activations.
    const double cost = divide_up(std::max(1, units / ranks), parts) * (mine + 0.35);
    if (!best.columns || cost < least) { best = {columns, parts, mine}; least = cost; }
  }
  return best;
}

// Rows of 16-bit values as [k / 64][rows][64], read in boxes of 128 k of `box_rows` rows.
Status describe_rows(const device::cu::Api& api, TensorMapBytes& map, DType type, const void* data, int k, int rows, int64_t stride, int box_rows) {
  constexpr int type_float16 = 6, type_bfloat16 = 9, swizzle_128 = 3, promotion_256 = 3;  // CUtensorMap enums
  const uint64_t dims[3] = {64, static_cast<uint64_t>(rows), static_cast<uint64_t>(k) / 64}, strides[2] = {static_cast<uint64_t>(stride) * 2, 128};
  const uint32_t box[3] = {64, static_cast<uint32_t>(box_rows), 2}, steps[3] = {1, 1, 1};
  const int code = api.cuTensorMapEncodeTiled(reinterpret_cast<device::cu::TensorMap*>(&map), type == DType::bf16 ? type_bfloat16 : type_float16, 3, const_cast<void*>(data), dims, strides, box, steps, 0, swizzle_128, promotion_256, 0);
  return code == 0 ? Status::ok() : device::cu::error(code, "describing activations to the copy engine");
}

class Chain final : public CudaStream::Deferred {
 public:
  Chain(DType type, int rows, int clusters) : type_(type), size_(size_for(rows)), clusters_(clusters) { args_.rows = rows; }

  bool takes(const LinearArgs& a, DType type) const {
    if (type != type_ || a.rows != args_.rows || args_.phases == w4_chain_phases_max) return false;
    if (!deal(divide_up(a.tiles, clusters_), a.k_padded / 128, size_.tiles_warp).columns || a.tiles < clusters_) return false;
    if (args_.phases == 0) return a.norm == norm_none;
    const LinearArgs& before = linears_.back();
    const int columns = before.gated ? before.out / 2 : before.out;
    if (a.x != before.y || a.x_stride != before.y_stride || a.in != columns || a.x_type != before.y_type) return false;
    return a.norm == norm_none ? !before.residual : a.norm == norm_rms && before.residual != 0;
  }

  void add(CudaStream& stream, const LinearArgs& a, void* scratch, std::function<void()> alone) {
    W4ChainPhase& p = args_.phase[args_.phases++];
    const int some = a.tiles / clusters_, most = divide_up(a.tiles, clusters_);
    p.some = some; p.more = a.tiles % clusters_;
    p.units = a.k_padded / 128; p.unit_bytes = a.unit_bytes;
    p.stage_bytes = round_up(most * a.unit_bytes, 1024) + size_.rows * 256;
    const Deal d = deal(most, p.units, size_.tiles_warp);
    p.columns = d.columns; p.parts = d.parts; p.tiles_warp = d.tiles_warp;
    p.factors = a.weight_scale; p.bias = a.bias; p.y = a.y; p.y_stride = a.y_stride;
    p.out = a.out; p.gated = a.gated; p.residual = a.residual; p.activation = a.activation; p.y_type = a.y_type;
    const void* x = a.x;
    int64_t stride = a.x_stride;
    if (a.norm == norm_rms) {
      W4ChainPhase& before = args_.phase[args_.phases - 2];
      x = before.next_x = scratch;
      stride = a.in;
      before.next_norm = a.norm_weight;
      p.squares = before.next_squares = reinterpret_cast<float*>(static_cast<char*>(scratch) + aligned(static_cast<size_t>(args_.rows) * a.in * 2));
      p.squares_tiles = linears_.back().tiles; p.width = a.in; p.norm_epsilon = a.norm_epsilon;
    }
    if (Status s = describe_rows(stream.api(), p.x, type_, x, a.in, a.rows, stride, size_.rows); !s) stream.fail(s);
    if (Status s = describe_units(stream.api(), p.weight_few, a, some); !s) stream.fail(s);
    if (Status s = describe_units(stream.api(), p.weight_more, a, most); !s) stream.fail(s);
    linears_.push_back(a);
    alone_.push_back(std::move(alone));
  }

  int kind() const override { return chain_kind; }
  void launch(CudaStream& stream) override {
    if (args_.phases < 2) {
      stream.defers = false;
      for (const auto& run : alone_) run();
      stream.defers = true;
      return;
    }
    // Two buffers for sums; phases exchange as many rows at a time as they hold.
    auto bytes_of = [&](const W4ChainPhase& p, int eights) { return divide_up(p.some + (p.more > 0), ranks) * ranks * p.parts * eights * 512; };
    const int live = divide_up(args_.rows, 8);
    args_.sums_bytes = live == 1 ? 0 : 24 * 1024;
    for (int i = 0; i < args_.phases; ++i) args_.sums_bytes = std::max(args_.sums_bytes, bytes_of(args_.phase[i], 1));
    for (int i = 0; i < args_.phases; ++i) {
      W4ChainPhase& p = args_.phase[i];
      for (p.chunk = live; bytes_of(p, p.chunk) > args_.sums_bytes; --p.chunk) {}
    }
    args_.ring_bytes = (shared_budget() - 1024 - 2 * args_.sums_bytes) / 1024 * 1024;
    args_.counters = stream.counters();
    args_.trace = tuning().chain_trace & 1 ? reinterpret_cast<long long*>(stream.exchange() + (1 << 20)) : nullptr;
    stream.launch(size_.kernels[type_ == DType::bf16], {clusters_ * ranks, 1, 1, threads, shared_budget(), ranks}, args_);
  }

 private:
  W4ChainArgs args_{};
  std::vector<LinearArgs> linears_;
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
  present->add(stream, a, scratch, std::move(alone));
  return true;
}

void append_chain_shared(int sm, std::vector<SharedUse>& uses) {
  if (sm != 90) return;
  for (const ChainSize& size : sizes) uses.push_back({size.kernels[0].name, shared_budget()});
}

}  // namespace hearth::kernels::cuda
