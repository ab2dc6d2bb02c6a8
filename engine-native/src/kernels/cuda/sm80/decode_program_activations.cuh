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
// row: Products<1>.)
// Column g is pair g / 2; sums of pair t are in the lanes (g, t): row t % rows, share t / rows.
template <int ROWS> struct Columns {
  static constexpr int rows = ROWS == 4 ? 4 : 2, shares = 4 / rows;  // one row's two are the even and the odd steps of k
};

// Whether there is row n where ROWS are multiplied: four also serve three.
template <int ROWS> __device__ __forceinline__ bool has_row(int n, int rows) { return ROWS < 4 || n < 3 || rows == 4; }

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

constexpr float fixed_largest = 32639;  // of which 127 * 256 + 127 is made

// Eight activations of each lane: its words of two products. Half a warp has one scale.
struct FixedPoint {
  uint2 high, low;

  // inverse: of the scale.
  __device__ __forceinline__ FixedPoint(const float2 (&x)[4], float inverse) {
    word(x[0], x[1], inverse, high.x, low.x);
    word(x[2], x[3], inverse, high.y, low.y);
  }
  // A word of each: k and k + 1, and those eight on.
  static __device__ __forceinline__ void word(const float2& first, const float2& eight_on, float inverse, uint32_t& high, uint32_t& low) {
    const uint32_t even = __byte_perm(bits(first.x, inverse), bits(eight_on.x, inverse), 0x5140), odd = __byte_perm(bits(first.y, inverse), bits(eight_on.y, inverse), 0x5140);
    high = __byte_perm(even, odd, 0x7632);
    low = __byte_perm(even, odd, 0x5410) ^ 0x80808080u;
  }
  __device__ __forceinline__ int sum() const {
    constexpr int ones = 0x01010101;
    return 256 * __dp4a(static_cast<int>(high.x), ones, __dp4a(static_cast<int>(high.y), ones, 0)) + __dp4a(static_cast<int>(low.x), ones, __dp4a(static_cast<int>(low.y), ones, 0));
  }

 private:
  // The bits of 1.5 * 2^23 + v + 128 end in v + 128, whose upper byte is the high one, rounded, whose lower one is the low
  // one plus 128.
  static __device__ __forceinline__ uint32_t bits(float x, float inverse) { return __float_as_uint(fmaf(x, inverse, 12582912.f + 128.f)); }
};

// Half a warp's unit of one row, in words as the exchange has them: lane (b, t) of the half has k 32 b + 2 t + {0, 1}, and those 8, 16 and 24 on.
template <class T, int GROUP>
__device__ __forceinline__ void keep_unit(const ActivationPlace<1>& to, int unit, bool live, uint4 words) {
  constexpr int lanes = GROUP / 8;  // of a group
  const int lane = threadIdx.x % 16, b = lane / 4, t = lane % 4;
  const float2 values[4] = {unpack2<T>(~words.x), unpack2<T>(~words.y), unpack2<T>(~words.z), unpack2<T>(~words.w)};
  float most = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) most = max_or_nan(most, max_or_nan(values[i].x, values[i].y));
  most = __uint_as_float(by_halves(__float_as_uint(most), [](uint32_t v) { return __reduce_max_sync(0xffffffffu, v); }));
  const float scale = most * (1 / fixed_largest);
  const FixedPoint x(values, reciprocal(scale));
  if (live) {
    uint32_t* even = reinterpret_cast<uint32_t*>(to.rows + unit * 256 + t * 16 + b * 4);
    even[0] = x.high.x; even[16] = x.low.x;
    even[32] = x.high.y; even[48] = x.low.y;
  }
  int sum = x.sum();
  if constexpr (lanes == 16) {
    sum = by_halves(sum, [](int v) { return __reduce_add_sync(0xffffffffu, v); });
  } else {
#pragma unroll
    for (int d = lanes / 2; d > 0; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
  }
  if (live && lane % lanes == 0)
    *reinterpret_cast<uint4*>(to.sums + unit * to.unit_sums + lane / lanes * to.group_bytes) = make_uint4(__float_as_uint(scale), static_cast<uint32_t>(-sum), __float_as_uint(scale), 0);
}

