// Parameter structs of the CUDA kernels: plain data, passed by value, shared by host code and kernels.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define HEARTH_HOST_DEVICE __host__ __device__
#else
#define HEARTH_HOST_DEVICE
#endif

namespace hearth::kernels::cuda {

// Mirrors of the enums of ops.h and dtype.h as the kernels see them (static_asserts in host/convert.h keep them equal).
enum : int { type_f32 = 0, type_f16 = 1, type_bf16 = 2, type_i8 = 3 };
enum : int { activation_none = 0, activation_silu, activation_gelu_tanh, activation_gelu_erf, activation_quick_gelu, activation_relu };
enum : int { norm_none = 0, norm_rms = 1, norm_layer = 2 };

// What is in a linear's weight buffer.
enum : int { kind_w4 = 0, kind_dense16 = 1, kind_int8 = 2 };

struct LinearArgs {
  const void* x; int64_t x_stride;      // elements of x_type
  const void* weight;                   // w4-mma tiles, or [out, in] dense
  const float* weight_scale;            // [tiles * 16] factor of each packed row (int8: its scale; w4: a power of two)
  const float* x_scale;                 // int8: [rows], nullptr when static
  float static_scale;                   // int8: activation scale when x_scale is nullptr
  const float* norm_weight; const float* norm_bias; float norm_epsilon;
  const float* bias;                    // [out] in source order, or nullptr
  void* y; int64_t y_stride;
  float* partial;                       // split-K partial sums
  int32_t* counters;                    // zero; set back by the last block of a tile
  const float* group_scales; const uint8_t* group_zeros; // generic w4: [out, groups]
  int rows, in, k_padded, out, tiles, groups, group, unit_bytes;
  int x_type, y_type, norm, activation;
  int gated, residual;
  int pass;                             // w4 decode: tiles between two barriers
  int whole_tiles;                      // 1: a block does whole tiles, no split of K
};

struct NormArgs {
  const void* x; int64_t x_stride; const float* weight; const float* bias; void* y; int64_t y_stride;
  int rows, width, kind, x_type, y_type, accumulate; float epsilon;
};
struct EmbedArgs {
  const int32_t* ids; const int32_t* source; const int32_t* sampled; const void* table; const float* image_rows; float* x;
  int rows, width, vocabulary, table_type; float scale;
};
struct GateArgs { const void* x; int64_t x_stride; void* y; int64_t y_stride; int rows, width, activation, type; };
struct AddArgs { const void* x; int64_t x_stride; float* y; int64_t y_stride; int rows, width, x_type; };
struct GatherArgs { const void* x; int64_t x_stride; const int32_t* index; void* y; int64_t y_stride; int rows, width, x_type, y_type; };
// Per-row symmetric int8: scale = max|x| / 127 (or the static one), q = round to nearest even, after an optional norm.
struct QuantizeArgs {
  const void* x; int64_t x_stride; int8_t* q; float* scale; const float* norm_weight; const float* norm_bias;
  int rows, width, width_padded, x_type, norm; float epsilon, static_scale;
};
// The linear that takes any shape and format: one warp an output.
struct GenericLinearArgs { LinearArgs linear; int weight_type; int format; };  // format: 0 dense, 1 w4 (HostLinear layout), 2 w8

struct AttentionArgs {
  void* qkv; int64_t qkv_stride; void* out; int64_t out_stride;
  const int32_t *row_begin, *context, *block_table, *positions, *kv_slot, *row_sequence;
  void* k; void* v; float* k_scale; float* v_scale;
  const float *q_norm, *k_norm, *inverse_frequency;
  float* partial; int32_t* counters;
  float scale, rope_amplitude, qk_norm_epsilon;
  int rows, sequences, block_table_stride, max_rows;
  int heads, kv_heads, head_dim, window, kv_type, type;
  int rope_dims, rope_interleaved, position_axes, axis_interleaved, axis_sections[3], qk_norm;
  int splits, prepared, releases_early;
  int stages;  // of the decode kernel's rings
};
struct VisionArgs {
  void* qkv; int64_t qkv_stride; void* out; int64_t out_stride;
  const int32_t* segment; const float *rope_cos, *rope_sin;
  float scale; int rows, segments, max_segment, heads, head_dim, type, rope;
};

}  // namespace hearth::kernels::cuda
