// Attention over the paged KV pool, and vision attention, in vectors.
//
// Two phases with one barrier. First q/k norm, rope and the KV write, shared out by (row, head). Then tiles: up to
// eight queries that share a KV head (its query heads, times rows of a prefill), dealt to the workers in turn, since
// later rows see more tokens than earlier ones.
#include <algorithm>

#include "device/cpu_stream.h"
#include "kernels/cpu/simd/attend.h"
#if HEARTH_LANES == 16
#define HEARTH_SEEN_PANELS
#include "kernels/cpu/avx512/attention_many.h"
#elif defined(__AVX2__)
#define HEARTH_SEEN_PANELS
#include "kernels/cpu/avx2/attention_many.h"
#endif
#include "kernels/cpu/simd/isa.h"
#include "kernels/cpu/simd/rows.h"

namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {

using device::DeviceInfo;
using device::Stream;
using namespace ops;

const char* attention_declines(const AttentionSpec& s, const DeviceInfo& info) {
  if (const char* missing = isa_missing(info)) return missing;
  if (!is_float(s.type)) return "types are f32, f16 or bf16";
  if (s.head_dim % lanes != 0) return "head_dim is not a multiple of the vector";
  if (s.head_dim > head_dim_max) return "head_dim is over 256";
  if (s.int8_products && s.kv != KvFormat::int8) return "int8 products need int8 K and V";
  if (s.int8_products && s.head_dim % (2 * lanes) != 0) return "int8 products need head_dim in pairs of vectors";
  if (s.kv_heads <= 0 || s.heads % s.kv_heads != 0) return "kv_heads must divide heads";
  if (s.rope_dims % 2 != 0 || s.rope_dims > s.head_dim) return "rope_dims must be even and at most head_dim";
  return nullptr;
}

size_t attention_workspace(const AttentionSpec& s, int max_rows, const DeviceInfo&) {
  return aligned(4 * static_cast<size_t>(max_rows) * s.heads * s.head_dim);
}

int axis_of_pair(const AttentionSpec& s, int i) {
  if (s.position_axes <= 1) return 0;
  if (s.axis_interleaved) return i % 3 > 0 && i < 3 * s.axis_sections[i % 3] ? i % 3 : 0;
  if (i < s.axis_sections[0]) return 0;
  return i < s.axis_sections[0] + s.axis_sections[1] ? 1 : 2;
}

// Cosines and sines of one row's rope.
struct Turn {
  alignas(64) float cosine[head_dim_max / 2], sine[head_dim_max / 2];

  void set(const AttentionSpec& s, const AttentionParams& p, int row) {
    for (int i = 0; i < s.rope_dims / 2; ++i) {
      const int64_t at = static_cast<int64_t>(axis_of_pair(s, i)) * p.batch.rows + row;
      const float angle = static_cast<float>(p.batch.positions[at]) * p.inverse_frequency[i];
      cosine[i] = std::cos(angle) * p.rope_amplitude;
      sine[i] = std::sin(angle) * p.rope_amplitude;
    }
  }

  void apply(const AttentionSpec& s, float* x) const {
    const int pairs = s.rope_dims / 2;
    int i = 0;
    for (; !s.rope_interleaved && i + lanes <= pairs; i += lanes) {
      const F a = load(x + i), b = load(x + i + pairs), c = load(cosine + i), n = load(sine + i);
      store(x + i, a * c - b * n);
      store(x + i + pairs, b * c + a * n);
    }
    for (; i < pairs; ++i) {
      float& first = x[s.rope_interleaved ? 2 * i : i];
      float& second = x[s.rope_interleaved ? 2 * i + 1 : i + pairs];
      const float a = first, b = second;
      first = a * cosine[i] - b * sine[i];
      second = b * cosine[i] + a * sine[i];
    }
  }
};

// The rotation of scalar.h: same order of additions.
HEARTH_INLINE void hadamard(float* x, int head_dim) {
  const int n = head_dim & -head_dim;
  const float norm = 1.0f / std::sqrt(static_cast<float>(n));
  for (int block = 0; block < head_dim; block += n) {
    float* b = x + block;
    for (int half = 1; half < n; half *= 2) {
      for (int i = 0; i < n; i += 2 * half) {
        int j = i;
        for (; j + lanes <= i + half; j += lanes) {
          const F u = load(b + j), v = load(b + j + half);
          store(b + j, u + v);
          store(b + j + half, u - v);
        }
        for (; j < i + half; ++j) {
          const float u = b[j], v = b[j + half];
          b[j] = u + v;
          b[j + half] = u - v;
        }
      }
    }
    for (int i = 0; i < n; ++i) b[i] *= norm;
  }
}

template <class X>
HEARTH_INLINE void read_head(const X* from, int head_dim, float* to) {
  for (int d = 0; d < head_dim; d += lanes) store(to + d, load(from + d));
}

void prepare_head(const AttentionSpec& s, const Turn& turn, const float* weight, float* x) {
  if (s.qk_norm) norm_row({NormKind::rms, s.qk_norm_epsilon, weight, nullptr}, x, s.head_dim, x);
  turn.apply(s, x);
  if (s.kv == KvFormat::int8) hadamard(x, s.head_dim);
}

// Token index of (slot, head) in a layer's pool.
HEARTH_INLINE int64_t pool_row(const AttentionSpec& s, int64_t block, int head, int offset) {
  return (block * s.kv_heads + head) * kv_block_tokens + offset;
}

void write_head(const AttentionSpec& s, void* pool, float* scales, int64_t row, const float* x) {
  const int64_t at = row * s.head_dim;
  switch (s.kv) {
    case KvFormat::f32: for (int d = 0; d < s.head_dim; d += lanes) store(static_cast<float*>(pool) + at + d, load(x + d)); break;
    case KvFormat::f16: for (int d = 0; d < s.head_dim; d += lanes) store(static_cast<Half*>(pool) + at + d, load(x + d)); break;
    case KvFormat::bf16: for (int d = 0; d < s.head_dim; d += lanes) store(static_cast<BFloat16*>(pool) + at + d, load(x + d)); break;
    case KvFormat::int8: {
      const Int8Scale by = int8_scale(largest_magnitude(x, s.head_dim));
      scales[row] = by.scale;
      quantise(x, s.head_dim, s.head_dim, by.inverse, static_cast<int8_t*>(pool) + at);
    }
  }
}

// A query as int16 values of int8 size in its own place, the scale in its last float (head_dim is at least 8).
HEARTH_INLINE void round_query(float* q, int head_dim) {
  const Int8Scale by = int8_scale(largest_magnitude(q, head_dim));
  alignas(64) int16_t rounded[head_dim_max];
  for (int d = 0; d < head_dim; d += lanes) store_u16(rounded + d, reinterpret_cast<U>(round_to_int(load(q + d) * by.inverse)) & 0xffffu);
  std::memcpy(q, rounded, 2 * static_cast<size_t>(head_dim));
  q[head_dim - 1] = by.scale;
}

// Head `part` of a row: a query to the workspace, or (from `heads` on) a KV head's key and value to the pool.
template <class X>
void prepare_part(const AttentionSpec& s, const AttentionParams& p, const Turn& turn, int row, int part, float* queries) {
  const X* qkv = static_cast<const X*>(p.qkv) + row * p.qkv_stride;
  const int dim = s.head_dim;
  if (part < s.heads) {
    float* q = queries + (static_cast<int64_t>(row) * s.heads + part) * dim;
    read_head(qkv + static_cast<int64_t>(part) * dim, dim, q);
    prepare_head(s, turn, p.q_norm, q);
    for (int d = 0; d < dim; d += lanes) store(q + d, load(q + d) * s.scale);
    if (s.int8_products) round_query(q, dim);
    return;
  }
  const int32_t slot = p.batch.kv_slot[row];
  if (slot < 0) return;
  alignas(64) float x[head_dim_max];
  const int64_t at = pool_row(s, slot / kv_block_tokens, part - s.heads, slot % kv_block_tokens);
  read_head(qkv + static_cast<int64_t>(part) * dim, dim, x);
  prepare_head(s, turn, p.k_norm, x);
  write_head(s, p.kv.k, p.kv.k_scale, at, x);
  read_head(qkv + static_cast<int64_t>(part + s.kv_heads) * dim, dim, x);
  write_head(s, p.kv.v, p.kv.v_scale, at, x);
}

void prepare(const AttentionSpec& s, const AttentionParams& p, float* queries, Range items) {
  Turn turn;
  const int parts = s.heads + s.kv_heads;
  int current = -1;
  for (int item = items.begin; item < items.end; ++item) {
    const int row = item / parts;
    if (row != current) turn.set(s, p, row);
    current = row;
    with_type(s.type, [&](auto* type) {
      prepare_part<std::remove_pointer_t<decltype(type)>>(s, p, turn, row, item % parts, queries);
    });
  }
}

// How a step's queries are cut into tiles.
struct Cut {
  int heads_per_tile, rows_per_tile;

  Cut(const AttentionSpec& s, const Batch& b, int workers) {
    const int group = s.heads / s.kv_heads;
    heads_per_tile = group < tile_queries ? group : tile_queries;
    // Few queries (decode) and many workers: smaller tiles, so that everyone has one.
    while (heads_per_tile > 1 && b.rows * s.kv_heads * ((group + heads_per_tile - 1) / heads_per_tile) < workers) {
      heads_per_tile = (heads_per_tile + 1) / 2;
    }
    rows_per_tile = b.max_rows > 1 && tile_queries / heads_per_tile > 1 ? tile_queries / heads_per_tile : 1;
  }
};

// body(first token, runs, their number, the next chunk's runs) for each chunk of tokens [first, last] of a sequence. Chunks start
// at multiples of chunk_tokens, so that a query's sums do not depend on the queries that share its tile (and so on the
// instruction set).
template <class T, class Body>
HEARTH_INLINE void for_each_chunk(const AttentionSpec& s, const AttentionParams& p, int sequence, int kv_head, int first, int last, Body&& body) {
  const int32_t* table = p.batch.block_table + static_cast<int64_t>(sequence) * p.batch.block_table_stride;
  auto find = [&](int begin, Run<T>* runs) {
    int count = 0;
    for (int token = begin; count < chunk_runs; token += run_tokens, ++count) {
      if (token > last) break;
      const int64_t row = pool_row(s, table[token / run_tokens], kv_head, 0);
      const int tokens = last - token + 1 < run_tokens ? last - token + 1 : run_tokens;
      runs[count] = {static_cast<const T*>(p.kv.k) + row * s.head_dim, static_cast<const T*>(p.kv.v) + row * s.head_dim,
                     sizeof(T) == 1 ? p.kv.k_scale + row : nullptr, sizeof(T) == 1 ? p.kv.v_scale + row : nullptr, tokens};
    }
    for (int rest = count; rest < chunk_runs; ++rest) runs[rest].count = 0;
    return count;
  };
  Run<T> runs[2][chunk_runs];
  int now = 0, begin = first / chunk_tokens * chunk_tokens;
  for (int count = find(begin, runs[now]); count > 0; begin += chunk_tokens, now ^= 1) {
    const int after = find(begin + chunk_tokens, runs[now ^ 1]);
    body(begin, runs[now], count, runs[now ^ 1]);
    count = after;
  }
}

// Rows [row, row + rows) of a sequence, query heads [head, head + heads) of one KV head.
struct Item { int sequence, row, rows, head, heads; };

// The item's queries, rows outermost, and the span of tokens they see together.
struct Span { int first, last; };
HEARTH_INLINE Span queries_of(const AttentionSpec& s, const AttentionParams& p, const float* queries, const Item& item, Query* to) {
  const Batch& b = p.batch;
  Span span{INT32_MAX, -1};
  for (int r = 0; r < item.rows; ++r) {
    const int last = b.context[item.sequence] - (b.row_begin[item.sequence + 1] - (item.row + r));
    const int first = s.window > 0 && last - s.window + 1 > 0 ? last - s.window + 1 : 0;
    for (int h = 0; h < item.heads; ++h) {
      to[r * item.heads + h] = {queries + (static_cast<int64_t>(item.row + r) * s.heads + item.head + h) * s.head_dim, first, last};
    }
    span = {first < span.first ? first : span.first, last > span.last ? last : span.last};
  }
  return span;
}

template <class T>
void attend(const AttentionSpec& s, const AttentionParams& p, const Item& item, Span span, Tile& t) {
  start(t);
  for (int m = 0; s.int8_products && m < t.queries; ++m) t.query_scale[m] = t.query[m].q[s.head_dim - 1];
  const int kv_head = item.head / (s.heads / s.kv_heads);
  for_each_chunk<T>(s, p, item.sequence, kv_head, span.first, span.last, [&](int begin, const Run<T>* runs, int count, const Run<T>* next) {
    if constexpr (sizeof(T) == 1) {
      if (s.int8_products) return attend_chunk_int8(t, begin, runs, count, next);
    }
    attend_chunk(t, begin, runs, count, next);
  });
}

template <class T, int V>
void attend(const AttentionSpec& s, const AttentionParams& p, const Item& item, Span span, LaneTile<V>& t) {
  const int kv_head = item.head / (s.heads / s.kv_heads);
  for_each_chunk<T>(s, p, item.sequence, kv_head, span.first, span.last,
                    [&](int begin, const Run<T>* runs, int count, const Run<T>*) { attend_chunk(t, begin, runs, count); });
  settle(t);
}

template <class AnyTile>
void attend_and_finish(const AttentionSpec& s, const AttentionParams& p, const Item& item, Span span, AnyTile& t) {
  switch (s.kv) {
    case KvFormat::f32: attend<float>(s, p, item, span, t); break;
    case KvFormat::f16: attend<Half>(s, p, item, span, t); break;
    case KvFormat::bf16: attend<BFloat16>(s, p, item, span, t); break;
    case KvFormat::int8: attend<int8_t>(s, p, item, span, t); break;
  }
  with_type(s.type, [&](auto* type) {
    using X = std::remove_pointer_t<decltype(type)>;
    for (int m = 0; m < t.queries; ++m) {
      const int64_t at = (item.row + m / item.heads) * p.out_stride + static_cast<int64_t>(item.head + m % item.heads) * s.head_dim;
      finish(t, m, static_cast<X*>(p.out) + at);
    }
  });
}

void run_tile(const AttentionSpec& s, const AttentionParams& p, const float* queries, const Item& item) {
  Tile t;
  t.queries = item.rows * item.heads;
  t.head_dim = s.head_dim;
  t.stride = s.head_dim;
  const Span span = queries_of(s, p, queries, item, t.query);
  attend_and_finish(s, p, item, span, t);
}

template <int V>
void run_lane_tile(const AttentionSpec& s, const AttentionParams& p, const float* queries, const Item& item) {
  LaneTile<V> t;
  Query query[V * lanes];
  t.queries = item.rows * item.heads;
  t.head_dim = s.head_dim;
  t.stride = s.head_dim;
  const Span span = queries_of(s, p, queries, item, query);
  start(t, query);
  attend_and_finish(s, p, item, span, t);
}

void run_tiles(const AttentionSpec& s, const AttentionParams& p, const float* queries, ThreadPool& pool, int worker) {
  const Cut cut(s, p.batch, pool.size());
  ThreadPool::Turns turns(pool, worker);
  const int group = s.heads / s.kv_heads;
  int number = 0;
  for (int sequence = 0; sequence < p.batch.sequences; ++sequence) {
    const int begin = p.batch.row_begin[sequence], end = p.batch.row_begin[sequence + 1];
    // Enough queries of one KV head to fill the lanes: not so in decode.
    const bool in_lanes = !s.int8_products && (end - begin) * group >= sum_lanes;
    const int lane_queries = (end - begin) * group > lanes ? 2 * lanes : lanes;
    const int heads_max = in_lanes ? (group < lane_queries ? group : lane_queries) : cut.heads_per_tile;
    const int rows_max = in_lanes ? lane_queries / heads_max : cut.rows_per_tile;
    for (int row = begin; row < end; row += rows_max) {
      const int rows = end - row < rows_max ? end - row : rows_max;
      for (int kv_head = 0; kv_head < s.kv_heads; ++kv_head) {
        for (int at = 0; at < group; at += heads_max, ++number) {
          if (!turns.take(number)) continue;
          const Item item{sequence, row, rows, kv_head * group + at, group - at < heads_max ? group - at : heads_max};
          if (!in_lanes) run_tile(s, p, queries, item);
          else if (item.rows * item.heads > lanes) run_lane_tile<2>(s, p, queries, item);
          else run_lane_tile<1>(s, p, queries, item);
        }
      }
    }
  }
}

void attention_run(const AttentionSpec& s, const AttentionParams& p, Stream& stream) {
  auto* queries = static_cast<float*>(p.workspace);
  ThreadPool& pool = device::pool_of(stream);
  pool.parallel([&](int worker, int size) {
    prepare(s, p, queries, share(p.batch.rows * (s.heads + s.kv_heads), worker, size));
    pool.barrier();
    run_tiles(s, p, queries, pool, worker);
  });
}

// ---- Vision ----

const char* vision_declines(const VisionAttentionSpec& s, const DeviceInfo& info) {
  if (const char* missing = isa_missing(info)) return missing;
  if (!is_float(s.type)) return "types are f32, f16 or bf16";
  if (s.head_dim % std::min(lanes, 8) != 0) return "head_dim is not a multiple of eight, or of the vector";
  if (s.head_dim > head_dim_max) return "head_dim is over 256";
  return nullptr;
}

// q, k and v as f32 [3][heads][rows][head_dim], then each worker's memory.
size_t vision_heads_bytes(const VisionAttentionSpec& s, int rows) { return aligned(4 * 3 * static_cast<size_t>(rows) * s.heads * s.head_dim); }
size_t vision_workspace(const VisionAttentionSpec& s, int max_rows, const DeviceInfo& info) {
#ifdef HEARTH_SEEN_PANELS
  return vision_heads_bytes(s, max_rows) + SeenScratch(s.head_dim).bytes * static_cast<size_t>(info.threads);
#else
  return vision_heads_bytes(s, max_rows);
#endif
}

// A head's rope in two dimensions.
void turn_vision_head(const VisionAttentionSpec& s, const VisionAttentionParams& p, int row, float* x) {
  const int half = s.head_dim / 2;
  const float* c = p.rope_cos + static_cast<int64_t>(row) * s.head_dim;
  const float* n = p.rope_sin + static_cast<int64_t>(row) * s.head_dim;
  for (int i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = a * c[i] - b * n[i];
    x[i + half] = b * c[i + half] + a * n[i + half];
  }
}

template <class X>
void prepare_vision_row(const VisionAttentionSpec& s, const VisionAttentionParams& p, int row, float* base) {
  const X* qkv = static_cast<const X*>(p.qkv) + row * p.qkv_stride;
  const int dim = s.head_dim;
  for (int part = 0; part < 3; ++part) {
    for (int head = 0; head < s.heads; ++head) {
      const X* from = qkv + (static_cast<int64_t>(part) * s.heads + head) * dim;
      float* to = base + ((static_cast<int64_t>(part) * s.heads + head) * p.rows + row) * dim;
      for (int d = 0; d < dim; d += lanes) {
        if (dim - d >= lanes) store(to + d, load(from + d));
        else store_some(to + d, load_some(from + d, dim - d), dim - d);
      }
      if (s.rope && part < 2) turn_vision_head(s, p, row, to);
      for (int d = 0; part == 0 && d < dim; ++d) to[d] *= s.scale;
    }
  }
}

#if defined(HEARTH_SEEN_PANELS) && HEARTH_LANES == 8
// Int8 products: q, k and v as int16 [3][heads][rows][head_dim] after their scales [3][heads][rows], in place of the floats.
struct RoundedRows {
  int16_t* q;
  float* scale;
  int64_t part, rows;
  RoundedRows(const VisionAttentionSpec& s, int count, uint8_t* workspace) : part(static_cast<int64_t>(s.heads) * count), rows(count) {
    scale = reinterpret_cast<float*>(workspace);
    q = reinterpret_cast<int16_t*>(workspace + aligned(4 * 3 * static_cast<size_t>(part)));
  }
  static bool fits(const VisionAttentionSpec& s) { return s.int8_products && s.head_dim % 2 == 0 && s.head_dim >= 16; }
};

template <class X>
void round_vision_row(const VisionAttentionSpec& s, const VisionAttentionParams& p, int row, const RoundedRows& to) {
  alignas(64) float x[head_dim_max];
  const X* qkv = static_cast<const X*>(p.qkv) + row * p.qkv_stride;
  for (int part = 0; part < 3; ++part) {
    for (int head = 0; head < s.heads; ++head) {
      read_head(qkv + (static_cast<int64_t>(part) * s.heads + head) * s.head_dim, s.head_dim, x);
      if (s.rope && part < 2) turn_vision_head(s, p, row, x);
      const Int8Scale by = int8_scale(largest_magnitude(x, s.head_dim));
      const int64_t at = part * to.part + head * to.rows + row;
      to.scale[at] = part == 0 ? by.scale * s.scale : by.scale;
      quantise_row(x, s.head_dim, by.inverse, to.q + at * s.head_dim, s.head_dim);
    }
  }
}

RoundedHead rounded_head(const VisionAttentionSpec& s, const RoundedRows& from, int head, int begin, int end) {
  const int64_t at = head * from.rows + begin, values = from.part * s.head_dim;
  const int16_t* q = from.q + at * s.head_dim;
  return {q, q + values, q + 2 * values, from.scale + at, from.scale + from.part + at, from.scale + 2 * from.part + at, s.head_dim, end - begin};
}
#endif

#ifdef HEARTH_SEEN_PANELS
// Rows [row, last) of segment [begin, end).
template <class X>
void vision_panel(const VisionAttentionSpec& s, const VisionAttentionParams& p, uint8_t* workspace, uint8_t* mine, int head, int begin, int end, int row, int last) {
  X* to = static_cast<X*>(p.out) + row * p.out_stride + static_cast<int64_t>(head) * s.head_dim;
#if HEARTH_LANES == 8
  if (RoundedRows::fits(s)) return RoundedPanel(rounded_head(s, RoundedRows(s, p.rows, workspace), head, begin, end), mine).run(row - begin, last - begin, to, p.out_stride);
#endif
  const int64_t part = static_cast<int64_t>(s.heads) * p.rows * s.head_dim;
  const float* q = reinterpret_cast<const float*>(workspace) + (static_cast<int64_t>(head) * p.rows + begin) * s.head_dim;
  SeenPanel({q, q + part, q + 2 * part, s.head_dim, end - begin}, mine).run(row - begin, last - begin, to, p.out_stride);
}

// Worker `worker`'s share of (head, segment, panel of rows).
void vision_share(const VisionAttentionSpec& s, const VisionAttentionParams& p, uint8_t* workspace, ThreadPool& pool, int worker) {
  ThreadPool::Turns turns(pool, worker);
  uint8_t* mine = workspace + vision_heads_bytes(s, p.rows) + SeenScratch(s.head_dim).bytes * static_cast<size_t>(worker);
  mine += -reinterpret_cast<uintptr_t>(mine) % 64;
  int item = 0;
  for (int head = 0; head < s.heads; ++head) {
    for (int segment = 0; segment < p.segments; ++segment) {
      const int begin = p.segment[segment], end = p.segment[segment + 1];
      // Panels are whole tiles, as many as keep every worker busy.
      const int wanted = (2 * pool.size() + s.heads * p.segments - 1) / (s.heads * p.segments), least = (end - begin + seen_rows - 1) / seen_rows;
      const int panels = wanted > least ? wanted : least;
      const int rows = ((end - begin + panels - 1) / panels + seen_tile - 1) / seen_tile * seen_tile;
      for (int row = begin; row < end; row += rows, ++item) {
        if (!turns.take(item)) continue;
        const int last = row + rows < end ? row + rows : end;
        with_type(s.type, [&](auto* type) {
          vision_panel<std::remove_pointer_t<decltype(type)>>(s, p, workspace, mine, head, begin, end, row, last);
        });
      }
    }
  }
}
#else
void vision_tile(const VisionAttentionSpec& s, const VisionAttentionParams& p, const float* base, int row, int rows, int head, int begin,
                 int end) {
  const int dim = s.head_dim;
  const int64_t part = static_cast<int64_t>(s.heads) * p.rows * dim, at = static_cast<int64_t>(head) * p.rows * dim;
  const float *q = base + at, *k = base + part + at, *v = base + 2 * part + at;
  Tile t;
  t.queries = rows;
  t.head_dim = dim;
  t.stride = dim;
  for (int r = 0; r < rows; ++r) t.query[r] = {q + static_cast<int64_t>(row + r) * dim, begin, end - 1};
  start(t);
  for (int token = begin; token < end; token += chunk_tokens) {
    const int count = end - token < chunk_tokens ? end - token : chunk_tokens;
    const Run<float> run{k + static_cast<int64_t>(token) * dim, v + static_cast<int64_t>(token) * dim, nullptr, nullptr, count};
    const Run<float> none{};
    attend_chunk(t, token, &run, 1, &none);
  }
  with_type(s.type, [&](auto* type) {
    using X = std::remove_pointer_t<decltype(type)>;
    for (int r = 0; r < rows; ++r) {
      finish(t, r, static_cast<X*>(p.out) + (row + r) * p.out_stride + static_cast<int64_t>(head) * dim);
    }
  });
}

void vision_share(const VisionAttentionSpec& s, const VisionAttentionParams& p, uint8_t* workspace, ThreadPool& pool, int worker) {
  ThreadPool::Turns turns(pool, worker);
  const auto* base = reinterpret_cast<const float*>(workspace);
  int item = 0;
  for (int head = 0; head < s.heads; ++head) {
    for (int segment = 0; segment < p.segments; ++segment) {
      const int begin = p.segment[segment], end = p.segment[segment + 1];
      for (int row = begin; row < end; row += tile_queries, ++item) {
        if (!turns.take(item)) continue;
        vision_tile(s, p, base, row, end - row < tile_queries ? end - row : tile_queries, head, begin, end);
      }
    }
  }
}
#endif

template <class X>
void prepare_vision(const VisionAttentionSpec& s, const VisionAttentionParams& p, int row, uint8_t* workspace) {
#if defined(HEARTH_SEEN_PANELS) && HEARTH_LANES == 8
  if (RoundedRows::fits(s)) return round_vision_row<X>(s, p, row, RoundedRows(s, p.rows, workspace));
#endif
  prepare_vision_row<X>(s, p, row, reinterpret_cast<float*>(workspace));
}

void vision_run(const VisionAttentionSpec& s, const VisionAttentionParams& p, Stream& stream) {
  auto* workspace = static_cast<uint8_t*>(p.workspace);
  ThreadPool& pool = device::pool_of(stream);
  pool.parallel([&](int worker, int size) {
    const Range mine = share(p.rows, worker, size);
    with_type(s.type, [&](auto* type) {
      using X = std::remove_pointer_t<decltype(type)>;
      for (int row = mine.begin; row < mine.end; ++row) prepare_vision<X>(s, p, row, workspace);
    });
    pool.barrier();
    vision_share(s, p, workspace, pool, worker);
  });
}

}  // namespace

extern const Kernel<AttentionSpec, AttentionParams> attention;
extern const Kernel<VisionAttentionSpec, VisionAttentionParams> vision_attention;
const Kernel<AttentionSpec, AttentionParams> attention{HEARTH_ISA_NAME, attention_declines, attention_run, attention_workspace};
const Kernel<VisionAttentionSpec, VisionAttentionParams> vision_attention{HEARTH_ISA_NAME, vision_declines, vision_run,
                                                                          vision_workspace};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
