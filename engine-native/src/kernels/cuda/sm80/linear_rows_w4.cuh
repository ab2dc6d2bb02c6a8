// W4A16 linears of 1 to 8 rows at the speed of memory. One block a multiprocessor, so that the next kernel's blocks are
// resident and loading while this one's finish. A block owns consecutive 16-row tiles of the weight, in memory one stream
// of units that its 16 warps take in turn, each through a ring of its own in shared memory (one bulk copy a unit on
// Hopper, cp.async before): no barrier stands between a load and its use, and the first units are under way before the
// kernel waits for its predecessor. Activations sit in shared memory in the order of the tensor-core fragments. The
// 8-column tile costs nothing extra at one row: it also sums over k within a quad.
//
// A nibble under the exponent of 1024 (128 in bfloat16) is a number without further work; the constant it adds to a
// group's sum is (1024 + zero) * sum(x), taken off in f32 with the group's sum of activations, which all tiles share.
#pragma once

#include "kernels/cuda/common.cuh"

namespace hearth::kernels::cuda {

constexpr int w4_rows_warps = 16, w4_rows_threads = w4_rows_warps * 32;

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
template <class T> __device__ __forceinline__ float sum8(uint4 v) {
  const float2 a = unpack2<T>(v.x), b = unpack2<T>(v.y), c = unpack2<T>(v.z), d = unpack2<T>(v.w);
  return ((a.x + a.y) + (b.x + b.y)) + ((c.x + c.y) + (d.x + d.y));
}

template <class T> struct RawNibbles;
template <> struct RawNibbles<__half> {  // rows g: 1024 + q; rows g + 8: 1024 + 16 q
  static constexpr float base_low = 1024, base_high = 64, factor_high = 0.0625f;
  static __device__ __forceinline__ void decode(uint32_t w, uint32_t (&a)[4]) {
    const uint32_t w8 = w >> 8;
    a[0] = and_or(w, 0x000f000fu, 0x64006400u);
    a[1] = and_or(w, 0x00f000f0u, 0x64006400u);
    a[2] = and_or(w8, 0x000f000fu, 0x64006400u);
    a[3] = and_or(w8, 0x00f000f0u, 0x64006400u);
  }
};
template <> struct RawNibbles<__nv_bfloat16> {  // 128 + q
  static constexpr float base_low = 128, base_high = 128, factor_high = 1;
  static __device__ __forceinline__ void decode(uint32_t w, uint32_t (&a)[4]) {
    a[0] = and_or(w, 0x000f000fu, 0x43004300u);
    a[1] = and_or(w >> 4, 0x000f000fu, 0x43004300u);
    a[2] = and_or(w >> 8, 0x000f000fu, 0x43004300u);
    a[3] = and_or(w >> 12, 0x000f000fu, 0x43004300u);
  }
};

// BULK (Hopper): the last warp loads for all, one bulk copy of a unit for every other warp at a time. Otherwise each warp
// loads its own units with cp.async.
template <class T, int GROUP, int STAGES, bool BULK>
__device__ __forceinline__ void linear_rows_w4(const LinearArgs& p) {
  using U = Unit<GROUP>;
  extern __shared__ __align__(128) char shared[];
  __shared__ __align__(8) uint64_t full[STAGES], empty[STAGES];
  constexpr int workers = BULK ? w4_rows_warps - 1 : w4_rows_warps;  // warps that multiply
  __shared__ float squares[8 * w4_rows_warps];
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  const int x_stride = p.k_padded * 2 + 64;  // 64: neighbouring rows fall into different banks
  const int pairs = (p.rows + 1) / 2;        // live lanes of a quad: each has two rows
  float4* red = reinterpret_cast<float4*>(shared + workers * STAGES * U::bytes);               // [pass][workers][8][pairs]
  float* sums = reinterpret_cast<float*>(red + p.pass * workers * 8 * pairs);                  // [k / GROUP][8]
  char* xs = reinterpret_cast<char*>(sums + p.k_padded / GROUP * 8);                           // [rows][x_stride]

  const int units = p.k_padded / 128;
  const unsigned some = p.tiles / gridDim.x, more = p.tiles % gridDim.x;  // the first `more` blocks have one tile more
  const int tile_begin = blockIdx.x * some + min(blockIdx.x, more), tile_end = tile_begin + some + (blockIdx.x < more);

  // The loader walks the passes; a turn is one unit for every worker.
  int load_tile = tile_begin - p.pass, load_left = 0, load_slot = 0;
  const char* source = nullptr;
  const uint64_t policy = evict_first_policy();
  auto next_pass = [&] {  // false: nothing is left
    while (load_left <= 0) {
      if (load_tile + p.pass >= tile_end) return false;
      load_tile += p.pass;
      load_left = min(p.pass, tile_end - load_tile) * units - (BULK ? 0 : warp);  // units from the source on
      source = static_cast<const char*>(p.weight) + (static_cast<int64_t>(load_tile) * units + (BULK ? 0 : warp)) * U::bytes;
    }
    return true;
  };
  const uint32_t full_address = shared_address(full), empty_address = shared_address(empty);
  auto load_next = [&] {
    if constexpr (BULK) {
#if __CUDA_ARCH__ >= 900
      const int bytes = min(load_left, workers) * U::bytes;
      const uint32_t to = shared_address(shared) + load_slot * workers * U::bytes, barrier = full_address + load_slot * 8;
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(source), "r"(bytes), "r"(barrier), "l"(policy) : "memory");
#endif
    } else {
      const uint32_t to = shared_address(shared) + (load_slot * workers + warp) * U::bytes;
      copy16_once(to + lane * 16, source + lane * 16, policy);
      copy16_once(to + 512 + lane * 16, source + 512 + lane * 16, policy);
      if (lane < (U::bytes - 1024) / 16) copy16_once(to + 1024 + lane * 16, source + 1024 + lane * 16, policy);
    }
    load_slot = load_slot + 1 == STAGES ? 0 : load_slot + 1;
    source += workers * U::bytes;
    load_left -= workers;
  };
  if constexpr (BULK) {
    if (warp == workers && lane == 0) {
      for (int i = 0; i < STAGES; ++i) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(full_address + i * 8) : "memory");
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(empty_address + i * 8), "n"(workers) : "memory");
      }
