// Activations of the decode program's linears, on their way from the exchange (or memory) to what the workers multiply.
//
// 4-bit weights meet activations as 16-bit fixed point: x = scale * (256 high + low), two signed bytes, with one scale for
// 128 k of a row: the error is at most 2^-16 of the largest of them, the sums of products are exact. What is not finite makes
// the scale so, and through it all that is summed up with it.
#pragma once

#include "kernels/cuda/sm80/decode_program_exchange.cuh"

namespace hearth::kernels::cuda {

// How the eight columns of a product are used: as four pairs, the high and the low bytes of a row of activations. Two rows
// leave pairs to spare; these serve other groups of k, whose lanes read activations where the rest read zeros. So the sums
// of as many groups as there are shares come out side by side, and what is done to sums is done once for all of them. (One
// row: linear_w4_single.)
// Column g is pair g / 2; sums of pair t are in the lanes (g, t): row t % ROWS, share t / ROWS.
template <int GROUP, int ROWS> struct Columns {
  static constexpr int groups = 128 / GROUP, shares = 4 / ROWS;
  static constexpr int units = shares > groups ? shares / groups : 1;  // that meet in a set of sums
  static constexpr int sets = groups > shares ? groups / shares : 1;   // of sums of a unit
  static constexpr int set_groups = groups / sets;                     // of a unit in a set
};

// Where linears keep their activations: by unit, group and row its scale and its negated sum (an integer; of one row then the
// scale with a sum of zero); then rows, 256 bytes a unit. The same place for the same k in all of a program's linears, so that
// what a worker overwrites is always its own.
template <int ROWS> struct ActivationPlace {
  static constexpr int group_bytes = (ROWS == 1 ? 2 : ROWS) * 8;
  char *sums, *rows;
  int stride, unit_sums;
  __device__ __forceinline__ explicit ActivationPlace(const ProgramControl& control) : sums(program_shared + control.x), rows(program_shared + control.x_rows), stride(control.x_stride), unit_sums(control.unit_sums) {}
};
// Of several rows, in a unit, the high bytes from k on (a multiple of 32): 64 k by 128 bytes, of these the high ones, by lane
// t its four words (k 16 i + {2 t, 2 t + 8, 2 t + 1, 2 t + 9}, as the weights have it), then the low ones. Of one row: even
// steps of 16 k, then odd ones, each as the high bytes of the unit, by lane t its four words, and the low ones.
__host__ __device__ constexpr int fixed_offset(int k) { return k / 64 * 128 + k % 64 / 32 * 8; }

__device__ __forceinline__ float max_or_nan(float a, float b) {
  float d;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(fabsf(a)), "f"(fabsf(b)));
  return d;
}
__device__ __forceinline__ float reciprocal(float v) {
  float d;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(v));
  return d;
}

// Reduces over each half of a warp; reduce: over all of it, where zero changes nothing.
template <class V, class F> __device__ __forceinline__ V by_halves(V v, const F& reduce) {
  const bool second = threadIdx.x % 32 >= 16;
  const V of_first = reduce(second ? V{} : v), of_second = reduce(second ? v : V{});
  return second ? of_second : of_first;
}

// Eight activations of each lane: its words of two products. Half a warp has one scale.
struct FixedPoint {
  uint2 high, low;
  float scale;

