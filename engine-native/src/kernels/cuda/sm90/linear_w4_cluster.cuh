// W4A16 linears of 4 rows and more on Hopper. A cluster of blocks owns consecutive 16-row tiles of the weight and its
// blocks share K between them, so that every multiprocessor streams the same number of bytes and reads only its part of
// the activations. A block walks its K once: a stage is 128 k of all its tiles (one copy of the tensor engine) and of the
// activations (two). Weights are decoded in registers and are the tensor cores' A operand (a warp's 16 rows are one tile),
// activations are B: mma.sync up to 32 rows, wgmma above. The blocks' sums meet in shared memory, always added in the
// order of K.
#pragma once

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/hopper_params.h"
#include "kernels/cuda/sm80/linear_rows_w4.cuh"
#include "kernels/cuda/sm90/wgmma.cuh"

namespace hearth::kernels::cuda {

constexpr int w4_cluster_stages_max = 12, w4_factor_tiles = 32;

// ---- Clusters ----

__device__ __forceinline__ uint32_t cluster_rank() { uint32_t v; asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(v)); return v; }
__device__ __forceinline__ uint32_t cluster_size() { uint32_t v; asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(v)); return v; }
__device__ __forceinline__ float4 cluster_load16(uint32_t address) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(address) : "memory");
  return v;
}

// ---- The copy engine ----

__device__ __forceinline__ void prefetch_map(const void* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
__device__ __forceinline__ void tensor_copy3(uint32_t to, const void* map, int a, int b, int c, uint32_t barrier, uint64_t policy) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6;"
      ::"r"(to), "l"(map), "r"(a), "r"(b), "r"(c), "r"(barrier), "l"(policy) : "memory");
}
__device__ __forceinline__ void prefetch_line(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p) : "memory"); }

__device__ __forceinline__ uint2 shared_load8(uint32_t address) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
  return v;
}
template <int THREADS> __device__ __forceinline__ void multipliers_sync() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }
// Keeps a value in its register instead of computing it again at every use.
__device__ __forceinline__ void keep(uint32_t& v) { asm volatile("" : "+r"(v)); }

template <int N> struct W4Tiles { static constexpr int value = N; };

// What a block has to do.
struct W4Share {
  int ranks, rank, shift;  // shift: log2 of ranks
  int tile_begin, tiles, unit_begin, unit_end, n_blocks, passes;
  __device__ __forceinline__ W4Share(const W4ClusterArgs& a, int n) {
    const LinearArgs& p = a.linear;
    ranks = cluster_size(); rank = cluster_rank();
    shift = ranks == 4 ? 2 : ranks - 1;
    const unsigned cluster = blockIdx.x >> shift, clusters = gridDim.x >> shift, units = p.k_padded / 128;
    const unsigned some = p.tiles / clusters, more = p.tiles % clusters;  // the first `more` clusters have one tile more
    tile_begin = cluster * some + min(static_cast<unsigned>(cluster), more);
    tiles = some + (cluster < more);
    unit_begin = units * rank >> shift;
    unit_end = units * (rank + 1) >> shift;
    n_blocks = (p.rows + n - 1) / n;
    passes = a.passes * n_blocks;
  }
  __device__ __forceinline__ int first(const W4ClusterArgs& a, int pass) const { return tile_begin + tiles * (pass / n_blocks) / a.passes; }
  __device__ __forceinline__ int count(const W4ClusterArgs& a, int pass) const { return first(a, pass + n_blocks) - first(a, pass); }
};

// Bytes of weights after the ring's, brought to the L2 while the kernel waits for its predecessors.
__device__ __forceinline__ void prefetch_weights(const W4ClusterArgs& args, const W4Share& share, int thread, int threads) {
  const LinearArgs& p = args.linear;
  const int from = share.unit_begin + args.stages, units = min(share.unit_end - from, args.prefetch);
  if (units <= 0) return;
  const int lines = (units * p.unit_bytes + 127) / 128, all = share.count(args, 0) * lines;
  for (int i = thread; i < all; i += threads)
    prefetch_line(static_cast<const char*>(p.weight) + (static_cast<int64_t>(share.tile_begin + i / lines) * (p.k_padded / 128) + from) * p.unit_bytes + i % lines * 128);
}

