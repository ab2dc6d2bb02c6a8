// Rounding to nearest, joining, and the canonical form.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "fixtures.h"

namespace hearth::formats {
namespace {

using ops::HostLinear;
using ops::WeightFormat;

std::vector<float> random_weights(int in, int out, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.05f);
  std::vector<float> values(static_cast<size_t>(in) * static_cast<size_t>(out));
  for (float& value : values) value = normal(random);
  return values;
}

HostLinear dense(const std::vector<float>& weights, int in, int out) {
  return {.in = in, .out = out, .format = WeightFormat::f32, .group = 0, .symmetric = false, .data = weights.data(), .scales = nullptr, .zeros = nullptr};
}

// The formula, group by group, in double precision where the scale is not the stored one.
TEST(Rounding, FollowsTheFormula) {
  const int in = 256, out = 6;
  auto weights = random_weights(in, out, 3);
  for (int k = 0; k < 64; k++) weights[static_cast<size_t>(k)] = std::fabs(weights[static_cast<size_t>(k)]) + 0.1f;  // one group all positive
  for (const int group : {32, 64, 128}) {
    const auto linear = quantize_w4(dense(weights, in, out), group, false);
    ASSERT_TRUE(linear);
    const auto* packed = static_cast<const uint8_t*>(linear->host.data);
    for (int row = 0; row < out; row++) {
      for (int g = 0; g < in / group; g++) {
        const float* w = weights.data() + row * in + g * group;
        const auto [low, high] = std::minmax_element(w, w + group);
        const float scale = to_float(to_half(std::max(*high - *low, 1e-5f) / 15.0f));
        const float zero = std::clamp(-std::nearbyint(*low / scale), 0.0f, 15.0f);
        ASSERT_EQ(linear->scales[static_cast<size_t>(row * (in / group) + g)], scale);
        ASSERT_EQ(linear->zeros[static_cast<size_t>(row * (in / group) + g)], zero);
        for (int k = 0; k < group; k++) {
          const int at = row * in + g * group + k;
          const int code = packed[at / 2] >> (at % 2 * 4) & 15;
          ASSERT_EQ(code, std::clamp(std::nearbyint(w[k] / scale) + zero, 0.0f, 15.0f));
        }
      }
    }
  }
}

TEST(Rounding, ErrorIsWithinHalfAStep) {
  const int in = 128, out = 8;
  const auto weights = random_weights(in, out, 4);
  for (const bool symmetric : {false, true}) {
    const auto linear = quantize_w4(dense(weights, in, out), 32, symmetric);
    const auto values = dequantize(linear->host);
    for (size_t i = 0; i < values.size(); i++) {
      const float step = linear->scales[i / 32];
      ASSERT_LE(std::fabs(values[i] - weights[i]), step * (symmetric ? 0.51f : 1.01f));  // the zero point is rounded too
    }
  }
}

TEST(Rounding, ConstantAndZeroGroupsAreFinite) {
  for (const float constant : {0.0f, 0.25f, -0.25f, 1e-9f}) {
    const std::vector<float> weights(64, constant);
    const auto linear = quantize_w4(dense(weights, 64, 1), 32, false);
    for (const float value : dequantize(linear->host)) ASSERT_TRUE(std::isfinite(value));
    const auto bytes = quantize_w8(dense(weights, 64, 1));
    for (const float value : dequantize(bytes->host)) ASSERT_NEAR(value, constant, 2e-3f);
  }
}

TEST(Rounding, RefusesGroupsThatDoNotFit) {
  const auto weights = random_weights(96, 2, 5);
  EXPECT_FALSE(quantize_w4(dense(weights, 96, 2), 128, false));
  EXPECT_FALSE(quantize_w4(dense(weights, 96, 2), 16, false));
  EXPECT_TRUE(quantize_w4(dense(weights, 96, 2), 32, false));
}

TEST(Rounding, RowsOfBytes) {
  const auto weights = random_weights(64, 3, 6);
  const auto linear = quantize_w8(dense(weights, 64, 3));
  const auto values = dequantize(linear->host);
  for (size_t i = 0; i < values.size(); i++) ASSERT_LE(std::fabs(values[i] - weights[i]), linear->scales[i / 64] * 0.5001f);
}

TEST(Joining, RowsStandOneAfterTheOther) {
  const auto a = random_weights(64, 3, 1), b = random_weights(64, 5, 2);
  std::vector<LinearData> parts;
  parts.push_back(*quantize_w4(dense(a, 64, 3), 32, false));
  parts.push_back(*quantize_w4(dense(b, 64, 5), 32, true));
  std::vector<float> expected = dequantize(parts[0].host);
  const auto second = dequantize(parts[1].host);
  expected.insert(expected.end(), second.begin(), second.end());
  parts[0].bias = {1, 2, 3};
  const auto joined = concatenate(parts, "qkv");
  ASSERT_TRUE(joined) << joined.status().message();
  EXPECT_EQ(joined->host.out, 8);
  EXPECT_FALSE(joined->host.symmetric);
  EXPECT_EQ(dequantize(joined->host), expected);
  EXPECT_EQ(joined->bias, (std::vector<float>{1, 2, 3, 0, 0, 0, 0, 0}));
}

TEST(Joining, RefusesWhatDiffers) {
  const auto a = random_weights(64, 3, 1), b = random_weights(128, 3, 2);
  std::vector<LinearData> widths;
  widths.push_back(*quantize_w8(dense(a, 64, 3)));
  widths.push_back(*quantize_w8(dense(b, 128, 3)));
  EXPECT_EQ(concatenate(widths, "qkv").status().code(), Code::corrupt);
  std::vector<LinearData> formats;
  formats.push_back(*quantize_w8(dense(a, 64, 3)));
  formats.push_back(*quantize_w4(dense(a, 64, 3), 32, false));
  EXPECT_EQ(concatenate(formats, "qkv").status().code(), Code::unsupported);
}

}  // namespace
}  // namespace hearth::formats
