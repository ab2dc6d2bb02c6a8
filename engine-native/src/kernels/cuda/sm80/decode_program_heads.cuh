// Queries, keys and values of the decode program's attention: a head by a warp, out of the exchange (or memory), through norm and
// rope, to where the workers attend with it, the row's own key and value to the pool.
#pragma once

#include "kernels/cuda/sm80/attention_decode_products.cuh"
#include "kernels/cuda/sm80/decode_program_exchange.cuh"

namespace hearth::kernels::cuda {

// The thread's place, read once.
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

// A head of an item, to be made ready by one warp. which < 0: a query, to `to`, values in 16 bits; 0 and 1: the row's key and
// value, to the pool (slot >= 0) and, rounded as there, to `to`, in 32 bits. to: an address of shared memory.
struct HeadTask {
  int which, head, slot, kv_head, row;
  const float2* turns;
  uint32_t to;
};

// Where the upper byte of dimension d of a query of INT8 KV is, eight bytes before the lower: what a lane of the tensor cores takes of
// 32 dimensions stands together (see KvBytes). Behind the head's parts' {best, sum}: what its query was divided by.
__device__ __forceinline__ int query_byte(int d) { return d / 64 * 128 + d % 16 / 8 * 64 + d % 64 / 16 * 16 + d % 8 / 4 * 4 + d % 4; }
template <int DP> __device__ __forceinline__ uint32_t query_unit(uint32_t query) { return query + DP * 2 + (program_workers + 1) * 8; }

// A head in registers: lane i has dimensions 2 i, 2 i + 1 and, in `upper`, their partners in the other half.
struct HeadPairs { float2 lower, upper; };

// The rotation of head_prepare.
template <int DP> __device__ __forceinline__ void rotate_head(HeadPairs& head, int lane) {
  auto turn = [](float2 v) { return make_float2(v.x + v.y, v.x - v.y); };
  float2 x = turn(head.lower), y = turn(head.upper);
#pragma unroll
  for (int d = 1; d < DP / 4; d *= 2) {
    const float sign = lane & d ? -1.f : 1.f;
    x = make_float2(__shfl_xor_sync(0xffffffffu, x.x, d) + sign * x.x, __shfl_xor_sync(0xffffffffu, x.y, d) + sign * x.y);
    y = make_float2(__shfl_xor_sync(0xffffffffu, y.x, d) + sign * y.x, __shfl_xor_sync(0xffffffffu, y.y, d) + sign * y.y);
  }
  const float factor = rsqrtf(static_cast<float>(DP));
  head.lower = make_float2((x.x + y.x) * factor, (x.y + y.y) * factor);
  head.upper = make_float2((x.x - y.x) * factor, (x.y - y.y) * factor);
}
// The largest of a warp's values that are not negative: their bits are in order.
__device__ __forceinline__ float warp_most(float v) { return __uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(v))); }
__device__ __forceinline__ void shared_store2(uint32_t address, int low, int high) {
  asm volatile("st.shared.u16 [%0], %1;" ::"r"(address), "h"(static_cast<short>((low & 255) | high << 8)) : "memory");
}
// A query as upper and lower bytes, both signed.
template <int DP> __device__ __forceinline__ void store_query_bytes(uint32_t to, const HeadPairs& head, float largest, bool live, int lane) {
  const float inverse = largest > 1e-30f ? __fdividef(32512.f, largest) : 0.f;
  if (lane == 0) shared_store4(query_unit<DP>(to), largest * (1.f / 32512.f));
  if (!live) return;
  auto store = [&](int d, float2 v) {
    const int a = __float2int_rn(v.x * inverse), b = __float2int_rn(v.y * inverse), a_low = static_cast<int8_t>(a), b_low = static_cast<int8_t>(b);
    shared_store2(to + query_byte(d), (a - a_low) >> 8, (b - b_low) >> 8);
    shared_store2(to + query_byte(d) + 8, a_low, b_low);
  };
  store(lane * 2, head.lower);
  store(DP / 2 + lane * 2, head.upper);
}
// The row's own key or value to the pool, by the rule of head_write, and, rounded like there, to shared memory.
template <int DP> __device__ __forceinline__ void store_own_bytes(const AttentionArgs& a, const AttentionOperands& from, const HeadTask& task, const HeadPairs& head, float largest, bool live, int lane) {
  const bool some = largest > 1e-36f;
  const float inverse = some ? __fdiv_rn(127.f, largest) : 0.f, scale = some ? __fdiv_rn(largest, 127.f) : 0.f;
  const int64_t at = (static_cast<int64_t>(task.slot / kv_tokens) * a.kv_heads + task.kv_head) * kv_tokens + task.slot % kv_tokens;
  if (lane == 0 && task.slot >= 0) (task.which == 0 ? from.k_scale : from.v_scale)[at] = scale;
  if (!live) return;
  int8_t* const pool = static_cast<int8_t*>(task.which == 0 ? from.k : from.v) + at * DP;
  auto store = [&](int d, float2 v) {
    const float2 r = make_float2(fminf(fmaxf(rintf(v.x * inverse), -127.f), 127.f), fminf(fmaxf(rintf(v.y * inverse), -127.f), 127.f));
    shared_store8(task.to + d * 4, make_float2(r.x * scale, r.y * scale));
    if (task.slot >= 0) *reinterpret_cast<uint16_t*>(pool + d) = static_cast<uint16_t>((static_cast<int>(r.x) & 255) | static_cast<int>(r.y) << 8);
  };
  store(lane * 2, head.lower);
  store(DP / 2 + lane * 2, head.upper);
}

