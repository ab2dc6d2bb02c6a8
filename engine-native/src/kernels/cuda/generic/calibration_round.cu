// Rounding a group of 32, 64 or 128 weights of many rows: to nearest, with clipping by what it does to the outputs, and
// with every column's error made up for by the next ones (quantize/compensate.h). A warp a row; a lane holds group / 32
// neighbouring columns.
#include "kernels/cuda/calibration_params.h"
#include "kernels/cuda/common.cuh"

using namespace hearth::kernels::cuda;
using namespace hearth::ops;

namespace {

constexpr int steps_max = 10;  // ranges tried: 1.00, 0.95 … 0.55
constexpr int warps = 16;

struct Code { float scale, zero; };

__device__ __forceinline__ float warp_min(float v) { return -warp_max(-v); }

// As formats::quantize_w4: the scale is an FP16 number.
__device__ __forceinline__ Code make_code(float low, float high) {
  const float scale = __half2float(__float2half_rn(fmaxf(high - low, 1e-5f) / 15.f));
  return {scale, fminf(fmaxf(-rintf(low / scale), 0.f), 15.f)};
}
// The code of a part of a range that holds 0, so that no weight is far from the nearest step.
__device__ __forceinline__ Code make_code_of(float low, float high, float part) {
  const float limit = part * fmaxf(fabsf(low), fabsf(high));
  return make_code(fminf(fmaxf(low, -limit), 0.f), fmaxf(fminf(high, limit), 0.f));
}
__device__ __forceinline__ float on_grid(float w, const Code& c) {
  return (fminf(fmaxf(rintf(w / c.scale) + c.zero, 0.f), 15.f) - c.zero) * c.scale;
}

template <int per> __device__ __forceinline__ void range_of(const float (&w)[per], float& low, float& high) {
  low = high = w[0];
#pragma unroll
  for (int i = 1; i < per; ++i) { low = fminf(low, w[i]); high = fmaxf(high, w[i]); }
  low = warp_min(low);
  high = warp_max(high);
}

template <int per> __device__ __forceinline__ void round_nearest(const CalibrationGroups& p) {
  const int64_t groups = p.columns / p.group, task = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (task >= p.rows * groups) return;
  const int64_t column = task % groups * p.group + threadIdx.x % 32 * per, at = task / groups * p.columns + column;
  float w[per], low, high;
#pragma unroll
  for (int i = 0; i < per; ++i) w[i] = p.scales ? p.w[at + i] * p.scales[column + i] : p.w[at + i];
  range_of<per>(w, low, high);
  const Code code = make_code(low, high);
#pragma unroll
  for (int i = 0; i < per; ++i) p.y[at + i] = p.scales ? on_grid(w[i], code) / p.scales[column + i] : on_grid(w[i], code);
}

// A lane's columns of a row in shared memory, in one load.
template <int per> __device__ __forceinline__ void load_columns(const float* row, int lane, float (&to)[per]) {
  if (per == 4) *reinterpret_cast<float4*>(to) = *reinterpret_cast<const float4*>(row + lane * 4);
  else if (per == 2) *reinterpret_cast<float2*>(to) = *reinterpret_cast<const float2*>(row + lane * 2);
  else to[0] = row[lane];
}

template <int per> __device__ __forceinline__ void load_matrix_to_shared(const float* from, int64_t stride, float* to) {
  constexpr int group = per * 32;
  for (int i = threadIdx.x; i < group * group; i += blockDim.x) to[i] = from[i / group * stride + i % group];
  __syncthreads();
}

// d H dᵀ of every range at once: the gram's rows are read from shared memory once for all.
template <int per> __device__ __forceinline__ void clip_group(const CalibrationClip& p) {
  extern __shared__ __align__(16) float gram[];
  constexpr int group = per * 32;
  load_matrix_to_shared<per>(p.gram, group, gram);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
  if (row >= p.rows) return;
  const int lane = threadIdx.x % 32;
  float* at = p.w + row * p.stride + lane * per;
  float w[per], low, high, change[steps_max][per], product[steps_max][per];
#pragma unroll
  for (int i = 0; i < per; ++i) w[i] = at[i];
  range_of<per>(w, low, high);
  const float most = fmaxf(fabsf(low), fabsf(high));
#pragma unroll
  for (int step = 0; step < steps_max; ++step) {
    const float m = (1.f - step / 20.f) * most;
    const Code code = make_code(fminf(fmaxf(low, -m), m), fminf(fmaxf(high, -m), m));
#pragma unroll
    for (int i = 0; i < per; ++i) {
      change[step][i] = on_grid(fminf(fmaxf(w[i], -m), m), code) - w[i];
      product[step][i] = 0;
    }
  }
  for (int source = 0; source < 32; ++source) {
#pragma unroll
    for (int t = 0; t < per; ++t) {
      float h[per];
      load_columns<per>(gram + (source * per + t) * group, lane, h);
#pragma unroll
      for (int step = 0; step < steps_max; ++step) {
        const float d = __shfl_sync(0xffffffffu, change[step][t], source);
#pragma unroll
        for (int i = 0; i < per; ++i) product[step][i] += d * h[i];
      }
    }
  }
  float best = INFINITY, chosen = 1.f;
#pragma unroll
  for (int step = 0; step < steps_max; ++step) {
    float error = 0;
#pragma unroll
    for (int i = 0; i < per; ++i) error += change[step][i] * product[step][i];
    error = warp_sum(error);
    if (error < best) { best = error; chosen = 1.f - step / 20.f; }
  }
  if (chosen >= 1.f) return;
#pragma unroll
  for (int i = 0; i < per; ++i) at[i] = fminf(fmaxf(w[i], -chosen * most), chosen * most);
  if (lane == 0) p.changed[row] += 1.f;
}

// Columns in order, each one's error taken from those after it; `count` ranges side by side. Returns the losses; of the
// last range also what was rounded and what is left, in `codes` and `errors`.
template <int per, int count> __device__ __forceinline__ void compensate(const float (&w)[per], const Code (&code)[count], const float* upper, const float* inverse,
                                                                          int lane, float (&loss)[count], float (&codes)[per], float (&errors)[per]) {
  constexpr int group = per * 32;
  float moved[count][per], step_inverse[count];
#pragma unroll
  for (int c = 0; c < count; ++c) {
    loss[c] = 0;
    step_inverse[c] = 1.f / code[c].scale;
#pragma unroll
    for (int i = 0; i < per; ++i) moved[c][i] = w[i];
  }
  for (int source = 0; source < 32; ++source) {
#pragma unroll
    for (int t = 0; t < per; ++t) {
      const int column = source * per + t;
      float u[per];
      load_columns<per>(upper + column * group, lane, u);
      const float inverse_diagonal = inverse[column];
#pragma unroll
      for (int c = 0; c < count; ++c) {
        const float value = __shfl_sync(0xffffffffu, moved[c][t], source);
        const float q = fminf(fmaxf(rintf(value * step_inverse[c]) + code[c].zero, 0.f), 15.f);
        const float e = (value - (q - code[c].zero) * code[c].scale) * inverse_diagonal;
        loss[c] += e * e;
#pragma unroll
        for (int i = 0; i < per; ++i) moved[c][i] -= e * u[i];
        if (c == count - 1 && lane == source) { codes[t] = q; errors[t] = e; }
      }
    }
  }
}

template <int per> __device__ __forceinline__ void store_codes(uint8_t* to, const float (&codes)[per], int lane) {
  if (per >= 2) {
#pragma unroll
    for (int i = 0; i + 1 < per; i += 2) to[(lane * per + i) / 2] = static_cast<uint8_t>(codes[i]) | static_cast<uint8_t>(codes[i + 1]) << 4;
    return;
  }
  const float next = __shfl_down_sync(0xffffffffu, codes[0], 1);
  if (lane % 2 == 0) to[lane / 2] = static_cast<uint8_t>(codes[0]) | static_cast<uint8_t>(next) << 4;
}

template <int per> __device__ __forceinline__ void round_group(const CalibrationRound& p) {
  extern __shared__ __align__(16) float upper[];
  constexpr int group = per * 32;
  float* inverse = upper + group * group;
  for (int i = threadIdx.x; i < group; i += blockDim.x) inverse[i] = 1.f / p.upper[i * p.n + i];
  load_matrix_to_shared<per>(p.upper, p.n, upper);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
  if (row >= p.rows) return;
  const int lane = threadIdx.x % 32;
  float* at = p.w + row * p.stride + lane * per;
  float w[per], codes[per], errors[per], low, high;
#pragma unroll
  for (int i = 0; i < per; ++i) w[i] = at[i];
  range_of<per>(w, low, high);
  int chosen = 0;
  if (p.steps > 1) {
    Code tried[steps_max];
    float loss[steps_max], best = INFINITY;
#pragma unroll
    for (int step = 0; step < steps_max; ++step) tried[step] = make_code_of(low, high, 1.f - step / 20.f);
    compensate<per, steps_max>(w, tried, upper, inverse, lane, loss, codes, errors);
#pragma unroll
    for (int step = 0; step < steps_max; ++step)
      if (loss[step] < best) { best = loss[step]; chosen = step; }
  }
  const Code code[1] = {make_code_of(low, high, 1.f - chosen / 20.f)};
  float loss[1];
  compensate<per, 1>(w, code, upper, inverse, lane, loss, codes, errors);
#pragma unroll
  for (int i = 0; i < per; ++i) {
    at[i] = (codes[i] - code[0].zero) * code[0].scale;
    p.error[row * group + lane * per + i] = errors[i];
  }
  store_codes<per>(p.codes + row * (p.stride / 2), codes, lane);
  if (lane != 0) return;
  p.scales[row * p.groups] = code[0].scale;
  p.zeros[row * p.groups] = static_cast<uint8_t>(code[0].zero);
  p.loss[row] += loss[0];
  p.narrowed[row] += chosen > 0 ? 1.f : 0.f;
}

}  // namespace

