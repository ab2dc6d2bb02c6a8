// Linears of the decode program. A block owns consecutive 16-row tiles of the weight, in the ring one stream of units (16
// rows by 128 k); worker w multiplies units w, w + 16, ... of a tile and leaves its sums in shared memory; a finishing warp
// (decode_program_finish.cuh) adds them up, applies what the linear has fused, and hands the outputs on. Workers never wait
// for one another: only for their own activations, for weights, and for room for their sums.
//
// 4-bit weights are multiplied as integers, with activations in fixed point (decode_program_activations.cuh). A byte of the
// weights is 16 times a nibble of row g + 8 and one of row g: products take it whole and masked, and the difference of their
// sums is exactly 16 times row g + 8's.
#pragma once

#include "kernels/cuda/sm80/decode_program_activations.cuh"

namespace hearth::kernels::cuda {

// ---- Workers ----------------------------------------------------------------------------------------------------------------

// What a worker needs of the shared memory, in registers: 32-bit addresses, so that none is computed anew in the loops.
struct Workplace {
  uint32_t full, ring, sums;
  int slots, slot_bytes, sum_slots, rows, warp, lane;
  __device__ __forceinline__ explicit Workplace(const ProgramControl& control)
      : full(shared_address(control.full)), ring(shared_address(program_shared) + control.sums - control.slots * control.slot_bytes), sums(shared_address(program_shared) + control.sums),
        slots(control.slots), slot_bytes(control.slot_bytes), sum_slots(control.sum_slots), rows(control.rows) {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));  // not to be read again and again
    warp = thread / 32;
    lane = thread % 32;
  }
  __device__ __forceinline__ uint32_t empty() const { return full + program_slots_max * 8; }
  __device__ __forceinline__ uint32_t summed() const { return empty() + program_slots_max * 8; }
  __device__ __forceinline__ uint32_t taken() const { return summed() + program_sum_slots_max * 8; }
  __device__ __forceinline__ void arrive(uint32_t barrier) const {
    __syncwarp();
    if (lane == 0) barrier_arrive(barrier);
  }
};

// Room for this worker's sums of a tile, once the finishers have taken those that lie there.
__device__ __forceinline__ uint32_t await_room(const Workplace& here, const RingPlace& at) {
  barrier_wait(here.taken() + at.slot * 8, at.parity ^ 1);
  return here.sums + at.slot * program_sum_bytes(here.rows) + here.warp * 4;
}
__device__ __forceinline__ uint32_t sum_place(uint32_t room, int n, int r) { return room + (n * 16 + r) * sum_pitch * 4; }  // row n of activations, r of the tile
__device__ __forceinline__ void sums_left(const Workplace& here, RingPlace& at) {
  here.arrive(here.summed() + at.slot * 8);
  at.next(here.sum_slots);
}

// total: of rows g and g + 8 of the tile, this lane's row of activations and share of k.
template <int ROWS>
__device__ __forceinline__ void leave_sums(const Workplace& here, const float (&total)[2], RingPlace& at) {
  const int g = here.lane / 4, t = here.lane % 4, row = t % ROWS;
  if constexpr (ROWS == 4) {
    const uint32_t room = await_room(here, at);
    if (row < here.rows) {
      shared_store4(sum_place(room, row, g), total[0]);
      shared_store4(sum_place(room, row, g + 8), total[1]);
    }
  } else {  // the shares of k are added up; lanes 0 and 1 of a quad then have row g, lanes 2 and 3 row g + 8
    const bool high = t >= 2;
    float sum = (high ? total[1] : total[0]) + __shfl_xor_sync(0xffffffffu, high ? total[0] : total[1], 2);
    if constexpr (ROWS == 1) sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    const uint32_t room = await_room(here, at);
    if (ROWS == 2 || t % 2 == 0) shared_store4(sum_place(room, row, g + (high ? 8 : 0)), sum);
  }
  sums_left(here, at);
}

