#include "verify/model_check.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <vector>

#include "model/model.h"

namespace hearth::verify {
namespace {

using nlohmann::json;

constexpr int window_tokens = 64, windows = 4;
// Random tokens make flat distributions, the hardest case for a comparison of logits. int8 activations are a choice of
// precision and may cost this much; 16-bit ones may not.
constexpr double kl_16_bit = 2e-3, kl_int8 = 5e-2;

Result<std::unique_ptr<model::Model>> load(const std::string& path, const std::string& precision, device::Device& device) {
  model::LoadOptions options;
  options.path = path, options.precision = precision;
  options.context = window_tokens, options.kv_tokens = window_tokens, options.max_sequences = 1;
  return model::Model::load(options, device);
}

// Logits [ids, vocabulary] of a window that starts an empty sequence.
Result<std::vector<float>> run(model::Model& model, std::span<const int32_t> ids) {
  std::vector<int32_t> blocks(static_cast<size_t>(model.info().kv_blocks));
  std::iota(blocks.begin(), blocks.end(), 0);
  const size_t vocabulary = static_cast<size_t>(model.info().vocabulary);
  const int chunk = std::min(model.info().step_tokens, model.max_logit_rows());
  std::vector<float> logits(ids.size() * vocabulary);
  for (int start = 0; start < static_cast<int>(ids.size()); start += chunk) {
    const int count = std::min(chunk, static_cast<int>(ids.size()) - start);
    std::vector<int32_t> rows(static_cast<size_t>(count));
    std::iota(rows.begin(), rows.end(), 0);
    model::SequenceRows sequence;
    sequence.start = start, sequence.count = count, sequence.prompt = static_cast<int>(ids.size());
    sequence.blocks = std::span(blocks).first(static_cast<size_t>((start + count + ops::kv_block_tokens - 1) / ops::kv_block_tokens));
    sequence.ids = ids.subspan(static_cast<size_t>(start), static_cast<size_t>(count));
    HEARTH_TRY(model.forward({{&sequence, 1}, rows}));
    HEARTH_TRY(model.device().download(logits.data() + static_cast<size_t>(start) * vocabulary, model.logits(), rows.size() * vocabulary * sizeof(float)));
    HEARTH_TRY(model.device().stream().synchronize());
  }
  return logits;
}

struct Sums { double difference = 0, reference = 0, kl = 0, agreement = 0; int rows = 0; };

double log_sum_exp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float v : logits) sum += std::exp(v - largest);
  return largest + std::log(sum);
}

void add_row(std::span<const float> got, std::span<const float> want, Sums& sums) {
  const double got_sum = log_sum_exp(got), want_sum = log_sum_exp(want);
  for (size_t i = 0; i < got.size(); ++i) {
    sums.difference += std::pow(double{got[i]} - want[i], 2), sums.reference += std::pow(double{want[i]}, 2);
    sums.kl += std::exp(want[i] - want_sum) * ((want[i] - want_sum) - (got[i] - got_sum));
  }
  sums.agreement += std::max_element(got.begin(), got.end()) - got.begin() == std::max_element(want.begin(), want.end()) - want.begin();
  sums.rows++;
}

// The precision with the same weights and unrounded activations.
std::string exact_precision(const std::string& precision) {
  return precision.rfind("w4", 0) == 0 ? "w4a32" : precision == "w8a8" ? "w8a8" : "f32";
}

}  // namespace

Result<json> check_model(device::Device& device, const std::string& path, uint32_t seed) {
  HEARTH_ASSIGN(const auto cpu, device::open_cpu_device(0));
  HEARTH_ASSIGN(const auto model, load(path, "auto", device));
  HEARTH_ASSIGN(const auto reference, load(path, exact_precision(model->info().precision), *cpu));
  const int vocabulary = std::min(model->info().vocabulary, reference->info().vocabulary);
  std::mt19937 random(seed);
  Sums sums;
  for (int w = 0; w < windows; ++w) {
    std::vector<int32_t> ids(window_tokens);
    for (auto& id : ids) id = static_cast<int32_t>(random() % static_cast<uint32_t>(vocabulary));
    HEARTH_ASSIGN(const std::vector<float> got, run(*model, ids));
    HEARTH_ASSIGN(const std::vector<float> want, run(*reference, ids));
    for (int row = 0; row < window_tokens; ++row) {
      const size_t stride_got = static_cast<size_t>(model->info().vocabulary), stride_want = static_cast<size_t>(reference->info().vocabulary);
      add_row(std::span(got).subspan(static_cast<size_t>(row) * stride_got, static_cast<size_t>(vocabulary)),
              std::span(want).subspan(static_cast<size_t>(row) * stride_want, static_cast<size_t>(vocabulary)), sums);
    }
  }
  const std::string precision = model->info().precision;
  const bool int8 = precision == "w4a8" || precision == "w8a8";
  const double kl = sums.kl / sums.rows, allowed = int8 ? kl_int8 : kl_16_bit;
  return json{{"path", path}, {"precision", precision}, {"against", "cpu " + reference->info().precision}, {"tokens", sums.rows},
              {"error", std::sqrt(sums.difference / std::max(sums.reference, 1e-30))}, {"kl", kl}, {"top1_agreement", sums.agreement / sums.rows},
              {"allowed_kl", allowed}, {"passed", std::isfinite(kl) && kl <= allowed}};
}

}  // namespace hearth::verify
