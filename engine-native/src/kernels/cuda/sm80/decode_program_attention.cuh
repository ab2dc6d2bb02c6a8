// Attention of the decode program. An item is (row, KV head, up to 8 of its query heads, part of the context); KV blocks go
// round the workers. Tokens are the tensor cores' M, heads their N: S^T = K Q^T, O^T = V^T P^T. The row's own key and value
// never pass through the pool: they are one more partial result in the merge.
#pragma once

#include "kernels/cuda/sm80/attention_decode_products.cuh"
#include "kernels/cuda/sm80/decode_program_exchange.cuh"

namespace hearth::kernels::cuda {

// ---- Small pieces --------------------------------------------------------------------------------------------------------------

// x as the pool would give it back.
template <class T> __device__ __forceinline__ void round_head(const AttentionArgs& a, float* x) {
  const int lane = threadIdx.x % 32;
  if (a.kv_type != kv_int8) {
    for (int i = lane; i < a.head_dim; i += 32) x[i] = to_float(from_float<T>(x[i]));
    return;
  }
  float largest = 0;
  for (int i = lane; i < a.head_dim; i += 32) largest = fmaxf(largest, fabsf(x[i]));
  largest = warp_max(largest);
  const bool some = largest > 1e-36f;
  const float inverse = some ? __fdiv_rn(127.f, largest) : 0.f, scale = some ? __fdiv_rn(largest, 127.f) : 0.f;
  for (int i = lane; i < a.head_dim; i += 32) x[i] = fminf(fmaxf(rintf(x[i] * inverse), -127.f), 127.f) * scale;
}

// Eight or four values of a KV row in the ring as T. Never branches: what is not wanted is masked.
template <class T, bool INT8> __device__ __forceinline__ uint4 ring_load8(const char* tile, int element, uint32_t mask) {
  uint4 v;
  if constexpr (INT8) v = widen8<T>(*reinterpret_cast<const uint2*>(tile + element));
  else v = *reinterpret_cast<const uint4*>(tile + element * 2);
  return make_uint4(v.x & mask, v.y & mask, v.z & mask, v.w & mask);
}
template <class T, bool INT8> __device__ __forceinline__ uint2 ring_load4(const char* tile, int element, uint32_t mask) {
  uint2 v;
  if constexpr (INT8) {
    const uint4 wide = widen8<T>(make_uint2(*reinterpret_cast<const uint32_t*>(tile + element), 0));
    v = make_uint2(wide.x, wide.y);
  } else {
    v = *reinterpret_cast<const uint2*>(tile + element * 2);
  }
  return make_uint2(v.x & mask, v.y & mask);
}
__device__ __forceinline__ uint32_t mask_of(bool wanted) { return wanted ? 0xffffffffu : 0; }

// The thread's place, read where it is used: what is derived from it once and for all spills.
struct Place {
  int warp, lane, g, t;  // g, t: row and column of operands
  __device__ __forceinline__ Place() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    warp = thread / 32;
    lane = thread % 32;
    g = lane / 4;
    t = lane % 4;
  }
};

// ---- Queries, keys and values of the step ---------------------------------------------------------------------------------------

// Where a row's q, k and v come from, in the order of memory: the exchange, or what an earlier kernel wrote.
struct HeadSource {
  const uint32_t* words;  // the row's
  bool awaited;           // they are the exchange's
  // Columns `column` (even) and the next; by a whole warp, `wanted` lanes of it.
  __device__ __forceinline__ uint32_t pair(int column, bool wanted) const {
    uint32_t v = 0;
    if (!awaited) return wanted ? __ldcg(words + column / 2) : 0;
    do if (wanted && v == 0) v = exchange_load(words + column / 2); while (__any_sync(0xffffffffu, wanted && v == 0));
    return ~v;
  }
  // The same of two columns, both reads under way at once.
  __device__ __forceinline__ uint2 two_pairs(int first, int second, bool wanted) const {
    uint2 v = make_uint2(0, 0);
    if (!awaited) return wanted ? make_uint2(__ldcg(words + first / 2), __ldcg(words + second / 2)) : v;
    do {
      if (wanted && v.x == 0) v.x = exchange_load(words + first / 2);
      if (wanted && v.y == 0) v.y = exchange_load(words + second / 2);
    } while (__any_sync(0xffffffffu, wanted && (v.x == 0 || v.y == 0)));
    return make_uint2(~v.x, ~v.y);
  }
};

