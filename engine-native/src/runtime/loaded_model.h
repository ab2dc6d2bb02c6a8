// A model handle: what was loaded, and the runner that steps it.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "device/device.h"
#include "grammar/grammar.h"
#include "model/model.h"
#include "runtime/model_runner.h"
#include "runtime/vocabulary.h"

namespace hearth::runtime {

enum class ModelState : int { loading, ready, closing, closed };

struct LoadedModel {
  uint32_t handle = 0;
  std::string name;
  std::unique_ptr<device::Device> device;  // its own: a load may run while other models step
  std::unique_ptr<model::Model> model;
  std::shared_ptr<const Vocabulary> vocabulary;
  std::unique_ptr<ModelRunner> runner;     // step thread only, but for what never changes
  std::unique_ptr<grammar::GrammarCache> grammars;
  nlohmann::json info;                     // of hearth_model_info
  std::atomic<ModelState> state{ModelState::loading};
  std::atomic<int64_t> planned_bytes{0};   // once loaded: what the plan gave it
  std::atomic<int> preparing{0};           // requests that preparing threads hold
};

// What loading gives. Tests put a model of their own in its place.
struct LoadResult {
  std::unique_ptr<model::Model> model;
  std::shared_ptr<const Vocabulary> vocabulary;
  nlohmann::json chat_template;  // string or null
};
struct Hooks {
  std::function<Result<LoadResult>(const model::LoadOptions&, device::Device&, model::Model::Progress, void*)> load;
  std::optional<bool> overlap;                // instead of what the device suggests
  std::optional<int> draft_length;            // of every proposal, instead of what pays
  std::optional<int> fetch_min;               // blocks worth bringing back from the host, instead of what pays
  uint64_t (*allocations)() = nullptr;        // operator new calls of the calling thread so far
  void (*before_step)(ModelRunner&) = nullptr;  // tests: forced preemptions
};
Hooks& hooks();

// model_json of hearth_model_open.
struct ModelRequest {
  model::LoadOptions load;
  std::string name;
  bool prefix_cache = true;
  int64_t host_kv_mb = -1;      // host memory behind the KV pool; -1: host_tier_bytes decides
  bool plan_only = false;       // says what it would take; loads nothing
  int64_t reclaimable_mb = 0;   // plan_only: memory that could be given back first
};
Result<ModelRequest> parse_model_request(std::string_view json);

// Loads through hooks().load when set, else from the checkpoint or shape.
Result<LoadResult> load_model(const model::LoadOptions& options, device::Device& device, model::Model::Progress progress,
                              void* context);
std::shared_ptr<const grammar::TokenTrie> make_token_trie(const LoadedModel& loaded);
nlohmann::json describe_model(const LoadedModel& loaded, const nlohmann::json& chat_template);

}  // namespace hearth::runtime