// The loading thread: fills the ring with weights, waits for the predecessors, then feeds both.
template <int N>
struct W4Loader {
  const W4ClusterArgs& args;
  const W4Share& share;
  const uint32_t ring, full0, empty0;
  const uint64_t policy = evict_first_policy();
  int slot = 0, parity = 1, loaded = 0, early = 0;
  // Of the pass; computed once, since a division a stage made this thread the slowest.
  const void* map = nullptr;
  int tile = 0, row = 0, bytes = 0;

  __device__ __forceinline__ void begin(int pass) {
    const int count = share.count(args, pass);
    tile = share.first(args, pass);
    row = pass % share.n_blocks * N;
    bytes = N * 256 + count * args.linear.unit_bytes;
    map = count > args.tiles_few ? &args.weight_more : &args.weight_few;
  }
  __device__ __forceinline__ void weights(int unit, uint32_t to, uint32_t barrier) const {
    barrier_expect(barrier, bytes);
    tensor_copy3(to + N * 256, map, 0, unit, tile, barrier, policy);
  }
  __device__ __forceinline__ void activations(int unit, uint32_t to, uint32_t barrier) const {
    tensor_copy(to, &args.x, unit * 128, row, barrier);
    tensor_copy(to + N * 128, &args.x, unit * 128 + 64, row, barrier);
  }
  __device__ __forceinline__ void fill() {
    early = min(args.stages, share.unit_end - share.unit_begin);
    begin(0);
    for (int i = 0; i < early; ++i) weights(share.unit_begin + i, ring + i * args.stage_bytes, full0 + i * 8);
  }
  __device__ __forceinline__ void feed(int pass) {
    const int stages = args.stages, stage_bytes = args.stage_bytes, end = share.unit_end;
    begin(pass);
    for (int unit = share.unit_begin; unit < end; ++unit, ++loaded) {
      const uint32_t to = ring + slot * stage_bytes, barrier = full0 + slot * 8;
      if (loaded >= stages) barrier_wait(empty0 + slot * 8, parity);
      if (loaded >= early) weights(unit, to, barrier);
      activations(unit, to, barrier);
      if (++slot == stages) { slot = 0; parity ^= 1; }
    }
  }
};

// A nibble as the tensor cores take it and what has to be taken off its products: up to 16 rows the nibble under an
// exponent as it is, its constant taken off with the sum of the activations (a product with ones); above, q - zero, since
// sums of many rows cost more than a subtraction a weight.
template <class T, bool RAW> struct W4Nibbles {
  uint32_t low, high;          // RAW: bits of the constants as floats; else packed pairs
  float2 scale;
  __device__ __forceinline__ void load(uint32_t scales, uint32_t zeros) {
    scale = unpack2<__half>(shared_load4(scales));
    const uint32_t byte = shared_load1(zeros);
    if constexpr (RAW) {  // the float 2^23 + z by its bits; rows g + 8 of f16 come in as 1024 + 16 q
      constexpr bool half = RawNibbles<T>::factor_high != 1;
      low = __float_as_uint(__uint_as_float(0x4B000000u | (byte & 15u)) - (8388608.f - RawNibbles<T>::base_low));
      high = __float_as_uint(__uint_as_float(0x4B000000u | (half ? byte & 240u : byte >> 4)) - (8388608.f - RawNibbles<T>::base_low));
      scale.y *= RawNibbles<T>::factor_high;
    } else {
      zero_constants<T>(byte, low, high);
    }
  }
  __device__ __forceinline__ void decode(uint32_t word, uint32_t (&a)[4]) const {
    if constexpr (RAW) RawNibbles<T>::decode(word, a);
    else decode4<T>(word, low, high, a);
  }
  // c as a sum of weights: `sum`, of the activations of this lane's two columns.
  __device__ __forceinline__ void correct(float (&c)[4], const float (&sum)[4]) const {
    if constexpr (RAW) {
      const float l = __uint_as_float(low), h = __uint_as_float(high);
      c[0] -= l * sum[0]; c[1] -= l * sum[1];
      c[2] -= h * sum[0]; c[3] -= h * sum[1];
    }
  }
};

