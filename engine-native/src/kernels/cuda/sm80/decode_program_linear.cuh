// Linears of the decode program. 16-row tiles of the weight are dealt to the blocks, in whose ring they are one stream of
// units (16 rows by 128 k); worker w multiplies units w, w + 16, ... of a tile, or of the block's part of its K, and leaves its sums in shared memory; a finishing warp
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
  // read: something of each of the slot's reads (see once_read).
  __device__ __forceinline__ void give_back(RingPlace& at, uint32_t read) const {
    arrive(empty() + at.slot * 8 + once_slot_read(read, slots));
    at.next(slots);
  }
};

// Room for this worker's sums of a tile, once the finishers have taken those that lie there.
__device__ __forceinline__ uint32_t await_room(const Workplace& here, const RingPlace& at, int rows) {
  barrier_wait(here.taken() + at.slot * 8, at.parity ^ 1);
  return here.sums + at.slot * program_sum_bytes(rows) + here.warp * 4;
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
    const uint32_t room = await_room(here, at, here.rows);
    if (has_row<ROWS>(row, here.rows)) {
      shared_store4(sum_place(room, row, g), total[0]);
      shared_store4(sum_place(room, row, g + 8), total[1]);
    }
  } else {  // the shares of k are added up; lanes 0 and 1 of a quad then have row g, lanes 2 and 3 row g + 8
    const bool high = t >= 2;
    float sum = (high ? total[1] : total[0]) + __shfl_xor_sync(0xffffffffu, high ? total[0] : total[1], 2);
    if constexpr (ROWS == 1) sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    const uint32_t room = await_room(here, at, ROWS);
    if (ROWS == 2 || t % 2 == 0) shared_store4(sum_place(room, row, g + (high ? 8 : 0)), sum);
  }
  sums_left(here, at);
}

// ---- What a worker does with a slot -------------------------------------------------------------------------------------------

// A worker has a unit of a slot, or (PAIRS) two, `program_workers` apart. Their groups, one after the other, go to sets of
// sums, a set as many groups as products have shares (see Columns). A part is what one operand of activations meets: 64 k of
// one row, 32 k of several.
template <int GROUP, int ROWS, bool PAIRS> struct SlotForm {
  static constexpr int units = PAIRS ? 2 : 1, groups = 128 / GROUP, shares = Columns<ROWS>::shares;
  static constexpr bool joint = shares > groups;  // both units are in one set, each a share
  static constexpr int sets = joint ? 1 : units * groups / shares;
  static constexpr int part_k = ROWS == 1 ? 64 : 32, unit_parts = 128 / part_k, set_parts = units * unit_parts / sets;
  static __device__ __forceinline__ int part_offset(int part) { return ROWS == 1 ? part * 8 : fixed_offset(part * part_k); }  // of a unit's activations
  // Whose scales a lane of this share has in a set.
  static __device__ __forceinline__ int unit_of(int set, int share) { return joint ? share : set * shares / groups; }
  static __device__ __forceinline__ int group_of(int set, int share) { return joint ? 0 : set * shares % groups + share; }
};

// Where a lane finds what it multiplies: from the worker's first unit of a tile on, the bytes of its column in each unit; and
// scale and negated sum of the row and share that it has sums of.
template <int ROWS> struct LanePlace {
  uint32_t x, scaled, zeros;        // of zeros: what is multiplied in place of what is not there
  int unit_sums;
  int column_share, share;          // of the column that this lane multiplies, of what it has sums of
  bool odd;                         // of one row: the parity that its sums are of
  __device__ __forceinline__ LanePlace(const ActivationPlace<ROWS>& place, const ProgramControl& control, int warp, int lane) {
    constexpr int rows = Columns<ROWS>::rows;
    const int g = lane / 4, t = lane % 4;
    x = shared_address(place.rows) + warp * 256 + t * 16 + (ROWS == 1 ? g % 4 * 64 : min(g / 2 % rows, control.rows - 1) * place.stride + g % 2 * 64);
    scaled = shared_address(place.sums) + warp * place.unit_sums + t % rows * 8;
    zeros = shared_address(&control.zeros);
    unit_sums = place.unit_sums;
    column_share = g / 2 / rows;
    share = t / rows;
    odd = t % 2;
  }
};

