// Binding: at load, each op of a model is given the first implementation that takes its shape on its device.
// HEARTH_KERNEL_<OP>=<name prefix> forces one ("reference"), HEARTH_KERNELS=trace says why each was taken or refused.
//
// A fused linear that no implementation takes is split: norm, linear, gate, add, through scratch of its own. So a new
// architecture or a new device needs no new kernel to be right.
#pragma once

#include <memory>

#include "core/status.h"
#include "ops/ops.h"
#include "ops/registry.h"

namespace hearth::ops {

// Multiply-adds that this process's products (linears and attention) were asked for, and those of two int8 operands or
// of int8 activations with 4-bit weights. Counted as ops are run; on CUDA a captured graph counts once.
struct Work { uint64_t total = 0, int8 = 0; };
Work work();
void count_work(const AttentionSpec&, const AttentionParams&);
void count_work(const VisionAttentionSpec&, const VisionAttentionParams&);
inline void count_work(const auto&, const auto&) {}

// An op bound to an implementation. Copyable, small.
template <class Spec, class Params>
struct Bound {
  Spec spec{};
  const Implementation<Spec, Params>* implementation = nullptr;
  void run(const Params& params, Stream& stream) const {
    count_work(spec, params);
    implementation->run(spec, params, stream);
  }
  size_t workspace_bytes(int max_rows, const DeviceInfo& info) const {
    return implementation->workspace_bytes ? implementation->workspace_bytes(spec, max_rows, info) : 0;
  }
};

using BoundEmbed = Bound<EmbedSpec, EmbedParams>;
using BoundNorm = Bound<NormSpec, NormParams>;
using BoundGate = Bound<GateSpec, GateParams>;
using BoundAdd = Bound<AddSpec, AddParams>;
using BoundGather = Bound<GatherSpec, GatherParams>;
using BoundAttention = Bound<AttentionSpec, AttentionParams>;
using BoundVisionAttention = Bound<VisionAttentionSpec, VisionAttentionParams>;
using BoundSample = Bound<SampleSpec, SampleParams>;

Result<BoundEmbed> bind(const EmbedSpec&, const DeviceInfo&);
Result<BoundNorm> bind(const NormSpec&, const DeviceInfo&);
Result<BoundGate> bind(const GateSpec&, const DeviceInfo&);
Result<BoundAdd> bind(const AddSpec&, const DeviceInfo&);
Result<BoundGather> bind(const GatherSpec&, const DeviceInfo&);
Result<BoundAttention> bind(const AttentionSpec&, const DeviceInfo&);
Result<BoundVisionAttention> bind(const VisionAttentionSpec&, const DeviceInfo&);
Result<BoundSample> bind(const SampleSpec&, const DeviceInfo&);

// A linear as the model wants it, run fused or as a chain. The packed weight's layout is the implementation's.
class BoundLinear {
 public:
  const LinearSpec& spec() const { return spec_; }
  const LinearSpec& inner() const { return inner_; }  // what the implementation is asked for
  const LinearImplementation& implementation() const { return *linear_; }
  const char* layout() const { return linear_->layout; }
  size_t packed_bytes() const { return linear_->packed_bytes(inner_); }
  // Packs the whole tensor on the calling thread; `pack_range` for several threads.
  void pack(const HostLinear& from, void* to) const { linear_->pack(inner_, from, 0, inner_.out, to); }
  void pack_range(const HostLinear& from, int begin, int end, void* to) const { linear_->pack(inner_, from, begin, end, to); }
  // Scratch for at most `max_rows` rows: the chain's intermediates and the implementation's own.
  size_t workspace_bytes(int max_rows, const DeviceInfo& info) const;
  void run(const LinearParams& params, Stream& stream) const;

 private:
  friend Result<BoundLinear> bind(const LinearSpec&, const DeviceInfo&);
  LinearSpec spec_;   // as asked for
  LinearSpec inner_;  // what the implementation does of it
  const LinearImplementation* linear_ = nullptr;
  BoundNorm norm_;    // each set only where the chain needs it
  BoundGate gate_;
  BoundAdd add_;
};
Result<BoundLinear> bind(const LinearSpec&, const DeviceInfo&);

}  // namespace hearth::ops
