// Attention of the decode program. An item is (row, KV head, up to 8 of its query heads, part of the context); KV blocks go
// round the workers. Tokens are the tensor cores' M, heads their N: S^T = K Q^T, O^T = V^T P^T. The row's own key and value
// never pass through the pool: they are one more partial result in the merge.
//
// Everybody waits for what is between the queries and the outputs, and four warps share a scheduler: so instructions count
// there. What does not depend on the queries is done before they come: a worker's first KV block lies in its registers, as
// operands, and the ring has its room again. Shared memory is addressed by 32 bits from one base, since the compiler makes
// a pointer anew (a special register, 50 cycles) wherever it is used.
//
// decode_program_heads.cuh    queries, and the row's own key and value
// decode_program_history.cuh  KV blocks in the ring and in registers
// decode_program_bytes.cuh    products of INT8 KV
#pragma once

#include "kernels/cuda/sm80/decode_program_bytes.cuh"

namespace hearth::kernels::cuda {

// A worker's part of an item.
template <class T, int DP, bool INT8, bool QUICK>
struct Attention {
  // The scratch: the row's k and v [2][DP], by head its query [DP] in 16 bits and {best, sum} [workers + 1], parts [workers][live][DP].
  static constexpr int VB = DP / 64, own_part = program_workers, heads_at = 2 * DP * 4, head_pitch = attention_head_bytes(DP);
  using Sums = AttentionSums<DP>;
  static constexpr bool bytes = INT8 && QUICK;
  using Block = typename History<T, DP, INT8, QUICK>::Block;

  // Few in registers, which the first KV block fills.
  const uint32_t scratch;
  const int index, live, blocks;  // of the phase; of the item

  __device__ __forceinline__ Attention(const ProgramControl& control, uint32_t base, int index) : scratch(base + control.x), index(index), live(control.item.live), blocks(control.item.blocks) {}

  static __device__ __forceinline__ const AttentionArgs& args() { return program_control().attention; }  // what is common to all
  static __device__ __forceinline__ const AttentionItem& item() { return program_control().item; }
  static __device__ __forceinline__ int dim() { return QUICK ? DP : args().head_dim; }
  static __device__ __forceinline__ bool owner() { return item().active < 0 || item().split == item().active - 1; }  // of the row's own key and value
  __device__ __forceinline__ const ProgramPhase& phase() const { return program_phase(index); }
  __device__ __forceinline__ const AttentionShape& shape() const { return program_shape(phase().shape).attention; }
  __device__ __forceinline__ float scale() const { return shape().scale * 1.4426950408889634f; }  // exponents are of two
  __device__ __forceinline__ uint32_t query(int head) const { return scratch + heads_at + head * head_pitch; }
  __device__ __forceinline__ uint32_t stat(int part, int head) const { return query(head) + DP * 2 + part * 8; }
  __device__ __forceinline__ uint32_t part_of(int worker, int head) const { return query(live) + (worker * live + head) * DP * 4; }