#if __CUDA_ARCH__ >= 900
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
#pragma unroll 1
      for (int i = 0; i < STAGES && next_pass(); ++i) load_next();
    }
  } else {
#pragma unroll 1
    for (int i = 0; i < STAGES - 1; ++i) {
      if (next_pass()) load_next();
      copy_commit();
    }
  }

  // A fused RMS norm is applied in two halves: here x * weight / 16 (16: room in f16 for residuals up to 10^6), and in the
  // epilogue the row's 16 / rms, since the product is linear. So nobody waits for the sum of squares here.
  const bool normed = p.norm == norm_rms;
  launch_dependents();
  wait_predecessors();
  // Four rows' loads at a time: one after the other, each would wait for memory that the ring's copies keep busy.
  constexpr int abreast = 4;
#pragma unroll 1
  for (int n0 = 0; n0 < p.rows; n0 += abreast) {
    float square[abreast] = {};
#pragma unroll 1
    for (int k = thread * 8; k < p.k_padded; k += w4_rows_threads * 8) {
      const bool inside = k < p.in, wide = p.x_type == type_f32;
      uint4 raw[abreast][2];
#pragma unroll
      for (int i = 0; i < abreast; ++i) {
        const int64_t at = (n0 + i) * p.x_stride + k;
        const bool live = inside && n0 + i < p.rows;
        const uint4* from = wide ? reinterpret_cast<const uint4*>(static_cast<const float*>(p.x) + at) : reinterpret_cast<const uint4*>(static_cast<const T*>(p.x) + at);
        raw[i][0] = live ? __ldcg(from) : make_uint4(0, 0, 0, 0);
        raw[i][1] = live && wide ? __ldcg(from + 1) : make_uint4(0, 0, 0, 0);
      }
      float4 wa = make_float4(1, 1, 1, 1), wb = wa;
      if (normed && inside) {
        wa = __ldg(reinterpret_cast<const float4*>(p.norm_weight + k)); wb = __ldg(reinterpret_cast<const float4*>(p.norm_weight + k) + 1);
        wa.x *= 0.0625f; wa.y *= 0.0625f; wa.z *= 0.0625f; wa.w *= 0.0625f; wb.x *= 0.0625f; wb.y *= 0.0625f; wb.z *= 0.0625f; wb.w *= 0.0625f;
      }
#pragma unroll
      for (int i = 0; i < abreast; ++i) {
        if (n0 + i >= p.rows) continue;
        uint4 v = raw[i][0];
        if (wide) {
          const float4 a = *reinterpret_cast<const float4*>(&raw[i][0]), b = *reinterpret_cast<const float4*>(&raw[i][1]);
          if (normed) square[i] += a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w + b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w;
          v = pack8<T>(make_float4(a.x * wa.x, a.y * wa.y, a.z * wa.z, a.w * wa.w), make_float4(b.x * wb.x, b.y * wb.y, b.z * wb.z, b.w * wb.w));
        }
        w4_store_x(xs + (n0 + i) * x_stride, k, v);
        // k_padded is a multiple of 128, so the 16 lanes of a half warp are in the loop together.
        float sum = sum8<T>(v);
#pragma unroll
        for (int d = GROUP / 16; d > 0; d >>= 1) sum += __shfl_xor_sync(0xffffu << (lane & 16), sum, d);
        if (k % GROUP == 0) sums[k / GROUP * 8 + n0 + i] = sum;
      }
    }
#pragma unroll
    for (int i = 0; i < abreast; ++i) {
      if (!normed || n0 + i >= p.rows) continue;
      square[i] = warp_sum(square[i]);
      if (lane == 0) squares[(n0 + i) * w4_rows_warps + warp] = square[i];
    }
  }
  __syncthreads();

  // Columns beyond the rows multiply some live row: their sums are never stored.
  const char* x_lane = xs + min(g, p.rows - 1) * x_stride + t * 16;
  const float* sums_lane = sums + 2 * t;
  int slot = 0, parity = 0, loaded = STAGES, load_limit = STAGES, load_parity = 0;
