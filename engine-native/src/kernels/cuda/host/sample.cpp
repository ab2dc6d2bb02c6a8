// Sampling on CUDA: one kernel, several blocks a row that meet at a barrier of their own; one without sorting for rows that want no
// log-probabilities, where all their blocks fit on the device; a small one where no row wants more than its best token, noisy or not.
#include <algorithm>

#include "kernels/cuda/host/convert.h"
#include "kernels/cuda/host/implementations.h"

namespace hearth::kernels::cuda {

using device::CudaKernel;
using device::DeviceInfo;
using device::Stream;
using namespace ops;

extern const device::CudaModule module_sample, module_sample_plain, module_sample_token;

namespace {

const CudaKernel sample_kernel{&module_sample, "sample_kernel"}, plain_kernel{&module_sample_plain, "sample_plain_kernel"},
    token_kernel{&module_sample_token, "sample_token_kernel"};
constexpr int plain_tokens = 4 * sample_threads;  // of a block that reads all its logits at once

const char* declines(const SampleSpec& s, const DeviceInfo& info) {
  if (!is_cuda(info)) return "not a CUDA device";
  return s.vocabulary > 0 ? nullptr : "an empty vocabulary";
}
size_t workspace_bytes(const SampleSpec&, int max_rows, const DeviceInfo&) { return aligned(sizeof(SampleRowState) * max_rows); }

// Blocks of a row wait for each other, so all of them must fit on the device at once; one block waits for nobody.
int chunk_count(const SampleSpec& s, int rows, device::CudaStream& stream) {
  const int resident = stream.multiprocessors() * stream.occupancy(sample_kernel, sample_threads, 0);
  const int useful = divide_up(s.vocabulary, 2 * sample_threads);
  return std::clamp(std::min(resident / rows, useful), 1, sample_chunks_max);
}

bool wants_token(const SampleRow& r) { return r.forced < 0 && r.top_logprobs < 0; }

void run(const SampleSpec& s, const SampleParams& p, Stream& base) {
  device::CudaStream& stream = device::cuda(base);
  if (p.rows <= 0) return;
  SampleArgs a{};
  a.logits = const_cast<float*>(p.logits); a.logits_stride = p.logits_stride;
  a.row = reinterpret_cast<const SampleRowArgs*>(p.row);
  a.bias_ids = p.bias_ids; a.bias_values = p.bias_values; a.masks = p.masks;
  a.prompt_seen = p.prompt_seen; a.output_count = p.output_count;
  a.sampled = p.sampled; a.token = p.token; a.logprob = p.logprob; a.top_ids = p.top_ids; a.top_logprobs = p.top_logprobs;
  a.state = static_cast<SampleRowState*>(p.workspace);
  a.counters = stream.counters();
  a.rows = p.rows; a.vocabulary = s.vocabulary;
  auto all = [&](auto&& wanted) { return std::all_of(p.host_row, p.host_row + p.rows, wanted); };
  if (p.host_row && all(wants_token)) {
    if (!p.output_count && all([](const SampleRow& r) { return !truncated(r) && !adjusted(r); })) {
      const int wanted = std::max(1, stream.multiprocessors() * 8 / p.rows);
      a.chunks = std::clamp(divide_up(s.vocabulary, plain_tokens), 1, wanted);
      return stream.launch(plain_kernel, {a.chunks, p.rows, 1, sample_threads}, a);
    }
    a.chunks = divide_up(s.vocabulary, sample_held * sample_threads);
    const int resident = stream.multiprocessors() * stream.occupancy(token_kernel, sample_threads, 0);
    if (a.chunks * p.rows <= resident) return stream.launch(token_kernel, {a.chunks, p.rows, 1, sample_threads}, a);
  }
  a.chunks = chunk_count(s, p.rows, stream);
  stream.launch(sample_kernel, {a.chunks, p.rows, 1, sample_threads}, a);
}

}  // namespace

const Implementation<SampleSpec, SampleParams> sample{"cuda/generic", declines, run, workspace_bytes};

}  // namespace hearth::kernels::cuda
