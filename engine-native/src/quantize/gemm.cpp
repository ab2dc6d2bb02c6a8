#include "quantize/gemm.h"

#include <algorithm>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hearth::quantize {

namespace {

// A tile of 6 rows of x and 16 rows of w fills AVX2's sixteen registers; 256 columns of a w panel fill half of L1, those
// of a block of x half of L2, where it stays while the panels of a block of w pass by.
constexpr int64_t tile_x = 6, tile_w = 16, depth = 256, block_x = 32 * tile_x, block_w = 64 * tile_w;

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
// The sums have names of their own: of an array GCC 12 stores every element in every step.
__attribute__((target("avx2,fma"))) void tile_avx2(const float* x, const float* w, int64_t columns, float* y) {
  __m256 a0 = _mm256_setzero_ps(), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0, e0 = a0, e1 = a0, f0 = a0, f1 = a0;
  for (int64_t k = 0; k < columns; k++, x += tile_x, w += tile_w) {
    const __m256 w0 = _mm256_load_ps(w), w1 = _mm256_load_ps(w + 8);
    __m256 value = _mm256_broadcast_ss(x);
    a0 = _mm256_fmadd_ps(value, w0, a0);
    a1 = _mm256_fmadd_ps(value, w1, a1);
    value = _mm256_broadcast_ss(x + 1);
    b0 = _mm256_fmadd_ps(value, w0, b0);
    b1 = _mm256_fmadd_ps(value, w1, b1);
    value = _mm256_broadcast_ss(x + 2);
    c0 = _mm256_fmadd_ps(value, w0, c0);
    c1 = _mm256_fmadd_ps(value, w1, c1);
    value = _mm256_broadcast_ss(x + 3);
    d0 = _mm256_fmadd_ps(value, w0, d0);
    d1 = _mm256_fmadd_ps(value, w1, d1);
    value = _mm256_broadcast_ss(x + 4);
    e0 = _mm256_fmadd_ps(value, w0, e0);
    e1 = _mm256_fmadd_ps(value, w1, e1);
    value = _mm256_broadcast_ss(x + 5);
    f0 = _mm256_fmadd_ps(value, w0, f0);
    f1 = _mm256_fmadd_ps(value, w1, f1);
  }
  const __m256 sums[tile_x][2] = {{a0, a1}, {b0, b1}, {c0, c1}, {d0, d1}, {e0, e1}, {f0, f1}};
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

// y tile (rows, width) = or += sums.
void add_tile(const float* sums, int64_t rows, int64_t width, bool add, float* y, int64_t y_stride) {
  for (int64_t i = 0; i < rows; i++, y += y_stride, sums += tile_w) {
    if (!add) std::copy(sums, sums + width, y);
    else for (int64_t j = 0; j < width; j++) y[j] += sums[j];
  }
}

struct Packed { const float* x; const float* w; int64_t columns; };

// A block of y of rows x rows, rows_w columns.
void multiply_block(const Packed& packed, int64_t rows, int64_t rows_w, bool add, float* y, int64_t y_stride) {
  static const Tile tile = choose_tile();
  alignas(64) float sums[tile_x * tile_w];
  for (int64_t n = 0; n < rows_w; n += tile_w) {
    for (int64_t i = 0; i < rows; i += tile_x) {
      tile(packed.x + i * depth, packed.w + n * depth, packed.columns, sums);
      add_tile(sums, std::min(tile_x, rows - i), std::min(tile_w, rows_w - n), add, y + i * y_stride + n, y_stride);
    }
  }
}

// Rows [begin, end) of w, a multiple of the tile but for the last.
void multiply_rows(const Matrix& x, const Matrix& w, int64_t begin, int64_t end, float* y, int64_t y_stride, bool accumulate) {
  thread_local std::vector<float> x_memory, w_memory;
  float* packed_x = aligned(x_memory, static_cast<size_t>(block_x * depth));
  float* packed_w = aligned(w_memory, static_cast<size_t>(block_w * depth));
  const Matrix part{w.data, end, w.columns, w.stride};
  for (int64_t k = 0; k < x.columns; k += depth) {
    const int64_t columns = std::min(depth, x.columns - k);
    for (int64_t n = begin; n < end; n += block_w) {
      const int64_t rows_w = std::min(block_w, end - n);
      for (int64_t i = 0; i < rows_w; i += tile_w) pack<tile_w>(part, n + i, k, columns, packed_w + i * depth);
      for (int64_t row = 0; row < x.rows; row += block_x) {
        const int64_t rows = std::min(block_x, x.rows - row);
        for (int64_t i = 0; i < rows; i += tile_x) pack<tile_x>(x, row + i, k, columns, packed_x + i * depth);
        multiply_block({packed_x, packed_w, columns}, rows, rows_w, accumulate || k > 0, y + row * y_stride + n, y_stride);
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
