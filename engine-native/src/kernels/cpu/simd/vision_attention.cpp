// Attention of vision towers, in vectors.
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
      widen_row(qkv + (static_cast<int64_t>(part) * s.heads + head) * s.head_dim, s.head_dim, x);
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

extern const Kernel<VisionAttentionSpec, VisionAttentionParams> vision_attention;
const Kernel<VisionAttentionSpec, VisionAttentionParams> vision_attention{HEARTH_ISA_NAME, vision_declines, vision_run,
                                                                          vision_workspace};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