// One head by one warp, in registers: norm, rope (halves), rounding; for heads of 64 and 128. Lane i has dimensions 2 i,
// 2 i + 1 and their partners in the other half. which < 0: a query, to `q`; 0 and 1: the key and the value, to the pool and,
// rounded as there, to `own`.
template <class T, int DP>
__device__ __forceinline__ void quick_head(const AttentionArgs& a, const AttentionItem& item, const HeadSource& source, int which, int head, int slot, const float2* turns, T* q, float* own) {
  constexpr int half = DP / 2;
  const int d = Place().lane * 2;
  const bool live = d < half;
  const uint2 words = source.two_pairs(head * DP + d, head * DP + half + d, live);
  float2 x = unpack2<T>(words.x), y = unpack2<T>(words.y);
  if (which < 1) {
    if (a.qk_norm) {
      const float* norm = which < 0 ? a.q_norm : a.k_norm;
      const float factor = rsqrtf(warp_sum(live ? (x.x * x.x + x.y * x.y) + (y.x * y.x + y.y * y.y) : 0.f) / DP + a.qk_norm_epsilon);
      if (live) {
        x.x *= factor * norm[d]; x.y *= factor * norm[d + 1];
        y.x *= factor * norm[half + d]; y.y *= factor * norm[half + d + 1];
      }
    }
    const float4 turn = *reinterpret_cast<const float4*>(turns + (live ? d : 0));  // cosine and sine of d, of d + 1
    const float2 u = x, v = y;
    x = make_float2(u.x * turn.x - v.x * turn.y, u.y * turn.z - v.y * turn.w);
    y = make_float2(v.x * turn.x + u.x * turn.y, v.y * turn.z + u.y * turn.w);
  }
  if (!live) return;
  const uint32_t low = pack2<T>(x.x, x.y), high = pack2<T>(y.x, y.y);
  if (which < 0) {
    *reinterpret_cast<uint32_t*>(q + d) = low;
    *reinterpret_cast<uint32_t*>(q + half + d) = high;
    return;
  }
  *reinterpret_cast<float2*>(own + which * DP + d) = unpack2<T>(low);
  *reinterpret_cast<float2*>(own + which * DP + half + d) = unpack2<T>(high);
  if (slot < 0) return;
  T* pool = static_cast<T*>(which == 0 ? a.k : a.v) + ((static_cast<int64_t>(slot / kv_tokens) * a.kv_heads + item.kv_head) * kv_tokens + slot % kv_tokens) * DP;
  *reinterpret_cast<uint32_t*>(pool + d) = low;
  *reinterpret_cast<uint32_t*>(pool + half + d) = high;
}

// A head of any size, rope and KV format, by one warp through shared memory `x`. which < 0: a query, to `q`; 0 and 1: the
// key and the value, to the pool and, rounded as there, to `own`.
template <class T, int DP>
__device__ __noinline__ void any_head(const AttentionArgs& a, const AttentionItem& item, const HeadSource& source, int which, int head, int slot, const float2* turns, T* q, float* own, float* x) {
  const int lane = threadIdx.x % 32, dim = a.head_dim;
#pragma unroll 1
  for (int d = lane * 2; d < DP; d += 64) {
    const float2 v = unpack2<T>(source.pair(head * dim + d, d < dim));
    if (d < dim) *reinterpret_cast<float2*>(x + d) = v;
  }
  __syncwarp();
  if (which < 1) head_prepare(a, item.row, which < 0 ? a.q_norm : a.k_norm, x, turns);
  if (which < 0) {
    for (int d = lane; d < DP; d += 32) q[d] = from_float<T>(d < dim ? x[d] : 0.f);
  } else {
    if (slot >= 0) head_write(a, slot, item.kv_head, which == 0 ? a.k : a.v, which == 0 ? a.k_scale : a.v_scale, x);
    round_head<T>(a, x);
    __syncwarp();
    for (int d = lane; d < dim; d += 32) own[which * DP + d] = x[d];
  }
  __syncwarp();
}

// ---- Items --------------------------------------------------------------------------------------------------------------------