// The larger of each half's magnitudes, NaN where there is one.
template <class T> __device__ __forceinline__ uint32_t larger2(uint32_t a, uint32_t b);
template <> __device__ __forceinline__ uint32_t larger2<__half>(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
template <> __device__ __forceinline__ uint32_t larger2<__nv_bfloat16>(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

// What several rows reduce over half a warp is reduced together: lanes that differ in their last bits go on with different
// rows, so that sums of four rows take five shuffles, of two rows four.
template <int ROWS> struct RowsReduction {
  const int lane = threadIdx.x % 32;
  const bool odd = lane & 1, high = lane & (ROWS / 2);
  // The row whose sum this lane has in the end.
  __device__ __forceinline__ int row() const { return ROWS == 4 ? 2 * odd + high : odd; }

  // Row row()'s sum over LANES lanes.
  template <int LANES> __device__ __forceinline__ int sum(const int (&v)[ROWS]) const {
    int own;
    if constexpr (ROWS == 4) {
      const int first = keep(v[0], v[2], odd, 1), second = keep(v[1], v[3], odd, 1);
      own = keep(first, second, high, 2);
    } else {
      own = keep(v[0], v[1], odd, 1);
    }
#pragma unroll
    for (int d = ROWS; d < LANES; d *= 2) own += __shfl_xor_sync(0xffffffffu, own, d);
    return own;
  }
  // v: magnitudes, two of each row. Scales of the rows by half a warp's largest; returned is row()'s.
  template <class T> __device__ __forceinline__ float scales(const uint32_t (&v)[ROWS], float (&scale)[ROWS]) const {
    uint32_t pair[ROWS / 2];  // two rows' in a word
#pragma unroll
    for (int j = 0; j < ROWS / 2; ++j) pair[j] = larger2<T>(__byte_perm(v[2 * j], v[2 * j + 1], 0x5410), __byte_perm(v[2 * j], v[2 * j + 1], 0x7632));
    uint32_t own = pair[0];
    if constexpr (ROWS == 4) own = larger2<T>(odd ? pair[1] : pair[0], __shfl_xor_sync(0xffffffffu, odd ? pair[0] : pair[1], 1));
#pragma unroll
    for (int d = ROWS / 2; d < 16; d *= 2) own = larger2<T>(own, __shfl_xor_sync(0xffffffffu, own, d));
    pair[0] = own;
    if constexpr (ROWS == 4) {
      const uint32_t other = __shfl_xor_sync(0xffffffffu, own, 1);
      pair[0] = odd ? other : own;
      pair[1] = odd ? own : other;
    }
#pragma unroll
    for (int j = 0; j < ROWS / 2; ++j) {
      const float2 most = unpack2<T>(pair[j]);
      scale[2 * j] = most.x * (1 / fixed_largest);
      scale[2 * j + 1] = most.y * (1 / fixed_largest);
    }
    const float2 most = unpack2<T>(own);
    return (high ? most.y : most.x) * (1 / fixed_largest);
  }

 private:
  // Of two values this lane goes on with one, the one `apart` lanes on with the other.
  static __device__ __forceinline__ int keep(int a, int b, bool second, int apart) { return (second ? b : a) + __shfl_xor_sync(0xffffffffu, second ? a : b, apart); }
};

// The same of several rows, a unit of each; of `rows` there are activations.
template <class T, int GROUP, int ROWS>
__device__ __forceinline__ void keep_units(const ActivationPlace<ROWS>& to, int rows, int unit, bool live, const uint4 (&words)[ROWS]) {
  constexpr int lanes = GROUP / 8;  // of a group
  constexpr uint32_t magnitude = 0x7fff7fffu;
  const RowsReduction<ROWS> reduction;
  const int lane = reduction.lane % 16, b = lane / 4, t = lane % 4;
  uint32_t most[ROWS];
  float scale[ROWS];
  int sum[ROWS];
#pragma unroll
  for (int n = 0; n < ROWS; ++n)
    most[n] = larger2<T>(larger2<T>(~words[n].x & magnitude, ~words[n].y & magnitude), larger2<T>(~words[n].z & magnitude, ~words[n].w & magnitude));
  const float own_scale = reduction.template scales<T>(most, scale);
  char* const at = to.rows + unit * 256 + t * 16 + fixed_offset(b * 32);
#pragma unroll
  for (int n = 0; n < ROWS; ++n) {
    const float2 values[4] = {unpack2<T>(~words[n].x), unpack2<T>(~words[n].y), unpack2<T>(~words[n].z), unpack2<T>(~words[n].w)};
    const FixedPoint x(values, reciprocal(scale[n]));
    if (live && has_row<ROWS>(n, rows)) {
      *reinterpret_cast<uint2*>(at + n * to.stride) = x.high;
      *reinterpret_cast<uint2*>(at + n * to.stride + 64) = x.low;
    }
    sum[n] = x.sum();
  }
  const int own_sum = reduction.template sum<lanes>(sum);
  int n = reduction.row();
  kept(n);
  if (live && lane % lanes < ROWS && has_row<ROWS>(n, rows))
    *reinterpret_cast<uint2*>(to.sums + unit * to.unit_sums + lane / lanes * to.group_bytes + n * 8) = make_uint2(__float_as_uint(own_scale), static_cast<uint32_t>(-own_sum));
}

// For a fused RMS norm x * weight / 16 is multiplied (16: room in f16 for residuals up to 10^6); the row's 16 / rms is
// applied at the end, since the product is linear.

// Says that a linear's activations have come out of the exchange: so have, or will at once, its input's squares. A count that
// only rises: finishers need not see each step of it.
__device__ __forceinline__ void linear_begun(int index) {
  if (threadIdx.x == 0) *const_cast<volatile int*>(&program_control().begun) = index + 1;
}
__device__ __forceinline__ void await_begun(int index) {
  while (*const_cast<volatile int*>(&program_control().begun) <= index) __nanosleep(32);
}

// One row's units of this warp out of the exchange, COUNT pairs of them by half warps, all reads under way: what is there is
// converted while the rest is awaited. No other warp reads them, so the block need not meet.
template <class T, int GROUP, int COUNT>
__device__ __forceinline__ void receive_row(const ProgramControl& control, int units, int from, int index, const ActivationPlace<1>& to) {
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
#pragma unroll
    for (int next = 0; next < COUNT; ++next) {
      do {
#pragma unroll
        for (int i = next; i < COUNT; ++i) exchange_poll(v[i], at + i * 2 * program_workers * 64);
      } while (__any_sync(0xffffffffu, !arrived(v[next])));
      if (next == 0) linear_begun(index);
      const int unit = mine + next * 2 * program_workers;
      if (first + next * 2 * program_workers < units) keep_unit<T, GROUP>(to, unit, unit < units, v[next]);
    }
  }
  __syncwarp();
}

// One row where no warp has more than a unit of 128: by all its lanes, each two words.
template <class T>
__device__ __forceinline__ void receive_unit(const ProgramControl& control, int units, int from, int index, const ActivationPlace<1>& to) {
  const int thread = threadIdx.x, unit = thread / 32, lane = thread % 32;
  const bool live = unit < units;
  const uint32_t* const at = control.exchange + from + thread * 2;
  const uint32_t initial = live ? 0 : unwanted;
  uint2 words = make_uint2(initial, initial);
  do exchange_poll(words, at); while (__any_sync(0xffffffffu, !arrived(words)));
  linear_begun(index);
  const float2 first = unpack2<T>(~words.x), eight_on = unpack2<T>(~words.y);
  const float most = __uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(fabsf(max_or_nan(max_or_nan(first.x, first.y), max_or_nan(eight_on.x, eight_on.y)))))), scale = most * (1 / fixed_largest);
  uint32_t high, low;
  FixedPoint::word(first, eight_on, reciprocal(scale), high, low);
  if (live) {
    uint32_t* const place = reinterpret_cast<uint32_t*>(to.rows + unit * 256 + lane / 2 % 4 * 16 + lane / 8 * 4) + lane % 2 * 32;
    place[0] = high;
    place[16] = low;
  }
  constexpr int ones = 0x01010101;
  const int sum = __reduce_add_sync(0xffffffffu, 256 * __dp4a(static_cast<int>(high), ones, 0) + __dp4a(static_cast<int>(low), ones, 0));
  if (live && lane == 0) *reinterpret_cast<uint4*>(to.sums + unit * to.unit_sums) = make_uint4(__float_as_uint(scale), static_cast<uint32_t>(-sum), __float_as_uint(scale), 0);
  __syncwarp();
}

