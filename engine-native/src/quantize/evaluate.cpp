#include "quantize/evaluate.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <vector>

#include "model/model.h"
#include "model/model_spec.h"
#include "quantize/calibration.h"

namespace hearth::quantize {

using nlohmann::json;

namespace {

constexpr int window_max = 2048;

double log_sum_exp(const float* logits, int64_t count) {
  double largest = logits[0], sum = 0;
  for (int64_t i = 1; i < count; i++) largest = std::max(largest, double{logits[i]});
  for (int64_t i = 0; i < count; i++) sum += std::exp(logits[i] - largest);
  return largest + std::log(sum);
}

// A loaded model run over one sequence at a time, in chunks that fit its steps.
class Scorer {
 public:
  static Result<Scorer> load(const model::LoadOptions& options, device::Device& device) {
    Scorer scorer;
    HEARTH_ASSIGN(scorer.model_, model::Model::load(options, device));
    const int blocks = (scorer.model_->info().context + ops::kv_block_tokens - 1) / ops::kv_block_tokens;
    if (blocks > scorer.model_->info().kv_blocks) return Status(Code::out_of_memory, options.path + ": the window does not fit the KV pool");
    scorer.blocks_.resize(static_cast<size_t>(blocks));
    std::iota(scorer.blocks_.begin(), scorer.blocks_.end(), 0);
    return scorer;
  }
  const model::ModelInfo& info() const { return model_->info(); }
  int chunk() const { return std::min(model_->info().step_tokens, model_->max_logit_rows()); }

  // Logits [ids, vocabulary] of tokens [start, start + ids) of the window.
  Status run(std::span<const int32_t> ids, int start, std::vector<float>& logits) {
    const int count = static_cast<int>(ids.size()), used = (start + count + ops::kv_block_tokens - 1) / ops::kv_block_tokens;
    std::vector<int32_t> rows(ids.size());
    std::iota(rows.begin(), rows.end(), 0);
    model::SequenceRows sequence;
    sequence.slot = 0;
    sequence.start = start;
    sequence.count = count;
    sequence.prompt = start + count;
    sequence.blocks = std::span(blocks_).first(static_cast<size_t>(used));
    sequence.ids = ids;
    HEARTH_TRY(model_->forward({{&sequence, 1}, rows}));
    HEARTH_TRY(model_->device().stream().synchronize());
    logits.resize(ids.size() * static_cast<size_t>(info().vocabulary));
    HEARTH_TRY(model_->device().download(logits.data(), model_->logits(), logits.size() * sizeof(float)));
    return model_->device().stream().synchronize();
  }

 private:
  Scorer() = default;
  std::unique_ptr<model::Model> model_;
  std::vector<int32_t> blocks_;
};

struct Sums {
  double loss = 0, reference_loss = 0, divergence = 0, agreement = 0;
  int64_t tokens = 0;
};

int64_t best(const float* logits, int64_t count) { return std::max_element(logits, logits + count) - logits; }

void add_row(const float* logits, const float* reference, int64_t vocabulary, int32_t next, Sums& sums) {
  const double sum = log_sum_exp(logits, vocabulary);
  sums.loss += sum - logits[next];
  sums.tokens++;
  if (!reference) return;
  const double reference_sum = log_sum_exp(reference, vocabulary);
  sums.reference_loss += reference_sum - reference[next];
  sums.agreement += best(logits, vocabulary) == best(reference, vocabulary) ? 1 : 0;
  for (int64_t i = 0; i < vocabulary; i++) {
    const double p = reference[i] - reference_sum;
    sums.divergence += std::exp(p) * (p - (logits[i] - sum));
  }
}

class Evaluation {
 public:
  Evaluation(const EvaluateOptions& options, device::Device& device, const Progress& progress) : options_(options), device_(device), progress_(progress) {}

  Result<json> run() {
    HEARTH_TRY(check());
    HEARTH_TRY(read());
    HEARTH_TRY(load());
    const Clock clock;
    const int windows = static_cast<int>(ids_.size()) / window_;
    for (int w = 0; w < windows; w++) {
      HEARTH_TRY(score(std::span(ids_).subspan(static_cast<size_t>(w) * static_cast<size_t>(window_), static_cast<size_t>(window_))));
      if (progress_ && !progress_({"evaluate", double(w + 1), double(windows), clock.seconds_left(w + 1, windows), ""}))
        return Status(Code::cancelled, "evaluation cancelled");
    }
    return result(windows);
  }

 private:
  Status check() const {
    if (options_.path.empty() || options_.text.empty()) return invalid("evaluate needs a model and a text");
    if (options_.window < 0 || options_.window == 1 || options_.tokens < 0) return invalid("window must be at least 2 and tokens not negative");
    return Status::ok();
  }

