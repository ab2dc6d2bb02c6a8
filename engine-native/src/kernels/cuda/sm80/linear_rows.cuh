// FP16, BF16 and int8 linears of 1 to 8 rows, a block a multiprocessor. It owns 16-row tiles of the weight; eight warps share a
// tile along k, each with a ring of its own in shared memory that cp.async fills, so that no barrier stands between a load and
// its use. Eight more bring the activations (normalised on the way in when the norm is fused) and end: they alone wait for the
// kernel before, the others' rings fill meanwhile. The 8-column tensor-core tile costs nothing extra at one row: it also sums
// over k within a quad.
#pragma once

#include "kernels/cuda/common.cuh"

namespace hearth::kernels::cuda {

constexpr int rows_warps = 8, rows_feeders = 8;  // warps that multiply; warps that bring the activations
constexpr int rows_threads = (rows_warps + rows_feeders) * 32, rows_feeding = rows_feeders * 32;

// Bytes of one ring stage and k elements it covers.
template <int KIND> struct RowsStage {
  static constexpr int k = KIND == kind_dense16 ? 64 : 128;
  static constexpr int bytes = 2048;
};

__device__ __forceinline__ int rows_feeder() { return static_cast<int>(threadIdx.x) - rows_warps * 32; }
__device__ __forceinline__ void rows_feeders_meet() { asm volatile("bar.sync 1, %0;" ::"n"(rows_feeding) : "memory"); }
__device__ __forceinline__ void rows_multiplying_meet() { asm volatile("bar.sync 2, %0;" ::"n"(rows_warps * 32) : "memory"); }

// Activations to shared memory as T, `stride` bytes a row, zero beyond `in`.
template <class T>
__device__ __forceinline__ void rows_load_x(const LinearArgs& p, char* xs, int stride) {
  for (int n = 0; n < p.rows; ++n)
    for (int k = rows_feeder() * 8; k < p.k_padded; k += rows_feeding * 8) {
      uint4 v = make_uint4(0, 0, 0, 0);
      if (k < p.in) {
        if (p.x_type == type_f32) {
          const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(p.x) + n * p.x_stride + k);
          v = pack8<T>(__ldcg(from), __ldcg(from + 1));
        } else {
          v = __ldcg(reinterpret_cast<const uint4*>(static_cast<const T*>(p.x) + n * p.x_stride + k));
        }
      }
      *reinterpret_cast<uint4*>(xs + n * stride + k * 2) = v;
    }
}

// Activations normalised, from f32 rows of at most PIECES * 1024. The norm's weights are there before the wait for the kernel
// before; rows are read and reduced a few at a time. `scratch`: [warps][4] floats.
template <class T, int PIECES>
struct RowsNorm {
  static constexpr int at_once = 8 / PIECES;  // rows
  const LinearArgs& p;
  float* const scratch;
  float4 weight[PIECES];

  static __device__ __forceinline__ int place(int i) { return (i * rows_feeding + rows_feeder()) * 4; }
  __device__ __forceinline__ void load_weights() {
#pragma unroll
    for (int i = 0; i < PIECES; ++i) weight[i] = place(i) < p.in ? __ldg(reinterpret_cast<const float4*>(p.norm_weight + place(i))) : make_float4(0, 0, 0, 0);
  }
  // Sums over the block, in the same order every time, over the row's width.
  __device__ __forceinline__ void means(float (&v)[at_once]) const {
    const int warp = rows_feeder() / 32;
#pragma unroll
    for (int n = 0; n < at_once; ++n) v[n] = warp_sum(v[n]);
    rows_feeders_meet();
    if (threadIdx.x % 32 == 0)
#pragma unroll
      for (int n = 0; n < at_once; ++n) scratch[warp * 4 + n] = v[n];
    rows_feeders_meet();
#pragma unroll
    for (int n = 0; n < at_once; ++n) {
      float total = 0;
#pragma unroll
      for (int w = 0; w < rows_feeders; ++w) total += scratch[w * 4 + n];
      v[n] = total / p.in;
    }
  }
  __device__ __forceinline__ void load_rows(int first, char* xs, int stride) const {
    float4 v[at_once][PIECES];
    float mean[at_once];  // then of the squares
#pragma unroll
    for (int n = 0; n < at_once; ++n)
#pragma unroll
      for (int i = 0; i < PIECES; ++i)
        v[n][i] = first + n < p.rows && place(i) < p.in ? __ldcg(reinterpret_cast<const float4*>(static_cast<const float*>(p.x) + (first + n) * p.x_stride + place(i))) : make_float4(0, 0, 0, 0);
#pragma unroll
    for (int n = 0; n < at_once; ++n) mean[n] = 0;
    if (p.norm == norm_layer) {
#pragma unroll
      for (int n = 0; n < at_once; ++n)
#pragma unroll
        for (int i = 0; i < PIECES; ++i) mean[n] += v[n][i].x + v[n][i].y + v[n][i].z + v[n][i].w;
      means(mean);
    }
#pragma unroll
    for (int n = 0; n < at_once; ++n) {
      float squares = 0;
#pragma unroll
      for (int i = 0; i < PIECES; ++i)
        if (place(i) < p.in) {
          float4& x = v[n][i];
          x.x -= mean[n]; x.y -= mean[n]; x.z -= mean[n]; x.w -= mean[n];
          squares += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
        }
      mean[n] = squares;
    }
    means(mean);
#pragma unroll
    for (int i = 0; i < PIECES; ++i) {
      if (place(i) >= p.k_padded) continue;
      const float4 w = weight[i], b = p.norm_bias && place(i) < p.in ? __ldg(reinterpret_cast<const float4*>(p.norm_bias + place(i))) : make_float4(0, 0, 0, 0);
#pragma unroll
      for (int n = 0; n < at_once; ++n) {
        if (first + n >= p.rows) continue;
        const float inverse = rsqrtf(mean[n] + p.norm_epsilon);
        const float4 x = v[n][i];
        *reinterpret_cast<uint2*>(xs + (first + n) * stride + place(i) * 2) =
            make_uint2(pack2<T>(x.x * inverse * w.x + b.x, x.y * inverse * w.y + b.y), pack2<T>(x.z * inverse * w.z + b.z, x.w * inverse * w.w + b.w));
      }
    }
  }
};
template <class T, int PIECES>
__device__ __forceinline__ void rows_load_normed(const LinearArgs& p, char* xs, int stride, float* scratch) {
  RowsNorm<T, PIECES> norm{p, scratch};
  norm.load_weights();
  wait_predecessors();
#pragma unroll 1
  for (int n = 0; n < p.rows; n += norm.at_once) norm.load_rows(n, xs, stride);
}

