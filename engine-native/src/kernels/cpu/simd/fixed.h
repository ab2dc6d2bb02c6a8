// Attention of a prompt's rows in fixed point (AttentionSpec::fixed_point): queries in lanes as in LaneTile, both products in
// whole numbers of 16 bits.
//
// Queries and keys are rotated, so that no element stands out of its head, and rounded with a scale a row; values with a scale a
// token; a chunk's weights times those scales with a scale a query. Magnitudes are limited so that a sum of products fits 32 bits:
// it is exact in whatever order, so every instruction set gives the same bits. A chunk of keys and values is rounded once for all
// tiles of a panel.
#pragma once

#include "kernels/cpu/simd/attend.h"
#include "kernels/cpu/simd/rotate.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

constexpr int fixed_lanes = 2 * lanes;  // queries of a tile
constexpr int fixed_tiles_max = 16;     // of a panel
constexpr int fixed_head_step = 16;     // of head_dim, in every set: other heads are multiplied exactly
static_assert(fixed_head_step % (2 * square) == 0, "pairs are turned in whole squares");
// All sets of a machine round or none, since turning one off changes no text. NEON has no product of pairs: 8 take it four instructions,
// and floats two.
#if defined(__x86_64__)
constexpr bool fixed_gains = true;
#else
constexpr bool fixed_gains = false;
#endif

// The largest magnitude of two factors of which `count` products add up within 32 bits.
HEARTH_INLINE int fixed_limit(int count) { return static_cast<int>(std::sqrt(2147483647.0 / count)); }

struct FixedScale { float scale, inverse; };
HEARTH_INLINE FixedScale fixed_scale(float largest, int limit) {
  if (!(largest > 1e-36f)) return {0.0f, 0.0f};
  return {largest / static_cast<float>(limit), static_cast<float>(limit) / largest};
}

// x [n] as int16 of at most `limit`; returns their scale.
HEARTH_INLINE float round_row(const float* x, int n, int limit, int16_t* to) {
  const FixedScale by = fixed_scale(largest_magnitude(x, n), limit);
  for (int d = 0; d < n; d += lanes) store_u16(to + d, reinterpret_cast<U>(round_to_int(load(x + d) * by.inverse)) & 0xffffu);
  return by.scale;
}