// What a worker has gathered of its KV blocks. Lane (g, t) holds dimensions 64 b + 8 g + 2 c + {0, 1} of heads 2 t and 2 t + 1.
template <int DP> struct AttentionSums {
  float best[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, o[DP / 64][4][4] = {};
};

// A worker's way through an item's history in the ring.
struct HistoryPlace {
  RingPlace at;
  int mine, done = 0;  // its next KV block, in the slot; blocks in slots before
};

// A block's work on its items. DP: the head's dimensions, padded.
// QUICK: heads of DP dimensions, in 16 bits, turned by halves.
template <class T, int DP, bool INT8, bool QUICK>
struct Attention {
  static constexpr int q_pitch = DP * 2 + 16, VB = DP / 64, own_part = program_workers;
  ProgramControl& control;
  const ProgramPhase& phase;
  const AttentionArgs& a;
  const AttentionItem& item;
  // The scratch, by functions: what is kept in registers from the start on spills.
  static constexpr int stats_at = program_heads * q_pitch, own_at = stats_at + (program_workers + 1) * program_heads * 8, merge_at = own_at + 2 * DP * 4;
  __device__ __forceinline__ char* q_shared() const { return program_shared + control.x; }                                     // [8][q_pitch]
  __device__ __forceinline__ float* stat(int part, int head) const { return reinterpret_cast<float*>(q_shared() + stats_at) + (part * program_heads + head) * 2; }  // [workers + 1][8]: best, sum
  __device__ __forceinline__ float* own() const { return reinterpret_cast<float*>(q_shared() + own_at); }                      // [2][DP]: the row's k and v
  __device__ __forceinline__ float* merge() const { return reinterpret_cast<float*>(q_shared() + merge_at); }                  // [workers][live][DP]
  __device__ __forceinline__ int dim() const { return QUICK ? DP : a.head_dim; }
  __device__ __forceinline__ float scale() const { return a.scale * 1.4426950408889634f; }  // exponents are of two
  __device__ __forceinline__ bool owner() const { return item.active < 0 || item.split == item.active - 1; }  // of the row's own key and value

  __device__ __forceinline__ HeadSource source() const {
    const bool awaited = phase.from >= 0;
    return {awaited ? control.exchange + phase.from + item.row * ((a.heads + 2 * a.kv_heads) * dim() / 2) : static_cast<const uint32_t*>(a.qkv) + static_cast<int64_t>(item.row) * (a.qkv_stride / 2), awaited};
  }
  __device__ __forceinline__ int own_slot() const { return owner() && item.active > 0 ? control.kv_slot[item.sequence] : -1; }

  // Everything that the exchange has for this item is read, also for an empty slot: only then may it be put back.
  __device__ __forceinline__ void prepare_heads() const {
    const Place my;
    const int warp = my.warp;
    const int slot = own_slot();
    const float2* turns = control.turns[item.sequence];
#pragma unroll 1
    for (int i = program_workers - 1 - warp; i < item.live + (owner() ? 2 : 0); i += program_workers) {  // the last workers, whose blocks come last
      const int which = i - item.live, head = which < 0 ? item.head0 + i : a.heads + which * a.kv_heads + item.kv_head;
      T* q = reinterpret_cast<T*>(q_shared() + i * q_pitch);
      if constexpr (QUICK) quick_head<T, DP>(a, item, source(), which, head, slot, turns, q, own());
      else any_head<T, DP>(a, item, source(), which, head, slot, turns, q, own(), merge() + warp * DP);
    }
  }
  // The row's own token, head by head.
  __device__ __forceinline__ void attend_own() const {
    const Place my;
    const int warp = my.warp, lane = my.lane;
    const int h = program_workers - 1 - warp;
    if (!owner() || h >= item.live) return;
    const uint32_t* q = reinterpret_cast<const uint32_t*>(q_shared() + h * q_pitch);
    float s = 0;
#pragma unroll 1
    for (int d = lane; d < dim() / 2; d += 32) {
      const float2 x = unpack2<T>(q[d]), k = *reinterpret_cast<const float2*>(own() + 2 * d);
      s += x.x * k.x + x.y * k.y;
    }
    s = warp_sum(s);
    if (lane == 0) *reinterpret_cast<float2*>(stat(own_part, h)) = make_float2(s * scale(), 1.f);
  }

  __device__ __forceinline__ int blocks_per_slot() const { return control.slot_bytes / control.attention_bytes; }
  // Waits for the slot of this worker's next KV block and lets go of those before; false: there is no block left.
  __device__ __forceinline__ bool find_block(HistoryPlace& place) const {
    const int per_slot = blocks_per_slot();
    while (place.done < item.blocks) {
      barrier_wait(shared_address(control.full + place.at.slot), place.at.parity);
      if (place.mine < min(per_slot, item.blocks - place.done)) return true;
      barrier_arrive_warp(shared_address(control.empty + place.at.slot));
      place.at.next(control.slots);
      place.done += per_slot;
      place.mine -= per_slot;
    }
    return false;
  }
  __device__ __forceinline__ const char* block_tile(const HistoryPlace& place) const {
    return program_shared + control.sums - (control.slots - place.at.slot) * control.slot_bytes + place.mine * control.attention_bytes;
  }
  __device__ __forceinline__ const char* value_tile(const HistoryPlace& place) const { return block_tile(place) + kv_tokens * dim() * (INT8 ? 1 : 2); }
  __device__ __forceinline__ int first_token(const HistoryPlace& place) const { return (item.begin + place.done + place.mine) * kv_tokens; }

  // S^T = K Q^T of 16 tokens: tokens g and g + 8, heads 2 t and 2 t + 1.
  __device__ __forceinline__ void scores(const HistoryPlace& place, float (&s)[4]) const {
    const Place my;
    const int g = my.g, t = my.t;
    const char *tile = block_tile(place), *q = q_shared() + min(g, item.live - 1) * q_pitch + t * 16;  // what there is of further heads is ignored
    float odd[4] = {0, 0, 0, 0};
#pragma unroll
    for (int b = 0; b < DP / 32; b += 2) {
      // Odd tokens take the two words in the other order, so that a quarter of the warp reads from all banks.
      uint4 k[2][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int element = 32 * (b + (i ^ (g & 1))) + 8 * t;
        const uint32_t inside = mask_of(element < dim());
        k[i][0] = ring_load8<T, INT8>(tile, g * dim() + element, inside);
        k[i][1] = ring_load8<T, INT8>(tile, (g + 8) * dim() + element, inside);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint4 x = *reinterpret_cast<const uint4*>(q + (b + i) * 64);
        const uint4 low = g & 1 ? k[i ^ 1][0] : k[i][0], high = g & 1 ? k[i ^ 1][1] : k[i][1];
        const uint32_t a0[4] = {low.x, high.x, low.y, high.y}, a1[4] = {low.z, high.z, low.w, high.w};
        mma<T>(s, a0, x.x, x.y);
        mma<T>(odd, a1, x.z, x.w);
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) s[j] += odd[j];
  }
  // Scores to weights of the KV block at hand, as operands.
  __device__ __forceinline__ uint2 weights(const HistoryPlace& place, float (&s)[4], AttentionSums<DP>& w) const {
    const int g = Place().g, base = first_token(place);
    float k_scale[2] = {1, 1}, v_scale[2] = {1, 1};
    if constexpr (INT8) {
      const float* scales = reinterpret_cast<const float*>(value_tile(place) + kv_tokens * dim());
      k_scale[0] = scales[g]; k_scale[1] = scales[g + 8];
      v_scale[0] = scales[kv_tokens + g]; v_scale[1] = scales[kv_tokens + g + 8];
    }
    auto visible = [&](int token) { return base + token >= item.first && base + token < item.position; };
    const bool low = visible(g), high = visible(g + 8);
    const float factor = scale();
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      s[j] = low ? s[j] * factor * k_scale[0] : -INFINITY;
      s[j + 2] = high ? s[j + 2] * factor * k_scale[1] : -INFINITY;
      float top = fmaxf(s[j], s[j + 2]);
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 4));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 8));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 16));
      const float next = fmaxf(w.best[j], top), reference = next == -INFINITY ? 0.f : next;
      s[j] = exp2_fast(s[j] - reference);
      s[j + 2] = exp2_fast(s[j + 2] - reference);
      const float shrink = exp2_fast(w.best[j] - reference);
      w.sum[j] = w.sum[j] * shrink + s[j] + s[j + 2];
      w.best[j] = next;