// A unit's share of a lane, out of the ring.
struct UnitWords {
  uint4 first, second;
  __device__ __forceinline__ void load(uint32_t unit, int lane) {
    first = shared_load16(unit + lane * 16);
    second = shared_load16(unit + 512 + lane * 16);
  }
};

// Of several rows: scales and zero points of what a lane has sums of, rows g and g + 8, its group in each set of sums of a unit.
template <int GROUP, int ROWS> struct GroupConstants {
  using C = Columns<GROUP, ROWS>;
  uint32_t scales[C::sets], zeros[C::sets];
  __device__ __forceinline__ void load(uint32_t unit, int lane) {
    using U = Unit<GROUP>;
    const int g = lane / 4, first = lane % 4 / ROWS % C::groups;
#pragma unroll
    for (int set = 0; set < C::sets; ++set) {
      scales[set] = shared_load4(unit + U::scales + (first + set * C::shares) * 32 + g * 4);
      zeros[set] = shared_load1(unit + U::zeros + (first + set * C::shares) * 8 + g);
    }
  }
};

// ---- Several rows ----

// Row g masked, row g + 8 with what it has of row g.
__device__ __forceinline__ void mma_bytes(int (&c)[4], uint32_t w0, uint32_t w1, uint32_t b0, uint32_t b1) {
  constexpr uint32_t low = 0x0f0f0f0fu;
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(w0 & low), "r"(w0), "r"(w1 & low), "r"(w1), "r"(b0), "r"(b1));
}

// What a lane multiplies with: byte g % 2 of row g / 2 % ROWS, in products of its share of k; zeros in others.
struct ColumnPlace { uint32_t x, zeros; int share; };

// Products of one set of sums of a unit, which is the `position`th of those that meet in a set.
template <int GROUP, int ROWS>
__device__ __forceinline__ void multiply_set(const UnitWords& w, const ColumnPlace& column, uint32_t x, int position, int set, int (&sums)[4]) {
  using C = Columns<GROUP, ROWS>;
  const uint32_t words[8] = {w.first.x, w.first.y, w.first.z, w.first.w, w.second.x, w.second.y, w.second.z, w.second.w};
#pragma unroll
  for (int j = 0; j < C::set_groups; ++j) {
    const int group = set * C::set_groups + j, word = group * (GROUP / 16);
    const bool mine = C::shares == 1 || position * C::groups + j == column.share;
    const uint32_t at = mine ? x + fixed_offset(group * GROUP) : column.zeros;
    if constexpr (GROUP == 32) {
      const uint2 b = shared_load8(at);
      mma_bytes(sums, words[word], words[word + 1], b.x, b.y);
    } else {
#pragma unroll
      for (int half = 0; half < GROUP / 64; ++half) {
        const uint4 b = shared_load16(at + half * 128);
        mma_bytes(sums, words[word + half * 4], words[word + half * 4 + 1], b.x, b.y);
        mma_bytes(sums, words[word + half * 4 + 2], words[word + half * 4 + 3], b.z, b.w);
      }
    }
  }
}

// Adds a set's sums to the totals; scaled: the group's activations' (see ActivationPlace). Integers until the last step: the
// sums, below 2^31, and what the zero points take off are exact.
__device__ __forceinline__ void add_set(int (&sums)[4], uint32_t scales, uint32_t zeros, uint2 scaled, float (&total)[2]) {
  const int negated = static_cast<int>(scaled.y);
  const int low = sums[0] * 256 + sums[1] + static_cast<int>(zeros & 15u) * negated;
  const int both = sums[2] * 256 + sums[3] + static_cast<int>(zeros) * negated;
  const float2 scale = unpack2<__half>(scales);
  const float unit = __uint_as_float(scaled.x);
  total[0] += unit * scale.x * static_cast<float>(low);
  total[1] += unit * scale.y * static_cast<float>(both - low);
#pragma unroll
  for (int i = 0; i < 4; ++i) sums[i] = 0;
}

// ---- One row ----

