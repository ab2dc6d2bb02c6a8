// Linears of many rows on tensor cores with mma.sync (Ampere, Ada; Hopper when forced): a block makes 128 outputs x BN rows,
// weights as the M operand: 4-bit ones decoded in registers, 16-bit and int8 ones by ldmatrix. K is fed 128 bytes of
// activations at a time through a ring of cp.async stages; four warps share the outputs, two the rows. HALF: sums of half_sums.cuh.
#pragma once

#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/sm80/half_sums.cuh"

namespace hearth::kernels::cuda {

constexpr int mma_threads = 256, mma_outputs = 128;

template <int KIND, int NG, int BN> struct MmaStage {
  static constexpr int k = KIND == kind_int8 ? 128 : 64;
  static constexpr int weight_bytes = KIND == kind_w4 ? 8 * 512 : mma_outputs * 128;
  static constexpr int meta_bytes = KIND == kind_w4 ? 8 * NG * 40 : 0;
  static constexpr int x_offset = (weight_bytes + meta_bytes + 127) / 128 * 128;
  static constexpr int bytes = x_offset + BN * 128;
};

template <class T, int KIND, int NG, int BN, int STAGES, bool HALF = false> __device__ __forceinline__ void linear_mma(const LinearArgs& p) {
  static_assert(STAGES >= 3);
  static_assert(!HALF || KIND == kind_w4);
  using Stage = MmaStage<KIND, NG, BN>;
  constexpr int element = KIND == kind_int8 ? 1 : 2, warp_rows = BN / 2, NT = warp_rows / 8;
  extern __shared__ __align__(128) char shared[];
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4;
  const int warp_m = warp % 4, warp_n = warp / 4;
  const uint32_t base = shared_address(shared);
  int m, n;
  banded_tile(blockIdx.x, (p.tiles + 7) / 8, (p.rows + BN - 1) / BN, m, n);
  const int first_tile = m * 8, first_row = n * BN, blocks_k = (p.k_padded + Stage::k - 1) / Stage::k;
  const int unit_bytes = p.unit_bytes, unit_groups = 128 / (KIND == kind_w4 ? p.group : 128);
  const int64_t tile_bytes = static_cast<int64_t>(p.k_padded / 128) * unit_bytes;

  // Copies: a thread has one 16-byte column of every 32nd row.
  const int copy_row = thread / 8, copy_column = thread % 8 * 16;
  const uint32_t copy_to = copy_row * 128 + ((thread ^ copy_row) & 7) * 16;
  const int64_t x_step = 32 * p.x_stride * element, w_step = static_cast<int64_t>(32) * p.in * element;
  const char* x_from = static_cast<const char*>(p.x) + (first_row + copy_row) * p.x_stride * element + copy_column;
  const char* w_from = static_cast<const char*>(p.weight);
  // w4: what the first lanes copy of a unit's groups, 32 bytes of scales and 8 of zero points each, by 16 and 8.
  const int piece = lane / 3, part = lane % 3, meta_step = part < 2 ? 32 : 8;
  int meta_from = 0, meta_to = 0;
  if constexpr (KIND == kind_w4) {
    w_from += min(first_tile + warp, p.tiles - 1) * tile_bytes + lane * 16;
    meta_from = 1024 + (part < 2 ? part * 16 : unit_groups * 32) + piece * meta_step - lane * 16;
    meta_to = Stage::weight_bytes + (part < 2 ? part * 16 : 8 * NG * 32) + (warp * NG + piece) * meta_step;
  } else {
    w_from += static_cast<int64_t>(first_tile * 16 + copy_row) * p.in * element + copy_column;
  }
  auto load_weights = [&](int block, int slot) {
    const uint32_t to = base + slot * Stage::bytes;
    if constexpr (KIND == kind_w4) {
      const char* unit = w_from + static_cast<int64_t>(block / 2) * unit_bytes;
      copy16(to + thread * 16, unit + block % 2 * 512);
      if (lane < NG * 3) {
        const int group = NG == 2 ? block % 2 * 2 : unit_groups == 2 ? block % 2 : 0;  // the first of the block's
        const char* from = unit + meta_from + group * meta_step;
        if (part < 2) copy16(to + meta_to, from);
        else copy8(to + meta_to, from);
      }
    } else {
      const bool inside = block * 128 + copy_column < p.in * element;
#pragma unroll
      for (int i = 0; i < mma_outputs / 32; ++i) {
        const bool valid = inside && first_tile * 16 + copy_row + i * 32 < p.tiles * 16;
        copy16(to + copy_to + i * 4096, valid ? w_from + i * w_step + static_cast<int64_t>(block) * 128 : static_cast<const char*>(p.weight), valid);
      }
    }
  };
  // Of a tile whose rows are all there, and inputs that fill a block, nothing has to be asked copy by copy.
  const bool whole_rows = first_row + BN <= p.rows;
  auto load_x = [&](int block, int slot) {
    const uint32_t to = base + slot * Stage::bytes + Stage::x_offset + copy_to;
    const char* from = x_from + static_cast<int64_t>(block) * 128;
    if (whole_rows && (block + 1) * 128 <= p.in * element) {
#pragma unroll
      for (int i = 0; i < BN / 32; ++i, from += x_step) copy16(to + i * 4096, from);
      return;
    }
    const bool inside = block * 128 + copy_column < p.in * element;
#pragma unroll
    for (int i = 0; i < BN / 32; ++i) {
      const bool valid = inside && first_row + copy_row + i * 32 < p.rows;
      copy16(to + i * 4096, valid ? from + i * x_step : static_cast<const char*>(p.x), valid);
    }
  };

  // Fragments come one step ahead of their products: ldmatrix of 16 rows of x, and of 16 rows of weights or their decoding.
  const int x_row = warp_n * warp_rows + lane / 16 * 8 + lane % 8, w_row = warp_m * 32 + lane % 16;
  uint4 words[2];
  uint32_t zero_low[2][NG], zero_high[2][NG], scale_low[2][NG], scale_high[2][NG];
  auto load_words = [&](uint32_t from) {
    if constexpr (KIND == kind_w4) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        words[i] = shared_load16(from + (warp_m * 2 + i) * 512 + lane * 16);
#pragma unroll
        for (int q = 0; q < NG; ++q) {
          const int piece = (warp_m * 2 + i) * NG + q;
          scale_constants<T>(shared_load4(from + Stage::weight_bytes + piece * 32 + g * 4), scale_low[i][q], scale_high[i][q]);
          if constexpr (HALF) scale_half(scale_low[i][q]), scale_half(scale_high[i][q]);
          zero_constants<T>(shared_load1(from + Stage::weight_bytes + 8 * NG * 32 + piece * 8 + g), zero_low[i][q], zero_high[i][q]);
        }
      }
    }
  };
  auto load_x_fragment = [&](uint32_t from, int step, int j) {
    return load_matrix(from + Stage::x_offset + (x_row + j * 16) * 128 + (((2 * step + lane / 8 % 2) ^ x_row) & 7) * 16);
  };
  auto load_weight_fragment = [&](uint32_t from, int step, int i, uint32_t (&a)[4]) {
    if constexpr (KIND == kind_w4) {
      const int q = NG == 2 ? step / 2 : 0;
      decode4<T>(step == 0 ? words[i].x : step == 1 ? words[i].y : step == 2 ? words[i].z : words[i].w, zero_low[i][q], zero_high[i][q], a);
      scale4<T>(a, scale_low[i][q], scale_high[i][q]);
    } else {
      const uint4 v = load_matrix(from + (w_row + i * 16) * 128 + (((2 * step + lane / 16) ^ w_row) & 7) * 16);
      a[0] = v.x; a[1] = v.y; a[2] = v.z; a[3] = v.w;
    }
  };

