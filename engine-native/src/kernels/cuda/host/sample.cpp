// Sampling on CUDA: a scan with many blocks a row, then one block a row.
#include <algorithm>

#include "kernels/cuda/host/convert.h"
#include "kernels/cuda/host/implementations.h"

namespace hearth::kernels::cuda {

using device::CudaKernel;
using device::DeviceInfo;
using device::Stream;
using namespace ops;

extern const device::CudaModule module_sample;

namespace {

const CudaKernel scan_kernel{&module_sample, "sample_scan_kernel"}, finish_kernel{&module_sample, "sample_finish_kernel"};
constexpr int chunks_max = 32;

const char* declines(const SampleSpec& s, const DeviceInfo& info) {
  if (!is_cuda(info)) return "not a CUDA device";
  return s.vocabulary > 0 ? nullptr : "an empty vocabulary";
}
size_t workspace_bytes(const SampleSpec&, int max_rows, const DeviceInfo&) { return aligned(sizeof(SamplePartial) * chunks_max * max_rows); }

void run(const SampleSpec& s, const SampleParams& p, Stream& base) {
  device::CudaStream& stream = device::cuda(base);
  SampleArgs a{};
  a.logits = const_cast<float*>(p.logits); a.logits_stride = p.logits_stride;
  a.row = reinterpret_cast<const SampleRowArgs*>(p.row);
  a.bias_ids = p.bias_ids; a.bias_values = p.bias_values; a.masks = p.masks;
  a.prompt_seen = p.prompt_seen; a.output_count = p.output_count;
  a.sampled = p.sampled; a.token = p.token; a.logprob = p.logprob; a.top_ids = p.top_ids; a.top_logprobs = p.top_logprobs;
  a.partial = static_cast<SamplePartial*>(p.workspace);
  a.rows = p.rows; a.vocabulary = s.vocabulary;
  a.chunks = std::clamp(divide_up(s.vocabulary, 2048), 1, chunks_max);
  stream.launch(scan_kernel, {a.chunks, p.rows, 1, 256}, a);
  stream.launch(finish_kernel, {p.rows, 1, 1, 1024}, a);
}

}  // namespace

const Implementation<SampleSpec, SampleParams> sample{"cuda/generic", declines, run, workspace_bytes};

}  // namespace hearth::kernels::cuda