// Half a stage of mma.sync: 64 k of the tiles whose units lie at `from`, and of N rows of activations (the lane's are at `row`).
template <int N, int MT>
__device__ __forceinline__ void load_half_stage(const uint32_t (&from)[MT], uint32_t row, uint32_t swizzle, int half, uint32_t lane, uint4 (&words)[MT], uint4 (&v)[N / 8][2]) {
#pragma unroll
  for (int m = 0; m < MT; ++m) words[m] = shared_load16(from[m] + half * 512 + lane * 16);
#pragma unroll
  for (int n = 0; n < N / 8; ++n)
#pragma unroll
    for (int b = 0; b < 2; ++b) v[n][b] = load_matrix(row + half * N * 128 + n * 1024 + (swizzle ^ b * 4) * 16);
}

// One stage by mma.sync, of every COLUMNS-th tile from `column` on: d[tile] += weights * x. Straight through without
// branches, so that MT tiles' chains of loads, decoding and products overlap; tiles beyond the last are computed again and
// not stored.
template <class T, bool G128, int N, int MT, int MT_MAX, int COLUMNS>
__device__ __forceinline__ void w4_stage_mma(int group, int unit_bytes, uint32_t x, uint32_t weights, int column, uint32_t lane, int last, float (&d)[MT_MAX][N / 2]) {
  constexpr bool raw = N <= 16;
  constexpr uint32_t one = RawNibbles<T>::factor_high == 1 ? 0x3F803F80u : 0x3C003C00u;
  const uint32_t ones[4] = {one, one, one, one}, g = lane / 4;
  uint32_t from[MT];
#pragma unroll
  for (int m = 0; m < MT; ++m) from[m] = weights + min(column + m * COLUMNS, last) * unit_bytes;
  auto constants = [&](uint32_t unit, int step) {  // of the group that 16-wide step `step` is in
    const int at = G128 ? 0 : step * 16 / group, groups = G128 ? 1 : 128 / group;
    W4Nibbles<T, raw> nibbles;
    nibbles.load(unit + 1024 + at * 32 + g * 4, unit + 1024 + groups * 32 + at * 8 + g);
    return nibbles;
  };
  const uint32_t row = x + lane % 8 * 128, swizzle = lane / 8 ^ (lane & 7);
  float c[MT][N / 8][4], sum[N / 8][4];
  W4Nibbles<T, raw> nibbles[MT];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint4 v[N / 8][2], words[MT];
    load_half_stage<N>(from, row, swizzle, half, lane, words, v);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool begins = G128 ? half == 0 && i == 0 : i % 2 == 0, ends = G128 ? half == 1 && i == 3 : i % 2 == 1;  // a scale's steps
      if constexpr (raw) {
#pragma unroll
        for (int n = 0; n < N / 8; ++n) {
          const uint4 b = v[n][i / 2];
          if (begins) sum[n][0] = sum[n][1] = sum[n][2] = sum[n][3] = 0;
          mma<T>(sum[n], ones, i % 2 ? b.z : b.x, i % 2 ? b.w : b.y);
        }
      }
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        const uint32_t word = i == 0 ? words[m].x : i == 1 ? words[m].y : i == 2 ? words[m].z : words[m].w;
        uint32_t a[4];
        if (!raw && begins) nibbles[m] = constants(from[m], half * 4 + i);
        nibbles[m].decode(word, a);
#pragma unroll
        for (int n = 0; n < N / 8; ++n) {
          const uint4 b = v[n][i / 2];
          if (begins) c[m][n][0] = c[m][n][1] = c[m][n][2] = c[m][n][3] = 0;
          mma<T>(c[m][n], a, i % 2 ? b.z : b.x, i % 2 ? b.w : b.y);
        }
        if (!ends) continue;
        if (raw) nibbles[m] = constants(from[m], half * 4 + i);  // late, for the registers' sake
#pragma unroll
        for (int n = 0; n < N / 8; ++n) {
          nibbles[m].correct(c[m][n], sum[n]);
          d[m][n * 4] += nibbles[m].scale.x * c[m][n][0]; d[m][n * 4 + 1] += nibbles[m].scale.x * c[m][n][1];
          d[m][n * 4 + 2] += nibbles[m].scale.y * c[m][n][2]; d[m][n * 4 + 3] += nibbles[m].scale.y * c[m][n][3];
        }
      }
    }
  }
}

