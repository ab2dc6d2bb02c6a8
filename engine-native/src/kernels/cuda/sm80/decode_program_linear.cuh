// Linears of the decode program. A block owns consecutive 16-row tiles of the weight, in the ring one stream of units (16
// rows by 128 k); worker w multiplies units w, w + 16, ... of a tile and leaves its sums in shared memory; a finishing warp
// adds up the workers' sums, applies what the linear has fused, and hands the outputs on. Workers never wait for one
// another: only for their own activations, for weights, and for room for their sums.
//
// The tensor cores' 8 columns are the rows of activations; with one row all columns are that row.
//
// A nibble of f16 stays where it is after one instruction: as a subnormal it is q * 2^-24 (16 q where it is the higher
// one), exactly. In bfloat16 it goes under the exponent of 128. Zero points are taken off a group's sum in f32, with the
// group's sum of activations, which all tiles share.
#pragma once

#include "kernels/cuda/sm80/decode_program_exchange.cuh"

namespace hearth::kernels::cuda {

template <class T> struct Nibbles;
template <> struct Nibbles<__half> {
  static constexpr float base = 0, unit = 1.f / 16777216.f;                                  // a product's unit
  static constexpr float factor_low = 16777216.f, factor_high = 1048576.f;                   // of the rows' totals
  static __device__ __forceinline__ void decode(uint32_t w, uint32_t (&a)[4]) {
    const uint32_t w8 = w >> 8;
    a[0] = w & 0x000f000fu;
    a[1] = w & 0x00f000f0u;
    a[2] = w8 & 0x000f000fu;
    a[3] = w8 & 0x00f000f0u;
  }
  static __device__ __forceinline__ uint32_t zero_high(uint32_t zeros) { return zeros & 0xf0u; }
};
template <> struct Nibbles<__nv_bfloat16> {
  static constexpr float base = 128, unit = 1, factor_low = 1, factor_high = 1;
  static __device__ __forceinline__ void decode(uint32_t w, uint32_t (&a)[4]) { RawNibbles<__nv_bfloat16>::decode(w, a); }
  static __device__ __forceinline__ uint32_t zero_high(uint32_t zeros) { return zeros >> 4; }
};
// A small integer plus `base` as a float, without a conversion: those are slow.
__device__ __forceinline__ float small_float(uint32_t v, float base) { return __uint_as_float(0x4B000000u | v) - (8388608.f - base); }

// Both sides of the tiles' sums go through their slots in the same order.
struct ProgramPlaces { RingPlace ring, sums; };

// Where linears keep their activations: sums by group, then rows of fragments. The same place for the same k in all of a
// program's linears, so that what a worker overwrites is always its own.
template <int GROUP, bool SINGLE> struct ActivationPlace {
  static constexpr int groups = GROUP ? 128 / GROUP : 0, row_pad = SINGLE ? 1 : program_rows_max, sums_unit = program_groups_max * row_pad;
  float* sums;   // [units][program_groups_max][rows, padded]
  char* rows;
  int stride;
  __device__ __forceinline__ explicit ActivationPlace(const ProgramControl& control)
      : sums(reinterpret_cast<float*>(program_shared + control.x)), rows(program_shared + control.x_rows), stride(control.x_stride) {}
};

// ---- Activations -----------------------------------------------------------------------------------------------------------

// For a fused RMS norm x * weight / 16 is multiplied (16: room in f16 for residuals up to 10^6); the row's 16 / rms is
// applied at the end, since the product is linear.

// This warp's units of x out of the exchange, two a time by half warps, several reads under way. No other warp reads them,
// so the block need not meet.
template <class T, int GROUP, bool SINGLE>
__device__ __forceinline__ void receive_units(const ProgramControl& control, const LinearShape& l, int from, const ActivationPlace<GROUP, SINGLE>& to) {
  constexpr int batch = 4, lanes = GROUP / 8, both = 2 * program_workers;  // lanes of a group
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, mine = warp + lane / 16 * program_workers, units = l.units, rows = SINGLE ? 1 : control.rows;
  const uint32_t* base = control.exchange + from + lane % 16 * 4;
  int row = 0, first = 0;  // of the batch's next read
#pragma unroll 1
  while (row < rows) {
    uint4 v[batch];
    int unit[batch], n[batch];
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      v[i] = make_uint4(0, 0, 0, 0);
      unit[i] = row < rows ? mine + first : units;
      n[i] = row;
      first += both;
      if (first >= units) { first = 0; ++row; }
    }
    bool missing;
    do {
      missing = false;
#pragma unroll
      for (int i = 0; i < batch; ++i) if (unit[i] < units && !arrived(v[i])) v[i] = exchange_load16(base + n[i] * (l.in / 2) + unit[i] * 64);
#pragma unroll
      for (int i = 0; i < batch; ++i) missing |= unit[i] < units && !arrived(v[i]);
    } while (__any_sync(0xffffffffu, missing));
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      if (!__any_sync(0xffffffffu, unit[i] < units)) continue;
      const uint4 x = make_uint4(~v[i].x, ~v[i].y, ~v[i].z, ~v[i].w);
      float sum = sum8<T>(x);
#pragma unroll
      for (int d = lanes / 2; d > 0; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
      if (unit[i] >= units) continue;
      *reinterpret_cast<uint4*>(to.rows + n[i] * to.stride + unit[i] * 256 + lane % 16 * 16) = x;
      if (lane % lanes == 0) to.sums[unit[i] * to.sums_unit + lane % 16 / lanes * to.row_pad + n[i]] = sum * Nibbles<T>::unit;
    }
  }
  __syncwarp();
}

