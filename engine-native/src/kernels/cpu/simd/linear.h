// The frame around every blocked linear: normed and quantised rows in, bias, activation, gate and residual out.
// A kernel supplies tile(): some rows against one block of 16 outputs.
//
// One parallel region a linear. A single row is prepared by every worker for itself (cheaper than a barrier); more rows
// are dealt out, with one barrier. Then each worker streams contiguous runs of blocks, a block whole, so a result never
// depends on the number of threads.
#pragma once

#include "device/cpu_stream.h"
#include "kernels/cpu/layouts.h"
#include "kernels/cpu/simd/rows.h"

namespace hearth::kernels::cpu::HEARTH_ISA {

// Activations of a step as a kernel reads them. Exact ones in x, int8 ones in q with the scale of each activation_span and
// the sum of each group (or both of the row). For group sums, `sum` is sum(q) times 8 when the weights are symmetric: their
// zero point.
struct Operands {
  const float* x = nullptr; int64_t x_stride = 0;
  const int8_t* q = nullptr; int64_t q_stride = 0;
  const float* scale = nullptr; const int32_t* sum = nullptr; int64_t group_stride = 0;
};

HEARTH_INLINE Operands from_row(const Operands& all, int row) {
  Operands o = all;
  if (o.x != nullptr) o.x += row * o.x_stride;
  if (o.q != nullptr) o.q += row * o.q_stride, o.scale += row * o.group_stride, o.sum += row * o.group_stride;
  return o;
}

// Groups of a span with whole scales, and whether group g is the last of one.
constexpr int span_groups = 4;
HEARTH_INLINE bool ends_span(int g, int groups) { return g % span_groups == span_groups - 1 || g + 1 == groups; }

// Operands of a panel kernel, in tiles of 16 rows so that every address is one pointer and a constant: q is
// [tiles][inputs / 64][16 rows][64 inputs] (an AMX tile is contiguous), scale is [tiles][spans][16 rows], sum [tiles][groups][16 rows].
// `sum` is the zero point's correction, negated: -8 sum(q) when the weights are symmetric, else -sum(q).
constexpr int panel_tile_rows = 16;
struct PanelOperands {
  const int8_t* q; int64_t q_tile;          // bytes of a tile
  const float* scale; const int32_t* sum; int64_t group_tile;  // elements of a tile
};

// Of `row` and the rows after it in its tile, as if they were the tile's first.
HEARTH_INLINE PanelOperands from_row(const PanelOperands& all, int row) {
  const int tile = row / panel_tile_rows, lane = row % panel_tile_rows;
  return {all.q + tile * all.q_tile + lane * 64, all.q_tile, all.scale + tile * all.group_tile + lane, all.sum + tile * all.group_tile + lane, all.group_tile};
}

// Offsets of the operands in the workspace.
struct Scratch {
  size_t scale = 0, sum = 0, x = 0, bytes = 0;
  int64_t q_stride = 0, group_stride = 0;
  bool copies_x = false;  // exact rows that need norm or widening

  // Never more than 16 * q_stride.
  int64_t panel_tile_bytes(const ops::LinearSpec& s) const { return static_cast<int64_t>((s.in + 63) / 64) * 64 * panel_tile_rows; }

