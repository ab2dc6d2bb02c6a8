// The lists of cuda_kernels.h: most specific first, the last entry takes any shape.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/host/implementations.h"
#include "kernels/cuda/host/linear_mma.h"
#include "kernels/cuda/host/resources.h"

namespace hearth::kernels::cuda {
namespace {

using namespace ops;
constexpr const Implementation<EmbedSpec, EmbedParams>* embeds[] = {&embed};
constexpr const Implementation<NormSpec, NormParams>* norms[] = {&norm};
constexpr const LinearImplementation* linears[] = {&linear_w4, &linear_dense, &linear_int8, &linear_generic};
constexpr const Implementation<GateSpec, GateParams>* gates[] = {&gate};
constexpr const Implementation<AddSpec, AddParams>* adds[] = {&add};
constexpr const Implementation<GatherSpec, GatherParams>* gathers[] = {&gather};
constexpr const Implementation<AttentionSpec, AttentionParams>* attentions[] = {&attention_mma, &attention_generic};
constexpr const Implementation<VisionAttentionSpec, VisionAttentionParams>* visions[] = {&vision_mma, &vision_generic};
constexpr const Implementation<SampleSpec, SampleParams>* samples[] = {&sample};

}  // namespace

Implementations<EmbedSpec, EmbedParams> embed_implementations() { return embeds; }
Implementations<NormSpec, NormParams> norm_implementations() { return norms; }
std::span<const LinearImplementation* const> linear_implementations() { return linears; }
Implementations<GateSpec, GateParams> gate_implementations() { return gates; }
Implementations<AddSpec, AddParams> add_implementations() { return adds; }
Implementations<GatherSpec, GatherParams> gather_implementations() { return gathers; }
Implementations<AttentionSpec, AttentionParams> attention_implementations() { return attentions; }
Implementations<VisionAttentionSpec, VisionAttentionParams> vision_attention_implementations() { return visions; }
Implementations<SampleSpec, SampleParams> sample_implementations() { return samples; }

std::vector<SharedUse> declared_shared_memory(int sm) {
  std::vector<SharedUse> uses;
  append_w4_shared(sm, uses);
  append_dense_shared(sm, uses);
  append_mma_shared(sm, uses);
  append_attention_shared(sm, uses);
  append_hopper_shared(sm, uses);
  append_chain_shared(sm, uses);
  return uses;
}

}  // namespace hearth::kernels::cuda