// In registers: norm, rope (halves), rounding; for heads of 64 and 128.
template <class T, int DP, bool INT8>
__device__ __forceinline__ void quick_head(const AttentionArgs& a, const AttentionOperands& from, const HeadSource& source, const HeadTask& task, int lane) {
  constexpr int half = DP / 2;
  const int d = lane * 2;
  const bool live = d < half, turned = task.which < 1, normed = turned && a.qk_norm;
  const float4 turn = *reinterpret_cast<const float4*>(task.turns + (live ? d : 0));  // cosine and sine of d, of d + 1
  float2 norm_x = make_float2(1, 1), norm_y = norm_x;
  if (normed && live) {
    const float* norm = task.which < 0 ? from.q_norm : from.k_norm;
    norm_x = make_float2(norm[d], norm[d + 1]);
    norm_y = make_float2(norm[half + d], norm[half + d + 1]);
  }
  T* const pool = static_cast<T*>(task.which == 0 ? from.k : from.v) + ((static_cast<int64_t>(task.slot / kv_tokens) * a.kv_heads + task.kv_head) * kv_tokens + task.slot % kv_tokens) * DP + d;
  const uint2 words = source.two_pairs(task.head * DP + d, task.head * DP + half + d, live);
  float2 x = unpack2<T>(words.x), y = unpack2<T>(words.y);
  if (normed) {
    const float factor = rsqrtf(warp_sum(live ? (x.x * x.x + x.y * x.y) + (y.x * y.x + y.y * y.y) : 0.f) / DP + a.qk_norm_epsilon);
    x.x *= factor * norm_x.x; x.y *= factor * norm_x.y;
    y.x *= factor * norm_y.x; y.y *= factor * norm_y.y;
  }
  if (turned) {
    const float2 u = x, v = y;
    x = make_float2(u.x * turn.x - v.x * turn.y, u.y * turn.z - v.y * turn.w);
    y = make_float2(v.x * turn.x + u.x * turn.y, v.y * turn.z + u.y * turn.w);
  }
  if constexpr (INT8) {
    HeadPairs head{x, y};
    if (!live) head = {};
    if (turned) rotate_head<DP>(head, lane);
    const float largest = warp_most(fmaxf(fmaxf(fabsf(head.lower.x), fabsf(head.lower.y)), fmaxf(fabsf(head.upper.x), fabsf(head.upper.y))));
    if (task.which < 0) store_query_bytes<DP>(task.to, head, largest, live, lane);
    else store_own_bytes<DP>(a, from, task, head, largest, live, lane);
    return;
  }
  if (!live) return;
  const uint32_t low = pack2<T>(x.x, x.y), high = pack2<T>(y.x, y.y);
  if (task.which < 0) {
    shared_store4(task.to + d * 2, __uint_as_float(low));
    shared_store4(task.to + (half + d) * 2, __uint_as_float(high));
    return;
  }
  shared_store8(task.to + d * 4, unpack2<T>(low));
  shared_store8(task.to + (half + d) * 4, unpack2<T>(high));
  if (task.slot < 0) return;
  *reinterpret_cast<uint32_t*>(pool) = low;
  *reinterpret_cast<uint32_t*>(pool + half) = high;
}

// A head of any size, rope and KV format, through shared memory at `x`.
template <class T, int DP>
__device__ __noinline__ void any_head(const AttentionArgs& a, const AttentionOperands& from, const HeadSource& source, const HeadTask& task, float* x) {
  const int lane = threadIdx.x % 32, dim = a.head_dim, which = task.which;
#pragma unroll 1
  for (int d = lane * 2; d < DP; d += 64) {
    const float2 v = unpack2<T>(source.pair(task.head * dim + d, d < dim));
    if (d < dim) *reinterpret_cast<float2*>(x + d) = v;
  }
  __syncwarp();
  if (which < 1) head_prepare(a, task.row, which < 0 ? from.q_norm : from.k_norm, x, task.turns);
  char* const to = program_shared + (task.to - shared_address(program_shared));
  if (which < 0) {
    for (int d = lane; d < DP; d += 32) reinterpret_cast<T*>(to)[d] = from_float<T>(d < dim ? x[d] : 0.f);
  } else {
    if (task.slot >= 0) head_write(a, task.slot, task.kv_head, which == 0 ? from.k : from.v, which == 0 ? from.k_scale : from.v_scale, x);
    round_head<T>(a, x);
    __syncwarp();
    for (int d = lane; d < dim; d += 32) reinterpret_cast<float*>(to)[d] = x[d];
  }
  __syncwarp();
}

}  // namespace hearth::kernels::cuda