  __device__ __forceinline__ explicit FixedPoint(const float2 (&x)[4]) {
    float most = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) most = max_or_nan(most, max_or_nan(x[i].x, x[i].y));
    most = __uint_as_float(by_halves(__float_as_uint(most), [](uint32_t v) { return __reduce_max_sync(0xffffffffu, v); }));
    constexpr float largest = 32639;  // of which 127 * 256 + 127 is made
    scale = most * (1 / largest);
    const float inverse = reciprocal(scale);
    word(x[0], x[1], inverse, high.x, low.x);
    word(x[2], x[3], inverse, high.y, low.y);
  }
  __device__ __forceinline__ int sum() const {
    constexpr int ones = 0x01010101;
    return 256 * __dp4a(static_cast<int>(high.x), ones, __dp4a(static_cast<int>(high.y), ones, 0)) + __dp4a(static_cast<int>(low.x), ones, __dp4a(static_cast<int>(low.y), ones, 0));
  }

 private:
  // The bits of 1.5 * 2^23 + v + 128 end in v + 128, whose upper byte is the high one, rounded, whose lower one is the low
  // one plus 128.
  static __device__ __forceinline__ uint32_t bits(float x, float inverse) { return __float_as_uint(fmaf(x, inverse, 12582912.f + 128.f)); }
  static __device__ __forceinline__ void word(const float2& first, const float2& eight_on, float inverse, uint32_t& high, uint32_t& low) {
    const uint32_t even = __byte_perm(bits(first.x, inverse), bits(eight_on.x, inverse), 0x5140), odd = __byte_perm(bits(first.y, inverse), bits(eight_on.y, inverse), 0x5140);
    high = __byte_perm(even, odd, 0x7632);
    low = __byte_perm(even, odd, 0x5410) ^ 0x80808080u;
  }
};

// Half a warp's unit of row n: lane (b, t) of the half has k 32 b + 2 t + {0, 1}, and those 8, 16 and 24 on.
template <class T, int GROUP, int ROWS>
__device__ __forceinline__ void keep_unit(const ActivationPlace<ROWS>& to, int n, int unit, bool live, uint4 words) {
  constexpr int lanes = GROUP / 8;  // of a group
  const int lane = threadIdx.x % 16, b = lane / 4, t = lane % 4;
  const float2 values[4] = {unpack2<T>(words.x), unpack2<T>(words.y), unpack2<T>(words.z), unpack2<T>(words.w)};
  const FixedPoint x(values);
  if (live) {
    char* at = to.rows + n * to.stride + unit * 256 + t * 16;
    if constexpr (ROWS == 1) {
      uint32_t* even = reinterpret_cast<uint32_t*>(at + b * 4);
      even[0] = x.high.x; even[16] = x.low.x;
      even[32] = x.high.y; even[48] = x.low.y;
    } else {
      at += fixed_offset(b * 32);
      *reinterpret_cast<uint2*>(at) = x.high;
      *reinterpret_cast<uint2*>(at + 64) = x.low;
    }
  }
  int sum = x.sum();
  if constexpr (lanes == 16) {
    sum = by_halves(sum, [](int v) { return __reduce_add_sync(0xffffffffu, v); });
  } else {
#pragma unroll
    for (int d = lanes / 2; d > 0; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
  }
  if (live && lane % lanes == 0) {
    char* at = to.sums + unit * to.unit_sums + lane / lanes * to.group_bytes + n * 8;
    const uint2 scaled = make_uint2(__float_as_uint(x.scale), static_cast<uint32_t>(-sum));
    if constexpr (ROWS == 1) *reinterpret_cast<uint4*>(at) = make_uint4(scaled.x, scaled.y, scaled.x, 0);
    else *reinterpret_cast<uint2*>(at) = scaled;
  }
}

// For a fused RMS norm x * weight / 16 is multiplied (16: room in f16 for residuals up to 10^6); the row's 16 / rms is
// applied at the end, since the product is linear.

// One row's units of this warp out of the exchange, COUNT pairs of them by half warps, all reads under way. No other warp
// reads them, so the block need not meet.
template <class T, int GROUP, int COUNT>
__device__ __forceinline__ void receive_row(const ProgramControl& control, int units, int from, const ActivationPlace<1>& to) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
  for (int first = warp; first < units; first += COUNT * 2 * program_workers) {
    const int mine = first + lane / 16 * program_workers;
    const uint32_t* const at = control.exchange + from + mine * 64 + lane % 16 * 4;
    uint4 v[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const uint32_t initial = mine + i * 2 * program_workers < units ? 0 : unwanted;
      v[i] = make_uint4(initial, initial, initial, initial);
    }
    bool missing;
    do {
      missing = false;
#pragma unroll
      for (int i = 0; i < COUNT; ++i) exchange_poll(v[i], at + i * 2 * program_workers * 64);
#pragma unroll
      for (int i = 0; i < COUNT; ++i) missing |= !arrived(v[i]);
    } while (__any_sync(0xffffffffu, missing));
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const int unit = mine + i * 2 * program_workers;
      if (first + i * 2 * program_workers < units) keep_unit<T, GROUP, 1>(to, 0, unit, unit < units, make_uint4(~v[i].x, ~v[i].y, ~v[i].z, ~v[i].w));
    }
  }
  __syncwarp();
}