// What half warps read of several rows at a time: a unit of each, or two.
template <int ROWS> struct ReceivedUnits {
  static constexpr int count = 4 / ROWS, step = count * 2 * program_workers;  // from one batch to the next
  const uint32_t* const from;
  const ActivationPlace<ROWS>& to;
  const int row_words, rows, units;
  uint4 words[count][ROWS];

  __device__ __forceinline__ bool wanted(int i, int n, int unit) const { return unit + i * 2 * program_workers < units && has_row<ROWS>(n, rows); }
  __device__ __forceinline__ const uint32_t* source(int i, int n, int unit) const { return from + n * row_words + (unit + i * 2 * program_workers) * 64; }
  __device__ __forceinline__ char* place(int i, int n, int unit) const { return to.rows + n * to.stride + (unit + i * 2 * program_workers) * 256 + threadIdx.x % 16 * 16; }
  template <class F> __device__ __forceinline__ void each(const F& f) {
#pragma unroll
    for (int i = 0; i < count; ++i)
#pragma unroll
      for (int n = 0; n < ROWS; ++n) f(i, n, words[i][n]);
  }

  __device__ __forceinline__ void begin(int unit) {
    each([&](int i, int n, uint4& v) {
      const uint32_t initial = wanted(i, n, unit) ? 0 : unwanted;
      v = make_uint4(initial, initial, initial, initial);
    });
  }
  // Has a batch brought to where it will lie once it is converted.
  __device__ __forceinline__ void copy(int first, int half) {
    if (first < units) each([&](int i, int n, uint4&) { if (wanted(i, n, first + half)) copy16(shared_address(place(i, n, first + half)), source(i, n, first + half)); });
    copy_commit();
  }
  __device__ __forceinline__ void take_copied(int unit) {
    each([&](int i, int n, uint4& v) { if (wanted(i, n, unit)) v = *reinterpret_cast<const uint4*>(place(i, n, unit)); });
  }
  __device__ __forceinline__ void await(int unit) {
    auto missing = [&] {
      bool some = false;
      each([&](int, int, uint4& v) { some |= !arrived(v); });
      return some;
    };
    while (__any_sync(0xffffffffu, missing())) each([&](int i, int n, uint4& v) { exchange_poll(v, source(i, n, unit)); });
  }
};