// The same out of memory, where an earlier kernel left x.
template <class T, int GROUP, bool SINGLE>
__device__ __noinline__ void load_units(ProgramControl& control, const LinearShape& l, const LinearPhase& phase, const ActivationPlace<GROUP, SINGLE>& to) {
  const bool normed = l.norm == norm_rms;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  constexpr int lanes = GROUP / 4;
#pragma unroll 1
  for (int n = 0; n < control.rows; ++n) {
    float square = 0;
#pragma unroll 2
    for (int unit = warp; unit < l.units; unit += program_workers) {
      const int k = unit * 128 + lane * 4;
      const int64_t at = static_cast<int64_t>(n) * l.x_stride + k;
      uint2 v = make_uint2(0, 0);
      if (k < l.in && l.x_type == type_f32) {
        float4 x = __ldcg(reinterpret_cast<const float4*>(static_cast<const float*>(phase.x) + at));
        if (normed) {
          const float4 w = __ldg(reinterpret_cast<const float4*>(phase.norm_weight + k));
          square += (x.x * x.x + x.y * x.y) + (x.z * x.z + x.w * x.w);
          x.x *= w.x * 0.0625f; x.y *= w.y * 0.0625f; x.z *= w.z * 0.0625f; x.w *= w.w * 0.0625f;
        }
        v = make_uint2(pack2<T>(x.x, x.y), pack2<T>(x.z, x.w));
      } else if (k < l.in) {
        v = __ldcg(reinterpret_cast<const uint2*>(static_cast<const T*>(phase.x) + at));
      }
      uint32_t* place = reinterpret_cast<uint32_t*>(to.rows + n * to.stride) + unit * 64;
      place[fragment_word(lane * 4)] = v.x;
      place[fragment_word(lane * 4 + 2)] = v.y;
      const float2 a = unpack2<T>(v.x), b = unpack2<T>(v.y);
      float sum = (a.x + a.y) + (b.x + b.y);
#pragma unroll
      for (int d = lanes / 2; d > 0; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
      if (lane % lanes == 0) to.sums[unit * to.sums_unit + lane / lanes * to.row_pad + n] = sum * Nibbles<T>::unit;
    }
    square = warp_sum(square);
    if (normed && lane == 0) control.squares[n][warp] = square;
  }
  __syncwarp();
}

// 16-bit weights: this warp's 32 k of every 512, in the order of memory.
template <class T>
__device__ __forceinline__ void receive_dense(ProgramControl& control, const LinearShape& l, const ProgramPhase& phase, const ActivationPlace<0, true>& to) {
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

// ---- Workers ----------------------------------------------------------------------------------------------------------------

// What a worker needs of the shared memory, in registers: 32-bit addresses, so that none is computed anew in the loops.
struct Workplace {
  uint32_t full, ring, sums;
  int slots, slot_bytes, rows, warp, lane;
  __device__ __forceinline__ explicit Workplace(const ProgramControl& control)
      : full(shared_address(control.full)), ring(shared_address(program_shared) + control.sums - control.slots * control.slot_bytes), sums(shared_address(program_shared) + control.sums),
        slots(control.slots), slot_bytes(control.slot_bytes), rows(control.rows) {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));  // not to be read again and again
    warp = thread / 32;
    lane = thread % 32;
  }
  __device__ __forceinline__ uint32_t empty() const { return full + program_slots_max * 8; }
  __device__ __forceinline__ uint32_t summed() const { return empty() + program_slots_max * 8; }
  __device__ __forceinline__ uint32_t taken() const { return summed() + 8 * 8; }
  __device__ __forceinline__ void arrive(uint32_t barrier) const {
    __syncwarp();
    if (lane == 0) barrier_arrive(barrier);
  }
};