#define HEARTH_GROUP(per, group)                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(256) calibration_groups_##group##_kernel(const CalibrationGroups p) { round_nearest<per>(p); }               \
  extern "C" __global__ void __launch_bounds__(warps * 32) calibration_clip_##group##_kernel(const CalibrationClip p) { clip_group<per>(p); }                \
  extern "C" __global__ void __launch_bounds__(warps * 32) calibration_round_##group##_kernel(const CalibrationRound p) { round_group<per>(p); }
HEARTH_GROUP(1, 32)
HEARTH_GROUP(2, 64)
HEARTH_GROUP(4, 128)

// Tiles of 64 rows by 64 columns, 16 of the group's columns at a time.
extern "C" __global__ void __launch_bounds__(256) calibration_push_kernel(const CalibrationPush p) {
  __shared__ float errors[16][65], uppers[16][64];
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * 64, column0 = static_cast<int64_t>(blockIdx.y) * 64;
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  float sums[4][4] = {};
  for (int k = 0; k < p.group; k += 16) {
    for (int i = threadIdx.x; i < 16 * 64; i += 256) {
      const int64_t row = row0 + i / 16, column = column0 + i % 64;
      errors[i % 16][i / 16] = row < p.rows ? p.error[row * p.group + k + i % 16] : 0.f;
      uppers[i / 64][i % 64] = column < p.columns ? p.upper[(k + i / 64) * p.n + column] : 0.f;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      float e[4], u[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) { e[i] = errors[j][ty * 4 + i]; u[i] = uppers[j][tx + 16 * i]; }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int l = 0; l < 4; ++l) sums[i][l] += e[i] * u[l];
    }
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i)
    for (int l = 0; l < 4; ++l) {
      const int64_t row = row0 + ty * 4 + i, column = column0 + tx + 16 * l;
      if (row < p.rows && column < p.columns) p.w[row * p.stride + column] -= sums[i][l];
    }
}