// Four words as they lie in the ring are an operand: rows g have the words of even steps of 16 k, rows g + 8 those of odd
// steps, and rows g + 8 of the tile come with rows g. So a pair of columns has the activations of even or of odd steps, pair
// p of share p / 2 of k those of parity p % 2, and only the sums of the rows of its parity mean something: no word is moved.
__device__ __forceinline__ void mma_quad(int (&both)[4], int (&low)[4], const uint4& w, uint32_t b0, uint32_t b1) {
  constexpr uint32_t mask = 0x0f0f0f0fu;
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(both[0]), "+r"(both[1]), "+r"(both[2]), "+r"(both[3]) : "r"(w.x), "r"(w.y), "r"(w.z), "r"(w.w), "r"(b0), "r"(b1));
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(low[0]), "+r"(low[1]), "+r"(low[2]), "+r"(low[3]) : "r"(w.x & mask), "r"(w.y & mask), "r"(w.z & mask), "r"(w.w & mask), "r"(b0), "r"(b1));
}
// both: of whole bytes, low: of masked ones.
struct QuadSums {
  int both[4] = {0, 0, 0, 0}, low[4] = {0, 0, 0, 0};
  __device__ __forceinline__ void add(bool odd, uint32_t scales, uint32_t zeros, uint2 scaled, float (&total)[2]) const {
    const int negated = static_cast<int>(scaled.y);
    const int l = (odd ? low[2] : low[0]) * 256 + (odd ? low[3] : low[1]) + static_cast<int>(zeros & 15u) * negated;
    const int b = (odd ? both[2] : both[0]) * 256 + (odd ? both[3] : both[1]) + static_cast<int>(zeros) * negated;
    const float2 scale = unpack2<__half>(scales);
    const float unit = __uint_as_float(scaled.x);
    total[0] += unit * scale.x * static_cast<float>(l);
    total[1] += unit * scale.y * static_cast<float>(b - l);
  }
};
// Scales and zero points of a lane's share, for each set of sums of a unit.
template <int GROUP> struct SingleConstants {
  static constexpr int sets = GROUP == 32 ? 2 : 1, groups = 128 / GROUP;
  uint32_t scales[sets], zeros[sets];
  __device__ __forceinline__ void load(uint32_t unit, int lane) {
    using U = Unit<GROUP>;
    const int g = lane / 4, group = groups == 1 ? 0 : lane % 4 / 2;
#pragma unroll
    for (int set = 0; set < sets; ++set) {
      scales[set] = shared_load4(unit + U::scales + (group + 2 * set) * 32 + g * 4);
      zeros[set] = shared_load1(unit + U::zeros + (group + 2 * set) * 8 + g);
    }
  }
};
// A unit of groups of 64 or 32.
template <int GROUP>
__device__ __forceinline__ void multiply_single(const UnitWords& w, uint32_t x, uint32_t zeros, int share, const SingleConstants<GROUP>& c, uint32_t scaled, bool odd, float (&total)[2]) {
  if constexpr (GROUP == 64) {
    QuadSums s;
    const uint2 b0 = shared_load8(share == 0 ? x : zeros), b1 = shared_load8(share == 1 ? x + 8 : zeros);
    mma_quad(s.both, s.low, w.first, b0.x, b0.y);
    mma_quad(s.both, s.low, w.second, b1.x, b1.y);
    s.add(odd, c.scales[0], c.zeros[0], shared_load8(scaled), total);
  } else {
    const uint4 b = shared_load16(x);
    QuadSums s, second;
    mma_quad(s.both, s.low, w.first, share == 0 ? b.x : 0, share == 1 ? b.y : 0);
    mma_quad(second.both, second.low, w.second, share == 0 ? b.z : 0, share == 1 ? b.w : 0);
    s.add(odd, c.scales[0], c.zeros[0], shared_load8(scaled), total);
    second.add(odd, c.scales[1], c.zeros[1], shared_load8(scaled + 2 * ActivationPlace<1>::group_bytes), total);
  }
}