// This worker's sums of a tile, to the finishers: columns 2 t and 2 t + 1 of rows g and g + 8.
template <bool SINGLE>
__device__ __forceinline__ void leave_sums(const Workplace& here, const float (&total)[4], RingPlace& at) {
  const int g = here.lane / 4, t = here.lane % 4, rows = SINGLE ? 1 : here.rows;
  barrier_wait(here.taken() + at.slot * 8, at.parity ^ 1);
  const uint32_t to = here.sums + at.slot * program_sum_bytes(rows) + ((2 * t * 16 + g) * sum_pitch + here.warp) * 4;
  constexpr int high = 8 * sum_pitch * 4, row = 16 * sum_pitch * 4;
  if (2 * t < rows) { shared_store4(to, total[0]); shared_store4(to + high, total[2]); }
  if (!SINGLE && 2 * t + 1 < rows) { shared_store4(to + row, total[1]); shared_store4(to + row + high, total[3]); }
  here.arrive(here.summed() + at.slot * 8);
  at.next(program_sum_slots(rows));
}

// A unit's share of a lane, out of the ring.
template <int GROUP> struct UnitWords {
  uint4 first, second;
  uint32_t scales[128 / GROUP], zeros[128 / GROUP];
};
template <int GROUP>
__device__ __forceinline__ void load_unit(uint32_t unit, int lane, UnitWords<GROUP>& w) {
  using U = Unit<GROUP>;
  w.first = shared_load16(unit + lane * 16);
  w.second = shared_load16(unit + 512 + lane * 16);
#pragma unroll
  for (int group = 0; group < U::groups; ++group) {
    w.scales[group] = shared_load4(unit + U::scales + group * 32 + lane / 4 * 4);
    w.zeros[group] = shared_load1(unit + U::zeros + group * 8 + lane / 4);
  }
}

// x: the lane's fragments of the unit; sums: its groups' sums.
template <class T, int GROUP, bool SINGLE>
__device__ __forceinline__ void multiply_unit(const UnitWords<GROUP>& w, uint32_t x_at, uint32_t sums, float (&total)[4]) {
  using N = Nibbles<T>;
  constexpr int groups = 128 / GROUP, steps = GROUP / 16;
  const uint32_t words[8] = {w.first.x, w.first.y, w.first.z, w.first.w, w.second.x, w.second.y, w.second.z, w.second.w};
  const uint4 x[4] = {shared_load16(x_at), shared_load16(x_at + 64), shared_load16(x_at + 128), shared_load16(x_at + 192)};
#pragma unroll
  for (int group = 0; group < groups; ++group) {
    float even[4] = {0, 0, 0, 0}, odd[4] = {0, 0, 0, 0};  // two chains: a product takes 33 cycles
#pragma unroll
    for (int i = group * steps; i < (group + 1) * steps; i += 2) {
      uint32_t a[4], b[4];
      N::decode(words[i], a);
      N::decode(words[i + 1], b);
      mma<T>(even, a, x[i / 2].x, x[i / 2].y);
      mma<T>(odd, b, x[i / 2].z, x[i / 2].w);
    }
    const float2 scale = unpack2<__half>(w.scales[group]);
    const float zero_low = small_float(w.zeros[group] & 15u, N::base), zero_high = small_float(N::zero_high(w.zeros[group]), N::base);
    const uint32_t at = sums + group * ActivationPlace<GROUP, SINGLE>::row_pad * 4;
    const float first = __uint_as_float(shared_load4(at));
    total[0] += scale.x * (even[0] + odd[0] - zero_low * first);
    total[2] += scale.y * (even[2] + odd[2] - zero_high * first);
    if constexpr (!SINGLE) {
      const float second = __uint_as_float(shared_load4(at + 4));
      total[1] += scale.x * (even[1] + odd[1] - zero_low * second);
      total[3] += scale.y * (even[3] + odd[3] - zero_high * second);
    }
  }
}

