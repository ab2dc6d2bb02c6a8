// Embedding, norms, gate, add, gather: every implementation against plain formulas in float64.
#include "ops/bind.h"
#include "support.h"

namespace hearth::ops_test {
namespace {

using namespace ops;
constexpr DType types[] = {DType::f32, DType::f16, DType::bf16};
constexpr auto cpu = device::DeviceKind::cpu;

TEST(Embed, EverySource) {
  for (DType type : types) {
    for (int width : {1, 7, 64, 100}) {
      Random random(width);
      EmbedSpec s{width, 11, type, 2.5f};
      Buffer table(type, random.normals(11 * width));
      const std::vector<float> images = random.normals(3 * width);
      const int32_t ids[] = {10, 1, 2, 0}, source[] = {0, 1, 2, 0}, sampled[] = {5, 7};
      for_each_taker(embed_implementations(cpu), s, one_thread().info, [&](const auto& kernel) {
        Buffer x(DType::f32, 4 * width);
        EmbedParams p{4, ids, source, sampled, table.data(), images.data(), reinterpret_cast<float*>(x.data())};
        kernel.run(s, p, three_threads().stream);
        const int rows[] = {10, 7, -1, 0};
        for (int r = 0; r < 4; ++r) {
          for (int i = 0; i < width; ++i) {
            const float want = rows[r] < 0 ? images[2 * width + i] : table.get(rows[r] * width + i) * 2.5f;
            ASSERT_EQ(x.get(r * width + i), want) << r << "," << i;
          }
        }
      });
    }
  }
}

double norm_value(const NormSpec& s, const Buffer& x, int64_t at, int i, const std::vector<float>& w, const std::vector<float>& b) {
  double mean = 0, square = 0;
  for (int k = 0; k < s.width && s.kind == NormKind::layer; ++k) mean += x.get(at + k) / static_cast<double>(s.width);
  for (int k = 0; k < s.width; ++k) square += (x.get(at + k) - mean) * (x.get(at + k) - mean) / s.width;
  return (x.get(at + i) - mean) / std::sqrt(square + s.epsilon) * w[i] + (b.empty() ? 0 : b[i]);
}

void check_norm(const NormSpec& s, bool with_bias) {
  Random random(s.width);
  constexpr int rows = 5;
  const int64_t stride = s.width + 3;
  Buffer x(s.x_type, random.normals(rows * stride));
  const std::vector<float> w = random.normals(s.width), b = with_bias ? random.normals(s.width) : std::vector<float>{};
  const std::vector<float> before = random.normals(rows * stride);
  for_each_taker(norm_implementations(cpu), s, one_thread().info, [&](const auto& kernel) {
    Buffer y = s.accumulate ? Buffer(s.y_type, before) : Buffer(s.y_type, rows * stride);
    NormParams p{rows, x.data(), stride, w.data(), b.empty() ? nullptr : b.data(), y.data(), stride};
    kernel.run(s, p, three_threads().stream);
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < s.width; ++i) {
        const double want = norm_value(s, x, r * stride, i, w, b) + (s.accumulate ? before[r * stride + i] : 0);
        ASSERT_NEAR(y.get(r * stride + i), want, (4e-6 + 2 * epsilon_of(s.y_type)) * (1 + std::fabs(want)));
      }
    }
  });
}

TEST(Norm, KindsTypesWidths) {
  for (NormKind kind : {NormKind::rms, NormKind::layer}) {
    for (int width : {1, 5, 8, 64, 100, 259}) {
      for (DType x : types) {
        for (DType y : types) check_norm({kind, width, 1e-5f, false, x, y}, kind == NormKind::layer);
      }
      check_norm({kind, width, 1e-5f, true, DType::f32, DType::f32}, false);
    }
  }
}

TEST(Norm, InPlace) {
  NormSpec s{NormKind::rms, 100, 1e-6f, false, DType::f32, DType::f32};
  Random random(3);
  const Buffer original(DType::f32, random.normals(100));
  const std::vector<float> w = random.normals(100);
  for_each_taker(norm_implementations(cpu), s, one_thread().info, [&](const auto& kernel) {
    Buffer x = original;
    kernel.run(s, {1, x.data(), 100, w.data(), nullptr, x.data(), 100}, one_thread().stream);
    for (int i = 0; i < 100; ++i) ASSERT_NEAR(x.get(i), norm_value(s, original, 0, i, w, {}), 1e-5);
  });
}

TEST(Gate, ActivationsTypesWidths) {
  for (DType type : types) {
    for (int width : {1, 7, 8, 50}) {
      for (Activation a : {Activation::silu, Activation::gelu_tanh, Activation::gelu_erf, Activation::relu}) {
        Random random(width);
        GateSpec s{width, a, type};
        Buffer x(type, random.normals(3 * (2 * width + 1)));
        for_each_taker(gate_implementations(cpu), s, one_thread().info, [&](const auto& kernel) {
          Buffer y(type, 3 * width);
          kernel.run(s, {3, x.data(), 2 * width + 1, y.data(), width}, three_threads().stream);
          for (int r = 0; r < 3; ++r) {
            for (int i = 0; i < width; ++i) {
              const double g = x.get(r * (2 * width + 1) + i), u = x.get(r * (2 * width + 1) + width + i);
              const double want = u * (a == Activation::silu ? g / (1 + std::exp(-g))
                                       : a == Activation::relu ? std::max(g, 0.0)
                                       : a == Activation::gelu_erf ? 0.5 * g * (1 + std::erf(g / std::sqrt(2.0)))
                                       : 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))));
              ASSERT_NEAR(y.get(r * width + i), want, (4e-6 + 2 * epsilon_of(type)) * (1 + std::fabs(want)));
            }
          }
        });
      }
    }
  }
}

TEST(Add, Types) {
  for (DType type : types) {
    for (int width : {1, 9, 64}) {
      Random random(width);
      AddSpec s{width, type};
      Buffer x(type, random.normals(4 * width));
      const std::vector<float> before = random.normals(4 * width);
      for_each_taker(add_implementations(cpu), s, one_thread().info, [&](const auto& kernel) {
        std::vector<float> y = before;
        kernel.run(s, {4, x.data(), width, y.data(), width}, three_threads().stream);
        for (int i = 0; i < 4 * width; ++i) ASSERT_EQ(y[i], before[i] + x.get(i));
      });
    }
  }
}

TEST(Gather, TypesAndHoles) {
  for (DType from : types) {
    for (DType to : types) {
      for (int width : {1, 9, 64}) {
        Random random(width);
        GatherSpec s{width, from, to};
        Buffer x(from, random.normals(4 * width));
        const int32_t index[] = {3, -1, 0, 3, 2};
        for_each_taker(gather_implementations(cpu), s, one_thread().info, [&](const auto& kernel) {
          Buffer y(to, 5 * width);
          kernel.run(s, {5, x.data(), width, index, y.data(), width}, three_threads().stream);
          for (int r = 0; r < 5; ++r) {
            for (int i = 0; i < width; ++i) {
              Buffer want(to, 1);
              want.set(0, index[r] < 0 ? 0.0f : x.get(index[r] * width + i));
              ASSERT_EQ(y.get(r * width + i), want.get(0));
            }
          }
        });
      }
    }
  }
}

}  // namespace
}  // namespace hearth::ops_test