  Scratch(const ops::LinearSpec& s, int rows) {
    const size_t r = static_cast<size_t>(rows);
    if (s.activations == ops::ActivationFormat::exact) {
      copies_x = s.norm != ops::NormKind::none || s.x_type != DType::f32;
      bytes = copies_x ? aligned(r * s.in * 4) : 0;
      return;
    }
    // Rows of a whole number of lines, plus one line so that equal strides do not meet in the same cache set.
    q_stride = (s.in + 63) / 64 * 64 + 64;
    group_stride = s.activations == ops::ActivationFormat::int8_group ? s.in / s.group : 1;
    scale = aligned(r * q_stride);
    sum = scale + aligned(r * group_stride * 4);
    x = sum + aligned(r * group_stride * 4);
    bytes = x + aligned(r * s.in * 4);
  }
};

// Rows the workspace has room for: one a worker at least, for the unshared preparation; several rows in whole panel tiles.
HEARTH_INLINE int scratch_rows(int rows, int workers) {
  const int whole = rows > 1 ? (rows + panel_tile_rows - 1) / panel_tile_rows * panel_tile_rows : rows;
  return whole > workers ? whole : workers;
}

inline size_t linear_workspace(const ops::LinearSpec& spec, int max_rows, const ops::DeviceInfo& info) {
  return Scratch(spec, scratch_rows(max_rows, info.threads)).bytes;
}

// The scale of `count` activations: static for a whole row where the model says so.
HEARTH_INLINE Int8Scale int8_scale_of(const ops::LinearSpec& s, const float* x, int count) {
  if (s.activations == ops::ActivationFormat::int8_row && s.static_scale > 0) return {s.static_scale, 1.0f / s.static_scale};
  return int8_scale(largest_magnitude(x, count));
}

// Of a row, in floats: other workers' results come from the L3 cache.
constexpr int read_ahead = 512;

// A row quantised into its panel tile (PanelOperands), without the sums where nobody asks for them. The last row of a step fills the
// lanes after it with scale 0.
template <bool with_sums>
HEARTH_INLINE void quantise_to_panel(const ops::LinearSpec& s, const Scratch& at, uint8_t* base, int row, bool last, const float* x) {
  const int tile = row / panel_tile_rows, lane = row % panel_tile_rows;
  const int64_t first = tile * at.group_stride * panel_tile_rows + lane;
  float* scale = reinterpret_cast<float*>(base + at.scale) + first;
  int32_t* sums = reinterpret_cast<int32_t*>(base + at.sum) + first;
  int8_t* q = reinterpret_cast<int8_t*>(base) + tile * at.panel_tile_bytes(s) + lane * 64;
  const bool by_row = s.activations == ops::ActivationFormat::int8_row;
  const int span = by_row ? s.in : activation_span(s), part = by_row ? s.in : s.group, zero = by_row ? 1 : s.symmetric ? 8 : 1;
  const int pads = last ? panel_tile_rows - lane : 1;
  Int8Scale by{};
  for (int begin = 0; begin < s.in; begin += part) {
    if (begin % span == 0) {
      for (int i = 0; i < span && !by_row; i += 16) __builtin_prefetch(x + begin + read_ahead + i);
      by = int8_scale_of(s, x + begin, s.in - begin < span ? s.in - begin : span);
      for (int pad = 0; pad < pads; ++pad) scale[begin / span * panel_tile_rows + pad] = pad == 0 ? by.scale : 0;
    }
    int32_t total = 0;
    for (int i = begin; i < begin + part; i += 64) {
      const int count = begin + part - i < 64 ? begin + part - i : 64;
      total += quantise(x + i, count, by_row ? 64 : count, by.inverse, q + i / 64 * 1024 + i % 64);
    }
    if constexpr (!with_sums) continue;
    for (int pad = 0; pad < pads; ++pad) sums[begin / part * panel_tile_rows + pad] = pad == 0 ? -zero * total : 0;
  }
}

enum class RowForm { plain, panel, panel_without_sums };

template <RowForm form = RowForm::plain>
HEARTH_INLINE void prepare_row(const ops::LinearSpec& s, const ops::LinearParams& p, const Scratch& at, uint8_t* base, int from,
                               int to) {
  float* wide = reinterpret_cast<float*>(base + at.x) + static_cast<int64_t>(to) * s.in;
  const float* x = nullptr;
  if (s.x_type == DType::f32) {
    x = static_cast<const float*>(p.x) + from * p.x_stride;
  } else {
    with_type(s.x_type, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      widen_row(static_cast<const T*>(p.x) + from * p.x_stride, s.in, wide);
    });
    x = wide;
  }
  if (s.norm != ops::NormKind::none) {
    norm_row({s.norm, s.norm_epsilon, p.norm_weight, p.norm_bias}, x, s.in, wide);
    x = wide;
  }
  if (s.activations == ops::ActivationFormat::exact) return;
  if constexpr (form != RowForm::plain) return quantise_to_panel<form == RowForm::panel>(s, at, base, from, from == p.rows - 1, x);
  int8_t* q = reinterpret_cast<int8_t*>(base) + to * at.q_stride;
  float* scale = reinterpret_cast<float*>(base + at.scale) + to * at.group_stride;
  int32_t* sums = reinterpret_cast<int32_t*>(base + at.sum) + to * at.group_stride;
  if (s.activations == ops::ActivationFormat::int8_row) {
    const Int8Scale by = int8_scale_of(s, x, s.in);
    scale[0] = by.scale;
    sums[0] = quantise(x, s.in, (s.in + 63) / 64 * 64, by.inverse, q);
    return;
  }
  const int zero = s.symmetric ? 8 : 1, span = activation_span(s);
  for (int begin = 0; begin < s.in; begin += span) {
    const int end = begin + span < s.in ? begin + span : s.in;
    const Int8Scale by = int8_scale_of(s, x + begin, end - begin);
    scale[begin / span] = by.scale;
    for (int at = begin; at < end; at += s.group) sums[at / s.group] = zero * quantise(x + at, s.group, s.group, by.inverse, q + at);
  }
}

