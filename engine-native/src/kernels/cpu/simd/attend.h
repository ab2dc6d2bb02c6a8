// The inside of attention: a tile of queries that share keys and values, over runs of up to 16 tokens.
// Online softmax over chunks of 64 tokens (Milakov and Gimelshein 2018), sums in f32.
#pragma once

#include "kernels/cpu/simd/rows.h"
#include "kernels/cpu/simd/transpose.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

constexpr int run_tokens = ops::kv_block_tokens;
constexpr int chunk_runs = 4;
constexpr int chunk_tokens = chunk_runs * run_tokens;
constexpr int tile_queries = 8;
constexpr int head_dim_max = 256;

// Consecutive tokens in memory: keys and values with `stride` elements from token to token.
template <class T>
struct Run {
  const T* k;
  const T* v;
  const float* k_scale;  // int8 only
  const float* v_scale;
  int count;
};

// Brings a token's key or value to the L1 cache. A head's blocks lie apart in the pool, so the processor does not see a stream:
// while keys are met, the same chunk's values come, and while those are added up, the next chunk's keys.
template <class T>
HEARTH_INLINE void fetch_token(const T* from, int head_dim) {
  const char* line = reinterpret_cast<const char*>(from);
  for (int i = 0; i < head_dim * static_cast<int>(sizeof(T)); i += 64) __builtin_prefetch(line + i);
}

struct Query {
  const float* q;   // [head_dim], scaled; with int8 products int16 [head_dim] in its place, scale in the last float
  int first, last;  // tokens it sees
};

struct Tile {
  int queries, head_dim;
  int64_t stride;
  Query query[tile_queries];
  float best[tile_queries], total[tile_queries], shrink[tile_queries];
  alignas(64) float score[tile_queries][chunk_tokens];
  // int8 products: each query's scale, and a chunk's weights times V's scales as int8 values with their scale.
  float query_scale[tile_queries], weight_scale[tile_queries];
  alignas(64) int16_t weight[tile_queries][chunk_tokens];
  alignas(64) float out[tile_queries][head_dim_max];
};

HEARTH_INLINE void start(Tile& t) {
  for (int m = 0; m < t.queries; ++m) {
    t.best[m] = -INFINITY;
    t.total[m] = 0;
    for (int d = 0; d < t.head_dim; d += lanes) store(t.out[m] + d, F{});
  }
}

// score[m .. m + M)[at + i] = q . k for the tokens of a run.
template <int M, class T>
HEARTH_INLINE void score_run(Tile& t, int m, const Run<T>& run, int at) {
  for (int i = 0; i < run.count; ++i) {
    const T* k = run.k + i * t.stride;
    if (m == 0) fetch_token(run.v + i * t.stride, t.head_dim);
    F dot[M][parts] = {};
    for (int d = 0; d < t.head_dim; d += sum_lanes) {
#pragma GCC unroll 4
      for (int part = 0; part < parts; ++part) {
        if (parts > 1 && d + part * lanes >= t.head_dim) break;
        const F key = load(k + d + part * lanes);
        for (int j = 0; j < M; ++j) dot[j][part] = fused(load(t.query[m + j].q + d + part * lanes), key, dot[j][part]);
      }
    }
    for (int j = 0; j < M; ++j) {
      float s = sum_parts(dot[j]);
      if constexpr (sizeof(T) == 1) s *= run.k_scale[i];
      t.score[m + j][at + i] = s;
    }
  }
}

