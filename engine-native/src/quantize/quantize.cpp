#include "quantize/quantize.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <thread>

#include "formats/json_text.h"
#include "model/model_spec.h"
#include "quantize/awq.h"
#include "quantize/calibration.h"
#include "quantize/ends.h"
#include "quantize/output.h"
#include "quantize/report.h"
#include "quantize/smooth.h"
#include "quantize/stored_layer.h"

namespace hearth::quantize {

using nlohmann::json;

namespace {

constexpr int64_t search_outputs = 512;  // of o and down, compared by the scale search
constexpr int64_t error_rows = 128;  // tokens on which the report's errors are measured
constexpr float strengths[] = {-1, 0.3f, 0.4f, 0.5f, 0.6f, 0.7f, 0.8f, 0.9f};  // -1: no smoothing

class Quantizer {
 public:
  Quantizer(const QuantizeOptions& options, const Progress& progress)
      : options_(options), progress_(progress) {}
  Result<json> run();

 private:
  static int threads(int wanted) { return wanted > 0 ? wanted : std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }
  bool calibrated() const { return options_.method != "rtn"; }
  bool four_bits() const { return options_.method != "smoothquant"; }
  StoredForm form() const { return {four_bits(), options_.group}; }

  Status check_options() const;
  Status open();
  Result<std::unique_ptr<Math>> open_math() const;
  Status calibrate();
  Status hold_out(const tokenizer::Tokenizer& tokenizer);
  Status check_fit() const;
  json state() const;
  int64_t search_rows() const;
  Status report_progress(const char* stage, double done, double total, const Clock& clock);
  AwqOptions awq_options(int layer, Status& told);

  Status run_layers(OutputFolder& output);
  Result<json> run_layer(OutputFolder& output, Block block, Capture capture, const Array& held_input);
  json round_layer(const Block& block);
  Result<json> search_layer(Block& block, Capture& capture, const Array& held_input, json& report);
  Block rounded_block(const Block& block);
  double held_out_error(const Block& block, const Array& input);
  Status keep_what_holds(Block& block, AwqResult& result, const Array& input, double nearest, json& report);
  json measure(const Block& block, const Capture& capture, std::vector<Array>& exact);
  void measure_after(const Block& block, const Capture& capture, const AwqResult& result, const std::vector<Array>& exact, json& linears);
  double rounded_error(const Weight& weight, const Array& input, const Array& exact, std::span<const float> restore);
  double relative_error(const Array& values, const Array& exact);
  Status choose_strength();
  Status try_strengths(const Block& block, const Tokens& part, std::vector<Array>& tried, const Array& exact);
  Result<json> smooth_layer(OutputFolder& output, Block block);
  bool fits(const Weight& weight) const { return fits_grid(weight, options_.group); }
  json final_report(OutputFolder& output) const;