  // ---- Queries, and the row's own token
  __device__ __forceinline__ HeadSource source() const {
    const AttentionArgs& a = args();
    const int from = phase().input();
    const bool awaited = from >= 0;
    return {awaited ? program_control().exchange + from + item().row * ((a.heads + 2 * a.kv_heads) * dim() / 2) : static_cast<const uint32_t*>(shape().qkv) + static_cast<int64_t>(item().row) * (a.qkv_stride / 2), awaited};
  }
  // A head a warp, from the last one on, whose KV blocks come last. Everything that the exchange has for this item is read,
  // also for an empty slot: only then may it be put back.
  __device__ __forceinline__ void prepare_head() const {
    const Place my;
    const int i = program_workers - 1 - my.warp, which = i - live;
    if (which >= (owner() ? 2 : 0)) return;
    const ProgramControl& control = program_control();
    HeadTask task;
    task.which = which;
    task.head = which < 0 ? item().head0 + i : args().heads + which * args().kv_heads + item().kv_head;
    task.slot = owner() && item().active > 0 ? control.kv_slot[item().sequence] : -1;
    task.kv_head = item().kv_head;
    task.row = item().row;
    task.turns = program_turns(control, item().sequence);
    task.to = which < 0 ? query(i) : scratch + which * DP * 4;
    if constexpr (QUICK) quick_head<T, DP, INT8>(args(), attention_operands(phase()), source(), task, my.lane);
    else any_head<T, DP>(args(), attention_operands(phase()), source(), task, reinterpret_cast<float*>(program_shared + control.x + heads_at + live * head_pitch) + my.warp * DP);
  }
  // Four dimensions of a query in bytes and of the own key.
  static __device__ __forceinline__ float own_score(uint32_t query, uint32_t key) {
    const int upper = static_cast<int>(shared_load4(query)), lower = static_cast<int>(shared_load4(query + 8));
    const uint4 k = shared_load16(key);
    const uint32_t of_key[4] = {k.x, k.y, k.z, k.w};
    float s = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) s += static_cast<float>(static_cast<int8_t>(upper >> 8 * i) * 256 + static_cast<int8_t>(lower >> 8 * i)) * __uint_as_float(of_key[i]);
    return s;
  }
  // By the warps that made the queries.
  __device__ __forceinline__ void attend_own(float factor) const {
    const Place my;
    const int h = program_workers - 1 - my.warp;
    if (h >= live || !owner()) return;
    float s = 0;
    if constexpr (bytes) {
      const int d = my.lane * 4;
      if (d < DP) s = own_score(query(h) + query_byte(d), scratch + d * 4);
      factor *= __uint_as_float(shared_load4(query_unit<DP>(query(h))));
    } else {
#pragma unroll
      for (int i = 0; i < VB; ++i) {
        const int pair = my.lane + 32 * i;
        if (pair >= dim() / 2) break;
        const float2 x = unpack2<T>(shared_load4(query(h) + pair * 4));
        const uint2 k = shared_load8(scratch + pair * 8);
        s += x.x * __uint_as_float(k.x) + x.y * __uint_as_float(k.y);
      }
    }
    s = warp_sum(s);
    if (my.lane == 0) shared_store8(stat(own_part, h), make_float2(s * factor, 1.f));
  }