// A group's nibbles as weights, for rows g and g + 8 of a tile. Sums are `lift` too small.
template <class T> struct W4Exact {
  static constexpr float lift = 1;
  uint32_t zero_low, zero_high, scale_low, scale_high;
  __device__ __forceinline__ void load(uint32_t scales, uint32_t zeros) {
    scale_constants<T>(scales, scale_low, scale_high);
    zero_constants<T>(zeros, zero_low, zero_high);
  }
  __device__ __forceinline__ void decode(uint32_t w, uint32_t (&a)[4]) const {
    decode4<T>(w, zero_low, zero_high, a);
    scale4<T>(a, scale_low, scale_high);
  }
};
// The same of f16 in two instructions a pair: a nibble without an exponent is the subnormal q 2^-24 (the high one q 2^-20),
// which one product with its scale lifts to q s 2^-9 and the addition in it makes (q - z) s 2^-9. z s is rounded, too.
template <class T> struct W4Scaled : W4Exact<T> {};
template <> struct W4Scaled<__half> {
  static constexpr float lift = 512;
  uint32_t scale_low, scale_high, offset_low, offset_high;
  static __device__ __forceinline__ uint32_t times(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
  }
  __device__ __forceinline__ void load(uint32_t scales, uint32_t zeros) {
    uint32_t low, high;
    scale_constants<__half>(scales, low, high);
    const uint32_t zero_low = half2_add(0x64006400u + (zeros & 15u) * 0x00010001u, 0xE400E400u), zero_high = half2_add(0x64006400u + (zeros >> 4) * 0x00010001u, 0xE400E400u);
    offset_low = times(times(zero_low, low), 0x98009800u);  // -2^-9
    offset_high = times(times(zero_high, high), 0x98009800u);
    scale_low = times(low, 0x78007800u);                    // 2^15
    scale_high = times(high, 0x68006800u);                  // 2^11
  }
  __device__ __forceinline__ void decode(uint32_t w, uint32_t (&a)[4]) const {
    const uint32_t w8 = w >> 8;
    a[0] = half2_fma(w & 0x000f000fu, scale_low, offset_low);
    a[1] = half2_fma(w & 0x00f000f0u, scale_high, offset_high);
    a[2] = half2_fma(w8 & 0x000f000fu, scale_low, offset_low);
    a[3] = half2_fma(w8 & 0x00f000f0u, scale_high, offset_high);
  }
};

// One stage by mma.sync with groups of 128 and few rows, MT tiles from `column` on. Sums are W4Scaled's lift too small.
template <class T, int N, int MT, int MT_MAX>
__device__ __forceinline__ void w4_stage_mma_scaled(int unit_bytes, uint32_t x, uint32_t weights, int column, uint32_t lane, int last, float (&d)[MT_MAX][N / 2]) {
  const uint32_t g = lane / 4, row = x + lane % 8 * 128, swizzle = lane / 8 ^ (lane & 7);
  uint32_t from[MT];
  W4Scaled<T> scaled[MT];
#pragma unroll
  for (int m = 0; m < MT; ++m) {
    from[m] = weights + min(column + m, last) * unit_bytes;
    scaled[m].load(shared_load4(from[m] + 1024 + g * 4), shared_load1(from[m] + 1056 + g));
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint4 v[N / 8][2], words[MT];
    load_half_stage<N>(from, row, swizzle, half, lane, words, v);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        uint32_t a[4];
        scaled[m].decode(i == 0 ? words[m].x : i == 1 ? words[m].y : i == 2 ? words[m].z : words[m].w, a);
#pragma unroll
        for (int n = 0; n < N / 8; ++n) {
          const uint4 b = v[n][i / 2];
          mma<T>(*reinterpret_cast<float(*)[4]>(&d[m][n * 4]), a, i % 2 ? b.z : b.x, i % 2 ? b.w : b.y);
        }
      }
  }
}