#pragma unroll
  for (int i = 0; i < STAGES - 1; ++i)
    if (i < blocks_k) load_weights(i, i);
  launch_dependents();
  wait_predecessors();
#pragma unroll
  for (int i = 0; i < STAGES - 1; ++i) {
    if (i < blocks_k) load_x(i, i);
    copy_commit();
  }
  float d[2][NT * 4];
#pragma unroll
  for (int i = 0; i < NT * 4; ++i) d[0][i] = d[1][i] = 0;
  uint32_t half[2][HALF ? NT : 1][2] = {};  // of the block's k
  uint32_t a[2][2][4], from = base;
  uint4 x[2];
  copy_wait<STAGES - 2>();
  __syncthreads();
  load_words(from);
  load_weight_fragment(from, 0, 0, a[0][0]);
  load_weight_fragment(from, 0, 1, a[0][1]);
  x[0] = load_x_fragment(from, 0, 0);
  int slot = 0;
  for (int block = 0; block < blocks_k; ++block) {
    const int slot_before = slot == 0 ? STAGES - 1 : slot - 1;
    slot = slot + 1 == STAGES ? 0 : slot + 1;
    const uint32_t next = base + slot * Stage::bytes;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      if (step == 2) {  // the next block has arrived, and every warp has left the one before
        copy_wait<STAGES - 3>();
        __syncthreads();
        if (block + STAGES - 1 < blocks_k) {
          load_weights(block + STAGES - 1, slot_before);
          load_x(block + STAGES - 1, slot_before);
        }
        copy_commit();
      }
      if (step == 3) load_words(next);
#pragma unroll
      for (int j = 0; j < NT / 2; ++j) {
        const int now = (step * (NT / 2) + j) % 2;
        if (j + 1 < NT / 2) x[1 - now] = load_x_fragment(from, step, j + 1);
        else x[1 - now] = load_x_fragment(step < 3 ? from : next, step < 3 ? step + 1 : 0, 0);
        if (j < 2) load_weight_fragment(step < 3 ? from : next, step < 3 ? step + 1 : 0, j, a[1 - step % 2][j]);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const auto sums = [&](int n) -> float(&)[4] { return reinterpret_cast<float(&)[4]>(d[i][n * 4]); };
          multiply<HALF, T>(sums(j * 2), half[i][HALF ? j * 2 : 0], a[step % 2][i], x[now].x, x[now].y, step == 0);
          multiply<HALF, T>(sums(j * 2 + 1), half[i][HALF ? j * 2 + 1 : 0], a[step % 2][i], x[now].z, x[now].w, step == 0);
        }
      }
    }
    from = next;
  }
  if constexpr (HALF) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int n = 0; n < NT; ++n) add_half_sums(reinterpret_cast<float(&)[4]>(d[i][n * 4]), half[i][n]);
  }
  copy_wait<0>();
  __syncthreads();
  const uint32_t mine = base + warp * turn_bytes;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int tile = first_tile + warp_m * 2 + i;
    if (tile >= p.tiles) break;
    if constexpr (KIND == kind_int8) {
#pragma unroll
      for (int j = 0; j < NT * 4; ++j) d[i][j] = static_cast<float>(__float_as_int(d[i][j]));
    }
    const TurnedColumns columns(p, tile);
#pragma unroll 1
    for (int c = 0; c < warp_rows / 32; ++c) {
      stage_turned<warp_rows>(mine, d[i], c);
      __syncwarp();
      finish_turned<KIND == kind_int8>(p, mine, first_row + warp_n * warp_rows + c * 32, tile, columns);
      __syncwarp();
    }
  }
}

}  // namespace hearth::kernels::cuda