// Tokens [begin, begin + count) of the chunk: mask, exponentials, and the factor the sums so far shrink by.
HEARTH_INLINE void soften(Tile& t, int begin, int count) {
  const int padded = (count + sum_lanes - 1) / sum_lanes * sum_lanes;
  for (int m = 0; m < t.queries; ++m) {
    float* score = t.score[m];
    const Query& q = t.query[m];
    for (int i = 0; i < count && begin + i < q.first; ++i) score[i] = -INFINITY;
    for (int i = q.last - begin + 1 > 0 ? q.last - begin + 1 : 0; i < padded; ++i) score[i] = -INFINITY;
    for (int i = count; i < padded; ++i) score[i] = -INFINITY;
    F high = load(score);
    for (int i = lanes; i < padded; i += lanes) high = maximum(high, load(score + i));
    const float best = largest(high) > t.best[m] ? largest(high) : t.best[m];
    if (best == -INFINITY) {  // nothing seen yet
      t.shrink[m] = 1;
      for (int i = 0; i < padded; i += lanes) store(score + i, F{});
      continue;
    }
    t.shrink[m] = t.best[m] == best ? 1.0f : exponential(splat(t.best[m] - best))[0];
    t.best[m] = best;
    F total[parts] = {};
    for (int i = 0; i < padded; i += sum_lanes) {
      for (int part = 0; part < parts; ++part) {
        const F e = exponential(load(score + i + part * lanes) - best);
        store(score + i + part * lanes, e);
        total[part] += e;
      }
    }
    t.total[m] = t.total[m] * t.shrink[m] + sum_parts(total);
  }
}

// out[m .. m + M) = out * shrink + score . v over the runs of a chunk, D vectors of the head at a time.
template <int M, int D, class T>
HEARTH_INLINE void gather_values(Tile& t, int m, int d, const Run<T>* runs, int count, const Run<T>* next) {
  F sum[M][D];
  for (int j = 0; j < M; ++j) {
    for (int v = 0; v < D; ++v) sum[j][v] = load(t.out[m + j] + d + v * lanes) * t.shrink[m + j];
  }
  int at = 0;
  for (int r = 0; r < count; ++r) {
    for (int i = 0; i < runs[r].count; ++i, ++at) {
      if (m == 0 && d == 0 && i < next[r].count) fetch_token(next[r].k + i * t.stride, t.head_dim);
      F value[D];
      for (int v = 0; v < D; ++v) value[v] = load(runs[r].v + i * t.stride + d + v * lanes);
      for (int j = 0; j < M; ++j) {
        for (int v = 0; v < D; ++v) sum[j][v] = fused(value[v], t.score[m + j][at], sum[j][v]);
      }
    }
  }
  for (int j = 0; j < M; ++j) {
    for (int v = 0; v < D; ++v) store(t.out[m + j] + d + v * lanes, sum[j][v]);
  }
}

template <int M, class T>
HEARTH_INLINE void gather_all(Tile& t, int m, const Run<T>* runs, int count, const Run<T>* next) {
  int d = 0;
  for (; d + 2 * lanes <= t.head_dim; d += 2 * lanes) gather_values<M, 2>(t, m, d, runs, count, next);
  if (d < t.head_dim) gather_values<M, 1>(t, m, d, runs, count, next);
}

// One chunk: tokens [begin, begin + sum of the runs' counts), at most chunk_tokens. `next`: the chunk's after it, none of no tokens.
template <class T>
__attribute__((noinline)) void attend_chunk(Tile& t, int begin, const Run<T>* runs, int count, const Run<T>* next) {
  int tokens = 0;
  for (int r = 0; r < count; ++r) {
    int m = 0;
    for (; m + 4 <= t.queries; m += 4) score_run<4>(t, m, runs[r], tokens);
    for (; m + 2 <= t.queries; m += 2) score_run<2>(t, m, runs[r], tokens);
    if (m < t.queries) score_run<1>(t, m, runs[r], tokens);
    tokens += runs[r].count;
  }
  soften(t, begin, tokens);
  if constexpr (sizeof(T) == 1) {
    for (int m = 0; m < t.queries; ++m) {
      int at = 0;
      for (int r = 0; r < count; ++r) {
        for (int i = 0; i < runs[r].count; ++i) t.score[m][at++] *= runs[r].v_scale[i];
      }
    }
  }
  int m = 0;
  for (; m + 4 <= t.queries; m += 4) gather_all<4>(t, m, runs, count, next);
  for (; m + 2 <= t.queries; m += 2) gather_all<2>(t, m, runs, count, next);
  if (m < t.queries) gather_all<1>(t, m, runs, count, next);
}

// ---- Many rows: queries in lanes ----
//
// A lane is one query, so neither product needs a sum across lanes; keys and values are widened once for all of them. With
// two vectors of queries an element of a key or value that was fetched is used twice: the multipliers are the limit then,
// not the loads.

