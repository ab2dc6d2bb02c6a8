// What calibrating a model for quantization asks of a GPU: products of weights that change at every call, and the small
// operations around them. Plain structs, the same for host code and kernels; arrays are f32 with contiguous rows, pointers
// are device memory unless a comment says host. (On the CPU, quantize/math_cpu.cpp does these.)
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace hearth::device {
struct DeviceInfo;
class Stream;
}

namespace hearth::ops {

struct CalibrationProduct {  // y [rows, out] = x [rows, in] * w [out, in]ᵀ, in FP16 with f32 sums
  const float* x; const float* w; float* y; int64_t rows, out, in; void* workspace;
};
struct CalibrationGram {     // y [size, size] = XᵀX of columns [first, first + size) of x [rows, columns]
  const float* x; float* y; int64_t rows, columns, first, size; void* workspace;
};

enum : int { map_add, map_gate_silu, map_gate_gelu_tanh, map_add_row, map_multiply_columns, map_divide_columns, map_divide_rows };
struct CalibrationMap {      // x [rows, columns] in place; y: the same shape, a row, or (map_divide_rows) a factor a row
  float* x; const float* y; int64_t rows, columns; int what;
};
struct CalibrationNorm { const float* x; const float* weight; float* y; int64_t rows, columns; float epsilon; };
struct CalibrationRotate {   // x [rows, heads * head_dim]; norm [head_dim] or nullptr; frequency [half]; a row's position is row % length
  float* x; const float* norm; const float* frequency; int64_t rows, length; int heads, head_dim, half; float epsilon, amplitude;
};
struct CalibrationAttend {   // causal, each sequence of `length` rows by itself; window 0: all of it
  const float* q; const float* k; const float* v; float* out; int64_t sequences, length, window; int heads, kv_heads, head_dim; float scale;
};
struct CalibrationPick { const float* x; const int64_t* index; float* y; int64_t rows, columns; };  // y[i] = x[index[i]]

inline constexpr int calibration_partials = 1024;
enum : int { sum_values, sum_squares, sum_squared_differences };
struct CalibrationSum {      // partial [calibration_partials]: their sum is the result
  const float* a; const float* b; double* partial; int64_t count; int what;
};
struct CalibrationColumns {  // y [columns]: mean or largest magnitude
  const float* x; float* y; int64_t rows, columns; int largest;
};
struct CalibrationInt8 { float* x; int64_t rows, columns; };  // quantize::round_int8 of each row
struct CalibrationGroups {   // y = Q(w diag(scales)) / diag(scales); scales may be nullptr
  const float* w; const float* scales; float* y; int64_t rows, columns; int group;
};
struct CalibrationClip {     // one group of every row: w + first of rows `stride` apart; changed [rows] += 1 where clamped
  float* w; const float* gram; float* changed; int64_t rows, stride; int group;
};
// One group of every row rounded as quantize/compensate.h does: `upper` is the group's diagonal block of U (rows n apart),
// error [rows, group] what is left for later columns, codes/scales/zeros the grid of the whole weight at this group.
struct CalibrationRound {
  float* w; const float* upper; float* error; uint8_t* codes; float* scales; uint8_t* zeros; float* loss; float* narrowed;
  int64_t rows, stride, n, groups; int group, steps;
};
// w [rows, columns] (rows `stride` apart) -= error [rows, group] * upper [group, columns] (rows n apart)
struct CalibrationPush { float* w; const float* error; const float* upper; int64_t rows, stride, columns, n; int group; };

struct CalibrationOps {
  void (*begin)(device::Stream&);  // before the first call on a stream
  size_t (*product_bytes)(int64_t rows, int64_t out, int64_t in, const device::DeviceInfo&);  // of workspace
  void (*product)(const CalibrationProduct&, device::Stream&);
  size_t (*gram_bytes)(int64_t rows, int64_t size, const device::DeviceInfo&);
  void (*gram)(const CalibrationGram&, device::Stream&);
  void (*map)(const CalibrationMap&, device::Stream&);
  void (*norm)(const CalibrationNorm&, device::Stream&);
  void (*rotate)(const CalibrationRotate&, device::Stream&);
  void (*attend)(const CalibrationAttend&, device::Stream&);
  void (*pick)(const CalibrationPick&, device::Stream&);
  void (*sum)(const CalibrationSum&, device::Stream&);
  void (*columns)(const CalibrationColumns&, device::Stream&);
  void (*int8)(const CalibrationInt8&, device::Stream&);
  void (*groups)(const CalibrationGroups&, device::Stream&);
  void (*clip)(const CalibrationClip&, device::Stream&);
  void (*round)(const CalibrationRound&, device::Stream&);
  void (*push)(const CalibrationPush&, device::Stream&);
};

}  // namespace hearth::ops