// Activations of a set as a lane multiplies them, and scale and negated sum of its group.
template <int GROUP, int ROWS, bool PAIRS> struct SetActivations {
  using F = SlotForm<GROUP, ROWS, PAIRS>;
  static constexpr bool wide = GROUP >= 2 * F::part_k;  // two parts of a group lie side by side
  static constexpr int loads = wide ? F::set_parts / 2 : F::set_parts;
  uint2 x[F::set_parts], scaled;

  // Where they are.
  struct Source {
    uint32_t x[loads], scaled;
    __device__ __forceinline__ void keep() {
#pragma unroll
      for (int i = 0; i < loads; ++i) kept(x[i]);
      kept(scaled);
    }
    // unit: how many units after the worker's first one of the tile the slot's first is; one, two: whether it has a first, a second.
    __device__ __forceinline__ void find(const LanePlace<ROWS>& place, int set, int unit, bool one, bool two) {
#pragma unroll
      for (int i = 0; i < loads; ++i) {
        const int at = set * F::set_parts + i * (wide ? 2 : 1), part = at % F::unit_parts, second = at / F::unit_parts;
        const bool mine = GROUP < F::part_k || F::shares == 1 || (second * F::groups + part * F::part_k / GROUP) % F::shares == place.column_share;
        x[i] = mine && (second ? two : one) ? place.x + (unit + second * program_workers) * 256 + F::part_offset(part) : place.zeros;
      }
      const int second = F::unit_of(set, place.share);
      scaled = (second ? two : one) ? place.scaled + (unit + second * program_workers) * place.unit_sums + F::group_of(set, place.share) * ActivationPlace<ROWS>::group_bytes : place.zeros;
    }
  };
  __device__ __forceinline__ void load(const Source& from, const LanePlace<ROWS>& place) {
#pragma unroll
    for (int i = 0; i < loads; ++i) {
      if constexpr (wide) {
        const uint4 v = shared_load16(from.x[i]);
        x[2 * i] = make_uint2(v.x, v.y);
        x[2 * i + 1] = make_uint2(v.z, v.w);
      } else {
        x[i] = shared_load8(from.x[i]);
        if (GROUP < F::part_k) x[i] = place.column_share == 0 ? make_uint2(x[i].x, 0) : make_uint2(0, x[i].y);  // both shares' groups
      }
    }
    scaled = shared_load8(from.scaled);
  }
};

__device__ __forceinline__ void mma_u8_s8(int (&c)[4], const uint4& a, uint2 b) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
}
// A set's sums of products: with masked bytes of the weights, which are row g's, and with whole ones.
constexpr uint32_t low_nibbles = 0x0f0f0f0fu;
template <int ROWS> struct Products {
  int sums[4] = {0, 0, 0, 0};  // high and low bytes of activations: by masked bytes, by whole ones
  __device__ __forceinline__ void add(const uint4* words, int part, uint2 x) {
    const uint4& w = words[part / 2];
    const uint32_t first = part % 2 == 0 ? w.x : w.z, second = part % 2 == 0 ? w.y : w.w;
    mma_u8_s8(sums, make_uint4(first & low_nibbles, first, second & low_nibbles, second), x);
  }
  __device__ __forceinline__ int masked(bool) const { return sums[0] * 256 + sums[1]; }
  __device__ __forceinline__ int whole(bool) const { return sums[2] * 256 + sums[3]; }
};
// One row: four words as they lie in the ring are an operand: rows g have the words of even steps of 16 k, rows g + 8 those of
// odd steps, and rows g + 8 of the tile come with rows g. So a pair of columns has the activations of even or of odd steps, pair
// p of share p / 2 of k those of parity p % 2, and only the sums of the rows of its parity mean something: no word is moved.
template <> struct Products<1> {
  int by_masked[4] = {0, 0, 0, 0}, by_whole[4] = {0, 0, 0, 0};
  __device__ __forceinline__ void add(const uint4* words, int part, uint2 x) {
    const uint4& w = words[part];
    mma_u8_s8(by_whole, w, x);
    mma_u8_s8(by_masked, make_uint4(w.x & low_nibbles, w.y & low_nibbles, w.z & low_nibbles, w.w & low_nibbles), x);
  }
  __device__ __forceinline__ int masked(bool odd) const { return of_parity(by_masked, odd); }
  __device__ __forceinline__ int whole(bool odd) const { return of_parity(by_whole, odd); }

 private:
  static __device__ __forceinline__ int of_parity(const int (&sums)[4], bool odd) { return (odd ? sums[2] : sums[0]) * 256 + (odd ? sums[3] : sums[1]); }
};