constexpr int wide_pitch = head_dim_max + 16;  // constant, so that a token's address is a base and a displacement

// What lanes know of their queries, and what they have added up: out [head_dim][V * lanes], the weights of a chunk [its tokens][V * lanes].
template <int V>  // vectors of queries
struct Lanes {
  int queries, head_dim;
  int seen_from, seen_to;  // tokens that every query sees, lanes without one aside
  I first[V], last[V];     // tokens each query sees; an empty lane sees none
  F best[V], total[V], shrink[V];
  float *out, *weight;
};

template <int V>
struct LaneTile : Lanes<V> {
  int64_t stride;
  alignas(64) float q[head_dim_max][V * lanes], sums[head_dim_max][V * lanes];
  alignas(64) float weights[chunk_tokens][V * lanes];
  alignas(64) float wide[chunk_tokens * wide_pitch];  // keys of a run, or values of a chunk
};

template <int V>
HEARTH_INLINE void start(Lanes<V>& t, const Query* queries) {
  t.seen_from = 0, t.seen_to = INT32_MAX;
  for (int m = 0; m < V * lanes; ++m) {
    const bool used = m < t.queries;
    t.first[m / lanes][m % lanes] = used ? queries[m].first : 0;
    t.last[m / lanes][m % lanes] = used ? queries[m].last : -1;
    if (!used) continue;
    t.seen_from = queries[m].first > t.seen_from ? queries[m].first : t.seen_from;
    t.seen_to = queries[m].last < t.seen_to ? queries[m].last : t.seen_to;
  }
  for (int v = 0; v < V; ++v) t.best[v] = splat(-INFINITY), t.total[v] = F{};
  for (int i = 0; i < t.head_dim * V; ++i) store(t.out + i * lanes, F{});
}

template <int V>
HEARTH_INLINE void start(LaneTile<V>& t, const Query* queries) {
  static const float none[head_dim_max] = {};
  t.out = t.sums[0], t.weight = t.weights[0];
  start(static_cast<Lanes<V>&>(t), queries);
  for (int m = 0; m < V * lanes; m += square) {
    const float* rows[square];
    for (int i = 0; i < square; ++i) rows[i] = m + i < t.queries ? queries[m + i].q : none;
    for (int d = 0; d < t.head_dim; d += square) transpose_square(rows, d, t.q[d] + m, V * lanes);
  }
}

template <int V, class T>
HEARTH_INLINE void widen_run(LaneTile<V>& t, const T* from, const float* scale, int count, float* to) {
  const int dim = t.head_dim;
  const int64_t stride = t.stride;
  for (int i = 0; i < count; ++i, from += stride, to += wide_pitch) {
    for (int d = 0; d < dim; d += lanes) {
      F x = load(from + d);
      if constexpr (sizeof(T) == 1) x *= scale[i];
      store(to + d, x);
    }
  }
}

// weight[at + i] = q . k of N widened tokens.
template <int N, int V>
HEARTH_INLINE void score_lanes(LaneTile<V>& t, const float* key, int at) {
  F dot[V][N] = {};
  const int dim = t.head_dim;
  const float* q = t.q[0];
  for (int d = 0; d < dim; ++d, q += V * lanes, ++key) {
    F query[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) query[v] = load(q + v * lanes);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      const F k = splat(key[i * wide_pitch]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) dot[v][i] = fused(query[v], k, dot[v][i]);
    }
  }
  for (int i = 0; i < N; ++i) {
    for (int v = 0; v < V; ++v) store(t.weights[at + i] + v * lanes, dot[v][i]);
  }
}

// out[d .. d + N) = out * shrink + weight . v of the chunk's `count` widened tokens.
template <int N, int V>
HEARTH_INLINE void gather_lanes(LaneTile<V>& t, int d, int count) {
  F sum[V][N];
  for (int i = 0; i < N; ++i) {
    for (int v = 0; v < V; ++v) sum[v][i] = load(t.sums[d + i] + v * lanes) * t.shrink[v];
  }
  const float *value = t.wide + d, *weights = t.weights[0];
  for (int token = 0; token < count; ++token, value += wide_pitch, weights += V * lanes) {
    F weight[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) weight[v] = load(weights + v * lanes);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      const F x = splat(value[i]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[v][i] = fused(weight[v], x, sum[v][i]);
    }
  }
  for (int i = 0; i < N; ++i) {
    for (int v = 0; v < V; ++v) store(t.sums[d + i] + v * lanes, sum[v][i]);
  }
}

