// Norm, gate, add, gather and embedding: the same spec and the same bytes through the device and through the reference.
#include "ops/registry.h"
#include "verify/check.h"

namespace hearth::verify {
namespace {

using namespace ops;

DType any_float(Bench& bench) { return static_cast<DType>(bench.integer(0, 2)); }

void compare(const Array& got, const std::vector<uint8_t>& want, Check& check, const std::string& what) {
  Error error;
  for (size_t i = 0; i < got.count(); ++i) error.add(got.get(i), Array::value(want.data(), got.type(), i));
  record(check, error, 2 * unit_of(got.type()) + 1e-5, what);
}

// What an op's check needs to know: a random spec, its buffers, and params over host or device pointers.
struct NormCase {
  using Spec = NormSpec;
  using Params = NormParams;
  NormSpec spec;
  int rows;
  Array x, weight, bias, out;
  static NormSpec random(Bench& b) {
    NormSpec s;
    s.kind = b.integer(0, 1) ? NormKind::layer : NormKind::rms;
    s.width = b.integer(1, 5000), s.epsilon = 1e-5f, s.accumulate = b.integer(0, 4) == 0;
    s.x_type = any_float(b), s.y_type = s.accumulate ? DType::f32 : any_float(b);
    return s;
  }
  NormCase(const NormSpec& s, Bench& b) : spec(s), rows(b.integer(1, 40)), x(b, s.x_type, size_t(rows) * (s.width + 3)), weight(b, DType::f32, s.width),
                                          bias(b, DType::f32, s.width), out(b, s.y_type, size_t(rows) * s.width) {
    x.normal(2), weight.normal(), bias.normal();
    if (s.accumulate) out.normal();
    else out.poison();
  }
  NormParams params(bool host, void* y) {
    const bool layer = spec.kind == NormKind::layer;
    if (host) return {rows, x.host(), spec.width + 3, weight.host_as<float>(), layer ? bias.host_as<float>() : nullptr, y, spec.width};
    return {rows, x.twin(), spec.width + 3, weight.twin_as<float>(), layer ? bias.twin_as<float>() : nullptr, y, spec.width};
  }
};

struct GateCase {
  using Spec = GateSpec;
  using Params = GateParams;
  GateSpec spec;
  int rows;
  Array x, out;
  static GateSpec random(Bench& b) { return {b.integer(1, 3000), static_cast<Activation>(b.integer(0, 5)), any_float(b)}; }
  GateCase(const GateSpec& s, Bench& b) : spec(s), rows(b.integer(1, 40)), x(b, s.type, size_t(rows) * (2 * s.width + 4)), out(b, s.type, size_t(rows) * s.width) {
    x.normal(), out.poison();
  }
  GateParams params(bool host, void* y) { return {rows, host ? x.host() : x.twin(), 2 * spec.width + 4, y, spec.width}; }
};

struct AddCase {
  using Spec = AddSpec;
  using Params = AddParams;
  AddSpec spec;
  int rows;
  Array x, out;
  static AddSpec random(Bench& b) { return {b.integer(1, 3000), any_float(b)}; }
  AddCase(const AddSpec& s, Bench& b) : spec(s), rows(b.integer(1, 40)), x(b, s.x_type, size_t(rows) * s.width), out(b, DType::f32, size_t(rows) * s.width) {
    x.normal(), out.normal();
  }
  AddParams params(bool host, void* y) { return {rows, host ? x.host() : x.twin(), spec.width, static_cast<float*>(y), spec.width}; }
};

struct GatherCase {
  using Spec = GatherSpec;
  using Params = GatherParams;
  GatherSpec spec;
  int rows;
  Array x, index, out;
  static GatherSpec random(Bench& b) { return {b.integer(1, 3000), any_float(b), any_float(b)}; }
  GatherCase(const GatherSpec& s, Bench& b) : spec(s), rows(b.integer(1, 40)), x(b, s.x_type, size_t(30) * s.width), index(b, DType::i32, rows), out(b, s.y_type, size_t(rows) * s.width) {
    std::vector<int32_t> from(rows);
    for (auto& i : from) i = b.integer(-1, 29);
    index.integers(from), x.normal(), out.poison();
  }
  GatherParams params(bool host, void* y) {
    return {rows, host ? x.host() : x.twin(), spec.width, host ? index.host_as<int32_t>() : index.twin_as<int32_t>(), y, spec.width};
  }
};

struct EmbedCase {
  using Spec = EmbedSpec;
  using Params = EmbedParams;
  EmbedSpec spec;
  int rows;
  Array table, image, ids, source, sampled, out;
  static EmbedSpec random(Bench& b) { return {b.integer(1, 3000), 50, any_float(b), 1.5f}; }
  EmbedCase(const EmbedSpec& s, Bench& b) : spec(s), rows(b.integer(1, 40)), table(b, s.table_type, size_t(s.vocabulary) * s.width), image(b, DType::f32, size_t(7) * s.width),
                                            ids(b, DType::i32, rows), source(b, DType::i32, rows), sampled(b, DType::i32, 9), out(b, DType::f32, size_t(rows) * s.width) {
    std::vector<int32_t> names(rows), sources(rows), tokens(9);
    for (int i = 0; i < rows; ++i) sources[i] = b.integer(0, 2), names[i] = b.integer(0, sources[i] == 0 ? 49 : sources[i] == 1 ? 8 : 6);
    for (auto& t : tokens) t = b.integer(0, 49);
    ids.integers(names), source.integers(sources), sampled.integers(tokens), table.normal(), image.normal(), out.poison();
  }
  EmbedParams params(bool host, void* y) {
    if (host)
      return {rows, ids.host_as<int32_t>(), source.host_as<int32_t>(), sampled.host_as<int32_t>(), table.host(), image.host_as<float>(), static_cast<float*>(y)};
    return {rows, ids.twin_as<int32_t>(), source.twin_as<int32_t>(), sampled.twin_as<int32_t>(), table.twin(), image.twin_as<float>(), static_cast<float*>(y)};
  }
};

template <class Case>
void check_op(const char* op, Implementations<typename Case::Spec, typename Case::Params> list,
              Implementations<typename Case::Spec, typename Case::Params> oracles, Bench& bench, std::vector<Check>& checks) {
  constexpr int cases = 16;
  const auto& reference = *oracles.back();
  for (const auto* implementation : list) {
    if (implementation == &reference) continue;
    Check check{op, implementation->name, 0, 0, 0, {}, {}};
    for (int i = 0; i < cases; ++i) {
      const auto spec = Case::random(bench);
      if (const char* no = implementation->declines(spec, bench.info())) { check.skipped = no; continue; }
      Case c(spec, bench);
      if (!bench.status) return;
      std::vector<uint8_t> want = c.out.copy();
      reference.run(spec, c.params(true, want.data()), bench.reference);
      implementation->run(spec, c.params(false, c.out.twin()), bench.device.stream());
      compare(c.out.download(), want, check, "case " + std::to_string(i) + " of width " + std::to_string(spec.width));
    }
    if (check.cases > 0) check.skipped.clear();
    checks.push_back(std::move(check));
  }
}

}  // namespace

std::vector<Check> check_small_ops(Bench& bench) {
  std::vector<Check> checks;
  const auto kind = bench.info().kind, cpu = device::DeviceKind::cpu;
  check_op<NormCase>("norm", norm_implementations(kind), norm_implementations(cpu), bench, checks);
  check_op<GateCase>("gate", gate_implementations(kind), gate_implementations(cpu), bench, checks);
  check_op<AddCase>("add", add_implementations(kind), add_implementations(cpu), bench, checks);
  check_op<GatherCase>("gather", gather_implementations(kind), gather_implementations(cpu), bench, checks);
  check_op<EmbedCase>("embed", embed_implementations(kind), embed_implementations(cpu), bench, checks);
  return checks;
}

}  // namespace hearth::verify
