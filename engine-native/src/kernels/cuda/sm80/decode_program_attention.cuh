// Attention of the decode program. An item is (row, KV head, up to 8 of its query heads, part of the context); KV blocks go
// round the workers. Tokens are the tensor cores' M, heads their N: S^T = K Q^T, O^T = V^T P^T. The row's own key and value
// never pass through the pool: they are one more partial result in the merge.
//
// Everybody waits for what is between the queries and the outputs, and four warps share a scheduler: so instructions count
// there. What does not depend on the queries is done before they come: a worker's first KV block lies in its registers, as
// operands, and the ring has its room again. Shared memory is addressed by 32 bits from one base, since the compiler makes
// a pointer anew (a special register, 50 cycles) wherever it is used.
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
template <class T, bool INT8> __device__ __forceinline__ uint4 ring_load8(uint32_t tile, int element, uint32_t mask) {
  const uint4 v = INT8 ? widen8<T>(shared_load8(tile + element)) : shared_load16(tile + element * 2);
  return make_uint4(v.x & mask, v.y & mask, v.z & mask, v.w & mask);
}
template <class T, bool INT8> __device__ __forceinline__ uint2 ring_load4(uint32_t tile, int element, uint32_t mask) {
  uint2 v;
  if constexpr (INT8) {
    const uint4 wide = widen8<T>(make_uint2(shared_load4(tile + element), 0));
    v = make_uint2(wide.x, wide.y);
  } else {
    v = shared_load8(tile + element * 2);
  }
  return make_uint2(v.x & mask, v.y & mask);
}
__device__ __forceinline__ uint32_t mask_of(bool wanted) { return wanted ? 0xffffffffu : 0; }

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

// A head of an item, to be made ready by one warp. which < 0: a query, to `to`, values in 16 bits; 0 and 1: the row's key and
// value, to the pool (slot >= 0) and, rounded as there, to `to`, in 32 bits. to: an address of shared memory.
struct HeadTask {
  int which, head, slot, kv_head, row;
  const float2* turns;
  uint32_t to;
};

// In registers: norm, rope (halves), rounding; for heads of 64 and 128. Lane i has dimensions 2 i, 2 i + 1 and their partners
// in the other half.
template <class T, int DP>
__device__ __forceinline__ void quick_head(const AttentionArgs& a, const AttentionPhase& from, const HeadSource& source, const HeadTask& task, int lane) {
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
__device__ __noinline__ void any_head(const AttentionArgs& a, const AttentionPhase& from, const HeadSource& source, const HeadTask& task, float* x) {
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

// The first product of a sum: with accumulators that are set to zero before, these take registers from early on.
template <class T> __device__ __forceinline__ void mma_first(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.f));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.f));
}

// ---- The history ----------------------------------------------------------------------------------------------------------------

// A KV block of a lane: keys of tokens g and g + 8 and values of its dimensions as operands, scales of INT8, and which of the
// two tokens the row sees.
template <int DP> struct KvOperands {
  uint32_t values[DP / 64][4][4];
  uint4 keys[DP / 32][2];
  float k_scale[2] = {1, 1}, v_scale[2] = {1, 1};
  bool seen[2];
};

// A worker's way through its item's history in the ring, and what it takes out of it. DP: the head's dimensions, padded.
// QUICK: heads of DP dimensions, in 16 bits, turned by halves.
template <class T, int DP, bool INT8, bool QUICK>
struct History {
  static constexpr int VB = DP / 64;
  using Block = KvOperands<DP>;

  const uint32_t base;  // of the shared memory
  RingPlace at;
  int mine, done;  // the next KV block, in the slot; blocks in slots before

  __device__ __forceinline__ int control(size_t field) const { return static_cast<int>(shared_load4(base + static_cast<uint32_t>(field))); }
  __device__ __forceinline__ int item(size_t field) const { return control(offsetof(ProgramControl, item) + field); }
  __device__ __forceinline__ int dim() const { return QUICK ? DP : control(offsetof(ProgramControl, attention) + offsetof(AttentionArgs, head_dim)); }
  __device__ __forceinline__ uint32_t full() const { return base + offsetof(ProgramControl, full) + at.slot * 8; }
  __device__ __forceinline__ void await_slot() const { barrier_wait(full(), at.parity); }
  __device__ __forceinline__ bool block_here() const { return mine < min(control(offsetof(ProgramControl, attention_per_slot)), item(offsetof(AttentionItem, blocks)) - done); }
  __device__ __forceinline__ void pass_slot() {
    const int per_slot = control(offsetof(ProgramControl, attention_per_slot));
    barrier_arrive_warp(full() + program_slots_max * 8);
    at.next(control(offsetof(ProgramControl, slots)));
    done += per_slot;
    mine -= per_slot;
  }
  // To the worker's next KV block, past slots that begin before block `end`; false: it is in none of these.
  __device__ __forceinline__ bool find_block(int end) {
#pragma unroll 1
    for (; done < end; pass_slot()) {
      await_slot();
      if (block_here()) return true;
    }
    return false;
  }