// Adds a set's sums, of masked bytes and of whole ones, to the totals of rows g and g + 8. Integers until the last step: the sums,
// below 2^31, and what the zero points take off are exact.
__device__ __forceinline__ void add_sums(int low, int both, uint32_t scales, uint32_t zeros, uint2 scaled, float (&total)[2]) {
  const int negated = static_cast<int>(scaled.y);
  low += static_cast<int>(zeros & 15u) * negated;
  both += static_cast<int>(zeros) * negated;
  const float2 scale = unpack2<__half>(scales);
  const float unit = __uint_as_float(scaled.x);
  total[0] += unit * scale.x * static_cast<float>(low);
  total[1] += unit * scale.y * static_cast<float>(both - low);
}

// A worker's weights of a slot, with scales and zero points of what a lane has sums of.
template <int GROUP, int ROWS, bool PAIRS> struct WorkerSlot {
  using F = SlotForm<GROUP, ROWS, PAIRS>;
  uint4 words[2 * F::units];
  uint32_t scales[F::sets], zeros[F::sets];

  // A unit that is not there is replaced by another of the slot, to be multiplied by zeros.
  __device__ __forceinline__ void load(const Workplace& here, uint32_t slot, bool one, bool two) {
    using U = Unit<GROUP>;
    const int g = here.lane / 4;
    int share = here.lane % 4 / Columns<ROWS>::rows;
    kept(share);
    const uint32_t from = slot + (one ? here.warp * U::bytes : 0), beside = two ? from + program_workers * U::bytes : from;
#pragma unroll
    for (int i = 0; i < 2 * F::units; ++i) words[i] = shared_load16((i < 2 ? from : beside) + i % 2 * 512 + here.lane * 16);
#pragma unroll
    for (int i = 0; i < F::sets; ++i) {
      const uint32_t unit = F::unit_of(i, share) ? beside : from, group = F::group_of(i, share);
      scales[i] = shared_load4(unit + U::scales + group * 32 + g * 4);
      zeros[i] = shared_load1(unit + U::zeros + group * 8 + g);
    }
  }
  // Something of each of the reads (see once_read).
  __device__ __forceinline__ uint32_t read() const {
    uint32_t of_all = 0;
#pragma unroll
    for (int i = 0; i < 2 * F::units; ++i) of_all |= words[i].x;
#pragma unroll
    for (int i = 0; i < F::sets; ++i) of_all |= scales[i] | zeros[i];
    return of_all;
  }
  __device__ __forceinline__ void multiply_set(int set, const SetActivations<GROUP, ROWS, PAIRS>& by, const LanePlace<ROWS>& place, float (&total)[2]) const {
    Products<ROWS> products;
#pragma unroll
    for (int i = 0; i < F::set_parts; ++i) products.add(words, set * F::set_parts + i, by.x[i]);
    add_sums(products.masked(place.odd), products.whole(place.odd), scales[set], zeros[set], by.scaled, total);
  }
};

// Before Hopper addresses take registers that a second slot would need.
#if __CUDA_ARCH__ >= 900
constexpr bool two_slots_in_registers = true;
#else
constexpr bool two_slots_in_registers = false;
#endif

