// The end of a prefill linear: sums of one warp, staged in shared memory in the order of the output's rows, leave it 8 or
// 16 bytes a lane, with scales, bias, activation, gate and residual on the way.
#pragma once

#include "kernels/cuda/activation.cuh"

namespace hearth::kernels::cuda {

// A warp's stage: 16 rows x 64 columns of f32, 16-byte chunks swizzled so that fragments are written and rows are read
// with few bank conflicts.
constexpr int stage_columns = 64, stage_bytes_per_warp = 16 * stage_columns * 4;
__device__ __forceinline__ int stage_at(int row, int chunk) { return row * 256 + ((chunk ^ (row * 2 & 15)) * 16); }

__device__ __forceinline__ void shared_store8(uint32_t address, float a, float b) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(a), "f"(b) : "memory");
}
__device__ __forceinline__ void shared_load_floats(uint32_t address, float (&v)[4]) {
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3]) : "r"(address) : "memory");
}
// Columns 8 j + 2 t, + 1 of rows g and g + 8, as an mma leaves them.
__device__ __forceinline__ void stage_fragment(uint32_t stage, int j, float a, float b, float c, float d) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  shared_store8(stage + stage_at(g, 2 * j + t / 2) + t % 2 * 8, a, b);
  shared_store8(stage + stage_at(g + 8, 2 * j + t / 2) + t % 2 * 8, c, d);
}

// y[row, column .. column + 3] (of `columns`) = or += v.
__device__ __forceinline__ void store4(const LinearArgs& p, int row, int column, int columns, const float (&v)[4]) {
  const int64_t at = row * p.y_stride + column;
  if (column + 3 < columns && p.y_stride % 4 == 0 && (reinterpret_cast<uint64_t>(p.y) & 15) == 0) {
    if (p.y_type == type_f32) {
      float* y = static_cast<float*>(p.y) + at;
      if (!p.residual) {
        *reinterpret_cast<float4*>(y) = make_float4(v[0], v[1], v[2], v[3]);
        return;
      }
#if __CUDA_ARCH__ >= 900
      // One addition an element, done by the L2: nothing waits for the old value.
      asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(y), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]) : "memory");
#else
      const float4 old = __ldcg(reinterpret_cast<float4*>(y));
      *reinterpret_cast<float4*>(y) = make_float4(old.x + v[0], old.y + v[1], old.z + v[2], old.w + v[3]);
#endif
      return;
    }
    const uint2 packed = p.y_type == type_f16 ? make_uint2(pack2<__half>(v[0], v[1]), pack2<__half>(v[2], v[3]))
                                              : make_uint2(pack2<__nv_bfloat16>(v[0], v[1]), pack2<__nv_bfloat16>(v[2], v[3]));
    *reinterpret_cast<uint2*>(static_cast<uint16_t*>(p.y) + at) = packed;
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (column + i >= columns) return;
    if (p.residual) static_cast<float*>(p.y)[at + i] = __ldcg(static_cast<float*>(p.y) + at + i) + v[i];
    else store(p.y, p.y_type, at + i, v[i]);
  }
}

// Four consecutive values of a per-column array; `otherwise` where there is none or it ends.
__device__ __forceinline__ void column_values(const float* from, int column, int columns, float otherwise, float (&v)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = from && column + i < columns ? __ldg(from + column + i) : otherwise;
}

// Writes a stage: rows row0 ... of y, packed columns column0 ... + 63. INT8: sums are integers times the row's scale.
template <bool INT8> __device__ __forceinline__ void finish_stage(const LinearArgs& p, uint32_t stage, int row0, int column0) {
  const int lane = threadIdx.x % 32, q = lane % 8;
  const int packed_columns = p.tiles * 16;
  // A lane's two chunks of four packed columns: a gate and its up, or two runs of output columns 32 apart.
  const int first = p.gated ? q / 2 * 4 + q % 2 : q, second = p.gated ? first + 2 : q + 8;
  const int columns = p.gated ? p.out / 2 : p.out;
  const int to = p.gated ? column0 / 2 + q * 4 : column0 + q * 4;
  if (to >= columns) return;
  float scale_a[4], scale_b[4], bias_a[4], bias_b[4];
  column_values(p.weight_scale, column0 + first * 4, packed_columns, 1.f, scale_a);
  column_values(p.weight_scale, column0 + second * 4, packed_columns, 1.f, scale_b);
  column_values(p.bias, to, columns, 0.f, bias_a);
  column_values(p.bias, p.gated ? columns + to : to + 32, p.out, 0.f, bias_b);
#pragma unroll 2
  for (int pass = 0; pass < 4; ++pass) {
    const int r = pass * 4 + lane / 8, row = row0 + r;
    if (row >= p.rows) return;
    float a[4], b[4];
    shared_load_floats(stage + stage_at(r, first), a);
    shared_load_floats(stage + stage_at(r, second), b);
    const float x_scale = INT8 ? (p.x_scale ? __ldcg(p.x_scale + row) : p.static_scale) : 1.f;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[i] = a[i] * (INT8 ? scale_a[i] * x_scale : scale_a[i]) + bias_a[i];
      b[i] = b[i] * (INT8 ? scale_b[i] * x_scale : scale_b[i]) + bias_b[i];
    }
    activate(a, p.activation);
    if (p.gated) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] *= b[i];
      store4(p, row, to, columns, a);
    } else {
      store4(p, row, to, columns, a);
      if (to + 32 < columns) {
        activate(b, p.activation);
        store4(p, row, to + 32, columns, b);
      }
    }
  }
}

