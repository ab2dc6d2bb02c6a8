#include "quantize/compensate.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "core/clones.h"
#include "core/dtype.h"
#include "quantize/clip.h"

namespace hearth::quantize {

namespace {

constexpr double damping = 0.01;      // of the mean diagonal, added to it
constexpr int64_t lanes = 16;         // rows rounded side by side
using Lanes = float __attribute__((vector_size(lanes * sizeof(float)), aligned(16), may_alias));
using Doubles = double __attribute__((vector_size(64), aligned(8)));
constexpr int64_t doubles = 8;

HEARTH_CLONES double dot(const double* a, const double* b, int64_t count) {
  Doubles sums{};
  int64_t i = 0;
  for (; i + doubles <= count; i += doubles) sums += *reinterpret_cast<const Doubles*>(a + i) * *reinterpret_cast<const Doubles*>(b + i);
  double sum = 0;
  for (int64_t lane = 0; lane < doubles; lane++) sum += sums[lane];
  for (; i < count; i++) sum += a[i] * b[i];
  return sum;
}

HEARTH_CLONES void subtract(double factor, const double* from, int64_t count, double* to) {
  for (int64_t i = 0; i < count; i++) to[i] -= factor * from[i];
}

// h [n, n] symmetric positive definite becomes upper triangular R with h = R Rᵀ; false when it is not definite.
bool factor_upper(std::vector<double>& h, int64_t n) {
  const auto row = [&](int64_t i) { return h.data() + i * n; };
  for (int64_t j = n - 1; j >= 0; j--) {
    const double pivot = row(j)[j] - dot(row(j) + j + 1, row(j) + j + 1, n - 1 - j);
    if (!(pivot > 0)) return false;
    row(j)[j] = std::sqrt(pivot);
    for (int64_t i = 0; i < j; i++) row(i)[j] = (row(i)[j] - dot(row(i) + j + 1, row(j) + j + 1, n - 1 - j)) / row(j)[j];
  }
  return true;
}

// U = R⁻¹, upper triangular.
std::vector<float> invert_upper(const std::vector<double>& r, int64_t n) {
  std::vector<double> u(r.size());
  for (int64_t i = n - 1; i >= 0; i--) {
    double* row = u.data() + i * n;
    row[i] = 1;
    for (int64_t k = i + 1; k < n; k++) subtract(r[static_cast<size_t>(i * n + k)], u.data() + k * n + k, n - k, row + k);
    for (int64_t k = i; k < n; k++) row[k] /= r[static_cast<size_t>(i * n + i)];
  }
  return std::vector<float>(u.begin(), u.end());
}

// U of a gram, damped until it can be inverted: inputs that never differ have a singular H.
std::vector<float> invert_gram(const std::vector<float>& gram, int64_t n) {
  double mean = 0;
  for (int64_t i = 0; i < n; i++) mean += gram[static_cast<size_t>(i * n + i)] / static_cast<double>(n);
  if (!(mean > 0)) mean = 1;
  for (double part = damping;; part *= 10) {
    std::vector<double> h(gram.begin(), gram.end());
    for (int64_t i = 0; i < n; i++) h[static_cast<size_t>(i * n + i)] += part * mean;
    if (factor_upper(h, n)) return invert_upper(h, n);
  }
}

// Lanes in a row, aligned as `new` aligns: a std::vector of Lanes would forget that attribute.
class LaneArray {
 public:
  explicit LaneArray(int64_t size) : values_(static_cast<size_t>(size * lanes)) {}
  Lanes* data() { return reinterpret_cast<Lanes*>(values_.data()); }
  Lanes& operator[](int64_t i) { return data()[i]; }

