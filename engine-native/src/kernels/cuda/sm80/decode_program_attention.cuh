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

// Eight values of a KV row in the ring as T.
template <class T, bool INT8> __device__ __forceinline__ uint4 ring_load8(const char* tile, int element, bool valid) {
  if (!valid) return make_uint4(0, 0, 0, 0);
  if constexpr (INT8) return widen8<T>(*reinterpret_cast<const uint2*>(tile + element));
  else return *reinterpret_cast<const uint4*>(tile + element * 2);
}

// ---- Queries, keys and values of the step ---------------------------------------------------------------------------------------

// Where a row's q, k and v come from: the exchange, or memory when an earlier kernel wrote them.
struct HeadSource {
  const uint32_t *exchange, *memory;  // the row's words
  // Columns `column` (even) and the next; by a whole warp, `wanted` lanes of it.
  __device__ __forceinline__ uint32_t words(int column, bool wanted) const {
    uint32_t v = 0;
    if (!exchange) return wanted ? __ldcg(memory + column / 2) : 0;
    const uint32_t* from = exchange + fragment_word(column);
    do if (wanted && v == 0) v = exchange_load(from); while (__any_sync(0xffffffffu, wanted && v == 0));
    return ~v;
  }
  // The same of two columns, both reads under way at once.
  __device__ __forceinline__ uint2 two_words(int first, int second, bool wanted) const {
    uint2 v = make_uint2(0, 0);
    if (!exchange) return wanted ? make_uint2(__ldcg(memory + first / 2), __ldcg(memory + second / 2)) : v;
    const uint32_t *from = exchange + fragment_word(first), *from_second = exchange + fragment_word(second);
    do {
      if (wanted && v.x == 0) v.x = exchange_load(from);
      if (wanted && v.y == 0) v.y = exchange_load(from_second);
    } while (__any_sync(0xffffffffu, wanted && (v.x == 0 || v.y == 0)));
    return make_uint2(~v.x, ~v.y);
  }
};