// What a worker has of a slot, in registers: one unit, or two `program_workers` apart.
struct WorkerSlot {
  static constexpr int apart = program_workers;
  UnitWords a, b;
  bool one, two;  // there is a first, a second unit

  // load(from, beside): what else is wanted of the two. Then the loader has the slot's room again. What lies where the worker
  // has no unit is read and left.
  template <int GROUP, class Load>
  __device__ __forceinline__ void take(const Workplace& here, RingPlace& at, int unit, int units, int slot_units, TraceWait& waiting, const Load& load) {
    constexpr int unit_bytes = Unit<GROUP>::bytes;
    const uint32_t barrier = here.full + at.slot * 8, from = here.ring + at.slot * here.slot_bytes + here.warp * unit_bytes;
    one = unit < units;
    two = slot_units > apart && unit + apart < units;
    const uint32_t beside = two ? from + apart * unit_bytes : from;
    waiting.begin();
    barrier_wait(barrier, at.parity);
    waiting.end();
    a.load(from, here.lane);
    b.load(beside, here.lane);
    load(from, beside);
    here.arrive(barrier + program_slots_max * 8);
    at.next(here.slots);
  }
};

template <int GROUP> struct SingleSlot : WorkerSlot {
  SingleConstants<GROUP> constants, second;  // of groups of 128 only the first: the two units are the two shares

  __device__ __forceinline__ void take(const Workplace& here, RingPlace& at, int unit, int units, int slot_units, TraceWait& waiting) {
    WorkerSlot::take<GROUP>(here, at, unit, units, slot_units, waiting, [&](uint32_t from, uint32_t beside) {
      if constexpr (GROUP == 128) {
        constants.load(here.lane % 4 < 2 ? from : beside, here.lane);
      } else {
        constants.load(from, here.lane);
        second.load(beside, here.lane);
      }
    });
  }
};

// The first slot is taken before the activations are there: the ring has room for another while everybody waits.
template <class T, int GROUP>
__device__ __noinline__ uint32_t linear_w4_single(uint32_t packed) {
  PhasePlace at(packed);
  ProgramControl& control = program_control();
  const int index = at.phase;
  const ProgramPhase& phase = program_phase(index);
  const LinearShape& l = linear_shape(phase);
  const ActivationPlace<1> place(control);
  const Workplace here(control);
  constexpr int apart = program_workers;
  const int warp = here.warp, g = here.lane / 4, t = here.lane % 4, units = l.units, slot_units = control.slot_units;
  const TileRange tiles = tile_range(l, phase);
  if (tiles.begin == tiles.end) return at.packed() + next_phase;
  TraceWait weights, room;
  SingleSlot<GROUP> slot{};
  slot.take(here, at.ring, warp, units, slot_units, weights);
  if (warp == 0) program_trace(index, 0);
  receive<T, GROUP, 1>(control, l, phase, place);
  if (warp == 0) program_trace(index, 1);

  const int share = g / 4;  // of this lane's column
  const bool odd = t % 2;   // of this lane's sums
  const uint32_t x = shared_address(place.rows) + g % 4 * 64 + t * 16, zeros = shared_address(control.zeros);
  const uint32_t scaled = shared_address(place.sums) + t % 2 * 8 + (GROUP == 128 ? t / 2 * apart * place.unit_sums : t / 2 * place.group_bytes);
  int left = tiles.end - tiles.begin, unit = warp;
  float total[2] = {0, 0};
#pragma unroll 1
  while (true) {
    if (slot.one) {
      const uint32_t of_unit = scaled + unit * place.unit_sums, x_unit = x + unit * 256;
      if constexpr (GROUP == 128) {
        QuadSums s;
        const uint4 b0 = shared_load16(share == 0 ? x_unit : zeros);
        mma_quad(s.both, s.low, slot.a.first, b0.x, b0.y);
        mma_quad(s.both, s.low, slot.a.second, b0.z, b0.w);
        if (slot.two) {
          const uint4 b1 = shared_load16(share == 1 ? x_unit + apart * 256 : zeros);
          mma_quad(s.both, s.low, slot.b.first, b1.x, b1.y);
          mma_quad(s.both, s.low, slot.b.second, b1.z, b1.w);
        }
        s.add(odd, slot.constants.scales[0], slot.constants.zeros[0], shared_load8(slot.two || t < 2 ? of_unit : zeros), total);
      } else {
        multiply_single<GROUP>(slot.a, x_unit, zeros, share, slot.constants, of_unit, odd, total);
        if (slot.two) multiply_single<GROUP>(slot.b, x_unit + apart * 256, zeros, share, slot.second, of_unit + apart * place.unit_sums, odd, total);
      }
    }
    unit += slot_units;
    if (unit - warp >= units) {
      room.begin();
      leave_sums<1>(here, total, at.sums);
      room.end();
      if (--left == 0) break;
      total[0] = total[1] = 0;
      unit = warp;
    }
    slot.take(here, at.ring, unit, units, slot_units, weights);
  }
  if (warp == 0) {
    program_trace(index, 2);
    weights.leave(index, 9);
    room.leave(index, 10);
  }
  return at.packed() + next_phase;
}