  __device__ __forceinline__ uint32_t key_tile() const {
    return base + control(offsetof(ProgramControl, sums)) - (control(offsetof(ProgramControl, slots)) - at.slot) * control(offsetof(ProgramControl, slot_bytes)) + mine * control(offsetof(ProgramControl, attention_bytes));
  }
  __device__ __forceinline__ uint32_t value_tile() const { return key_tile() + kv_tokens * dim() * (INT8 ? 1 : 2); }
  // Tokens of the block at hand that the row sees.
  struct Seen {
    int first, end;
    __device__ __forceinline__ bool operator()(int token) const { return token >= first && token < end; }
  };
  __device__ __forceinline__ Seen seen() const {
    const int begin = (item(offsetof(AttentionItem, begin)) + done + mine) * kv_tokens;
    return {item(offsetof(AttentionItem, first)) - begin, item(offsetof(AttentionItem, position)) - begin};
  }
  // Keys of dimensions 32 b + 8 t and on, of b and b + 1. Odd tokens take the two in the other order, so that a quarter of the
  // warp reads from all banks.
  __device__ __forceinline__ void load_keys(int b, uint4 (&lower)[2], uint4 (&upper)[2]) const {
    const Place my;
    const uint32_t tile = key_tile();
    const int dim = this->dim();
    const bool odd = my.g & 1;
    uint4 k[2][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int element = 32 * (b + (odd ? 1 - i : i)) + 8 * my.t;
      const uint32_t inside = mask_of(element < dim);
      k[i][0] = ring_load8<T, INT8>(tile, my.g * dim + element, inside);
      k[i][1] = ring_load8<T, INT8>(tile, (my.g + 8) * dim + element, inside);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      lower[i] = odd ? k[1][i] : k[0][i];
      upper[i] = odd ? k[0][i] : k[1][i];
    }
  }
  // Values of dimensions 64 b + 8 g and on. Odd lanes take the halves in the other order: fewer meet at a bank.
  __device__ __forceinline__ void load_values(int b, uint32_t (&to)[4][4]) const {
    const Place my;
    const Seen row = seen();
    const uint32_t tile = value_tile();
    const int dim = this->dim();
    const int element = 64 * b + 8 * my.g;
    uint32_t v[4][4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int token = 2 * my.t + (j & 1) + (j & 2) * 4;
      const uint32_t wanted = mask_of(element < dim && row(token));
      const uint2 one = ring_load4<T, INT8>(tile, token * dim + element + my.t % 2 * 4, wanted), other = ring_load4<T, INT8>(tile, token * dim + element + 4 - my.t % 2 * 4, wanted);
      const uint2 lower = my.t % 2 ? other : one, upper = my.t % 2 ? one : other;
      v[j][0] = lower.x; v[j][1] = lower.y; v[j][2] = upper.x; v[j][3] = upper.y;
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      to[c][0] = __byte_perm(v[0][c], v[1][c], 0x5410); to[c][1] = __byte_perm(v[0][c], v[1][c], 0x7632);
      to[c][2] = __byte_perm(v[2][c], v[3][c], 0x5410); to[c][3] = __byte_perm(v[2][c], v[3][c], 0x7632);
    }
  }
  // What the row sees, and scales. An unwritten scale of a token past the context may be anything.
  __device__ __forceinline__ void load_seen(Block& block) const {
    const Place my;
    const Seen row = seen();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      block.seen[i] = row(my.g + 8 * i);
      if constexpr (INT8) {
        const uint32_t scales = value_tile() + kv_tokens * dim() + (my.g + 8 * i) * 4;
        block.k_scale[i] = block.seen[i] ? __uint_as_float(shared_load4(scales)) : 0.f;
        block.v_scale[i] = block.seen[i] ? __uint_as_float(shared_load4(scales + kv_tokens * 4)) : 0.f;
      }
    }
  }
  // Between the functions that need it.
  __device__ __forceinline__ void leave() const {
    if (Place().lane == 0) program_control().history[Place().warp] = {static_cast<int16_t>(mine), static_cast<int16_t>(done)};
  }
  __device__ __forceinline__ void take_up() {
    const HistoryAt left = program_control().history[Place().warp];
    mine = left.mine;
    done = left.done;
  }
  // Before the queries are there: past the slots that have the item's first KV blocks, the worker's own into registers. Nobody
  // may wait for others here: a slot further on comes only when all have passed one before it.
  __device__ __forceinline__ void take_first(Block& block) {
    const int blocks = min(item(offsetof(AttentionItem, blocks)), program_workers);
    if (find_block(blocks)) {
#pragma unroll
      for (int b = 0; b < VB; ++b) load_values(b, block.values[b]);
#pragma unroll
      for (int b = 0; b < DP / 32; b += 2) load_keys(b, block.keys[b], block.keys[b + 1]);
      load_seen(block);
      mine += program_workers;
      find_block(blocks);
    }
  }
};