// Not inlined: the loop wants all registers.
template <class T, int GROUP, bool SINGLE>
__device__ __noinline__ ProgramPlaces linear_w4_phase(int index, ProgramPlaces at) {
  ProgramControl& control = program_control();
  const ProgramPhase& phase = program_phase(index);
  const LinearShape& l = linear_shape(phase);
  const ActivationPlace<GROUP, SINGLE> place(control);
  const Workplace here(control);
  if (here.warp == 0) program_trace(index, 0);
  if (phase.from >= 0) receive_units<T, GROUP, SINGLE>(control, l, phase.from, place);
  else load_units<T, GROUP, SINGLE>(control, l, phase.linear, place);
  if (here.warp == 0) program_trace(index, 1);

  constexpr int unit_bytes = Unit<GROUP>::bytes, apart = program_workers;  // units of a worker in a slot
  constexpr int sums_unit = place.sums_unit * 4;
  const int warp = here.warp, lane = here.lane, g = lane / 4, t = lane % 4, units = l.units, slot_units = control.slot_units;
  const uint32_t x = shared_address(place.rows) + (SINGLE || g >= here.rows ? 0 : g) * place.stride + t * 16;
  const uint32_t sums = shared_address(place.sums) + (SINGLE ? 0 : t % 2 * 8);
  const uint32_t ring = here.ring + warp * unit_bytes;
  const TileRange tiles = tile_range(l, phase.start);
  TraceWait weights, room;
#pragma unroll 1
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    float total[4] = {0, 0, 0, 0};
#pragma unroll 1
    for (int unit = warp; unit - warp < units; unit += slot_units) {
      const uint32_t from = ring + at.ring.slot * here.slot_bytes, barrier = here.full + at.ring.slot * 8;
      const bool one = unit < units, two = slot_units > apart && unit + apart < units;
      UnitWords<GROUP> a, b;
      weights.begin();
      barrier_wait(barrier, at.ring.parity);
      weights.end();
      load_unit(from, lane, a);  // whatever lies there, when the warp has no unit in the slot
      load_unit(two ? from + apart * unit_bytes : from, lane, b);
      here.arrive(barrier + program_slots_max * 8);
      at.ring.next(here.slots);
      if (one) multiply_unit<T, GROUP, SINGLE>(a, x + unit * 256, sums + unit * sums_unit, total);
      if (two) multiply_unit<T, GROUP, SINGLE>(b, x + (unit + apart) * 256, sums + (unit + apart) * sums_unit, total);
    }
    room.begin();
    leave_sums<SINGLE>(here, total, at.sums);
    room.end();
  }
  if (warp == 0) {
    program_trace(index, 2);
    weights.leave(index, 9);
    room.leave(index, 10);
  }
  return at;
}