// The same of several rows, several reads under way.
template <class T, int GROUP, int ROWS>
__device__ __forceinline__ void receive_units(const ProgramControl& control, const LinearShape& l, int from, const ActivationPlace<ROWS>& to) {
  constexpr int batch = 4;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, half = lane / 16 * program_workers, units = l.units, rows = control.rows;
  const uint32_t* base = control.exchange + from + lane % 16 * 4;
  int row = 0, next = warp;  // of the batch's next read
#pragma unroll 1
  while (row < rows) {
    uint4 v[batch];
    int first[batch], n[batch];  // the first half's unit, or one that is not there
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      v[i] = make_uint4(0, 0, 0, 0);
      first[i] = row < rows ? next : units;
      n[i] = row;
      next += 2 * program_workers;
      if (next >= units) { next = warp; ++row; }
    }
    bool missing;
    do {
      missing = false;
#pragma unroll
      for (int i = 0; i < batch; ++i) if (first[i] + half < units && !arrived(v[i])) v[i] = exchange_load16(base + n[i] * (l.in / 2) + (first[i] + half) * 64);
#pragma unroll
      for (int i = 0; i < batch; ++i) missing |= first[i] + half < units && !arrived(v[i]);
    } while (__any_sync(0xffffffffu, missing));
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      if (first[i] >= units) continue;
      const bool live = first[i] + half < units;
      keep_unit<T, GROUP, ROWS>(to, n[i], first[i] + half, live, live ? make_uint4(~v[i].x, ~v[i].y, ~v[i].z, ~v[i].w) : make_uint4(0, 0, 0, 0));
    }
  }
  __syncwarp();
}

// Columns k and k + 1 of row n out of memory, and their squares.
template <class T>
__device__ __forceinline__ uint32_t load_pair(const LinearShape& l, const LinearPhase& phase, int n, int k, float& square) {
  const int64_t at = static_cast<int64_t>(n) * l.x_stride + k;
  if (k >= l.in) return 0;
  if (l.x_type != type_f32) return __ldcg(reinterpret_cast<const uint32_t*>(static_cast<const T*>(phase.x) + at));
  float2 x = __ldcg(reinterpret_cast<const float2*>(static_cast<const float*>(phase.x) + at));
  if (l.norm == norm_rms) {
    const float2 w = __ldg(reinterpret_cast<const float2*>(phase.norm_weight + k));
    square += x.x * x.x + x.y * x.y;
    x.x *= w.x * 0.0625f; x.y *= w.y * 0.0625f;
  }
  return pack2<T>(x.x, x.y);
}