  // Both models must spell the text alike; the window must fit both.
  Status read() {
    HEARTH_ASSIGN(const auto checkpoint, formats::Checkpoint::open(options_.path));
    HEARTH_ASSIGN(const auto tokenizer, open_tokenizer(*checkpoint));
    HEARTH_ASSIGN(const std::string text, read_text(options_.text));
    HEARTH_TRY(tokenizer->encode(text, {.add_special_tokens = true}, ids_));
    if (!options_.against.empty()) {
      HEARTH_ASSIGN(const auto other, formats::Checkpoint::open(options_.against));
      HEARTH_ASSIGN(const auto other_tokenizer, open_tokenizer(*other));
      std::vector<int32_t> other_ids;
      HEARTH_TRY(other_tokenizer->encode(text, {.add_special_tokens = true}, other_ids));
      if (other_ids != ids_) return invalid(options_.against + " tokenizes the text differently from " + options_.path + ": they cannot be compared");
    }
    if (options_.tokens > 0 && ids_.size() > static_cast<size_t>(options_.tokens)) ids_.resize(static_cast<size_t>(options_.tokens));
    return Status::ok();
  }

  Result<Scorer> open(model::LoadOptions load) {
    load.context = window_;
    load.max_sequences = 1;
    load.kv_tokens = window_;
    return Scorer::load(load, device_);
  }
  Result<Scorer> open_model() {
    model::LoadOptions load;
    load.path = options_.path;
    load.precision = options_.precision;
    load.group = options_.group;
    load.head_bits = options_.head_bits;
    load.kv = options_.kv;
    return open(load);
  }
  Result<Scorer> open_reference() {
    model::LoadOptions load;
    load.path = options_.against;
    load.precision = "none";
    return open(load);
  }

  // The published protocol's window, or the whole context of a model with less.
  Status load() {
    window_ = options_.window;
    if (window_ == 0) {
      HEARTH_ASSIGN(const auto checkpoint, formats::Checkpoint::open(options_.path));
      HEARTH_ASSIGN(const model::ModelSpec spec, model::read_model_spec(*checkpoint));
      const int64_t context = spec.decoder.context;
      window_ = static_cast<int>(std::clamp<int64_t>(context, 2, window_max));
    }
    if (static_cast<int>(ids_.size()) < window_)
      return invalid(options_.text + ": " + std::to_string(ids_.size()) + " tokens, fewer than one window of " +
                     std::to_string(window_));
    HEARTH_ASSIGN(Scorer model, open_model());
    model_ = std::make_unique<Scorer>(std::move(model));
    if (options_.against.empty()) return Status::ok();
    HEARTH_ASSIGN(Scorer reference, open_reference());
    reference_ = std::make_unique<Scorer>(std::move(reference));
    if (reference_->info().vocabulary != model_->info().vocabulary) return invalid("the models' vocabularies differ in size");
    return Status::ok();
  }

  Status score(std::span<const int32_t> window) {
    const int chunk = reference_ ? std::min(model_->chunk(), reference_->chunk()) : model_->chunk();
    const int64_t vocabulary = model_->info().vocabulary;
    for (int start = 0; start < window_; start += chunk) {
      const int count = std::min(chunk, window_ - start);
      const auto ids = window.subspan(static_cast<size_t>(start), static_cast<size_t>(count));
      const Clock clock;
      HEARTH_TRY(model_->run(ids, start, logits_));
      seconds_ += clock.seconds();
      if (reference_) HEARTH_TRY(reference_->run(ids, start, reference_logits_));
      for (int row = 0; row < count && start + row + 1 < window_; row++) {
        add_row(logits_.data() + row * vocabulary, reference_ ? reference_logits_.data() + row * vocabulary : nullptr, vocabulary,
                window[static_cast<size_t>(start + row + 1)], sums_);
      }
    }
    return Status::ok();
  }

  json result(int windows) const {
    const double tokens = static_cast<double>(sums_.tokens);
    json result{{"path", options_.path}, {"text", options_.text}, {"precision", model_->info().precision},
                {"kv", model_->info().kv}, {"windows", windows}, {"window", window_},
                {"tokens", sums_.tokens}, {"loss", sums_.loss / tokens}, {"perplexity", std::exp(sums_.loss / tokens)},
                {"tokens_per_second", double(windows) * window_ / seconds_}};
    if (reference_) {
      result["against"] = {{"path", options_.against}, {"precision", reference_->info().precision},
                           {"kv", reference_->info().kv}, {"loss", sums_.reference_loss / tokens},
                           {"perplexity", std::exp(sums_.reference_loss / tokens)}, {"kl", sums_.divergence / tokens},
                           {"top1_agreement", sums_.agreement / tokens}};
    }
    return result;
  }

  const EvaluateOptions& options_;
  device::Device& device_;
  const Progress& progress_;
  std::vector<int32_t> ids_;
  std::unique_ptr<Scorer> model_, reference_;
  std::vector<float> logits_, reference_logits_;
  int window_ = 0;
  double seconds_ = 0;
  Sums sums_;
};

}  // namespace

Result<json> evaluate(const EvaluateOptions& options, device::Device& device, const Progress& progress) {
  return Evaluation(options, device, progress).run();
}

}  // namespace hearth::quantize
