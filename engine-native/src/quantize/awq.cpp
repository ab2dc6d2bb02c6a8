#include "quantize/awq.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>

#include "quantize/compensate.h"
#include "quantize/gemm.h"
#include "quantize/rounding.h"

namespace hearth::quantize {

namespace {

constexpr int alpha_steps = 20;  // alpha = i / 20; 1.0 is never tried
constexpr int clip_steps = 10;   // 1.00, 0.95, ... 0.55 of the largest weight

using Outputs = std::function<std::vector<float>(const std::vector<const float*>&)>;

std::vector<float> mean_magnitude(const std::vector<float>& x, int64_t width) {
  std::vector<double> sums(static_cast<size_t>(width));
  const int64_t rows = static_cast<int64_t>(x.size()) / width;
  for (int64_t row = 0; row < rows; row++) {
    for (int64_t i = 0; i < width; i++) sums[static_cast<size_t>(i)] += std::fabs(x[static_cast<size_t>(row * width + i)]);
  }
  std::vector<float> mean(sums.size());
  for (size_t i = 0; i < sums.size(); i++) mean[i] = static_cast<float>(sums[i] / static_cast<double>(rows));
  return mean;
}

double mean_square_error(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); i++) {
    const double difference = double{a[i]} - b[i];
    sum += difference * difference;
  }
  return sum / static_cast<double>(a.size());
}

double mean_square(const std::vector<float>& a) {
  double sum = 0;
  for (const float value : a) sum += double{value} * value;
  return sum / static_cast<double>(a.size());
}

void round_weight(ThreadPool& pool, const Weight& weight, int group, std::span<const float> scales, std::vector<float>& to) {
  to.resize(weight.values.size());
  pool.parallel([&](int worker, int workers) {
    for (int64_t row = weight.out * worker / workers; row < weight.out * (worker + 1) / workers; row++) {
      round_row(weight.values.data() + row * weight.in, weight.in, group, scales, to.data() + row * weight.in);
    }
  });
}

