#include "quantize/ends.h"

#include <cmath>
#include <limits>

namespace hearth::quantize {

namespace {

Result<float> element(const formats::TensorView& view, int64_t at) {
  const std::byte* data = view.data.data();
  switch (view.type) {
    case DType::f32: { float v; __builtin_memcpy(&v, data + at * 4, 4); return v; }
    case DType::f16: { Half v; __builtin_memcpy(&v, data + at * 2, 2); return to_float(v); }
    case DType::bf16: { BFloat16 v; __builtin_memcpy(&v, data + at * 2, 2); return to_float(v); }
    default: return corrupt(view.file + ": tensor '" + view.name + "' is of no float type");
  }
}

Status read_rows(const formats::TensorView& view, int64_t first, int64_t rows, int64_t width, float* to) {
  for (int64_t i = 0; i < rows * width; i++) {
    HEARTH_ASSIGN(to[i], element(view, first * width + i));
  }
  return Status::ok();
}

// Running log-sum-exp and target logit of each row, over slices of the vocabulary.
struct RowLoss { double largest = -std::numeric_limits<double>::infinity(), sum = 0, target = 0; };

void add_slice(RowLoss& loss, const float* logits, int64_t first, int64_t count, int64_t target) {
  double largest = loss.largest;
  for (int64_t j = 0; j < count; j++) largest = std::max(largest, double{logits[j]});
  double sum = loss.sum * std::exp(loss.largest - largest);
  for (int64_t j = 0; j < count; j++) sum += std::exp(logits[j] - largest);
  loss.sum = sum;
  loss.largest = largest;
  if (target >= first && target < first + count) loss.target = logits[target - first];
}

}  // namespace

Result<Array> embed(const formats::Checkpoint& checkpoint, const model::DecoderSpec& spec, std::span<const int32_t> ids) {
  const int64_t width = spec.width;
  HEARTH_ASSIGN(const formats::TensorView* table, checkpoint.require("model.embed_tokens.weight", {{int64_t{spec.vocabulary}, width}}));
  Array x(static_cast<int64_t>(ids.size()), width);
  for (size_t i = 0; i < ids.size(); i++) {
    if (ids[i] < 0 || ids[i] >= spec.vocabulary)
      return corrupt(checkpoint.path() + ": the tokenizer gives token " + std::to_string(ids[i]) + ", the model has " +
                     std::to_string(spec.vocabulary));
    HEARTH_TRY(read_rows(*table, ids[i], 1, width, x.host.data() + i * static_cast<size_t>(width)));
  }
  for (float& value : x.host) value *= spec.embed_scale;
  return x;
}

Result<double> mean_loss(const formats::Checkpoint& checkpoint, const model::DecoderSpec& spec, BlockRunner& runner, const Tokens& tokens,
                         std::span<const int32_t> ids, const Array& x) {
  Math& math = runner.math();
  const int64_t width = spec.width, rows = tokens.rows(), vocabulary = spec.vocabulary;
  HEARTH_ASSIGN(const formats::TensorView* head,
                checkpoint.require(spec.tied ? "model.embed_tokens.weight" : "lm_head.weight", {{vocabulary, width}}));
  HEARTH_ASSIGN(std::vector<float> weight, checkpoint.floats("model.norm.weight", {{width}}));
  for (float& value : weight) value += spec.norm_offset;
  const Array hidden = runner.norm(weight, x);
  constexpr int64_t slice = 8192;
  std::vector<RowLoss> losses(static_cast<size_t>(rows));
  for (int64_t first = 0; first < vocabulary; first += slice) {
    Array values(std::min(slice, vocabulary - first), width);
    const int64_t count = values.rows;
    HEARTH_TRY(read_rows(*head, first, count, width, values.host.data()));
    const std::vector<float> logits = math.download(math.multiply(hidden, math.upload(std::move(values))));
    HEARTH_TRY(math.check());
    math.pool().parallel([&](int worker, int workers) {
      for (int64_t row = rows * worker / workers; row < rows * (worker + 1) / workers; row++) {
        if (row % tokens.length + 1 < tokens.length) add_slice(losses[static_cast<size_t>(row)], logits.data() + row * count, first, count, ids[static_cast<size_t>(row + 1)]);
      }
    });
  }
  double total = 0;
  for (int64_t row = 0; row < rows; row++) {
    const RowLoss& loss = losses[static_cast<size_t>(row)];
    if (row % tokens.length + 1 < tokens.length) total += std::log(loss.sum) + loss.largest - loss.target;
  }
  return total / static_cast<double>(tokens.sequences * (tokens.length - 1));
}

}  // namespace hearth::quantize
