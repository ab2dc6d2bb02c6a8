// The small operations of calibration (ops/calibration.h): bound by memory but for attention, which is f32 on CUDA cores,
// since it is a few percent of a layer's products and a search compares what it gives.
#include "kernels/cuda/calibration_params.h"
#include "kernels/cuda/common.cuh"

using namespace hearth::kernels::cuda;
using namespace hearth::ops;

namespace {

__device__ __forceinline__ int64_t thread_index() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t thread_count() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

// A power of two that brings the largest magnitude to 2^13 … 2^14 where FP16 would overflow or lose small values, else 1.
__device__ __forceinline__ float half_factor(uint32_t largest_bits) {
  const float largest = __uint_as_float(largest_bits);
  if (!(largest > 0) || !isfinite(largest) || (largest <= 16384.f && largest >= 0.015625f)) return 1.f;
  return exp2f(static_cast<float>(13 - ilogbf(largest)));
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) calibration_largest_kernel(const LargestArgs p) {
  __shared__ float scratch[33];
  float largest = 0;
  for (int64_t i = thread_index(); i < p.count; i += thread_count()) largest = fmaxf(largest, fabsf(p.x[i]));
  largest = block_max(largest, scratch);
  if (threadIdx.x == 0) atomicMax(p.largest, __float_as_uint(largest));
}

// f32 [rows, columns] to FP16 [rows_padded, columns_padded], zero beyond.
extern "C" __global__ void __launch_bounds__(256) calibration_halves_kernel(const HalvesArgs p) {
  const float factor = half_factor(*p.largest);
  const int64_t quads = p.rows_padded * (p.columns_padded / 4);
  for (int64_t i = thread_index(); i < quads; i += thread_count()) {
    const int64_t row = i / (p.columns_padded / 4), column = i % (p.columns_padded / 4) * 4;
    float v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = row < p.rows && column + j < p.columns ? p.x[row * p.columns + column + j] * factor : 0.f;
    *reinterpret_cast<uint2*>(static_cast<__half*>(p.y) + row * p.columns_padded + column) = make_uint2(pack2<__half>(v[0], v[1]), pack2<__half>(v[2], v[3]));
  }
}

// Columns [first, first + rows_padded) of f32 x [rows, columns] to rows of FP16 [rows_padded, columns_padded].
extern "C" __global__ void __launch_bounds__(256) calibration_turn_kernel(const HalvesArgs p) {
  __shared__ float tile[32][33];
  const float factor = half_factor(*p.largest);
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * 32, column0 = static_cast<int64_t>(blockIdx.y) * 32;
  const int lane = threadIdx.x % 32;
  for (int i = threadIdx.x / 32; i < 32; i += 8) {
    const int64_t row = row0 + i, column = column0 + lane;
    tile[i][lane] = row < p.rows && column < p.size ? p.x[row * p.columns + p.first + column] * factor : 0.f;
  }
  __syncthreads();
  for (int i = threadIdx.x / 32; i < 32; i += 8) {
    const int64_t to = column0 + i, at = row0 + lane;
    if (to < p.rows_padded && at < p.columns_padded) static_cast<__half*>(p.y)[to * p.columns_padded + at] = __float2half_rn(tile[lane][i]);
  }
}

extern "C" __global__ void __launch_bounds__(256) calibration_unscale_kernel(const UnscaleArgs p) {
  const float factor = half_factor(*p.largest_x) * half_factor(*p.largest_w);
  if (factor == 1.f) return;
  for (int64_t i = thread_index(); i < p.count; i += thread_count()) p.y[i] /= factor;
}

extern "C" __global__ void __launch_bounds__(256) calibration_map_kernel(const CalibrationMap p) {
  const int64_t count = p.rows * p.columns;
  for (int64_t i = thread_index(); i < count; i += thread_count()) {
    switch (p.what) {
      case map_add: p.x[i] += p.y[i]; break;
      case map_gate_silu: p.x[i] = p.x[i] / (1.f + expf(-p.x[i])) * p.y[i]; break;
      case map_gate_gelu_tanh: p.x[i] = activate_rare(p.x[i], activation_gelu_tanh) * p.y[i]; break;
      case map_add_row: p.x[i] += p.y[i % p.columns]; break;
      case map_multiply_columns: p.x[i] *= p.y[i % p.columns]; break;
      case map_divide_columns: p.x[i] /= p.y[i % p.columns]; break;
      default: p.x[i] /= p.y[i / p.columns];
    }
  }
}

extern "C" __global__ void __launch_bounds__(256) calibration_norm_kernel(const CalibrationNorm p) {
  __shared__ float scratch[33];
  const float* x = p.x + blockIdx.x * p.columns;
  float* y = p.y + blockIdx.x * p.columns;
  float sum = 0;
  for (int64_t i = threadIdx.x; i < p.columns; i += blockDim.x) sum += x[i] * x[i];
  const float scale = 1.f / sqrtf(block_sum(sum, scratch) / static_cast<float>(p.columns) + p.epsilon);
  for (int64_t i = threadIdx.x; i < p.columns; i += blockDim.x) y[i] = x[i] * scale * p.weight[i];
}

// A warp a head of a row.
extern "C" __global__ void __launch_bounds__(256) calibration_rotate_kernel(const CalibrationRotate p) {
  const int64_t task = thread_index() / 32;
  if (task >= p.rows * p.heads) return;
  const int lane = threadIdx.x % 32;
  const float position = static_cast<float>(task / p.heads % p.length);
  float* x = p.x + task * p.head_dim;
  if (p.norm) {
    float sum = 0;
    for (int i = lane; i < p.head_dim; i += 32) sum += x[i] * x[i];
    const float scale = 1.f / sqrtf(warp_sum(sum) / static_cast<float>(p.head_dim) + p.epsilon);
    for (int i = lane; i < p.head_dim; i += 32) x[i] *= scale * p.norm[i];
    __syncwarp();
  }
  for (int i = lane; i < p.half; i += 32) {
    const float angle = position * p.frequency[i], c = cosf(angle) * p.amplitude, s = sinf(angle) * p.amplitude;
    const float a = x[i], b = x[i + p.half];
    x[i] = a * c - b * s;
    x[i + p.half] = b * c + a * s;
  }
}

// 32 queries of a head by tiles of 32 keys, with a running maximum. Eight threads share a query's output.
extern "C" __global__ void __launch_bounds__(256) calibration_attend_kernel(const CalibrationAttend p) {
  extern __shared__ float shared[];
  constexpr int tile = 32, most = 32;  // columns of a head over eight threads: heads up to 256
  const int size = p.head_dim, odd = size + 1, thread = threadIdx.x, row = thread / 8, part = thread % 8;
  float *qs = shared, *ks = qs + tile * odd, *vs = ks + tile * odd, *scores = vs + tile * size;
  const int64_t tiles = (p.length + tile - 1) / tile;
  const int64_t first_query = blockIdx.x % tiles * tile, head = blockIdx.x / tiles % p.heads, sequence = blockIdx.x / tiles / p.heads;
  const int64_t kv_head = head / (p.heads / p.kv_heads), start = sequence * p.length;
  const int64_t q_stride = static_cast<int64_t>(p.heads) * size, kv_stride = static_cast<int64_t>(p.kv_heads) * size;
  for (int i = thread; i < tile * size; i += 256) {
    const int64_t query = first_query + i / size;
    qs[i / size * odd + i % size] = query < p.length ? p.q[(start + query) * q_stride + head * size + i % size] * p.scale : 0.f;
  }
  float sums[most], largest = -1e30f, total = 0;
#pragma unroll
  for (int i = 0; i < most; ++i) sums[i] = 0;
  const int64_t oldest = p.window > 0 && first_query + 1 > p.window ? (first_query + 1 - p.window) / tile * tile : 0;
  const int64_t query = first_query + row, from = p.window > 0 && query + 1 > p.window ? query + 1 - p.window : 0;
  for (int64_t first_key = oldest; first_key <= first_query + tile - 1 && first_key < p.length; first_key += tile) {
    __syncthreads();
    for (int i = thread; i < tile * size; i += 256) {
      const int64_t key = first_key + i / size, at = (start + key) * kv_stride + kv_head * size + i % size;
      ks[i / size * odd + i % size] = key < p.length ? p.k[at] : 0.f;
      vs[i] = key < p.length ? p.v[at] : 0.f;
    }
    __syncthreads();
    const int r = thread / 16 * 2, c = thread % 16;
    float s[2][2] = {};
    for (int d = 0; d < size; ++d) {
      const float q0 = qs[r * odd + d], q1 = qs[(r + 1) * odd + d], k0 = ks[c * odd + d], k1 = ks[(c + 16) * odd + d];
      s[0][0] += q0 * k0; s[0][1] += q0 * k1; s[1][0] += q1 * k0; s[1][1] += q1 * k1;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) { scores[(r + i) * 33 + c] = s[i][0]; scores[(r + i) * 33 + c + 16] = s[i][1]; }
    __syncthreads();
    float seen[4], best = largest;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t key = first_key + part * 4 + i;
      seen[i] = key <= query && key >= from && key < p.length ? scores[row * 33 + part * 4 + i] : -INFINITY;
      best = fmaxf(best, seen[i]);
    }
#pragma unroll
    for (int d = 4; d > 0; d >>= 1) best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, d));
    const float shrink = expf(largest - best);
    largest = best;
    total *= shrink;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float weight = expf(seen[i] - best);
      scores[row * 33 + part * 4 + i] = weight;
      total += weight;
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < most; ++i) sums[i] *= shrink;
    for (int key = 0; key < tile; ++key) {
      const float weight = scores[row * 33 + key];
#pragma unroll
      for (int i = 0; i < most; ++i)
        if (i * 8 < size) sums[i] += weight * vs[key * size + i * 8 + part];
    }
  }
