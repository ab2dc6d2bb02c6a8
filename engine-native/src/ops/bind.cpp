#include "ops/bind.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "ops/describe.h"

namespace hearth::ops {
namespace {

using device::DeviceKind;

std::mutex choices_mutex;
std::vector<Choice>& choice_list() {
  static std::vector<Choice> list;
  return list;
}

// Once per op, shape and outcome: a model binds the same linear in every layer.
void record(Choice choice) {
  std::lock_guard lock(choices_mutex);
  auto& list = choice_list();
  for (const Choice& c : list) {
    if (c.op == choice.op && c.spec == choice.spec && c.chosen == choice.chosen) return;
  }
  const char* mode = std::getenv("HEARTH_KERNELS");
  if (mode != nullptr && std::strcmp(mode, "trace") == 0) {
    std::fprintf(stderr, "kernel %s [%s]: %s\n", choice.op.c_str(), choice.spec.c_str(), choice.chosen.c_str());
    for (const auto& [name, reason] : choice.refused) std::fprintf(stderr, "  not %s: %s\n", name.c_str(), reason.c_str());
  }
  list.push_back(std::move(choice));
}

// HEARTH_KERNEL_<OP>, or empty.
std::string forced_name(const char* op) {
  std::string variable = "HEARTH_KERNEL_";
  for (const char* c = op; *c != 0; ++c) variable += static_cast<char>(std::toupper(*c));
  const char* value = std::getenv(variable.c_str());
  return value == nullptr ? "" : value;
}

// "reference" and "cpu/reference" both force cpu/reference.
bool name_matches(std::string_view name, const std::string& forced) {
  if (forced.empty() || name.starts_with(forced)) return true;
  const size_t slash = name.find('/');
  return slash != std::string_view::npos && name.substr(slash + 1).starts_with(forced);
}

// The first implementation that takes the spec, or nullptr; refusals go to `refused`.
template <class Spec, class Params>
const Implementation<Spec, Params>* first_taker(const Spec& spec, const DeviceInfo& info, Implementations<Spec, Params> list,
                                                const std::string& forced,
                                                std::vector<std::pair<std::string, std::string>>& refused) {
  for (const auto* candidate : list) {
    const char* reason = name_matches(candidate->name, forced) ? candidate->declines(spec, info) : "another is forced";
    if (reason == nullptr) return candidate;
    refused.emplace_back(candidate->name, reason);
  }
  return nullptr;
}

Status nobody_takes(const char* op, const std::string& spec, const std::string& forced,
                    const std::vector<std::pair<std::string, std::string>>& refused) {
  std::string message = std::string("no kernel for ") + op + " [" + spec + "]";
  if (!forced.empty()) message += " among those HEARTH_KERNEL_* forces (" + forced + ")";
  for (const auto& [name, reason] : refused) message += "; " + name + ": " + reason;
  if (refused.empty()) message += ": this build has none for the device";
  return unsupported(message);
}

template <class Spec, class Params>
Result<Bound<Spec, Params>> bind_one(const char* op, const Spec& spec, const DeviceInfo& info,
                                     Implementations<Spec, Params> list) {
  Choice choice{op, describe(spec), "", {}};
  const std::string forced = forced_name(op);
  const auto* chosen = first_taker<Spec, Params>(spec, info, list, forced, choice.refused);
  if (chosen == nullptr) return nobody_takes(op, choice.spec, forced, choice.refused);
  choice.chosen = chosen->name;
  record(std::move(choice));
  return Bound<Spec, Params>{spec, chosen};
}

size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

// What a chain does outside the linear.
struct Split { bool norm, gate, residual; };

// Scratch of a chain, in order: normed rows, the linear's output, the gate's output, then the implementation's own.
struct ChainScratch {
  size_t linear = 0, gate = 0, own = 0;
  ChainScratch(const LinearSpec& spec, const LinearSpec& inner, bool norm, bool gate_split, bool add, int rows) {
    const size_t r = static_cast<size_t>(rows);
    linear = norm ? round_up(r * spec.in * size_of(inner.x_type)) : 0;
    gate = linear + (gate_split || add ? round_up(r * inner.out / (inner.gated ? 2 : 1) * size_of(inner.y_type)) : 0);
    own = gate + (gate_split && add ? round_up(r * spec.out / 2 * size_of(inner.y_type)) : 0);
  }
};

LinearSpec inner_spec(const LinearSpec& spec, const Split& split, DType x_type) {
  LinearSpec inner = spec;
  if (split.norm) {
    inner.norm = NormKind::none;
    inner.x_type = x_type;
  }
  if (split.gate) {
    inner.gated = false;
    inner.activation = Activation::none;
  }
  if (split.residual) {
    inner.residual = false;
    inner.y_type = inner.x_type;
  }
  return inner;
}

bool possible(const LinearSpec& spec, const Split& split) {
  if (split.norm && spec.norm == NormKind::none) return false;
  if (split.gate && !spec.gated) return false;
  if (split.residual && !spec.residual) return false;
  // A gate runs after the linear and before the sum, so it takes the residual out with it.
  return !(split.gate && spec.residual && !split.residual);
}

}  // namespace

const std::vector<Choice>& choices() { return choice_list(); }

namespace {
std::atomic<uint64_t> work_total{0}, work_int8{0};
void add_work(uint64_t multiply_adds, bool int8) {
  work_total.fetch_add(multiply_adds, std::memory_order_relaxed);
  if (int8) work_int8.fetch_add(multiply_adds, std::memory_order_relaxed);
}
}  // namespace

Work work() { return {work_total.load(std::memory_order_relaxed), work_int8.load(std::memory_order_relaxed)}; }

void count_work(const AttentionSpec& s, const AttentionParams& p) {
  const Batch::Host& host = p.batch.host;
  if (host.row_begin == nullptr || host.context == nullptr) return;
  uint64_t tokens = 0;  // pairs of a row and a token it sees; the window is left out
  for (int i = 0; i < p.batch.sequences; ++i) {
    const auto rows = static_cast<uint64_t>(host.row_begin[i + 1] - host.row_begin[i]);
    if (rows > 0) tokens += rows * static_cast<uint64_t>(host.context[i]) - rows * (rows - 1) / 2;
  }
  add_work(2 * tokens * static_cast<uint64_t>(s.heads) * static_cast<uint64_t>(s.head_dim), s.int8_products);
}

void count_work(const VisionAttentionSpec& s, const VisionAttentionParams& p) {
  if (p.host_segment == nullptr) return;
  uint64_t pairs = 0;
  for (int i = 0; i < p.segments; ++i) {
    const auto rows = static_cast<uint64_t>(p.host_segment[i + 1] - p.host_segment[i]);
    pairs += rows * rows;
  }
  add_work(2 * pairs * static_cast<uint64_t>(s.heads) * static_cast<uint64_t>(s.head_dim), false);
}

Result<BoundEmbed> bind(const EmbedSpec& s, const DeviceInfo& i) { return bind_one("embed", s, i, embed_implementations(i.kind)); }
Result<BoundNorm> bind(const NormSpec& s, const DeviceInfo& i) { return bind_one("norm", s, i, norm_implementations(i.kind)); }
Result<BoundGate> bind(const GateSpec& s, const DeviceInfo& i) { return bind_one("gate", s, i, gate_implementations(i.kind)); }
Result<BoundAdd> bind(const AddSpec& s, const DeviceInfo& i) { return bind_one("add", s, i, add_implementations(i.kind)); }
Result<BoundGather> bind(const GatherSpec& s, const DeviceInfo& i) { return bind_one("gather", s, i, gather_implementations(i.kind)); }
Result<BoundAttention> bind(const AttentionSpec& s, const DeviceInfo& i) {
  if (s.int8_products && i.kind != DeviceKind::cpu) return unsupported("attention with int8 products exists on CPUs only");
  return bind_one("attention", s, i, attention_implementations(i.kind));
}
Result<BoundVisionAttention> bind(const VisionAttentionSpec& s, const DeviceInfo& i) {
  return bind_one("vision_attention", s, i, vision_attention_implementations(i.kind));
}
Result<BoundSample> bind(const SampleSpec& s, const DeviceInfo& i) { return bind_one("sample", s, i, sample_implementations(i.kind)); }

namespace {

struct LinearChoice { const LinearImplementation* linear; LinearSpec inner; };

// Implementations in order of preference; for each the fullest fusion it takes. A specialised kernel that leaves the
// norm to a chain beats the reference that might not.
LinearChoice choose_linear(const LinearSpec& spec, const DeviceInfo& info, const std::string& forced, Choice& choice) {
  constexpr Split splits[] = {{false, false, false}, {true, false, false}, {false, true, false}, {false, false, true},
                              {true, true, false},   {true, false, true},  {false, true, true},  {true, true, true}};
  std::vector<DType> types{DType::f32};
  if (info.kind == DeviceKind::cuda) {
    const bool narrow = spec.y_type == DType::f16 || spec.y_type == DType::bf16;
    types = {narrow ? spec.y_type : DType::bf16, DType::f16, DType::f32};
  }
  for (const LinearImplementation* candidate : linear_implementations(info.kind)) {
    if (!name_matches(candidate->name, forced)) {
      choice.refused.emplace_back(candidate->name, "another is forced");
      continue;
    }
    const char* first_reason = candidate->declines(spec, info);
    for (const Split& split : splits) {
      for (size_t t = 0; possible(spec, split) && t < (split.norm ? types.size() : 1); ++t) {
        const LinearSpec inner = inner_spec(spec, split, types[t]);
        if (candidate->declines(inner, info) == nullptr) return {candidate, inner};
      }
    }
    choice.refused.emplace_back(candidate->name, first_reason);
  }
  return {nullptr, {}};
}

}  // namespace

Result<BoundLinear> bind(const LinearSpec& spec, const DeviceInfo& info) {
  Choice choice{"linear", describe(spec), "", {}};
  if (spec.in <= 0 || spec.out <= 0 || (spec.gated && spec.out % 2 != 0)) {
    return invalid("linear [" + choice.spec + "] has an impossible shape");
  }
  const std::string forced = forced_name("linear");
  const LinearChoice found = choose_linear(spec, info, forced, choice);
  if (found.linear == nullptr) return nobody_takes("linear", choice.spec, forced, choice.refused);
  BoundLinear bound;
  bound.spec_ = spec;
  bound.inner_ = found.inner;
  bound.linear_ = found.linear;
  const LinearSpec& inner = found.inner;
  choice.chosen = found.linear->name;
  if (inner.norm != spec.norm) {
    const NormSpec norm{spec.norm, spec.in, spec.norm_epsilon, false, spec.x_type, inner.x_type};
    HEARTH_ASSIGN(bound.norm_, bind(norm, info));
    choice.chosen += " after norm";
  }
  if (inner.gated != spec.gated) {
    HEARTH_ASSIGN(bound.gate_, bind(GateSpec{spec.out / 2, spec.activation, inner.y_type}, info));
    choice.chosen += ", then gate";
  }
  if (inner.residual != spec.residual) {
    HEARTH_ASSIGN(bound.add_, bind(AddSpec{spec.gated ? spec.out / 2 : spec.out, inner.y_type}, info));
    choice.chosen += ", then add";
  }
  record(std::move(choice));
  return bound;
}

size_t BoundLinear::workspace_bytes(int max_rows, const DeviceInfo& info) const {
  const ChainScratch scratch(spec_, inner_, norm_.implementation, gate_.implementation, add_.implementation, max_rows);
  return scratch.own + (linear_->workspace_bytes ? linear_->workspace_bytes(inner_, max_rows, info) : 0);
}

void BoundLinear::run(const LinearParams& params, Stream& stream) const {
  add_work(static_cast<uint64_t>(params.rows) * static_cast<uint64_t>(spec_.in) * static_cast<uint64_t>(spec_.out),
           spec_.activations != ActivationFormat::exact);
  const bool norm = norm_.implementation, gate = gate_.implementation, add = add_.implementation;
  if (!norm && !gate && !add) return linear_->run(inner_, params, stream);
  const ChainScratch scratch(spec_, inner_, norm, gate, add, params.rows);
  auto* base = static_cast<uint8_t*>(params.workspace);
  const int out = spec_.gated ? spec_.out / 2 : spec_.out;
  LinearParams p = params;
  p.workspace = base + scratch.own;
  if (norm) {
    norm_.run({params.rows, params.x, params.x_stride, params.norm_weight, params.norm_bias, base, spec_.in}, stream);
    p.x = base;
    p.x_stride = spec_.in;
    p.norm_weight = p.norm_bias = nullptr;
  }
  if (gate || add) {
    p.y = base + scratch.linear;
    p.y_stride = inner_.gated ? inner_.out / 2 : inner_.out;
  }
  linear_->run(inner_, p, stream);
  if (gate) {
    void* y = add ? base + scratch.gate : params.y;
    gate_.run({params.rows, p.y, p.y_stride, y, add ? out : params.y_stride}, stream);
    p.y = y;
    p.y_stride = out;
  }
  if (add) add_.run({params.rows, p.y, p.y_stride, static_cast<float*>(params.y), params.y_stride}, stream);
}

}  // namespace hearth::ops
