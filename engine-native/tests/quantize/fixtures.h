// What the tests of quantising share: the small trained model, its loss in f32 whatever form its weights are in.
#pragma once

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "model/model_spec.h"
#include "quantize/calibration.h"
#include "quantize/ends.h"
#include "quantize/gemm.h"
#include "quantize/progress.h"
#include "support/temporary_folder.h"

namespace hearth::quantize {

// Logits [rows, vocabulary] over the first `tokens` of a text in windows of min(window, context) tokens, through
// BlockRunner: exact weights or whatever the checkpoint's stand for. int8: activations are rounded too.
struct Scores {
  std::vector<float> logits;
  std::vector<int32_t> ids;
  int64_t rows = 0, vocabulary = 0, length = 0;
};

inline Result<Scores> scores_of(const std::string& path, const std::string& text, int64_t tokens, bool int8 = false, int window = 512) {
  HEARTH_ASSIGN(const auto checkpoint, formats::Checkpoint::open(path));
  HEARTH_ASSIGN(const model::ModelSpec model, model::read_model_spec(*checkpoint));
  const model::DecoderSpec& spec = model.decoder;
  HEARTH_ASSIGN(const auto tokenizer, open_tokenizer(*checkpoint));
  HEARTH_ASSIGN(const Calibration calibration, read_calibration(*tokenizer, text, tokens, std::min(window, spec.context)));
  const std::unique_ptr<Math> math = make_cpu_math(2);
  BlockRunner runner(spec, *math);
  HEARTH_ASSIGN(Array x, embed(*checkpoint, spec, calibration.ids));
  for (size_t layer = 0; layer < spec.layers.size(); layer++) {
    HEARTH_ASSIGN(const Block block, read_block(*checkpoint, spec, static_cast<int>(layer), *math));
    runner.forward(block, calibration.tokens, x, nullptr, int8);
  }
  Scores scores{{}, calibration.ids, calibration.tokens.rows(), spec.vocabulary, calibration.tokens.length};
  HEARTH_ASSIGN(const std::vector<float> norm, checkpoint->floats("model.norm.weight", {{int64_t{spec.width}}}));
  HEARTH_ASSIGN(const std::vector<float> head, checkpoint->floats(spec.tied ? "model.embed_tokens.weight" : "lm_head.weight", {{int64_t{spec.vocabulary}, int64_t{spec.width}}}));
  const Array hidden = runner.norm(norm, x);
  scores.logits.resize(static_cast<size_t>(scores.rows * scores.vocabulary));
  multiply(math->pool(), {hidden.host.data(), scores.rows, spec.width, spec.width}, {head.data(), scores.vocabulary, spec.width, spec.width},
           scores.logits.data(), scores.vocabulary, false);
  return scores;
}

inline double log_sum_exp(const float* logits, int64_t count) {
  double largest = logits[0], sum = 0;
  for (int64_t i = 1; i < count; i++) largest = std::max(largest, double{logits[i]});
  for (int64_t i = 0; i < count; i++) sum += std::exp(logits[i] - largest);
  return largest + std::log(sum);
}

// Mean loss of the next token within each sequence.
inline double loss_of(const Scores& scores) {
  double total = 0, count = 0;
  for (int64_t row = 0; row + 1 < scores.rows; row++) {
    if (row % scores.length + 1 == scores.length) continue;
    const float* logits = scores.logits.data() + row * scores.vocabulary;
    total += log_sum_exp(logits, scores.vocabulary) - logits[scores.ids[static_cast<size_t>(row + 1)]];
    count++;
  }
  return total / count;
}

// Mean KL divergence of b's next-token distribution from a's: never negative, and zero only when nothing was lost.
inline double divergence(const Scores& a, const Scores& b) {
  double total = 0;
  for (int64_t row = 0; row < a.rows; row++) {
    const float *p = a.logits.data() + row * a.vocabulary, *q = b.logits.data() + row * b.vocabulary;
    const double sum_p = log_sum_exp(p, a.vocabulary), sum_q = log_sum_exp(q, b.vocabulary);
    for (int64_t i = 0; i < a.vocabulary; i++) total += std::exp(p[i] - sum_p) * ((p[i] - sum_p) - (q[i] - sum_q));
  }
  return total / static_cast<double>(a.rows);
}

// Keeps reports of whole layers as "quantize2"; never ends the job.
inline bool note_whole(const ProgressReport& report, std::vector<std::string>& stages) {
  if (report.done == std::floor(report.done)) stages.push_back(report.stage + std::to_string(static_cast<int>(report.done)));
  return true;
}

}  // namespace hearth::quantize
