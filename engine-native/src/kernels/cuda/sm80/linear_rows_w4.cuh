// W4A16 linears of 1 to 8 rows at the speed of memory. A block owns a few consecutive 16-row tiles of the weight; its 8
// warps share them along k, each with a ring of its own in shared memory (one bulk copy a unit on Hopper, cp.async before),
// so that no barrier stands between a load and its use. The first units are under way before the kernel waits for its
// predecessor. Activations, normalised on the way in when the norm is fused, sit in shared memory in the order of the
// tensor-core fragments. The 8-column tile costs nothing extra at one row: it also sums over k within a quad. Group sums
// are scaled in f32, so the weights themselves are exact integers. A pass over up to TP tiles needs one barrier; what the
// epilogue reads (row factors, residual) is fetched before the pass.
#pragma once

#include "kernels/cuda/common.cuh"

namespace hearth::kernels::cuda {

constexpr int w4_rows_warps = 8, w4_rows_threads = w4_rows_warps * 32;

// A unit is 16 rows by 128 k: 1024 bytes of weights, then f16 scales and 4-bit zero points of its groups.
template <int GROUP> struct Unit {
  static constexpr int groups = 128 / GROUP;
  static constexpr int scales = 1024, zeros = scales + groups * 32, bytes = (zeros + groups * 8 + 15) / 16 * 16;
};

// Eight consecutive activations (k a multiple of 8) as packed pairs, to where the fragments of their 16-step want them.
__device__ __forceinline__ void w4_store_x(char* row, int k, uint4 v) {
  char* to = row + (k / 32) * 64 + (k / 16 % 2) * 8 + (k / 8 % 2) * 4;
  *reinterpret_cast<uint32_t*>(to) = v.x;
  *reinterpret_cast<uint32_t*>(to + 16) = v.y;
  *reinterpret_cast<uint32_t*>(to + 32) = v.z;
  *reinterpret_cast<uint32_t*>(to + 48) = v.w;
}

template <class T> __device__ __forceinline__ uint4 pack8(const float4& a, const float4& b) {
  return make_uint4(pack2<T>(a.x, a.y), pack2<T>(a.z, a.w), pack2<T>(b.x, b.y), pack2<T>(b.z, b.w));
}

template <class T, int GROUP, int TP, int STAGES>
__device__ __forceinline__ void linear_rows_w4(const LinearArgs& p) {
  using U = Unit<GROUP>;
  extern __shared__ __align__(128) char shared[];
#if __CUDA_ARCH__ >= 900
  __shared__ __align__(8) uint64_t full[w4_rows_warps * STAGES];
#endif
  __shared__ float squares[8 * w4_rows_warps];
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  const int x_stride = p.k_padded * 2 + 64;  // 64: neighbouring rows fall into different banks
  float4* red = reinterpret_cast<float4*>(shared + w4_rows_warps * STAGES * U::bytes);  // [TP][warps][32]
  char* xs = reinterpret_cast<char*>(red + TP * w4_rows_warps * 32);
  const uint32_t ring = shared_address(shared) + warp * STAGES * U::bytes;
  const uint64_t policy = evict_first_policy();

  const int units = p.k_padded / 128;
  const int tile_begin = static_cast<int>(static_cast<int64_t>(p.tiles) * blockIdx.x / gridDim.x);
  const int tile_end = static_cast<int>(static_cast<int64_t>(p.tiles) * (blockIdx.x + 1) / gridDim.x);
  const int64_t tile_bytes = static_cast<int64_t>(units) * U::bytes;

  // The loader walks (pass, unit, tile of the pass).
  const char* pass_base = static_cast<const char*>(p.weight) + tile_begin * tile_bytes;
  const char* source = pass_base + warp * U::bytes;
  int load_left = warp < units ? tile_end - tile_begin : 0, load_unit = warp, load_tile = 0, load_slot = 0;
#if __CUDA_ARCH__ >= 900
  const uint32_t barriers = shared_address(full) + warp * STAGES * 8;
  if (lane == 0) {
#pragma unroll
    for (int i = 0; i < STAGES; ++i) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barriers + i * 8) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncwarp();
#endif
  auto load_next = [&] {
    if (load_left > 0) {
      const uint32_t to = ring + load_slot * U::bytes;
#if __CUDA_ARCH__ >= 900
      if (lane == 0) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barriers + load_slot * 8), "n"(U::bytes) : "memory");
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(source), "n"(U::bytes), "r"(barriers + load_slot * 8), "l"(policy) : "memory");
      }