 private:
  std::vector<float> values_;
};

struct Rows {  // sixteen rows of a window side by side
  LaneArray w, error, codes;                  // [size]
  LaneArray scales, zeros;                    // [size / group]
  LaneArray tried, tried_error, tried_codes;  // [group]
  Lanes loss{}, narrowed{};
  Rows(int64_t size, int64_t group)
      : w(size), error(size), codes(size), scales(size / group), zeros(size / group), tried(group), tried_error(group), tried_codes(group) {}
};

// One group with a given code; the losses of its sixteen rows are added to `loss`.
HEARTH_CLONES void try_group(const float* upper, int64_t n, int64_t group, const Lanes& scale, const Lanes& zero, Lanes* w, Lanes* error,
                             Lanes* codes, Lanes& loss) {
  constexpr float magic = 12582912.0f;  // rounds to the nearest integer, ties to even
  const Lanes inverse = 1.0f / scale;
  const Lanes none{}, most = none + 15.0f;
  for (int64_t j = 0; j < group; j++) {
    const float* row = upper + j * n;
    Lanes q = (w[j] * inverse + magic) - magic + zero;
    q = q < none ? none : q;
    q = q > most ? most : q;
    const Lanes e = (w[j] - (q - zero) * scale) / row[j];
    loss += e * e;
    codes[j] = q;
    error[j] = e;
    for (int64_t k = j + 1; k < group; k++) w[k] -= e * row[k];
  }
}

// The columns after a group take over what its rounding left.
HEARTH_CLONES void push_errors(const float* upper, int64_t n, int64_t group, const Lanes* error, int64_t count, Lanes* w) {
  constexpr int64_t tile = 4;
  int64_t k = 0;
  for (; k + tile <= count; k += tile) {
    Lanes sums[tile] = {w[k], w[k + 1], w[k + 2], w[k + 3]};
    for (int64_t j = 0; j < group; j++) {
      const float* row = upper + j * n + k;
      for (int64_t i = 0; i < tile; i++) sums[i] -= error[j] * row[i];
    }
    for (int64_t i = 0; i < tile; i++) w[k + i] = sums[i];
  }
  for (; k < count; k++) {
    for (int64_t j = 0; j < group; j++) w[k] -= error[j] * upper[j * n + k];
  }
}

// The code of a range; it holds 0, so that no weight is far from the nearest step.
void make_codes(const Lanes& low, const Lanes& high, float part, Lanes& scale, Lanes& zero) {
  for (int64_t i = 0; i < lanes; i++) {
    const float limit = part * std::max(std::fabs(low[i]), std::fabs(high[i]));
    const float least = std::min(std::max(low[i], -limit), 0.0f), most = std::max(std::min(high[i], limit), 0.0f);
    scale[i] = to_float(to_half(std::max(most - least, 1e-5f) / 15.0f));
    zero[i] = std::clamp(-std::nearbyint(least / scale[i]), 0.0f, 15.0f);
  }
}

void round_group(const Inverse::Window& window, int64_t first, int64_t group, int steps, Rows& rows) {
  const int64_t n = window.size;
  Lanes* w = rows.w.data() + first;
  Lanes low = w[0], high = w[0], best{};
  for (int64_t j = 1; j < group; j++) {
    low = w[j] < low ? w[j] : low;
    high = w[j] > high ? w[j] : high;
  }
  const float* upper = window.upper.host.data() + first * n + first;
  Lanes& chosen_scale = rows.scales[first / group];
  Lanes& chosen_zero = rows.zeros[first / group];
  Lanes narrowed{};
  best += std::numeric_limits<float>::infinity();
  for (int step = 0; step < steps; step++) {
    Lanes scale{}, zero{}, loss{};
    make_codes(low, high, 1.0f - static_cast<float>(step) / 20.0f, scale, zero);
    std::copy(w, w + group, rows.tried.data());
    try_group(upper, n, group, scale, zero, rows.tried.data(), rows.tried_error.data(), rows.tried_codes.data(), loss);
    const auto better = loss < best;
    best = better ? loss : best;
    chosen_scale = better ? scale : chosen_scale;
    chosen_zero = better ? zero : chosen_zero;
    narrowed = better ? Lanes{} + (step > 0 ? 1.0f : 0.0f) : narrowed;
    for (int64_t j = 0; j < group; j++) {
      Lanes& error = rows.error[first + j];
      Lanes& code = rows.codes[first + j];
      error = better ? rows.tried_error[j] : error;
      code = better ? rows.tried_codes[j] : code;
    }
  }
  rows.loss += best;
  rows.narrowed += narrowed;
  push_errors(upper + group, n, group, rows.error.data() + first, n - first - group, w + group);
}

class Rounder {
 public:
  Rounder(Weight& weight, const Inverse& inverse, int64_t group, int steps) : weight_(weight), inverse_(inverse), group_(group), steps_(steps) {
    const size_t groups = static_cast<size_t>(weight.out * (weight.in / group));
    weight.grid = {std::vector<uint8_t>(static_cast<size_t>(weight.values.size() / 2)), std::vector<float>(groups), std::vector<uint8_t>(groups)};
  }