// Of several rows.
template <int GROUP, int ROWS> struct RowsSlot : WorkerSlot {
  GroupConstants<GROUP, ROWS> constants, second;  // where units meet in a set of sums only the first, of the unit that is this lane's

  // ahead: how far the unit whose sums are this lane's is from the slot's first one.
  __device__ __forceinline__ void take(const Workplace& here, RingPlace& at, int unit, int units, int slot_units, int ahead, TraceWait& waiting) {
    WorkerSlot::take<GROUP>(here, at, unit, units, slot_units, waiting, [&](uint32_t from, uint32_t beside) {
      if constexpr (Columns<GROUP, ROWS>::units == 1) {
        constants.load(from, here.lane);
        second.load(beside, here.lane);
      } else {
        if (one && ahead == 0) constants.load(from, here.lane);
        if (two && ahead == 1) constants.load(beside, here.lane);
      }
    });
  }
};

// Not inlined: the loops want all registers.
template <class T, int GROUP, int ROWS>
__device__ __noinline__ uint32_t linear_w4_phase(uint32_t packed) {
  PhasePlace at(packed);
  using C = Columns<GROUP, ROWS>;
  ProgramControl& control = program_control();
  const int index = at.phase;
  const ProgramPhase& phase = program_phase(index);
  const LinearShape& l = linear_shape(phase);
  const ActivationPlace<ROWS> place(control);
  const Workplace here(control);
  constexpr int apart = program_workers;
  const int warp = here.warp, lane = here.lane, g = lane / 4, t = lane % 4, units = l.units, slot_units = control.slot_units;
  const int position_mine = t / ROWS / C::groups;  // of the unit that this lane has sums of, among those that meet
  const TileRange tiles = tile_range(l, phase);
  if (tiles.begin == tiles.end) return at.packed() + next_phase;
  TraceWait weights, room;
  RowsSlot<GROUP, ROWS> slot{};
  int unit = warp, position = 0;
  slot.take(here, at.ring, unit, units, slot_units, position_mine - position, weights);
  if (warp == 0) program_trace(index, 0);
  receive<T, GROUP, ROWS>(control, l, phase, place);
  if (warp == 0) program_trace(index, 1);

  const ColumnPlace column{shared_address(place.rows) + min(g / 2 % ROWS, here.rows - 1) * place.stride + g % 2 * 64 + t * 16, shared_address(control.zeros), g / 2 / ROWS};
  const uint32_t scaled = shared_address(place.sums) + t / ROWS % C::groups * place.group_bytes + t % ROWS * 8, unscaled = shared_address(control.zeros);
  int left = tiles.end - tiles.begin;
  int sums[4] = {0, 0, 0, 0};
  float total[2] = {0, 0};
#pragma unroll 1
  while (true) {
    const uint32_t x = column.x + unit * 256;
    if constexpr (C::units == 1) {
#pragma unroll
      for (int set = 0; set < C::sets; ++set) {
        const uint32_t of_set = scaled + unit * place.unit_sums + set * C::shares * place.group_bytes;
        if (slot.one) {
          multiply_set<GROUP, ROWS>(slot.a, column, x, 0, set, sums);
          add_set(sums, slot.constants.scales[set], slot.constants.zeros[set], shared_load8(of_set), total);
        }
        if (slot.two) {
          multiply_set<GROUP, ROWS>(slot.b, column, x + apart * 256, 0, set, sums);
          add_set(sums, slot.second.scales[set], slot.second.zeros[set], shared_load8(of_set + apart * place.unit_sums), total);
        }
      }
    } else {
      if (slot.one) multiply_set<GROUP, ROWS>(slot.a, column, x, position, 0, sums);
      if (slot.two) multiply_set<GROUP, ROWS>(slot.b, column, x + apart * 256, position + 1, 0, sums);
      const int first = unit - position * apart;  // of those that meet
      position += slot_units / apart;
      if (position == C::units || unit - warp + slot_units >= units) {
        const int mine = first + position_mine * apart;
        add_set(sums, slot.constants.scales[0], slot.constants.zeros[0], shared_load8(mine < units ? scaled + mine * place.unit_sums : unscaled), total);
        position = 0;
      }
    }
    unit += slot_units;
    if (unit - warp >= units) {
      room.begin();
      leave_sums<ROWS>(here, total, at.sums);
      room.end();
      if (--left == 0) break;
      total[0] = total[1] = 0;
      unit = warp;
    }
    slot.take(here, at.ring, unit, units, slot_units, position_mine - position, weights);
  }
  if (warp == 0) {
    program_trace(index, 2);
    weights.leave(index, 9);
    room.leave(index, 10);
  }
  return at.packed() + next_phase;
}