  // ---- Products
  // S^T = K Q^T of 16 tokens: tokens g and g + 8, heads 2 t and 2 t + 1. keys(b, ..): of 32 b and of 32 (b + 1) and on.
  template <class Keys> __device__ __forceinline__ void scores(const Keys& keys, float (&s)[4]) const {
    const Place my;
    const uint32_t q = query(min(my.g, live - 1)) + my.t * 16;  // what there is of further heads is ignored
    float odd[4];
#pragma unroll
    for (int b = 0; b < DP / 32; b += 2) {
      uint4 k[2][2];
      keys(b, k[0], k[1]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint4 x = shared_load16(q + (b + i) * 64);
        const uint32_t a0[4] = {k[i][0].x, k[i][1].x, k[i][0].y, k[i][1].y}, a1[4] = {k[i][0].z, k[i][1].z, k[i][0].w, k[i][1].w};
        if (b + i == 0) {
          mma_first<T>(s, a0, x.x, x.y);
          mma_first<T>(odd, a1, x.z, x.w);
        } else {
          mma<T>(s, a0, x.x, x.y);
          mma<T>(odd, a1, x.z, x.w);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] += odd[i];
  }
  // Scores to weights of the KV block at hand, as operands. FIRST: there is nothing yet in the sums.
  template <bool FIRST> __device__ __forceinline__ uint2 weights(const Block& block, float factor, float (&s)[4], Sums& w) const {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      s[j] = block.seen[0] ? s[j] * (factor * block.k_scale[0]) : -INFINITY;
      s[j + 2] = block.seen[1] ? s[j + 2] * (factor * block.k_scale[1]) : -INFINITY;
      const float shrink = scores_to_weights<FIRST>(s[j], s[j + 2], w.best[j]);
      if constexpr (FIRST) {
        w.sum[j] = s[j] + s[j + 2];
      } else {
        w.sum[j] = w.sum[j] * shrink + s[j] + s[j + 2];
#pragma unroll
        for (int i = 0; i < VB * 4; ++i) {
          w.o[i / 4][i % 4][j] *= shrink;
          w.o[i / 4][i % 4][j + 2] *= shrink;
        }
      }
    }
    return make_uint2(transpose8x8(pack2<T>(s[0] * block.v_scale[0], s[1] * block.v_scale[0])), transpose8x8(pack2<T>(s[2] * block.v_scale[1], s[3] * block.v_scale[1])));
  }
  // O^T += V^T P^T.
  static __device__ __forceinline__ void add_values(const uint32_t (&values)[4][4], uint2 p, float (&o)[4][4]) {
#pragma unroll
    for (int c = 0; c < 4; ++c) mma<T>(o[c], values[c], p.x, p.y);
  }
  // The worker's first KV block, in registers.
  __device__ __forceinline__ void attend_first(const Block& block, float factor) const {
    if constexpr (bytes) {
      const ByteProducts<DP> products(query(0), head_pitch, live, factor);
      ByteSums<DP> w;
      products.template add<true>(block, w);
      w.settle();
#pragma unroll
      for (int b = 0; b < VB; ++b) leave_values(b, w.o[b]);
      return leave_stats(w);
    }
    else attend_operands(block, factor);
  }
  __device__ __forceinline__ void attend_operands(const KvOperands<DP>& block, float factor) const {
    Sums w;
    float s[4];
    scores([&](int b, uint4 (&lower)[2], uint4 (&upper)[2]) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        lower[i] = block.keys[b][i];
        upper[i] = block.keys[b + 1][i];
      }
    }, s);
    const uint2 p = weights<true>(block, factor, s, w);
#pragma unroll
    for (int b = 0; b < VB; ++b) {
#pragma unroll
      for (int c = 0; c < 4; ++c) mma_first<T>(w.o[b][c], block.values[b][c], p.x, p.y);
      leave_values(b, w.o[b]);
    }
    leave_stats(w);
  }
  // Its further ones, in the ring.
  __device__ __forceinline__ void attend_further(History<T, DP, INT8, QUICK>& history) const {
    if (!history.find_block(blocks)) return;
    const float factor = scale();
    if constexpr (bytes) return attend_further_bytes(history, factor);
    else attend_further_operands(history, factor);
  }
  __device__ __forceinline__ void attend_further_bytes(History<T, DP, INT8, QUICK>& history, float factor) const {
    const ByteProducts<DP> products(query(0), head_pitch, live, factor);
    ByteSums<DP> w;
    take_part(w);
    w.v_best = ByteSums<DP>::unit;
    w.bias[0] = w.bias[1] = 0;
    do {
      Block block;
      history.load(block);
      products.template add<false>(block, w);
      history.mine += program_workers;
    } while (history.find_block(blocks));
    w.settle();
#pragma unroll
    for (int b = 0; b < VB; ++b) leave_values(b, w.o[b]);
    leave_stats(w);
  }
  __device__ __forceinline__ void attend_further_operands(History<T, DP, INT8, QUICK>& history, float factor) const {
    Sums w;
    take_part(w);
    do {
      float s[4];
      Block block;
      scores([&](int b, uint4 (&lower)[2], uint4 (&upper)[2]) { history.load_keys(b, lower, upper); }, s);
      history.load_seen(block);
      const uint2 p = weights<false>(block, factor, s, w);
#pragma unroll
      for (int b = 0; b < VB; ++b) {
        history.load_values(b, block.values[b]);
        add_values(block.values[b], p, w.o[b]);
      }
      history.mine += program_workers;
    } while (history.find_block(blocks));
#pragma unroll
    for (int b = 0; b < VB; ++b) leave_values(b, w.o[b]);
    leave_stats(w);
  }

  // This worker's part of the result.
  __device__ __forceinline__ void leave_values(int b, const float (&o)[4][4]) const {
    const Place my;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if (2 * my.t + j >= live) break;
      const uint32_t to = part_of(my.warp, 2 * my.t + j) + b * 256 + my.g * 32;
#pragma unroll
      for (int c = 0; c < 4; c += 2)
        shared_store16(to + c * 8, make_uint4(__float_as_uint(o[c][j]), __float_as_uint(o[c][j + 2]), __float_as_uint(o[c + 1][j]), __float_as_uint(o[c + 1][j + 2])));
    }
  }
  __device__ __forceinline__ void leave_stats(Sums& w) const {
    const Place my;
#pragma unroll
    for (int apart = 4; apart < 32; apart <<= 1) {
      w.sum[0] += __shfl_xor_sync(0xffffffffu, w.sum[0], apart);
      w.sum[1] += __shfl_xor_sync(0xffffffffu, w.sum[1], apart);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j)
      if (my.g == 0 && 2 * my.t + j < live) shared_store8(stat(my.warp, 2 * my.t + j), make_float2(w.best[j], w.sum[j]));
  }
  // Takes it up again.
  __device__ __forceinline__ void take_part(Sums& w) const {
    const Place my;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int h = min(2 * my.t + j, live - 1);
      const uint2 stats = shared_load8(stat(my.warp, h));
      w.best[j] = __uint_as_float(stats.x);
      w.sum[j] = my.g == 0 ? __uint_as_float(stats.y) : 0.f;
      const uint32_t from = part_of(my.warp, h) + my.g * 32;
#pragma unroll
      for (int i = 0; i < VB * 2; ++i) {
        float(&o)[4] = w.o[i / 2][i % 2 * 2], (&beside)[4] = w.o[i / 2][i % 2 * 2 + 1];
        const uint4 v = shared_load16(from + i / 2 * 256 + i % 2 * 16);
        o[j] = __uint_as_float(v.x); o[j + 2] = __uint_as_float(v.y);
        beside[j] = __uint_as_float(v.z); beside[j + 2] = __uint_as_float(v.w);
      }
    }
    __syncwarp();
  }

  // ---- Outputs
  // What a lane stores: dimensions d and d + 1 of the item's head h, in `word` of the exchange; null: nobody here reads it. A
  // warp has one head: from the last warp on, which have the fewest KV blocks.
  struct OutputPlace {
    int h, d;
    bool owner;
    uint32_t* word;
  };
  __device__ __forceinline__ bool merges() const { return (program_workers - 1 - Place().warp) / VB < live; }
  __device__ __forceinline__ OutputPlace output_place() const {
    const Place my;
    const int i = program_workers - 1 - my.warp, h = i / VB, d = (i % VB * 32 + my.lane) * 2, column = (item().head0 + h) * dim() + d;
    return {h, d, owner(), phase().to >= 0 ? program_control().exchange + phase().output() + item().row * (args().heads * dim() / 2) + (phase().to_plain ? column / 2 : fragment_word(column)) : nullptr};
  }
  // To the exchange and, where somebody else may want it, to memory.
  __device__ __forceinline__ void store_pair(const OutputPlace& at, float2 v) const {
    const uint32_t pair = pack2<T>(v.x, v.y);
    if (at.word) exchange_store(at.word, pair);
    if (phase().keeps) *reinterpret_cast<uint32_t*>(static_cast<T*>(shape().out) + static_cast<int64_t>(item().row) * args().out_stride + (item().head0 + at.h) * dim() + at.d) = pair;
  }
  // A lane's share of a head's result before it is divided by the total, and of what weights it has been summed up: relative to
  // the largest, `top`.
  struct Merged {
    float2 value;
    float top, total;
  };
  // The largest of a warp: floats compare as integers once those of negative ones are turned round.
  static __device__ __forceinline__ float warp_top(float v) {
    auto ordered = [](int bits) { return bits ^ (bits >> 31 & 0x7fffffff); };
    return __int_as_float(ordered(__reduce_max_sync(0xffffffffu, ordered(__float_as_int(v)))));
  }
  // The workers' parts of this block. Lane i weighs part i for all, the lane after the workers' the own token's.
  __device__ __forceinline__ Merged merge_workers(const OutputPlace& at) const {
    constexpr int batch = 4;
    const Place my;
    const int parts = min(program_workers, blocks);
    uint2 part = make_uint2(0xff800000u, 0);  // minus infinity
    if (my.lane < parts || (my.lane == own_part && at.owner)) part = shared_load8(stat(my.lane, at.h));
    const uint2 own_value = at.owner ? shared_load8(scratch + (DP + at.d) * 4) : make_uint2(0, 0);
    const float best = __uint_as_float(part.x), top = warp_top(best), weight = best == -INFINITY ? 0.f : exp2_fast(best - top), own_weight = __shfl_sync(0xffffffffu, weight, own_part);
    float2 value = make_float2(own_weight * __uint_as_float(own_value.x), own_weight * __uint_as_float(own_value.y));
    uint32_t from = part_of(0, at.h) + at.d * 4;
    const int next = live * DP * 4;
#pragma unroll 1
    for (int w = 0; w < parts; w += batch) {
      uint2 v[batch];
#pragma unroll
      for (int i = 0; i < batch; ++i, from += next) v[i] = w + i < parts ? shared_load8(from) : make_uint2(0, 0);
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        const float of_part = __shfl_sync(0xffffffffu, weight, w + i);
        value.x += of_part * __uint_as_float(v[i].x);
        value.y += of_part * __uint_as_float(v[i].y);
      }
    }
    return {value, top, warp_sum(weight * __uint_as_float(part.y))};
  }

  // Where the exchange has a split's part of a head: sums [dim()], largest, total. Never all ones: that NaN nothing computes.
  __device__ __forceinline__ uint32_t* split_words(int head, int split) const {
    return program_control().exchange + phase().parts + ((item().sequence * args().heads + item().head0 + head) * program_control().splits + split) * (dim() + 2);
  }
  __device__ __forceinline__ void send_split(const OutputPlace& at, const Merged& m) const {
    if (at.d >= dim()) return;
    uint32_t* const to = split_words(at.h, item().split);
    exchange_store8(to + at.d, __float_as_uint(m.value.x), __float_as_uint(m.value.y));
    if (at.d == 0) exchange_store8(to + dim(), __float_as_uint(m.top), __float_as_uint(m.total));
  }
  // Heads are merged by different splits. The own token's part is in the last one's.
  __device__ __forceinline__ int merger(int head) const { return item().active - 1 - head % item().active; }
  // The other splits' parts. Lane i weighs part i of a batch.
  __device__ __forceinline__ void add_splits(const OutputPlace& at, Merged& m) const {
    constexpr int batch = 8;
    const int others = item().active - 1, own = item().split, lane = Place().lane, width = dim(), d = min(at.d, width - 2);
    auto words = [&](int other) { return split_words(at.h, other + (other >= own)); };
#pragma unroll 1
    for (int first = 0; first < others; first += batch) {
      const int count = min(batch, others - first);
      auto initial = [&](bool wanted) { return wanted ? make_uint2(0, 0) : make_uint2(unwanted, unwanted); };
      uint2 v[batch], stats = initial(lane < count);
#pragma unroll
      for (int i = 0; i < batch; ++i) v[i] = initial(i < count);
      bool missing;
      do {
        if (!arrived(stats)) stats = exchange_load8(words(first + lane) + width);
#pragma unroll
        for (int i = 0; i < batch; ++i)
          if (!arrived(v[i])) v[i] = exchange_load8(words(first + i) + d);
        missing = !arrived(stats);
#pragma unroll
        for (int i = 0; i < batch; ++i) missing |= !arrived(v[i]);
      } while (__any_sync(0xffffffffu, missing));
      const float best = lane < count ? __uint_as_float(~stats.x) : -INFINITY, top = fmaxf(m.top, warp_top(best));
      const float weight = exp2_fast(best - top), shrink = exp2_fast(m.top - top), total = weight * __uint_as_float(~stats.y);
      m.value.x *= shrink; m.value.y *= shrink; m.total *= shrink;
      m.top = top;
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        const float of_part = __shfl_sync(0xffffffffu, weight, i);
        m.value.x += of_part * __uint_as_float(~v[i].x);
        m.value.y += of_part * __uint_as_float(~v[i].y);
        m.total += __shfl_sync(0xffffffffu, total, i);
      }
    }
  }
  __device__ __forceinline__ void store_merged(const OutputPlace& at) const {
    Merged m = merge_workers(at);
    if (merger(at.h) != item().split) return send_split(at, m);
    add_splits(at, m);
    if (at.d < dim()) store_pair(at, make_float2(__fdividef(m.value.x, m.total), __fdividef(m.value.y, m.total)));
  }
};