#pragma unroll
  for (int d = 4; d > 0; d >>= 1) total += __shfl_xor_sync(0xffffffffu, total, d);
  if (query >= p.length) return;
#pragma unroll
  for (int i = 0; i < most; ++i)
    if (i * 8 < size) p.out[(start + query) * q_stride + head * size + i * 8 + part] = sums[i] / total;
}

extern "C" __global__ void __launch_bounds__(256) calibration_pick_kernel(const CalibrationPick p) {
  const int64_t count = p.rows * p.columns;
  for (int64_t i = thread_index(); i < count; i += thread_count()) p.y[i] = p.x[p.index[i / p.columns] * p.columns + i % p.columns];
}

// Sums in double, each block's in a place of its own: the same every time.
extern "C" __global__ void __launch_bounds__(256) calibration_sum_kernel(const CalibrationSum p) {
  __shared__ double scratch[256];
  double sum = 0;
  for (int64_t i = thread_index(); i < p.count; i += thread_count()) {
    const float a = p.a[i];
    if (p.what == sum_values) sum += a;
    else if (p.what == sum_squares) sum += static_cast<double>(a) * a;
    else { const double d = static_cast<double>(a) - p.b[i]; sum += d * d; }
  }
  scratch[threadIdx.x] = sum;
  for (int half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
  }
  if (threadIdx.x == 0) p.partial[blockIdx.x] = scratch[0];
}