template <class T>
__device__ __noinline__ ProgramPlaces linear_dense_phase(int index, ProgramPlaces at) {
  ProgramControl& control = program_control();
  const ProgramPhase& phase = program_phase(index);
  const LinearShape& l = linear_shape(phase);
  const Workplace here(control);
  const TileRange tiles = tile_range(l, phase.start);
  const ActivationPlace<0, true> place(control);
  const int g = here.lane / 4, t = here.lane % 4, in = l.in;
  workers_meet();  // who has which activations is another matter here
  receive_dense<T>(control, l, phase, place);
  const uint32_t x_begin = shared_address(place.rows) + (g < here.rows ? g : 0) * place.stride + here.warp * 64 + t * 16;
#pragma unroll 1
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    float even[4] = {0, 0, 0, 0}, odd[4] = {0, 0, 0, 0};
#pragma unroll 2
    for (int k = 0; k < in; k += dense_unit) {
      const int pitch = min(dense_unit, in - k) * 2 + 64;
      const uint32_t from = here.ring + at.ring.slot * here.slot_bytes + g * pitch + here.warp * 64 + t * 16;
      uint4 low = make_uint4(0, 0, 0, 0), high = low, x = low;
      barrier_wait(here.full + at.ring.slot * 8, at.ring.parity);
      if (k + here.warp * 32 < in) {
        low = shared_load16(from);
        high = shared_load16(from + 8 * pitch);
        x = shared_load16(x_begin + k * 2);
      }
      here.arrive(here.empty() + at.ring.slot * 8);
      at.ring.next(here.slots);
      const uint32_t a0[4] = {low.x, high.x, low.y, high.y}, a1[4] = {low.z, high.z, low.w, high.w};
      mma<T>(even, a0, x.x, x.y);
      mma<T>(odd, a1, x.z, x.w);
    }
    const float total[4] = {even[0] + odd[0], even[1] + odd[1], even[2] + odd[2], even[3] + odd[3]};
    leave_sums<false>(here, total, at.sums);
  }
  workers_meet();
  return at;
}

template <class T>
__device__ __forceinline__ ProgramPlaces linear_phase(int index, ProgramPlaces at) {
  const ProgramPhase& phase = program_phase(index);
  const LinearShape& l = linear_shape(phase);
  const TileRange tiles = tile_range(l, phase.start);
  if (tiles.begin == tiles.end) return at;
  if (l.group == 0) return linear_dense_phase<T>(index, at);
  const bool single = program_control().rows == 1;
  if (l.group == 128) return single ? linear_w4_phase<T, 128, true>(index, at) : linear_w4_phase<T, 128, false>(index, at);
  if (l.group == 64) return single ? linear_w4_phase<T, 64, true>(index, at) : linear_w4_phase<T, 64, false>(index, at);
  return single ? linear_w4_phase<T, 32, true>(index, at) : linear_w4_phase<T, 32, false>(index, at);
}

// ---- Finishers --------------------------------------------------------------------------------------------------------------

// 16 / rms of a row whose tiles' squares are in the exchange, several reads under way.
__device__ __forceinline__ float received_norm(int in, float epsilon, const uint32_t* squares) {
  constexpr int batch = 4;
  const int lane = threadIdx.x % 32, words = in / 16;
  float sum = 0;
#pragma unroll 1
  for (int base = lane * 4; base < words; base += batch * 128) {
    uint4 v[batch];
    bool missing;
#pragma unroll
    for (int i = 0; i < batch; ++i) v[i] = make_uint4(0, 0, 0, 0);
    do {
      missing = false;
#pragma unroll
      for (int i = 0; i < batch; ++i) if (base + i * 128 < words && !arrived(v[i])) v[i] = exchange_load16(squares + base + i * 128);
#pragma unroll
      for (int i = 0; i < batch; ++i) missing |= base + i * 128 < words && !arrived(v[i]);
    } while (missing);
#pragma unroll
    for (int i = 0; i < batch; ++i)
      if (base + i * 128 < words) sum += (__uint_as_float(~v[i].x) + __uint_as_float(~v[i].y)) + (__uint_as_float(~v[i].z) + __uint_as_float(~v[i].w));
  }
  return 16.f * rsqrtf(warp_sum(sum) / in + epsilon);
}
// The same of a row that the workers loaded.
__device__ __forceinline__ float loaded_norm(const ProgramControl& control, const LinearShape& l, int row) {
  const int lane = threadIdx.x % 32;
  const float sum = warp_sum(lane < program_workers ? control.squares[row][lane] : 0.f);
  return 16.f * rsqrtf(sum / l.in + l.norm_epsilon);
}

