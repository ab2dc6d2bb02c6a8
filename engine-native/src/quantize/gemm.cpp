#include "quantize/gemm.h"

#include <algorithm>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hearth::quantize {

namespace {

// A tile of 6 rows of x and 16 rows of w fills AVX2's sixteen registers; 256 columns of a w panel fill half of L1.
constexpr int64_t tile_x = 6, tile_w = 16, depth = 256;

// to[k][tile], zero beyond the last row.
template <int64_t tile>
void pack(const Matrix& from, int64_t row, int64_t column, int64_t columns, float* to) {
  const int64_t rows = std::min(tile, from.rows - row);
  for (int64_t r = 0; r < tile; r++) {
    if (r >= rows) {
      for (int64_t k = 0; k < columns; k++) to[k * tile + r] = 0;
      continue;
    }
    const float* source = from.data + (row + r) * from.stride + column;
    for (int64_t k = 0; k < columns; k++) to[k * tile + r] = source[k];
  }
}

void tile_generic(const float* x, const float* w, int64_t columns, float* y) {
  float sums[tile_x * tile_w] = {};
  for (int64_t k = 0; k < columns; k++) {
    for (int64_t i = 0; i < tile_x; i++) {
      for (int64_t j = 0; j < tile_w; j++) sums[i * tile_w + j] += x[k * tile_x + i] * w[k * tile_w + j];
    }
  }
  std::copy(sums, sums + tile_x * tile_w, y);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void tile_avx2(const float* x, const float* w, int64_t columns, float* y) {
  __m256 sums[tile_x][2];
  for (auto& row : sums) row[0] = row[1] = _mm256_setzero_ps();
  for (int64_t k = 0; k < columns; k++, x += tile_x, w += tile_w) {
    const __m256 w0 = _mm256_load_ps(w), w1 = _mm256_load_ps(w + 8);
#pragma GCC unroll 6
    for (int64_t i = 0; i < tile_x; i++) {
      const __m256 value = _mm256_broadcast_ss(x + i);
      sums[i][0] = _mm256_fmadd_ps(value, w0, sums[i][0]);
      sums[i][1] = _mm256_fmadd_ps(value, w1, sums[i][1]);
    }
  }
  for (int64_t i = 0; i < tile_x; i++) {
    _mm256_store_ps(y + i * tile_w, sums[i][0]);
    _mm256_store_ps(y + i * tile_w + 8, sums[i][1]);
  }
}
#endif

using Tile = void (*)(const float*, const float*, int64_t, float*);

Tile choose_tile() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return tile_avx2;
#endif
  return tile_generic;
}

float* aligned(std::vector<float>& memory, size_t count) {
  memory.resize(count + 16);
  auto address = reinterpret_cast<uintptr_t>(memory.data());
  return reinterpret_cast<float*>((address + 63) / 64 * 64);
}

// Rows [begin, end) of w, a multiple of the tile but for the last.
void multiply_rows(const Matrix& x, const Matrix& w, int64_t begin, int64_t end, float* y, int64_t y_stride, bool accumulate) {
  static const Tile tile = choose_tile();
  thread_local std::vector<float> x_memory, w_memory;
  const int64_t x_tiles = (x.rows + tile_x - 1) / tile_x;
  float* packed_x = aligned(x_memory, static_cast<size_t>(x_tiles * tile_x * depth));
  float* packed_w = aligned(w_memory, static_cast<size_t>(tile_w * depth));
  alignas(64) float sums[tile_x * tile_w];
  const Matrix part{w.data, end, w.columns, w.stride};
  for (int64_t k = 0; k < x.columns; k += depth) {
    const int64_t columns = std::min(depth, x.columns - k);
    const bool add = accumulate || k > 0;
    for (int64_t t = 0; t < x_tiles; t++) pack<tile_x>(x, t * tile_x, k, columns, packed_x + t * tile_x * depth);
    for (int64_t n = begin; n < end; n += tile_w) {
      pack<tile_w>(part, n, k, columns, packed_w);
      for (int64_t t = 0; t < x_tiles; t++) {
        tile(packed_x + t * tile_x * depth, packed_w, columns, sums);
        const int64_t rows = std::min(tile_x, x.rows - t * tile_x), width = std::min(tile_w, end - n);
        for (int64_t i = 0; i < rows; i++) {
          float* to = y + (t * tile_x + i) * y_stride + n;
          for (int64_t j = 0; j < width; j++) to[j] = add ? to[j] + sums[i * tile_w + j] : sums[i * tile_w + j];
        }
      }
    }
  }
}

}  // namespace

void multiply(const Matrix& x, const Matrix& w, float* y, int64_t y_stride, bool accumulate) {
  multiply_rows(x, w, 0, w.rows, y, y_stride, accumulate);
}

void multiply(ThreadPool& pool, const Matrix& x, const Matrix& w, float* y, int64_t y_stride, bool accumulate) {
  const int64_t tiles = (w.rows + tile_w - 1) / tile_w;
  pool.parallel([&](int worker, int workers) {
    const int64_t begin = tiles * worker / workers * tile_w, end = std::min(w.rows, tiles * (worker + 1) / workers * tile_w);
    if (begin < end) multiply_rows(x, w, begin, end, y, y_stride, accumulate);
  });
}

}  // namespace hearth::quantize