// One head by one warp, in registers: norm, rope (halves), rounding; for heads of 64 and 128. Lane i has dimensions 2 i,
// 2 i + 1 and their partners in the other half. which < 0: a query, to shared memory; 0 and 1: the key and the value, to
// the pool and, rounded, to `own`.
template <class T, int DP>
__device__ __forceinline__ void quick_head(const AttentionArgs& a, const AttentionItem& item, const HeadSource& source, int which, int head, int slot, const float2* turns, T* q, float* own) {
  constexpr int half = DP / 2;
  const int d = threadIdx.x % 32 * 2;
  const bool live = d < half;
  const uint2 words = source.two_words(head * DP + d, head * DP + half + d, live);
  float2 x = unpack2<T>(words.x), y = unpack2<T>(words.y);
  if (which < 1) {
    const float* norm = which < 0 ? a.q_norm : a.k_norm;
    if (a.qk_norm) {
      const float factor = rsqrtf(warp_sum(live ? (x.x * x.x + x.y * x.y) + (y.x * y.x + y.y * y.y) : 0.f) / DP + a.qk_norm_epsilon);
      if (live) {
        x.x *= factor * norm[d]; x.y *= factor * norm[d + 1];
        y.x *= factor * norm[half + d]; y.y *= factor * norm[half + d + 1];
      }
    }
    if (live) {
      const float2 first = turns[d], second = turns[d + 1];
      const float2 u = x, v = y;
      x = make_float2(u.x * first.x - v.x * first.y, u.y * second.x - v.y * second.y);
      y = make_float2(v.x * first.x + u.x * first.y, v.y * second.x + u.y * second.y);
    }
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

// The same for any head size, rope and KV format, through shared memory `x`.
template <class T, int DP>
__device__ __noinline__ void any_head(const AttentionArgs& a, const AttentionItem& item, const HeadSource& source, int which, int head, int slot, const float2* turns, T* q, float* own, float* x) {
  const int lane = threadIdx.x % 32, dim = a.head_dim;
#pragma unroll 1
  for (int d = lane * 2; d < DP; d += 64) {
    const float2 v = unpack2<T>(source.words(head * dim + d, d < dim));
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

// The lane, read where it is used: what is derived from it once and for all spills.
__device__ __forceinline__ int lane_anew() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

// ---- Items --------------------------------------------------------------------------------------------------------------------

// What a worker has gathered of its KV blocks. Lane (g, t) holds dimensions 64 b + 8 g + 2 c + {0, 1} of heads 2 t, 2 t + 1.
template <int DP> struct AttentionSums {
  float best[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, o[DP / 64][4][4] = {};
};

// A block's work on its items. DP: the head's dimensions, padded.
template <class T, int DP, bool INT8>
struct Attention {
  static constexpr int q_pitch = DP * 2 + 16, KB = DP / 32, VB = DP / 64, own_part = program_workers;
  ProgramControl& control;
  const ProgramPhase& phase;
  const AttentionArgs& a;
  const AttentionItem& item;
  char* const q_shared = program_shared + control.x;                                           // [8][q_pitch]
  float* const stats = reinterpret_cast<float*>(q_shared + program_heads * q_pitch);           // [workers + 1][8][2]: best, sum
  float* const own = stats + (program_workers + 1) * program_heads * 2;                        // [2][DP]: the row's k and v
  float* const merge = own + 2 * DP;                                                           // [workers][live][DP]
  const int dim = a.head_dim, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const float scale = a.scale * 1.4426950408889634f;  // exponents are of two
  const bool owner = item.active < 0 || item.split == item.active - 1;  // of the row's own key and value

  __device__ __forceinline__ float* stat(int part, int head) const { return stats + (part * program_heads + head) * 2; }

  // Everything that the exchange has for this item is read, also for an empty slot: only then may it be put back.
  __device__ __forceinline__ void prepare_heads() const {
    const bool quick = !INT8 && dim == DP && a.rope_dims == DP && !a.rope_interleaved;
    const int slot = owner && item.active > 0 ? control.kv_slot[item.sequence] : -1;
    const float2* turns = control.turns[item.sequence];
    const HeadSource source{phase.from >= 0 ? control.exchange + phase.from + item.row * ((a.heads + 2 * a.kv_heads) * dim / 2) : nullptr,
                            static_cast<const uint32_t*>(a.qkv) + static_cast<int64_t>(item.row) * (a.qkv_stride / 2)};
#pragma unroll 1
    for (int i = warp; i < item.live + (owner ? 2 : 0); i += program_workers) {
      const int which = i - item.live, head = which < 0 ? item.head0 + i : a.heads + which * a.kv_heads + item.kv_head;
      T* q = reinterpret_cast<T*>(q_shared + i * q_pitch);
      if (quick) quick_head<T, DP>(a, item, source, which, head, slot, turns, q, own);
      else any_head<T, DP>(a, item, source, which, head, slot, turns, q, own, merge + warp * DP);
    }
  }

  // The row's own token, head by head; the last workers, whose blocks come last.
  __device__ __forceinline__ void attend_own() const {
    const int h = program_workers - 1 - warp;
    if (!owner || h >= item.live) return;
    const uint32_t* q = reinterpret_cast<const uint32_t*>(q_shared + h * q_pitch);
    float s = 0;
#pragma unroll 1
    for (int d = lane; d < dim / 2; d += 32) {
      const float2 x = unpack2<T>(q[d]), k = *reinterpret_cast<const float2*>(own + 2 * d);
      s += x.x * k.x + x.y * k.y;
    }
    s = warp_sum(s);
    if (lane == 0) *reinterpret_cast<float2*>(stat(own_part, h)) = make_float2(s * scale, 1.f);
  }

  // S^T = K Q^T of 16 tokens: rows g and g + 8, heads 2 t and 2 t + 1.
  __device__ __forceinline__ void scores(const char* k_tile, int g, int t, float (&s)[4]) const {
    float odd[4] = {0, 0, 0, 0};
#pragma unroll
    for (int b = 0; b < KB; b += 2) {
      // Odd rows take the two halves in the other order, so that a quarter of the warp reads from all banks.
      uint4 k[2][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int element = 32 * (b + (i ^ (g & 1))) + 8 * t;
        const bool inside = element < dim;
        k[i][0] = ring_load8<T, INT8>(k_tile, g * dim + element, inside);
        k[i][1] = ring_load8<T, INT8>(k_tile, (g + 8) * dim + element, inside);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint4 k0 = g & 1 ? k[i ^ 1][0] : k[i][0], k1 = g & 1 ? k[i ^ 1][1] : k[i][1];
        const uint4 q = *reinterpret_cast<const uint4*>(q_shared + g * q_pitch + (b + i) * 64 + t * 16);
        const uint32_t a0[4] = {k0.x, k1.x, k0.y, k1.y}, a1[4] = {k0.z, k1.z, k0.w, k1.w};
        mma<T>(s, a0, q.x, q.y);
        mma<T>(odd, a1, q.z, q.w);
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) s[j] += odd[j];
  }

  // One KV block, whose first token is `base`.
  __device__ __forceinline__ void attend(const char* k_tile, int base, AttentionSums<DP>& w) const {
    const int lane = lane_anew(), g = lane / 4, t = lane % 4;
    const char* v_tile = k_tile + kv_tokens * dim * (INT8 ? 1 : 2);
    auto visible = [&](int token) { return base + token >= item.first && base + token < item.position; };
    float s[4] = {0, 0, 0, 0};
    scores(k_tile, g, t, s);
    float k_scale[2] = {1, 1}, v_scale[2] = {1, 1};
    if constexpr (INT8) {
      const float* scales = reinterpret_cast<const float*>(v_tile + kv_tokens * dim);
      k_scale[0] = scales[g]; k_scale[1] = scales[g + 8];
      v_scale[0] = scales[kv_tokens + g]; v_scale[1] = scales[kv_tokens + g + 8];
    }
    const bool low = visible(g), high = visible(g + 8);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      s[j] = low ? s[j] * scale * k_scale[0] : -INFINITY;
      s[j + 2] = high ? s[j + 2] * scale * k_scale[1] : -INFINITY;
      float top = fmaxf(s[j], s[j + 2]);
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 4));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 8));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 16));
      const float next = fmaxf(w.best[j], top), reference = next == -INFINITY ? 0.f : next, shrink = exp2f(w.best[j] - reference);
      w.best[j] = next;
      s[j] = exp2f(s[j] - reference);
      s[j + 2] = exp2f(s[j + 2] - reference);
      w.sum[j] = w.sum[j] * shrink + s[j] + s[j + 2];
#pragma unroll
      for (int b = 0; b < VB; ++b)
#pragma unroll
        for (int c = 0; c < 4; ++c) { w.o[b][c][j] *= shrink; w.o[b][c][j + 2] *= shrink; }
    }
    // An unwritten scale of a token past the context may be anything: its weight is zero either way.
    const float low_scale = low ? v_scale[0] : 0.f, high_scale = high ? v_scale[1] : 0.f;
    const uint32_t p0 = transpose8x8(pack2<T>(s[0] * low_scale, s[1] * low_scale));
    const uint32_t p1 = transpose8x8(pack2<T>(s[2] * high_scale, s[3] * high_scale));
#pragma unroll
    for (int b = 0; b < VB; ++b) {
      const bool inside = 64 * b + 8 * g < dim;
      uint32_t v[4][4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int token = 2 * t + (j & 1) + (j & 2) * 4;
        const uint4 loaded = ring_load8<T, INT8>(v_tile, token * dim + 64 * b + 8 * g, inside && visible(token));
        v[j][0] = loaded.x; v[j][1] = loaded.y; v[j][2] = loaded.z; v[j][3] = loaded.w;
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const uint32_t f[4] = {__byte_perm(v[0][c], v[1][c], 0x5410), __byte_perm(v[0][c], v[1][c], 0x7632),
                               __byte_perm(v[2][c], v[3][c], 0x5410), __byte_perm(v[2][c], v[3][c], 0x7632)};
        mma<T>(w.o[b][c], f, p0, p1);
      }
    }
  }

  // The item's history, block by block, out of the ring.
  __device__ __forceinline__ void attend_history(RingPlace& at, AttentionSums<DP>& w) const {
    const char* ring = program_shared + control.sums - control.slots * control.slot_bytes;
    const int block_bytes = control.attention_bytes, per_slot = control.slot_bytes / block_bytes;
    int mine = warp;  // in the slot, if it is that large
#pragma unroll 1
    for (int done = 0; done < item.blocks; done += per_slot) {
      barrier_wait(shared_address(control.full + at.slot), at.parity);
      const int count = min(per_slot, item.blocks - done);
#pragma unroll 1
      for (; mine < count; mine += program_workers) attend(ring + at.slot * control.slot_bytes + mine * block_bytes, (item.begin + done + mine) * kv_tokens, w);
      mine -= per_slot;
      if (mine < 0) mine += program_workers;
      barrier_arrive_warp(shared_address(control.empty + at.slot));
      at.next(control.slots);
    }
  }

  // This worker's part of the result.
  __device__ __forceinline__ void leave_part(AttentionSums<DP>& w) const {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      w.sum[j] += __shfl_xor_sync(0xffffffffu, w.sum[j], 4);
      w.sum[j] += __shfl_xor_sync(0xffffffffu, w.sum[j], 8);
      w.sum[j] += __shfl_xor_sync(0xffffffffu, w.sum[j], 16);
      const int h = 2 * t + j;
      if (h >= item.live) continue;
      if (g == 0) *reinterpret_cast<float2*>(stat(warp, h)) = make_float2(w.best[j], w.sum[j]);
      float* to = merge + (warp * item.live + h) * DP;
#pragma unroll
      for (int b = 0; b < VB; ++b)
#pragma unroll
        for (int c = 0; c < 4; ++c) *reinterpret_cast<float2*>(to + 64 * b + 8 * g + 2 * c) = make_float2(w.o[b][c][j], w.o[b][c][j + 2]);
    }
  }

  // A split's partial result in memory: sums [dim], best, total.
  __device__ __forceinline__ float* partial(int head, int split) const {
    return a.partial + ((static_cast<int64_t>(item.sequence) * a.heads + item.head0 + head) * a.splits + split) * (dim + 2);
  }
  // A pair of outputs, to the exchange and, where somebody else may want it, to memory.
  __device__ __forceinline__ void store_pair(int h, int d, float2 v) const {
    const int column = (item.head0 + h) * dim + d;
    const uint32_t word = pack2<T>(v.x, v.y);
    if (phase.to >= 0) exchange_store(control.exchange + phase.to + item.row * (a.heads * dim / 2) + (phase.to_plain ? column / 2 : fragment_word(column)), word);
    if (phase.keeps) *reinterpret_cast<uint32_t*>(static_cast<T*>(a.out) + static_cast<int64_t>(item.row) * a.out_stride + column) = word;
  }
  // f(head, dimension) for every pair of the item's outputs.
  template <class F> __device__ __forceinline__ void each_pair(const F& f) const {
#pragma unroll 1
    for (int h = warp / 2; h < item.live; h += program_workers / 2)
      if (const int d = (warp % 2 * 32 + lane) * 2; d < dim) f(h, d);
  }
  // Two workers a head: the weight of every part (lane i has part i's, the lane after them the own token's), and their sum.
  __device__ __forceinline__ void store_merged(int parts) const {
#pragma unroll 1
    for (int h = warp / 2; h < item.live; h += program_workers / 2) {
      const bool has = lane < parts || (lane == parts && owner);
      const float2 part = has ? *reinterpret_cast<const float2*>(stat(lane < parts ? lane : own_part, h)) : make_float2(-INFINITY, 0);
      const float top = warp_max(part.x);
      float weight = part.x == -INFINITY ? 0.f : exp2f(part.x - top);
      const float total = warp_sum(weight * part.y);
      const int d = (warp % 2 * 32 + lane) * 2;
      const bool inside = d < dim;
      if (item.active == 1) weight = __fdividef(weight, total);
      else if (lane == 0 && warp % 2 == 0) *reinterpret_cast<float2*>(partial(h, item.split) + dim) = make_float2(top, total);
      float2 value = make_float2(0, 0);
      const float own_weight = __shfl_sync(0xffffffffu, weight, parts);
      if (owner && inside) value = make_float2(own_weight * own[DP + d], own_weight * own[DP + d + 1]);
#pragma unroll 4
      for (int w = 0; w < parts; ++w) {
        const float of_part = __shfl_sync(0xffffffffu, weight, w);
        const float2 v = inside ? *reinterpret_cast<const float2*>(merge + (w * item.live + h) * DP + d) : make_float2(0, 0);
        value.x += of_part * v.x; value.y += of_part * v.y;
      }
      if (!inside) continue;
      if (item.active == 1) store_pair(h, d, value);
      else *reinterpret_cast<float2*>(partial(h, item.split) + d) = value;
    }
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
        const float* part = from + s * (dim + 2);
        const float2 v = __ldcg(reinterpret_cast<const float2*>(part + d)), stat = __ldcg(reinterpret_cast<const float2*>(part + dim));
        const float next = fmaxf(best, stat.x), shrink = exp2f(best - next), weight = exp2f(stat.x - next);
        best = next;
        total = total * shrink + weight * stat.y;
        value = make_float2(value.x * shrink + weight * v.x, value.y * shrink + weight * v.y);
      }
      store_pair(h, d, make_float2(__fdividef(value.x, total), __fdividef(value.y, total)));
    });
  }
};