// The base of shared memory as one register: not to be made anew.
__device__ __forceinline__ uint32_t shared_base() {
  uint32_t base = shared_address(program_shared);
  asm volatile("" : "+r"(base));
  return base;
}

// An item is three functions, so that each has all registers. They take and return a packed PhasePlace and nothing else is kept
// between them but in shared memory: what a caller keeps across a call makes the callee save all its registers.

// The block's item at hand, if another was before.
__device__ __forceinline__ void find_item(int phase) {
  ProgramControl& control = program_control();
  const int window = program_shape(program_phase(phase).shape).attention.window;
  workers_meet();  // what lies in the scratch has been read
  if (control.item_index == control.item_wanted && control.item_window == window) return;
  workers_meet();
  if (threadIdx.x == 0) {
    control.item_index = control.item_wanted;
    control.item_window = window;
    attention_item(control, control.attention, window, control.item_index, control.item);
  }
  workers_meet();
}

// The queries, and the worker's first KV block.
template <class T, int DP, bool INT8, bool QUICK>
__device__ __noinline__ uint32_t attend_first(uint32_t packed) {
  find_item(packed / next_phase);
  if (program_control().item.active == 0) return packed;
  const uint32_t base = shared_base();
  typename History<T, DP, INT8, QUICK>::Block block{};  // set on all ways: of what is undefined on one the compiler spills all
  auto take_first = [&] {
    PhasePlace at(packed);
    History<T, DP, INT8, QUICK> history{base, at.ring, Place().warp, 0};
    history.take_first(block);
    at.ring = history.at;
    packed = at.packed();
    history.leave();
  };
  const Attention<T, DP, INT8, QUICK> attention(program_control(), base, packed / next_phase);
  if constexpr (QUICK) take_first();
  attention.prepare_head();
  if constexpr (!QUICK) take_first();
  if (threadIdx.x / 32 == program_workers - 1) program_trace(packed / next_phase, 1);
  const float factor = attention.scale();
  workers_meet();
  attention.attend_own(factor);
  if (Place().warp < attention.blocks) attention.attend_first(block, factor);
  return packed;
}