// This warp's units of several rows. Only the first batch is awaited again and again: when it is there, so is nearly
// everything, and what follows is copied, two batches ahead of what is converted. What all blocks read (90 KB each for
// 11,008 columns of four rows) is what takes time, so nothing is read in vain.
template <class T, int GROUP, int ROWS>
__device__ __forceinline__ void receive_units(const ProgramControl& control, const LinearShape& l, int units, int from, int index, const ActivationPlace<ROWS>& to) {
  using Received = ReceivedUnits<ROWS>;
  const int lane = threadIdx.x % 32, half = lane / 16 * program_workers;
  Received received{control.exchange + from + lane % 16 * 4, to, l.in / 2, control.rows, units};
  int first = threadIdx.x / 32;  // of the first half warp
  received.begin(first + half);
  received.await(first + half);
  linear_begun(index);
  received.copy(first + Received::step, half);
  received.copy(first + 2 * Received::step, half);
#pragma unroll 1
  while (true) {
#pragma unroll
    for (int i = 0; i < Received::count; ++i) {
      const int unit = first + i * 2 * program_workers;
      if (unit < received.units) keep_units<T, GROUP, ROWS>(to, received.rows, unit + half, unit + half < received.units, received.words[i]);
    }
    first += Received::step;
    if (first >= received.units) break;
    copy_wait<1>();
    received.begin(first + half);
    received.take_copied(first + half);
    received.await(first + half);
    received.copy(first + 2 * Received::step, half);
  }
  __syncwarp();
}

// Columns k and k + 1 of row n out of memory, and their squares.
template <class T>
__device__ __forceinline__ uint32_t load_pair(const LinearShape& l, const LinearOperands& operands, int n, int k, float& square) {
  const int64_t at = static_cast<int64_t>(n) * l.x_stride + k;
  if (k >= l.in) return 0;
  if (l.x_type != type_f32) return __ldcg(reinterpret_cast<const uint32_t*>(static_cast<const T*>(operands.x) + at));
  float2 x = __ldcg(reinterpret_cast<const float2*>(static_cast<const float*>(operands.x) + at));
  if (l.norm == norm_rms) {
    const float2 w = __ldg(reinterpret_cast<const float2*>(operands.norm_weight + k));
    square += x.x * x.x + x.y * x.y;
    x.x *= w.x * 0.0625f; x.y *= w.y * 0.0625f;
  }
  return pack2<T>(x.x, x.y);
}