// ---- Outputs as rows of the product: the stage turns them ----

// A warp's 32 rows x 16 outputs of f32 on their way out; 80 bytes a row keep fragments and rows off each other's banks.
constexpr int turn_rows = 32, turn_pitch = 80, turn_bytes = turn_rows * turn_pitch;

// What a lane's four columns of packed tile `tile` are multiplied with and get added.
struct TurnedColumns {
  float scale[4], bias[4], up_scale[4], up_bias[4];
  __device__ __forceinline__ TurnedColumns(const LinearArgs& p, int tile) {
    const int q = threadIdx.x % (p.gated ? 2 : 4) * 4, columns = p.gated ? p.out / 2 : p.out;
    column_values(p.weight_scale, tile * 16 + q, p.tiles * 16, 1.f, scale);
    column_values(p.weight_scale, tile * 16 + 8 + q, p.tiles * 16, 1.f, up_scale);
    column_values(p.bias, tile * (p.gated ? 8 : 16) + q, columns, 0.f, bias);
    column_values(p.gated ? p.bias : nullptr, columns + tile * 8 + q, p.out, 0.f, up_bias);
  }
};

// Writes a turned stage: rows row0 ... of y, the outputs of packed tile `tile`.
template <bool INT8> __device__ __forceinline__ void finish_turned(const LinearArgs& p, uint32_t stage, int row0, int tile, const TurnedColumns& of) {
  const int lane = threadIdx.x % 32;
  const int lanes = p.gated ? 2 : 4, q = lane % lanes, columns = p.gated ? p.out / 2 : p.out, column = tile * lanes * 4 + q * 4;
  if (column >= columns) return;
#pragma unroll 2
  for (int r = lane / lanes; r < turn_rows; r += 32 / lanes) {
    const int row = row0 + r;
    if (row >= p.rows) return;
    const float x_scale = INT8 ? (p.x_scale ? __ldcg(p.x_scale + row) : p.static_scale) : 1.f;
    float a[4];
    shared_load_floats(stage + r * turn_pitch + q * 16, a);
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = a[i] * (INT8 ? of.scale[i] * x_scale : of.scale[i]) + of.bias[i];
    activate(a, p.activation);
    if (p.gated) {
      float b[4];
      shared_load_floats(stage + r * turn_pitch + 32 + q * 16, b);
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] *= b[i] * (INT8 ? of.up_scale[i] * x_scale : of.up_scale[i]) + of.up_bias[i];
    }
    store4(p, row, column, columns, a);
  }
}

// The sums of 32 of ROWS rows (chunk c) by 16 outputs, staged turned: an mma leaves outputs g and g + 8 of rows 8 j + 2 t, + 1.
template <int ROWS> __device__ __forceinline__ void stage_turned(uint32_t stage, const float (&d)[ROWS / 2], int c) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < ROWS / 32; ++i)
    if (i == c) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* v = d + i * 16 + j * 4;
        const uint32_t to = stage + (j * 8 + 2 * t) * turn_pitch + g * 4;
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(v[0]) : "memory");
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(to + turn_pitch), "f"(v[1]) : "memory");
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(to + 32), "f"(v[2]) : "memory");
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(to + turn_pitch + 32), "f"(v[3]) : "memory");
      }
    }
}

// Tile number `tile` of m_tiles (outputs) x n_tiles (rows), in an order in which few weights are in use at a time: up to 16
// tiles of rows, then the next outputs.
__device__ __forceinline__ void banded_tile(int tile, int m_tiles, int n_tiles, int& m, int& n) {
  constexpr int height = 16;
  const int per_band = height * m_tiles, band = tile / per_band, rows = min(height, n_tiles - band * height), rest = tile - band * per_band;
  n = band * height + rest % rows;
  m = rest / rows;
}

}  // namespace hearth::kernels::cuda
