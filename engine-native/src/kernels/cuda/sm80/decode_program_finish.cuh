// The decode program's finishing warps: they add up what the workers left of a tile (decode_program_linear.cuh), apply what the
// linear has fused, and hand the outputs on.
#pragma once

#include "kernels/cuda/sm80/decode_program_linear.cuh"

namespace hearth::kernels::cuda {

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
  const float unit;     // of the sums of this lane's row of the tile
  float norm[most];     // by row of activations
  bool normed_here;     // norm is known

  __device__ __forceinline__ Finisher(const ProgramControl& c, const ProgramPhase& phase, const LinearShape& shape)
      : control(c), l(shape), lane(threadIdx.x % 32), rows(SINGLE ? 1 : c.rows), width(shape.gated ? shape.out / 2 : shape.out), columns(shape.gated ? 8 : 16), tiles(shape.tiles),
        activation(shape.activation), y_type(shape.y_type), gated(shape.gated), residual(shape.residual), plain(phase.to_plain), keeps(phase.keeps),
        factors(shape.factors_at ? reinterpret_cast<const float*>(static_cast<const char*>(phase.linear.weight) + shape.factors_at) : nullptr), bias(phase.linear.bias), next_norm(phase.linear.next_norm),
        y(phase.linear.y), y_stride(shape.y_stride), to(phase.to >= 0 ? c.exchange + phase.to : nullptr), unit(shape.group == 0 || threadIdx.x % 16 < 8 ? 1.f : 0.0625f) {}

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

// Finisher `which` does every program_finishers-th tile of the block, and waits for the others' sums, too: one that skipped them
// could be a lap ahead, or behind, and parities do not tell laps apart. The same lane has the same column of the residual in
// all linears that add to it (the host sees to that), so it reads what it wrote itself.
template <class T, bool SINGLE>
__device__ __noinline__ uint32_t finish_phase(uint32_t place) {
  const int index = place / next_phase, which = threadIdx.x / 32 - program_workers;
  RingPlace at = PhasePlace(place).sums;
  const ProgramControl& control = program_control();
  const ProgramPhase& phase = program_phase(index);
  const LinearShape& l = linear_shape(phase);
  const TileRange tiles = tile_range(l, phase);
  const int slots = control.sum_slots, sum_bytes = program_sum_bytes(SINGLE ? 1 : control.rows), lane = threadIdx.x % 32;
  Finisher<T, SINGLE> finisher(control, phase, l);
  const uint32_t sums = shared_address(program_shared) + control.sums + lane % 16 * sum_pitch * 4 + lane / 16 * (program_workers / 2) * 4;
  const uint32_t summed = shared_address(control.summed), taken = shared_address(control.taken);
  // Without a tile nobody waits for this warp, and what it would read might be gone.
  if (tiles.begin + which < tiles.end) {
    typename Finisher<T, SINGLE>::Output next = finisher.prepare(tiles.begin + which);
    if (!SINGLE) finisher.receive_norms(phase.from);
#pragma unroll 1
    for (int tile = tiles.begin; tile < tiles.end; ++tile) {
      const bool own = (tile - tiles.begin) % program_finishers == which;
      if (!own) {
        barrier_wait(summed + at.slot * 8, at.parity);
      } else {
        const typename Finisher<T, SINGLE>::Output o = next;
        if (tile + program_finishers < tiles.end) next = finisher.prepare(tile + program_finishers);
        barrier_wait(summed + at.slot * 8, at.parity);
        // One row's squares are there by now: waiting for them in the memory system would only hold up the words of others.
        if (SINGLE && tile == tiles.begin + which) finisher.receive_norms(phase.from);
        finisher.load_norms();
        finisher.finish(tile, o, sums + at.slot * sum_bytes);
        program_trace(index, 3 + which);
      }
      barrier_arrive_warp(taken + at.slot * 8);
      at.next(slots);
    }
  } else {
    for (int tile = tiles.begin; tile < tiles.end; ++tile) {
      barrier_wait(summed + at.slot * 8, at.parity);
      barrier_arrive_warp(taken + at.slot * 8);
      at.next(slots);
    }
  }
  if (phase.reset_end > phase.reset_begin && which == 0 && tiles.begin < tiles.end) {
    // Shares by tiles, in steps of four words.
    const int quads = (phase.reset_end - phase.reset_begin) / 4, share = (quads + l.tiles - 1) / l.tiles;
    exchange_reset(control.exchange, phase.reset_begin + min(quads, share * tiles.begin) * 4, phase.reset_begin + min(quads, share * tiles.end) * 4, lane, 32);
  }
  PhasePlace next(place);
  next.sums = at;
  return next.packed() + next_phase;
}

}  // namespace hearth::kernels::cuda