// 2^x to 4e-6 of it, for x of at most 0; 2^-60 from there on down, for -inf too: nothing beside 1, and times a scale still no
// denormal number, which would take a hundred times as long.
HEARTH_INLINE F exponential2(F x) {
  x = maximum(x, splat(-60.0f));
#if HEARTH_LANES == 16
  const F whole = reinterpret_cast<F>(_mm512_roundscale_ps(reinterpret_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  const F shifted = x + 12582912.0f;  // whose last bit is worth one
  const F whole = shifted - 12582912.0f;
#endif
  const F f = x - whole;
  F p = fused(f, 0.0095828520f, 0.055906426f);
  p = fused(p, f, 0.24024099f);
  p = fused(p, f, 0.69312418f);
  p = fused(p, f, 1.0f);
#if HEARTH_LANES == 16
  return reinterpret_cast<F>(_mm512_scalef_ps(reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(whole)));
#else
  return reinterpret_cast<F>(reinterpret_cast<U>(p) + (reinterpret_cast<U>(shifted) << 23));
#endif
}

// Products of int16 in pairs: sums of left [rows][pairs] * right [pairs][fixed_lanes], a pair of inputs a word. Other sets of instructions
// may hold both sides in a form of their own, in the same memory: to_left and to_right bring them there. `rows` is a multiple of 16 or of the vector.
struct PairProducts {
  struct Setting {};  // of a worker while it multiplies
  static int padded(int inputs) { return (inputs + 1) / 2 * 2; }
  static void to_left(int32_t*, int, int) {}
  static void to_right(int32_t*, int) {}

  HEARTH_INLINE I add_pairs(I sum, I a, I b) {
#if defined(__AVX512VNNI__)
    return reinterpret_cast<I>(_mm512_dpwssd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVXVNNI__)
    return reinterpret_cast<I>(_mm256_dpwssd_avx_epi32(reinterpret_cast<__m256i>(sum), reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
    return sum + multiply_pairs(a, b);
#endif
  }

  // emit(row, vector of queries, sums) of every row.
  template <class Emit>
  HEARTH_INLINE void multiply(const int32_t* left, const int32_t* right, int rows, int pairs, Emit&& emit) {
    constexpr int step = HEARTH_LANES == 16 ? 8 : 4;  // rows whose sums fit the registers
    for (int row = 0; row < rows; row += step, left += step * pairs) {
      I sum[step][2] = {};
      const int32_t* b = right;
      for (int pair = 0; pair < pairs; ++pair, b += fixed_lanes) {
        const I low = load_i32(b), high = load_i32(b + lanes);
#pragma GCC unroll 8
        for (int r = 0; r < step; ++r) {
          const I a = splat(left[r * pairs + pair]);
          sum[r][0] = add_pairs(sum[r][0], low, a);
          sum[r][1] = add_pairs(sum[r][1], high, a);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < step; ++r) {
        emit(row + r, 0, sum[r][0]);
        emit(row + r, 1, sum[r][1]);
      }
    }
  }
};

struct FixedTile : Lanes<2> {
  F scale[2];  // of the queries, times log2(e)
  int32_t* q;  // right side [padded head_dim / 2][fixed_lanes]
};

// A worker's memory: a chunk of tokens as left sides, what is under way, and its tiles.
template <class Products>
class FixedMemory {
 public:
  explicit FixedMemory(int head_dim) : dim_(head_dim), depth_(Products::padded(head_dim)) {}
  size_t bytes() const { return at(fixed_tiles_max) + 64; }

  int depth() const { return depth_; }
  int32_t* keys(uint8_t* base) const { return words(base, 0); }
  int32_t* values(uint8_t* base) const { return words(base, key_bytes()); }
  int32_t* pairs(uint8_t* base) const { return words(base, key_bytes() + value_bytes()); }  // of values, [32][head_dim]
  int32_t* weights(uint8_t* base) const { return words(base, key_bytes() + 2 * value_bytes()); }
  // A chunk's weights of one tile and the next; the queries' and the results' rows.
  float* sums(uint8_t* base, int which = 0) const { return reinterpret_cast<float*>(words(base, key_bytes() + 2 * value_bytes() + weight_bytes() + which * sum_bytes())); }
  int32_t* queries(uint8_t* base, int tile) const { return words(base, at(tile)); }
  float* out(uint8_t* base, int tile) const { return reinterpret_cast<float*>(words(base, at(tile) + query_bytes())); }

 private:
  static int32_t* words(uint8_t* base, size_t offset) { return reinterpret_cast<int32_t*>(base + offset); }
  size_t key_bytes() const { return size_t{2} * chunk_tokens * static_cast<size_t>(depth_); }
  size_t value_bytes() const { return size_t{2} * chunk_tokens * static_cast<size_t>(dim_); }
  size_t weight_bytes() const { return size_t{2} * chunk_tokens * fixed_lanes; }
  size_t sum_bytes() const { return size_t{4} * fixed_lanes * static_cast<size_t>(dim_ > chunk_tokens ? dim_ : chunk_tokens); }
  size_t query_bytes() const { return size_t{2} * fixed_lanes * static_cast<size_t>(depth_); }
  size_t at(int tile) const {
    return key_bytes() + 2 * value_bytes() + weight_bytes() + 2 * sum_bytes() + static_cast<size_t>(tile) * (query_bytes() + size_t{4} * fixed_lanes * static_cast<size_t>(dim_));
  }

  int dim_, depth_;
};

// Up to fixed_tiles_max tiles of queries that share a KV head, over chunks of 64 tokens.
template <class Products>
class FixedPanel {
 public:
  FixedPanel(int head_dim, bool rotated, uint8_t* memory)
      : dim_(head_dim), limit_(fixed_limit(head_dim)), weight_limit_(fixed_limit(chunk_tokens)), rotated_(rotated), memory_(head_dim),
        base_(memory + -reinterpret_cast<uintptr_t>(memory) % 64) {}

  // rotated: by their maker already, as the keys are.
  void start(int tile, int count, const Query* queries) {
    FixedTile& t = tiles_[tile];
    t.queries = count, t.head_dim = dim_;
    t.q = memory_.queries(base_, tile), t.out = memory_.out(base_, tile);
    HEARTH_ISA::start(static_cast<Lanes<2>&>(t), queries);
    const int depth = memory_.depth();
    auto* rows = reinterpret_cast<int16_t*>(memory_.sums(base_));
    std::memset(rows, 0, sizeof(int16_t) * fixed_lanes * static_cast<size_t>(depth));
    t.scale[0] = t.scale[1] = splat(1.0f);
    for (int m = 0; m < count; ++m) {
      alignas(64) float x[head_dim_max];
      std::memcpy(x, queries[m].q, sizeof(float) * static_cast<size_t>(dim_));
      if (!rotated_) hadamard(x, dim_);
      const float scale = round_row(x, dim_, limit_, rows + m * depth);
      t.scale[m / lanes][m % lanes] = scale > 1e-30f ? scale * 1.44269504f : 1e-30f;  // not 0: times -inf it would be no number
    }
    for (int m = 0; m < fixed_lanes; m += square) {
      const float* words[square];
      for (int i = 0; i < square; ++i) words[i] = reinterpret_cast<const float*>(rows + (m + i) * depth);
      for (int pair = 0; pair < depth / 2; pair += square) transpose_square(words, pair, reinterpret_cast<float*>(t.q) + pair * fixed_lanes + m, fixed_lanes);
    }
    Products::to_right(t.q, depth / 2);
  }

  // Tokens [begin, begin + sum of the runs' counts) for the tiles that see one of them; nobody sees a token before `first`, whose
  // memory may hold anything.
  template <class T>
  void attend(int begin, int first, const Run<T>* runs, int count, int64_t stride, int tiles) {
    int tokens = 0;
    for (int r = 0; r < count; ++r) tokens += runs[r].count;
    load_keys(runs, count, stride);
    load_values(runs, count, stride);
    for (int i = 0; i < tokens && begin + i < first; ++i) value_scale_[i] = 0;
    // The next tile's scores are begun while this one's weights are on their way to memory.
    FixedTile* seeing[fixed_tiles_max];
    int some = 0;
    for (int i = 0; i < tiles; ++i) {
      if (sees(tiles_[i], begin, tokens)) seeing[some++] = &tiles_[i];
    }
    for (int i = 0; i < some; ++i) {
      F scale[2];
      seeing[i]->weight = memory_.sums(base_, i % 2);
      if (i == 0) score(*seeing[0], begin, tokens);
      soften(*seeing[i], tokens, scale);
      if (i + 1 < some) {
        seeing[i + 1]->weight = memory_.sums(base_, (i + 1) % 2);
        score(*seeing[i + 1], begin, tokens);
      }
      gather(*seeing[i], scale);
    }
  }

  // Of tile `tile`, [queries][head_dim].
  const float* result(int tile) {
    settle(tiles_[tile], memory_.sums(base_));
    return memory_.sums(base_);
  }

 private:
  static bool sees(const FixedTile& t, int begin, int tokens) {
    bool some = false;
    for (int m = 0; m < t.queries; ++m) some |= t.first[m / lanes][m % lanes] < begin + tokens && t.last[m / lanes][m % lanes] >= begin;
    return some;
  }

  template <class T>
  void load_keys(const Run<T>* runs, int count, int64_t stride) {
    const int depth = memory_.depth();
    auto* to = reinterpret_cast<int16_t*>(memory_.keys(base_));
    for (int r = 0; r < count; ++r) {
      const T* k = runs[r].k;
      for (int i = 0; i < runs[r].count; ++i, k += stride) {
        int16_t* row = to + (r * run_tokens + i) * depth;
        key_scale_[r * run_tokens + i] = round_token(k, runs[r].k_scale, i, row);
        std::memset(row + dim_, 0, sizeof(int16_t) * static_cast<size_t>(depth - dim_));
      }
    }
    Products::to_left(memory_.keys(base_), (count * run_tokens), depth / 2);
  }

  float round_token(const int8_t* k, const float* scale, int i, int16_t* row) const {
    for (int d = 0; d < dim_; ++d) row[d] = k[d];
    return scale[i];
  }
  template <class T>
  float round_token(const T* k, const float*, int, int16_t* row) const {
    alignas(64) float x[head_dim_max];
    for (int d = 0; d < dim_; d += lanes) store(x + d, load(k + d));
    hadamard(x, dim_);
    return round_row(x, dim_, limit_, row);
  }

  // Two tokens a word, then turned: [head_dim][32].
  template <class T>
  void load_values(const Run<T>* runs, int count, int64_t stride) {
    int32_t* pairs = memory_.pairs(base_);
    for (int r = 0; r < chunk_runs; ++r) {
      for (int i = 0; i < run_tokens; i += 2, pairs += dim_) {
        const bool first = r < count && i < runs[r].count, second = r < count && i + 1 < runs[r].count;
        const T* v = first ? runs[r].v + i * stride : nullptr;
        float* scale = value_scale_ + r * run_tokens + i;
        const FixedScale a = first ? scale_of(v, runs[r].v_scale, i) : FixedScale{}, b = second ? scale_of(v + stride, runs[r].v_scale, i + 1) : FixedScale{};
        scale[0] = a.scale, scale[1] = b.scale;
        for (int d = 0; d < dim_; d += lanes) {
          U word = {};
          if (first) word = reinterpret_cast<U>(round_to_int(load(v + d) * a.inverse)) & 0xffffu;
          if (second) word |= reinterpret_cast<U>(round_to_int(load(v + stride + d) * b.inverse)) << 16;
          store(reinterpret_cast<float*>(pairs + d), reinterpret_cast<F>(word));
        }
      }
    }
    const auto* turned = reinterpret_cast<const float*>(memory_.pairs(base_));
    auto* to = reinterpret_cast<float*>(memory_.values(base_));
    for (int pair = 0; pair < chunk_tokens / 2; pair += square) {
      const float* rows[square];
      for (int i = 0; i < square; ++i) rows[i] = turned + (pair + i) * dim_;
      for (int d = 0; d < dim_; d += square) transpose_square(rows, d, to + d * (chunk_tokens / 2) + pair, chunk_tokens / 2);
    }
    Products::to_left(memory_.values(base_), dim_, chunk_tokens / 2);
  }

  FixedScale scale_of(const int8_t*, const float* scale, int i) const { return {scale[i], 1.0f}; }
  template <class T>
  FixedScale scale_of(const T* v, const float*, int) const {
    F high = {};
    for (int d = 0; d < dim_; d += lanes) high = maximum(high, absolute(load(v + d)));
    return fixed_scale(largest(high), weight_limit_);
  }

  // Scores over their query's scale, of tokens that are not seen -inf.
  void score(FixedTile& t, int begin, int tokens) {
    const int rows = (tokens + run_tokens - 1) / run_tokens * run_tokens;
    Products::multiply(memory_.keys(base_), t.q, rows, memory_.depth() / 2, [&](int i, int v, I sum) __attribute__((always_inline)) {
      store(t.weight + (2 * i + v) * lanes, to_f32(sum) * key_scale_[i]);
    });
    if (t.queries == fixed_lanes && begin >= t.seen_from && begin + tokens - 1 <= t.seen_to) return;
    for (int v = 0; v < 2; ++v) mask_lanes(t, v, begin, tokens);
  }

  // Scores to weights times the values' scales, rounded to a right side [32][fixed_lanes]; sets the factor that the sums so far
  // shrink by, and the rounded weights' scale.
  void soften(FixedTile& t, int tokens, F (&scale)[2]) {
    F best[2] = {t.best[0], t.best[1]}, base[2], most[2] = {};
    for (int i = 0; i < tokens; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) best[v] = maximum(best[v], load(t.weight + (2 * i + v) * lanes));
    }
    for (int v = 0; v < 2; ++v) {
      const F high = select(best[v] == -INFINITY, F{}, best[v]);  // nothing seen yet: no weight counts
      base[v] = high * t.scale[v];
      t.shrink[v] = exponential2((t.best[v] - high) * t.scale[v]);  // exactly 1 where a chunk changes nothing: so tiles may be cut as they like
      t.best[v] = best[v];
      t.total[v] *= t.shrink[v];
    }
    F total[2] = {t.total[0], t.total[1]};
    for (int i = 0; i < tokens; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        float* weight = t.weight + (2 * i + v) * lanes;
        const F e = exponential2(fused(load(weight), t.scale[v], -base[v])), scaled = e * value_scale_[i];
        total[v] += e;
        most[v] = maximum(most[v], scaled);
        store(weight, scaled);
      }
    }
    const float limit = static_cast<float>(weight_limit_);
    F inverse[2];
    for (int v = 0; v < 2; ++v) {
      t.total[v] = total[v];
      const I some = most[v] > 1e-36f;
      inverse[v] = select(some, limit / most[v], F{});
      scale[v] = select(some, most[v] / limit, F{});
    }
    for (int i = tokens; i < chunk_tokens; ++i) store(t.weight + 2 * i * lanes, F{}), store(t.weight + (2 * i + 1) * lanes, F{});
    auto* words = reinterpret_cast<float*>(memory_.weights(base_));
    for (int i = 0; i < chunk_tokens; i += 2, words += fixed_lanes) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        const float* weight = t.weight + (2 * i + v) * lanes;
        const U first = reinterpret_cast<U>(round_to_int(load(weight) * inverse[v]));
        const U second = reinterpret_cast<U>(round_to_int(load(weight + fixed_lanes) * inverse[v]));
        store(words + v * lanes, reinterpret_cast<F>(first | second << 16));
      }
    }
    Products::to_right(memory_.weights(base_), chunk_tokens / 2);
  }

  void gather(FixedTile& t, const F (&scale)[2]) {
    Products::multiply(memory_.values(base_), memory_.weights(base_), dim_, chunk_tokens / 2, [&](int d, int v, I sum) __attribute__((always_inline)) {
      float* out = t.out + (2 * d + v) * lanes;
      store(out, fused(load(out), t.shrink[v], to_f32(sum) * scale[v]));
    });
  }

  [[no_unique_address]] typename Products::Setting setting_;
  int dim_, limit_, weight_limit_;
  bool rotated_;
  FixedMemory<Products> memory_;
  uint8_t* base_;
  float key_scale_[chunk_tokens], value_scale_[chunk_tokens];
  FixedTile tiles_[fixed_tiles_max];
};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