// One stage by wgmma, STEP 16-wide steps of k between two commits: blocks of four tiles from `column` on, every
// COLUMNS-th; of each the halves [half_begin, half_end) of k. BOTH: the words of both halves are read at once, for whom there
// are registers. `free_previous` is called when the stage before is done.
template <class T, bool G128, int N, int MT, int STEP, bool BOTH = false, class Weights = W4Exact<T>, class Free>
__device__ __forceinline__ void w4_stage_wgmma(int group, int unit_bytes, uint32_t x, uint32_t weights, int tile, int tile_step, int blocks, int last, int half_begin, int half_end, uint32_t lane,
                                               float (&d)[MT][N / 2], Free&& free_previous) {
  const uint32_t g = lane / 4, x_low = descriptor_low(x);
  bool freed = false;
#pragma unroll
  for (int m = 0; m < MT; ++m) {
    if (m >= blocks) continue;
    const uint32_t from = weights + min(m * tile_step + tile, last) * unit_bytes;
    Weights group_weights;
    auto constants = [&](int at, int groups) { group_weights.load(shared_load4(from + 1024 + at * 32 + g * 4), shared_load1(from + 1024 + groups * 32 + at * 8 + g)); };
    uint4 halves[2];
    if constexpr (BOTH) { halves[0] = shared_load16(from + lane * 16); halves[1] = shared_load16(from + 512 + lane * 16); }
    if constexpr (G128) constants(0, 1);
    uint32_t a[2 * STEP][4];  // two turns' worth
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (half < half_begin || half >= half_end) continue;
      const uint4 v = BOTH ? halves[half] : shared_load16(from + half * 512 + lane * 16);
      const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int s = 0; s < 4; s += STEP) {
#pragma unroll
        for (int i = s; i < s + STEP; ++i) {
          if constexpr (!G128) {
            if (i % 2 == 0) constants((half * 64 + i * 16) / group, 128 / group);
          }
          group_weights.decode(words[i], a[(half * 4 + i) % (2 * STEP)]);
        }
        wgmma_fence();
#pragma unroll
        for (int i = s; i < s + STEP; ++i) WgmmaRegisters<T, N>::run(d[m], a[(half * 4 + i) % (2 * STEP)], descriptor_step(x_low, half * N * 128 + i * 32));
        wgmma_commit();
        wgmma_wait<1>();  // what came before is done: its registers, and at first the stage before, are free
        if (!freed) { free_previous(); freed = true; }
      }
    }
  }
}

__device__ __forceinline__ void add_to(float* to, float v) { asm volatile("red.global.add.f32 [%0], %1;" ::"l"(to), "f"(v) : "memory"); }

// The sums of the cluster's blocks and of a block's halves, added in the order of k and stored: tile i of the pass by block
// i % ranks, a warp 8 rows of one at a time. In each block they lie as [half][tile][8 rows][lane].
template <int N>
__device__ __forceinline__ void w4_finish(const LinearArgs& p, const W4Share& share, const float* factors, float lift, int workers, int halves, uint32_t sums, int first, int count, int row0, int warp) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int live = (min(N, p.rows - row0) + 7) / 8, jobs = ((count - share.rank + share.ranks - 1) >> share.shift) * (N / 8);
#pragma unroll 1
  for (int job = warp; job < jobs; job += workers) {
    const int tile = share.rank + (job / (N / 8) << share.shift), j = job % (N / 8), row = row0 + j * 8 + 2 * t, column = (first + tile) * 16 + g;
    if (j >= live) continue;
    const float low = factors[(first + tile) * 16 + g] * lift, high = factors[(first + tile) * 16 + g + 8] * lift;
    float4 v[4][2];
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t from = sums + (((h * count + tile) * (N / 8) + j) * 32 + lane) * 16;
        v[r][h] = r < share.ranks && h < halves ? cluster_load16(address_in(from, r)) : make_float4(0, 0, 0, 0);
      }
    float a = 0, b = 0, c = 0, d = 0;
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int h = 0; h < 2; ++h) { a += v[r][h].x; b += v[r][h].y; c += v[r][h].z; d += v[r][h].w; }
    // One addition an element, by the L2: the same bits as loading it first, and nothing waits for it.
    if (p.residual && !p.gated && !p.bias && p.activation == activation_none && column + 8 < p.out) {
      float* y = static_cast<float*>(p.y) + row * p.y_stride + column;
      if (row < p.rows) { add_to(y, a * low); add_to(y + 8, c * high); }
      if (row + 1 < p.rows) { add_to(y + p.y_stride, b * low); add_to(y + p.y_stride + 8, d * high); }
      continue;
    }
    linear_store_pair(p, row, first + tile, g, a * low, c * high);
    linear_store_pair(p, row + 1, first + tile, g, b * low, d * high);
  }
}