// ---- Items --------------------------------------------------------------------------------------------------------------------

// What a worker has gathered of its KV blocks. Lane (g, t) holds dimensions 64 b + 8 g + 2 c + {0, 1} of heads 2 t and 2 t + 1.
template <int DP> struct AttentionSums {
  float best[2], sum[2], o[DP / 64][4][4];
};

// A worker's part of an item.
template <class T, int DP, bool INT8, bool QUICK>
struct Attention {
  static constexpr int q_pitch = DP * 2 + 16, VB = DP / 64, own_part = program_workers, stat_pitch = (program_workers + 1) * 8;
  // The scratch: queries [8][q_pitch], {best, sum} [8][workers + 1], the row's k and v [2][DP], parts [workers][live][DP].
  static constexpr int stats_at = program_heads * q_pitch, own_at = stats_at + program_heads * stat_pitch, parts_at = own_at + 2 * DP * 4;
  using Sums = AttentionSums<DP>;
  using Block = KvOperands<DP>;

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
  __device__ __forceinline__ uint32_t stat(int part, int head) const { return scratch + stats_at + head * stat_pitch + part * 8; }
  __device__ __forceinline__ uint32_t part_of(int worker, int head) const { return scratch + parts_at + (worker * live + head) * DP * 4; }

  // ---- Queries, and the row's own token
  __device__ __forceinline__ HeadSource source() const {
    const AttentionArgs& a = args();
    const bool awaited = phase().from >= 0;
    return {awaited ? program_control().exchange + phase().from + item().row * ((a.heads + 2 * a.kv_heads) * dim() / 2) : static_cast<const uint32_t*>(shape().qkv) + static_cast<int64_t>(item().row) * (a.qkv_stride / 2), awaited};
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
    task.turns = control.turns[item().sequence];
    task.to = scratch + (which < 0 ? i * q_pitch : own_at + which * DP * 4);
    if constexpr (QUICK) quick_head<T, DP>(args(), phase().attention, source(), task, my.lane);
    else any_head<T, DP>(args(), phase().attention, source(), task, reinterpret_cast<float*>(program_shared + control.x + parts_at) + my.warp * DP);
  }
  // By the warps that made the queries.
  __device__ __forceinline__ void attend_own(float factor) const {
    const Place my;
    const int h = program_workers - 1 - my.warp;
    if (h >= live || !owner()) return;
    float s = 0;
#pragma unroll
    for (int i = 0; i < VB; ++i) {
      const int pair = my.lane + 32 * i;
      if (pair >= dim() / 2) break;
      const float2 x = unpack2<T>(shared_load4(scratch + h * q_pitch + pair * 4));
      const uint2 k = shared_load8(scratch + own_at + pair * 8);
      s += x.x * __uint_as_float(k.x) + x.y * __uint_as_float(k.y);
    }
    s = warp_sum(s);
    if (my.lane == 0) shared_store8(stat(own_part, h), make_float2(s * factor, 1.f));
  }