#pragma unroll 1
  for (int tile0 = tile_begin; tile0 < tile_end; tile0 += p.pass) {
    const int count = min(p.pass, tile_end - tile0);
    // Warp w finishes tile w of the pass: rows g and g + 8, activation rows 2 t and 2 t + 1.
    const int my_tile = tile0 + warp;
    const bool finishes = warp < count && t < pairs;
    float factor_low = 0, factor_high = 0, old[4] = {0, 0, 0, 0};
    if (finishes) {
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
    float total[4] = {0, 0, 0, 0};
    int local = 0, unit = warp;
    auto flush = [&] {
      if (t < pairs) red[((local * workers + warp) * 8 + g) * pairs + t] = make_float4(total[0], total[1], total[2], total[3]);
      total[0] = total[1] = total[2] = total[3] = 0;
      ++local;
      unit -= units;
    };
    const int turns = (count * units + workers - 1) / workers;
    // The loader runs up to STAGES turns ahead, into the next pass too: those slots are freed before the pass's barrier.
    load_limit += turns;
    if (BULK && warp == workers) {
      if (lane == 0) {
#pragma unroll 1
        while (loaded < load_limit && next_pass()) {
#if __CUDA_ARCH__ >= 900
          asm volatile("{\n.reg .pred done;\nwait:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra wait;\n}" ::"r"(empty_address + load_slot * 8), "r"(load_parity) : "memory");
#endif
          if (load_slot == STAGES - 1) load_parity ^= 1;
          load_next();
          ++loaded;
        }
      }
      __syncwarp();
    }
    // Every worker takes every turn of the pass, also one that has no unit for it.
    const int mine = warp == workers ? 0 : turns - ((turns - 1) * workers + warp >= count * units ? 1 : 0);
#pragma unroll 1
    for (int i = 0; i < mine; ++i) {
      while (unit >= units) flush();
      uint4 x[4];
#pragma unroll
      for (int b = 0; b < 4; ++b) x[b] = *reinterpret_cast<const uint4*>(x_lane + unit * 256 + b * 64);
      if constexpr (BULK) {
#if __CUDA_ARCH__ >= 900
        asm volatile("{\n.reg .pred done;\nwait:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra wait;\n}" ::"r"(full_address + slot * 8), "r"(parity) : "memory");
#endif
      } else {
        copy_wait<STAGES - 2>();
        __syncwarp();  // also: every lane is done with the slot that is loaded next
        if (next_pass()) load_next();
        copy_commit();
      }
      const char* from = shared + (slot * workers + warp) * U::bytes;
      const uint32_t release = empty_address + slot * 8;
      if (++slot == STAGES) { slot = 0; parity ^= 1; }
      const uint4 first = *reinterpret_cast<const uint4*>(from + lane * 16), second = *reinterpret_cast<const uint4*>(from + 512 + lane * 16);
      const uint32_t words[8] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
#pragma unroll
      for (int group = 0; group < U::groups; ++group) {
        using Raw = RawNibbles<T>;
        const float2 scale = unpack2<__half>(*reinterpret_cast<const uint32_t*>(from + U::scales + group * 32 + g * 4));
        const uint32_t zero = *reinterpret_cast<const uint8_t*>(from + U::zeros + group * 8 + g);
        const float2 sum = *reinterpret_cast<const float2*>(sums_lane + (unit * U::groups + group) * 8);
        // The zero point as a float by the same trick.
        const float zero_low = __uint_as_float(0x4B000000u | (zero & 15u)) - (8388608.f - Raw::base_low), zero_high = __uint_as_float(0x4B000000u | (zero >> 4)) - (8388608.f - Raw::base_high);
        float even[4] = {0, 0, 0, 0}, odd[4] = {0, 0, 0, 0};
#pragma unroll
        for (int b = group * (GROUP / 32); b < (group + 1) * (GROUP / 32); ++b) {
          uint32_t a[4];
          Raw::decode(words[b * 2], a);
          mma<T>(even, a, x[b].x, x[b].y);
          Raw::decode(words[b * 2 + 1], a);
          mma<T>(odd, a, x[b].z, x[b].w);
        }
        total[0] += scale.x * ((even[0] + odd[0]) - zero_low * sum.x);
        total[1] += scale.x * ((even[1] + odd[1]) - zero_low * sum.y);
        total[2] += scale.y * ((even[2] + odd[2]) * Raw::factor_high - zero_high * sum.x);
        total[3] += scale.y * ((even[3] + odd[3]) * Raw::factor_high - zero_high * sum.y);
      }
      if constexpr (BULK) {
#if __CUDA_ARCH__ >= 900
        __syncwarp();
        if (lane == 0) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(release) : "memory");
#endif
      }
      unit += workers;
    }
    if (BULK && warp < workers && mine < turns) {  // a turn without a unit still frees its slot
#if __CUDA_ARCH__ >= 900
      asm volatile("{\n.reg .pred done;\nwait:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra wait;\n}" ::"r"(full_address + slot * 8), "r"(parity) : "memory");
      if (lane == 0) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(empty_address + slot * 8) : "memory");
#endif
      if (++slot == STAGES) { slot = 0; parity ^= 1; }
    }
    while (warp < workers && local < count) flush();
    __syncthreads();
    if (finishes) {
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int w = 0; w < workers; ++w) {
        const float4 v = red[((warp * workers + w) * 8 + g) * pairs + t];
        sum.x += v.x; sum.y += v.y; sum.z += v.z; sum.w += v.w;
      }
      float norm[2] = {1, 1};
      if (normed) {
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
#pragma unroll 1
        for (int i = 0; i < 2; ++i) linear_store_pair(p, 2 * t + i, my_tile, g, i ? out[1] : out[0], i ? out[3] : out[2]);
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
    if (tile0 + p.pass < tile_end) __syncthreads();  // the sums are read before the next pass writes them
  }
  if constexpr (!BULK) copy_wait<0>();
}

}  // namespace hearth::kernels::cuda