HEARTH_INLINE Operands operands_at(const ops::LinearSpec& s, const ops::LinearParams& p, const Scratch& at, const uint8_t* base) {
  Operands o;
  if (s.activations != ops::ActivationFormat::exact) {
    o.q = reinterpret_cast<const int8_t*>(base);
    o.q_stride = at.q_stride;
    o.scale = reinterpret_cast<const float*>(base + at.scale);
    o.sum = reinterpret_cast<const int32_t*>(base + at.sum);
    o.group_stride = at.group_stride;
  } else if (at.copies_x) {
    o.x = reinterpret_cast<const float*>(base);
    o.x_stride = s.in;
  } else {
    o.x = static_cast<const float*>(p.x);
    o.x_stride = p.x_stride;
  }
  return o;
}

// One value of y from its sum (and the up half's), at column n.
template <class T>
HEARTH_INLINE void finish(const ops::LinearSpec& s, F v, F up, const float* bias, const float* up_bias, T* y, int valid) {
  const bool whole = valid >= lanes;
  if (bias != nullptr) v += whole ? load(bias) : load_some(bias, valid);
  v = activate(s.activation, v);
  if (s.gated) {
    if (up_bias != nullptr) up += whole ? load(up_bias) : load_some(up_bias, valid);
    v *= up;
  }
  if (s.residual) v += whole ? load(y) : load_some(y, valid);
  if (whole) store(y, v);
  else store_some(y, v, valid);
}

// `rows` rows of a tile [rows][16] (and of the up half, right behind it) to columns [column, column + 16) of y; of several
// tiles, `apart` elements from one to the next, to 16 columns each.
HEARTH_INLINE void epilogue(const ops::LinearSpec& s, const ops::LinearParams& p, int row, int rows, int column, const float* tile,
                            const float* up, int tiles = 1, int64_t apart = 0) {
  const int width = s.gated ? s.out / 2 : s.out;
  const int end = column + tiles * block_rows < width ? column + tiles * block_rows : width;
  with_type(s.y_type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (int r = 0; r < rows; ++r) {
      T* y = static_cast<T*>(p.y) + (row + r) * p.y_stride;
      for (int at = column; at < end; at += lanes) {
        const int64_t from = (at - column) / block_rows * apart + r * block_rows + (at - column) % block_rows;
        const float* bias = s.bias ? p.bias + at : nullptr;
        finish(s, load(tile + from), s.gated ? load(up + from) : F{}, bias, s.bias && s.gated ? bias + width : nullptr, y + at, width - at);
      }
    }
  });
}

// Rows whose operands stay in the L2 cache while the worker's weights stream past.
HEARTH_INLINE int panel_rows(const ops::LinearSpec& s, int tile_rows) {
  constexpr int cache_bytes = 192 << 10;
  const int row_bytes = s.activations == ops::ActivationFormat::exact ? 4 * s.in : s.in;
  const int rows = cache_bytes / row_bytes / tile_rows * tile_rows;
  return rows > tile_rows ? rows : tile_rows;
}

// Kernel: static constexpr int rows_max; a constructor from the spec; block_bytes();
// tile(block, operands of the first row, rows <= rows_max, out[rows][16]).
// A kernel that meets one row with several blocks side by side: several streams keep DRAM busier than one, and share the
// broadcasts. together<n>(blocks, from a block to the next one of its stream in bytes, operands, out[n][16]), for n =
// Kernel::streams and for 2.
template <class Kernel>
concept StreamsKernel = requires(const Kernel& k, const uint8_t* const (&blocks)[2], const Operands& o, float (*out)[block_rows]) {
  k.template together<2>(blocks, size_t{}, o, out);
  Kernel::streams;
};

// Units [unit + i * apart], i < n / per_unit: a gate and its up are two streams.
template <int n, class Kernel>
HEARTH_INLINE void units_together(const Kernel& kernel, const ops::LinearSpec& s, const ops::LinearParams& p, const Operands& o, int unit, int apart) {
  alignas(64) float tile[n][block_rows];
  const int per_unit = s.gated ? 2 : 1;
  const size_t bytes = kernel.block_bytes();
  const uint8_t* blocks[n];
  for (int i = 0; i < n; ++i) {
    blocks[i] = static_cast<const uint8_t*>(p.weight) + bytes * (per_unit * (unit + i / per_unit * static_cast<size_t>(apart)) + i % per_unit);
  }
  kernel.template together<n>(blocks, bytes * per_unit, o, tile);
  for (int i = 0; i < n; i += per_unit) {
    epilogue(s, p, 0, 1, (unit + i / per_unit * apart) * block_rows, tile[i], s.gated ? tile[i + 1] : nullptr);
  }
}

