// Linears of the decode program for more rows than integer products have columns for: products in 16 bits, whose eight columns
// are as many rows. A lane's activations are what the tensor cores want of it in the order in which the exchange has them, so
// they go from there to registers and are neither converted nor in shared memory, which the ring has instead. Weights are
// multiplied as whole numbers and scaled by group, as the zero points are: what they take off is the sum of the activations.
#pragma once

#include "kernels/cuda/sm80/decode_program_linear.cuh"

namespace hearth::kernels::cuda {

// A small whole number as a float, faster than a conversion.
__device__ __forceinline__ float whole(uint32_t v) { return __uint_as_float(0x4b000000u | v) - 8388608.f; }

// A word of the weights (16 k of rows g and g + 8) as an operand, in units of 1 / `unit`, of row g + 8 in units `high` times as
// large. zeros: what of the two is zero. one: the operand by which activations are summed up.
template <class T> struct NibbleOperand;
template <> struct NibbleOperand<__half> {  // subnormal numbers
  static constexpr float unit = 16777216.f, high = 16;
  static constexpr uint32_t one = 0x00010001u;
  static __device__ __forceinline__ void make(uint32_t word, uint32_t (&a)[4]) {
    const uint32_t on = word >> 8;
    a[0] = word & 0x000f000fu; a[1] = word & 0x00f000f0u;
    a[2] = on & 0x000f000fu; a[3] = on & 0x00f000f0u;
  }
  static __device__ __forceinline__ float2 zeros(uint32_t both) { return make_float2(whole(both & 15u), whole(both & 0xf0u)); }
};
template <> struct NibbleOperand<__nv_bfloat16> {  // 128 to 143
  static constexpr float unit = 1, high = 1;
  static constexpr uint32_t one = 0x3f803f80u;
  static __device__ __forceinline__ void make(uint32_t word, uint32_t (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = (word >> 4 * i & 0x000f000fu) | 0x43004300u;
  }
  static __device__ __forceinline__ float2 zeros(uint32_t both) { return make_float2(128 + whole(both & 15u), 128 + whole(both >> 4)); }
};

// A worker's unit of activations, of row g of the lane: 128 k.
struct ColumnUnit {
  uint4 words[4];  // as the exchange has them; then inverted

  __device__ __forceinline__ void begin(bool wanted) {
    const uint32_t initial = wanted ? 0 : unwanted;
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = make_uint4(initial, initial, initial, initial);
  }
  __device__ __forceinline__ void poll(const uint32_t* from) {
#pragma unroll
    for (int i = 0; i < 4; ++i) exchange_poll(words[i], from + i * 16);
  }
  __device__ __forceinline__ bool missing() const { return !(arrived(words[0]) && arrived(words[1]) && arrived(words[2]) && arrived(words[3])); }
  __device__ __forceinline__ void invert() {
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = make_uint4(~words[i].x, ~words[i].y, ~words[i].z, ~words[i].w);
  }
  // What an earlier kernel left, from column k on; returns its squares.
  template <class T> __device__ __forceinline__ float load(const LinearShape& l, const LinearOperands& operands, int row, int k) {
    float square = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      words[i] = make_uint4(load_pair<T>(l, operands, row, k + i * 32, square), load_pair<T>(l, operands, row, k + i * 32 + 8, square), load_pair<T>(l, operands, row, k + i * 32 + 16, square), load_pair<T>(l, operands, row, k + i * 32 + 24, square));
    return square;
  }
  // Adds products with operand(step), of 16 k a step.
  template <class T, class Operand> __device__ __forceinline__ void multiply(float (&sums)[4], const Operand& operand) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      uint32_t a[4];
      operand(i, a);
      const uint4& x = words[i / 2];
      mma<T>(sums, a, i % 2 == 0 ? x.x : x.z, i % 2 == 0 ? x.y : x.w);
    }
  }
};