// Its further ones.
template <class T, int DP, bool INT8, bool QUICK>
__device__ __noinline__ uint32_t attend_further(uint32_t packed) {
  const uint32_t base = shared_base();
  PhasePlace at(packed);
  History<T, DP, INT8, QUICK> history{base, at.ring};
  history.take_up();
  Attention<T, DP, INT8, QUICK>(program_control(), base, at.phase).attend_further(history);
  at.ring = history.at;
  return at.packed();
}

// The workers' parts together. Then the next item is wanted.
template <class T, int DP, bool INT8, bool QUICK>
__device__ __noinline__ uint32_t merge_parts(uint32_t packed) {
  ProgramControl& control = program_control();
  const Attention<T, DP, INT8, QUICK> attention(control, shared_base(), packed / next_phase);
  if (threadIdx.x < 32) program_trace(attention.index, 2);
  if (const int active = control.item.active; active == 0 || !attention.merges()) {
    workers_meet();
  } else {
    const auto output = attention.output_place();
    workers_meet();
    if (active > 0) attention.store_merged(output);
    else if (output.d < attention.dim()) attention.store_pair(output, make_float2(0, 0));
  }
  workers_meet();
  if (threadIdx.x < 32) program_trace(attention.index, 5);
  if (control.items <= static_cast<int>(gridDim.x)) return packed;
  if (threadIdx.x == 0) {
    const int next = control.item_wanted + gridDim.x;
    control.item_wanted = next < control.items ? next : blockIdx.x;
  }
  workers_meet();
  return packed;
}

