// Linears of many rows on tensor cores (mma.sync, Ampere and later): a block makes BM outputs x BN rows, weights as the M
// operand, decoded in registers. K is fed 128 bytes of activations at a time through a ring of cp.async stages. With few
// tiles the (tile, k) units are dealt to the blocks in equal contiguous stripes; a tile shared by several blocks is summed
// by whichever finishes last, always in the order of k, so that results do not depend on timing. HALF: sums of half_sums.cuh.
#pragma once

#include "kernels/cuda/sm80/half_sums.cuh"

namespace hearth::kernels::cuda {

constexpr int tile_threads = 256;

template <int KIND, int NG, int BM, int BN> struct TileStage {
  static constexpr int k = KIND == kind_int8 ? 128 : 64;
  static constexpr int m_tiles = BM / 16;
  static constexpr int weight_bytes = KIND == kind_w4 ? m_tiles * 512 : BM * 128;
  static constexpr int meta_bytes = KIND == kind_w4 ? m_tiles * NG * 40 : 0;
  static constexpr int x_offset = (weight_bytes + meta_bytes + 127) / 128 * 128;
  static constexpr int bytes = x_offset + BN * 128;
};

template <class T, int KIND, int NG, int BM, int BN, int WARPS_M, int WARPS_N, int STAGES, bool HALF = false>
__device__ __forceinline__ void linear_tile(const LinearArgs& p) {
  using Stage = TileStage<KIND, NG, BM, BN>;
  static_assert(WARPS_M * WARPS_N * 32 == tile_threads);
  static_assert(!HALF || KIND == kind_w4);
  constexpr int element = KIND == kind_int8 ? 1 : 2;
  constexpr int MT = BM / 16 / WARPS_M, NT = BN / 8 / WARPS_N;
  extern __shared__ __align__(128) char shared[];
  __shared__ int shared_flag;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  const int warp_m = warp % WARPS_M, warp_n = warp / WARPS_M;
  const uint32_t base = shared_address(shared);
  const uint64_t policy = evict_first_policy();

  const int m_blocks = (p.tiles + Stage::m_tiles - 1) / Stage::m_tiles, n_blocks = (p.rows + BN - 1) / BN;
  const int chunks = (p.k_padded + Stage::k - 1) / Stage::k;
  const int64_t total = static_cast<int64_t>(m_blocks) * n_blocks * chunks;
  int64_t begin, end;
  if (p.whole_tiles) {
    begin = static_cast<int64_t>(blockIdx.x) * chunks;
    end = begin + chunks;
  } else {
    begin = total * blockIdx.x / gridDim.x;
    end = total * (blockIdx.x + 1) / gridDim.x;
  }
  // w4: a unit (linear_rows_w4.cuh) is two of this kernel's steps of 64 k.
  const int unit_bytes = p.unit_bytes, unit_groups = 128 / (KIND == kind_w4 ? p.group : 128);
  const int64_t tile_bytes = static_cast<int64_t>(p.k_padded / 128) * unit_bytes;
  // Rows of activations are read by ldmatrix (w4) or 16 bytes a lane (the others): each wants its own swizzle.
  auto swizzle = [](int row, int chunk) { return KIND == kind_w4 ? chunk ^ (row & 7) : chunk ^ ((row & 1) << 2); };

  // Where the loads are; divided once, then counted: a 64-bit division a stage took as long as its products.
  struct Cursor { int m_block, n_block, chunk; };
  const int begin_tile = static_cast<int>(begin / chunks);
  Cursor at{begin_tile / n_blocks, begin_tile % n_blocks, static_cast<int>(begin - static_cast<int64_t>(begin_tile) * chunks)};
  auto advance = [&] {
    if (++at.chunk < chunks) return;
    at.chunk = 0;
    if (++at.n_block == n_blocks) { at.n_block = 0; ++at.m_block; }
  };
  auto load_weights = [&](int slot) {
    const int chunk = at.chunk, first_tile = at.m_block * Stage::m_tiles;
    const uint32_t to = base + slot * Stage::bytes;
    if constexpr (KIND == kind_w4) {
#pragma unroll
      for (int i = 0; i < (Stage::m_tiles * 32 + tile_threads - 1) / tile_threads; ++i) {
        const int piece = i * tile_threads + thread, m = piece / 32;
        if (Stage::m_tiles * 32 % tile_threads == 0 || m < Stage::m_tiles) {
          const int source = min(first_tile + m, p.tiles - 1);
          copy16_once(to + piece * 16, static_cast<const char*>(p.weight) + source * tile_bytes + chunk / 2 * unit_bytes + chunk % 2 * 512 + lane * 16, policy);
        }
      }
      constexpr int pieces = Stage::m_tiles * NG;  // per piece: 32 bytes of scales, 8 of zero points
      if (thread < pieces * 3) {
        const int piece = thread / 3, part = thread % 3, m = piece / NG, group = chunk % 2 * 64 / p.group + piece % NG;
        const char* unit = static_cast<const char*>(p.weight) + min(first_tile + m, p.tiles - 1) * tile_bytes + chunk / 2 * unit_bytes;
        const uint32_t meta = to + Stage::weight_bytes;
        if (part < 2) copy16(meta + piece * 32 + part * 16, unit + 1024 + group * 32 + part * 16);
        else copy8(meta + pieces * 32 + piece * 8, unit + 1024 + unit_groups * 32 + group * 8);
      }
    } else {
#pragma unroll
      for (int i = 0; i < BM * 8 / tile_threads; ++i) {
        const int piece = i * tile_threads + thread, r = piece / 8, c = piece % 8;
        const int row = first_tile * 16 + r, k = chunk * Stage::k + c * (16 / element);
        const bool valid = k < p.in && row < p.tiles * 16;
        copy16_once(to + r * 128 + ((c ^ ((r & 1) << 2)) * 16), static_cast<const char*>(p.weight) + (valid ? (static_cast<int64_t>(row) * p.in + k) * element : 0), policy, valid);
      }
    }
  };
  auto load_x = [&](int slot) {
    const int chunk = at.chunk, first_row = at.n_block * BN;
    const uint32_t to = base + slot * Stage::bytes + Stage::x_offset;
#pragma unroll
    for (int i = 0; i < (BN * 8 + tile_threads - 1) / tile_threads; ++i) {
      const int piece = i * tile_threads + thread, r = piece / 8, c = piece % 8;
      if (BN * 8 % tile_threads != 0 && r >= BN) continue;
      const int row = first_row + r, k = chunk * Stage::k + c * (16 / element);
      const bool valid = row < p.rows && k < p.in;
      copy16(to + r * 128 + swizzle(r, c) * 16, static_cast<const char*>(p.x) + (valid ? (row * p.x_stride + k) * element : 0), valid);
    }
  };

  const Cursor start = at;
#pragma unroll
  for (int i = 0; i < STAGES - 1; ++i)
    if (begin + i < end) { load_weights(i); advance(); }
  launch_dependents();
  wait_predecessors();
  at = start;
#pragma unroll
  for (int i = 0; i < STAGES - 1; ++i) {
    if (begin + i < end) { load_x(i); advance(); }
    copy_commit();
  }

  int slot = 0, slot_in = STAGES - 1, tile = begin_tile - 1;
  int64_t position = begin;
  bool first_segment = true;
  while (position < end) {
    ++tile;
    const int64_t tile_begin = static_cast<int64_t>(tile) * chunks, tile_end = tile_begin + chunks;
    const int64_t stop = end < tile_end ? end : tile_end;
    const bool whole = position == tile_begin && stop == tile_end;
    float c[MT][NT][4];
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int n = 0; n < NT; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) c[m][n][i] = 0;
    uint32_t half[HALF ? MT : 1][HALF ? NT : 1][2] = {};  // of a position's k

    for (; position < stop; ++position) {
      copy_wait<STAGES - 2>();
      __syncthreads();
      if (position + STAGES - 1 < end) {
        load_weights(slot_in);
        load_x(slot_in);
        advance();
      }
      copy_commit();
      slot_in = slot_in + 1 == STAGES ? 0 : slot_in + 1;
      const uint32_t from = base + slot * Stage::bytes, x_from = from + Stage::x_offset + (warp_n * NT * 8 + g) * 128;
      slot = slot + 1 == STAGES ? 0 : slot + 1;
      if constexpr (KIND == kind_w4) {
        uint4 words[MT];
#pragma unroll
        for (int m = 0; m < MT; ++m) words[m] = shared_load16(from + (warp_m * MT + m) * 512 + lane * 16);
        constexpr int pieces = Stage::m_tiles * NG;
#pragma unroll
        for (int block = 0; block < 2; ++block) {
          uint4 x[NT];
#pragma unroll
          for (int n = 0; n < NT; ++n)  // lane l gives the address of row l % 8, chunk l / 8; x.x .. x.w are b0, b1 of two steps
            x[n] = load_matrix(from + Stage::x_offset + ((warp_n * NT + n) * 8 + lane % 8) * 128 + ((block * 4 + lane / 8) ^ (lane & 7)) * 16);
#pragma unroll
          for (int m = 0; m < MT; ++m) {
            const int piece = (warp_m * MT + m) * NG + (NG == 2 ? block : 0);
            uint32_t zero_low, zero_high, scale_low, scale_high, a[4];
            scale_constants<T>(shared_load4(from + Stage::weight_bytes + piece * 32 + g * 4), scale_low, scale_high);
            if constexpr (HALF) scale_half(scale_low), scale_half(scale_high);
            zero_constants<T>(shared_load1(from + Stage::weight_bytes + pieces * 32 + piece * 8 + g), zero_low, zero_high);
            decode4<T>(block ? words[m].z : words[m].x, zero_low, zero_high, a);
            scale4<T>(a, scale_low, scale_high);
#pragma unroll
            for (int n = 0; n < NT; ++n) multiply<HALF, T>(c[m][n], half[HALF ? m : 0][HALF ? n : 0], a, x[n].x, x[n].y, block == 0);
            decode4<T>(block ? words[m].w : words[m].y, zero_low, zero_high, a);
            scale4<T>(a, scale_low, scale_high);
#pragma unroll
            for (int n = 0; n < NT; ++n) multiply<HALF, T>(c[m][n], half[HALF ? m : 0][HALF ? n : 0], a, x[n].z, x[n].w, false);
          }
        }
      } else {
#pragma unroll
        for (int block = 0; block < 2; ++block) {
          const uint32_t chunk_at = ((block * 4 + t) ^ ((g & 1) << 2)) * 16;
          uint4 x[NT];
#pragma unroll
          for (int n = 0; n < NT; ++n) x[n] = shared_load16(x_from + n * 1024 + chunk_at);
#pragma unroll
          for (int m = 0; m < MT; ++m) {
            const uint32_t row = from + ((warp_m * MT + m) * 16 + g) * 128 + chunk_at;
            const uint4 low = shared_load16(row), high = shared_load16(row + 1024);
            const uint32_t a0[4] = {low.x, high.x, low.y, high.y}, a1[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
            for (int n = 0; n < NT; ++n) mma<T>(c[m][n], a0, x[n].x, x[n].y);
#pragma unroll
            for (int n = 0; n < NT; ++n) mma<T>(c[m][n], a1, x[n].z, x[n].w);
          }
        }
      }
    }

    if constexpr (HALF) {
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int n = 0; n < NT; ++n) add_half_sums(c[m][n], half[m][n]);
    }

    bool mine = true;
    if (!whole) {
      // Slot 0 of a block: its first tile; slot 1: its last, begun here and finished by a later block.
      constexpr int tile_floats = BM * BN;
      float4* to = reinterpret_cast<float4*>(p.partial) + (static_cast<int64_t>(blockIdx.x) * 2 + (first_segment ? 0 : 1)) * (tile_floats / 4);
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int n = 0; n < NT; ++n) to[(m * NT + n) * tile_threads + thread] = make_float4(c[m][n][0], c[m][n][1], c[m][n][2], c[m][n][3]);
      __threadfence();
      __syncthreads();
      const int first = static_cast<int>(((tile_begin + 1) * gridDim.x - 1) / total), last = static_cast<int>((tile_end * gridDim.x - 1) / total);
      if (thread == 0) {
        shared_flag = atomicAdd(p.counters + tile, 1) == last - first;
        if (shared_flag) p.counters[tile] = 0;
      }
      __syncthreads();
      mine = shared_flag != 0;
      if (mine) {
        __threadfence();
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
          for (int n = 0; n < NT; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) c[m][n][i] = 0;
        for (int b = first; b <= last; ++b) {
          const int piece = total * b / gridDim.x >= tile_begin ? 0 : 1;
          const float4* part = reinterpret_cast<const float4*>(p.partial) + (static_cast<int64_t>(b) * 2 + piece) * (tile_floats / 4);
#pragma unroll
          for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int n = 0; n < NT; ++n) {
              const float4 v = __ldcg(part + (m * NT + n) * tile_threads + thread);
              if constexpr (KIND == kind_int8) {
                c[m][n][0] = __int_as_float(__float_as_int(c[m][n][0]) + __float_as_int(v.x));
                c[m][n][1] = __int_as_float(__float_as_int(c[m][n][1]) + __float_as_int(v.y));
                c[m][n][2] = __int_as_float(__float_as_int(c[m][n][2]) + __float_as_int(v.z));
                c[m][n][3] = __int_as_float(__float_as_int(c[m][n][3]) + __float_as_int(v.w));
              } else {
                c[m][n][0] += v.x; c[m][n][1] += v.y; c[m][n][2] += v.z; c[m][n][3] += v.w;
              }
            }
        }
      }
    }
    first_segment = false;
    if (mine) {
      const int first_tile = tile / n_blocks * Stage::m_tiles + warp_m * MT, first_row = tile % n_blocks * BN + warp_n * NT * 8;
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        if (first_tile + m >= p.tiles) continue;
        float low = 1, high = 1;
        if (KIND != kind_dense16 || p.weight_scale) {
          low = __ldg(p.weight_scale + (first_tile + m) * 16 + g);
          high = __ldg(p.weight_scale + (first_tile + m) * 16 + g + 8);
        }
#pragma unroll
        for (int n = 0; n < NT; ++n) {
          const int row = first_row + n * 8 + 2 * t;
          if constexpr (KIND == kind_int8) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int r = row + (i & 1);
              const float x_scale = p.x_scale ? (r < p.rows ? __ldcg(p.x_scale + r) : 0.f) : p.static_scale;
              c[m][n][i] = static_cast<float>(__float_as_int(c[m][n][i])) * (i < 2 ? low : high) * x_scale;
            }
          }
          else {
            c[m][n][0] *= low; c[m][n][1] *= low; c[m][n][2] *= high; c[m][n][3] *= high;
          }
          linear_store_pair(p, row, first_tile + m, g, c[m][n][0], c[m][n][2]);
          linear_store_pair(p, row + 1, first_tile + m, g, c[m][n][1], c[m][n][3]);
        }
      }
    }
  }
  copy_wait<0>();
}

}  // namespace hearth::kernels::cuda