// The outputs that a lane stores of a tile, and what they are added to: asked for while the tile is multiplied.
struct RowsOutputs {
  const LinearArgs& p;
  float before[4];
  __device__ __forceinline__ float* place(int row, int column) const { return static_cast<float*>(p.y) + row * p.y_stride + column; }
  __device__ __forceinline__ void ask(int tile, int g, int t) {
    if (!p.residual || p.gated) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = 2 * t + i % 2, column = tile * 16 + g + i / 2 * 8;
      if (row < p.rows && column < p.out) before[i] = __ldcg(place(row, column));
    }
  }
  __device__ __forceinline__ void store(int tile, int g, int t, const float (&sum)[4]) const {
    if (!p.residual || p.gated) {
      linear_store_pair(p, 2 * t, tile, g, sum[0], sum[2]);
      linear_store_pair(p, 2 * t + 1, tile, g, sum[1], sum[3]);
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = 2 * t + i % 2, column = tile * 16 + g + i / 2 * 8;
      if (row < p.rows && column < p.out) *place(row, column) = before[i] + activate(sum[i] + (p.bias ? p.bias[column] : 0.f), p.activation);
    }
  }
};

// int8 activations, quantised by an earlier kernel, [rows, k_padded].
__device__ __forceinline__ void rows_load_x8(const LinearArgs& p, char* xs, int stride) {
  for (int n = 0; n < p.rows; ++n)
    for (int k = rows_feeder() * 16; k < p.k_padded; k += rows_feeding * 16)
      *reinterpret_cast<uint4*>(xs + n * stride + k) = __ldcg(reinterpret_cast<const uint4*>(static_cast<const int8_t*>(p.x) + n * p.x_stride + k));
}

template <class T, int KIND>
__device__ __forceinline__ void rows_feed(const LinearArgs& p, char* xs, int stride, float* scratch) {
  if constexpr (KIND == kind_int8) {
    wait_predecessors();
    rows_load_x8(p, xs, stride);
  } else if (p.norm == norm_none) {
    wait_predecessors();
    rows_load_x<T>(p, xs, stride);
  } else if (p.in <= 4096) {
    rows_load_normed<T, 4>(p, xs, stride, scratch);
  } else {
    rows_load_normed<T, 8>(p, xs, stride, scratch);
  }
}