// G128: groups of 128; otherwise any. N: rows of activations a pass. WORKERS: warps that multiply. MT: tiles (wgmma:
// blocks of four) a warp holds sums for. STEP: 0 for mma.sync, else see w4_stage_wgmma. LOAD_REGISTERS, MULTIPLY_REGISTERS:
// what a thread of each kind keeps with wgmma.
template <class T, bool G128, int N, int WORKERS, int MT, int STEP, int LOAD_REGISTERS, int MULTIPLY_REGISTERS>
__device__ __forceinline__ void linear_w4_cluster(const W4ClusterArgs& args) {
  using Weights = std::conditional_t<(STEP > 0), W4Scaled<T>, W4Exact<T>>;
  const LinearArgs& p = args.linear;
  extern __shared__ __align__(1024) char shared[];
  __shared__ __align__(8) uint64_t full[w4_cluster_stages_max], empty[w4_cluster_stages_max];
  __shared__ float factors_shared[w4_factor_tiles * 16];
  uint32_t ring = (shared_address(shared) + 1023) & ~1023u, full0 = shared_address(full), empty0 = shared_address(empty);
  const int thread = threadIdx.x, warp = thread / 32;
  uint32_t lane = thread % 32;
  keep(ring); keep(full0); keep(empty0); keep(lane);
  const W4Share share(args, N);
  W4Loader<N> loader{args, share, ring, full0, empty0};
  if (thread == WORKERS * 32) {
    prefetch_map(&args.weight_few); prefetch_map(&args.weight_more); prefetch_map(&args.x);
    for (int i = 0; i < args.stages; ++i) { barrier_init(full0 + i * 8, 1); barrier_init(empty0 + i * 8, STEP > 0 ? WORKERS : WORKERS / 2); }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    loader.fill();
  }
  __syncthreads();
  launch_dependents();

  if (warp >= WORKERS) {
    if constexpr (LOAD_REGISTERS > 0) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(LOAD_REGISTERS));
    wait_predecessors();
    for (int pass = 0; pass < share.passes; ++pass) {
      if (thread == WORKERS * 32) loader.feed(pass);
      __syncwarp();
      // The cluster reads this block's sums from the ring before the next pass's weights go there.
      if (share.ranks > 1) { cluster_sync(); cluster_sync(); }
    }
    return;
  }
  if constexpr (LOAD_REGISTERS > 0) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(MULTIPLY_REGISTERS));
  prefetch_weights(args, share, thread, WORKERS * 32);
  // The rows' factors, before they are wanted at the very end; of many tiles they stay where they are.
  const float* factors = p.weight_scale;
  if (share.tiles <= w4_factor_tiles) {
    for (int i = thread; i < share.tiles * 16; i += WORKERS * 32) factors_shared[i] = __ldg(p.weight_scale + share.tile_begin * 16 + i);
    factors = factors_shared - share.tile_begin * 16;
  }
  wait_predecessors();
  const int stages = args.stages, stage_bytes = args.stage_bytes, unit_bytes = G128 ? Unit<128>::bytes : p.unit_bytes, group = G128 ? 128 : p.group;
  const int steps = share.unit_end - share.unit_begin;
  uint32_t slot_ring = ring, slot_full = full0, slot_empty = empty0;
  int slot = 0, parity = 0;
  auto next_slot = [&] {
    slot_ring += stage_bytes; slot_full += 8; slot_empty += 8;
    if (++slot == stages) { slot = 0; parity ^= 1; slot_ring = ring; slot_full = full0; slot_empty = empty0; }
  };
  for (int pass = 0; pass < share.passes; ++pass) {
    const int first = share.first(args, pass), count = share.count(args, pass), row0 = pass % share.n_blocks * N;
    // Where this warp's sums belong: tiles tile, tile + tile_step, ..., and which part of k they are.
    int tile, tile_step, halves, half;
    float d[MT][N / 2];
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int i = 0; i < N / 2; ++i) d[m][i] = 0;
    if constexpr (STEP > 0) {
      constexpr int groups = WORKERS / 4;
      halves = groups == 4 && count <= 8 * MT ? 2 : 1;  // few tiles: pairs of warpgroups share them
      const int columns = groups / halves, warpgroup = warp / 4;
      half = groups == 4 ? warpgroup / columns : 0;
      tile = warpgroup % columns * 4 + warp % 4;
      tile_step = columns * 4;
      const int blocks = ((count + 3) / 4 - warpgroup % columns + columns - 1) / columns, half_end = groups == 4 && halves == 2 ? half + 1 : 2;
      uint32_t previous = 0;
      for (int i = 0; i < steps; ++i) {
        barrier_wait(slot_full, parity);
        w4_stage_wgmma<T, G128, N, MT, STEP, false, Weights>(group, unit_bytes, slot_ring, slot_ring + N * 256, tile, tile_step, blocks, count - 1, half, half_end, lane, d,
                                             [&] { if (previous && lane == 0) barrier_arrive(previous); });
        if (blocks > 0) previous = slot_empty;
        else if (lane == 0) barrier_arrive(slot_empty);
        next_slot();
      }
      wgmma_wait<0>();
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int i = 0; i < N / 2; ++i) asm volatile("" : "+f"(d[m][i])::"memory");
      if (previous && lane == 0) barrier_arrive(previous);
    } else {
      constexpr int columns = WORKERS / 2;
      halves = 2; half = warp / columns; tile = warp % columns; tile_step = columns;
      auto walk = [&](auto tiles) {
        for (int i = 0; i < steps; ++i, next_slot()) {
          if (i % 2 != half) continue;
          barrier_wait(slot_full, parity);
          w4_stage_mma<T, G128, N, decltype(tiles)::value, MT, columns>(group, unit_bytes, slot_ring, slot_ring + N * 256, tile, lane, count - 1, d);
          __syncwarp();
          if (lane == 0) barrier_arrive(slot_empty);
        }
      };
      if (count <= columns) walk(W4Tiles<1>{});
      else if (MT == 2 || count <= 2 * columns) walk(W4Tiles<2>{});
      else walk(W4Tiles<MT>{});
    }

    const int g = lane / 4, t = lane % 4, live = (min(N, p.rows - row0) + 7) / 8;  // eights of rows
    if (halves == 1 && share.ranks == 1) {
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        const int at = m * tile_step + tile;
        if (at >= count) continue;
        const float low = __ldg(p.weight_scale + (first + at) * 16 + g) * Weights::lift, high = __ldg(p.weight_scale + (first + at) * 16 + g + 8) * Weights::lift;
#pragma unroll
        for (int j = 0; j < N / 8; ++j) {
          if (j >= live) continue;
          const int row = row0 + j * 8 + 2 * t;
          linear_store_pair(p, row, first + at, g, d[m][4 * j] * low, d[m][4 * j + 2] * high);
          linear_store_pair(p, row + 1, first + at, g, d[m][4 * j + 1] * low, d[m][4 * j + 3] * high);
        }
      }
      continue;
    }
    // The ring is drained (or the sums have their own place): they go to w4_finish.
    const uint32_t sums = ring + args.sums;
    multipliers_sync<WORKERS * 32>();
#pragma unroll
    for (int m = 0; m < MT; ++m) {
      const int at = m * tile_step + tile;
      if (at >= count) continue;
#pragma unroll
      for (int j = 0; j < N / 8; ++j)
        if (j < live)
          asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(sums + (((half * count + at) * (N / 8) + j) * 32 + lane) * 16), "f"(d[m][4 * j]), "f"(d[m][4 * j + 1]), "f"(d[m][4 * j + 2]), "f"(d[m][4 * j + 3]) : "memory");
    }
    if (share.ranks == 1) {
      multipliers_sync<WORKERS * 32>();
      w4_finish<N>(p, share, factors, Weights::lift, WORKERS, halves, sums, first, count, row0, warp);
      continue;
    }
    cluster_sync();
    w4_finish<N>(p, share, factors, Weights::lift, WORKERS, halves, sums, first, count, row0, warp);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // the copy engine writes here next
    cluster_sync();
  }
}

}  // namespace hearth::kernels::cuda