  // ---- Products
  // S^T = K Q^T of 16 tokens: tokens g and g + 8, heads 2 t and 2 t + 1. keys(b, ..): of 32 b and of 32 (b + 1) and on.
  template <class Keys> __device__ __forceinline__ void scores(const Keys& keys, float (&s)[4]) const {
    const Place my;
    const uint32_t q = scratch + min(my.g, live - 1) * q_pitch + my.t * 16;  // what there is of further heads is ignored
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
      float top = fmaxf(s[j], s[j + 2]);
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 4));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 8));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 16));
      const float next = FIRST ? top : fmaxf(w.best[j], top), reference = next == -INFINITY ? 0.f : next;
      s[j] = exp2_fast(s[j] - reference);
      s[j + 2] = exp2_fast(s[j + 2] - reference);
      if constexpr (FIRST) {
        w.sum[j] = s[j] + s[j + 2];
      } else {
        const float shrink = exp2_fast(w.best[j] - reference);
        w.sum[j] = w.sum[j] * shrink + s[j] + s[j + 2];
#pragma unroll
        for (int i = 0; i < VB * 4; ++i) {
          w.o[i / 4][i % 4][j] *= shrink;
          w.o[i / 4][i % 4][j + 2] *= shrink;
        }
      }
      w.best[j] = next;
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
    return {h, d, owner(), phase().to >= 0 ? program_control().exchange + phase().to + item().row * (args().heads * dim() / 2) + (phase().to_plain ? column / 2 : fragment_word(column)) : nullptr};
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
    __device__ __forceinline__ void add(float2 v, float other_top, float other_total) {
      const float next = fmaxf(top, other_top), mine = exp2_fast(top - next), others = exp2_fast(other_top - next);
      value = make_float2(value.x * mine + v.x * others, value.y * mine + v.y * others);
      total = total * mine + other_total * others;
      top = next;
    }
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
    const uint2 own_value = at.owner ? shared_load8(scratch + own_at + (DP + at.d) * 4) : make_uint2(0, 0);
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
  // The other splits' parts, by the block that has the own token.
  __device__ __forceinline__ void add_splits(const OutputPlace& at, Merged& m) const {
    constexpr int batch = 3;
    const int others = item().active - 1, d = min(at.d, dim() - 2), width = dim();
#pragma unroll 1
    for (int first = 0; first < others; first += batch) {
      uint2 v[batch], stats[batch];
      bool missing;
#pragma unroll
      for (int i = 0; i < batch; ++i) v[i] = stats[i] = make_uint2(0, 0);
      do {
        missing = false;
#pragma unroll
        for (int i = 0; i < batch; ++i) {
          if (first + i >= others) break;
          const uint32_t* const from = split_words(at.h, first + i);
          if (!arrived(v[i])) v[i] = exchange_load8(from + d);
          if (!arrived(stats[i])) stats[i] = exchange_load8(from + width);
        }
#pragma unroll
        for (int i = 0; i < batch; ++i) missing |= first + i < others && !(arrived(v[i]) && arrived(stats[i]));
      } while (__any_sync(0xffffffffu, missing));
#pragma unroll
      for (int i = 0; i < batch; ++i)
        if (first + i < others) m.add(make_float2(__uint_as_float(~v[i].x), __uint_as_float(~v[i].y)), __uint_as_float(~stats[i].x), __uint_as_float(~stats[i].y));
    }
  }
  __device__ __forceinline__ void store_merged(const OutputPlace& at) const {
    Merged m = merge_workers(at);
    if (!at.owner) return send_split(at, m);
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
  KvOperands<DP> block{};  // set on all ways: of what is undefined on one the compiler spills all
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
  } while (program_control().item_wanted != static_cast<int>(blockIdx.x));
  return at + next_phase;
}

// The turns of rope, where the last attention had others; mostly only in the first one of a step.
__device__ __forceinline__ void prepare_turns(const AttentionShape& shape) {
  ProgramControl& control = program_control();
  AttentionArgs& a = control.attention;
  if (control.turns_of == shape.inverse_frequency) return;
  workers_meet();
  if (threadIdx.x == 0) {
    a.inverse_frequency = shape.inverse_frequency;
    a.rope_amplitude = shape.rope_amplitude;
  }
  workers_meet();
  const int pairs = a.rope_dims / 2;
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
  prepare_turns(program_shape(program_phase(index).shape).attention);
  const AttentionArgs& a = control.attention;
  const bool halves = a.rope_dims == a.head_dim && !a.rope_interleaved, wide = a.head_dim > 64;
  if (a.kv_type == kv_int8) return wide ? attention_items<T, 128, true, false>(at) : attention_items<T, 64, true, false>(at);
  if (halves && a.head_dim == 128) return attention_items<T, 128, false, true>(at);
  if (halves && a.head_dim == 64) return attention_items<T, 64, false, true>(at);
  return wide ? attention_items<T, 128, false, false>(at) : attention_items<T, 64, false, false>(at);
}

}  // namespace hearth::kernels::cuda