// A worker's tiles of a phase. While a slot is multiplied the next one comes to the registers, and two are there before the
// activations: the ring has room for others while everybody waits. STEADY: a tile is a slot, so activations stay in registers.
// Not inlined: the loop wants all registers.
template <class T, int GROUP, int ROWS, bool PAIRS, bool STEADY>
__device__ __noinline__ uint32_t linear_w4_phase(uint32_t packed) {
  PhasePlace at(packed);
  using F = SlotForm<GROUP, ROWS, PAIRS>;
  using Slot = WorkerSlot<GROUP, ROWS, PAIRS>;
  ProgramControl& control = program_control();
  const int index = at.phase;
  const ProgramPhase& phase = program_phase(index);
  const LinearShape& l = linear_shape(phase);
  const KPart k = k_part(l, phase);
  const int tiles = tiles_multiplied(l, phase);
  if (tiles == 0) return at.packed() + next_phase;
  const ActivationPlace<ROWS> activations(control);
  Workplace here(control);
  constexpr bool ahead = ROWS == 1 && GROUP == 128 && two_slots_in_registers;  // of more rows and of smaller groups they spill
  int units = k.units;
  const int slot_units = control.slot_units;
  int left = tiles * (STEADY ? 1 : (units + slot_units - 1) / slot_units);  // slots to be multiplied
  int unit = 0;  // of the tile, the first one of the slot that is to be multiplied
  auto following = [&] { return STEADY || unit + slot_units >= units ? 0 : unit + slot_units; };
  auto one = [&](int first) { return first + here.warp < units; };
  auto two = [&](int first) { return PAIRS && first + here.warp + program_workers < units; };
  TraceWait weights, room;
  auto landed_at = [&](const RingPlace& place) { return barrier_passed(here.full + place.slot * 8, place.parity); };
  auto landed = [&] { return landed_at(at.ring); };
  auto await = [&] {
    weights.begin();
    barrier_wait(here.full + at.ring.slot * 8, at.ring.parity);
    weights.end();
  };
  auto load_from = [&](const RingPlace& place, Slot& slot, int first) { slot.load(here, here.ring + place.slot * here.slot_bytes, one(first), two(first)); };
  auto load = [&](Slot& slot, int first) { load_from(at.ring, slot, first); };
  auto give_back = [&](const Slot& slot) { here.give_back(at.ring, slot.read()); };
  Slot first{}, second{};
  await();
  load(first, 0);
  uint32_t taken = false;
  if (ahead) {
    RingPlace on = at.ring;
    on.next(here.slots);
    taken = left > 1 && landed_at(on);
    kept(taken);
    if (taken) load_from(on, second, following());
  }
  if (here.warp == 0) program_trace(index, 0);
  using Set = SetActivations<GROUP, ROWS, PAIRS>;
  typename Set::Source source[F::sets];
  if (STEADY && ahead) {  // what is found out before is not waited for
    const LanePlace<ROWS> place(activations, control, here.warp, here.lane);
#pragma unroll
    for (int i = 0; i < F::sets; ++i) {
      source[i].find(place, i, 0, one(0), two(0));
      source[i].keep();
    }
  }
  give_back(first);
  if (taken) give_back(second);
  receive<T, GROUP, ROWS, STEADY && !PAIRS>(control, l, index, k, activations);
  kept(units);
  kept(here.lane);
  if (here.warp == 0) program_trace(index, 1);

  const LanePlace<ROWS> place(activations, control, here.warp, here.lane);
  Set x[F::sets];
#pragma unroll
  for (int i = 0; i < F::sets; ++i) {
    if (STEADY && !ahead) source[i].find(place, i, 0, one(0), two(0));
    if (STEADY) x[i].load(source[i], place);
  }
  float total[2] = {0, 0};
  auto multiply = [&](const Slot& slot) {
#pragma unroll
    for (int i = 0; i < F::sets; ++i) {
      if (!STEADY) {
        source[i].find(place, i, unit, one(unit), two(unit));
        x[i].load(source[i], place);
      }
      slot.multiply_set(i, x[i], place, total);
    }
    --left;
    if (!STEADY && (unit += slot_units) < units) return;
    room.begin();
    leave_sums<ROWS>(here, total, at.sums);
    room.end();
    total[0] = total[1] = 0;
    unit = 0;
  };
  // Whether there is a next slot, which then is in `next`.
  auto step = [&](const Slot& now, Slot& next) {
    kept(units);
    uint32_t early = false;
    if (ahead) {
      early = landed() && left > 1;
      kept(early);
    }
    if (early) load(next, following());
    multiply(now);
    if (left == 0) return false;
    if (!early) {
      await();
      load(next, unit);
    }
    give_back(next);
    return true;
  };
  if (taken) {
    multiply(first);
    first = second;
  }
  if constexpr (ahead) {
#pragma unroll 1
    while (step(first, second) && step(second, first)) {}
  } else {
#pragma unroll 1
    while (step(first, first)) {}
  }
  if (here.warp == 0) {
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
  receive_dense<T>(control, l, index, place);
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
      here.give_back(at.ring, low.x | high.x);
      const uint32_t a0[4] = {low.x, high.x, low.y, high.y}, a1[4] = {low.z, high.z, low.w, high.w};
      mma<T>(even, a0, x.x, x.y);
      mma<T>(odd, a1, x.z, x.w);
    }
    const uint32_t room = await_room(here, at.sums, here.rows);
#pragma unroll
    for (int i = 0; i < 4; ++i)  // columns 2 t and 2 t + 1 of rows g and g + 8
      if (const int n = 2 * t + i % 2; n < here.rows) shared_store4(sum_place(room, n, g + i / 2 * 8), even[i] + odd[i]);
    sums_left(here, at.sums);
  }
  workers_meet();
  return at.packed() + next_phase;
}

}  // namespace hearth::kernels::cuda