template <class T, int DP, bool INT8, bool QUICK>
__device__ __forceinline__ uint32_t attention_items(uint32_t at) {
  do {
    at = attend_first<T, DP, INT8, QUICK>(at);
    if (program_control().item.blocks > program_workers) at = attend_further<T, DP, INT8, QUICK>(at);
    at = merge_parts<T, DP, INT8, QUICK>(at);
  } while (program_control().item_wanted != program_control().block);
  return at + next_phase;
}

// The turns of rope, where the last attention had others; mostly only in the first one of a step.
__device__ __forceinline__ void prepare_turns(const AttentionShape& shape) {
  ProgramControl& control = program_control();
  AttentionArgs& a = control.attention;
  if (control.turns_of == shape.inverse_frequency) return;
  const int thread = thread_index();
  workers_meet();
  if (thread == 0) {
    a.inverse_frequency = shape.inverse_frequency;
    a.rope_amplitude = shape.rope_amplitude;
  }
  workers_meet();
  const int pairs = a.rope_dims / 2;
#pragma unroll 1
  for (int i = thread; i < control.rows * pairs; i += worker_threads) program_turns(control, i / pairs)[i % pairs] = rope_turn(a, control.row[i / pairs], i % pairs);
  workers_meet();
  if (thread == 0) control.turns_of = shape.inverse_frequency;
}

template <class T>
__device__ __forceinline__ uint32_t attention_phase(uint32_t at) {
  const int index = at / next_phase;
  const ProgramControl& control = program_control();
  if (control.block >= control.items) return at + next_phase;
  if (threadIdx.x == 0) program_trace(index, 0);
  prepare_turns(program_shape(program_phase(index).shape).attention);
  const int form = program_phase(index).form;
  const bool wide = form & form_wide;
  if (form & form_int8) {
    if (form & form_quick) return wide ? attention_items<T, 128, true, true>(at) : attention_items<T, 64, true, true>(at);
    return wide ? attention_items<T, 128, true, false>(at) : attention_items<T, 64, true, false>(at);
  }
  if (form & form_quick) return wide ? attention_items<T, 128, false, true>(at) : attention_items<T, 64, false, true>(at);
  return wide ? attention_items<T, 128, false, false>(at) : attention_items<T, 64, false, false>(at);
}

}  // namespace hearth::kernels::cuda