// Scores of tokens that a query does not see become -inf.
template <int V>
HEARTH_INLINE void mask_lanes(Lanes<V>& t, int v, int begin, int count) {
  for (int i = 0; i < count; ++i) {
    const I token = splat(begin + i);
    float* score = t.weight + (i * V + v) * lanes;
    store(score, select((token > t.last[v]) | (token < t.first[v]), splat(-INFINITY), load(score)));
  }
}

// Masks, exponentials and sums of tokens [begin, begin + count), and the factor the sums so far shrink by.
template <int V>
HEARTH_INLINE void soften(Lanes<V>& t, int begin, int count) {
  const bool all_seen = t.queries == V * lanes && begin >= t.seen_from && begin + count - 1 <= t.seen_to;
  for (int v = 0; v < V; ++v) {
    if (!all_seen) mask_lanes(t, v, begin, count);
    F high = t.best[v];
    for (int i = 0; i < count; ++i) high = maximum(high, load(t.weight + (i * V + v) * lanes));
    const F base = select(high == -INFINITY, F{}, high);  // nothing seen yet: all weights 0
    t.shrink[v] = exponential(t.best[v] - base);
    F total = t.total[v] * t.shrink[v];
    for (int i = 0; i < count; ++i) {
      const F weight = exponential(load(t.weight + (i * V + v) * lanes) - base);
      store(t.weight + (i * V + v) * lanes, weight);
      total += weight;
    }
    t.best[v] = high;
    t.total[v] = total;
  }
}

// One chunk: all of its runs but the last are whole.
template <class T, int V>
__attribute__((noinline)) void attend_chunk(LaneTile<V>& t, int begin, const Run<T>* runs, int count) {
  constexpr int step = (HEARTH_LANES == 16 ? 16 : 8) / V;  // sums that fit the registers
  int tokens = 0;
  for (int r = 0; r < count; ++r) {
    widen_run(t, runs[r].k, runs[r].k_scale, runs[r].count, t.wide);
    // Tokens after an incomplete run's last are masked, whatever they give.
    for (int i = 0; i < runs[r].count; i += step) score_lanes<step>(t, t.wide + i * wide_pitch, r * run_tokens + i);
    tokens += runs[r].count;
  }
  soften(t, begin, tokens);
  for (int r = 0; r < count; ++r) widen_run(t, runs[r].v, runs[r].v_scale, runs[r].count, t.wide + r * run_tokens * wide_pitch);
  int d = 0;
  for (; d + step <= t.head_dim; d += step) gather_lanes<step>(t, d, tokens);
  for (; d < t.head_dim; d += 4) gather_lanes<4>(t, d, tokens);
}

// The sums over the weights' totals, as rows [queries][head_dim].
template <int V>
HEARTH_INLINE void settle(Lanes<V>& t, float* rows) {
  for (int v = 0; v < V; ++v) {
    const F factor = select(t.total[v] > F{}, 1.0f / t.total[v], F{});
    for (int d = 0; d < t.head_dim; ++d) store(t.out + (d * V + v) * lanes, load(t.out + (d * V + v) * lanes) * factor);
  }
  for (int d = 0; d < t.head_dim; d += square) {
    const float* columns[square];
    for (int i = 0; i < square; ++i) columns[i] = t.out + (d + i) * V * lanes;
    for (int m = 0; m < t.queries; m += square) transpose_square(columns, m, rows + m * t.head_dim + d, t.head_dim);
  }
}

template <int V, class O>
HEARTH_INLINE void finish(LaneTile<V>& t, int m, O* out) {
  for (int d = 0; d < t.head_dim; d += lanes) store(out + d, load(t.q[0] + m * t.head_dim + d));
}

// ---- Int8 products: exact sums in int32, two inputs (or two tokens) a lane ----

