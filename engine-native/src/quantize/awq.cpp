#include "quantize/awq.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "quantize/compensate.h"

namespace hearth::quantize {

namespace {

constexpr int alpha_steps = 20;  // alpha = i / 20; 1.0 is never tried

using Outputs = std::function<Array(const std::vector<const Array*>&)>;

// Tries every alpha for linears that share an input; `outputs` computes what is compared, with weights in their place.
ScaleResult search_scales(Math& math, const std::string& pair, const Array& input, const std::vector<Weight*>& weights, int group, const Outputs& outputs) {
  std::vector<const Array*> places;
  for (const Weight* weight : weights) places.push_back(&weight->values);
  const Array exact = outputs(places);
  const double count = static_cast<double>(exact.size());
  const std::vector<float> mean = math.mean_magnitude(input);
  std::vector<Array> rounded(weights.size());
  ScaleResult best{.pair = pair, .alpha = 0, .loss_rounding = 0, .loss = std::numeric_limits<double>::infinity(),
                   .reference = math.sum_of_squares(exact) / count, .scales = std::vector<float>(mean.size(), 1.0f), .losses = {}};
  for (int i = 0; i < alpha_steps; i++) {
    const float alpha = static_cast<float>(i) / alpha_steps;
    const std::vector<float> scales = awq_scales(mean, alpha);
    for (size_t w = 0; w < weights.size(); w++) {
      rounded[w] = math.round_groups(weights[w]->values, group, scales);
      places[w] = &rounded[w];
    }
    const double loss = math.squared_distance(exact, outputs(places)) / count;
    best.losses.push_back(loss);
    if (i == 0) best.loss_rounding = loss;
    if (loss < best.loss) {
      best.alpha = alpha;
      best.loss = loss;
      best.scales = scales;
    }
  }
  return best;
}

// The norm is stored in FP16, so the scales used are those its rounded weights stand for: the function is unchanged.
void divide_norm(std::vector<float>& norm, std::vector<float>& scales) {
  for (size_t i = 0; i < norm.size(); i++) {
    const float divided = to_float(to_half(norm[i] / scales[i]));
    const float exact = norm[i] / divided;
    if (std::isfinite(exact) && exact > 0) scales[i] = exact;
    norm[i] = divided;
  }
}

// Rows spread evenly over all; none of a token's neighbours is needed where tokens do not see each other.
std::vector<int64_t> spread(int64_t rows, int64_t wanted) {
  std::vector<int64_t> picked(static_cast<size_t>(wanted));
  for (int64_t i = 0; i < wanted; i++) picked[static_cast<size_t>(i)] = i * rows / wanted;
  return picked;
}

// Rows of whole sequences, spread over all.
std::vector<int64_t> spread_sequences(const Tokens& from, const Tokens& to) {
  std::vector<int64_t> picked;
  for (int64_t i = 0; i < to.sequences; i++) {
    for (int64_t j = 0; j < from.length; j++) picked.push_back((i * from.sequences / to.sequences) * from.length + j);
  }
  return picked;
}

// A linear with `outputs` of its rows, spread evenly: its error is a mean over outputs, and some show what all do.
Weight some_outputs(Math& math, const Weight& weight, int64_t outputs) {
  const std::vector<int64_t> rows = spread(weight.out, outputs);
  Weight some{weight.module, outputs, weight.in, math.pick(weight.values, rows), {}, {}};
  for (const int64_t row : rows) {
    if (!weight.bias.empty()) some.bias.push_back(weight.bias[static_cast<size_t>(row)]);
  }
  return some;
}

class BlockSearch {
 public:
  BlockSearch(BlockRunner& runner, Block& block, const Tokens& tokens, Capture& capture, const AwqOptions& options)
      : runner_(runner), math_(runner.math()), block_(block), tokens_(tokens), capture_(capture), options_(options) {}

