// FP16, BF16 and int8 linears of 1 to 8 rows. A block owns 16-row tiles of the weight; its 8 warps share a tile along
// k, each with a ring of its own in shared memory that cp.async fills, so that no barrier stands between a load and its
// use. Weights of the first stages are under way before the kernel waits for its predecessor. Activations (normalised on
// the way in when the norm is fused) sit in shared memory. The 8-column tensor-core tile costs nothing extra at one row:
// it also sums over k within a quad.
#pragma once

#include "kernels/cuda/common.cuh"

namespace hearth::kernels::cuda {

constexpr int rows_warps = 8, rows_threads = rows_warps * 32;
constexpr int rows_norm_width = 8192;  // widest row the fused norm keeps in registers

// Bytes of one ring stage and k elements it covers.
template <int KIND> struct RowsStage {
  static constexpr int k = KIND == kind_dense16 ? 64 : 128;
  static constexpr int bytes = 2048;
};

// Activations to shared memory as T, `stride` bytes a row, normalised if asked, zero beyond `in`.
template <class T>
__device__ __forceinline__ void rows_load_x(const LinearArgs& p, char* xs, int stride, float* scratch) {
  const int k_stop = p.k_padded;
  if (p.norm == norm_none) {
    for (int n = 0; n < p.rows; ++n)
      for (int k = threadIdx.x * 8; k < k_stop; k += rows_threads * 8) {
        uint4 v = make_uint4(0, 0, 0, 0);
        if (k < p.in) {
          if (p.x_type == type_f32) {
            const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(p.x) + n * p.x_stride + k);
            float4 a = __ldcg(from), b = __ldcg(from + 1);
            v = make_uint4(pack2<T>(a.x, a.y), pack2<T>(a.z, a.w), pack2<T>(b.x, b.y), pack2<T>(b.z, b.w));
          } else {
            v = __ldcg(reinterpret_cast<const uint4*>(static_cast<const T*>(p.x) + n * p.x_stride + k));
          }
        }
        *reinterpret_cast<uint4*>(xs + n * stride + k * 2) = v;
      }
    return;
  }
  constexpr int pieces = rows_norm_width / (rows_threads * 4);
  for (int n = 0; n < p.rows; ++n) {  // x is f32 here
    float4 v[pieces];
    float sum = 0;
    const float* x = static_cast<const float*>(p.x) + n * p.x_stride;
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      const int k = (i * rows_threads + threadIdx.x) * 4;
      v[i] = k < p.in ? __ldcg(reinterpret_cast<const float4*>(x + k)) : make_float4(0, 0, 0, 0);
    }
    float mean = 0;
    if (p.norm == norm_layer) {
#pragma unroll
      for (int i = 0; i < pieces; ++i) sum += v[i].x + v[i].y + v[i].z + v[i].w;
      mean = block_sum(sum, scratch) / p.in;
      sum = 0;
    }
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      const int k = (i * rows_threads + threadIdx.x) * 4;
      if (k < p.in) {
        v[i].x -= mean; v[i].y -= mean; v[i].z -= mean; v[i].w -= mean;
        sum += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
      }
    }
    const float inverse = rsqrtf(block_sum(sum, scratch) / p.in + p.norm_epsilon);
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      const int k = (i * rows_threads + threadIdx.x) * 4;
      if (k >= k_stop) continue;
      float4 w = make_float4(0, 0, 0, 0), b = make_float4(0, 0, 0, 0);
      if (k < p.in) {
        w = __ldg(reinterpret_cast<const float4*>(p.norm_weight + k));
        if (p.norm_bias) b = __ldg(reinterpret_cast<const float4*>(p.norm_bias + k));
      }
      uint2 packed = make_uint2(pack2<T>(v[i].x * inverse * w.x + b.x, v[i].y * inverse * w.y + b.y),
                                pack2<T>(v[i].z * inverse * w.z + b.z, v[i].w * inverse * w.w + b.w));
      *reinterpret_cast<uint2*>(xs + n * stride + k * 2) = packed;
    }
  }
}

// int8 activations, quantised by an earlier kernel, [rows, k_padded].
__device__ __forceinline__ void rows_load_x8(const LinearArgs& p, char* xs, int stride) {
  for (int n = 0; n < p.rows; ++n)
    for (int k = threadIdx.x * 16; k < p.k_padded; k += rows_threads * 16)
      *reinterpret_cast<uint4*>(xs + n * stride + k) = __ldcg(reinterpret_cast<const uint4*>(static_cast<const int8_t*>(p.x) + n * p.x_stride + k));
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
      {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int chunk = lane % 8, r = i * 4 + lane / 8;
          const int row = next_tile * 16 + r, k = next_unit * Stage::k + chunk * (16 / element);
          const bool valid = k < p.in && row < p.tiles * 16;
          const char* from = static_cast<const char*>(p.weight) + (valid ? (static_cast<int64_t>(row) * p.in + k) * element : 0);
          copy16_once(to + r * 128 + ((chunk ^ ((r & 1) << 2)) * 16), from, policy, valid);
        }
      }
      slot_in = slot_in + 1 == STAGES ? 0 : slot_in + 1;
      next_unit += rows_warps;
      if (next_unit >= units) { next_unit = warp; next_tile += gridDim.x; }
    }
    copy_commit();
  };

#pragma unroll
  for (int i = 0; i < STAGES - 1; ++i) load_next();
  launch_dependents();
  wait_predecessors();
  if constexpr (KIND == kind_int8) rows_load_x8(p, xs, x_stride);
  else rows_load_x<T>(p, xs, x_stride, scratch);
  __syncthreads();

  const bool column_live = g < p.rows;
  const uint32_t x_lane = x_base + g * x_stride + t * 16;
  int slot = 0, buffer = 0;
  for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x, buffer ^= 1) {
    float total[4] = {0, 0, 0, 0}, part[2][4] = {};
    for (int unit = warp; unit < units; unit += rows_warps) {
      copy_wait<STAGES - 2>();
      __syncwarp();
      load_next();
      const uint32_t from = my_ring + slot * Stage::bytes;
      slot = slot + 1 == STAGES ? 0 : slot + 1;
      {
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
    __syncthreads();
    if (warp == tile % rows_warps) {
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
      linear_store_pair(p, 2 * t, tile, g, sum[0], sum[2]);
      linear_store_pair(p, 2 * t + 1, tile, g, sum[1], sum[3]);
    }
  }
  copy_wait<0>();
}

}  // namespace hearth::kernels::cuda