// A worker's tiles of a phase, each of them a slot: activations stay in registers. Sums of rows 8 to 15 of a tile
// are 16 times too large, as they are with integer products. Not inlined: the loop wants all registers.
template <class T, bool PAIRS>
__device__ __noinline__ uint32_t linear_w4_columns(uint32_t packed) {
  using A = NibbleOperand<T>;
  constexpr int count = PAIRS ? 2 : 1;
  PhasePlace at(packed);
  ProgramControl& control = program_control();
  const int index = at.phase;
  const ProgramPhase& phase = program_phase(index);
  const LinearShape& l = linear_shape(phase);
  const KPart k = k_part(l, phase);
  int left = tiles_multiplied(l, phase);
  if (left == 0) return at.packed() + next_phase;
  Workplace here(control);
  const bool one = here.warp < k.units, two = PAIRS && here.warp + program_workers < k.units;
  WorkerSlot<128, 4, PAIRS> slot{};
  TraceWait weights, room;
  auto take_slot = [&] {
    weights.begin();
    barrier_wait(here.full + at.ring.slot * 8, at.ring.parity);
    weights.end();
    slot.load(here, here.ring + at.ring.slot * here.slot_bytes, one, two);
    here.give_back(at.ring, slot.read());
  };
  take_slot();
  if (here.warp == 0) program_trace(index, 0);

  const int g = here.lane / 4, t = here.lane % 4;
  ColumnUnit x[count];
  if (phase.from < 0) {
    const LinearOperands& operands = linear_operands(index);
    float square = 0;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      x[i].begin(true);
      if (g < here.rows) square += x[i].template load<T>(l, operands, g, (here.warp + i * program_workers) * 128 + t * 2);
    }
    square += __shfl_xor_sync(0xffffffffu, square, 1);
    square += __shfl_xor_sync(0xffffffffu, square, 2);
    if (l.norm == norm_rms && t == 0) control.squares[g][here.warp] = square;
  } else {
    const uint32_t* const from = control.exchange + phase.input() + g * (l.in / 2) + (k.begin + here.warp) * 64 + t * 4;
#pragma unroll
    for (int i = 0; i < count; ++i) x[i].begin(g < here.rows && (i ? two : one));
    // What all blocks poll for takes from what their finishers read: a word of a lane's first, then all.
    while (__any_sync(0xffffffffu, !arrived(x[0].words[0]))) exchange_poll(x[0].words[0], from);
    linear_begun(index);
    auto missing = [&] { return x[0].missing() || x[count - 1].missing(); };
    do {
#pragma unroll
      for (int i = 0; i < count; ++i) x[i].poll(from + i * program_workers * 64);
    } while (__any_sync(0xffffffffu, missing()));
#pragma unroll
    for (int i = 0; i < count; ++i) x[i].invert();
  }
  // The activations' sums, of columns 2 t and 2 t + 1.
  float2 sums[count];
#pragma unroll
  for (int i = 0; i < count; ++i) {
    float c[4] = {0, 0, 0, 0};
    x[i].template multiply<T>(c, [&](int, uint32_t (&a)[4]) { a[0] = a[1] = a[2] = a[3] = A::one; });
    sums[i] = make_float2(c[0], c[1]);
  }
  if (here.warp == 0) program_trace(index, 1);

  const uint32_t sums_at = sum_place(0, 2 * t, g);
  const bool first_row = 2 * t < here.rows, second_row = 2 * t + 1 < here.rows;
#pragma unroll 1
  while (true) {
    float total[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < count; ++i) {
      float c[4] = {0, 0, 0, 0};
      x[i].template multiply<T>(c, [&](int step, uint32_t (&a)[4]) {
        const uint4& w = slot.words[2 * i + step / 4];
        A::make(step % 4 == 0 ? w.x : step % 4 == 1 ? w.y : step % 4 == 2 ? w.z : w.w, a);
      });
      const float2 scale = unpack2<__half>(slot.scales[i]), zero = A::zeros(slot.zeros[i]);
      const float second = scale.y * (16 / A::high);
      total[0] += scale.x * (c[0] - zero.x * sums[i].x);
      total[1] += scale.x * (c[1] - zero.x * sums[i].y);
      total[2] += second * (c[2] - zero.y * sums[i].x);
      total[3] += second * (c[3] - zero.y * sums[i].y);
    }
    --left;
    room.begin();
    const uint32_t to = await_room(here, at.sums, here.rows) + sums_at;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (i % 2 ? second_row : first_row) shared_store4(sum_place(to, i % 2, i / 2 * 8), total[i] * A::unit);
    sums_left(here, at.sums);
    room.end();
    if (left == 0) break;
    take_slot();
  }
  if (here.warp == 0) {
    program_trace(index, 2);
    weights.leave(index, 9);
    room.leave(index, 10);
  }
  return at.packed() + next_phase;
}

template <class T, int GROUP, int ROWS>
__device__ __forceinline__ uint32_t linear_w4(uint32_t at, int form) {
  if constexpr (GROUP == 128)
    if (form & form_steady) return form & form_pairs ? linear_w4_phase<T, GROUP, ROWS, true, true>(at) : linear_w4_phase<T, GROUP, ROWS, false, true>(at);
  return form & form_pairs ? linear_w4_phase<T, GROUP, ROWS, true, false>(at) : linear_w4_phase<T, GROUP, ROWS, false, false>(at);
}
template <class T, int GROUP>
__device__ __forceinline__ uint32_t linear_w4_rows(uint32_t at, int form) {
  if constexpr (GROUP == 128) {
    if ((form & form_rows) == form_columns) return form & form_pairs ? linear_w4_columns<T, true>(at) : linear_w4_columns<T, false>(at);
  }
  if (form & form_loads) load_phase<T, GROUP>(at / next_phase);
  if ((form & form_rows) == form_one) return linear_w4<T, GROUP, 1>(at, form);
  return (form & form_rows) == form_two ? linear_w4<T, GROUP, 2>(at, form) : linear_w4<T, GROUP, 4>(at, form);
}

template <class T>
__device__ __forceinline__ uint32_t linear_phase(uint32_t at) {
  const int form = program_phase(at / next_phase).form, group = form & form_groups;
  if (group == form_128) return linear_w4_rows<T, 128>(at, form);
  if (group == form_64) return linear_w4_rows<T, 64>(at, form);
  return group == form_32 ? linear_w4_rows<T, 32>(at, form) : linear_dense_phase<T>(at);
}

}  // namespace hearth::kernels::cuda