template <class T>
__device__ __noinline__ uint32_t linear_dense_phase(uint32_t packed) {
  PhasePlace at(packed);
  ProgramControl& control = program_control();
  const int index = at.phase;
  const ProgramPhase& phase = program_phase(index);
  const LinearShape& l = linear_shape(phase);
  const Workplace here(control);
  const TileRange tiles = tile_range(l, phase);
  if (tiles.begin == tiles.end) return at.packed() + next_phase;
  const ActivationPlace<1> place(control);
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
    const uint32_t room = await_room(here, at.sums);
#pragma unroll
    for (int i = 0; i < 4; ++i)  // columns 2 t and 2 t + 1 of rows g and g + 8
      if (const int n = 2 * t + i % 2; n < here.rows) shared_store4(sum_place(room, n, g + i / 2 * 8), even[i] + odd[i]);
    sums_left(here, at.sums);
  }
  workers_meet();
  return at.packed() + next_phase;
}

template <class T, int GROUP>
__device__ __forceinline__ uint32_t linear_w4_rows(uint32_t at) {
  const int index = at / next_phase, rows = program_control().rows;
  if (program_phase(index).from < 0) load_phase<T, GROUP>(index);
  if (rows == 1) return linear_w4_single<T, GROUP>(at);
  return rows == 2 ? linear_w4_phase<T, GROUP, 2>(at) : linear_w4_phase<T, GROUP, 4>(at);
}

template <class T>
__device__ __forceinline__ uint32_t linear_phase(uint32_t at) {
  const int group = linear_shape(program_phase(at / next_phase)).group;
  if (group == 128) return linear_w4_rows<T, 128>(at);
  if (group == 64) return linear_w4_rows<T, 64>(at);
  return group == 32 ? linear_w4_rows<T, 32>(at) : linear_dense_phase<T>(at);
}

}  // namespace hearth::kernels::cuda