  AwqResult run() {
    AwqResult result;
    if (options_.scale) {
      search_pairs(result);
      const bool finite = std::ranges::all_of(result.pairs, [](const ScaleResult& pair) { return std::isfinite(pair.loss); });
      if (stopped_ || !finite) return result;  // nothing can be rounded that is no number
      apply(result);
    }
    if (options_.compensate) result.clipped = round_all();
    else if (options_.clip) result.clipped = clip_all();
    return result;
  }

 private:
  static constexpr double parts = 8;  // four searches, four roundings: about alike in time
  bool fits(const Weight& weight) const { return fits_grid(weight, options_.group); }

  // True when the caller wants no more.
  bool end_part() {
    done_++;
    stopped_ = stopped_ || (options_.step && !options_.step(done_ / parts));
    return stopped_;
  }

  // While it searches, o and down have only the outputs that are compared.
  void search_pairs(AwqResult& result) {
    Weight o, down;
    const bool less_o = limit_outputs(block_.o, o), less_down = limit_outputs(block_.down, down);
    search_attention(result);
    if (!stopped_) search_mlp(result);
    if (less_o) std::swap(block_.o, o);
    if (less_down) std::swap(block_.down, down);
  }

  // Leaves the whole linear in `whole` when there is more of it than is compared.
  bool limit_outputs(Weight& weight, Weight& whole) const {
    if (options_.search_outputs <= 0 || weight.out <= options_.search_outputs || !fits(weight)) return false;
    whole = std::move(weight);
    weight = some_outputs(math_, whole, options_.search_outputs);
    return true;
  }

  bool all_rows() const { return options_.search_rows <= 0 || options_.search_rows >= tokens_.rows(); }

  // The rows that are compared, or the whole of `x`.
  Array rows_of(const Array& x) { return all_rows() ? x : math_.pick(x, spread(x.rows, options_.search_rows)); }

  // Tokens see each other: whole sequences, two at least.
  void search_attention(AwqResult& result) {
    const int64_t wanted = all_rows() ? tokens_.sequences : std::max<int64_t>(2, options_.search_rows / tokens_.length);
    const Tokens part{std::min(wanted, tokens_.sequences), tokens_.length};
    Block& b = block_;
    if (fits(b.q) && fits(b.k)) {
      const Array input = part.rows() == tokens_.rows() ? capture_.attention_input : math_.pick(capture_.attention_input, spread_sequences(tokens_, part));
      result.pairs.push_back(search_scales(math_, "qkv", capture_.attention_input, {&b.q, &b.k, &b.v}, options_.group,
                                           [&](const auto& w) { return runner_.attention(b, part, input, *w[0], *w[1], *w[2]); }));
    }
    if (end_part()) return;
    if (fits(b.o) && b.v.out == b.o.in) search_linear(result, "o", b.o, capture_.output_input);  // not with grouped queries
    end_part();
  }

  void search_mlp(AwqResult& result) {
    Block& b = block_;
    if (fits(b.gate)) {
      const Array input = rows_of(capture_.mlp_input);
      result.pairs.push_back(search_scales(math_, "gate_up", capture_.mlp_input, {&b.gate, &b.up}, options_.group,
                                           [&](const auto& w) { return runner_.mlp(b, input, *w[0], *w[1]); }));
    }
    if (end_part()) return;
    if (fits(b.down)) search_linear(result, "down", b.down, capture_.down_input);
    end_part();
  }

  void search_linear(AwqResult& result, const std::string& pair, Weight& weight, const Array& captured) {
    const Array input = rows_of(captured);
    result.pairs.push_back(search_scales(math_, pair, captured, {&weight}, options_.group,
                                         [&](const auto& w) { return runner_.linear(weight, *w[0], input, false); }));
  }