#else
      copy16_once(to + lane * 16, source + lane * 16, policy);
      copy16_once(to + 512 + lane * 16, source + 512 + lane * 16, policy);
      if (lane < (U::bytes - 1024) / 16) copy16_once(to + 1024 + lane * 16, source + 1024 + lane * 16, policy);
#endif
      load_slot = load_slot + 1 == STAGES ? 0 : load_slot + 1;
      source += tile_bytes;
      if (++load_tile == min(TP, load_left)) {
        load_tile = 0;
        load_unit += w4_rows_warps;
        if (load_unit >= units) {
          load_unit = warp;
          load_left -= TP;
          pass_base += TP * tile_bytes;
        }
        source = pass_base + load_unit * U::bytes;
      }
    }
#if __CUDA_ARCH__ < 900
    copy_commit();
#endif
  };
#pragma unroll 1
  for (int i = 0; i < STAGES - 1; ++i) load_next();

  // ---- Activations ----
  // A fused RMS norm is applied in two halves: here x * weight / 16 (16: room in f16 for residuals up to 10^6), and in the
  // epilogue the row's 16 / rms, since the product is linear. So nobody waits for the sum of squares here.
  if (p.norm == norm_rms) {
    launch_dependents();
    wait_predecessors();
#pragma unroll 1
    for (int n = 0; n < p.rows; ++n) {
      const float* x = static_cast<const float*>(p.x) + n * p.x_stride;
      float sum = 0;
#pragma unroll 2
      for (int k = thread * 8; k < p.k_padded; k += w4_rows_threads * 8) {
        float4 v[2] = {make_float4(0, 0, 0, 0), make_float4(0, 0, 0, 0)};
        if (k < p.in) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const float4 w = __ldg(reinterpret_cast<const float4*>(p.norm_weight + k) + h);
            v[h] = __ldcg(reinterpret_cast<const float4*>(x + k) + h);
            sum += v[h].x * v[h].x + v[h].y * v[h].y + v[h].z * v[h].z + v[h].w * v[h].w;
            v[h].x *= 0.0625f * w.x; v[h].y *= 0.0625f * w.y; v[h].z *= 0.0625f * w.z; v[h].w *= 0.0625f * w.w;
          }
        }
        w4_store_x(xs + n * x_stride, k, pack8<T>(v[0], v[1]));
      }
      sum = warp_sum(sum);
      if (lane == 0) squares[n * w4_rows_warps + warp] = sum;
    }
  } else {
    launch_dependents();
    wait_predecessors();
#pragma unroll 1
    for (int n = 0; n < p.rows; ++n)
#pragma unroll 2
      for (int k = thread * 8; k < p.k_padded; k += w4_rows_threads * 8) {
        uint4 v = make_uint4(0, 0, 0, 0);
        if (k < p.in) {
          if (p.x_type == type_f32) {
            const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(p.x) + n * p.x_stride + k);
            v = pack8<T>(__ldcg(from), __ldcg(from + 1));
          } else {
            v = __ldcg(reinterpret_cast<const uint4*>(static_cast<const T*>(p.x) + n * p.x_stride + k));
          }
        }
        w4_store_x(xs + n * x_stride, k, v);
      }
  }
  __syncthreads();

  const bool live = g < p.rows;
  const uint32_t x_lane = shared_address(xs) + g * x_stride + t * 16;
  int slot = 0, parity = 0;
#pragma unroll 1
  for (int tile0 = tile_begin; tile0 < tile_end; tile0 += TP) {
    const int count = min(TP, tile_end - tile0);
    // Warp w finishes tile w of the pass: rows g and g + 8, activation rows 2 t and 2 t + 1.
    float factor_low = 0, factor_high = 0, old[4] = {0, 0, 0, 0};
    const int my_tile = tile0 + warp;
    if (warp < count) {
      factor_low = __ldg(p.weight_scale + my_tile * 16 + g);
      factor_high = __ldg(p.weight_scale + my_tile * 16 + g + 8);
      if (p.residual && !p.gated) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = 2 * t + (i & 1), column = my_tile * 16 + g + (i >> 1) * 8;
          if (row < p.rows && column < p.out) old[i] = __ldcg(static_cast<const float*>(p.y) + row * p.y_stride + column);
        }
      }
    }
    float total[TP][4];