#pragma unroll
      for (int i = 0; i < VB * 4; ++i) {
        w.o[i / 4][i % 4][j] *= shrink;
        w.o[i / 4][i % 4][j + 2] *= shrink;
      }
    }
    // An unwritten scale of a token past the context may be anything: its weight is zero either way.
    const float low_scale = low ? v_scale[0] : 0.f, high_scale = high ? v_scale[1] : 0.f;
    return make_uint2(transpose8x8(pack2<T>(s[0] * low_scale, s[1] * low_scale)), transpose8x8(pack2<T>(s[2] * high_scale, s[3] * high_scale)));
  }
  // O^T += V^T P^T.
  __device__ __forceinline__ void add_values(const HistoryPlace& place, uint2 p, AttentionSums<DP>& w) const {
    const Place my;
    const int g = my.g, t = my.t, base = first_token(place);
    const char* tile = value_tile(place);
#pragma unroll
    for (int b = 0; b < VB; ++b) {
      const int element = 64 * b + 8 * g;
      uint32_t v[4][4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {  // odd lanes take the halves in the other order: fewer meet at a bank
        const int token = 2 * t + (j & 1) + (j & 2) * 4;
        const uint32_t wanted = mask_of(element < dim() && base + token >= item.first && base + token < item.position);
        const uint2 one = ring_load4<T, INT8>(tile, token * dim() + element + t % 2 * 4, wanted), other = ring_load4<T, INT8>(tile, token * dim() + element + 4 - t % 2 * 4, wanted);
        const uint2 lower = t % 2 ? other : one, upper = t % 2 ? one : other;
        v[j][0] = lower.x; v[j][1] = lower.y; v[j][2] = upper.x; v[j][3] = upper.y;
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const uint32_t f[4] = {__byte_perm(v[0][c], v[1][c], 0x5410), __byte_perm(v[0][c], v[1][c], 0x7632), __byte_perm(v[2][c], v[3][c], 0x5410), __byte_perm(v[2][c], v[3][c], 0x7632)};
        mma<T>(w.o[b][c], f, p.x, p.y);
      }
    }
  }

  // This worker's part of the result.
  __device__ __forceinline__ void leave_part(AttentionSums<DP>& w) const {
    const Place my;
    const int warp = my.warp, g = my.g, t = my.t;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      w.sum[j] += __shfl_xor_sync(0xffffffffu, w.sum[j], 4);
      w.sum[j] += __shfl_xor_sync(0xffffffffu, w.sum[j], 8);
      w.sum[j] += __shfl_xor_sync(0xffffffffu, w.sum[j], 16);
      const int h = 2 * t + j;
      if (h >= item.live) continue;
      if (g == 0) *reinterpret_cast<float2*>(stat(warp, h)) = make_float2(w.best[j], w.sum[j]);
      float* to = merge() + (warp * item.live + h) * DP + 8 * g;
#pragma unroll
      for (int b = 0; b < VB; ++b)
#pragma unroll
        for (int c = 0; c < 4; c += 2) *reinterpret_cast<float4*>(to + 64 * b + 2 * c) = make_float4(w.o[b][c][j], w.o[b][c][j + 2], w.o[b][c + 1][j], w.o[b][c + 1][j + 2]);
    }
  }

  // The queries are there.
  __device__ __forceinline__ RingPlace attend_history(const RingPlace& at) const {
    HistoryPlace place{at, Place().warp};
    AttentionSums<DP> w;
#pragma unroll 1
    for (; find_block(place); place.mine += program_workers) {
      float s[4] = {0, 0, 0, 0};
      scores(place, s);
      add_values(place, weights(place, s, w), w);
    }
    if (Place().warp < item.blocks) leave_part(w);
    return place.at;
  }

  // A split's partial result in memory: sums [dim()], best, total.
  __device__ __forceinline__ float* partial(int head, int split) const {
    return a.partial + ((static_cast<int64_t>(item.sequence) * a.heads + item.head0 + head) * a.splits + split) * (dim() + 2);
  }
  // Where the exchange has dimensions d and d + 1 of the item's head h; null: nobody here reads them.
  __device__ __forceinline__ uint32_t* output_word(int h, int d) const {
    const int column = (item.head0 + h) * dim() + d;
    return phase.to >= 0 ? control.exchange + phase.to + item.row * (a.heads * dim() / 2) + (phase.to_plain ? column / 2 : fragment_word(column)) : nullptr;
  }
  // A pair of outputs, to the exchange and, where somebody else may want it, to memory.
  __device__ __forceinline__ void store_pair(uint32_t* word, int h, int d, float2 v) const {
    const uint32_t pair = pack2<T>(v.x, v.y);
    if (word) exchange_store(word, pair);
    if (phase.keeps) *reinterpret_cast<uint32_t*>(static_cast<T*>(a.out) + static_cast<int64_t>(item.row) * a.out_stride + (item.head0 + h) * dim() + d) = pair;
  }
  __device__ __forceinline__ void store_zeros() const {
    each_pair([&](int h, int d) { store_pair(output_word(h, d), h, d, make_float2(0, 0)); });
  }
  // f(head, dimension) for every pair of the item's outputs.
  template <class F> __device__ __forceinline__ void each_pair(const F& f) const {
    const Place my;
    const int warp = my.warp, lane = my.lane;
#pragma unroll 1
    for (int h = warp / 2; h < item.live; h += program_workers / 2)
      if (const int d = (warp % 2 * 32 + lane) * 2; d < dim()) f(h, d);
  }
  // All workers merge, as many a head: lanes share its parts and its dimensions. Found out while the parts are still made.
  struct MergePlace {
    int h, d, share, shares;
    uint32_t* word;
  };
  __device__ __forceinline__ MergePlace merge_place() const {
    const Place my;
    const int warps_log = 4 - (32 - __clz(item.live - 1)), pairs_log = (DP == 128 ? 6 : 5) - warps_log;  // 16 workers by 1, 2, 4 or 8 heads
    const int h = my.warp >> warps_log, pair = my.lane & ((1 << pairs_log) - 1), d = (((my.warp & ((1 << warps_log) - 1)) << pairs_log) + pair) * 2;
    return {h, d, my.lane >> pairs_log, 32 >> pairs_log, output_word(h, d)};
  }
  // Lane i weighs part i for all, the lane after them the own token's.
  __device__ __forceinline__ void store_merged(const MergePlace& at, int parts) const {
    if (at.h >= item.live) return;
    const int lane = Place().lane, shares = at.shares;
    const bool has = lane < parts || (lane == parts && owner());
    const float2 part = has ? *reinterpret_cast<const float2*>(stat(lane < parts ? lane : own_part, at.h)) : make_float2(-INFINITY, 0);
    const float top = warp_max(part.x), weight = part.x == -INFINITY ? 0.f : exp2_fast(part.x - top);
    float2 value = make_float2(0, 0);
    const float own_weight = __shfl_sync(0xffffffffu, weight, parts);
    if (owner() && at.share == 0) value = make_float2(own_weight * own()[DP + at.d], own_weight * own()[DP + at.d + 1]);
    const float* from = merge() + (at.share * item.live + at.h) * DP + at.d;
#pragma unroll 2
    for (int w = at.share; w - at.share < parts; w += shares) {
      const float of_part = __shfl_sync(0xffffffffu, weight, w % 32);
      if (w < parts) {
        const float2 v = *reinterpret_cast<const float2*>(from);
        value.x += of_part * v.x; value.y += of_part * v.y;
      }
      from += shares * item.live * DP;
    }
    const float total = warp_sum(weight * part.y);
#pragma unroll 1
    for (int apart = 32 / shares; apart < 32; apart <<= 1) {
      value.x += __shfl_xor_sync(0xffffffffu, value.x, apart);
      value.y += __shfl_xor_sync(0xffffffffu, value.y, apart);
    }
    if (at.share > 0 || at.d >= dim()) return;
    if (item.active == 1) return store_pair(at.word, at.h, at.d, make_float2(__fdividef(value.x, total), __fdividef(value.y, total)));
    if (at.d == 0) *reinterpret_cast<float2*>(partial(at.h, item.split) + dim()) = make_float2(top, total);
    *reinterpret_cast<float2*>(partial(at.h, item.split) + at.d) = value;
  }
  // By the last of the blocks that share the context.
  __device__ __forceinline__ void merge_splits() const {
    workers_meet();
    if (threadIdx.x == 0) {
      int32_t* counter = a.counters + (static_cast<int64_t>(item.sequence) * a.heads + item.head0);
      __threadfence();
      control.last = atomicAdd(counter, 1) == item.active - 1;
      if (control.last) *counter = 0;
      __threadfence();
    }
    workers_meet();
    if (!control.last) return;
    each_pair([&](int h, int d) {
      const float* from = partial(h, 0);
      float best = -INFINITY, total = 0;
      float2 value = make_float2(0, 0);
#pragma unroll 2
      for (int s = 0; s < item.active; ++s) {
        const float* part = from + s * (dim() + 2);
        const float2 v = __ldcg(reinterpret_cast<const float2*>(part + d)), stat = __ldcg(reinterpret_cast<const float2*>(part + dim()));
        const float next = fmaxf(best, stat.x), shrink = exp2f(best - next), weight = exp2f(stat.x - next);
        best = next;
        total = total * shrink + weight * stat.y;
        value = make_float2(value.x * shrink + weight * v.x, value.y * shrink + weight * v.y);
      }
      store_pair(output_word(h, d), h, d, make_float2(__fdividef(value.x, total), __fdividef(value.y, total)));
    });
  }
};