// Tries every alpha for linears that share an input; `outputs` computes what is compared, with weights in their place.
ScaleResult search_scales(ThreadPool& pool, const std::string& pair, const std::vector<float>& input, const std::vector<Weight*>& weights,
                          int group, const Outputs& outputs) {
  std::vector<const float*> pointers;
  for (const Weight* weight : weights) pointers.push_back(weight->values.data());
  const std::vector<float> exact = outputs(pointers);
  const std::vector<float> mean = mean_magnitude(input, weights[0]->in);
  std::vector<std::vector<float>> rounded(weights.size());
  ScaleResult best{.pair = pair, .alpha = 0, .loss_rounding = 0, .loss = std::numeric_limits<double>::infinity(), .reference = mean_square(exact), .scales = {}, .losses = {}};
  for (int i = 0; i < alpha_steps; i++) {
    const float alpha = static_cast<float>(i) / alpha_steps;
    const std::vector<float> scales = awq_scales(mean, alpha);
    for (size_t w = 0; w < weights.size(); w++) {
      round_weight(pool, *weights[w], group, scales, rounded[w]);
      pointers[w] = rounded[w].data();
    }
    const double loss = mean_square_error(exact, outputs(pointers));
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

void scale_columns(Weight& weight, const std::vector<float>& scales) {
  for (size_t row = 0; row < weight.values.size(); row += scales.size()) {
    for (size_t k = 0; k < scales.size(); k++) weight.values[row + k] *= scales[k];
  }
}

void divide_columns(std::vector<float>& x, const std::vector<float>& scales) {
  for (size_t row = 0; row < x.size(); row += scales.size()) {
    for (size_t k = 0; k < scales.size(); k++) x[row + k] /= scales[k];
  }
}

// The last rows of `from`, as many as there are scales.
void divide_rows(Weight& from, const std::vector<float>& scales) {
  const int64_t first = from.out - static_cast<int64_t>(scales.size());
  for (size_t i = 0; i < scales.size(); i++) {
    float* row = from.values.data() + (first + static_cast<int64_t>(i)) * from.in;
    for (int64_t k = 0; k < from.in; k++) row[k] /= scales[i];
    if (!from.bias.empty()) from.bias[static_cast<size_t>(first) + i] /= scales[i];
  }
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
std::vector<float> spread_rows(const std::vector<float>& x, int64_t width, int64_t wanted) {
  const int64_t rows = static_cast<int64_t>(x.size()) / width;
  std::vector<float> picked;
  picked.reserve(static_cast<size_t>(wanted * width));
  for (int64_t i = 0; i < wanted; i++) {
    const auto begin = x.begin() + i * rows / wanted * width;
    picked.insert(picked.end(), begin, begin + width);
  }
  return picked;
}

// Rows of whole sequences, spread over all.
std::vector<float> pick_rows(const std::vector<float>& x, int64_t width, const Tokens& from, const Tokens& to) {
  std::vector<float> picked;
  picked.reserve(static_cast<size_t>(to.rows() * width));
  for (int64_t i = 0; i < to.sequences; i++) {
    const auto begin = x.begin() + (i * from.sequences / to.sequences) * from.length * width;
    picked.insert(picked.end(), begin, begin + from.length * width);
  }
  return picked;
}

// A linear with `outputs` of its rows, spread evenly: its error is a mean over outputs, and some show what all do.
Weight some_outputs(const Weight& weight, int64_t outputs) {
  Weight some{weight.module, outputs, weight.in, {}, {}, {}};
  some.values.reserve(static_cast<size_t>(outputs * weight.in));
  for (int64_t i = 0; i < outputs; i++) {
    const int64_t row = i * weight.out / outputs;
    const auto begin = weight.values.begin() + row * weight.in;
    some.values.insert(some.values.end(), begin, begin + weight.in);
    if (!weight.bias.empty()) some.bias.push_back(weight.bias[static_cast<size_t>(row)]);
  }
  return some;
}

class BlockSearch {
 public:
  BlockSearch(BlockRunner& runner, ThreadPool& pool, Block& block, const Tokens& tokens, Capture& capture, const AwqOptions& options)
      : runner_(runner), pool_(pool), block_(block), tokens_(tokens), capture_(capture), options_(options) {}

  AwqResult run() {
    AwqResult result;
    if (options_.scale) {
      search_pairs(result);
      apply(result);
    }
    if (options_.compensate) result.clipped = round_all();
    else if (options_.clip) result.clipped = clip_all();
    return result;
  }

 private:
  bool fits(const Weight& weight) const { return fits_grid(weight, options_.group); }

  // While it searches, o and down have only the outputs that are compared.
  void search_pairs(AwqResult& result) {
    Weight o, down;
    const bool less_o = limit_outputs(block_.o, o), less_down = limit_outputs(block_.down, down);
    search_attention(result);
    search_mlp(result);
    if (less_o) std::swap(block_.o, o);
    if (less_down) std::swap(block_.down, down);
  }

  // Leaves the whole linear in `whole` when there is more of it than is compared.
  bool limit_outputs(Weight& weight, Weight& whole) const {
    if (options_.search_outputs <= 0 || weight.out <= options_.search_outputs || !fits(weight)) return false;
    whole = std::move(weight);
    weight = some_outputs(whole, options_.search_outputs);
    return true;
  }

  bool all_rows() const { return options_.search_rows <= 0 || options_.search_rows >= tokens_.rows(); }

  // Tokens see each other: whole sequences, two at least.
  void search_attention(AwqResult& result) {
    const int64_t wanted = all_rows() ? tokens_.sequences : std::max<int64_t>(2, options_.search_rows / tokens_.length);
    const Tokens part{std::min(wanted, tokens_.sequences), tokens_.length};
    Block& b = block_;
    if (fits(b.q) && fits(b.k)) {
      const auto input = pick_rows(capture_.attention_input, b.q.in, tokens_, part);
      result.pairs.push_back(search_scales(pool_, "qkv", capture_.attention_input, {&b.q, &b.k, &b.v}, options_.group,
                                           [&](const auto& w) { return runner_.attention(b, part, input.data(), w[0], w[1], w[2]); }));
    }
    if (fits(b.o) && b.v.out == b.o.in) search_linear(result, "o", b.o, capture_.output_input);  // not with grouped queries
  }

  void search_mlp(AwqResult& result) {
    const int64_t rows = all_rows() ? tokens_.rows() : options_.search_rows;
    Block& b = block_;
    if (fits(b.gate)) {
      const auto input = spread_rows(capture_.mlp_input, b.gate.in, rows);
      result.pairs.push_back(search_scales(pool_, "gate_up", capture_.mlp_input, {&b.gate, &b.up}, options_.group,
                                           [&](const auto& w) { return runner_.mlp(b, rows, input.data(), w[0], w[1]); }));
    }
    if (fits(b.down)) search_linear(result, "down", b.down, capture_.down_input);
  }

  void search_linear(AwqResult& result, const std::string& pair, Weight& weight, const std::vector<float>& captured) {
    const int64_t rows = all_rows() ? tokens_.rows() : options_.search_rows;
    const auto input = spread_rows(captured, weight.in, rows);
    result.pairs.push_back(search_scales(pool_, pair, captured, {&weight}, options_.group,
                                         [&](const auto& w) { return runner_.linear(weight, w[0], input.data(), rows, false); }));
  }

  // All searches saw the layer as it was; only now do the scales go in.
  void apply(AwqResult& result) {
    for (ScaleResult& pair : result.pairs) {
      if (pair.pair == "qkv" || pair.pair == "gate_up") {
        const bool qkv = pair.pair == "qkv";
        divide_norm(qkv ? block_.input_norm : block_.post_norm, pair.scales);
        for (Weight* weight : qkv ? std::vector<Weight*>{&block_.q, &block_.k, &block_.v} : std::vector<Weight*>{&block_.gate, &block_.up}) {
          scale_columns(*weight, pair.scales);
        }
        divide_columns(qkv ? capture_.attention_input : capture_.mlp_input, pair.scales);
      } else {
        const bool o = pair.pair == "o";
        divide_rows(o ? block_.v : block_.up, pair.scales);
        scale_columns(o ? block_.o : block_.down, pair.scales);
        divide_columns(o ? capture_.output_input : capture_.down_input, pair.scales);
      }
    }
  }

  double round_all() {
    const std::pair<std::vector<Weight*>, const std::vector<float>*> linears[] = {
        {{&block_.q, &block_.k, &block_.v}, &capture_.attention_input}, {{&block_.o}, &capture_.output_input},
        {{&block_.gate, &block_.up}, &capture_.mlp_input}, {{&block_.down}, &capture_.down_input}};
    double changed = 0, groups = 0;
    for (const auto& [weights, input] : linears) {
      if (!std::ranges::all_of(weights, [&](const Weight* weight) { return fits(*weight); })) continue;
      const Inverse inverse = invert_inputs(pool_, *input, weights[0]->in, options_.group);
      for (Weight* weight : weights) {
        const bool clip = options_.clip && weight != &block_.q && weight != &block_.k;
        changed += round_compensated(pool_, *weight, inverse, options_.group, clip).clipped;
        groups += static_cast<double>(weight->out * (weight->in / options_.group));
      }
    }
    return groups > 0 ? changed / groups : 0;
  }

  // Queries and keys are not clipped: their product is sensitive where single weights are not.
  double clip_all() {
    const std::pair<Weight*, const std::vector<float>*> clipped[] = {
        {&block_.v, &capture_.attention_input}, {&block_.o, &capture_.output_input}, {&block_.gate, &capture_.mlp_input},
        {&block_.up, &capture_.mlp_input}, {&block_.down, &capture_.down_input}};
    double changed = 0, groups = 0;
    for (const auto& [weight, input] : clipped) {
      if (!fits(*weight)) continue;
      changed += clip(*weight, *input);
      groups += static_cast<double>(weight->out * (weight->in / options_.group));
    }
    return groups > 0 ? changed / groups : 0;
  }

  double clip(Weight& weight, const std::vector<float>& input) {
    const int64_t groups = weight.in / options_.group;
    std::atomic<int64_t> next{0}, changed{0};
    pool_.parallel([&](int, int) {
      for (int64_t g = next++; g < groups; g = next++) changed += clip_group(weight, input, g);
    });
    return static_cast<double>(changed);
  }

  // Over all tokens the error of a row's group is d H dᵀ, where d is the change of its weights and H = XᵀX of the
  // group's columns: the tokens are summed once instead of for every candidate.
  int64_t clip_group(Weight& weight, const std::vector<float>& input, int64_t g) {
    const int64_t size = options_.group, rows = static_cast<int64_t>(input.size()) / weight.in;
    std::vector<float> turned(static_cast<size_t>(size * rows)), gram(static_cast<size_t>(size * size));
    for (int64_t row = 0; row < rows; row++) {
      for (int64_t k = 0; k < size; k++) turned[static_cast<size_t>(k * rows + row)] = input[static_cast<size_t>(row * weight.in + g * size + k)];
    }
    const Matrix columns{turned.data(), size, rows, rows};
    multiply(columns, columns, gram.data(), size, false);
    int64_t changed = 0;
    constexpr int64_t batch = 64;
    for (int64_t begin = 0; begin < weight.out; begin += batch) {
      changed += clip_rows(weight, g, begin, std::min(weight.out, begin + batch), gram);
    }
    return changed;
  }

  int64_t clip_rows(Weight& weight, int64_t g, int64_t begin, int64_t end, const std::vector<float>& gram) {
    const int64_t size = options_.group, rows = end - begin;
    std::vector<float> change(static_cast<size_t>(rows * size)), product(change.size());
    std::vector<double> best(static_cast<size_t>(rows), std::numeric_limits<double>::infinity());
    std::vector<float> limit(static_cast<size_t>(rows));
    std::vector<float> clamped(static_cast<size_t>(size));
    const auto at = [&](int64_t row) { return weight.values.data() + (begin + row) * weight.in + g * size; };
    for (int step = 0; step < clip_steps; step++) {
      const float part = 1.0f - static_cast<float>(step) / 20.0f;
      for (int64_t row = 0; row < rows; row++) {
        const float* w = at(row);
        const float m = part * largest(w, size);
        for (int64_t k = 0; k < size; k++) clamped[static_cast<size_t>(k)] = std::clamp(w[k], -m, m);
        float* d = change.data() + row * size;
        round_group(clamped.data(), static_cast<int>(size), d);
        for (int64_t k = 0; k < size; k++) d[k] -= w[k];
      }
      multiply({change.data(), rows, size, size}, {gram.data(), size, size, size}, product.data(), size, false);
      for (int64_t row = 0; row < rows; row++) {
        double error = 0;
        for (int64_t k = row * size; k < (row + 1) * size; k++) error += double{change[static_cast<size_t>(k)]} * product[static_cast<size_t>(k)];
        if (error < best[static_cast<size_t>(row)]) {
          best[static_cast<size_t>(row)] = error;
          limit[static_cast<size_t>(row)] = part;
        }
      }
    }
    return clamp_rows(at, rows, limit);
  }

  template <class At>
  int64_t clamp_rows(const At& at, int64_t rows, const std::vector<float>& limit) {
    int64_t changed = 0;
    for (int64_t row = 0; row < rows; row++) {
      if (limit[static_cast<size_t>(row)] >= 1 || limit[static_cast<size_t>(row)] <= 0) continue;
      changed++;
      const float m = limit[static_cast<size_t>(row)] * largest(at(row), options_.group);
      for (int64_t k = 0; k < options_.group; k++) at(row)[k] = std::clamp(at(row)[k], -m, m);
    }
    return changed;
  }

  static float largest(const float* w, int64_t size) {
    float most = 0;
    for (int64_t k = 0; k < size; k++) most = std::max(most, std::fabs(w[k]));
    return most;
  }

  BlockRunner& runner_;
  ThreadPool& pool_;
  Block& block_;
  const Tokens& tokens_;
  Capture& capture_;
  const AwqOptions& options_;
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

AwqResult search_awq(BlockRunner& runner, ThreadPool& pool, Block& block, const Tokens& tokens, Capture& capture, const AwqOptions& options) {
  return BlockSearch(runner, pool, block, tokens, capture, options).run();
}

}  // namespace hearth::quantize
