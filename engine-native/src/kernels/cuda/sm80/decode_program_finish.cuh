// The decode program's finishing warps: they add up what the workers left of a tile (decode_program_linear.cuh), apply what the
// linear has fused, and hand the outputs on.
#pragma once

#include "kernels/cuda/sm80/decode_program_columns.cuh"

namespace hearth::kernels::cuda {

// One finishing warp's view of a phase, in registers: others wait for what it does between a tile's sums and its stores. Its
// lanes share a tile's outputs: eight have a row of activations, lane c of them columns 2 c and 2 c + 1, or gate and up of
// column c. Where rows are fewer than four, as many more eights share the workers whose sums are added up; where there are
// more, the lane has the row four on, too.
template <class T, int ALL_ROWS, bool GATED>
struct Finisher {
  static constexpr int ROWS = program_four(ALL_ROWS), fours = program_fours(ALL_ROWS);
  static constexpr int row_lanes = 32 / ROWS, shares = 4 / ROWS, chunks = program_workers / 4 / shares;  // chunks: four workers' sums each, of a lane
  const ProgramControl& control;
  const LinearShape& l;
  const int lane, rows, n, c, width;                       // n: the lane's row, of the first four
  int activation, y_type;
  // What a tile's outputs take, as bits (see `kept`: predicates would be read back from memory between sums and stores).
  // live: there is such a row, and this is its first eight; live_on: and the row four on.
  enum : uint32_t { live = 1, live_on = 2, residual = 4, plain = 8, keeps = 16, scaled = 32, biased = 64, normed = 128, handed_on = 256 };
  uint32_t flags;
  const float *factors, *bias, *next_norm;                 // factors: the lane's first of tile 0
  char* const y;                                           // the row
  uint32_t* const words;                                   // of the row in the exchange, where somebody here reads them
  const int squares;                                       // from there on
  const float2 unit;                                       // of the sums of the two
  float norm[fours];                                       // the row's

  __device__ __forceinline__ Finisher(const ProgramControl& control, const ProgramPhase& phase, const LinearShape& shape)
      : control(control), l(shape), lane(threadIdx.x % 32), rows(ALL_ROWS < 4 ? ALL_ROWS : control.rows), n(min(lane / 8 % ROWS, rows - 1)), c(lane % 8), width(GATED ? shape.out / 2 : shape.out),
        activation(shape.activation), y_type(shape.y_type),
        flags((lane / 8 < rows ? live : 0) | (fours > 1 && lane / 8 + 4 < rows ? live_on : 0) | (shape.residual ? residual : 0) | (phase.to_plain ? plain : 0) | (phase.keeps ? keeps : 0) | (phase.factors != floats_none ? scaled : 0) |
              (phase.bias != floats_none ? biased : 0) | (phase.next_norm != floats_none && phase.to >= 0 ? normed : 0) | (phase.to >= 0 ? handed_on : 0)),
        factors(program_floats(control, phase.factors) + first()), bias(program_floats(control, phase.bias)), next_norm(program_floats(control, phase.next_norm)),
        y(static_cast<char*>(shape.y) + n * static_cast<int64_t>(shape.y_stride) * (shape.y_type == type_f32 ? 4 : 2)), words(control.exchange + phase.output() + n * (width / 2)),
        squares((rows - n) * (width / 2) + n * shape.tiles), unit(units(shape)) {
#pragma unroll
    for (int four = 0; four < fours; ++four) norm[four] = 1;
  }
  __device__ __forceinline__ bool is(uint32_t flag) const { return flags & flag; }
  __device__ __forceinline__ bool is_live(int four) const { return is(four ? live_on : live); }
  __device__ __forceinline__ char* y_of(int four) const { return y + four * 4 * static_cast<int64_t>(l.y_stride) * (y_type == type_f32 ? 4 : 2); }
  // From here on what depends on them is found out anew.
  __device__ __forceinline__ void anew() { asm volatile("" : "+r"(flags), "+r"(activation), "+r"(y_type)); }
  __device__ __forceinline__ int second() const { return GATED ? 8 : 1; }  // tile rows from the lane's first output to its second