// One finishing warp's view of a phase, in registers: others wait for what it does between a tile's sums and its stores.
// Lane r and lane r + 16 have row r of the tile, of a gated linear column r % 8.
template <class T, bool SINGLE>
struct Finisher {
  static constexpr int most = SINGLE ? 1 : program_rows_max;
  const ProgramControl& control;
  const LinearShape& l;
  const int lane, rows, width, columns, tiles, activation, y_type;
  const bool gated, residual, plain, keeps;
  const float *factors, *bias, *next_norm;
  void* const y;
  const int64_t y_stride;
  uint32_t* const to;   // its part of the exchange; null: nobody here reads it
  const float unit;     // a product's unit in this lane's row
  float norm[most];     // by row of activations
  bool normed_here;     // norm is known

  __device__ __forceinline__ Finisher(const ProgramControl& c, const ProgramPhase& phase, const LinearShape& shape)
      : control(c), l(shape), lane(threadIdx.x % 32), rows(SINGLE ? 1 : c.rows), width(shape.gated ? shape.out / 2 : shape.out), columns(shape.gated ? 8 : 16), tiles(shape.tiles),
        activation(shape.activation), y_type(shape.y_type), gated(shape.gated), residual(shape.residual), plain(phase.to_plain), keeps(phase.keeps),
        factors(shape.factors_at ? reinterpret_cast<const float*>(static_cast<const char*>(phase.linear.weight) + shape.factors_at) : nullptr), bias(phase.linear.bias), next_norm(phase.linear.next_norm),
        y(phase.linear.y), y_stride(shape.y_stride), to(phase.to >= 0 ? c.exchange + phase.to : nullptr), unit(shape.group == 0 ? 1.f : threadIdx.x % 16 < 8 ? Nibbles<T>::factor_low : Nibbles<T>::factor_high) {}

  __device__ __forceinline__ void receive_norms(int from) {
    normed_here = l.norm != norm_rms || from >= 0;
#pragma unroll
    for (int n = 0; n < most; ++n) {
      norm[n] = 1;
      if (n < rows && l.norm == norm_rms && from >= 0) norm[n] = received_norm(l.in, l.norm_epsilon, control.exchange + from + rows * (l.in / 2) + n * (l.in / 16));
    }
  }
  __device__ __forceinline__ void load_norms() {
    if (normed_here) return;
#pragma unroll
    for (int n = 0; n < most; ++n) if (n < rows) norm[n] = loaded_norm(control, l, n);
    normed_here = true;
  }

  // Constants of a lane's output, read while an earlier tile is still multiplied.
  struct Output {
    int column;
    bool stores;                 // this lane has an output
    float factor, bias, bias_up, next;
    float old[most];
  };
  __device__ __forceinline__ Output prepare(int tile) const {
    const int r = lane % 16;
    Output o;
    o.column = gated ? tile * 8 + r % 8 : tile * 16 + r;
    o.stores = lane < columns && o.column < width;
    o.factor = factors ? __ldg(factors + tile * 16 + r) : 1.f;
    o.bias = bias && o.column < width ? __ldg(bias + o.column) : 0.f;
    o.bias_up = bias && gated && o.column < width ? __ldg(bias + width + o.column) : 0.f;
    o.next = next_norm && o.column < width ? __ldg(next_norm + o.column) : 1.f;
#pragma unroll
    for (int n = 0; n < most; ++n) {
      o.old[n] = 0;
      if (residual && o.stores && n < rows) o.old[n] = __ldcg(static_cast<const float*>(y) + n * y_stride + o.column);
    }
    return o;
  }
  // A row's outputs from its sums: activation, gate, residual.
  __device__ __forceinline__ float value(float sum, const Output& o, float old) const {
    if (gated) {
      const float up = __shfl_down_sync(0xffffffffu, sum, 8) + o.bias_up;
      return activate(sum + o.bias, activation) * up + old;
    }
    return activate(sum + o.bias, activation) + old;
  }
  // To the exchange first: others wait for it.
  __device__ __forceinline__ void store_row(int n, int tile, const Output& o, float v) const {
    if (to) {
      const float here = next_norm ? v * (o.next * 0.0625f) : v, beside = __shfl_down_sync(0xffffffffu, here, 1);
      if (o.stores && lane % 2 == 0) exchange_store(to + n * (width / 2) + (plain ? o.column / 2 : fragment_word(o.column)), pack2<T>(here, beside));
      if (next_norm) {
        float square = v * v;
#pragma unroll
        for (int d = 8; d > 0; d >>= 1) square += __shfl_xor_sync(0xffffffffu, square, d);
        if (lane == 0) exchange_store(to + rows * (width / 2) + n * tiles + tile, __float_as_uint(square));
      }
    }
    if (keeps && o.stores) store(y, y_type, n * y_stride + o.column, v);
  }
  // sums: this lane's, of the tile's first row of activations.
  __device__ __forceinline__ void finish(int tile, const Output& o, uint32_t sums) const {
#pragma unroll
    for (int n = 0; n < most; ++n) {
      if (n >= rows) break;
      const uint4 a = shared_load16(sums + n * 16 * sum_pitch * 4), b = shared_load16(sums + n * 16 * sum_pitch * 4 + 16);
      float sum = ((__uint_as_float(a.x) + __uint_as_float(a.y)) + (__uint_as_float(a.z) + __uint_as_float(a.w))) + ((__uint_as_float(b.x) + __uint_as_float(b.y)) + (__uint_as_float(b.z) + __uint_as_float(b.w)));
      sum += __shfl_xor_sync(0xffffffffu, sum, 16);
      store_row(n, tile, o, value(sum * (o.factor * unit * norm[n]), o, o.old[n]));
    }
  }
};

