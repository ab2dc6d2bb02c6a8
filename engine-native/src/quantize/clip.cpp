#include "quantize/clip.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "quantize/gemm.h"
#include "quantize/rounding.h"

namespace hearth::quantize {

namespace {

float largest(const float* w, int64_t size) {
  float most = 0;
  for (int64_t k = 0; k < size; k++) most = std::max(most, std::fabs(w[k]));
  return most;
}

struct Rows { float* first; int64_t stride, count, group; float* at(int64_t row) const { return first + row * stride; } };

// The error of each row when its weights are clamped to `part` of the largest and rounded.
void clip_errors(const Rows& rows, float part, const std::vector<float>& gram, std::vector<float>& change, std::vector<float>& product, std::vector<double>& errors) {
  const int64_t size = rows.group;
  std::vector<float> clamped(static_cast<size_t>(size));
  for (int64_t row = 0; row < rows.count; row++) {
    const float* w = rows.at(row);
    const float m = part * largest(w, size);
    for (int64_t k = 0; k < size; k++) clamped[static_cast<size_t>(k)] = std::clamp(w[k], -m, m);
    float* d = change.data() + row * size;
    round_group(clamped.data(), static_cast<int>(size), d);
    for (int64_t k = 0; k < size; k++) d[k] -= w[k];
  }
  multiply({change.data(), rows.count, size, size}, {gram.data(), size, size, size}, product.data(), size, false);
  for (int64_t row = 0; row < rows.count; row++) {
    double error = 0;
    for (int64_t k = row * size; k < (row + 1) * size; k++) error += double{change[static_cast<size_t>(k)]} * product[static_cast<size_t>(k)];
    errors[static_cast<size_t>(row)] = error;
  }
}

int64_t clip_rows(const Rows& rows, const std::vector<float>& gram) {
  std::vector<float> change(static_cast<size_t>(rows.count * rows.group)), product(change.size());
  std::vector<double> best(static_cast<size_t>(rows.count), std::numeric_limits<double>::infinity()), errors(best.size());
  std::vector<float> limit(best.size());
  for (int step = 0; step < clip_steps; step++) {
    const float part = 1.0f - static_cast<float>(step) / 20.0f;
    clip_errors(rows, part, gram, change, product, errors);
    for (size_t row = 0; row < best.size(); row++) {
      if (!(errors[row] < best[row])) continue;
      best[row] = errors[row];
      limit[row] = part;
    }
  }
  int64_t changed = 0;
  for (int64_t row = 0; row < rows.count; row++) {
    if (limit[static_cast<size_t>(row)] >= 1 || limit[static_cast<size_t>(row)] <= 0) continue;
    changed++;
    const float m = limit[static_cast<size_t>(row)] * largest(rows.at(row), rows.group);
    for (int64_t k = 0; k < rows.group; k++) rows.at(row)[k] = std::clamp(rows.at(row)[k], -m, m);
  }
  return changed;
}

}  // namespace

double clip_groups(ThreadPool& pool, Weight& weight, const std::vector<std::vector<float>>& grams, int group) {
  constexpr int64_t batch = 64;
  std::atomic<int64_t> next{0}, changed{0};
  pool.parallel([&](int, int) {
    for (int64_t g = next++; g < static_cast<int64_t>(grams.size()); g = next++) {
      for (int64_t begin = 0; begin < weight.out; begin += batch) {
        float* first = weight.values.host.data() + begin * weight.in + g * group;
        changed += clip_rows({first, weight.in, std::min(batch, weight.out - begin), group}, grams[static_cast<size_t>(g)]);
      }
    }
  });
  return static_cast<double>(changed);
}

}  // namespace hearth::quantize