// The three parts of an item, functions of their own: in one, registers spill, and what spills is read back through the
// memory system, behind the weights.
template <class T, int DP, bool INT8> __device__ __forceinline__ Attention<T, DP, INT8> attention_of(int index) {
  ProgramControl& control = program_control();
  return {control, program_phase(index), control.attention, control.item};
}
template <class T, int DP, bool INT8> __device__ __noinline__ void prepare_item(int index) { attention_of<T, DP, INT8>(index).prepare_heads(); }
template <class T, int DP, bool INT8> __device__ __noinline__ RingPlace attend_item(int index, RingPlace at) {
  const auto attention = attention_of<T, DP, INT8>(index);
  attention.attend_own();
  AttentionSums<DP> sums;
  attention.attend_history(at, sums);
  if (attention.warp < min(program_workers, attention.item.blocks)) attention.leave_part(sums);
  return at;
}
template <class T, int DP, bool INT8> __device__ __noinline__ void store_item(int index) {
  const auto attention = attention_of<T, DP, INT8>(index);
  if (attention.item.active < 0) return attention.each_pair([&](int h, int d) { attention.store_pair(h, d, make_float2(0, 0)); });
  attention.store_merged(min(program_workers, attention.item.blocks));
  if (attention.item.active > 1) attention.merge_splits();
}

