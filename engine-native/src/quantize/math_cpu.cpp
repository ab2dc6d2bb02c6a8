// Calibration's arithmetic on the CPU: f32, over a pool of threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>

#include "quantize/clip.h"
#include "quantize/compensate.h"
#include "quantize/gemm.h"
#include "quantize/math.h"
#include "quantize/rounding.h"

namespace hearth::quantize {

namespace {

float activate(ops::Activation kind, float x) {
  if (kind == ops::Activation::gelu_tanh) return 0.5f * x * (1.0f + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
  return x / (1.0f + std::exp(-x));
}

// exp over many rows is the softmax's cost; the pool splits heads, so plain loops do.
void softmax(float* row, int64_t from, int64_t to, int64_t length) {
  float largest = row[from];
  for (int64_t j = from; j < to; j++) largest = std::max(largest, row[j]);
  float sum = 0;
  for (int64_t j = from; j < to; j++) sum += row[j] = std::exp(row[j] - largest);
  for (int64_t j = 0; j < length; j++) row[j] = j < from || j >= to ? 0 : row[j] / sum;
}

class CpuMath final : public Math {
 public:
  explicit CpuMath(int threads) : pool_(threads) {}
  std::string name() const override { return "cpu"; }
  bool fast() const override { return false; }
  Status check() override { return Status::ok(); }
  ThreadPool& pool() override { return pool_; }

  Array upload(Array host) override { return host; }
  std::vector<float> download(const Array& x) override { return x.host; }

  Array multiply(const Array& x, const Array& w) override {
    Array y(x.rows, w.rows);
    quantize::multiply(pool_, {x.host.data(), x.rows, x.columns, x.columns}, {w.host.data(), w.rows, w.columns, w.columns}, y.host.data(), w.rows, false);
    return y;
  }

  std::vector<std::vector<float>> grams(const Array& x, int64_t window) override {
    std::vector<std::vector<float>> all(static_cast<size_t>((x.columns + window - 1) / window));
    each(static_cast<int64_t>(all.size()), [&](int64_t i) { all[static_cast<size_t>(i)] = gram(x, i * window, std::min(window, x.columns - i * window)); });
    return all;
  }

  Array norm(const Array& x, std::span<const float> weight, float epsilon) override {
    Array y(x.rows, x.columns);
    each_row(x.rows, [&](int64_t row) {
      const float* from = x.host.data() + row * x.columns;
      float* to = y.host.data() + row * x.columns;
      double sum = 0;
      for (int64_t i = 0; i < x.columns; i++) sum += double{from[i]} * from[i];
      const float scale = 1.0f / std::sqrt(static_cast<float>(sum / static_cast<double>(x.columns)) + epsilon);
      for (int64_t i = 0; i < x.columns; i++) to[i] = from[i] * scale * weight[static_cast<size_t>(i)];
    });
    return y;
  }

  void rotate(Array& x, const Rotation& r) override {
    each_row(x.rows, [&](int64_t row) {
      for (int head = 0; head < r.heads; head++) rotate_head(x.host.data() + (row * r.heads + head) * r.head_dim, static_cast<float>(row % r.length), r);
    });
  }

  Array attend(const Array& q, const Array& k, const Array& v, const AttentionShape& shape, const Tokens& tokens) override {
    Array out(q.rows, q.columns);
    each_row(tokens.sequences * shape.heads, [&](int64_t task) { attend_head(q, k, v, shape, tokens.length, task, out); });
    return out;
  }

  void gate(Array& gate, const Array& up, ops::Activation kind) override {
    each_row(gate.rows, [&](int64_t row) {
      for (int64_t i = row * gate.columns; i < (row + 1) * gate.columns; i++) {
        const size_t at = static_cast<size_t>(i);
        gate.host[at] = activate(kind, gate.host[at]) * up.host[at];
      }
    });
  }

  void add(Array& x, const Array& y) override {
    each_row(x.rows, [&](int64_t row) {
      for (int64_t i = row * x.columns; i < (row + 1) * x.columns; i++) x.host[static_cast<size_t>(i)] += y.host[static_cast<size_t>(i)];
    });
  }
  void add_row(Array& x, std::span<const float> row) override {
    each_element(x, [&](float& value, int64_t column) { value += row[static_cast<size_t>(column)]; });
  }
  void multiply_columns(Array& x, std::span<const float> factors) override {
    each_element(x, [&](float& value, int64_t column) { value *= factors[static_cast<size_t>(column)]; });
  }
  void divide_columns(Array& x, std::span<const float> factors) override {
    each_element(x, [&](float& value, int64_t column) { value /= factors[static_cast<size_t>(column)]; });
  }
  void divide_rows(Array& x, int64_t first, std::span<const float> factors) override {
    each_row(static_cast<int64_t>(factors.size()), [&](int64_t i) {
      float* row = x.host.data() + (first + i) * x.columns;
      for (int64_t k = 0; k < x.columns; k++) row[k] /= factors[static_cast<size_t>(i)];
    });
  }

  Array pick(const Array& x, std::span<const int64_t> rows) override {
    Array picked(static_cast<int64_t>(rows.size()), x.columns);
    each_row(picked.rows, [&](int64_t row) {
      const float* from = x.host.data() + rows[static_cast<size_t>(row)] * x.columns;
      std::copy(from, from + x.columns, picked.host.data() + row * x.columns);
    });
    return picked;
  }

  std::vector<float> mean_magnitude(const Array& x) override {
    std::vector<double> sums(static_cast<size_t>(x.columns));
    for (int64_t row = 0; row < x.rows; row++) {
      for (int64_t i = 0; i < x.columns; i++) sums[static_cast<size_t>(i)] += std::fabs(x.host[static_cast<size_t>(row * x.columns + i)]);
    }
    std::vector<float> mean(sums.size());
    for (size_t i = 0; i < sums.size(); i++) mean[i] = static_cast<float>(sums[i] / static_cast<double>(x.rows));
    return mean;
  }
  std::vector<float> largest_magnitude(const Array& x) override {
    std::vector<float> largest(static_cast<size_t>(x.columns));
    for (int64_t row = 0; row < x.rows; row++) {
      for (int64_t i = 0; i < x.columns; i++) {
        float& most = largest[static_cast<size_t>(i)];
        most = std::max(most, std::fabs(x.host[static_cast<size_t>(row * x.columns + i)]));
      }
    }
    return largest;
  }
  double sum_of_squares(const Array& x) override {
    return sum_rows(x, [](const float* row, int64_t count, int64_t) {
      double sum = 0;
      for (int64_t i = 0; i < count; i++) sum += double{row[i]} * row[i];
      return sum;
    });
  }
  double squared_distance(const Array& a, const Array& b) override {
    return sum_rows(a, [&](const float* row, int64_t count, int64_t at) {
      double sum = 0;
      for (int64_t i = 0; i < count; i++) {
        const double difference = double{row[i]} - b.host[static_cast<size_t>(at + i)];
        sum += difference * difference;
      }
      return sum;
    });
  }

  void round_int8(Array& x) override {
    each_row(x.rows, [&](int64_t row) {
      float* at = x.host.data() + row * x.columns;
      quantize::round_int8(at, x.columns, at);
    });
  }
  Array round_groups(const Array& w, int group, std::span<const float> scales) override {
    Array rounded(w.rows, w.columns);
    each_row(w.rows, [&](int64_t row) { round_row(w.host.data() + row * w.columns, w.columns, group, scales, rounded.host.data() + row * w.columns); });
    return rounded;
  }
  double clip(Weight& weight, const Array& inputs, int group) override { return clip_groups(pool_, weight, grams(inputs, group), group); }
  RoundingResult round_compensated(Weight& weight, const Inverse& inverse, int group, bool clip) override {
    return quantize::round_compensated(pool_, weight, inverse, group, clip);
  }

 private:
  // body(row) for all rows, over the pool.
  void each_row(int64_t rows, const std::function<void(int64_t)>& body) {
    pool_.parallel([&](int worker, int workers) {
      for (int64_t row = rows * worker / workers; row < rows * (worker + 1) / workers; row++) body(row);
    });
  }
  // The same for tasks of uneven size.
  void each(int64_t tasks, const std::function<void(int64_t)>& body) {
    std::atomic<int64_t> next{0};
    pool_.parallel([&](int, int) {
      for (int64_t i = next++; i < tasks; i = next++) body(i);
    });
  }
  template <class Body>
  void each_element(Array& x, const Body& body) {
    each_row(x.rows, [&](int64_t row) {
      for (int64_t i = 0; i < x.columns; i++) body(x.host[static_cast<size_t>(row * x.columns + i)], i);
    });
  }
  // Rows' sums added in order, so that threads change nothing.
  template <class Body>
  double sum_rows(const Array& x, const Body& body) {
    std::vector<double> sums(static_cast<size_t>(x.rows));
    each_row(x.rows, [&](int64_t row) { sums[static_cast<size_t>(row)] = body(x.host.data() + row * x.columns, x.columns, row * x.columns); });
    double total = 0;
    for (const double sum : sums) total += sum;
    return total;
  }

  static std::vector<float> gram(const Array& x, int64_t first, int64_t size) {
    std::vector<float> turned(static_cast<size_t>(size * x.rows)), products(static_cast<size_t>(size * size));
    for (int64_t row = 0; row < x.rows; row++) {
      for (int64_t k = 0; k < size; k++) turned[static_cast<size_t>(k * x.rows + row)] = x.host[static_cast<size_t>(row * x.columns + first + k)];
    }
    const Matrix columns{turned.data(), size, x.rows, x.rows};
    quantize::multiply(columns, columns, products.data(), size, false);
    return products;
  }

  static void rotate_head(float* at, float position, const Rotation& r) {
    const int64_t size = r.head_dim, half = static_cast<int64_t>(r.rope->inverse_frequency.size());
    if (!r.norm.empty()) {
      float sum = 0;
      for (int64_t i = 0; i < size; i++) sum += at[i] * at[i];
      const float scale = 1.0f / std::sqrt(sum / static_cast<float>(size) + r.norm_epsilon);
      for (int64_t i = 0; i < size; i++) at[i] *= scale * r.norm[static_cast<size_t>(i)];
    }
    for (int64_t i = 0; i < half; i++) {
      const float angle = position * r.rope->inverse_frequency[static_cast<size_t>(i)];
      const float c = std::cos(angle) * r.rope->amplitude, s = std::sin(angle) * r.rope->amplitude;
      const float a = at[i], b = at[i + half];
      at[i] = a * c - b * s;
      at[i + half] = b * c + a * s;
    }
  }

  static void attend_head(const Array& q, const Array& k, const Array& v, const AttentionShape& shape, int64_t length, int64_t task, Array& out) {
    const int64_t size = shape.head_dim, heads = shape.heads, kv_heads = shape.kv_heads;
    const int64_t sequence = task / heads, head = task % heads, kv_head = head / (heads / kv_heads), first = sequence * length;
    thread_local std::vector<float> scores, turned;
    scores.resize(static_cast<size_t>(length * length));
    turned.resize(static_cast<size_t>(size * length));
    quantize::multiply({q.host.data() + (first * heads + head) * size, length, size, heads * size},
                       {k.host.data() + (first * kv_heads + kv_head) * size, length, size, kv_heads * size}, scores.data(), length, false);
    for (int64_t i = 0; i < length; i++) {
      float* row = scores.data() + i * length;
      for (int64_t j = 0; j <= i; j++) row[j] *= shape.scale;
      softmax(row, shape.window > 0 ? std::max<int64_t>(0, i + 1 - shape.window) : 0, i + 1, length);
      for (int64_t d = 0; d < size; d++) turned[static_cast<size_t>(d * length + i)] = v.host[static_cast<size_t>(((first + i) * kv_heads + kv_head) * size + d)];
    }
    quantize::multiply({scores.data(), length, length, length}, {turned.data(), size, length, length},
                       out.host.data() + (first * heads + head) * size, heads * size, false);
  }

  ThreadPool pool_;
};

}  // namespace

std::unique_ptr<Math> make_cpu_math(int threads) { return std::make_unique<CpuMath>(threads); }

}  // namespace hearth::quantize