  // All searches saw the layer as it was; only now do the scales go in.
  void apply(AwqResult& result) {
    for (ScaleResult& pair : result.pairs) {
      if (pair.pair == "qkv" || pair.pair == "gate_up") {
        const bool qkv = pair.pair == "qkv";
        divide_norm(qkv ? block_.input_norm : block_.post_norm, pair.scales);
        for (Weight* weight : qkv ? std::vector<Weight*>{&block_.q, &block_.k, &block_.v} : std::vector<Weight*>{&block_.gate, &block_.up}) {
          math_.multiply_columns(weight->values, pair.scales);
        }
        math_.divide_columns(qkv ? capture_.attention_input : capture_.mlp_input, pair.scales);
      } else {
        const bool o = pair.pair == "o";
        divide_rows(o ? block_.v : block_.up, pair.scales);
        math_.multiply_columns((o ? block_.o : block_.down).values, pair.scales);
        math_.divide_columns(o ? capture_.output_input : capture_.down_input, pair.scales);
      }
    }
  }

  // The last rows of `from`, as many as there are scales.
  void divide_rows(Weight& from, const std::vector<float>& scales) {
    const int64_t first = from.out - static_cast<int64_t>(scales.size());
    math_.divide_rows(from.values, first, scales);
    for (size_t i = 0; i < scales.size() && !from.bias.empty(); i++) from.bias[static_cast<size_t>(first) + i] /= scales[i];
  }

  double round_all() {
    const std::pair<std::vector<Weight*>, const Array*> linears[] = {
        {{&block_.q, &block_.k, &block_.v}, &capture_.attention_input}, {{&block_.o}, &capture_.output_input},
        {{&block_.gate, &block_.up}, &capture_.mlp_input}, {{&block_.down}, &capture_.down_input}};
    double changed = 0, groups = 0;
    for (const auto& [weights, input] : linears) {
      if (end_part()) break;
      if (!std::ranges::all_of(weights, [&](const Weight* weight) { return fits(*weight); })) continue;
      const Inverse inverse = invert_inputs(math_, *input, options_.group);
      for (Weight* weight : weights) {
        const bool clip = options_.clip && weight != &block_.q && weight != &block_.k;
        changed += math_.round_compensated(*weight, inverse, options_.group, clip).clipped;
        groups += static_cast<double>(weight->out * (weight->in / options_.group));
      }
    }
    return groups > 0 ? changed / groups : 0;
  }

  // Queries and keys are not clipped: their product is sensitive where single weights are not.
  double clip_all() {
    const std::pair<Weight*, const Array*> clipped[] = {
        {&block_.v, &capture_.attention_input}, {&block_.o, &capture_.output_input}, {&block_.gate, &capture_.mlp_input},
        {&block_.up, &capture_.mlp_input}, {&block_.down, &capture_.down_input}};
    double changed = 0, groups = 0;
    for (const auto& [weight, input] : clipped) {
      if (!fits(*weight)) continue;
      changed += math_.clip(*weight, *input, options_.group);
      groups += static_cast<double>(weight->out * (weight->in / options_.group));
    }
    return groups > 0 ? changed / groups : 0;
  }

  BlockRunner& runner_;
  Math& math_;
  Block& block_;
  const Tokens& tokens_;
  Capture& capture_;
  const AwqOptions& options_;
  double done_ = 0;
  bool stopped_ = false;
};

}  // namespace

std::vector<float> awq_scales(const std::vector<float>& mean, float alpha) {
  std::vector<float> scales(mean.size());
  for (size_t i = 0; i < mean.size(); i++) scales[i] = std::max(std::pow(mean[i], alpha), 1e-4f);
  const auto [low, high] = std::minmax_element(scales.begin(), scales.end());
  const float middle = std::sqrt(*low * *high);
  for (float& scale : scales) scale /= middle;
  return scales;
}

AwqResult search_awq(BlockRunner& runner, Block& block, const Tokens& tokens, Capture& capture, const AwqOptions& options) {
  return BlockSearch(runner, block, tokens, capture, options).run();
}

}  // namespace hearth::quantize