// This warp's units where an earlier kernel left x.
template <class T, int GROUP, int ROWS>
__device__ __noinline__ void load_units(int index) {
  ProgramControl& control = program_control();
  const LinearPhase& phase = program_phase(index).linear;
  const LinearShape& l = linear_shape(program_phase(index));
  const ActivationPlace<ROWS> to(control);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, half = lane / 16 * program_workers;
#pragma unroll 1
  for (int n = 0; n < control.rows; ++n) {
    float square = 0;
#pragma unroll 2
    for (int first = warp; first < l.units; first += 2 * program_workers) {
      const int unit = first + half, k = unit * 128 + lane % 16 / 4 * 32 + lane % 4 * 2;
      const uint4 words = make_uint4(load_pair<T>(l, phase, n, k, square), load_pair<T>(l, phase, n, k + 8, square), load_pair<T>(l, phase, n, k + 16, square), load_pair<T>(l, phase, n, k + 24, square));
      keep_unit<T, GROUP, ROWS>(to, n, unit, unit < l.units, words);
    }
    square = warp_sum(square);
    if (l.norm == norm_rms && lane == 0) control.squares[n][warp] = square;
  }
  __syncwarp();
}

template <class T, int GROUP>
__device__ __forceinline__ void load_phase(int index) {
  const int rows = program_control().rows;
  if (rows == 1) load_units<T, GROUP, 1>(index);
  else if (rows == 2) load_units<T, GROUP, 2>(index);
  else load_units<T, GROUP, 4>(index);
}

// Activations of a phase out of the exchange; what an earlier kernel left was loaded before.
template <class T, int GROUP, int ROWS>
__device__ __forceinline__ void receive(const ProgramControl& control, const LinearShape& l, const ProgramPhase& phase, const ActivationPlace<ROWS>& to) {
  if (phase.from < 0) return;
  if constexpr (ROWS > 1) receive_units<T, GROUP, ROWS>(control, l, phase.from, to);
  else if (l.units <= 2 * program_workers) receive_row<T, GROUP, 1>(control, l.units, phase.from, to);
  else receive_row<T, GROUP, 3>(control, l.units, phase.from, to);
}

// 16-bit weights: this warp's 32 k of every 512, in the order of memory.
template <class T>
__device__ __forceinline__ void receive_dense(ProgramControl& control, const LinearShape& l, const ProgramPhase& phase, const ActivationPlace<1>& to) {
  const bool normed = l.norm == norm_rms;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
  for (int n = 0; n < control.rows; ++n) {
    float square = 0;
#pragma unroll 1
    for (int k = warp * 32 + lane / 4 * dense_unit + lane % 4 * 8; k < l.in; k += 8 * dense_unit) {
      uint4 v;
      if (phase.from >= 0) {
        do v = exchange_load16(control.exchange + phase.from + n * (l.in / 2) + k / 2); while (!arrived(v));
        v = make_uint4(~v.x, ~v.y, ~v.z, ~v.w);
      } else if (l.x_type == type_f32) {
        const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(phase.linear.x) + static_cast<int64_t>(n) * l.x_stride + k);
        float4 a = __ldcg(from), b = __ldcg(from + 1);
        if (normed) {
          const float4* norm = reinterpret_cast<const float4*>(phase.linear.norm_weight + k);
          const float4 wa = __ldg(norm), wb = __ldg(norm + 1);
          square += (a.x * a.x + a.y * a.y) + (a.z * a.z + a.w * a.w) + ((b.x * b.x + b.y * b.y) + (b.z * b.z + b.w * b.w));
          a.x *= 0.0625f * wa.x; a.y *= 0.0625f * wa.y; a.z *= 0.0625f * wa.z; a.w *= 0.0625f * wa.w;
          b.x *= 0.0625f * wb.x; b.y *= 0.0625f * wb.y; b.z *= 0.0625f * wb.z; b.w *= 0.0625f * wb.w;
        }
        v = pack8<T>(a, b);
      } else {
        v = __ldcg(reinterpret_cast<const uint4*>(static_cast<const T*>(phase.linear.x) + static_cast<int64_t>(n) * l.x_stride + k));
      }
      *reinterpret_cast<uint4*>(to.rows + n * to.stride + k * 2) = v;
    }
    __syncwarp();
    square = warp_sum(square);
    if (normed && lane == 0) control.squares[n][warp] = square;
  }
  __syncwarp();
}

}  // namespace hearth::kernels::cuda