template <class T, int DP, bool INT8>
__device__ __noinline__ RingPlace attention_items(int index, RingPlace at) {
  ProgramControl& control = program_control();
#pragma unroll 1
  for (int i = blockIdx.x; i < control.items; i += gridDim.x) {
    if (i != static_cast<int>(blockIdx.x)) workers_meet();  // the scratch has been read
    if (control.item_index != i || control.item_window != control.attention.window) {
      workers_meet();
      if (threadIdx.x == 0) {
        attention_item(control, control.attention, control.attention.window, i, control.item);
        control.item_index = i;
        control.item_window = control.attention.window;
      }
      workers_meet();
    }
    if (control.item.active == 0) continue;
    prepare_item<T, DP, INT8>(index);
    if (threadIdx.x < 32) program_trace(index, 1);
    workers_meet();
    if (control.item.active > 0) {
      at = attend_item<T, DP, INT8>(index, at);
      if (threadIdx.x < 32) program_trace(index, 2);
      workers_meet();
    }
    store_item<T, DP, INT8>(index);
  }
  workers_meet();
  if (threadIdx.x < 32) program_trace(index, 5);
  return at;
}

template <class T>
__device__ __forceinline__ RingPlace attention_phase(int index, RingPlace at) {
  ProgramControl& control = program_control();
  if (static_cast<int>(blockIdx.x) >= control.items) return at;
  const ProgramPhase& phase = program_phase(index);
  const AttentionPhase& from = phase.attention;
  const AttentionShape& shape = program_shape(phase.shape).attention;
  AttentionArgs& a = control.attention;
  if (threadIdx.x == 0) {
    program_trace(index, 0);
    a.k = from.k; a.v = from.v; a.k_scale = from.k_scale; a.v_scale = from.v_scale;
    a.q_norm = from.q_norm; a.k_norm = from.k_norm;
    a.inverse_frequency = shape.inverse_frequency; a.qkv = shape.qkv; a.out = shape.out;
    a.scale = shape.scale; a.rope_amplitude = shape.rope_amplitude; a.window = shape.window;
  }
  workers_meet();
  if (control.turns_of != shape.inverse_frequency) {  // mostly only in the first attention of a step
    const int pairs = a.rope_dims / 2;
#pragma unroll 1
    for (int i = threadIdx.x; i < control.rows * pairs; i += worker_threads) control.turns[i / pairs][i % pairs] = rope_turn(a, control.row[i / pairs], i % pairs);
    workers_meet();
    if (threadIdx.x == 0) control.turns_of = shape.inverse_frequency;
  }
  const bool int8 = a.kv_type == kv_int8;
  if (a.head_dim <= 64) return int8 ? attention_items<T, 64, true>(index, at) : attention_items<T, 64, false>(index, at);
  return int8 ? attention_items<T, 128, true>(index, at) : attention_items<T, 128, false>(index, at);
}

}  // namespace hearth::kernels::cuda