template <int M>
HEARTH_INLINE void score_run_int8(Tile& t, int m, const Run<int8_t>& run, int at) {
  for (int i = 0; i < run.count; ++i) {
    const int8_t* k = run.k + i * t.stride;
    if (m == 0) fetch_token(run.v + i * t.stride, t.head_dim);
    I dot[M] = {};
    for (int d = 0; d < t.head_dim; d += 2 * lanes) {
      const I key = widen_pairs(k + d);
      for (int j = 0; j < M; ++j) dot[j] += multiply_pairs(load_i32(reinterpret_cast<const int16_t*>(t.query[m + j].q) + d), key);
    }
    for (int j = 0; j < M; ++j) t.score[m + j][at + i] = static_cast<float>(sum(dot[j])) * (t.query_scale[m + j] * run.k_scale[i]);
  }
}

// The chunk's weights times V's scales, rounded.
HEARTH_INLINE void round_weights(Tile& t, const Run<int8_t>* runs, int count) {
  for (int m = 0; m < t.queries; ++m) {
    alignas(64) float scaled[chunk_tokens] = {};
    for (int r = 0; r < count; ++r) {
      for (int i = 0; i < runs[r].count; ++i) {
        // A masked token's scale may be anything.
        const float weight = t.score[m][r * run_tokens + i];
        scaled[r * run_tokens + i] = weight > 0 ? weight * runs[r].v_scale[i] : 0.0f;
      }
    }
    const Int8Scale by = int8_scale(largest_magnitude(scaled, chunk_tokens));
    t.weight_scale[m] = by.scale;
    for (int i = 0; i < chunk_tokens; i += lanes) store_u16(t.weight[m] + i, reinterpret_cast<U>(round_to_int(load(scaled + i) * by.inverse)) & 0xffffu);
  }
}

template <int M>
HEARTH_INLINE void gather_values_int8(Tile& t, int m, int d, const Run<int8_t>* runs, int count, const Run<int8_t>* next) {
  I dot[M] = {};
  for (int r = 0; r < count; ++r) {
    for (int i = 0; i < runs[r].count; i += 2) {
      // The token after an odd last one has weight 0.
      const int8_t* v = runs[r].v + i * t.stride + d;
      if (m == 0 && d == 0 && i < next[r].count) fetch_token(next[r].k + i * t.stride, t.head_dim), fetch_token(next[r].k + (i + 1) * t.stride, t.head_dim);
      const I pair = zip_pairs(v, v + t.stride);
      for (int j = 0; j < M; ++j) {
        int32_t weights;
        std::memcpy(&weights, t.weight[m + j] + r * run_tokens + i, 4);
        dot[j] += multiply_pairs(splat(weights), pair);
      }
    }
  }
  for (int j = 0; j < M; ++j) {
    float* out = t.out[m + j] + d;
    store(out, fused(load(out), t.shrink[m + j], to_f32(dot[j]) * t.weight_scale[m + j]));
  }
}

// One chunk from a multiple of chunk_tokens on.
[[maybe_unused]] __attribute__((noinline)) static void attend_chunk_int8(Tile& t, int begin, const Run<int8_t>* runs, int count, const Run<int8_t>* next) {
  int tokens = 0;
  for (int r = 0; r < count; ++r) {
    int m = 0;
    for (; m + 4 <= t.queries; m += 4) score_run_int8<4>(t, m, runs[r], tokens);
    for (; m < t.queries; ++m) score_run_int8<1>(t, m, runs[r], tokens);
    tokens += runs[r].count;
  }
  soften(t, begin, tokens);
  round_weights(t, runs, count);
  for (int d = 0; d < t.head_dim; d += lanes) {
    int m = 0;
    for (; m + 4 <= t.queries; m += 4) gather_values_int8<4>(t, m, d, runs, count, next);
    for (; m < t.queries; ++m) gather_values_int8<1>(t, m, d, runs, count, next);
  }
}

template <class O>
HEARTH_INLINE void finish(const Tile& t, int m, O* out) {
  const float factor = t.total[m] > 0 ? 1.0f / t.total[m] : 0.0f;
  for (int d = 0; d < t.head_dim; d += lanes) store(out + d, load(t.out[m] + d) * factor);
}

}  // namespace hearth::kernels::cpu::HEARTH_ISA