// Finisher `which` does every program_finishers-th tile of the block. The same lane has the same column of the residual in
// all linears that add to it (the host sees to that), so it reads what it wrote itself.
template <class T, bool SINGLE>
__device__ __noinline__ RingPlace finish_phase(int index, int which, RingPlace at) {
  const ProgramControl& control = program_control();
  const ProgramPhase& phase = program_phase(index);
  const LinearShape& l = linear_shape(phase);
  const TileRange tiles = tile_range(l, phase.start);
  const int slots = program_sum_slots(SINGLE ? 1 : control.rows), sum_bytes = program_sum_bytes(SINGLE ? 1 : control.rows), lane = threadIdx.x % 32;
  Finisher<T, SINGLE> finisher(control, phase, l);
  const uint32_t sums = shared_address(program_shared) + control.sums + lane % 16 * sum_pitch * 4 + lane / 16 * (program_workers / 2) * 4;
  const uint32_t summed = shared_address(control.summed), taken = shared_address(control.taken);
  // Without a tile nobody waits for this warp, and what it would read might be gone.
  if (tiles.begin + which < tiles.end) {
    typename Finisher<T, SINGLE>::Output next = finisher.prepare(tiles.begin + which);
    if (!SINGLE) finisher.receive_norms(phase.from);
#pragma unroll 1
    for (int tile = tiles.begin; tile < tiles.end; ++tile) {
      if ((tile - tiles.begin) % program_finishers == which) {
        const typename Finisher<T, SINGLE>::Output o = next;
        if (tile + program_finishers < tiles.end) next = finisher.prepare(tile + program_finishers);
        barrier_wait(summed + at.slot * 8, at.parity);
        // One row's squares are there by now: waiting for them in the memory system would only hold up the words of others.
        if (SINGLE && tile == tiles.begin + which) finisher.receive_norms(phase.from);
        finisher.load_norms();
        finisher.finish(tile, o, sums + at.slot * sum_bytes);
        barrier_arrive_warp(taken + at.slot * 8);
        program_trace(index, 3 + which);
      }
      at.next(slots);
    }
  } else {
    for (int tile = tiles.begin; tile < tiles.end; ++tile) at.next(slots);
  }
  if (phase.reset_end > phase.reset_begin && which == 0 && tiles.begin < tiles.end) {
    // Shares by tiles, in steps of four words.
    const int quads = (phase.reset_end - phase.reset_begin) / 4, share = (quads + l.tiles - 1) / l.tiles;
    exchange_reset(control.exchange, phase.reset_begin + min(quads, share * tiles.begin) * 4, phase.reset_begin + min(quads, share * tiles.end) * 4, lane, 32);
  }
  return at;
}

}  // namespace hearth::kernels::cuda