  // Rows [begin, begin + 16) or to the last.
  RoundingResult run(int64_t begin) {
    RoundingResult result;
    const int64_t count = std::min(lanes, weight_.out - begin);
    for (const Inverse::Window& window : inverse_.windows) {
      Rows rows(window.size, group_);
      for (int64_t i = 0; i < count; i++) {
        const float* from = weight_.values.host.data() + (begin + i) * weight_.in + window.first;
        for (int64_t k = 0; k < window.size; k++) rows.w[k][i] = from[k];
      }
      for (int64_t first = 0; first < window.size; first += group_) round_group(window, first, group_, steps_, rows);
      for (int64_t i = 0; i < count; i++) {
        store(window, rows, begin + i, i);
        result.loss += rows.loss[i];
        result.clipped += rows.narrowed[i];
      }
    }
    return result;
  }

 private:
  void store(const Inverse::Window& window, Rows& rows, int64_t row, int64_t lane) {
    for (int64_t k = 0; k < window.size; k++) {
      const int64_t g = k / group_;
      const size_t at = static_cast<size_t>(row * weight_.in + window.first + k);
      const float code = rows.codes[k][lane], zero = rows.zeros[g][lane], scale = rows.scales[g][lane];
      weight_.values.host[at] = (code - zero) * scale;
      const auto nibble = static_cast<uint8_t>(code);
      uint8_t& byte = weight_.grid.codes[at / 2];
      byte = static_cast<uint8_t>(at % 2 == 0 ? nibble : byte | nibble << 4);
      if (k % group_ != 0) continue;
      const size_t cell = static_cast<size_t>(row * (weight_.in / group_) + (window.first + k) / group_);
      weight_.grid.scales[cell] = scale;
      weight_.grid.zeros[cell] = static_cast<uint8_t>(zero);
    }
  }

  Weight& weight_;
  const Inverse& inverse_;
  const int64_t group_;
  const int steps_;
};

}  // namespace

Inverse invert_inputs(Math& math, const Array& inputs, int group) {
  Inverse inverse{inputs.columns, {}};
  const int64_t size = compensation_window / group * group;
  const std::vector<std::vector<float>> grams = math.grams(inputs, size);
  std::vector<std::vector<float>> upper(grams.size());
  std::atomic<size_t> next{0};
  math.pool().parallel([&](int, int) {
    for (size_t i = next++; i < grams.size(); i = next++) upper[i] = invert_gram(grams[i], std::min(size, inputs.columns - static_cast<int64_t>(i) * size));
  });
  for (size_t i = 0; i < grams.size(); i++) {
    const int64_t first = static_cast<int64_t>(i) * size, n = std::min(size, inputs.columns - first);
    inverse.windows.push_back({first, n, math.upload(Array(n, n, std::move(upper[i])))});
  }
  return inverse;
}

RoundingResult round_compensated(ThreadPool& pool, Weight& weight, const Inverse& inverse, int group, bool clip) {
  Rounder rounder(weight, inverse, group, clip ? clip_steps : 1);
  const int64_t batches = (weight.out + lanes - 1) / lanes;
  std::vector<RoundingResult> results(static_cast<size_t>(batches));  // summed in order, so that threads change nothing
  std::atomic<int64_t> next{0};
  pool.parallel([&](int, int) {
    for (int64_t i = next++; i < batches; i = next++) results[static_cast<size_t>(i)] = rounder.run(i * lanes);
  });
  RoundingResult sum;
  for (const RoundingResult& result : results) {
    sum.loss += result.loss;
    sum.clipped += result.clipped;
  }
  return sum;
}

}  // namespace hearth::quantize