// One row: the worker's units in as many equal runs as the kernel has streams, then what is left over.
template <class Kernel>
HEARTH_INLINE void stream_row(const ops::LinearSpec& s, const ops::LinearParams& p, const Operands& o, Range units) {
  const Kernel kernel(s);
  const int at_once = Kernel::streams / (s.gated ? 2 : 1), apart = (units.end - units.begin) / at_once;
  for (int unit = units.begin; unit < units.begin + apart; ++unit) units_together<Kernel::streams>(kernel, s, p, o, unit, apart);
  alignas(64) float tile[block_rows];
  for (int unit = units.begin + at_once * apart; unit < units.end; ++unit) {
    if (s.gated) {
      units_together<2>(kernel, s, p, o, unit, 0);
      continue;
    }
    kernel.tile(static_cast<const uint8_t*>(p.weight) + kernel.block_bytes() * unit, o, 1, tile);
    epilogue(s, p, 0, 1, unit * block_rows, tile, nullptr);
  }
}

// A kernel that takes a whole panel of rows for each of `count` neighbouring blocks: panels(block, count, operands of the first
// tile, rows, out[count][apart floats]), out[i] [rows][16] with room for whole tiles. It decodes a block's weights once for all its
// rows. For panel_rows_min rows and more.
template <class Kernel>
concept PanelKernel = requires(const Kernel& k, const uint8_t* block, const PanelOperands& o, int rows, float* out) {
  k.panels(block, 1, o, rows, out, int64_t{});
  Kernel::panel_rows_min;
};

constexpr int panel_rows_max = 256;

// Rows of a panel: its activations stay in the L2 cache (1 MiB and more where these instruction sets are).
HEARTH_INLINE int rows_of_panel(const ops::LinearSpec& s) {
  constexpr int cache_bytes = 1 << 20;
  const int rows = cache_bytes / s.in / panel_tile_rows * panel_tile_rows;
  return rows < panel_tile_rows ? panel_tile_rows : rows > panel_rows_max ? panel_rows_max : rows;
}

// Whether the kernel reads the panels' sums: one that takes zero points off while it decodes does so for a last panel of few rows only.
template <class Kernel>
HEARTH_INLINE bool panels_need_sums(const ops::LinearSpec& s, int rows) {
  if constexpr (requires { Kernel::few_rows_max; }) return (rows - 1) % rows_of_panel(s) < Kernel::few_rows_max;
  return true;
}

// Blocks whose sums are finished together. Rows of y are a power of two apart more often than not, so the same line of every
// row meets in a few sets of the caches, and single lines written there wait for one another.
constexpr int panel_blocks = 8;

template <class Kernel>
HEARTH_INLINE void stream_panels(const ops::LinearSpec& s, const ops::LinearParams& p, const Scratch& at, const uint8_t* base, Range units) {
  const Kernel kernel(s);
  const size_t bytes = kernel.block_bytes();
  const int per_unit = s.gated ? 2 : 1, panel = rows_of_panel(s), at_once = panel_blocks / per_unit;
  constexpr int64_t apart = panel_rows_max * block_rows;
  alignas(64) float tile[panel_blocks][apart];
  for (int first = 0; first < p.rows; first += panel) {
    const int rows = p.rows - first < panel ? p.rows - first : panel;
    const int tiles_before = first / panel_tile_rows;
    const int64_t groups_before = tiles_before * at.group_stride * panel_tile_rows;
    const PanelOperands o{reinterpret_cast<const int8_t*>(base) + tiles_before * at.panel_tile_bytes(s), at.panel_tile_bytes(s),
                          reinterpret_cast<const float*>(base + at.scale) + groups_before,
                          reinterpret_cast<const int32_t*>(base + at.sum) + groups_before, at.group_stride * panel_tile_rows};
    for (int unit = units.begin; unit < units.end; unit += at_once) {
      const int count = units.end - unit < at_once ? units.end - unit : at_once;
      const uint8_t* block = static_cast<const uint8_t*>(p.weight) + bytes * per_unit * unit;
      kernel.panels(block, count * per_unit, o, rows, tile[0], apart);
      epilogue(s, p, first, rows, unit * block_rows, tile[0], tile[1], count, per_unit * apart);
    }
  }
}