  const QuantizeOptions& options_;
  const Progress& progress_;
  std::unique_ptr<Math> math_;
  std::unique_ptr<formats::Checkpoint> checkpoint_;
  model::DecoderSpec spec_;
  std::optional<BlockRunner> runner_;
  Calibration calibration_;
  Array x_;  // hidden states of all calibration tokens
  Tokens held_;   // text that no search sees, none when the text is too short: what is found must hold on it
  Array held_x_;  // its hidden states
  std::optional<Clock> clock_;  // since the first layer that was not done before
  // smoothquant
  float strength_ = 0.5f;
  std::vector<ChannelRange> ranges_;
  std::vector<double> losses_;                 // of each strength
  std::vector<std::vector<double>> layer_errors_;  // [strength][layer]
  double exact_loss_ = 0;
};

Status Quantizer::check_options() const {
  if (options_.method != "awq" && options_.method != "rtn" && options_.method != "smoothquant") {
    return invalid("method '" + options_.method + "' is none of awq, smoothquant, rtn");
  }
  if (options_.rounding != "compensated" && options_.rounding != "nearest")
    return invalid("rounding '" + options_.rounding + "' is none of compensated, nearest");
  if (options_.device != "auto" && options_.device != "cpu" && options_.device != "cuda")
    return invalid("device '" + options_.device + "' is none of auto, cpu, cuda");
  if (options_.group != 32 && options_.group != 64 && options_.group != 128)
    return invalid("group " + std::to_string(options_.group) + " is none of 32, 64, 128");
  if (options_.tokens < 1 || options_.sequence < 2 || options_.search_tokens < 0 || options_.threads < 0)
    return invalid("tokens, sequence and threads must be positive");
  if (calibrated() && options_.calibrate.empty()) return invalid(options_.method + " needs a calibration text");
  return Status::ok();
}

Status Quantizer::open() {
  HEARTH_ASSIGN(checkpoint_, formats::Checkpoint::open(options_.path));
  if (checkpoint_->format() != "float") {
    return invalid(options_.path + " is stored as " + std::string(checkpoint_->format()) + ": serve it as it is; quantize starts from float weights in a Hugging Face folder");
  }
  HEARTH_ASSIGN(const model::ModelSpec spec, model::read_model_spec(*checkpoint_));
  spec_ = spec.decoder;
  if (calibrated()) HEARTH_TRY(check_supported(spec_));
  HEARTH_ASSIGN(math_, open_math());
  runner_.emplace(spec_, *math_);
  return check_fit();
}

// "auto": the GPU, where there is one and this build has kernels for it.
Result<std::unique_ptr<Math>> Quantizer::open_math() const {
  const int workers = threads(options_.threads);
  if (options_.device == "cpu" || !calibrated()) return make_cpu_math(workers);
  if (options_.device == "auto") {
    const Result<int> gpus = device::count_cuda_devices();
    if (!gpus || *gpus == 0) return make_cpu_math(workers);
  }
  HEARTH_ASSIGN(auto gpu, device::open_cuda_device(0, "", false));
  return make_cuda_math(std::move(gpu), workers);
}

// A group that divides nothing would leave the model as it is: say what would fit.
Status Quantizer::check_fit() const {
  if (!four_bits()) return Status::ok();
  const int64_t widths[] = {spec_.width, int64_t{spec_.heads} * spec_.head_dim, spec_.ffn};
  for (const int64_t width : widths) {
    if (width % options_.group == 0) return Status::ok();
  }
  for (const int group : {64, 32}) {
    for (const int64_t width : widths) {
      if (width % group == 0)
        return invalid("group " + std::to_string(options_.group) + " divides none of the model's widths; --group " +
                       std::to_string(group) + " does");
    }
  }
  return unsupported("no group of 128, 64 or 32 divides the model's widths");
}

Status Quantizer::calibrate() {
  if (!calibrated()) return Status::ok();
  HEARTH_ASSIGN(const auto tokenizer, open_tokenizer(*checkpoint_));
  const int64_t length = std::min<int64_t>(options_.sequence, spec_.context);
  HEARTH_ASSIGN(calibration_, read_calibration(*tokenizer, options_.calibrate, options_.tokens, length));
  if (options_.method == "awq") HEARTH_TRY(hold_out(*tokenizer));
  HEARTH_ASSIGN(Array x, embed(*checkpoint_, spec_, calibration_.ids));
  x_ = math_->upload(std::move(x));
  return Status::ok();
}

// An eighth of the text is held out: from behind what is searched on, or, where nothing is left there, from its end.
Status Quantizer::hold_out(const tokenizer::Tokenizer& tokenizer) {
  const Tokens all = calibration_.tokens;
  constexpr int64_t share = 8;
  const int64_t wanted = std::max<int64_t>(1, all.sequences / share);
  HEARTH_ASSIGN(Calibration more, read_calibration(tokenizer, options_.calibrate, (all.sequences + wanted) * all.length, all.length));
  const int64_t held = std::min(wanted, more.tokens.sequences > all.sequences ? more.tokens.sequences - all.sequences : all.sequences >= 2 ? wanted : 0);
  if (held == 0) return Status::ok();
  held_ = {held, all.length};
  const std::vector<int32_t> ids(more.ids.end() - held_.rows(), more.ids.end());
  calibration_.tokens.sequences = std::min(all.sequences, more.tokens.sequences - held);
  calibration_.ids.resize(static_cast<size_t>(calibration_.tokens.rows()));
  HEARTH_ASSIGN(Array x, embed(*checkpoint_, spec_, ids));
  held_x_ = math_->upload(std::move(x));
  return Status::ok();
}

// What an interrupted run must share with the one that goes on.
json Quantizer::state() const {
  return {{"source", options_.path}, {"method", options_.method}, {"group", options_.group}, {"tokens", calibration_.tokens.rows()},
          {"sequence", calibration_.tokens.length}, {"clip", options_.clip}, {"rounding", options_.rounding}, {"calibrate", options_.calibrate},
          {"search_tokens", options_.search_tokens}, {"layers", spec_.layers.size()}};
}

// The scale search compares outputs twenty times: on all tokens for small layers, on 512 for large ones.
int64_t Quantizer::search_rows() const {
  if (options_.search_tokens > 0) return options_.search_tokens;
  if (math_->fast()) return calibration_.tokens.rows();
  const double parameters = 3.0 * spec_.width * spec_.ffn + 2.0 * spec_.width * spec_.head_dim * (spec_.heads + spec_.kv_heads);
  constexpr double affordable = 8192.0 * 4e6;  // tokens times parameters of a layer
  const int64_t rows = static_cast<int64_t>(affordable / parameters);
  return std::max<int64_t>(rows, 512);
}

Status Quantizer::report_progress(const char* stage, double done, double total, const Clock& clock) {
  if (!progress_ || progress_({stage, done, total, clock.seconds_left(done, total), ""})) return Status::ok();
  return Status(Code::cancelled, "cancelled after " + std::to_string(static_cast<int>(done)) + " of " + std::to_string(static_cast<int>(total)) +
                                     " layers; the same command goes on from there");
}

// ---- 4 bits ----

const Array& input_of(const Capture& capture, size_t linear) {
  const Array* inputs[] = {&capture.attention_input, &capture.attention_input, &capture.attention_input, &capture.output_input,
                           &capture.mlp_input, &capture.mlp_input, &capture.down_input};
  return *inputs[linear];
}

double Quantizer::relative_error(const Array& values, const Array& exact) {
  const double size = math_->sum_of_squares(exact);
  return size > 0 ? math_->squared_distance(exact, values) / size : 0;
}

// Error of a linear's output over some tokens when its weights are rounded. `restore` multiplies output channels whose
// scale was moved to the next linear.
double Quantizer::rounded_error(const Weight& weight, const Array& input, const Array& exact, std::span<const float> restore) {
  if (!fits(weight)) return 0;
  Array y = weight.grid.empty() ? runner_->linear(weight, math_->round_groups(weight.values, options_.group, {}), input, false)
                                : runner_->linear(weight, weight.values, input, false);
  if (!restore.empty()) math_->multiply_columns(y, restore);
  return relative_error(y, exact);
}

std::vector<int64_t> first_rows(int64_t count) {
  std::vector<int64_t> rows(static_cast<size_t>(count));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

json Quantizer::measure(const Block& block, const Capture& capture, std::vector<Array>& exact) {
  json linears = json::array();
  const auto weights = block.weights();
  const std::vector<int64_t> rows = first_rows(std::min(error_rows, calibration_.tokens.rows()));
  for (size_t i = 0; i < weights.size(); i++) {
    const Array input = math_->pick(input_of(capture, i), rows);
    exact.push_back(runner_->linear(*weights[i], weights[i]->values, input, false));
    linears.push_back({{"module", weights[i]->module}, {"quantized", fits(*weights[i])},
                       {"error_rounding", rounded_error(*weights[i], input, exact.back(), {})}});
  }
  return linears;
}

void Quantizer::measure_after(const Block& block, const Capture& capture, const AwqResult& result, const std::vector<Array>& exact, json& linears) {
  const auto weights = block.weights();
  const std::vector<int64_t> rows = first_rows(exact[0].rows);
  for (size_t i = 0; i < weights.size(); i++) {
    std::span<const float> restore;
    for (const ScaleResult& pair : result.pairs) {
      if ((pair.pair == "o" && i == 2) || (pair.pair == "down" && i == 5)) restore = pair.scales;
    }
    linears[i]["error"] = rounded_error(*weights[i], math_->pick(input_of(capture, i), rows), exact[i], restore);
  }
}

// Mean over the layer's quantised linears.
double layer_error(const json& linears, const char* key) {
  double sum = 0, count = 0;
  for (const json& linear : linears) {
    if (!linear["quantized"].get<bool>()) continue;
    sum += linear[key].get<double>();
    count++;
  }
  return count > 0 ? sum / count : 0;
}

// As it will be stored: what is not on a grid yet, rounded to nearest.
Block Quantizer::rounded_block(const Block& block) {
  Block rounded = block;
  for (Weight* weight : rounded.weights()) {
    if (fits(*weight) && weight->grid.empty()) weight->values = math_->round_groups(weight->values, options_.group, {});
  }
  return rounded;
}

// Of the layer's output on the held-out text, for the inputs of the float model.
double Quantizer::held_out_error(const Block& block, const Array& input) {
  Array output = input;
  runner_->forward(rounded_block(block), held_, output, nullptr);
  return relative_error(output, held_x_);
}

// A search that fitted its own text only is undone: the layer is then rounded to nearest.
Status Quantizer::keep_what_holds(Block& block, AwqResult& result, const Array& input, double nearest, json& report) {
  const double found = held_out_error(block, input);
  const bool holds = found <= nearest;
  report["held_out"] = {{"error", holds ? found : nearest}, {"error_rounding", nearest}, {"error_searched", found}, {"kept", holds}};
  if (holds) return Status::ok();
  HEARTH_ASSIGN(block, read_block(*checkpoint_, spec_, block.index, *math_));
  result = {};
  return Status::ok();
}

// Rounded to nearest: the error of the weights, since there is no text.
json Quantizer::round_layer(const Block& block) {
  json linears = json::array();
  for (const Weight* weight : block.weights()) {
    const double error = fits(*weight) ? relative_error(math_->round_groups(weight->values, options_.group, {}), weight->values) : 0;
    linears.push_back({{"module", weight->module}, {"quantized", fits(*weight)}, {"error_rounding", error}, {"error", error}});
  }
  return linears;
}

// `told` becomes the status of the last progress report: cancelled, the search ends early.
AwqOptions Quantizer::awq_options(int layer, Status& told) {
  constexpr double search = 0.95;  // of a layer's time
  return {.group = options_.group, .scale = true, .clip = options_.clip, .compensate = options_.rounding == "compensated",
          .search_rows = search_rows(), .search_outputs = math_->fast() ? 0 : search_outputs, .step = [this, layer, &told](double share) {
            told = report_progress("quantize", layer + search * share, static_cast<double>(spec_.layers.size()), *clock_);
            return told.is_ok();
          }};
}

Result<json> Quantizer::search_layer(Block& block, Capture& capture, const Array& held_input, json& report) {
  std::vector<Array> exact;
  json linears = measure(block, capture, exact);
  const double nearest = held_.sequences > 0 ? held_out_error(block, held_input) : 0;
  Status told;
  AwqResult result = search_awq(*runner_, block, calibration_.tokens, capture, awq_options(block.index, told));
  HEARTH_TRY(told);
  if (!std::ranges::all_of(result.pairs, [](const ScaleResult& pair) { return std::isfinite(pair.loss); })) {
    return corrupt(options_.path + ": layer " + std::to_string(block.index) + " computes values that are not finite from the calibration text; its weights or those before it are damaged");
  }
  if (held_.sequences > 0) HEARTH_TRY(keep_what_holds(block, result, held_input, nearest, report));
  const bool kept = held_.sequences == 0 || report["held_out"]["kept"].get<bool>();
  if (kept) measure_after(block, capture, result, exact, linears);
  else for (json& linear : linears) linear["error"] = linear["error_rounding"];
  report["clipped"] = result.clipped;
  report["pairs"] = json::array();
  for (const ScaleResult& pair : result.pairs) {
    report["pairs"].push_back({{"pair", pair.pair}, {"alpha", pair.alpha}, {"loss", pair.loss},
                               {"loss_rounding", pair.loss_rounding}, {"mean_square", pair.reference}});
  }
  return linears;
}

Result<json> Quantizer::run_layer(OutputFolder& output, Block block, Capture capture, const Array& held_input) {
  json report{{"layer", block.index}}, linears;
  if (options_.method == "rtn") {
    linears = round_layer(block);
  } else {
    HEARTH_ASSIGN(linears, search_layer(block, capture, held_input, report));
  }
  report["error"] = layer_error(linears, "error");
  report["error_rounding"] = layer_error(linears, "error_rounding");
  report["linears"] = std::move(linears);
  HEARTH_TRY(math_->check());
  formats::SafetensorsWriter tensors;
  HEARTH_TRY(add_layer(tensors, output, block, spec_, form(), *math_));
  HEARTH_TRY(output.write_layer(block.index, tensors, report));
  return report;
}

// ---- smoothquant ----

Status Quantizer::try_strengths(const Block& block, const Tokens& part, std::vector<Array>& tried, const Array& exact) {
  const Array reference = math_->pick(exact, first_rows(part.rows()));
  for (size_t i = 0; i < std::size(strengths); i++) {
    Block smoothed = block;
    smooth_block(*math_, smoothed, ranges_.back(), strengths[i]);
    round_block_int8(*math_, smoothed);
    runner_->forward(smoothed, part, tried[i], nullptr, true);
    layer_errors_[i].push_back(relative_error(tried[i], reference));
  }
  return math_->check();
}

// Runs the model once exactly and once for each strength in step, layer by layer, and takes the strength with the
// lowest loss on the calibration text.
Status Quantizer::choose_strength() {
  const int64_t length = calibration_.tokens.length;
  const Tokens part{std::min(calibration_.tokens.sequences, std::max<int64_t>(1, search_rows() / 4 / length)), length};
  std::vector<Array> tried(std::size(strengths), math_->pick(x_, first_rows(part.rows())));
  layer_errors_.resize(std::size(strengths));
  const Clock clock;
  for (size_t layer = 0; layer < spec_.layers.size(); layer++) {
    HEARTH_ASSIGN(const Block block, read_block(*checkpoint_, spec_, static_cast<int>(layer), *math_));
    Capture capture;
    runner_->forward(block, calibration_.tokens, x_, &capture);
    ranges_.push_back({math_->largest_magnitude(capture.attention_input), math_->largest_magnitude(capture.mlp_input)});
    HEARTH_TRY(try_strengths(block, part, tried, x_));
    HEARTH_TRY(report_progress("calibrate", static_cast<double>(layer + 1), static_cast<double>(spec_.layers.size()), clock));
  }
  const std::span<const int32_t> ids(calibration_.ids.data(), static_cast<size_t>(part.rows()));
  x_ = math_->pick(x_, first_rows(part.rows()));
  HEARTH_ASSIGN(exact_loss_, mean_loss(*checkpoint_, spec_, *runner_, part, ids, x_));
  for (const auto& x : tried) {
    HEARTH_ASSIGN(const double loss, mean_loss(*checkpoint_, spec_, *runner_, part, ids, x));
    losses_.push_back(loss);
  }
  strength_ = strengths[std::min_element(losses_.begin(), losses_.end()) - losses_.begin()];
  return Status::ok();
}

Result<json> Quantizer::smooth_layer(OutputFolder& output, Block block) {
  const size_t chosen = static_cast<size_t>(std::find(std::begin(strengths), std::end(strengths), strength_) - std::begin(strengths));
  const size_t layer = static_cast<size_t>(block.index);
  smooth_block(*math_, block, ranges_[layer], strength_);
  const json report{{"layer", block.index}, {"error", layer_errors_[chosen][layer]}, {"error_rounding", layer_errors_[0][layer]}};
  HEARTH_TRY(math_->check());
  formats::SafetensorsWriter tensors;
  HEARTH_TRY(add_layer(tensors, output, block, spec_, form(), *math_));
  HEARTH_TRY(output.write_layer(block.index, tensors, report));
  return report;
}

// ---- output ----

json Quantizer::final_report(OutputFolder& output) const {
  json report{{"method", options_.method}, {"source", options_.path}, {"device", math_->name()}, {"layers", json::array()}};
  if (four_bits()) report["group"] = options_.group;
  if (options_.method == "awq") report["rounding"] = options_.rounding;
  if (calibrated()) report["calibration"] = {{"text", options_.calibrate}, {"tokens", calibration_.tokens.rows()}, {"sequence", calibration_.tokens.length}};
  json kept = json::array();
  for (size_t layer = 0; layer < spec_.layers.size(); layer++) {
    const json& one = *output.finished(static_cast<int>(layer));
    report["layers"].push_back(one);
    for (const json& linear : one.value("linears", json::array())) {
      if (!linear["quantized"].get<bool>()) kept.push_back(linear["module"]);
    }
  }
  report["kept_fp16"] = kept;
  if (four_bits()) return report;
  report["strength"] = strength_ < 0 ? json() : json(strength_);
  report["perplexity"] = std::exp(exact_loss_);
  report["strengths"] = json::array();
  for (size_t i = 0; i < losses_.size(); i++) {
    report["strengths"].push_back({{"strength", strengths[i] < 0 ? json() : json(strengths[i])}, {"perplexity", std::exp(losses_[i])}});
  }
  return report;
}

Status Quantizer::run_layers(OutputFolder& output) {
  const int layers = static_cast<int>(spec_.layers.size());
  int last_open = -1;
  for (int layer = 0; layer < layers; layer++) {
    if (!output.finished(layer)) last_open = layer;
  }
  for (int layer = 0; layer < layers; layer++) {
    if (output.finished(layer) && (layer > last_open || options_.method != "awq")) continue;  // later layers need its output
    if (!output.finished(layer) && !clock_) clock_.emplace(static_cast<double>(layer));
    HEARTH_ASSIGN(Block block, read_block(*checkpoint_, spec_, layer, *math_));
    Capture capture;
    Array held_input = held_x_;
    if (options_.method == "awq") runner_->forward(block, calibration_.tokens, x_, &capture);
    if (held_.sequences > 0) runner_->forward(block, held_, held_x_, nullptr);
    if (output.finished(layer)) {
      HEARTH_TRY(report_progress("resume", layer + 1, layers, Clock(layer + 1)));
      continue;
    }
    HEARTH_TRY((four_bits() ? run_layer(output, std::move(block), std::move(capture), held_input) : smooth_layer(output, std::move(block))).status());
    HEARTH_TRY(report_progress("quantize", layer + 1, layers, *clock_));
  }
  return Status::ok();
}

Result<json> Quantizer::run() {
  HEARTH_TRY(check_options());
  HEARTH_TRY(open());
  HEARTH_TRY(calibrate());
  HEARTH_ASSIGN(OutputFolder output, OutputFolder::open(*checkpoint_, options_.out, state()));
  if (options_.method == "smoothquant") HEARTH_TRY(choose_strength());
  HEARTH_TRY(run_layers(output));
  const json report = final_report(output);
  const double layers = static_cast<double>(spec_.layers.size());
  HEARTH_TRY(report_progress("write", layers, layers, Clock()));
  HEARTH_TRY(output.finish(stored_config(*checkpoint_, output, spec_, form()), report, draw_report(report)));
  return report;
}

}  // namespace

Result<json> quantize(const QuantizeOptions& options, const Progress& progress) { return Quantizer(options, progress).run(); }

}  // namespace hearth::quantize