// 32 columns a block, eight rows at a time.
extern "C" __global__ void __launch_bounds__(256) calibration_columns_kernel(const CalibrationColumns p) {
  __shared__ double scratch[8][32];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x % 32;
  double value = 0;
  if (column < p.columns) {
    for (int64_t row = threadIdx.x / 32; row < p.rows; row += 8) {
      const double v = fabsf(p.x[row * p.columns + column]);
      value = p.largest ? fmax(value, v) : value + v;
    }
  }
  scratch[threadIdx.x / 32][threadIdx.x % 32] = value;
  __syncthreads();
  if (threadIdx.x >= 32 || column >= p.columns) return;
  for (int i = 1; i < 8; ++i) value = p.largest ? fmax(value, scratch[i][threadIdx.x]) : value + scratch[i][threadIdx.x];
  p.y[column] = static_cast<float>(p.largest ? value : value / static_cast<double>(p.rows));
}

extern "C" __global__ void __launch_bounds__(256) calibration_int8_kernel(const CalibrationInt8 p) {
  __shared__ float scratch[33];
  float* x = p.x + blockIdx.x * p.columns;
  float largest = 1e-5f;
  for (int64_t i = threadIdx.x; i < p.columns; i += blockDim.x) largest = fmaxf(largest, fabsf(x[i]));
  const float scale = block_max(largest, scratch) / 127.f;
  for (int64_t i = threadIdx.x; i < p.columns; i += blockDim.x) x[i] = rintf(x[i] / scale) * scale;
}