template <class T, int KIND, int STAGES>
__device__ __forceinline__ void linear_rows(const LinearArgs& p) {
  using Stage = RowsStage<KIND>;
  extern __shared__ __align__(128) char shared[];
  constexpr int element = KIND == kind_int8 ? 1 : 2;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int x_stride = p.k_padded * element + 64;  // 64: two neighbouring rows fall into different banks
  char* ring = shared;
  float* red = reinterpret_cast<float*>(shared + rows_warps * STAGES * Stage::bytes);  // [2][warps][32][4]
  float* scratch = red + 2 * rows_warps * 128;                                         // [36]
  char* xs = reinterpret_cast<char*>(scratch + 36);
  const uint32_t my_ring = shared_address(ring) + warp * STAGES * Stage::bytes;
  const uint32_t x_base = shared_address(xs);
  const uint64_t policy = evict_first_policy();

  const int units = p.k_padded / Stage::k;                     // stages of one tile
  const int mine = units > warp ? (units - warp + rows_warps - 1) / rows_warps : 0;
  int next_tile = blockIdx.x, next_unit = warp, slot_in = 0;   // what is loaded next

  auto load_next = [&] {
    if (next_tile < p.tiles && mine > 0) {
      const uint32_t to = my_ring + slot_in * Stage::bytes;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int chunk = lane % 8, r = i * 4 + lane / 8;
        const int row = next_tile * 16 + r, k = next_unit * Stage::k + chunk * (16 / element);
        const bool valid = k < p.in && row < p.tiles * 16;
        const char* from = static_cast<const char*>(p.weight) + (valid ? (static_cast<int64_t>(row) * p.in + k) * element : 0);
        copy16_once(to + r * 128 + ((chunk ^ ((r & 1) << 2)) * 16), from, policy, valid);
      }
      slot_in = slot_in + 1 == STAGES ? 0 : slot_in + 1;
      next_unit += rows_warps;
      if (next_unit >= units) { next_unit = warp; next_tile += gridDim.x; }
    }
    copy_commit();
  };

  launch_dependents();
  if (warp >= rows_warps) {
    rows_feed<T, KIND>(p, xs, x_stride, scratch);
  } else {
#pragma unroll
    for (int i = 0; i < STAGES - 1; ++i) {
      load_next();
#if __CUDA_ARCH__ >= 900
      // Two stages under way at a time: activations would wait behind all of a ring.
      copy_wait<1>();
#endif
    }
  }
  __syncthreads();
  if (warp >= rows_warps) return;

  const bool column_live = g < p.rows;
  const uint32_t x_lane = x_base + g * x_stride + t * 16;
  int slot = 0, buffer = 0;
  for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x, buffer ^= 1) {
    float total[4] = {0, 0, 0, 0}, part[2][4] = {};
    const bool finishes = warp == tile % rows_warps;
    RowsOutputs outputs{p};
    if (finishes) outputs.ask(tile, g, t);
    for (int unit = warp; unit < units; unit += rows_warps) {
      copy_wait<STAGES - 2>();
      __syncwarp();
      load_next();
      const uint32_t from = my_ring + slot * Stage::bytes;
      slot = slot + 1 == STAGES ? 0 : slot + 1;
#pragma unroll
      for (int block = 0; block < 2; ++block) {
        uint4 x = make_uint4(0, 0, 0, 0);
        if (column_live) x = shared_load16(x_lane + unit * 128 + block * 64);
        const uint32_t chunk = ((block * 4 + t) ^ ((g & 1) << 2)) * 16;
        const uint4 low = shared_load16(from + g * 128 + chunk), high = shared_load16(from + (g + 8) * 128 + chunk);
        const uint32_t a0[4] = {low.x, high.x, low.y, high.y}, a1[4] = {low.z, high.z, low.w, high.w};
        mma<T>(part[0], a0, x.x, x.y);
        mma<T>(part[1], a1, x.z, x.w);
      }
    }
    if constexpr (KIND == kind_int8) {
#pragma unroll
      for (int i = 0; i < 4; ++i) total[i] = __int_as_float(__float_as_int(part[0][i]) + __float_as_int(part[1][i]));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) total[i] = part[0][i] + part[1][i];
    }
    // Two buffers: the warp that adds up a tile is at the next tile's barrier before anyone writes its buffer again.
    float4* out = reinterpret_cast<float4*>(red) + buffer * rows_warps * 32;
    out[warp * 32 + lane] = make_float4(total[0], total[1], total[2], total[3]);
    rows_multiplying_meet();
    if (finishes) {
      float sum[4] = {0, 0, 0, 0};
      if constexpr (KIND == kind_int8) {
        int whole[4] = {0, 0, 0, 0};
#pragma unroll
        for (int w = 0; w < rows_warps; ++w) {
          const float4 v = out[w * 32 + lane];
          whole[0] += __float_as_int(v.x); whole[1] += __float_as_int(v.y);
          whole[2] += __float_as_int(v.z); whole[3] += __float_as_int(v.w);
        }
        const float low = p.weight_scale[tile * 16 + g], high = p.weight_scale[tile * 16 + g + 8];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = 2 * t + (i & 1);
          const float x_scale = p.x_scale ? (row < p.rows ? __ldcg(p.x_scale + row) : 0.f) : p.static_scale;
          sum[i] = static_cast<float>(whole[i]) * (i < 2 ? low : high) * x_scale;
        }
      } else {
#pragma unroll
        for (int w = 0; w < rows_warps; ++w) {
          const float4 v = out[w * 32 + lane];
          sum[0] += v.x; sum[1] += v.y; sum[2] += v.z; sum[3] += v.w;
        }
        if (p.weight_scale) {
          const float low = __ldg(p.weight_scale + tile * 16 + g), high = __ldg(p.weight_scale + tile * 16 + g + 8);
          sum[0] *= low; sum[1] *= low; sum[2] *= high; sum[3] *= high;
        }
      }
      outputs.store(tile, g, t, sum);
    }
  }
  copy_wait<0>();
}

}  // namespace hearth::kernels::cuda