template <class Kernel>
HEARTH_INLINE void stream_blocks(const ops::LinearSpec& s, const ops::LinearParams& p, const Operands& all, Range units) {
  if constexpr (StreamsKernel<Kernel>) {
    if (p.rows == 1) return stream_row<Kernel>(s, p, all, units);
  }
  const Kernel kernel(s);
  const int per_unit = s.gated ? 2 : 1;
  alignas(64) float tile[2][Kernel::rows_max * block_rows];
  const int panel = panel_rows(s, Kernel::rows_max);
  for (int first = 0; first < p.rows; first += panel) {
    const int last = first + panel < p.rows ? first + panel : p.rows;
    for (int unit = units.begin; unit < units.end; ++unit) {
      const uint8_t* block = static_cast<const uint8_t*>(p.weight) + kernel.block_bytes() * per_unit * unit;
      for (int row = first; row < last; row += Kernel::rows_max) {
        const int rows = last - row < Kernel::rows_max ? last - row : Kernel::rows_max;
        const Operands o = from_row(all, row);
        kernel.tile(block, o, rows, tile[0]);
        if (s.gated) kernel.tile(block + kernel.block_bytes(), o, rows, tile[1]);
        epilogue(s, p, row, rows, unit * block_rows, tile[0], tile[1]);
      }
    }
  }
}

// Units that stream_blocks takes side by side.
template <class Kernel>
HEARTH_INLINE int units_at_once(const ops::LinearSpec& s, int rows) {
  if constexpr (StreamsKernel<Kernel>) {
    if (rows == 1) return Kernel::streams / (s.gated ? 2 : 1);
  }
  return 1;
}

template <class Kernel>
HEARTH_INLINE void run_blocked(const ops::LinearSpec& s, const ops::LinearParams& p, ops::Stream& stream) {
  ThreadPool& pool = device::pool_of(stream);
  const Scratch at(s, scratch_rows(p.rows, pool.size()));
  auto* base = static_cast<uint8_t*>(p.workspace);
  const bool prepared = s.activations == ops::ActivationFormat::exact && !at.copies_x;
  const int units = block_count(s).units;
  if constexpr (PanelKernel<Kernel>) {
    if (p.rows >= Kernel::panel_rows_min) {
      const bool sums = panels_need_sums<Kernel>(s, p.rows);
      return pool.parallel([&](int worker, int) {
        pool.deal(worker, p.rows, 1, [&](int begin, int end) {
          for (int row = begin; row < end; ++row) {
            if (sums) prepare_row<RowForm::panel>(s, p, at, base, row, row);
            else prepare_row<RowForm::panel_without_sums>(s, p, at, base, row, row);
          }
        });
        pool.barrier();
        pool.deal(worker, units, panel_blocks / (s.gated ? 2 : 1), [&](int begin, int end) { stream_panels<Kernel>(s, p, at, base, {begin, end}); });
      });
    }
  }
  pool.parallel([&](int worker, int) {
    Operands o = operands_at(s, p, at, base);
    if (p.rows == 1 && !prepared) {
      prepare_row(s, p, at, base, 0, worker);
      o = from_row(o, worker);
    } else if (!prepared) {
      pool.deal(worker, p.rows, 1, [&](int begin, int end) {
        for (int row = begin; row < end; ++row) prepare_row(s, p, at, base, row, row);
      });
      pool.barrier();
    }
    pool.deal(worker, units, units_at_once<Kernel>(s, p.rows), [&](int begin, int end) { stream_blocks<Kernel>(s, p, o, {begin, end}); });
  });
}

// What every blocked kernel can do; the rest it asks itself.
inline const char* blocked_declines(const ops::LinearSpec& s) {
  if (!is_float(s.x_type) || !is_float(s.y_type)) return "types are f32, f16 or bf16";
  if (s.residual && s.y_type != DType::f32) return "residual needs f32 output";
  return nullptr;
}

inline const char* w4_declines(const ops::LinearSpec& s, ops::ActivationFormat activations) {
  if (s.weight != ops::WeightFormat::w4) return "for 4-bit weights";
  if (s.activations != activations) return "for other activations";
  if (s.group != 32 && s.group != 64 && s.group != 128) return "groups are 32, 64 or 128";
  if (s.in % s.group != 0) return "the group must divide the width";
  return blocked_declines(s);
}

inline const char* w8_declines(const ops::LinearSpec& s, ops::ActivationFormat activations) {
  if (s.weight != ops::WeightFormat::w8) return "for 8-bit weights";
  if (s.activations != activations) return "for other activations";
  return blocked_declines(s);
}

}  // namespace hearth::kernels::cpu::HEARTH_ISA
