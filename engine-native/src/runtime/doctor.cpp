#include "runtime/doctor.h"

#include <cmath>
#include <cstring>

#include "device/bandwidth.h"
#include "device/placement.h"
#include "device/profiles.h"
#include "ops/bind.h"
#include "runtime/engine.h"
#include "runtime/json_reader.h"

namespace hearth::runtime {
namespace {

Json instruction_sets(const device::CpuFeatures& f) {
  Json out = Json::array();
  auto add = [&](bool present, const char* name) { if (present) out.push_back(name); };
  add(f.avx2, "avx2"), add(f.avx_vnni, "avx-vnni"), add(f.avx512, "avx512"), add(f.avx512_vnni, "avx512-vnni");
  add(f.avx512_bf16, "avx512-bf16"), add(f.avx512_fp16, "avx512-fp16"), add(f.amx_int8, "amx-int8"), add(f.amx_bf16, "amx-bf16");
  add(f.neon, "neon"), add(f.neon_dotprod, "neon-dotprod"), add(f.neon_i8mm, "neon-i8mm"), add(f.neon_fp16, "neon-fp16");
  return out;
}

// What the system grants weights and workers, found on a trial: huge pages may be off or used up, a container may forbid pinning.
void describe_placement(device::Device& device, Json& out) {
  constexpr size_t trial_bytes = size_t{16} << 20;
  const int64_t before = device::memory_placement().huge_page_bytes;
  auto memory = device.allocate(trial_bytes, device::MemoryKind::weights, "a trial of huge pages");
  if (!memory) return;
  std::memset(*memory, 1, trial_bytes);
  const device::MemoryPlacement placed = device::memory_placement();
  device.release(*memory);
  out["huge_pages"] = placed.huge_page_bytes - before >= static_cast<int64_t>(trial_bytes)
                          ? "granted" : "refused: see /sys/kernel/mm/transparent_hugepage/enabled (madvise is enough)";
  out["pinned_threads"] = placed.pinned_threads;
  if (!placed.node_bytes.empty()) out["numa_nodes"] = placed.node_bytes.size();
}

// A system's memory has no data sheet here: read for a moment, by all workers. GB/s, to one decimal.
void measure_bandwidth(device::Device& device, Json& out) {
  constexpr size_t read_bytes = size_t{256} << 20;
  constexpr double seconds = 0.3;
  if (auto read = device::measure_cpu_read_bandwidth(device, read_bytes, seconds)) out["bandwidth_gb_s"] = std::round(read->gb_s * 10) / 10;
}

// `idle`: nothing computes on the device, so that it may be measured.
Json describe_device(device::Device& device, bool idle) {
  const device::DeviceInfo& info = device.info();
  const device::DeviceProfile& p = info.profile;
  Json out = {{"kind", info.kind == device::DeviceKind::cpu ? "cpu" : "cuda"},
              {"name", info.name},
              {"profile", p.name},
              {"multiprocessors", p.multiprocessors},
              {"memory_bytes", p.memory_bytes},
              {"unified_memory", p.unified_memory},
              {"step_tokens", p.step_tokens}};
  if (info.kind == device::DeviceKind::cpu) {
    out["threads"] = info.decode_threads;
    if (info.threads > info.decode_threads) out["prompt_threads"] = info.threads;
    out["performance_cores"] = info.performance_cores;
    if (info.efficiency_cores > 0) out["efficiency_cores"] = info.efficiency_cores;
    if (info.cpu_limit > 0) out["container_limit"] = info.cpu_limit;
    out["instruction_sets"] = instruction_sets(info.cpu);
    if (idle) measure_bandwidth(device, out);
    describe_placement(device, out);
  } else {
    out["compute_capability"] = info.compute_capability;
    out["bandwidth_gb_s"] = p.bandwidth_gb_s;
    out["tuning"] = ops::describe_tuning(device);
  }
  if (auto free = device.available_bytes()) out["available_bytes"] = *free;
  return out;
}

// What models will most often ask for, so that choices can be shown before one is loaded.
void bind_usual_ops(const device::DeviceInfo& info) {
  auto linear = [&](ops::WeightFormat weight, ops::ActivationFormat activations, int group) {
    ops::LinearSpec spec;
    spec.in = spec.out = 4096;
    spec.weight = weight;
    spec.activations = activations;
    spec.group = group;
    (void)ops::bind(spec, info);
  };
  linear(ops::WeightFormat::w4, ops::ActivationFormat::exact, 128);
  linear(ops::WeightFormat::w4, ops::ActivationFormat::int8_group, 128);
  linear(ops::WeightFormat::w8, ops::ActivationFormat::int8_row, 0);
  linear(ops::WeightFormat::f16, ops::ActivationFormat::exact, 0);
  ops::AttentionSpec attention;
  attention.heads = 32, attention.kv_heads = 8, attention.head_dim = 128, attention.rope_dims = 128;
  attention.scale = 0.088388f;
  (void)ops::bind(attention, info);
  (void)ops::bind(ops::NormSpec{ops::NormKind::rms, 4096}, info);
  (void)ops::bind(ops::SampleSpec{32000, 64, 64}, info);
}

Json describe_choices(const device::DeviceInfo& info) {
  Json out = Json::array();
  if (const int rows = device::program_rows(info.profile); rows > 0)
    out.push_back({{"op", "decode_step"}, {"spec", rows == 1 ? "w4, 1 row" : "w4, 1 to " + std::to_string(rows) + " rows"},
                   {"chosen", "one kernel a step (decode program)"}, {"refused", Json::array()}});
  for (const ops::Choice& choice : ops::choices()) {
    Json refused = Json::array();
    for (const auto& [implementation, reason] : choice.refused)
      refused.push_back({{"implementation", implementation}, {"reason", reason}});
    out.push_back({{"op", choice.op}, {"spec", choice.spec}, {"chosen", choice.chosen}, {"refused", refused}});
  }
  return out;
}

// GPUs that this build knows by their data sheets, for estimates of devices that are not here.
Json describe_profiles() {
  Json out = Json::array();
  for (const device::DeviceProfile& p : device::gpu_profiles())
    out.push_back({{"name", p.name}, {"sm", p.sm}, {"multiprocessors", p.multiprocessors}, {"memory_bytes", p.memory_bytes},
                   {"bandwidth_gb_s", p.bandwidth_gb_s}, {"unified_memory", p.unified_memory}});
  return out;
}

}  // namespace

Result<Json> doctor(Engine* engine, std::string_view options_json) {
  HEARTH_ASSIGN(EngineOptions options, parse_engine_options(options_json.empty() ? "{}" : options_json));
  std::unique_ptr<device::Device> own;
  if (!engine) {
    HEARTH_ASSIGN(own, open_device(options));
  }
  device::Device& device = engine ? *engine->device() : *own;
  Json cuda = {{"devices", 0}, {"reason", nullptr}};
  if (auto count = device::count_cuda_devices()) cuda["devices"] = *count;
  else cuda["reason"] = count.status().message();
  if (ops::choices().empty()) bind_usual_ops(device.info());
  return Json{{"devices", Json::array({describe_device(device, engine == nullptr)})}, {"cuda", cuda},
              {"kernels", describe_choices(device.info())}, {"profiles", describe_profiles()}};
}

}  // namespace hearth::runtime