#pragma unroll
    for (int j = 0; j < TP; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) total[j][i] = 0;
#pragma unroll 1
    for (int unit = warp; unit < units; unit += w4_rows_warps) {
      uint4 x[4];
#pragma unroll
      for (int b = 0; b < 4; ++b) {
        x[b] = make_uint4(0, 0, 0, 0);
        if (live) x[b] = *reinterpret_cast<const uint4*>(xs + g * x_stride + t * 16 + unit * 256 + b * 64);
      }
#pragma unroll
      for (int j = 0; j < TP; ++j) {
        if (j >= count) break;
#if __CUDA_ARCH__ >= 900
        asm volatile("{\n.reg .pred done;\nwait:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra wait;\n}" ::"r"(barriers + slot * 8), "r"(parity) : "memory");
#else
        copy_wait<STAGES - 2>();
#endif
        __syncwarp();  // also: every lane is done with the slot that is loaded next
        load_next();
        const char* from = shared + (warp * STAGES + slot) * U::bytes;
        if (++slot == STAGES) { slot = 0; parity ^= 1; }
        const uint4 first = *reinterpret_cast<const uint4*>(from + lane * 16), second = *reinterpret_cast<const uint4*>(from + 512 + lane * 16);
        const uint32_t words[8] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
#pragma unroll
        for (int group = 0; group < U::groups; ++group) {
          const float2 scale = unpack2<__half>(*reinterpret_cast<const uint32_t*>(from + U::scales + group * 32 + g * 4));
          uint32_t zero_low, zero_high;
          zero_constants<T>(*reinterpret_cast<const uint8_t*>(from + U::zeros + group * 8 + g), zero_low, zero_high);
          float even[4] = {0, 0, 0, 0}, odd[4] = {0, 0, 0, 0};
#pragma unroll
          for (int b = group * (GROUP / 32); b < (group + 1) * (GROUP / 32); ++b) {
            uint32_t a[4];
            decode4<T>(words[b * 2], zero_low, zero_high, a);
            mma<T>(even, a, x[b].x, x[b].y);
            decode4<T>(words[b * 2 + 1], zero_low, zero_high, a);
            mma<T>(odd, a, x[b].z, x[b].w);
          }
          total[j][0] += scale.x * (even[0] + odd[0]);
          total[j][1] += scale.x * (even[1] + odd[1]);
          total[j][2] += scale.y * (even[2] + odd[2]);
          total[j][3] += scale.y * (even[3] + odd[3]);
        }
      }
    }
    if (tile0 > tile_begin) __syncthreads();  // the last pass's sums have been read
#pragma unroll
    for (int j = 0; j < TP; ++j) red[(j * w4_rows_warps + warp) * 32 + lane] = make_float4(total[j][0], total[j][1], total[j][2], total[j][3]);
    __syncthreads();
    if (warp < count && 2 * t < p.rows) {
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int w = 0; w < w4_rows_warps; ++w) {
        const float4 v = red[(warp * w4_rows_warps + w) * 32 + lane];
        sum.x += v.x; sum.y += v.y; sum.z += v.z; sum.w += v.w;
      }
      float norm[2] = {1, 1};
      if (p.norm == norm_rms) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float square = 0;
#pragma unroll
          for (int w = 0; w < w4_rows_warps; ++w) square += squares[min(2 * t + i, p.rows - 1) * w4_rows_warps + w];
          norm[i] = 16.f * rsqrtf(square / p.in + p.norm_epsilon);
        }
      }
      const float out[4] = {sum.x * factor_low * norm[0], sum.y * factor_low * norm[1], sum.z * factor_high * norm[0], sum.w * factor_high * norm[1]};
      if (p.gated || !p.residual) {
        linear_store_pair(p, 2 * t, my_tile, g, out[0], out[2]);
        linear_store_pair(p, 2 * t + 1, my_tile, g, out[1], out[3]);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = 2 * t + (i & 1), column = my_tile * 16 + g + (i >> 1) * 8;
          if (row >= p.rows || column >= p.out) continue;
          const float v = activate(p.bias ? out[i] + p.bias[column] : out[i], p.activation);
          static_cast<float*>(p.y)[row * p.y_stride + column] = old[i] + v;
        }
      }
    }
  }
#if __CUDA_ARCH__ < 900
  copy_wait<0>();
#endif
}

}  // namespace hearth::kernels::cuda