template <class T, int DP, bool INT8, bool QUICK>
__device__ __noinline__ uint32_t attention_items(uint32_t packed) {
  PhasePlace at(packed);
  ProgramControl& control = program_control();
  const AttentionArgs& a = control.attention;
  const Attention<T, DP, INT8, QUICK> attention{control, program_phase(at.phase), a, control.item};
#pragma unroll 1
  for (int i = blockIdx.x; i < control.items; i += gridDim.x) {
    if (i != static_cast<int>(blockIdx.x)) workers_meet();  // the scratch has been read
    if (control.item_index != i || control.item_window != a.window) {
      workers_meet();
      if (threadIdx.x == 0) {
        attention_item(control, a, a.window, i, control.item);
        control.item_index = i;
        control.item_window = a.window;
      }
      workers_meet();
    }
    if (control.item.active == 0) continue;
    attention.prepare_heads();
    if (threadIdx.x / 32 == program_workers - 1) program_trace(at.phase, 1);
    workers_meet();
    if (control.item.active > 0) {
      attention.attend_own();
      at.ring = attention.attend_history(at.ring);
      if (threadIdx.x < 32) program_trace(at.phase, 2);
      const auto merged = attention.merge_place();
      workers_meet();
      attention.store_merged(merged, min(program_workers, control.item.blocks));
      if (control.item.active > 1) attention.merge_splits();
    } else {
      attention.store_zeros();
    }
  }
  workers_meet();
  if (threadIdx.x < 32) program_trace(at.phase, 5);
  return at.packed() + next_phase;
}