  // Sums of rows 8 to 15 of a tile of 4-bit weights are 16 times too large.
  __device__ __forceinline__ float2 units(const LinearShape& shape) const {
    constexpr float sixteenth = 0.0625f;
    if (shape.group == 0) return make_float2(1, 1);
    return make_float2(!GATED && c >= 4 ? sixteenth : 1, GATED || c >= 4 ? sixteenth : 1);
  }
  // The lane's first output in a tile, by the tile's rows.
  __device__ __forceinline__ int first() const { return GATED ? c : 2 * c; }
  // Over the lanes that have parts of the same outputs, and over those of a row.
  __device__ __forceinline__ float over_shares(float v) const {
#pragma unroll
    for (int d = 8 * ROWS; d < 32; d *= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
  }
  __device__ __forceinline__ float over_columns(float v) const {
#pragma unroll
    for (int d = 4; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
  }

  // The lane's share of its row's squares: in the exchange, several reads under way, or of what the workers loaded.
  __device__ __forceinline__ float received_squares(const uint32_t* squares) const {
    constexpr int batch = 4;
    const int quads = l.in / 64;
    float sum = 0;
#pragma unroll 1
    for (int base = lane / (8 * ROWS) * 8 + c; base - c < quads; base += batch * row_lanes) {
      uint4 v[batch];
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        const uint32_t initial = base + i * row_lanes < quads ? 0 : unwanted;
        v[i] = make_uint4(initial, initial, initial, initial);
      }
      bool missing;
      do {
        missing = false;
#pragma unroll
        for (int i = 0; i < batch; ++i) exchange_poll(v[i], squares + (base + i * row_lanes) * 4);
#pragma unroll
        for (int i = 0; i < batch; ++i) missing |= !arrived(v[i]);
      } while (missing);
#pragma unroll
      for (int i = 0; i < batch; ++i) sum += (__uint_as_float(~v[i].x) + __uint_as_float(~v[i].y)) + (__uint_as_float(~v[i].z) + __uint_as_float(~v[i].w));
    }
    return sum;
  }
  __device__ __forceinline__ float loaded_squares(int row) const {
    float sum = 0;
#pragma unroll
    for (int w = lane / (8 * ROWS) * 8 + c; w < program_workers; w += row_lanes) sum += control.squares[row][w];
    return sum;
  }
  // The rows' 16 / rms.
  __device__ __forceinline__ void find_norm(int from) {
#pragma unroll
    for (int four = 0; four < fours; ++four) {
      const int row = four ? min(n + 4, rows - 1) : n;
      const float sum = from >= 0 ? received_squares(control.exchange + from + rows * (l.in / 2) + row * (l.in / 16)) : loaded_squares(row);
      norm[four] = 16.f * rsqrtf(__fdividef(over_shares(over_columns(sum)), l.in) + l.norm_epsilon);
    }
  }

  __device__ __forceinline__ int column(int tile) const { return tile * (GATED ? 8 : 16) + first(); }
  __device__ __forceinline__ bool has(int column, int four = 0) const { return is_live(four) && column < width; }
  __device__ __forceinline__ bool has_second(int column, int four = 0) const { return !GATED && has(column + 1, four); }

  // What is needed of a lane's outputs beside the sums, read while an earlier tile is still multiplied.
  struct Constants { float2 factor, bias, next, old[fours]; };
  __device__ __forceinline__ Constants prepare(int tile) const {
    const int column = this->column(tile);
    const bool one = has(column), two = has_second(column);
    auto both = [&](uint32_t flag, const float* from, bool first, bool second, int apart, float otherwise) {
      return make_float2(is(flag) && first ? __ldg(from) : otherwise, is(flag) && second ? __ldg(from + apart) : otherwise);
    };
    Constants o;
    o.factor = both(scaled, factors + tile * 16, true, true, second(), 1);
    o.bias = both(biased, bias + column, one, GATED ? one : two, GATED ? width : 1, 0);
    o.next = both(normed, next_norm + column, one, two, 1, 16);
#pragma unroll
    for (int four = 0; four < fours; ++four) {
      const float* const old = reinterpret_cast<const float*>(y_of(four)) + column;
      o.old[four] = make_float2(is(residual) && (four ? has(column, four) : one) ? __ldcg(old) : 0.f, is(residual) && (four ? has_second(column, four) : two) ? __ldcg(old + 1) : 0.f);
    }
    return o;
  }
  // What is left to do once a tile's sums are there: found out before.
  struct Output {
    float2 scale[fours], bias, next, old[fours];
    uint32_t* word;   // of the first four
    int column;
    uint32_t stores;  // whether the lane has the word
    // From here on they are in registers, not their parts.
    __device__ __forceinline__ void keep() {
      asm volatile("" : "+f"(next.x), "+f"(next.y), "+l"(word), "+r"(stores));
#pragma unroll
      for (int four = 0; four < fours; ++four) asm volatile("" : "+f"(scale[four].x), "+f"(scale[four].y));
    }
  };
  __device__ __forceinline__ Output output(int tile, const Constants& c) const {
    const int column = this->column(tile);
    const bool stores = is(handed_on) && has(column) && column % 2 == 0;
    Output o;
#pragma unroll
    for (int four = 0; four < fours; ++four) {
      o.scale[four] = make_float2(c.factor.x * unit.x * norm[four], c.factor.y * unit.y * norm[four]);
      o.old[four] = c.old[four];
    }
    o.bias = c.bias;
    o.next = make_float2(c.next.x * 0.0625f, c.next.y * 0.0625f);
    o.word = words + (is(plain) ? column / 2 : fragment_word(column));
    o.column = column;
    o.stores = stores;
    o.keep();
    return o;
  }
  // Where the lane's sums are in those of a tile; of the next four workers 16 bytes on, or, the other way round, before:
  // of eight lanes four begin with the odd ones, which are in other banks.
  __device__ __forceinline__ uint32_t sums_at() const { return (n * 16 + first()) * sum_pitch * 4 + (lane / (8 * ROWS) * chunks ^ swapped()) * 16; }
  __device__ __forceinline__ int swapped() const { return GATED ? 0 : c / 4; }
  __device__ __forceinline__ float of_chunks(uint32_t at) const {
    const int beside = 16 - 32 * swapped();
    float of_chunk[chunks];
#pragma unroll
    for (int i = 0; i < chunks; ++i) {
      const uint4 v = shared_load16(at + i / 2 * 32 + i % 2 * beside);
      of_chunk[i] = (__uint_as_float(v.x) + __uint_as_float(v.y)) + (__uint_as_float(v.z) + __uint_as_float(v.w));
    }
#pragma unroll
    for (int apart = 1; apart < chunks; apart *= 2)
#pragma unroll
      for (int i = 0; i < chunks; i += 2 * apart) of_chunk[i] += of_chunk[i + apart];
    return of_chunk[0];
  }
  // Of a lane's rows.
  struct Sums { float2 of[fours]; };
  __device__ __forceinline__ Sums sums(uint32_t at) const {
    Sums s;
#pragma unroll
    for (int four = 0; four < fours; ++four) s.of[four] = row_sums(at + four * program_sum_bytes(4));
    return s;
  }
  __device__ __forceinline__ float2 row_sums(uint32_t at) const {
    float2 v = make_float2(of_chunks(at), of_chunks(at + second() * sum_pitch * 4));
#pragma unroll
    for (int d = 8 * ROWS; d < 32; d *= 2) {  // over the lanes that have parts of the same outputs, both on their way
      const float first = __shfl_xor_sync(0xffffffffu, v.x, d), second = __shfl_xor_sync(0xffffffffu, v.y, d);
      v.x += first;
      v.y += second;
    }
    return v;
  }
  // Sums that one of the blocks that share K sends to another.
  __device__ __forceinline__ uint32_t* part(int from, int sender, int tile, int four) const { return control.exchange + from + l.parts_at + ((sender * l.tiles + tile) * rows + n + four * 4) * 16 + c * 2; }
  __device__ __forceinline__ void send(int from, int sender, int tile, const Sums& sums) const {
#pragma unroll
    for (int four = 0; four < fours; ++four)
      if (is_live(four)) exchange_store8(part(from, sender, tile, four), __float_as_uint(sums.of[four].x), __float_as_uint(sums.of[four].y));
  }
  // All of them on their way at once; added up in the order of the senders.
  __device__ __forceinline__ Sums received(int from, int tile) const {
    constexpr int batch = fours > 1 ? 1 : 3;  // registers
    Sums sums;
#pragma unroll
    for (int four = 0; four < fours; ++four) sums.of[four] = make_float2(0, 0);
#pragma unroll 1
    for (int first = 0; first < l.parts - 1; first += batch) {
      uint2 v[batch][fours];
#pragma unroll
      for (int i = 0; i < batch; ++i)
#pragma unroll
        for (int four = 0; four < fours; ++four) {
          const uint32_t initial = first + i < l.parts - 1 && (four == 0 || is_live(four)) ? 0 : unwanted;
          v[i][four] = make_uint2(initial, initial);
        }
      bool missing;
      do {
        missing = false;
#pragma unroll
        for (int i = 0; i < batch; ++i)
#pragma unroll
          for (int four = 0; four < fours; ++four) exchange_poll(v[i][four], part(from, first + i, tile, four));
#pragma unroll
        for (int i = 0; i < batch; ++i)
#pragma unroll
          for (int four = 0; four < fours; ++four) missing |= !arrived(v[i][four]);
      } while (missing);
#pragma unroll
      for (int i = 0; i < batch; ++i)
#pragma unroll
        for (int four = 0; four < fours; ++four) {
          sums.of[four].x += __uint_as_float(~v[i][four].x);
          sums.of[four].y += __uint_as_float(~v[i][four].y);
        }
    }
    return sums;
  }
  // The lane's outputs from its sums: activation, gate, residual; of a gated linear the second is none.
  __device__ __forceinline__ float2 values(float2 sums, const Output& o, int four) const {
    const float2 scale = o.scale[four], old = o.old[four];
    float2 v = make_float2(sums.x * scale.x + o.bias.x, sums.y * scale.y + o.bias.y);
    if (GATED) return make_float2(activate(v.x, activation) * v.y + old.x, 0);
    if (activation != activation_none) v = make_float2(activate(v.x, activation), activate(v.y, activation));
    return make_float2(v.x + old.x, v.y + old.y);
  }
  __device__ __forceinline__ void exchange(int tile, int four, const Output& o, float2 v) const {
    const float2 here = make_float2(v.x * o.next.x, v.y * o.next.y);
    exchange_store_if(four ? o.stores && is(live_on) : o.stores, o.word + four * 4 * (width / 2), pack2<T>(here.x, GATED ? __shfl_down_sync(0xffffffffu, here.x, 1) : here.y));
    if (!is(normed)) return;
    const float square = over_columns(v.x * v.x + v.y * v.y);
    if (is_live(four) && c == 0) exchange_store(words + squares + four * 4 * l.tiles + tile, __float_as_uint(square));
  }
  // To the exchange first: others wait for it.
  __device__ __forceinline__ void finish(int tile, const Output& o, const Sums& sums) const {
    float2 v[fours];
#pragma unroll
    for (int four = 0; four < fours; ++four) {
      v[four] = values(sums.of[four], o, four);
      exchange(tile, four, o, v[four]);
    }
    if (!is(keeps)) return;
#pragma unroll
    for (int four = 0; four < fours; ++four) {
      if (has(o.column, four)) store(y_of(four), y_type, o.column, v[four].x);
      if (has_second(o.column, four)) store(y_of(four), y_type, o.column + 1, v[four].y);
    }
  }
};

// The block's share, by tiles in steps of four words, of what a linear knows to have been read. By one finisher.
__device__ __forceinline__ void reset_read(int index) {
  const ProgramPhase& phase = program_phase(index);
  const int from = index > 0 ? program_phase(index - 1).reset_end : 0;
  if (phase.reset_end <= from || thread_index() / 32 != program_workers) return;
  const LinearShape& l = linear_shape(phase);
  const TileRange tiles = tile_range(l, phase);
  const int begin = from * exchange_unit, quads = (phase.reset_end - from) * (exchange_unit / 4), share = (quads + l.tiles - 1) / l.tiles;
  exchange_reset(program_control().exchange, begin + min(quads, share * tiles.begin) * 4, begin + min(quads, share * tiles.end) * 4, thread_index() % 32, 32);
}

// Of a linear whose K blocks share, what this one has of the others' tiles: workers multiply these first.
template <class T, int ROWS, int FINISHERS>
__device__ __noinline__ uint32_t send_parts(uint32_t place) {
  PhasePlace at(place);
  const int which = threadIdx.x / 32 - program_workers;
  const ProgramControl& control = program_control();
  const ProgramPhase& phase = program_phase(at.phase);
  const LinearShape& l = linear_shape(phase);
  const Finisher<T, ROWS, false> finisher(control, phase, l);
  const int slots = control.sum_slots, sum_bytes = program_sum_bytes(finisher.rows), own = part_of_block(l, phase);
  const uint32_t sums = shared_address(program_shared) + control.sums + finisher.sums_at();
  const uint32_t summed = shared_address(control.summed), taken = shared_address(control.taken);
  int turn = which;  // tiles until this warp's next one
#pragma unroll 1
  for (int on = 1; on < l.parts; ++on) {
    const TileRange tiles = tile_range(l, phase, on);
    const int sender = own - (own + on < l.parts ? 0 : 1);  // among the owner's
#pragma unroll 1
    for (int tile = tiles.begin; tile < tiles.end; ++tile) {
      barrier_wait(summed + at.sums.slot * 8, at.sums.parity);
      typename Finisher<T, ROWS, false>::Sums of_lane;
      if (turn == 0) of_lane = finisher.sums(sums + at.sums.slot * sum_bytes);
      barrier_arrive_warp(taken + at.sums.slot * 8);
      if (turn == 0) finisher.send(phase.input(), sender, tiles.tile(tile), of_lane);
      turn = turn == 0 ? FINISHERS - 1 : turn - 1;
      at.sums.next(slots);
    }
  }
  return at.packed();
}

// Finisher `which` does every FINISHERS-th tile of the block, and waits for the others' sums, too: one that skipped them
// could be a lap ahead, or behind, and parities do not tell laps apart. The same lane has the same column of the residual in
// all linears that add to it (the host sees to that), so it reads what it wrote itself. SHARED: with other blocks' parts of K.
template <class T, int ROWS, int FINISHERS, bool GATED, bool SHARED>
__device__ __noinline__ uint32_t finish_phase(uint32_t place) {
  const int index = place / next_phase, which = threadIdx.x / 32 - program_workers;
  RingPlace at = PhasePlace(place).sums;
  const ProgramControl& control = program_control();
  const ProgramPhase& phase = program_phase(index);
  const LinearShape& l = linear_shape(phase);
  const TileRange tiles = tile_range(l, phase);
  Finisher<T, ROWS, GATED> finisher(control, phase, l);
  const int slots = control.sum_slots, sum_bytes = program_sum_bytes(finisher.rows);
  const uint32_t sums = shared_address(program_shared) + control.sums + finisher.sums_at();
  const uint32_t summed = shared_address(control.summed), taken = shared_address(control.taken);
  auto row_tile = [&](int ordinal) { return ROWS == 1 ? tiles.tile(ordinal) : ordinal; };  // several rows' are stretches
  // Without a tile nobody waits for this warp, and what it would read might be gone.
  if (tiles.begin < tiles.end) {
    int own = tiles.begin + which;
    typename Finisher<T, ROWS, GATED>::Constants next{};
    if (own < tiles.end) next = finisher.prepare(row_tile(own));
    if (own < tiles.end && l.norm == norm_rms) {
      // Not before: waiting for squares in the memory system would hold up the words of others.
      if (phase.from >= 0) await_begun(index);
      else barrier_wait(summed + at.slot * 8, at.parity);  // then all workers have loaded theirs
      finisher.find_norm(phase.input());
    }
    // With its first tile's sums all workers have read a linear's input; of the last one nothing more is read.
    if (!SHARED && place >= control.end - next_phase) {
      barrier_wait(summed + at.slot * 8, at.parity);
      input_read<FINISHERS>();
    }
#pragma unroll 1
    for (int tile = tiles.begin; tile < tiles.end; ++tile) {
      if (tile != own) {
        barrier_wait(summed + at.slot * 8, at.parity);
        barrier_arrive_warp(taken + at.slot * 8);
      } else {
        finisher.anew();
        const auto output = finisher.output(row_tile(tile), next);
        own += FINISHERS;
        if (own < tiles.end) next = finisher.prepare(row_tile(own));
        typename Finisher<T, ROWS, GATED>::Sums others;
        if (SHARED) others = finisher.received(phase.input(), row_tile(tile));
        barrier_wait(summed + at.slot * 8, at.parity);
        finisher.anew();
        auto of_lane = finisher.sums(sums + at.slot * sum_bytes);
        barrier_arrive_warp(taken + at.slot * 8);
        if (SHARED) {
#pragma unroll
          for (int four = 0; four < program_fours(ROWS); ++four) {
            of_lane.of[four].x += others.of[four].x;
            of_lane.of[four].y += others.of[four].y;
          }
        }
        finisher.finish(row_tile(tile), output, of_lane);
        if (own >= tiles.end) program_trace(index, 3 + which);  // each would hold up the next tile
      }
      at.next(slots);
    }
  }
  kept(place);
  reset_read(place / next_phase);
  PhasePlace next(place);
  next.sums = at;
  return next.packed() + next_phase;
}

template <class T, int ROWS, int FINISHERS>
__device__ __forceinline__ uint32_t finish_phase(uint32_t at, const LinearShape& l) {
  if (l.gated) return finish_phase<T, ROWS, FINISHERS, true, false>(at);
  if (l.parts > 1) return finish_phase<T, ROWS, FINISHERS, false, true>(send_parts<T, ROWS, FINISHERS>(at));
  return finish_phase<T, ROWS, FINISHERS, false, false>(at);
}

}  // namespace hearth::kernels::cuda
