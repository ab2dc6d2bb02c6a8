// Dense linears, weights as they come: [out, in] in f32, f16 or bf16. Tiles of outputs x rows with the inputs in lanes;
// both sides are contiguous along the inputs, so nothing is packed and a tied head shares the embedding's memory.
#include "kernels/cpu/simd/isa.h"
#include "kernels/cpu/simd/linear.h"
#if HEARTH_LANES >= 8
#include "kernels/cpu/simd/dense_many.h"
#endif

namespace hearth::kernels::cpu::HEARTH_ISA {
namespace {

// Sums of rows x outputs, each of sum_lanes lanes so that every set rounds alike, and operands fit the registers: 16 of
// AVX2, 32 of AVX-512 and NEON.
constexpr int tile_outs = HEARTH_LANES == 16 ? 4 : 2, tile_rows = HEARTH_LANES == 16 ? 4 : 3, row_outs = 4;

// tile[r][o] = x[r] . w[o] for O consecutive outputs.
template <class T, int R, int O>
HEARTH_INLINE void dot_tile(const T* w, int in, const float* x, int64_t stride, float* tile, int tile_stride) {
  F total[R][O][parts] = {};
  int i = 0;
  for (; i + sum_lanes <= in; i += sum_lanes) {
#pragma GCC unroll 4
    for (int part = 0; part < parts; ++part) {
      F a[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) a[r] = load(x + r * stride + i + part * lanes);
#pragma GCC unroll 4
      for (int o = 0; o < O; ++o) {
        const F b = load(w + static_cast<int64_t>(o) * in + i + part * lanes);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) total[r][o][part] = fused(a[r], b, total[r][o][part]);
      }
    }
  }
  for (int part = 0; part < parts && i < in; ++part, i += lanes) {
    const int count = in - i < lanes ? in - i : lanes;
#pragma GCC unroll 8
    for (int o = 0; o < O; ++o) {
      const F b = load_some(w + static_cast<int64_t>(o) * in + i, count);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) total[r][o][part] = fused(load_some(x + r * stride + i, count), b, total[r][o][part]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int o = 0; o < O; ++o) tile[r * tile_stride + o] = sum_parts(total[r][o]);
  }
}

// `rows` x `outs` values, outs <= 16, to tile[rows][16].
template <class T, int R>
HEARTH_INLINE void dot_outs(const T* w, int in, int outs, const float* x, int64_t stride, float* tile) {
  constexpr int step = R == 1 ? row_outs : tile_outs;
  int o = 0;
  for (; o + step <= outs; o += step) {
    dot_tile<T, R, step>(w + static_cast<int64_t>(o) * in, in, x, stride, tile + o, block_rows);
  }
  for (; o < outs; ++o) dot_tile<T, R, 1>(w + static_cast<int64_t>(o) * in, in, x, stride, tile + o, block_rows);
}

template <class T>
__attribute__((noinline)) void dot_block(const T* w, int in, int outs, const float* x, int64_t stride, int rows, float* tile) {
  if (tile_rows == 4 && rows == 4) dot_outs<T, 4>(w, in, outs, x, stride, tile);
  else if (rows == 3) dot_outs<T, 3>(w, in, outs, x, stride, tile);
  else if (rows == 2) dot_outs<T, 2>(w, in, outs, x, stride, tile);
  else dot_outs<T, 1>(w, in, outs, x, stride, tile);
}

template <class T>
void run_outputs(const ops::LinearSpec& s, const ops::LinearParams& p, const Operands& all, Range outs) {
  const int width = s.gated ? s.out / 2 : s.out;
  const T* w = static_cast<const T*>(p.weight);
  alignas(64) float tile[2][tile_rows * block_rows] = {};
  const int panel = panel_rows(s, tile_rows);
  for (int first = 0; first < p.rows; first += panel) {
    const int last = first + panel < p.rows ? first + panel : p.rows;
    for (int column = outs.begin * block_rows; column < outs.end * block_rows && column < width; column += block_rows) {
      const int count = width - column < block_rows ? width - column : block_rows;
      for (int row = first; row < last; row += tile_rows) {
        const int rows = last - row < tile_rows ? last - row : tile_rows;
        const float* x = all.x + row * all.x_stride;
        dot_block(w + static_cast<int64_t>(column) * s.in, s.in, count, x, all.x_stride, rows, tile[0]);
        if (s.gated) dot_block(w + static_cast<int64_t>(width + column) * s.in, s.in, count, x, all.x_stride, rows, tile[1]);
        epilogue(s, p, row, rows, column, tile[0], tile[1]);
      }
    }
  }
}

const char* declines(const ops::LinearSpec& s, const ops::DeviceInfo& info) {
  if (const char* missing = isa_missing(info)) return missing;
  if (s.weight == ops::WeightFormat::w4 || s.weight == ops::WeightFormat::w8) return "for dense weights";
  if (s.activations != ops::ActivationFormat::exact) return "dense weights take exact activations";
  return blocked_declines(s);
}

// body(the weights' type) for dense weights.
template <class Body>
HEARTH_INLINE void with_weights(ops::WeightFormat weight, Body&& body) {
  if (weight == ops::WeightFormat::f16) body(static_cast<Half*>(nullptr));
  else if (weight == ops::WeightFormat::bf16) body(static_cast<BFloat16*>(nullptr));
  else body(static_cast<float*>(nullptr));
}

#if HEARTH_LANES >= 8
// Rows are turned by tiles, behind those that are normed or widened first.
void run_many(const ops::LinearSpec& s, const ops::LinearParams& p, ThreadPool& pool) {
  const Scratch at(s, scratch_rows(p.rows, pool.size()));
  auto* base = static_cast<uint8_t*>(p.workspace);
  auto* turned = reinterpret_cast<float*>(base + at.bytes);
  const Operands o = operands_at(s, p, at, base);
  const DenseRows rows(s.in);
  pool.parallel([&](int worker, int) {
    pool.deal(worker, DenseRows::tiles(p.rows), 1, [&](int begin, int end) {
      for (int tile = begin; tile < end; ++tile) {
        const int first = tile * dense_many_tile, count = p.rows - first < dense_many_tile ? p.rows - first : dense_many_tile;
        for (int row = first; at.copies_x && row < first + count; ++row) prepare_row(s, p, at, base, row, row);
        rows.turn(o.x + first * o.x_stride, o.x_stride, count, turned + tile * rows.tile);
      }
    });
    pool.barrier();
    with_weights(s.weight, [&](auto* type) {
      pool.deal(worker, block_count(s).units, 1, [&](int begin, int end) { dense_many<std::remove_pointer_t<decltype(type)>>(s, p, turned, {begin, end}); });
    });
  });
}
#endif

void run(const ops::LinearSpec& s, const ops::LinearParams& p, ops::Stream& stream) {
  ThreadPool& pool = device::pool_of(stream);
#if HEARTH_LANES >= 8
  if (p.rows >= dense_many_min) return run_many(s, p, pool);
#endif
  const Scratch at(s, scratch_rows(p.rows, pool.size()));
  auto* base = static_cast<uint8_t*>(p.workspace);
  const int units = block_count(s).units;
  pool.parallel([&](int worker, int) {
    Operands o = operands_at(s, p, at, base);
    if (p.rows == 1 && at.copies_x) {
      prepare_row(s, p, at, base, 0, worker);
      o = from_row(o, worker);
    } else if (at.copies_x) {
      pool.deal(worker, p.rows, 1, [&](int begin, int end) {
        for (int row = begin; row < end; ++row) prepare_row(s, p, at, base, row, row);
      });
      pool.barrier();
    }
    with_weights(s.weight, [&](auto* type) {
      pool.deal(worker, units, 1, [&](int begin, int end) { run_outputs<std::remove_pointer_t<decltype(type)>>(s, p, o, {begin, end}); });
    });
  });
}

size_t workspace(const ops::LinearSpec& s, int max_rows, const ops::DeviceInfo& info) {
  const size_t bytes = linear_workspace(s, max_rows, info);
#if HEARTH_LANES >= 8
  if (max_rows >= dense_many_min) return bytes + DenseRows(s.in).bytes(max_rows);
#endif
  return bytes;
}

}  // namespace

extern const ops::LinearImplementation linear_dense;
const ops::LinearImplementation linear_dense{
    {HEARTH_ISA_NAME, declines, run, workspace}, "dense", dense_packed_bytes, dense_pack, 1};

}  // namespace hearth::kernels::cpu::HEARTH_ISA