// This warp's units where an earlier kernel left x.
template <class T, int GROUP, int ROWS>
__device__ __noinline__ void load_units(int index) {
  ProgramControl& control = program_control();
  const LinearOperands& operands = linear_operands(index);
  const LinearShape& l = linear_shape(program_phase(index));
  const ActivationPlace<ROWS> to(control);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, half = lane / 16 * program_workers;
  float squares[ROWS] = {};
#pragma unroll(ROWS == 1 ? 2 : 1)
  for (int first = warp; first < l.units; first += 2 * program_workers) {
    const int unit = first + half, k = unit * 128 + lane % 16 / 4 * 32 + lane % 4 * 2;
    uint4 words[ROWS];
#pragma unroll
    for (int n = 0; n < ROWS; ++n) {
      words[n] = make_uint4(unwanted, unwanted, unwanted, unwanted);
      if (has_row<ROWS>(n, control.rows)) words[n] = make_uint4(~load_pair<T>(l, operands, n, k, squares[n]), ~load_pair<T>(l, operands, n, k + 8, squares[n]), ~load_pair<T>(l, operands, n, k + 16, squares[n]), ~load_pair<T>(l, operands, n, k + 24, squares[n]));
    }
    if constexpr (ROWS == 1) keep_unit<T, GROUP>(to, unit, unit < l.units, words[0]);
    else keep_units<T, GROUP, ROWS>(to, control.rows, unit, unit < l.units, words);
  }
#pragma unroll
  for (int n = 0; n < ROWS; ++n) {
    const float square = warp_sum(squares[n]);
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

// Activations of a phase out of the exchange; what an earlier kernel left was loaded before. ONE: no warp has more than a unit.
template <class T, int GROUP, int ROWS, bool ONE>
__device__ __forceinline__ void receive(const ProgramControl& control, const LinearShape& l, int index, const KPart& k, const ActivationPlace<ROWS>& to) {
  const ProgramPhase& phase = program_phase(index);
  if (phase.from < 0) return;
  const int from = phase.input() + k.begin * 64;
  if constexpr (ROWS > 1) receive_units<T, GROUP, ROWS>(control, l, k.units, from, index, to);
  else if constexpr (ONE) receive_unit<T>(control, k.units, from, index, to);
  else if (k.units <= 2 * program_workers) receive_row<T, GROUP, 1>(control, k.units, from, index, to);
  else receive_row<T, GROUP, 3>(control, k.units, from, index, to);
}

// 16-bit weights: this warp's 32 k of every 512, in the order of memory.
template <class T>
__device__ __forceinline__ void receive_dense(ProgramControl& control, const LinearShape& l, int index, const ActivationPlace<1>& to) {
  const ProgramPhase& phase = program_phase(index);
  const LinearOperands& operands = linear_operands(index);
  const bool normed = l.norm == norm_rms;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
  for (int n = 0; n < control.rows; ++n) {
    float square = 0;
#pragma unroll 1
    for (int k = warp * 32 + lane / 4 * dense_unit + lane % 4 * 8; k < l.in; k += 8 * dense_unit) {
      uint4 v;
      if (phase.from >= 0) {
        do v = exchange_load16(control.exchange + phase.input() + n * (l.in / 2) + k / 2); while (!arrived(v));
        v = make_uint4(~v.x, ~v.y, ~v.z, ~v.w);
      } else if (l.x_type == type_f32) {
        const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(operands.x) + static_cast<int64_t>(n) * l.x_stride + k);
        float4 a = __ldcg(from), b = __ldcg(from + 1);
        if (normed) {
          const float4* norm = reinterpret_cast<const float4*>(operands.norm_weight + k);
          const float4 wa = __ldg(norm), wb = __ldg(norm + 1);
          square += (a.x * a.x + a.y * a.y) + (a.z * a.z + a.w * a.w) + ((b.x * b.x + b.y * b.y) + (b.z * b.z + b.w * b.w));
          a.x *= 0.0625f * wa.x; a.y *= 0.0625f * wa.y; a.z *= 0.0625f * wa.z; a.w *= 0.0625f * wa.w;
          b.x *= 0.0625f * wb.x; b.y *= 0.0625f * wb.y; b.z *= 0.0625f * wb.z; b.w *= 0.0625f * wb.w;
        }
        v = pack8<T>(a, b);
      } else {
        v = __ldcg(reinterpret_cast<const uint4*>(static_cast<const T*>(operands.x) + static_cast<int64_t>(n) * l.x_stride + k));
      }
      *reinterpret_cast<uint4*>(to.rows + n * to.stride + k * 2) = v;
    }
    __syncwarp();
    square = warp_sum(square);
    if (normed && lane == 0) control.squares[n][warp] = square;
  }
  if (phase.from >= 0) linear_begun(index);
}

}  // namespace hearth::kernels::cuda
