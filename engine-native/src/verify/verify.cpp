#include "verify/verify.h"

#include <nlohmann/json.hpp>
#include <random>

#include "verify/check.h"
#include "verify/model_check.h"
#include "verify/speed.h"

namespace hearth::verify {

using nlohmann::json;

namespace {

struct Stage { const char* name; std::vector<Check> (*run)(Bench&); };
constexpr Stage stages[] = {{"linear", check_linears}, {"small ops", check_small_ops}, {"attention", check_attention},
                            {"vision attention", check_vision_attention}, {"sampling", check_sampling}};

json to_json(const Check& c) {
  return {{"op", c.op}, {"implementation", c.implementation}, {"cases", c.cases}, {"error", c.error}, {"allowed", c.allowed},
          {"passed", c.passed()}, {"skipped", c.skipped.empty() ? json(nullptr) : json(c.skipped)}, {"failures", c.failures}};
}

}  // namespace

Result<json> verify(device::Device& device, const Options& options, const Progress& progress) {
  const double total = std::size(stages) + (options.model.empty() ? 0 : 1) + (options.speed ? 1 : 0);
  double done = 0;
  auto report = [&](const char* stage) { return !progress || progress(stage, done++, total); };
  const Status cancelled(Code::cancelled, "verification cancelled");
  const uint32_t seed = options.seed ? options.seed : std::random_device{}();
  json out{{"seed", seed}, {"passed", true}, {"checks", json::array()}, {"model", nullptr}, {"speed", json::array()}};
  Bench bench(device, seed);
  for (const Stage& stage : stages) {
    if (!report(stage.name)) return cancelled;
    for (const Check& check : stage.run(bench)) {
      out["checks"].push_back(to_json(check));
      if (!check.passed()) out["passed"] = false;
    }
    if (!bench.status) return bench.status.with(std::string("checking ") + stage.name);
  }
  if (!options.model.empty()) {
    if (!report("model")) return cancelled;
    HEARTH_ASSIGN(out["model"], check_model(device, options.model, seed));
    if (!out["model"]["passed"].get<bool>()) out["passed"] = false;
  }
  if (options.speed) {
    if (!report("speed")) return cancelled;
    HEARTH_ASSIGN(out["speed"], measure_speed(device));
  }
  return out;
}

}  // namespace hearth::verify