// What all items of a phase need, where the workers find it.
__device__ __forceinline__ void begin_attention(const ProgramPhase& phase) {
  ProgramControl& control = program_control();
  const AttentionPhase& from = phase.attention;
  const AttentionShape& shape = program_shape(phase.shape).attention;
  AttentionArgs& a = control.attention;
  if (threadIdx.x == 0) {
    a.k = from.k; a.v = from.v; a.k_scale = from.k_scale; a.v_scale = from.v_scale;
    a.q_norm = from.q_norm; a.k_norm = from.k_norm;
    a.inverse_frequency = shape.inverse_frequency; a.qkv = shape.qkv; a.out = shape.out;
    a.scale = shape.scale; a.rope_amplitude = shape.rope_amplitude; a.window = shape.window;
  }
  workers_meet();
  if (control.turns_of == shape.inverse_frequency) return;
  const int pairs = a.rope_dims / 2;  // mostly only in the first attention of a step
#pragma unroll 1
  for (int i = threadIdx.x; i < control.rows * pairs; i += worker_threads) control.turns[i / pairs][i % pairs] = rope_turn(a, control.row[i / pairs], i % pairs);
  workers_meet();
  if (threadIdx.x == 0) control.turns_of = shape.inverse_frequency;
}

template <class T>
__device__ __forceinline__ uint32_t attention_phase(uint32_t at) {
  const int index = at / next_phase;
  const ProgramControl& control = program_control();
  if (static_cast<int>(blockIdx.x) >= control.items) return at + next_phase;
  if (threadIdx.x == 0) program_trace(index, 0);
  begin_attention(program_phase(index));
  const AttentionArgs& a = control.attention;
  const bool halves = a.rope_dims == a.head_dim && !a.rope_interleaved, wide = a.head_dim > 64;
  if (a.kv_type == kv_int8) return wide ? attention_items<T, 128, true, false>(at) : attention_items<T, 64, true, false>(at);
  if (halves && a.head_dim == 128) return attention_items<T, 128, false, true>(at);
  if (halves && a.head_dim == 64) return attention_items<T, 64, false, true>(at);
  return wide ? attention_items<T, 128, false, false>(at) : attention_items<T, 64, false, false>(at);
}

}  // namespace hearth::kernels::cuda
