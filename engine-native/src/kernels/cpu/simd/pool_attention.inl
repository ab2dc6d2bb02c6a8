// Attention over the paged KV pool, in vectors. Included by one file a set, which names it (HEARTH_ATTENTION_NAME), and says how it
// multiplies in fixed point (HEARTH_FIXED_PRODUCTS) and whether it is for that alone (HEARTH_FIXED_ONLY).
//
// Two phases with one barrier. First q/k norm, rope and the KV write, shared out by (row, head). Then items of queries that share
// a KV head (its query heads, times rows of a prefill), dealt to the workers in turn, since later rows see more tokens than
// earlier ones: up to eight queries one by one, more in lanes, a prompt's rows in fixed point where the spec allows it.
#include "device/cpu_stream.h"
#include "kernels/cpu/simd/isa.h"
#include "kernels/cpu/simd/rows.h"

namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {

using device::DeviceInfo;
using device::Stream;
using namespace ops;
using FixedProducts = HEARTH_FIXED_PRODUCTS;

const char* attention_declines(const AttentionSpec& s, const DeviceInfo& info) {
  if (const char* missing = isa_missing(info)) return missing;
  if (HEARTH_FIXED_ONLY && !s.fixed_point) return "gains nothing without products in fixed point";
  if (!is_float(s.type)) return "types are f32, f16 or bf16";
  if (s.head_dim % lanes != 0) return "head_dim is not a multiple of the vector";
  if (s.head_dim > head_dim_max) return "head_dim is over 256";
  if (s.int8_products && s.kv != KvFormat::int8) return "int8 products need int8 K and V";
  if (s.int8_products && s.head_dim % (2 * lanes) != 0) return "int8 products need head_dim in pairs of vectors";
  if (s.kv_heads <= 0 || s.heads % s.kv_heads != 0) return "kv_heads must divide heads";
  if (s.rope_dims % 2 != 0 || s.rope_dims > s.head_dim) return "rope_dims must be even and at most head_dim";
  return nullptr;
}

// The step's queries, then each worker's memory for products in fixed point.
size_t query_bytes(const AttentionSpec& s, int rows) { return aligned(4 * static_cast<size_t>(rows) * s.heads * s.head_dim); }
bool takes_fixed_point(const AttentionSpec& s) { return fixed_gains && s.fixed_point && !s.int8_products && s.head_dim % fixed_head_step == 0; }
size_t worker_bytes(const AttentionSpec& s) { return takes_fixed_point(s) ? aligned(FixedMemory<FixedProducts>(s.head_dim).bytes()) : 0; }
size_t attention_workspace(const AttentionSpec& s, int max_rows, const DeviceInfo& info) {
  return query_bytes(s, max_rows) + worker_bytes(s) * static_cast<size_t>(info.threads);
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

// A step's rows of one sequence: of its prompt, up to `split`, and behind it. Whether a row is rounded follows from its place in the
// sequence alone, so that a prompt that is read in pieces, or whose beginning is cached, gives the same text.
struct Parts {
  int begin, split, end;

  Parts(const AttentionSpec& s, const Batch& b, int sequence) : begin(b.row_begin[sequence]), split(begin), end(b.row_begin[sequence + 1]) {
    if (!takes_fixed_point(s) || b.host.prompt == nullptr) return;
    const int prompt = begin + b.host.prompt[sequence] - (b.context[sequence] - (end - begin));
    split = prompt < begin ? begin : prompt < end ? prompt : end;
  }
};

// How `rows_here` rows of a sequence are cut into items.
struct Cut {
  enum class Form { few, lanes, fixed } form;
  int heads, rows;      // of an item
  int tile_rows;        // fixed: of each of its tiles

  Cut(const AttentionSpec& s, const Batch& b, int rows_here, bool fixed, int workers) {
    const int group = s.heads / s.kv_heads;
    const auto take = [&](Form as, int queries) {
      form = as;
      heads = group < queries ? group : queries;
      tile_rows = rows = queries / heads;
    };
    if (fixed) {
      take(Form::fixed, fixed_lanes);
      // As many tiles a panel as leave each worker four panels, so that all are busy to the end.
      const int panels = (rows_here + rows - 1) / rows * s.kv_heads * ((group + heads - 1) / heads), tiles = panels / (4 * workers);
      rows *= tiles < 1 ? 1 : tiles > fixed_tiles_max ? fixed_tiles_max : tiles;
    } else if (!s.int8_products && rows_here * group >= sum_lanes) {  // enough queries of one KV head to fill the lanes: not so in decode
      take(Form::lanes, rows_here * group > lanes ? 2 * lanes : lanes);
    } else {
      take(Form::few, tile_queries);
      // Few queries (decode) and many workers: smaller tiles, so that everyone has one.
      while (heads > 1 && b.rows * s.kv_heads * ((group + heads - 1) / heads) < workers) heads = (heads + 1) / 2;
      rows = b.max_rows > 1 && tile_queries / heads > 1 ? tile_queries / heads : 1;
    }
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
  settle(t, t.q[0]);
}

// f(a null pointer to the type of the pool's keys and values).
template <class F>
void with_kv_type(KvFormat kv, F&& f) {
  switch (kv) {
    case KvFormat::f32: return f(static_cast<float*>(nullptr));
    case KvFormat::f16: return f(static_cast<Half*>(nullptr));
    case KvFormat::bf16: return f(static_cast<BFloat16*>(nullptr));
    case KvFormat::int8: return f(static_cast<int8_t*>(nullptr));
  }
}

// write(query, where its result goes) for each of the item's.
template <class Write>
void write_results(const AttentionSpec& s, const AttentionParams& p, const Item& item, Write&& write) {
  with_type(s.type, [&](auto* type) {
    using X = std::remove_pointer_t<decltype(type)>;
    for (int m = 0; m < item.rows * item.heads; ++m) {
      const int64_t at = (item.row + m / item.heads) * p.out_stride + static_cast<int64_t>(item.head + m % item.heads) * s.head_dim;
      write(m, static_cast<X*>(p.out) + at);
    }
  });
}

template <class AnyTile>
void attend_and_finish(const AttentionSpec& s, const AttentionParams& p, const Item& item, Span span, AnyTile& t) {
  with_kv_type(s.kv, [&](auto* type) { attend<std::remove_pointer_t<decltype(type)>>(s, p, item, span, t); });
  write_results(s, p, item, [&](int m, auto* out) { finish(t, m, out); });
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

// The item's rows in tiles of `rows_max` of them.
template <class T>
void run_fixed_panel(const AttentionSpec& s, const AttentionParams& p, const float* queries, const Item& item, int rows_max, uint8_t* memory) {
  FixedPanel<FixedProducts> panel(s.head_dim, sizeof(T) == 1, memory);
  Span seen{INT32_MAX, -1};
  int tiles = 0;
  const auto part = [&](int tile) {
    const int row = tile * rows_max, rows = item.rows - row < rows_max ? item.rows - row : rows_max;
    return Item{item.sequence, item.row + row, rows, item.head, item.heads};
  };
  for (; tiles * rows_max < item.rows; ++tiles) {
    Query query[fixed_lanes];
    const Item tile = part(tiles);
    const Span span = queries_of(s, p, queries, tile, query);
    panel.start(tiles, tile.rows * tile.heads, query);
    seen = {span.first < seen.first ? span.first : seen.first, span.last > seen.last ? span.last : seen.last};
  }
  const int kv_head = item.head / (s.heads / s.kv_heads);
  for_each_chunk<T>(s, p, item.sequence, kv_head, seen.first, seen.last, [&](int begin, const Run<T>* runs, int count, const Run<T>*) {
    panel.attend(begin, seen.first, runs, count, s.head_dim, tiles);
  });
  for (int i = 0; i < tiles; ++i) {
    const Item tile = part(i);
    const float* rows = panel.result(i);
    write_results(s, p, tile, [&](int m, auto* out) {
      for (int d = 0; d < s.head_dim; d += lanes) store(out + d, load(rows + m * s.head_dim + d));
    });
  }
}

void run_item(const AttentionSpec& s, const AttentionParams& p, const float* queries, const Cut& cut, const Item& item, uint8_t* memory) {
  if (cut.form == Cut::Form::fixed) {
    with_kv_type(s.kv, [&](auto* type) { run_fixed_panel<std::remove_pointer_t<decltype(type)>>(s, p, queries, item, cut.tile_rows, memory); });
  } else if (cut.form == Cut::Form::few) {
    run_tile(s, p, queries, item);
  } else if (item.rows * item.heads > lanes) {
    run_lane_tile<2>(s, p, queries, item);
  } else {
    run_lane_tile<1>(s, p, queries, item);
  }
}

void run_items(const AttentionSpec& s, const AttentionParams& p, ThreadPool& pool, int worker) {
  ThreadPool::Turns turns(pool, worker);
  const auto* queries = static_cast<const float*>(p.workspace);
  uint8_t* memory = static_cast<uint8_t*>(p.workspace) + query_bytes(s, p.batch.rows) + worker_bytes(s) * static_cast<size_t>(worker);
  const int group = s.heads / s.kv_heads;
  int number = 0;
  for (int sequence = 0; sequence < p.batch.sequences; ++sequence) {
    const Parts parts(s, p.batch, sequence);
    const auto run_rows = [&](int begin, int end, bool fixed) {
      const Cut cut(s, p.batch, end - begin, fixed, pool.size());
      for (int row = begin; row < end; row += cut.rows) {
        const int rows = end - row < cut.rows ? end - row : cut.rows;
        for (int kv_head = 0; kv_head < s.kv_heads; ++kv_head) {
          for (int at = 0; at < group; at += cut.heads, ++number) {
            if (!turns.take(number)) continue;
            run_item(s, p, queries, cut, {sequence, row, rows, kv_head * group + at, group - at < cut.heads ? group - at : cut.heads}, memory);
          }
        }
      }
    };
    run_rows(parts.begin, parts.split, true);
    run_rows(parts.split, parts.end, false);
  }
}

void attention_run(const AttentionSpec& s, const AttentionParams& p, Stream& stream) {
  ThreadPool& pool = device::pool_of(stream);
  pool.parallel([&](int worker, int size) {
    prepare(s, p, static_cast<float*>(p.workspace), share(p.batch.rows * (s.heads + s.kv_heads), worker, size));
    pool.barrier();
    run_items(s, p, pool, worker);
  });
}

}  // namespace

extern const Kernel<AttentionSpec, AttentionParams> attention;
const Kernel<AttentionSpec, AttentionParams> attention{HEARTH_ATTENTION_NAME, attention_declines, attention_run, attention_workspace};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
